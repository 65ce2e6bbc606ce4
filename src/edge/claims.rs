//! One node's part of the shared outbox, for one Zammad: claims calls, keeps them as long as they are worked on, hands
//! their events to the drain, and records what became of them.
//!
//! What a node has it has until the lease is over by its own clock, counted from *before* it asked: so it stops before
//! the server would give the call to another. What it could not record by then it remembers, should it get the call
//! again; should another, that one sends what was sent already, under the same rules as after a restart.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::accept::Accepted;
use super::clock;
use super::drain::Order;
use super::pulse::Beat;
use super::source::Unrecorded;
use crate::outbox::{Claimed, Link, OutboxError, Settings, Settled, Waiting};
use crate::queue::backoff::Backoff;
use crate::store::{Pending, Seq, Settle, StoreError};

/// Most events that a node has of one Zammad.
const EVENTS_MAX: usize = 2_000;
/// Most calls that are claimed at once.
const CLAIM_MAX: usize = 200;
/// Most outcomes that are recorded at once.
const SETTLE_MAX: usize = 256;
/// Outcomes that could not be recorded in time, and are remembered.
const UNRECORDED_MAX: usize = 10_000;
/// How often it is looked for what nobody told of.
const LOOK: Duration = Duration::from_secs(2);
/// How often what is over for long is deleted.
const TRIM: Duration = Duration::from_mins(10);
/// Waits after the server failed.
const AGAIN: Backoff = Backoff { min: Duration::from_millis(500), max: Duration::from_secs(5) };

/// What status shows of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShareState {
    /// Whether the server answers; if not, why.
    pub away: Option<String>,
    /// Calls that this node has.
    pub calls: usize,
    /// Events that this node has.
    pub events: usize,
    /// How often calls that it had claimed could not be kept.
    pub lost: u64,
}

/// The drain's side. Clones are handles to the same.
#[derive(Clone)]
pub struct Share {
    table: Arc<Mutex<Table>>,
    settles: mpsc::UnboundedSender<Job>,
}

struct Job {
    settles: Vec<Settle>,
    answer: oneshot::Sender<Result<(), Unrecorded>>,
}

/// What this node has.
#[derive(Default)]
struct Table {
    /// The last position given out: they are this process's own.
    last: u64,
    events: BTreeMap<u64, Held>,
    lines: HashMap<String, Line>,
    /// Until when all of it may be worked on.
    until: Option<Instant>,
    /// What became of events whose call was lost meanwhile.
    unrecorded: BTreeMap<String, Settled>,
}

struct Held {
    id: String,
    call_id: String,
}

struct Line {
    fence: i64,
    events: BTreeSet<u64>,
}

impl Share {
    /// Whether an event is this node's to send, for as long as a request may take to begin.
    #[must_use]
    pub fn holds(&self, seq: Seq) -> bool {
        lock(&self.table).holds(seq.0, clock::monotonic())
    }

    /// Lets go of an event's call, because it could not be sent in time; all of its events, which are handed out anew if the
    /// call is still, or again, this node's.
    #[must_use]
    pub fn let_go(&self, seq: Seq) -> Vec<Seq> {
        let mut table = lock(&self.table);
        let call_id = table.events.get(&seq.0).map(|held| held.call_id.clone());
        call_id.map(|call_id| table.lose(&call_id)).unwrap_or_default()
    }

    /// Records this, behind whatever was begun before.
    pub(super) fn settle(
        &self,
        settles: Vec<Settle>,
    ) -> impl Future<Output = Result<(), Unrecorded>> + use<> {
        let (answer, done) = oneshot::channel();
        // A recorder that is gone drops the answer.
        let _ = self.settles.send(Job { settles, answer });
        async move { done.await.unwrap_or(Err(Unrecorded::Lost)) }
    }
}

