//! Sees to it that the store opens, before the daemon opens it: whatever became of it, it is up within seconds.
//!
//! sled can hang at full load, panic, or refuse a directory that was torn, cut short or overwritten. So the store is
//! first opened and read by a child process, this same program, which is watched and may be lost. Where it does
//! not come back well, the directory is set aside, and another is begun with all of it that can be read
//! ([`crate::store::salvage`]). What the switch still knows, the resync then brings.
//!
//! How much is read beforehand: what a fifth of a second is enough for, after a clean stop, so that no restart is slow;
//! what five seconds are enough for, after any other; and everything, however long that takes, after several of those in a
//! row, because then what is damaged may be what ends the daemon. The file `RUNNING` counts them.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use super::clock;
use crate::store::{self, Counts, Rest, Salvaged, StoreError};
use crate::time::UnixMillis;

/// How long a child may go without reading or writing a byte, unless it waits for the disk.
const STILL_MAX: Duration = Duration::from_secs(6);
/// How much of the processor it may use meanwhile: a hanging sled uses all of one.
const SPIN_MAX: Duration = Duration::from_millis(1500);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// Linux tells processor time in these.
const TICK: Duration = Duration::from_millis(10);

/// What the child says of the store: a line of JSON on its standard output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Finding {
    /// It opens and can be read.
    Sound {
        /// Rows read.
        rows: u64,
        /// Rows that are damaged, and stepped over.
        damaged: u64,
        /// The first of those, in words.
        examples: Vec<String>,
        /// Whether all of it was read.
        whole: bool,
    },
    /// It is not what was written.
    Damaged {
        /// In words.
        why: String,
    },
    /// It is not ours to read: its owner or mode is wrong.
    Forbidden {
        /// In words.
        why: String,
    },
    /// It cannot be opened now, and that is not its fault: it is in use, of a newer format, or the disk refuses.
    Refused {
        /// In words.
        why: String,
    },
}

/// What was done.
#[derive(Debug)]
pub enum Health {
    /// Nothing had to be done.
    Fine(Option<Finding>),
    /// It was begun anew.
    Salvaged {
        /// What was wrong.
        why: String,
        /// What became of it.
        what: Salvaged,
        /// What is still to be taken in, if anything.
        rest: Option<Rest>,
    },
}

/// Events that are written anew before the daemon is up: a second's, on a slow machine. The rest is taken in while it
/// runs.
pub const AT_ONCE: u64 = 10_000;

/// What the child does: opens the store, reads it for as long as `budget` says, and tells. May never return.
#[must_use]
pub fn examine(state_dir: &Path, budget: Option<Duration>) -> Finding {
    let due = budget.map(|budget| clock::now().after(budget));
    let in_time = || due.is_none_or(|due| clock::now() < due);
    match store::verify(state_dir, in_time) {
        Ok(seen) => Finding::Sound {
            rows: seen.rows,
            damaged: seen.damaged,
            examples: seen.examples.iter().map(ToString::to_string).collect(),
            whole: seen.whole,
        },
        Err(why) => {
            let words = why.to_string();
            match why {
                StoreError::Damaged { .. } => Finding::Damaged { why: words },
                StoreError::NotWritable { .. } => Finding::Forbidden { why: words },
                StoreError::Locked { .. }
                | StoreError::NewerFormat { .. }
                | StoreError::Io { .. }
                | StoreError::NotSynced { .. }
                | StoreError::TooLarge { .. }
                | StoreError::Closed => Finding::Refused { why: words },
            }
        }
    }
}

/// Has the store examined by a child of `program`, and watches over it. Blocks.
#[must_use]
pub fn ask_child(program: &Path, state_dir: &Path, budget: Option<Duration>) -> Finding {
    let mut command = Command::new(program);
    command.args(["store", "probe"]).arg(state_dir).arg("--for").arg(std::process::id().to_string());
    if let Some(budget) = budget {
        command.arg("--budget-ms").arg(budget.as_millis().to_string());
    }
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(why) => return Finding::Refused { why: format!("no process to examine the store: {why}") },
    };
    let hung = watch(&mut child);
    if hung {
        // It may have ended by itself this very moment.
        let _ = child.kill();
    }
    let mut said = String::new();
    let read = child.stdout.take().map(|mut out| out.read_to_string(&mut said));
    let ended = child.wait();
    let told = serde_json::from_str(said.lines().last().unwrap_or_default());
    match (told, hung, read, ended) {
        (Ok(finding), ..) => finding,
        (Err(_), true, ..) => Finding::Damaged { why: "sled hangs when it opens or reads it".to_owned() },
        (Err(_), false, _, Ok(status)) => {
            Finding::Damaged { why: format!("sled dies when it opens or reads it ({status})") }
        }
        (Err(_), false, _, Err(why)) => {
            Finding::Refused { why: format!("the process that examined the store was lost: {why}") }
        }
    }
}

/// Waits for the child's end. Whether it hung instead.
fn watch(child: &mut Child) -> bool {
    let mut last = Signs::of(child.id());
    let mut since = clock::now();
    loop {
        // An error means that somebody else has waited for it: then it has ended.
        if !matches!(child.try_wait(), Ok(None)) {
            return false;
        }
        let signs = Signs::of(child.id());
        if signs.bytes != last.bytes || signs.waits_for_disk {
            (last, since) = (signs, clock::now());
        } else if clock::now().since(since) > STILL_MAX || signs.busy.saturating_sub(last.busy) > SPIN_MAX {
            return true;
        }
        std::thread::sleep(LOOK);
    }
}

