//! Calls that began and ended while nobody listened, from the files that the switch has written of them.
//!
//! The intake notes when the switch was last heard and when it is heard again ([`Hearing`]). What lies between is a
//! gap: its files are read, told by a tracker of their own, and what comes out goes into the intake like any event, marked
//! with the time at which it happened. **Each call once:** a call whose newCall the store knows was told before; a
//! call is accepted whole or not at all; and the gap is closed in the store only when every call of it is there, so
//! that a crash on the way repeats it.
//!
//! Reads beside the running calls: off the runtime's threads, some files at a time. Records are written when a leg
//! ends, at times some seconds later, and not all at once: the folder is looked at several times, and a call is told
//! once its end is ten seconds past.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::clock;
use super::intake::Rules;
use super::listener::{Heard, What};
use crate::call::cdr::{self, Cdr};
use crate::call::tracker::News;
use crate::esl::event::Name;
use crate::store::{Accepting, StateChange, Store, StoreError};
use crate::time::UnixMillis;

/// When a gap's folder is looked at, from the moment the gap is known.
const LOOKS: [Duration; 4] =
    [Duration::ZERO, Duration::from_secs(2), Duration::from_secs(10), Duration::from_secs(60)];
/// A call that is over for so long has all the files that it will have.
const SETTLED: Duration = Duration::from_secs(10);
/// Wait where calls could not be told, and how often: the queue is full, or the disk is.
const AGAIN: Duration = Duration::from_secs(60);
/// Looks at most, for calls that cannot be told.
const LOOKS_MAX: usize = 10;
/// How far the switch's clock may be from ours. Whatever was told within is known by its identity.
const CLOCKS_DIFFER: Duration = Duration::from_secs(5);
/// Files read at once, off the runtime's threads.
const PAGE: usize = 100;
/// Legs of a gap that are held in memory while it is told, some 5 kB each. Beyond it the newest are taken.
const LEGS_MAX: usize = 20_000;
/// Largest file. FreeSWITCH's are some 30 kB, some hundred with a bad line's error log.
const FILE_MAX: u64 = 4 * 1024 * 1024;
/// Deepest folder below the one that is named. The modules write into that one, or with `rotate` one below; who files
/// records away by day, as in `archive/2026/Nov/24`, has them four below.
const DEPTH_MAX: usize = 4;
/// Calls that go into one transaction.
const CALLS_AT_ONCE: usize = 50;
/// Gaps that are told together; with more they are taken for one.
const GAPS_MAX: usize = 100;
/// Keys of moments in the store begin with this; no switch is called so.
const PREFIX: &str = "heard//";

/// Messages that may wait for a backfill. A gap that finds no room is told later.
pub const QUEUE: usize = 64;

/// Whether a value of the store's state is a backfill's.
#[must_use]
pub fn is_mark(key: &str) -> bool {
    key.starts_with(PREFIX)
}

/// What the intake tells a backfill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// Everything that was heard up to this moment is on disk.
    Heard(UnixMillis),
    /// Nobody listened meanwhile.
    Gap {
        /// When the switch was last heard, if this program had heard it.
        from: Option<UnixMillis>,
        /// When it was heard again.
        until: UnixMillis,
    },
}

/// What the intake knows of when a switch was heard.
#[derive(Default)]
pub struct Hearing {
    to: Option<mpsc::Sender<Noted>>,
    last: Option<UnixMillis>,
    beat: Option<UnixMillis>,
    gap: Option<Noted>,
}

impl Hearing {
    /// Notes are taken only where there is a backfill to tell.
    #[must_use]
    pub fn new(to: Option<mpsc::Sender<Noted>>) -> Self {
        Self { to, ..Self::default() }
    }