impl Table {
    fn holds(&self, seq: u64, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until) && self.events.contains_key(&seq)
    }

    /// Takes a line's new events in; what became of one before is recorded instead.
    fn take(&mut self, pending: Vec<Pending>) -> (Vec<Accepted>, Vec<Settle>) {
        let (mut new, mut over) = (Vec::new(), Vec::new());
        for event in pending {
            let Some(line) = self.lines.get_mut(event.event.call_id.as_str()) else { continue };
            self.last += 1;
            let seq = self.last;
            line.events.insert(seq);
            let call_id = event.event.call_id.to_string();
            self.events.insert(seq, Held { id: event.id.clone(), call_id });
            match self.unrecorded.remove(&event.id) {
                Some(Settled::Delivered { at, note }) => {
                    over.push(Settle::Delivered { seq: Seq(seq), at, note })
                }
                Some(Settled::Dead { at, story }) => over.push(Settle::Dead { seq: Seq(seq), at, story }),
                Some(Settled::Attempt { .. } | Settled::Unattempted | Settled::Missing) | None => {
                    new.push((Seq(seq), event));
                }
            }
        }
        (new, over)
    }

    /// Lets go of a line; its events.
    fn lose(&mut self, call_id: &str) -> Vec<Seq> {
        let events = self.lines.remove(call_id).map(|line| line.events).unwrap_or_default();
        for seq in &events {
            self.events.remove(seq);
        }
        events.into_iter().map(Seq).collect()
    }

    /// The event is over. Its line stays until the server says that nobody has it.
    fn end(&mut self, seq: u64) {
        let Some(held) = self.events.remove(&seq) else { return };
        if let Some(line) = self.lines.get_mut(&held.call_id) {
            line.events.remove(&seq);
        }
    }

    /// What was renewed is ours until `until`; the events of the others.
    fn compare(&mut self, kept: Vec<Claimed>, until: Instant) -> Vec<Seq> {
        let kept: HashMap<String, i64> = kept.into_iter().map(|line| (line.call_id, line.fence)).collect();
        let lost = self.lines.iter().filter(|(call, line)| kept.get(*call) != Some(&line.fence));
        let lost: Vec<String> = lost.map(|(call, _)| call.clone()).collect();
        let events = lost.iter().flat_map(|call| self.lose(call)).collect();
        for (call, fence) in kept {
            self.lines.entry(call).or_insert(Line { fence, events: BTreeSet::new() });
        }
        self.until = Some(until);
        events
    }

    /// These are ours anew; the events of those that were before: the lease was over in between, and what another node may
    /// have made of them is read anew.
    fn claim(&mut self, new: &[Claimed]) -> Vec<Seq> {
        let before = new.iter().flat_map(|line| self.lose(&line.call_id)).collect();
        let line =
            |line: &Claimed| (line.call_id.clone(), Line { fence: line.fence, events: BTreeSet::new() });
        self.lines.extend(new.iter().map(line));
        before
    }

    /// Nobody has these any more.
    fn free(&mut self, lines: Vec<Claimed>) {
        for freed in lines {
            // It may have been claimed anew meanwhile.
            if self.lines.get(&freed.call_id).is_some_and(|line| line.fence == freed.fence) {
                self.lines.remove(&freed.call_id);
            }
        }
    }

    fn known(&self) -> Vec<String> {
        self.events.values().map(|held| held.id.clone()).collect()
    }

    fn remember(&mut self, id: String, settled: Settled) {
        if self.unrecorded.len() < UNRECORDED_MAX {
            self.unrecorded.insert(id, settled);
        }
    }
}

/// What tells this node from every other, even from one of its name: made once, and kept beside its store.
///
/// # Errors
/// If it cannot be read or written.
pub fn node_id(state_dir: &Path) -> Result<String, StoreError> {
    let path = state_dir.join("NODE");
    let io = |why| StoreError::at_open(&path, why);
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Err(why) if why.kind() != ErrorKind::NotFound => return Err(io(why)),
        Ok(_) | Err(_) => {}
    }
    let id = format!("{:016x}", fastrand::u64(..));
    std::fs::write(&path, format!("{id}\n")).and_then(|()| File::open(&path)?.sync_all()).map_err(io)?;
    Ok(id)
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The claiming side.
pub struct Claims {
    /// The Zammad's configured name.
    pub zammad: String,
    /// How the outbox is reached.
    pub settings: Arc<Settings>,
    /// To the drain.
    pub accepted: mpsc::Sender<Accepted>,
    /// To the drain.
    pub orders: mpsc::Sender<Order>,
    /// For status.
    pub state: watch::Sender<ShareState>,
    /// Where it notes that it moves.
    pub beat: Beat,
}