/// Signs of life, as the system shows them.
#[derive(Clone, Copy, Debug, Default)]
struct Signs {
    /// Read and written so far.
    bytes: u64,
    /// Processor time so far.
    busy: Duration,
    /// A thread is held up by the disk.
    waits_for_disk: bool,
}

impl Signs {
    /// What cannot be read shows no sign; then only the clock decides.
    fn of(pid: u32) -> Self {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let text = |name: &str| std::fs::read_to_string(proc.join(name)).unwrap_or_default();
        let count = |line: &str| line.split_once(": ").and_then(|(_, n)| n.parse::<u64>().ok());
        let bytes = text("io").lines().take(2).filter_map(count).sum();
        let ticks = fields(&text("stat")).skip(11).take(2).filter_map(|t| t.parse::<u32>().ok()).sum::<u32>();
        let threads = std::fs::read_dir(proc.join("task")).into_iter().flatten().flatten();
        let mut stats = threads.map(|t| std::fs::read_to_string(t.path().join("stat")).unwrap_or_default());
        let waits_for_disk = stats.any(|stat| fields(&stat).next() == Some("D"));
        Self { bytes, busy: TICK * ticks, waits_for_disk }
    }
}

/// What stands in a line of `/proc/PID/stat` behind the program's name, from the state on.
fn fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace()
}

/// Makes the store in `state_dir` one that opens, if it can be; else opening it tells why not. Of a damaged one's events
/// only about `at_once` are written anew here. Blocks; where that takes longer, `progress` is told how many rows of how
/// many are done.
///
/// # Errors
/// If a damaged store cannot be set aside.
pub fn make_sound(
    program: &Path,
    state_dir: &Path,
    at_once: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Health, StoreError> {
    if !store::exists(state_dir) {
        return Ok(Health::Fine(None));
    }
    let began = clock::now();
    let budget = match unclean_starts(state_dir) {
        0 => Some(Duration::from_millis(200)),
        1 | 2 => Some(Duration::from_secs(5)),
        _ => None,
    };
    let finding = ask_child(program, state_dir, budget);
    match &finding {
        Finding::Sound { rows, damaged, examples, whole } => {
            if let Some(example) = examples.first() {
                warn!(name: "rows_damaged", count = damaged, first = example, "rows of the store are damaged and are stepped over");
            }
            info!(name: "store_sound", rows, all = whole, "the store is sound");
            Ok(Health::Fine(Some(finding)))
        }
        Finding::Refused { why } => {
            warn!(name: "store_unexamined", reason = why, "the store could not be examined");
            Ok(Health::Fine(Some(finding)))
        }
        Finding::Damaged { why } | Finding::Forbidden { why } => {
            error!(
                name: "store_damaged",
                reason = why,
                "the store is damaged; it is set aside and begun anew with what can be read"
            );
            let (what, rest) = store::begin_anew(state_dir, clock::now(), at_once, progress)?;
            report(&what, began);
            Ok(Health::Salvaged { why: why.clone(), what, rest })
        }
    }
}

fn report(what: &Salvaged, began: UnixMillis) {
    let Salvaged { aside, found, left, counted, unreadable } = what;
    let took_ms = clock::now().since(began).as_millis();
    let aside = aside.display();
    if *left != Counts::default() {
        let left = left.total();
        warn!(
            name: "salvage_begun",
            directory = %aside, left, took_ms,
            "the damaged store is set aside there; the rest of its rows is taken in while the daemon runs"
        );
    }
    match (unreadable, counted) {
        (Some(why), _) => error!(
            name: "salvage_failed",
            directory = %aside, reason = why, took_ms,
            "nothing of the damaged store can be read; events that waited in it are lost unless `store salvage` can read it later"
        ),
        (None, Some(counted)) if counted.pending > found.pending => error!(
            name: "salvage_incomplete",
            directory = %aside, waiting = found.pending, waited = counted.pending, took_ms,
            "some waiting events could not be read and are lost"
        ),
        (None, _) => warn!(
            name: "salvage_done",
            directory = %aside, waiting = found.pending, dead = found.dead, delivered = found.delivered, took_ms,
            "begun anew with what could be read; the damaged store is kept there"
        ),
    }
}

const RUNNING: &str = "RUNNING";

/// How often in a row the daemon was started and did not stop in order.
fn unclean_starts(state_dir: &Path) -> u32 {
    let count = std::fs::read_to_string(state_dir.join(RUNNING));
    count.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The daemon runs from now on, until [`stopped`] says that it ended in order.
pub fn running(state_dir: &Path) {
    let count = unclean_starts(state_dir) + 1;
    // It decides how much is read before the next start, nothing else.
    if let Err(why) = std::fs::write(state_dir.join(RUNNING), format!("{count}\n")) {
        warn!(name: "running_unnoted", reason = %why, "it cannot be noted that the daemon runs");
    }
}

/// The daemon has stopped in order.
pub fn stopped(state_dir: &Path) {
    // A leftover makes the next start read more than it must.
    let _ = std::fs::remove_file(state_dir.join(RUNNING));
}