    /// Something was heard.
    pub fn note(&mut self, heard: &Heard) {
        match &heard.what {
            What::Event(event) => {
                self.last = Some(heard.at);
                if event.name() == Name::Heartbeat {
                    self.beat = Some(heard.at);
                }
            }
            What::Listening => {
                // A link that was lost again before all legs were asked for: the gap goes on.
                let from = match self.gap {
                    Some(Noted::Gap { from, .. }) => from,
                    Some(Noted::Heard(_)) | None => self.last,
                };
                self.gap = Some(Noted::Gap { from, until: heard.at });
            }
            What::Channels(_)
            | What::Leg(_)
            | What::Gone(_)
            | What::Refused { .. }
            | What::Missed(_)
            | What::Synced => {}
        }
    }

    /// What was noted is on disk. While the switch is still asked which legs there are, nothing is certain.
    pub fn on_disk(&mut self, still_asking: bool) {
        let Some(to) = self.to.as_ref().filter(|_| !still_asking) else { return };
        if self.gap.is_some_and(|gap| to.try_send(gap).is_ok()) {
            self.gap = None;
        }
        if self.gap.is_none()
            && let Some(beat) = self.beat.take()
        {
            // Full: the next one comes in 20 s.
            let _ = to.try_send(Noted::Heard(beat));
        }
    }
}

/// What status shows of a backfill.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackfillState {
    /// The folder.
    pub dir: PathBuf,
    /// A gap is being told.
    pub busy: bool,
    /// How often the folder was looked at.
    pub looks: u64,
    /// Gaps that were told to their end.
    pub gaps: u64,
    /// Files read.
    pub files: u64,
    /// Calls handed on to be told.
    pub calls: u64,
    /// Files that could not be read, and were skipped.
    pub skipped: u64,
    /// Files that were too many.
    pub left_out: u64,
    /// Calls that could not be queued, however often it was tried.
    pub lost: u64,
    /// Looks at which the folder itself could not be read.
    pub unlisted: u64,
    /// What was last in the way.
    pub why: Option<String>,
}

/// One switch's backfill.
pub struct Backfill {
    /// The switch's configured name.
    pub name: String,
    /// Its index in the configuration.
    pub switch: usize,
    /// Where its records are.
    pub dir: PathBuf,
    /// How its calls are told.
    pub rules: watch::Receiver<Arc<Rules>>,
    /// The store: what was told, and when the switch was heard.
    pub store: Store,
    /// What the intake notes.
    pub noted: mpsc::Receiver<Noted>,
    /// Where calls go.
    pub intake: mpsc::Sender<Heard>,
    /// What status shows.
    pub state: watch::Sender<BackfillState>,
}

/// Gaps that are being told.
struct Job {
    gaps: Vec<(UnixMillis, UnixMillis)>,
    begun: UnixMillis,
    looks: usize,
    due: UnixMillis,
    read: HashSet<PathBuf>,
    legs: Vec<Cdr>,
    failed: HashMap<PathBuf, String>,
    told: HashSet<String>,
    left_out: u64,
}

enum Woken {
    Noted(Noted),
    Look,
    Stop,
}

