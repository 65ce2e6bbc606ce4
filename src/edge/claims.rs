//! One node's part of the shared outbox, for one Zammad: claims calls, keeps them as long as they are worked on, hands
//! their events to the drain, and records what became of them.
//!
//! What a node has it has until the lease is over by its own clock, counted from *before* it asked: so it stops before
//! the server would give the call to another. What it could not record by then it remembers, should it get the call
//! again; should another, that one sends what was sent already, under the same rules as after a restart.

mod recorder;
mod table;

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use recorder::Recorder;
use table::{Heeded, Table, lock};

use super::accept::Accepted;
use super::clock;
use super::drain::Order;
use super::pulse::Beat;
use super::source::Unrecorded;
use crate::outbox::{Claimed, Link, OutboxError, Settings, Settled, Waiting};
use crate::queue::backoff::Backoff;
use crate::store::{Seq, Settle, StoreError};

/// Most events that a node has of one Zammad.
const EVENTS_MAX: usize = 2_000;
/// Most calls that are claimed at once.
const CLAIM_MAX: usize = 200;
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
    room: Arc<Notify>,
    settles: mpsc::UnboundedSender<Job>,
    lease: Duration,
}

struct Job {
    settles: Vec<Settle>,
    /// Calls that are given back when that is recorded.
    leaving: Vec<String>,
    answer: oneshot::Sender<Result<(), Unrecorded>>,
}

impl Share {
    /// Whether an event is this node's to send, by a request that may take so long: until then no other node has it. With
    /// less than half of the lease left none is begun, however long it may take.
    #[must_use]
    pub fn holds(&self, seq: Seq, request: Duration) -> bool {
        lock(&self.table).holds(seq.0, clock::monotonic() + request.min(self.lease / 2))
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
        let _ = self.settles.send(Job { settles, leaving: Vec::new(), answer });
        async move { done.await.unwrap_or(Err(Unrecorded::Lost)) }
    }

    /// Says whether this node can post: no call is claimed while it cannot. Whether those that it has are to be given back.
    pub(super) fn yields(&self, posts: bool) -> bool {
        let mut table = lock(&self.table);
        if table.shut && posts {
            self.room.notify_one();
        }
        table.shut = !posts;
        table.shut && !table.events.is_empty()
    }

    /// Gives the calls of these events back, behind whatever was begun before; nothing of them is sent from now on.
    pub(super) fn give_back(&self, seqs: &[Seq]) {
        let leaving = lock(&self.table).leave(seqs);
        if !leaving.is_empty() {
            let (answer, _) = oneshot::channel();
            // A recorder that is gone has given back all there was.
            let _ = self.settles.send(Job { settles: Vec::new(), leaving, answer });
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
        let lease = self.settings.lease;
        let share = Share { table: Arc::clone(&table), room: Arc::clone(&room), settles, lease };
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
            let leaving = lock(table).leaving(asked, self.settings.lease);
            let kept = link.renew(&self.zammad, &leaving).await?;
            *renew_at = asked + self.settings.lease / 3;
            let lost = lock(table).compare(kept, asked + self.settings.lease);
            self.tell_lost(lost).await;
        }
        let named: &[String] = match woken {
            Woken::Heard(calls) => calls,
            Woken::Room | Woken::Stop => &[],
        };
        let (held, shut) = {
            let table = lock(table);
            (table.events.len(), table.shut)
        };
        let roomy = if named.is_empty() { held <= EVENTS_MAX / 2 } else { held < EVENTS_MAX };
        let wanted = roomy && !shut;
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
        let known = lock(table).known(if due { None } else { Some(named) });
        self.heed(link, table, known).await?;
        let (ours, known) = {
            let table = lock(table);
            let all = due || matches!(woken, Woken::Heard(calls) if calls.is_empty());
            let ours = table.lines.iter().filter(|(call, line)| {
                !line.leaving && (all || line.events.is_empty() || named.contains(*call))
            });
            let ours: Vec<String> = ours.map(|(call, _)| call.clone()).collect();
            let known = table.known(Some(&ours));
            (ours, known)
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
            let _ = settles.send(Job { settles: over, leaving: Vec::new(), answer });
        }
        for event in new {
            // A drain that is gone needs nothing.
            let _ = self.accepted.send(event).await;
        }
        self.bury(link, table, unreadable).await
    }