/// What is to be looked at.
enum Woken {
    /// These calls, or if none are named all.
    Heard(Vec<String>),
    /// Whatever there is room for.
    Room,
    Stop,
}

impl Claims {
    /// The drain's side, and the two tasks: one claims, the other records. The recorder ends when every [`Share`] is
    /// gone.
    pub fn begin(
        self,
        stop: CancellationToken,
    ) -> (Share, impl Future<Output = ()>, impl Future<Output = ()>) {
        let table = Arc::new(Mutex::new(Table::default()));
        let (settles, jobs) = mpsc::unbounded_channel();
        let room = Arc::new(Notify::new());
        let share = Share { table: Arc::clone(&table), settles };
        let recorder = Recorder {
            zammad: self.zammad.clone(),
            link: Link::new(Arc::clone(&self.settings)),
            table: Arc::clone(&table),
            room: Arc::clone(&room),
        };
        // Of its own, so that the recorder ends with the drain.
        let over = share.settles.downgrade();
        (share, self.run(table, room, over, stop), recorder.run(jobs))
    }

    async fn run(
        self,
        table: Arc<Mutex<Table>>,
        room: Arc<Notify>,
        settles: mpsc::WeakUnboundedSender<Job>,
        stop: CancellationToken,
    ) {
        let mut link = Link::listening(Arc::clone(&self.settings));
        let mut failures = 0;
        let mut woken = Woken::Room;
        let mut renew_at = clock::monotonic();
        let mut trim_at = renew_at + TRIM;
        while !matches!(woken, Woken::Stop) {
            self.beat.moved();
            let round = self.round(&mut link, &table, &settles, &woken, &mut renew_at);
            let round = self.beat.through(round).await;
            self.lapse(&table).await;
            failures = if round.is_ok() { 0 } else { failures + 1 };
            let pause = match failures {
                0 => LOOK.min(self.settings.lease / 3),
                failures => AGAIN.wait(failures, fastrand::f64()),
            };
            if round.is_ok() && clock::monotonic() >= trim_at {
                trim_at = clock::monotonic() + TRIM;
                // What could not be deleted now is old enough the next time as well.
                let _ = self.beat.through(link.trim(&self.zammad, clock::now())).await;
            }
            self.show(round.err(), &table);
            woken = tokio::select! {
                biased;
                () = stop.cancelled() => Woken::Stop,
                calls = link.heard() => {
                    let ours = calls.into_iter().filter(|(zammad, _)| *zammad == self.zammad);
                    Woken::Heard(ours.map(|(_, call)| call).collect())
                }
                () = room.notified() => Woken::Room,
                () = tokio::time::sleep(pause) => Woken::Room,
            };
        }
    }

