//! What stands in a store, as a process tells it that opens one directory after the other: sled may hang or end
//! the process on a disk it does not understand.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Write, stdin, stdout};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use freeswitch_zammad::store::{Accepting, Counts, Seq, Store, StoreError, salvage};
use freeswitch_zammad::time::UnixMillis;

use super::{Told, limits};
use crate::disk;

/// Longest time a store may take until all of it has been read: a busy machine is slow.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Pending { attempted: bool },
    Dead,
    Delivered,
}

/// All that a store holds.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) rows: Vec<(u64, Told, Place)>,
    /// By call, the step that its state is of.
    pub(crate) state: BTreeMap<u64, u64>,
    pub(crate) counts: [u64; 3],
    /// Of every byte of it.
    pub(crate) digest: u64,
    /// The store did not open, and this is what could be read of it.
    pub(crate) salvaged: bool,
}

impl Contents {
    /// Reads all of `store`; panics on what no step of a call has written.
    pub(crate) fn of(store: &Store) -> Self {
        let mut found = Self::default();
        let mut hasher = DefaultHasher::new();
        for (seq, row) in store.pending_from(Seq(0), usize::MAX).unwrap() {
            let attempted = row.attempt.is_some();
            found.rows.push((seq.0, Told::of(&row.id), Place::Pending { attempted }));
            format!("{seq} {row:?}").hash(&mut hasher);
        }
        for (seq, row) in store.dead_from(Seq(0), usize::MAX).unwrap() {
            found.rows.push((seq.0, Told::of(&row.pending.id), Place::Dead));
            format!("{seq} {row:?}").hash(&mut hasher);
        }
        for (seq, row) in store.delivered_from(Seq(0), usize::MAX).unwrap() {
            found.rows.push((seq.0, Told::of(&row.pending.id), Place::Delivered));
            format!("{seq} {row:?}").hash(&mut hasher);
        }
        for (key, value) in store.state().unwrap() {
            let word = value.split(|b| *b == b'\n').next().unwrap();
            let told = Told::of(std::str::from_utf8(word).unwrap());
            assert_eq!(key, told.call.to_string());
            assert!(value == told.value(), "the state of {told:?} is not what was written");
            found.state.insert(told.call, told.step);
            (told.call, told.step).hash(&mut hasher);
        }
        let Counts { pending, dead, delivered } = store.counts();
        found.counts = [pending, dead, delivered];
        found.counts.hash(&mut hasher);
        found.digest = hasher.finish();
        found
    }

    /// Of a store in which nothing stands.
    pub(crate) fn none() -> Self {
        let mut hasher = DefaultHasher::new();
        [0_u64; 3].hash(&mut hasher);
        Self { digest: hasher.finish(), ..Self::default() }
    }

    fn spell(&self) -> String {
        let mut text = String::new();
        for (seq, told, place) in &self.rows {
            let place = match place {
                Place::Pending { attempted: false } => "pending",
                Place::Pending { attempted: true } => "attempted",
                Place::Dead => "dead",
                Place::Delivered => "delivered",
            };
            writeln!(text, "look row {seq} {} {place}", told.word()).unwrap();
        }
        for (call, step) in &self.state {
            writeln!(text, "look state {call} {step}").unwrap();
        }
        let [p, d, s] = self.counts;
        writeln!(text, "look counts {p} {d} {s}\nlook end {}", self.digest).unwrap();
        text
    }

    /// Takes one line of what [`Contents::spell`] wrote. True when it was the last.
    fn hear(&mut self, line: &str) -> bool {
        let words: Vec<_> = line.split(' ').collect();
        let number = |n: usize| words[n].parse::<u64>().unwrap();
        match words[0] {
            "row" => {
                let place = match words[3] {
                    "pending" => Place::Pending { attempted: false },
                    "attempted" => Place::Pending { attempted: true },
                    "dead" => Place::Dead,
                    "delivered" => Place::Delivered,
                    other => panic!("{other}"),
                };
                self.rows.push((number(1), Told::of(words[2]), place));
            }
            "state" => drop(self.state.insert(number(1), number(2))),
            "counts" => self.counts = [number(1), number(2), number(3)],
            "salvaged" => self.salvaged = true,
            "end" => self.digest = number(1),
            other => panic!("{other}"),
        }
        words[0] == "end"
    }
}