    /// Does what an operator, at whatever node, has ordered of these events.
    async fn heed(
        &self,
        link: &mut Link,
        table: &Mutex<Table>,
        known: Vec<String>,
    ) -> Result<(), OutboxError> {
        if known.is_empty() {
            return Ok(());
        }
        let standing = link.standing(&known).await?;
        let Heeded { held, released, gone } = lock(table).heed(&known, standing);
        let orders = [
            (!held.is_empty()).then_some(Order::Held(held, true)),
            (!released.is_empty()).then_some(Order::Held(released, false)),
            (!gone.is_empty()).then_some(Order::Removed(gone)),
        ];
        for order in orders.into_iter().flatten() {
            // A drain that is gone needs nothing.
            let _ = self.orders.send(order).await;
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::table::tests::newcall;
    use super::*;
    use crate::edge::source::Source;
    use crate::time::UnixMillis;

    #[tokio::test]
    async fn what_is_not_begun_after_all_leaves_no_mark_of_an_attempt() {
        const AT: UnixMillis = UnixMillis(7);
        let (share, seq, mut recorder) = share();
        let table = Arc::clone(&share.table);
        let source = Source::Shared(share);
        let begun = |guard| source.begin(seq, guard, Duration::from_secs(10));
        left(&table, 8);
        assert!(matches!(begun(Some(AT)).await, Err(Unrecorded::Lost)));
        assert!(recorder.try_recv().is_err(), "nothing was marked");
        left(&table, 12);
        begun(None).await.unwrap();
        assert!(recorder.try_recv().is_err());

        let recording = async {
            // The server takes long.
            let job = recorder.recv().await.unwrap();
            assert!(matches!(job.settles[..], [Settle::Attempt { seq: of, at: AT }] if of == seq));
            left(&table, 8);
            job.answer.send(Ok(())).unwrap();
            let taken_back = tokio::time::timeout(Duration::from_secs(5), recorder.recv());
            let job = taken_back.await.unwrap().unwrap();
            assert!(matches!(job.settles[..], [Settle::Unattempted { seq: of }] if of == seq));
            job.answer.send(Ok(())).unwrap();
        };
        let (outcome, ()) = tokio::join!(begun(Some(AT)), recording);
        assert!(matches!(outcome, Err(Unrecorded::Lost)));
    }

    #[test]
    fn a_request_is_begun_only_if_it_is_over_before_the_lease_is() {
        let (share, seq, _recorder) = share();
        let left = |seconds| left(&share.table, seconds);
        left(12);
        assert!(share.holds(seq, Duration::from_secs(10)));
        left(8);
        assert!(!share.holds(seq, Duration::from_secs(10)));
        // A request that may outlast every lease is begun with a fresh one.
        left(20);
        assert!(share.holds(seq, Duration::from_mins(5)));
        left(12);
        assert!(!share.holds(seq, Duration::from_mins(5)));
    }

    /// A share that has one event, its position, and what is to be recorded.
    fn share() -> (Share, Seq, mpsc::UnboundedReceiver<Job>) {
        let (settles, recorder) = mpsc::unbounded_channel();
        let share =
            Share { table: Arc::default(), room: Arc::default(), settles, lease: Duration::from_secs(30) };
        lock(&share.table).claim(&[Claimed { call_id: "c".into(), fence: 1 }]);
        let seq = lock(&share.table).take(vec![newcall()]).0[0].0;
        (share, seq, recorder)
    }

    /// So much of the lease is left.
    fn left(table: &Mutex<Table>, seconds: u64) {
        lock(table).until = Some(clock::monotonic() + Duration::from_secs(seconds));
    }
}
