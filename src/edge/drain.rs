//! Posts to one Zammad: drives its [`Schedule`], sends what it says, tells it what came back.
//!
//! Requests, writes to the store and reads from it run side by side; the schedule alone knows their order.

use std::fmt;
use std::time::Duration;

use futures_util::FutureExt;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, warn};

use super::accept::Accepted;
use super::clock;
use super::mask;
use super::pauses;
use super::pulse::Beat;
use super::source::{Source, Unrecorded};
use crate::cti::client::Client;
use crate::cti::event::CallId;
use crate::cti::reply::{Done, Looked, Outcome};
use crate::queue::breaker::Link;
use crate::queue::line::Item;
use crate::queue::schedule::{Counters, Fate, Output, Schedule, Settings};
use crate::store::{Pending, Seq, Settle, Store, StoreError, Stretch};
use crate::time::UnixMillis;

/// Accepted events that may wait between the intake and a drain.
pub const QUEUE: usize = 1024;
/// Orders that may wait for a drain.
pub const ORDERS: usize = 16;
/// Most events whose fate is not recorded yet: so many are posted again after a crash. Posts do not run further ahead of
/// a slow disk, and memory stays bounded.
pub const UNRECORDED_MAX: usize = 1024;
/// How long a stopping drain waits for the requests that are on their way.
const FINISH_MAX: Duration = Duration::from_secs(15);

/// What an operator asks of a drain.
#[derive(Debug)]
pub enum Order {
    /// Stop posting, or go on.
    Pause(bool),
    /// Events that were put back into the queue.
    Revived(Vec<Accepted>),
    /// Events that were taken out of the store.
    Removed(Vec<Seq>),
    /// Events that are to wait, or to go on.
    Held(Vec<Seq>, bool),
    /// Go by other settings.
    Reload(Box<Reload>),
}

/// What a drain goes by from now on.
pub struct Reload {
    /// When what is posted.
    pub settings: Settings,
    /// How Zammad is reached; as before without one.
    pub client: Option<Client>,
}

impl fmt::Debug for Reload {
    /// Without the client, which holds the tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reload").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// What status shows of a Zammad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainState {
    /// Whether it can be reached.
    pub link: Link,
    /// Whether an operator stopped it.
    pub paused: bool,
    /// Requests on their way.
    pub in_flight: usize,
    /// Figures since the start.
    pub counters: Counters,
    /// When Zammad last took an event.
    pub last_delivery: Option<UnixMillis>,
}

/// One drain's parts.
pub struct Drain {
    /// By its configured name.
    pub name: String,
    /// Where the events are.
    pub source: Source,
    /// This node's own store: where it is noted that it is paused.
    pub store: Store,
    /// How Zammad is reached.
    pub client: Client,
    /// Newly accepted events.
    pub accepted: mpsc::Receiver<Accepted>,
    /// What operators ask.
    pub orders: mpsc::Receiver<Order>,
    /// Where to name live calls whose caller is on Zammad's block list, if those are to be ended.
    pub end_blocked: Option<mpsc::Sender<CallId>>,
    /// For status.
    pub state: watch::Sender<DrainState>,
    /// Where it notes that it moves.
    pub beat: Beat,
    /// How long each post took, in seconds.
    pub took: Histogram,
}

enum Woken {
    Accepted(Option<Accepted>),
    Order(Option<Order>),
    Finished(Option<Result<Finished, tokio::task::JoinError>>),
    Due,
    Tick,
    Stop,
}

/// A job that has come back.
enum Finished {
    Posted(u64, Outcome),
    Looked(u64, Looked),
    Probed(Outcome),
    Loaded(Result<(Vec<Item>, u64, bool), StoreError>),
    /// What became of so many events is recorded, or not.
    Settled(usize, Result<(), Unrecorded>),
    /// The attempt could not be recorded, so nothing was sent.
    NotGuarded(u64, StoreError),
    /// It is another node's to send, or may be, so nothing was sent.
    NotOurs(u64),
}

/// What is under way.
#[derive(Default)]
struct Jobs {
    set: JoinSet<Finished>,
    /// Events whose fate is being recorded.
    unrecorded: usize,
}

impl Jobs {
    /// Whether what comes next may be begun.
    const fn have_room(&self) -> bool {
        self.unrecorded < UNRECORDED_MAX
    }
}

