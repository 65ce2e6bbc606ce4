//! What the trackers have said, on its way into the store: one transaction at a time, and the next one gathers
//! meanwhile. So the trackers follow the calls also while the disk is slow, full or read-only; what is not
//! accepted yet is in memory, counted and bounded.

use std::collections::BTreeMap;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle};
use tracing::warn;

use super::drain::Order;
use crate::config::WhenFull;
use crate::store::{Accepting, Pending, Seq, Settle, StateChange, Store, StoreError};

/// Most events that wait in memory for the disk, some 700 bytes each. A busy switch makes some ten in a second.
const UNACCEPTED_MAX: usize = 50_000;
/// Most old events that go at once.
const MAKE_ROOM: usize = 10_000;

/// How many events may wait, and which go when there are so many.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Over all Zammads.
    pub max_events: u64,
    /// What goes.
    pub when_full: WhenFull,
}

/// A drain, as the intake knows it.
#[derive(Clone)]
pub struct ToDrain {
    /// Its Zammad's configured name.
    pub zammad: String,
    /// Newly accepted events.
    pub accepted: mpsc::Sender<Accepted>,
    /// Orders.
    pub orders: mpsc::Sender<Order>,
}

/// An accepted event on its way to a drain.
pub type Accepted = (Seq, Pending);

/// Events that something other than a switch tells of, and who waits to hear that they are on disk.
pub struct Sent {
    /// In this order.
    pub events: Vec<Pending>,
    /// Hears their positions; of an event that was known, `None`. Dropped where the store failed.
    pub taken: oneshot::Sender<Result<Vec<Option<Seq>>, NoRoom>>,
}

/// The queue is full, or there is too much in memory that the disk does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue is full; try again when Zammad, or the disk, has taken some of it")]
pub struct NoRoom;

/// What became of one transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// Events accepted.
    pub(super) accepted: u64,
    /// Events that were known already.
    pub(super) repeated: u64,
    /// Events that went because the queue was full.
    pub(super) dropped: u64,
    /// What [`Acceptor::add`] was given with the last of them.
    pub(super) mark: u64,
}

/// Takes in what the trackers say, and hands it on once it is in the store.
pub struct Acceptor {
    store: Store,
    drains: Vec<ToDrain>,
    bound: Bound,
    next: Batch,
    under_way: Option<JoinHandle<Result<Done, StoreError>>>,
    /// Events of the transaction under way.
    in_flight: usize,
    /// Events that were given up since the disk refuses.
    lost: u64,
}

#[derive(Default)]
struct Batch {
    events: Vec<Pending>,
    /// The latest value of each key.
    state: BTreeMap<String, Option<Vec<u8>>>,
    mark: u64,
    /// Who waits for which of the events.
    waiting: Vec<Waiting>,
}

struct Waiting {
    first: usize,
    count: usize,
    taken: oneshot::Sender<Result<Vec<Option<Seq>>, NoRoom>>,
}

impl Acceptor {
    /// Nothing is under way yet.
    #[must_use]
    pub fn new(store: Store, drains: Vec<ToDrain>, bound: Bound) -> Self {
        Self { store, drains, bound, next: Batch::default(), under_way: None, in_flight: 0, lost: 0 }
    }

    /// Another bound from now on.
    pub(super) fn set_bound(&mut self, bound: Bound) {
        self.bound = bound;
    }

    /// Something to accept; `mark` comes back when it is. Returns how many events there was no room for.
    pub(super) fn add(&mut self, accepting: Accepting, mark: u64) -> u64 {
        let Accepting { mut events, state } = accepting;
        self.next.mark = mark;
        self.next.state.extend(state.into_iter().map(|change| (change.key, change.value)));
        let room = UNACCEPTED_MAX.saturating_sub(self.unaccepted());
        let lost = events.len().saturating_sub(room);
        events.truncate(room);
        self.next.events.append(&mut events);
        if lost > 0 && self.lost == 0 {
            warn!(name: "memory_full", max = UNACCEPTED_MAX, "the disk has refused for too long; events are lost from now on");
        }
        self.lost += lost as u64;
        self.begin();
        lost as u64
    }

    /// Events from elsewhere, with whatever goes into the next transaction.
    pub(super) fn add_sent(&mut self, Sent { mut events, taken }: Sent) {
        if self.unaccepted() + events.len() > UNACCEPTED_MAX {
            // Whoever asked has gone away, perhaps.
            let _ = taken.send(Err(NoRoom));
            return;
        }
        self.next.waiting.push(Waiting { first: self.next.events.len(), count: events.len(), taken });
        self.next.events.append(&mut events);
        self.begin();
    }

    /// Events that are not on disk yet.
    pub(super) fn unaccepted(&self) -> usize {
        self.in_flight + self.next.events.len()
    }

