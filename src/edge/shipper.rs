//! Brings what is in this node's store into the shared outbox, in order, but for endings [in doubt](super::doubts). While the
//! outbox is away the store keeps it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use super::accept::Accepted;
use super::clock;
use super::doubts::Doubts;
use super::drain::Order;
use super::pulse::Beat;
use crate::outbox::{Link, OutboxError, Settings};
use crate::queue::backoff::Backoff;
use crate::store::{Pending, Seq, Settle, Store, StoreError, Stretch};
use crate::time::UnixMillis;

/// Most events that go at once.
const BATCH: usize = 500;
/// How often the store is looked into without having said anything.
const LOOK: Duration = Duration::from_secs(1);
/// Waits after the outbox failed.
const AGAIN: Backoff = Backoff { min: Duration::from_millis(500), max: Duration::from_secs(10) };
/// What an event's row in this store is noted with.
pub const NOTE: &str = "in the outbox";

/// What status shows of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShipperState {
    /// Whether the outbox takes events; if not, why.
    pub away: Option<String>,
    /// Events brought in since the start.
    pub shipped: u64,
    /// Events that were there already.
    pub known: u64,
    /// When it last took any.
    pub last: Option<UnixMillis>,
}

/// One node's shipper.
pub struct Shipper {
    /// Where the events are.
    pub store: Store,
    /// How the outbox is reached.
    pub settings: Arc<Settings>,
    /// Word of newly accepted events.
    pub accepted: mpsc::Receiver<Accepted>,
    /// Endings that wait for other nodes' accounts of them.
    pub doubts: Doubts,
    /// For status.
    pub state: watch::Sender<ShipperState>,
    /// Where it notes that it moves.
    pub beat: Beat,
}

impl Shipper {
    /// Runs until cancelled. What has not gone by then waits in the store.
    pub async fn run(self, stop: CancellationToken) {
        let Self { store, settings, mut accepted, doubts, state, beat } = self;
        let news = Arc::new(Notify::new());
        let heard = Arc::clone(&news);
        // Also while the outbox is away: nobody who accepts events waits for it.
        let _hearing = AbortOnDropHandle::new(tokio::spawn(async move {
            while accepted.recv().await.is_some() {
                heard.notify_one();
            }
        }));
        let mut link = Link::new(settings);
        let (mut failures, mut place) = (0, Place { from: Seq(0), waiting: None });
        loop {
            beat.moved();
            let shipping = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                shipping = beat.through(ship(&store, &mut link, &doubts, &mut place)) => shipping,
            };
            let (pause, awake) = match shipping {
                Ok(Shipped { new, all, read }) => {
                    failures = 0;
                    took(&state, new, all);
                    (if read > 0 { Duration::ZERO } else { LOOK }, true)
                }
                Err(why) => {
                    failed(&state, &why);
                    failures += 1;
                    (AGAIN.wait(failures, fastrand::f64()), false)
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = news.notified(), if awake => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

fn took(state: &watch::Sender<ShipperState>, new: u64, all: u64) {
    let back = state.borrow().away.is_some();
    if back {
        info!(name: "outbox_takes_again", "the outbox takes events again");
    }
    if all > 0 || back {
        state.send_modify(|state| {
            state.away = None;
            state.shipped += new;
            state.known += all - new;
            state.last = if all > 0 { Some(clock::now()) } else { state.last };
        });
    }
}

fn failed(state: &watch::Sender<ShipperState>, why: &Failed) {
    let why = why.to_string();
    if state.borrow().away.is_none() {
        error!(name: "outbox_takes_nothing", reason = why, "the outbox takes no events; they wait in this node's store");
    }
    state.send_if_modified(|state| {
        let news = state.away.as_ref() != Some(&why);
        state.away = Some(why);
        news
    });
}

/// Where it is in the store.
struct Place {
    /// The first position that has not been read, or has not gone.
    from: Seq,
    /// Behind it something waits: until when the first does, and the first position of any.
    waiting: Option<(Instant, Seq)>,
}

impl Place {
    /// What has waited long enough is read again, and all behind it.
    fn look_back(&mut self, now: Instant) {
        if let Some((_, seq)) = self.waiting.take_if(|(until, _)| *until <= now) {
            self.from = self.from.min(seq);
        }
    }

    fn leave(&mut self, seq: Seq, until: Instant) {
        let (first, from) = self.waiting.unwrap_or((until, seq));
        self.waiting = Some((first.min(until), from.min(seq)));
    }
}

struct Shipped {
    /// Events that were not there yet.
    new: u64,
    /// Events that are there now.
    all: u64,
    /// Events that were read, those that wait included.
    read: usize,
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The next events, but those in doubt. In the store they are over only when they are in the outbox.
async fn ship(store: &Store, link: &mut Link, doubts: &Doubts, place: &mut Place) -> Result<Shipped, Failed> {
    doubts.expire();
    place.look_back(clock::monotonic());
    let (reader, from) = (store.clone(), place.from);
    let damaged = |seq: Seq, _: &StoreError| {
        warn!(name: "event_unshippable", seq = seq.0, "an event in the queue is damaged and cannot be shipped");
    };
    let reading = tokio::task::spawn_blocking(move || reader.readable_from(from, BATCH, damaged)).await;
    // Older events that are still being taken in go before those that are accepted meanwhile.
    let Stretch { mut rows, next, more_to_come: _ } = reading.unwrap_or(Err(StoreError::Closed))?;
    let read = rows.len();
    rows.retain(|(seq, event)| {
        let until = doubts.until(&event.id);
        until.inspect(|until| place.leave(*seq, *until)).is_none()
    });
    if rows.is_empty() {
        place.from = next;
        return Ok(Shipped { new: 0, all: 0, read });
    }
    let new = link.ship(&rows).await?;
    let at = clock::now();
    let over = |(seq, _): &(Seq, Pending)| Settle::Delivered { seq: *seq, at, note: Some(NOTE.to_owned()) };
    store.settle(rows.iter().map(over).collect()).await?;
    place.from = next;
    Ok(Shipped { new, all: rows.len() as u64, read })
}

/// Orders about rows of the store mean nothing to a drain of the shared outbox, whose positions are its own; those about
/// the drain itself are passed on. Runs until cancelled, or until the drain is gone.
pub async fn pass_on(mut orders: mpsc::Receiver<Order>, drain: mpsc::Sender<Order>, stop: CancellationToken) {
    while let Some(Some(order)) = stop.run_until_cancelled(orders.recv()).await {
        match order {
            Order::Pause(_) | Order::Reload(_) => {
                if drain.send(order).await.is_err() {
                    return;
                }
            }
            Order::Revived(_) | Order::Removed(_) | Order::Held(..) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_come_back_to_when_the_first_has_waited() {
        let now = clock::monotonic();
        let s = Duration::from_secs;
        let mut place = Place { from: Seq(90), waiting: None };
        place.look_back(now);
        for (seq, wait) in [(20, 15), (40, 9), (10, 18)] {
            place.leave(Seq(seq), now + s(wait));
        }
        place.look_back(now + s(8));
        assert_eq!(place.from, Seq(90));
        place.look_back(now + s(9));
        assert_eq!((place.from, place.waiting), (Seq(10), None));
        // The outbox took nothing: nothing is passed over.
        place.leave(Seq(20), now + s(15));
        place.look_back(now + s(15));
        assert_eq!(place.from, Seq(10));
    }
}
