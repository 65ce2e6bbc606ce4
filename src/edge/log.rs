//! Where log lines go: standard error, for journald or a terminal.
//!
//! Telephone numbers stand below INFO only; the token and the password nowhere.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging at `level` (EnvFilter directives, e.g. `info` or `freeswitch_zammad=debug`).
///
/// # Errors
/// One sentence, if the level cannot be read.
pub fn start(level: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(level).map_err(|why| {
        format!("{level:?} is no log level ({why}); write error, warn, info, debug or trace")
    })?;
    let terminal = std::io::stderr().is_terminal();
    // journald stamps its lines itself.
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(terminal).with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    let under_journald = std::env::var_os("JOURNAL_STREAM").is_some();
    let started = if under_journald {
        registry.with(lines.without_time()).try_init()
    } else {
        registry.with(lines).try_init()
    };
    // Somebody else, a test, has set one up: theirs stays.
    drop(started);
    Ok(())
}