    /// Why the disk takes nothing now, if so.
    pub(super) fn refused(&self) -> Option<StoreError> {
        self.store.refused()
    }

    /// Whether everything is on disk.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_none()
    }

    /// Returns when a transaction is done; the next one has begun then. May be dropped.
    pub(super) async fn done(&mut self) -> Result<Done, StoreError> {
        let Some(under_way) = &mut self.under_way else { return std::future::pending().await };
        let done = under_way.await.unwrap_or_else(|why: JoinError| {
            tracing::error!(name: "transaction_lost", reason = %why, "a transaction was lost");
            Err(StoreError::Closed)
        });
        self.under_way = None;
        self.in_flight = 0;
        self.lost = 0;
        self.begin();
        done
    }

    fn begin(&mut self) {
        let empty = self.next.events.is_empty() && self.next.state.is_empty();
        if self.under_way.is_some() || (empty && self.next.mark == 0) {
            return;
        }
        let batch = std::mem::take(&mut self.next);
        self.in_flight = batch.events.len();
        let job = accept(self.store.clone(), self.drains.clone(), self.bound, batch);
        self.under_way = Some(tokio::spawn(job));
    }
}

async fn accept(store: Store, drains: Vec<ToDrain>, bound: Bound, batch: Batch) -> Result<Done, StoreError> {
    let Batch { events, state, mark, waiting } = batch;
    let state = state.into_iter().map(|(key, value)| StateChange { key, value }).collect();
    let mut accepting = Accepting { events, state };
    let mut done = Done { mark, ..Done::default() };
    done.dropped = make_room(&store, &mut accepting, &drains, bound).await?;
    if accepting.events.is_empty() {
        for Waiting { taken, .. } in waiting {
            // Whoever asked has gone away, perhaps.
            let _ = taken.send(Err(NoRoom));
        }
        if accepting.state.is_empty() {
            return Ok(done);
        }
        store.accept_in_place(accepting).await?;
        return Ok(done);
    }
    let events = accepting.events.clone();
    let seqs = store.accept_in_place(accepting).await?;
    for Waiting { first, count, taken } in waiting {
        let _ = taken.send(Ok(seqs[first..first + count].to_vec()));
    }
    for (seq, event) in seqs.into_iter().zip(events) {
        let Some(seq) = seq else {
            done.repeated += 1;
            continue;
        };
        done.accepted += 1;
        // A drain that is gone finds the event in the store when it is back.
        if let Some(drain) = drains.iter().find(|drain| drain.zammad == event.zammad) {
            let _ = drain.accepted.send((seq, event)).await;
        }
    }
    Ok(done)
}

/// Keeps the queue within its bound. How many events went.
///
/// The state of the calls is kept in any case: a call whose beginning was not taken in still ends, and Zammad is told
/// of it anew by the drain's self-heal.
async fn make_room(
    store: &Store,
    accepting: &mut Accepting,
    drains: &[ToDrain],
    bound: Bound,
) -> Result<u64, StoreError> {
    let new = accepting.events.len() as u64;
    let waiting = store.counts().pending;
    if new == 0 || waiting + new <= bound.max_events {
        return Ok(0);
    }
    match bound.when_full {
        WhenFull::DropNew => {
            accepting.events.clear();
            Ok(new)
        }
        WhenFull::DropOld => {
            // Some more than needed, so that not every event from now on does this again.
            let count = usize::try_from(new + bound.max_events / 100).unwrap_or(usize::MAX).min(MAKE_ROOM);
            let reader = store.clone();
            let oldest = tokio::task::spawn_blocking(move || oldest(&reader, count)).await;
            let seqs = oldest.unwrap_or(Err(StoreError::Closed))?;
            for drain in drains {
                // A drain that is stopping finds them gone at the next start.
                let _ = drain.orders.send(Order::Removed(seqs.clone())).await;
            }
            store.settle(seqs.iter().map(|seq| Settle::Removed { seq: *seq }).collect()).await?;
            Ok(seqs.len() as u64)
        }
    }
}

/// The oldest positions; a damaged row goes as any other. What is still to be taken in is older than what is accepted
/// now, so nothing behind it goes.
fn oldest(store: &Store, count: usize) -> Result<Vec<Seq>, StoreError> {
    let (mut seqs, mut from) = (Vec::new(), Seq(0));
    let end = store.first_missing();
    while seqs.len() < count {
        match store.pending_from(from, count - seqs.len()) {
            Ok(rows) if rows.is_empty() => break,
            Ok(rows) => seqs.extend(rows.into_iter().map(|(seq, _)| seq)),
            Err(why) => seqs.push(why.damaged_row().ok_or(why)?),
        }
        from = Seq(seqs.last().map_or(0, |last| last.0 + 1));
    }
    seqs.retain(|seq| end.is_none_or(|end| *seq < end));
    Ok(seqs)
}