    /// Keeps what it has, claims what there is room for, and hands new events on.
    async fn round(
        &self,
        link: &mut Link,
        table: &Mutex<Table>,
        settles: &mpsc::WeakUnboundedSender<Job>,
        woken: &Woken,
        renew_at: &mut Instant,
    ) -> Result<(), OutboxError> {
        let asked = clock::monotonic();
        let due = asked >= *renew_at;
        if due {
            let kept = link.renew(&self.zammad).await?;
            *renew_at = asked + self.settings.lease / 3;
            let lost = lock(table).compare(kept, asked + self.settings.lease);
            self.tell_lost(lost).await;
        }
        let named: &[String] = match woken {
            Woken::Heard(calls) => calls,
            Woken::Room | Woken::Stop => &[],
        };
        let held = lock(table).events.len();
        let wanted = if named.is_empty() { held <= EVENTS_MAX / 2 } else { held < EVENTS_MAX };
        if wanted {
            let asked = clock::monotonic();
            let new = link.claim(&self.zammad, named, CLAIM_MAX.min(EVENTS_MAX - held)).await?;
            let before = {
                let mut table = lock(table);
                // Where there were lines before, what is new is worked on no longer than they.
                table.until.get_or_insert(asked + self.settings.lease);
                table.claim(&new)
            };
            self.tell_lost(before).await;
        }
        let (ours, known) = {
            let table = lock(table);
            let all = due || matches!(woken, Woken::Heard(calls) if calls.is_empty());
            let ours = table
                .lines
                .iter()
                .filter(|(call, line)| all || line.events.is_empty() || named.contains(*call));
            (ours.map(|(call, _)| call.clone()).collect::<Vec<_>>(), table.known())
        };
        if ours.is_empty() {
            return Ok(());
        }
        let Waiting { events, unreadable } = link.waiting(&self.zammad, &ours, &known).await?;
        let (new, over) = lock(table).take(events);
        if !over.is_empty()
            && let Some(settles) = settles.upgrade()
        {
            let (answer, _) = oneshot::channel();
            // A recorder that is gone records it after the next start.
            let _ = settles.send(Job { settles: over, answer });
        }
        for event in new {
            // A drain that is gone needs nothing.
            let _ = self.accepted.send(event).await;
        }
        self.bury(link, table, unreadable).await
    }

    /// Rows that cannot be read are dead letters, or they would hold up their calls for ever.
    async fn bury(
        &self,
        link: &mut Link,
        table: &Mutex<Table>,
        unreadable: Vec<(String, String, String)>,
    ) -> Result<(), OutboxError> {
        let mut settles = Vec::new();
        for (call_id, id, why) in unreadable {
            let Some(fence) = lock(table).lines.get(&call_id).map(|line| line.fence) else { continue };
            error!(name: "outbox_row_unreadable", zammad = self.zammad, reason = why, "an event in the outbox cannot be read; kept there as a dead letter");
            let story = format!("it cannot be read: {why}");
            settles.push((Claimed { call_id, fence }, id, Settled::Dead { at: clock::now(), story }));
        }
        if settles.is_empty() {
            return Ok(());
        }
        let recorded = link.settle(&self.zammad, &settles).await?;
        lock(table).free(recorded.freed);
        Ok(())
    }

    /// Where the lease is over nothing more is sent: another node may have the calls now.
    async fn lapse(&self, table: &Mutex<Table>) {
        let lost: Vec<Seq> = {
            let mut table = lock(table);
            if table.until.is_none_or(|until| clock::monotonic() < until) {
                return;
            }
            table.until = None;
            let calls: Vec<String> = table.lines.keys().cloned().collect();
            calls.iter().flat_map(|call| table.lose(call)).collect()
        };
        self.tell_lost(lost).await;
    }

    async fn tell_lost(&self, lost: Vec<Seq>) {
        if lost.is_empty() {
            return;
        }
        let events = lost.len();
        warn!(name: "claims_lost", zammad = self.zammad, events, "calls of the outbox could not be kept; another node may go on with them");
        self.state.send_modify(|state| state.lost += 1);
        let _ = self.orders.send(Order::Removed(lost)).await;
    }