impl Drain {
    /// Runs until cancelled; then no new request is begun and those on their way are waited for.
    pub async fn run(mut self, settings: Settings, stop: CancellationToken) {
        let mut schedule = Schedule::new(settings, fastrand::u64(..));
        match pauses::is_paused(&self.store, &self.name) {
            Ok(false) => {}
            Ok(true) => {
                warn!(name: "posting_still_paused", zammad = self.name, "paused by an operator: events wait until `resume`");
                schedule.set_paused(true);
            }
            Err(why) => {
                warn!(name: "pause_unreadable", zammad = self.name, reason = %why, "whether it is paused cannot be read; it is not")
            }
        }
        if matches!(self.source, Source::Shared(_)) {
            // There is nothing to be read: all of it is handed out.
            schedule.handle_loaded(Vec::new(), 0, true, clock::now());
        }
        let mut jobs = Jobs::default();
        let mut open = true;
        while open {
            self.beat.moved();
            self.act(&mut schedule, &mut jobs);
            let due = if jobs.have_room() { schedule.poll_timeout() } else { None };
            let woken = tokio::select! {
                biased;
                () = stop.cancelled() => Woken::Stop,
                finished = jobs.set.join_next(), if !jobs.set.is_empty() => Woken::Finished(finished),
                order = self.orders.recv() => Woken::Order(order),
                accepted = self.accepted.recv() => Woken::Accepted(accepted),
                () = clock::wait_until(due) => Woken::Due,
                () = self.beat.tick() => Woken::Tick,
            };
            let now = clock::now();
            match woken {
                Woken::Accepted(Some((seq, pending))) => schedule.handle_accepted(item(seq, pending), now),
                Woken::Order(Some(order)) => self.obey(&mut schedule, order, now),
                Woken::Finished(Some(Ok(finished))) => self.finished(&mut schedule, &mut jobs, finished, now),
                Woken::Finished(Some(Err(why))) => {
                    error!(name: "job_lost", zammad = self.name, reason = %why, "a job was lost")
                }
                Woken::Finished(None) | Woken::Due | Woken::Tick => {}
                Woken::Stop | Woken::Accepted(None) | Woken::Order(None) => open = false,
            }
        }
        self.finish(&mut schedule, &mut jobs).await;
    }

    fn obey(&mut self, schedule: &mut Schedule, order: Order, now: UnixMillis) {
        match order {
            Order::Pause(paused) => {
                info!(name: "pause_changed", zammad = self.name, paused, "an operator pauses posting, or lets it go on");
                schedule.set_paused(paused);
            }
            Order::Revived(events) => {
                for (seq, pending) in events {
                    schedule.handle_accepted(item(seq, pending), now);
                }
            }
            Order::Removed(seqs) => {
                for seq in seqs {
                    schedule.handle_removed(seq.0, now);
                }
            }
            Order::Held(seqs, held) => {
                for seq in seqs {
                    schedule.handle_held(seq.0, held, now);
                }
            }
            Order::Reload(new) => {
                // Requests on their way keep the client that they have.
                schedule.set(new.settings, new.client.is_some(), now);
                if let Some(client) = new.client {
                    self.client = client;
                }
            }
        }
    }

    fn act(&self, schedule: &mut Schedule, jobs: &mut Jobs) {
        let mut settles = Vec::new();
        let now = clock::now();
        while jobs.have_room()
            && let Some(output) = schedule.poll_output(now)
        {
            self.perform(output, &mut settles, &mut jobs.set, now);
        }
        let mut leaving = Vec::new();
        // With room all that was to be said of them is among the settles.
        if self.source.yields(*schedule.link() == Link::Up && !schedule.is_paused()) && jobs.have_room() {
            for (seq, unsure) in schedule.give_back() {
                leaving.push(Seq(seq));
                if unsure {
                    settles.push(Settle::Attempt { seq: Seq(seq), at: now });
                }
            }
        }
        self.write(settles, jobs);
        self.source.give_back(&leaving);
        self.state.send_if_modified(|state| {
            let last_delivery = if state.counters.delivered == schedule.counters().delivered {
                state.last_delivery
            } else {
                Some(now)
            };
            let next = DrainState {
                link: schedule.link().clone(),
                paused: schedule.is_paused(),
                in_flight: schedule.in_flight(),
                counters: schedule.counters(),
                last_delivery,
            };
            let changed = *state != next;
            *state = next;
            changed
        });
    }