/// The child: tells of each state directory that is named on a line of its input, behind a word for [`How`].
pub(crate) fn run() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    for line in stdin().lock().lines() {
        let line = line.unwrap();
        let (how, dir) = line.split_once(' ').unwrap();
        let dir = Path::new(dir);
        let opened = if how == "salvage" { None } else { Some(Store::open(dir, limits())) };
        let said = match opened {
            None => mended(dir),
            Some(Err(StoreError::Damaged { .. })) if how == "mend" => mended(dir),
            Some(Err(error)) => format!("look failed to open: {error}\n"),
            Some(Ok(store)) => {
                runtime.block_on(store.whole(|_| {}));
                let contents = Contents::of(&store);
                if how == "again" {
                    runtime.block_on(opens_again(store, &contents, dir));
                }
                contents.spell()
            }
        };
        let mut out = stdout().lock();
        // Begun on a line of its own: the test harness writes there, too.
        out.write_all(b"\n")
            .and_then(|()| out.write_all(said.as_bytes()))
            .and_then(|()| out.flush())
            .unwrap();
    }
}

/// What is read of a damaged store, as the daemon does it at its start.
fn mended(dir: &Path) -> String {
    salvage(dir, UnixMillis(1), &mut |_, _| {}).unwrap();
    format!("look salvaged\n{}", Contents::of(&Store::open(dir, limits()).unwrap()).spell())
}

async fn opens_again(store: Store, contents: &Contents, dir: &Path) {
    let new = Told { call: u64::MAX / 1_000, step: 0 };
    let accepting = Accepting { events: vec![new.event()], state: vec![new.state()] };
    let seq = store.accept(accepting).await.unwrap()[0].unwrap();
    assert!(contents.rows.iter().all(|row| row.0 < seq.0), "position {seq} was given out before");
    store.close().await.unwrap();
    let mut again = Contents::of(&Store::open(dir, limits()).unwrap());
    again.rows.retain(|row| row.1 != new);
    let [p, d, s] = contents.counts;
    assert_eq!((again.rows, again.counts), (contents.rows.clone(), [p + 1, d, s]), "opened again");
}

/// How a store is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// It is opened and read.
    Once,
    /// It must also take an event, keep it, and be the same when it is opened once more.
    Again,
    /// If it is damaged it is salvaged.
    Mend,
    /// It is salvaged: another process did not live through opening it.
    Salvage,
}

/// The parent's end of it.
pub(crate) struct Looker {
    child: Child,
    ask: ChildStdin,
    lines: Receiver<String>,
}

impl Looker {
    pub(crate) fn new(below: &Path) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "child_that_looks", "--ignored", "--nocapture"]);
        // What it syncs need not outlive this test: with a journal kept the shim syncs nothing.
        disk::journal::keep(&mut command, below, Path::new("/dev/null"));
        command
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (said, lines) = channel();
        // Both outputs in one: a panic's message is the reason that is reported.
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let also = said.clone();
        std::thread::spawn(move || forward(BufReader::new(out), &said, false));
        std::thread::spawn(move || forward(BufReader::new(err), &also, true));
        Self { ask: child.stdin.take().unwrap(), child, lines }
    }

    /// What stands in the store in `dir`, or why nobody can tell; then this one is of no use any more.
    pub(crate) fn look(&mut self, dir: &Path, how: How) -> Result<Contents, String> {
        let how = match how {
            How::Once => "once",
            How::Again => "again",
            How::Mend => "mend",
            How::Salvage => "salvage",
        };
        writeln!(self.ask, "{how} {}", dir.display()).map_err(|e| e.to_string())?;
        let mut contents = Contents::default();
        let mut complaint = String::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    if let Some(failed) = line.strip_prefix("failed ") {
                        return Err(failed.to_owned());
                    }
                    match line.strip_prefix("!") {
                        Some(said) => complaint = format!("{complaint}{said}\n"),
                        None if contents.hear(&line) => return Ok(contents),
                        None => {}
                    }
                }
                Err(_) => {
                    let ended = self.child.try_wait().unwrap();
                    return Err(format!("opening hung or ended the process ({ended:?}): {complaint}"));
                }
            }
        }
    }
}

impl Drop for Looker {
    fn drop(&mut self) {
        // It may hang; and if it does not, it is waiting for nothing.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn forward(lines: impl BufRead, to: &std::sync::mpsc::Sender<String>, complaints: bool) {
    for line in lines.lines().map_while(Result::ok) {
        let said =
            if complaints { Some(format!("!{line}")) } else { line.strip_prefix("look ").map(str::to_owned) };
        if said.is_some_and(|said| to.send(said).is_err()) {
            break;
        }
    }
}