impl Backfill {
    /// Runs until cancelled, or until the intake is gone. May not be dropped while it works: cancel it.
    pub async fn run(mut self, stop: CancellationToken) {
        self.state.send_modify(|state| state.dir.clone_from(&self.dir));
        let mut heard = self.last_mark().await;
        let mut job: Option<Job> = None;
        loop {
            let due = job.as_ref().map(|job| job.due);
            let woken = tokio::select! {
                biased;
                () = stop.cancelled() => Woken::Stop,
                noted = self.noted.recv() => noted.map_or(Woken::Stop, Woken::Noted),
                () = clock::wait_until(due) => Woken::Look,
            };
            match woken {
                Woken::Stop => return,
                Woken::Noted(Noted::Heard(at)) => {
                    heard = heard.max(Some(at));
                    if job.is_none() {
                        self.mark(at).await;
                    }
                }
                Woken::Noted(Noted::Gap { from, until }) => match from.or(heard) {
                    Some(from) if from < until => {
                        job = Some(Job::with(job, from, until, clock::now()));
                        self.state.send_modify(|state| state.busy = true);
                    }
                    // Never heard before: what was then is nobody's loss. Or the clock was set back.
                    Some(_) | None => {
                        heard = heard.max(Some(until));
                        if job.is_none() {
                            self.mark(until).await;
                        }
                    }
                },
                Woken::Look => {
                    let Some(mut at_work) = job.take() else { continue };
                    match self.look(&mut at_work, &stop).await {
                        Ok(true) => {
                            heard = heard.max(at_work.gaps.iter().map(|(_, until)| *until).max());
                            if let Some(heard) = heard {
                                self.mark(heard).await;
                            }
                        }
                        Ok(false) => job = Some(at_work),
                        Err(why) => {
                            debug!(name: "backfill_delayed", switch = self.name, reason = %why, "the store cannot be asked what was told");
                            at_work.due = clock::now().after(AGAIN);
                            job = Some(at_work);
                        }
                    }
                }
            }
        }
    }

    async fn last_mark(&self) -> Option<UnixMillis> {
        let (store, key) = (self.store.clone(), format!("{PREFIX}{}", self.name));
        let read = tokio::task::spawn_blocking(move || store.state_value(&key)).await.ok()?;
        let text = String::from_utf8(read.ok()??).ok()?;
        text.parse().ok().map(UnixMillis)
    }

    /// Up to this moment nothing is missing. One synced write every 20 s.
    async fn mark(&self, at: UnixMillis) {
        let change =
            StateChange { key: format!("{PREFIX}{}", self.name), value: Some(at.0.to_string().into_bytes()) };
        if let Err(why) = self.store.accept(Accepting { events: vec![], state: vec![change] }).await {
            debug!(name: "heard_unnoted", switch = self.name, reason = %why, "when the switch was heard could not be noted");
        }
    }

    /// Reads what is new, tells what is settled. Whether the gaps are told to their end.
    async fn look(&self, job: &mut Job, stop: &CancellationToken) -> Result<bool, StoreError> {
        job.looks += 1;
        let is_last = job.looks >= LOOKS.len();
        let (files, told, left_out) = (job.legs.len(), job.told.len(), job.left_out);
        self.read(job, stop).await;
        let now = clock::now();
        let calls = self.calls_of(job, if is_last { None } else { Some(now) }).await?;
        let mut waiting = 0;
        for calls in calls.chunks(CALLS_AT_ONCE) {
            let ids: Vec<String> = calls.iter().map(|call| call[0].id.clone()).collect();
            waiting += ids.len();
            job.told.extend(ids);
            let heard = Heard { switch: self.switch, at: now, what: What::Missed(calls.to_vec()) };
            tokio::select! {
                sent = self.intake.send(heard) => if sent.is_err() { return Ok(false) },
                () = stop.cancelled() => return Ok(false),
            }
        }
        self.state.send_modify(|state| {
            state.looks += 1;
            state.files += (job.legs.len() - files) as u64;
            state.calls += (job.told.len() - told) as u64;
            state.left_out += job.left_out - left_out;
        });
        if stop.is_cancelled() {
            return Ok(false);
        }
        // What was handed on is looked for in the store at the next look; then it is there, or handed on again.
        if is_last && waiting == 0 || job.looks >= LOOKS_MAX {
            self.finished(job, waiting);
            return Ok(true);
        }
        job.due = match LOOKS.get(job.looks) {
            Some(wait) => job.begun.after(*wait),
            None if job.looks == LOOKS.len() => now.after(LOOKS[1]),
            None => now.after(AGAIN),
        };
        Ok(false)
    }