    fn perform(
        &self,
        output: Output,
        settles: &mut Vec<Settle>,
        jobs: &mut JoinSet<Finished>,
        now: UnixMillis,
    ) {
        match output {
            Output::Post { seq, call_id, body, guarded } => {
                let (client, source, took) = (self.client.clone(), self.source.clone(), self.took.clone());
                if guarded {
                    // What is begun anew here must not be taken back there.
                    settles
                        .retain(|s| !matches!(s, Settle::Unattempted { seq: Seq(taken) } if *taken == seq));
                }
                let span = self.span(&call_id);
                let job = async move {
                    match source.begin(Seq(seq), guarded.then_some(now), client.timeout()).await {
                        Ok(()) => {}
                        Err(Unrecorded::Store(why)) => return Finished::NotGuarded(seq, why),
                        Err(Unrecorded::Lost) => return Finished::NotOurs(seq),
                    }
                    let begun = clock::monotonic();
                    let outcome = client.post(body).await;
                    took.observe(clock::monotonic().saturating_duration_since(begun).as_secs_f64());
                    Finished::Posted(seq, outcome)
                };
                jobs.spawn(job.instrument(span));
            }
            Output::Look { seq, call_id } => {
                let (client, span) = (self.client.clone(), self.span(&call_id));
                let job = async move { Finished::Looked(seq, client.look(call_id.as_str()).await) };
                jobs.spawn(job.instrument(span));
            }
            Output::Blocked { call_id } => {
                if let Some(end) = &self.end_blocked {
                    // Full or closed means that there is too much to do: then the call goes on, as it would without us.
                    let _ = end.try_send(call_id);
                }
            }
            Output::Missing { seq } => settles.push(Settle::Missing { seq: Seq(seq) }),
            Output::Probe => {
                let client = self.client.clone();
                jobs.spawn(async move { Finished::Probed(client.probe().await) });
            }
            Output::Settle { seq, call_id, fate } => {
                let settle = self.span(&call_id).in_scope(|| self.settle(Seq(seq), fate, now));
                settles.push(settle);
            }
            Output::Unguard { seq } => settles.push(Settle::Unattempted { seq: Seq(seq) }),
            Output::Load { from, limit } => {
                let (source, name) = (self.source.clone(), self.name.clone());
                jobs.spawn(async move {
                    let read = tokio::task::spawn_blocking(move || load(&source, &name, from, limit)).await;
                    Finished::Loaded(read.unwrap_or(Err(StoreError::Closed)))
                });
            }
            Output::Link(Link::Up) => info!(name: "zammad_up", zammad = self.name, "Zammad answers"),
            Output::Link(Link::Away { why, .. }) => {
                warn!(name: "zammad_away", zammad = self.name, reason = why, "Zammad is away; events wait");
            }
            Output::Link(Link::Misconfigured { why, .. }) => {
                error!(
                    name: "zammad_misconfigured",
                    zammad = self.name,
                    reason = why,
                    "Zammad takes no events until this is mended; they wait"
                );
            }
        }
    }

    /// Around all that is said of a call.
    fn span(&self, call: &CallId) -> tracing::Span {
        // An id that an application chose may have a number in it.
        tracing::error_span!("call", zammad = self.name, call = mask::numbers(call.as_str()))
    }

    fn settle(&self, seq: Seq, fate: Fate, at: UnixMillis) -> Settle {
        match fate {
            Fate::Delivered(done) => {
                let note = match done {
                    Done::Accepted => None,
                    Done::AlreadyKnown => Some("Zammad knew the call already".to_owned()),
                    Done::Rejected { reason } => {
                        info!(name: "caller_blocked", seq = seq.0, "the caller is on Zammad's block list");
                        Some(format!("on Zammad's block list ({reason})"))
                    }
                    Done::Dial { .. } => Some("Zammad's routing table names a caller id".to_owned()),
                };
                debug!(name: "event_delivered", seq = seq.0, "delivered");
                Settle::Delivered { seq, at, note }
            }
            Fate::LeftAlone => Settle::Delivered {
                seq,
                at,
                note: Some("not sent again: Zammad still has the call".to_owned()),
            },
            Fate::Dropped(why) => {
                warn!(name: "event_dropped", seq = seq.0, reason = why, "an event is not told");
                Settle::Delivered { seq, at, note: Some(format!("not sent: {why}")) }
            }
            Fate::Ambiguous(why) => {
                warn!(
                    name: "hangup_ambiguous",
                    seq = seq.0,
                    reason = why,
                    "a missed call's hangup may or may not have arrived; repeating it could take the missed mark back, so it is left"
                );
                Settle::Delivered { seq, at, note: Some(format!("may not have arrived: {why}")) }
            }
            Fate::Dead(story) => {
                let reason = story.lines().last().unwrap_or_default();
                error!(
                    name: "event_dead",
                    seq = seq.0,
                    reason,
                    "an event will not be accepted; kept as a dead letter"
                );
                Settle::Dead { seq, at, story }
            }
        }
    }