    fn show(&self, failed: Option<OutboxError>, table: &Mutex<Table>) {
        let (calls, events) = {
            let table = lock(table);
            (table.lines.len(), table.events.len())
        };
        let away = failed.map(|why| why.to_string());
        let before = self.state.borrow().away.clone();
        match (&before, &away) {
            (None, Some(why)) => {
                error!(name: "outbox_away", zammad = self.zammad, reason = why, "nothing is taken from the outbox; the events wait there, or in the store");
            }
            (Some(_), None) => info!(name: "outbox_back", zammad = self.zammad, "the outbox answers"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        self.state.send_if_modified(|state| {
            let next = ShareState { away, calls, events, lost: state.lost };
            let changed = *state != next;
            *state = next;
            changed
        });
    }
}

/// Records what became of events, in the order in which it was said.
struct Recorder {
    zammad: String,
    link: Link,
    table: Arc<Mutex<Table>>,
    room: Arc<Notify>,
}

impl Recorder {
    async fn run(mut self, mut jobs: mpsc::UnboundedReceiver<Job>) {
        while let Some(first) = jobs.recv().await {
            let mut batch = vec![first];
            while batch.iter().map(|job| job.settles.len()).sum::<usize>() < SETTLE_MAX
                && let Ok(next) = jobs.try_recv()
            {
                batch.push(next);
            }
            let lost = self.record(&batch).await;
            for job in batch {
                let any = job.settles.iter().any(|settle| lost.contains(&seq_of(settle).0));
                // Whoever does not wait for it needs no answer.
                let _ = job.answer.send(if any { Err(Unrecorded::Lost) } else { Ok(()) });
            }
            self.room.notify_one();
        }
        // The drain has ended: others need not wait for the lease. If that fails, they do.
        let _ = self.link.let_go(&self.zammad).await;
    }

    /// Tries until it is recorded or not ours any more. The positions of which nothing could be recorded.
    async fn record(&mut self, batch: &[Job]) -> BTreeSet<u64> {
        let mut failures = 0;
        let mut lost = BTreeSet::new();
        let mut left: Vec<(u64, String, Settled)> = Vec::new();
        for settle in batch.iter().flat_map(|job| &job.settles) {
            let seq = seq_of(settle).0;
            let held = lock(&self.table).events.get(&seq).map(|held| held.id.clone());
            match (held, outcome(settle)) {
                (Some(id), Some(settled)) => left.push((seq, id, settled)),
                (None, _) => {
                    lost.insert(seq);
                }
                (Some(_), None) => {}
            }
        }
        loop {
            let ours: Vec<(Claimed, String, Settled)> = {
                let mut table = lock(&self.table);
                let (mine, gone): (Vec<_>, Vec<_>) =
                    left.into_iter().partition(|(seq, _, _)| table.events.contains_key(seq));
                left = mine;
                for (seq, id, settled) in gone {
                    lost.insert(seq);
                    table.remember(id, settled);
                }
                let claimed = |(seq, id, settled): &(u64, String, Settled)| {
                    let call_id = table.events[seq].call_id.clone();
                    let fence = table.lines.get(&call_id).map_or(-1, |line| line.fence);
                    (Claimed { call_id, fence }, id.clone(), settled.clone())
                };
                left.iter().map(claimed).collect()
            };
            if ours.is_empty() {
                return lost;
            }
            match self.link.settle(&self.zammad, &ours).await {
                Ok(recorded) => {
                    let mut table = lock(&self.table);
                    table.free(recorded.freed);
                    for (seq, id, settled) in left {
                        if recorded.lost.contains(&id) {
                            lost.insert(seq);
                            table.remember(id, settled);
                        } else if matches!(settled, Settled::Delivered { .. } | Settled::Dead { .. }) {
                            table.end(seq);
                        }
                    }
                    return lost;
                }
                Err(_) => {
                    // The claiming side says why, and lets go of what is ours no more.
                    failures += 1;
                    tokio::time::sleep(AGAIN.wait(failures, fastrand::f64())).await;
                }
            }
        }
    }
}

fn seq_of(settle: &Settle) -> Seq {
    match settle {
        Settle::Delivered { seq, .. }
        | Settle::Dead { seq, .. }
        | Settle::Attempt { seq, .. }
        | Settle::Unattempted { seq }
        | Settle::Held { seq, .. }
        | Settle::Missing { seq }
        | Settle::Removed { seq } => *seq,
    }
}

/// What a drain says of an event; it holds and removes none.
fn outcome(settle: &Settle) -> Option<Settled> {
    match settle {
        Settle::Delivered { at, note, .. } => Some(Settled::Delivered { at: *at, note: note.clone() }),
        Settle::Dead { at, story, .. } => Some(Settled::Dead { at: *at, story: story.clone() }),
        Settle::Attempt { at, .. } => Some(Settled::Attempt { at: *at }),
        Settle::Unattempted { .. } => Some(Settled::Unattempted),
        Settle::Missing { .. } => Some(Settled::Missing),
        Settle::Held { .. } | Settle::Removed { .. } => None,
    }
}
