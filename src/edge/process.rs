//! What this process keeps from others: the files it makes, and its memory, in which the token and the password are.

use std::io;

use rustix::fs::Mode;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Signal, getppid, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit, umask,
};

/// From here on new files are this user's alone (sled makes its own with whatever the umask leaves), and a crash
/// leaves no core file. Children inherit both. To be called before there are threads.
///
/// # Errors
/// If the system refuses; a limit may be lowered by anyone, so it should not.
pub fn keep_private() -> io::Result<()> {
    umask(Mode::RWXG | Mode::RWXO);
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

/// This process ends when `parent`, which started it, does: it works for nobody else, and may hold what the parent's
/// successor needs.
///
/// # Errors
/// If the system refuses, or `parent` has ended already.
pub fn end_with(parent: u32) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let now = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if now == Some(parent) { Ok(()) } else { Err(io::Error::other("the process that asked has ended")) }
}

/// From here on no other process of this user can read this one's memory or its environment, and a crash is not
/// handed to a program either (a pipe in `core_pattern` does not heed the limit). Root still can. Children that run
/// another program begin without it.
///
/// # Errors
/// If the system refuses.
pub fn keep_memory_private() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}