    fn write(&self, settles: Vec<Settle>, jobs: &mut Jobs) {
        if !settles.is_empty() {
            let events = settles.len();
            jobs.unrecorded += events;
            let recorded = self.source.settle(settles);
            let mut writing = Box::pin(async move { Finished::Settled(events, recorded.await) });
            // Begun here and now, so that the store hears of everything in this order.
            let done = writing.as_mut().now_or_never();
            jobs.set.spawn(async move {
                match done {
                    Some(done) => done,
                    None => writing.await,
                }
            });
        }
    }

    fn finished(&self, schedule: &mut Schedule, jobs: &mut Jobs, finished: Finished, now: UnixMillis) {
        match finished {
            Finished::Posted(seq, outcome) => schedule.handle_outcome(seq, &outcome, now),
            Finished::Looked(seq, looked) => schedule.handle_looked(seq, looked, now),
            Finished::Probed(outcome) => schedule.handle_probe(&outcome, now),
            Finished::Loaded(Ok((items, next, at_end))) => schedule.handle_loaded(items, next, at_end, now),
            Finished::Loaded(Err(why)) => {
                error!(name: "queue_unreadable", zammad = self.name, reason = %why, "the queue cannot be read");
                schedule.handle_unreadable(now);
            }
            Finished::Settled(events, recorded) => {
                jobs.unrecorded -= events;
                if let Err(why) = recorded {
                    error!(name: "delivery_unrecorded", zammad = self.name, reason = %why, "a delivery could not be recorded; it may be repeated");
                }
            }
            Finished::NotOurs(seq) => {
                schedule.handle_not_ours(seq, now);
                // None of the call's later events may go before it when it comes back.
                for seq in self.source.let_go(Seq(seq)) {
                    schedule.handle_removed(seq.0, now);
                }
            }
            Finished::NotGuarded(seq, why) => {
                error!(name: "attempt_unrecorded", zammad = self.name, reason = %why, "an attempt could not be recorded, so it was not made");
                let outcome = Outcome::NotSent(format!("the attempt could not be recorded: {why}"));
                schedule.handle_outcome(seq, &outcome, now);
            }
        }
    }

    /// Waits for what is on its way, and records it.
    async fn finish(&self, schedule: &mut Schedule, jobs: &mut Jobs) {
        schedule.set_paused(true);
        let all = async {
            while let Some(finished) = jobs.set.join_next().await {
                if let Ok(finished) = finished {
                    self.finished(schedule, jobs, finished, clock::now());
                }
                self.act(schedule, jobs);
            }
        };
        if tokio::time::timeout(FINISH_MAX, self.beat.through(all)).await.is_err() {
            warn!(name: "requests_abandoned", zammad = self.name, "requests were still on their way; what came of them is unknown");
        }
    }
}

/// Reads a stretch of the queue; events of other Zammads are passed over, and so is a row that is damaged.
fn load(
    source: &Source,
    zammad: &str,
    from: u64,
    limit: usize,
) -> Result<(Vec<Item>, u64, bool), StoreError> {
    let damaged = |seq: Seq, why: &StoreError| {
        error!(name: "event_damaged", seq = seq.0, reason = %why, "an event in the queue is damaged and cannot be delivered");
    };
    let (mut items, mut next) = (Vec::new(), Seq(from));
    while items.len() < limit {
        let Stretch { rows, next: behind, more_to_come } =
            source.readable_from(next, limit - items.len(), damaged)?;
        next = behind;
        if rows.is_empty() {
            return Ok((items, next.0, !more_to_come));
        }
        items.extend(rows.into_iter().filter(|(_, p)| p.zammad == zammad).map(|(seq, p)| item(seq, p)));
    }
    Ok((items, next.0, false))
}

fn item(seq: Seq, pending: Pending) -> Item {
    Item {
        seq: seq.0,
        event: pending.event,
        happened: pending.happened,
        answered: pending.answered,
        attempted: pending.attempt.is_some(),
        held: pending.held,
        restored: pending.restored,
    }
}