    fn finished(&self, job: &Job, untold: usize) {
        let calls = job.told.len().saturating_sub(untold);
        let files = job.legs.len();
        let skipped = job.failed.len();
        self.state.send_modify(|state| state.end_of_gap(job, untold));
        info!(name: "backfill_done", switch = self.name, files, calls, skipped, "read what happened while nobody listened");
        if untold > 0 {
            warn!(
                name: "backfill_lost",
                switch = self.name,
                calls = untold,
                "calls that nobody heard could not be queued and are lost"
            );
        }
        if skipped > 0 {
            warn!(
                name: "records_unreadable",
                switch = self.name,
                skipped, "call detail records cannot be read; `status` names one and says why"
            );
        }
        if job.left_out > 0 {
            warn!(
                name: "records_too_many",
                switch = self.name,
                left_out = job.left_out,
                "more call detail records than are taken at once: the oldest calls are not told"
            );
        }
    }

    async fn read(&self, job: &mut Job, stop: &CancellationToken) {
        let (dir, known) = (self.dir.clone(), std::mem::take(&mut job.read));
        let since = job.gaps.iter().map(|(from, _)| *from).min().unwrap_or_default();
        let since = UnixMillis(since.0.saturating_sub(millis(CLOCKS_DIFFER)));
        let listed = tokio::task::spawn_blocking(move || {
            let mut found = Vec::new();
            let listed = list(&dir, since, DEPTH_MAX, &known, &mut found);
            (known, found, listed)
        });
        let Ok((known, mut found, listed)) = listed.await else { return };
        job.read = known;
        if let Err(why) = listed {
            self.state.send_modify(|state| state.unlisted += 1);
            let why =
                format!("{why}; is it there, and may the daemon read it (SupplementaryGroups in the unit)?");
            if self.state.borrow().why.as_ref() != Some(&why) {
                warn!(name: "records_missing", switch = self.name, dir = %self.dir.display(), reason = why, "cdr_dir cannot be read");
                self.state.send_modify(|state| state.why = Some(why));
            }
        }
        // The newest first, should there be too many; the rest is not asked for again.
        found.sort_unstable_by(|a, b| b.cmp(a));
        let room = LEGS_MAX.saturating_sub(job.legs.len());
        if found.len() > room {
            job.left_out += (found.len() - room) as u64;
            job.read.extend(found.split_off(room).into_iter().map(|(_, path)| path));
        }
        let mut paths = found.into_iter().map(|(_, path)| path);
        loop {
            let page: Vec<PathBuf> = paths.by_ref().take(PAGE).collect();
            if page.is_empty() || stop.is_cancelled() {
                return;
            }
            let read = tokio::task::spawn_blocking(move || {
                page.into_iter().map(|path| (read_file(&path), path)).collect::<Vec<_>>()
            });
            for (outcome, path) in read.await.unwrap_or_default() {
                match outcome {
                    Ok(cdr) => {
                        job.failed.remove(&path);
                        job.read.insert(path);
                        job.legs.push(cdr);
                    }
                    // It may be in the middle of being written, and is looked at again.
                    Err(why) => {
                        debug!(name: "record_unreadable", switch = self.name, file = %path.display(), reason = why, "no record");
                        job.failed.insert(path, why);
                    }
                }
            }
        }
    }

    /// The calls of the gaps that were not told; before the last look only those that have settled.
    async fn calls_of(&self, job: &mut Job, now: Option<UnixMillis>) -> Result<Vec<Vec<News>>, StoreError> {
        let cdrs = std::mem::take(&mut job.legs);
        let calls = Arc::clone(&self.rules.borrow().switches[self.switch].0);
        let (gaps, store) = (job.gaps.clone(), self.store.clone());
        let told = tokio::task::spawn_blocking(move || {
            let mut calls = cdr::tell(calls, &cdrs);
            calls.retain(|call| {
                let begun = call[0].at;
                let ended = call[call.len() - 1].at;
                let in_gap = |(from, until): &(UnixMillis, UnixMillis)| {
                    begun.after(CLOCKS_DIFFER) >= *from && begun <= until.after(CLOCKS_DIFFER)
                };
                gaps.iter().any(in_gap) && now.is_none_or(|now| now.since(ended) >= SETTLED)
            });
            calls.sort_by_key(|call| call[0].at);
            let unknown = |call: Vec<News>| match store.knows(&call[0].id) {
                Ok(true) => None,
                Ok(false) => Some(Ok(call)),
                Err(why) => Some(Err(why)),
            };
            (calls.into_iter().filter_map(unknown).collect(), cdrs)
        });
        let (told, cdrs) = told.await.unwrap_or((Err(StoreError::Closed), Vec::new()));
        job.legs = cdrs;
        told
    }
}

