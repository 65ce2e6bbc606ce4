//! Brings what is in this node's store into the shared outbox, in order. While the outbox is away the store keeps it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use super::accept::Accepted;
use super::clock;
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
    /// For status.
    pub state: watch::Sender<ShipperState>,
    /// Where it notes that it moves.
    pub beat: Beat,
}

impl Shipper {
    /// Runs until cancelled. What has not gone by then waits in the store.
    pub async fn run(self, stop: CancellationToken) {
        let Self { store, settings, mut accepted, state, beat } = self;
        let news = Arc::new(Notify::new());
        let heard = Arc::clone(&news);
        // Also while the outbox is away: nobody who accepts events waits for it.
        let _hearing = AbortOnDropHandle::new(tokio::spawn(async move {
            while accepted.recv().await.is_some() {
                heard.notify_one();
            }
        }));
        let mut link = Link::new(settings);
        let (mut failures, mut from) = (0, Seq(0));
        loop {
            beat.moved();
            let shipping = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                shipping = beat.through(ship(&store, &mut link, from)) => shipping,
            };
            let (pause, awake) = match shipping {
                Ok(Shipped { new, all, next }) => {
                    (failures, from) = (0, next);
                    took(&state, new, all);
                    (if all > 0 { Duration::ZERO } else { LOOK }, true)
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

struct Shipped {
    /// Events that were not there yet.
    new: u64,
    /// Events that are there now.
    all: u64,
    /// The first position that has not gone.
    next: Seq,
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The next events, from this position on. In the store they are over only when they are in the outbox.
async fn ship(store: &Store, link: &mut Link, from: Seq) -> Result<Shipped, Failed> {
    let reader = store.clone();
    let damaged = |seq: Seq, _: &StoreError| {
        warn!(name: "event_unshippable", seq = seq.0, "an event in the queue is damaged and cannot be shipped");
    };
    let read = tokio::task::spawn_blocking(move || reader.readable_from(from, BATCH, damaged)).await;
    // Older events that are still being taken in go before those that are accepted meanwhile.
    let Stretch { rows, next, more_to_come: _ } = read.unwrap_or(Err(StoreError::Closed))?;
    if rows.is_empty() {
        return Ok(Shipped { new: 0, all: 0, next });
    }
    let new = link.ship(&rows).await?;
    let at = clock::now();
    let over = |(seq, _): &(Seq, Pending)| Settle::Delivered { seq: *seq, at, note: Some(NOTE.to_owned()) };
    store.settle(rows.iter().map(over).collect()).await?;
    Ok(Shipped { new, all: rows.len() as u64, next })
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