impl BackfillState {
    /// The gaps are told to their end, but for these calls.
    fn end_of_gap(&mut self, job: &Job, untold: usize) {
        self.busy = false;
        self.gaps += 1;
        self.skipped += job.failed.len() as u64;
        self.lost += untold as u64;
        if let Some((path, why)) = job.failed.iter().next() {
            self.why = Some(format!("{}: {why}", path.display()));
        }
    }
}

impl Job {
    /// A gap more.
    fn with(job: Option<Self>, from: UnixMillis, until: UnixMillis, now: UnixMillis) -> Self {
        let mut job = job.unwrap_or_else(|| Self {
            gaps: Vec::new(),
            begun: now,
            looks: 0,
            due: now,
            read: HashSet::new(),
            legs: Vec::new(),
            failed: HashMap::new(),
            told: HashSet::new(),
            left_out: 0,
        });
        job.gaps.push((from, until));
        if job.gaps.len() > GAPS_MAX {
            let first = job.gaps.iter().map(|(from, _)| *from).min().unwrap_or(from);
            job.gaps = vec![(first, until)];
        }
        (job.begun, job.looks, job.due) = (now, 0, now);
        job
    }
}

/// Every record in a folder and below, oldest first. Blocks.
///
/// # Errors
/// If the folder itself cannot be read.
pub fn records_in(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    list(dir, UnixMillis::default(), DEPTH_MAX, &HashSet::new(), &mut found)?;
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// The records in a folder that were written since a moment, with when they were.
fn list(
    dir: &Path,
    since: UnixMillis,
    depth: usize,
    known: &HashSet<PathBuf>,
    found: &mut Vec<(UnixMillis, PathBuf)>,
) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() && depth > 0 {
            // One that is taken away meanwhile, or not ours to read, is no fault of the others.
            let _ = list(&path, since, depth - 1, known, found);
        } else if kind.is_file() && is_record(&path) && !known.contains(&path) {
            let Ok(written) = entry.metadata().and_then(|m| m.modified()) else { continue };
            let written = written.duration_since(UNIX_EPOCH).map(millis).unwrap_or_default();
            if written >= since.0 {
                found.push((UnixMillis(written), path));
            }
        }
    }
    Ok(())
}

/// Whether a file is named as one of the modules names its own.
#[must_use]
pub fn is_record(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.ends_with(".cdr.json") || name.ends_with(".cdr.xml")
}

/// Reads a record. Blocks.
///
/// # Errors
/// One sentence on why it is none.
pub fn read_file(path: &Path) -> Result<Cdr, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|why| why.to_string())?;
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(|why| why.to_string())?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(format!("it is larger than {FILE_MAX} bytes"));
    }
    cdr::read(&bytes).map_err(|why| why.to_string())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_in_the_way_of_a_gap_is_counted_at_its_end() {
        let at = UnixMillis;
        let mut job = Job::with(None, at(1), at(2), at(3));
        job.failed.insert("a.cdr.xml".into(), "it is empty".into());
        let mut state = BackfillState { busy: true, ..BackfillState::default() };
        state.end_of_gap(&job, 2);
        state.end_of_gap(&job, 1);
        let why = Some("a.cdr.xml: it is empty".into());
        assert_eq!(state, BackfillState { gaps: 2, skipped: 2, lost: 3, why, ..BackfillState::default() });
    }
}
