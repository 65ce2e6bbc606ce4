//! Events in, accepted events out: drives one [`Tracker`] per switch and commits what comes of it in groups.
//!
//! What the trackers say and what they remember is one transaction of the store: after a crash both are of the
//! same moment. A group is what has come in while the last one was being synced.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tracing::{debug, error, warn};

use super::accept::{Acceptor, Bound, Done, Sent};
use super::backfill::{self, Hearing};
use super::clock;
use super::doubts::Doubts;
use super::listener::{Ask, Heard};
use super::ongoing::{self, Ongoing};
use super::pauses;
use super::pulse::Beat;
use super::resync::{self, Resync};
use super::stories::{self, Shelf};
use crate::call::tracker::{News, Output, Settings as Calls, Tracker};
use crate::cti::cause::Cause;
use crate::cti::event::{CallId, Direction, Event as Told, What as ToldWhat};
use crate::store::state::{self, StateError};
use crate::store::{Accepting, Pending, STATE_MAX, StateChange, Store, StoreError};

/// Messages that may wait between the listeners and the intake.
pub const QUEUE: usize = 4096;
/// Most messages that go into one commit.
const GROUP: usize = 512;

/// One switch, as the intake knows it.
pub struct Switch {
    /// By its configured name.
    pub name: String,
    /// The Zammad its calls go to unless a route names another.
    pub zammad: String,
    /// Its calls.
    pub tracker: Tracker,
    /// Events that its tracker has been given.
    pub handled: u64,
    /// Where to ask for legs.
    pub wanted: mpsc::Sender<Ask>,
    /// When it was heard, for a backfill.
    pub hearing: Hearing,
    /// What a backfill found, to be accepted with the next commit.
    pub missed: Vec<News>,
    /// Where its calls are shown while they go on.
    pub ongoing: Ongoing,
    /// Where endings are noted that others may know better, if there are others.
    pub doubts: Option<Doubts>,
}

/// What status shows of the calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Calls going on.
    pub calls: usize,
    /// Legs remembered.
    pub legs: usize,
    /// Events of the switches whose consequences are on disk.
    pub handled: u64,
    /// Events accepted since the start.
    pub accepted: u64,
    /// Events that had been accepted before and were not queued again.
    pub repeated: u64,
    /// Events that went because the queue was full, or the disk refused for too long.
    pub dropped: u64,
    /// Events that are in memory only, because the disk is slow or refuses.
    pub unaccepted: usize,
    /// Calls that ended since the start, by direction (in, out) and cause: [`Cause::ALL`] has the order.
    pub ended: [[u64; Cause::ALL.len()]; 2],
}

/// What the calls are told by; a reload may change it.
#[derive(Clone)]
pub struct Rules {
    /// How the calls of each switch are told, and the Zammad that they go to unless a route names another; in the
    /// switches' order.
    pub switches: Vec<(Arc<Calls>, String)>,
    /// How many events may wait.
    pub bound: Bound,
    /// FreeSWITCH's cause to end live calls with whose caller is on Zammad's block list; `None` lets them go on.
    pub end_blocked_with: Option<&'static str>,
}

/// What others tell the intake.
pub struct Orders {
    /// Live calls of callers on Zammad's block list.
    pub blocked: mpsc::Receiver<CallId>,
    /// What the calls are told by.
    pub rules: watch::Receiver<Arc<Rules>>,
    /// Events of calls that are on none of the switches.
    pub sent: mpsc::Receiver<Sent>,
}

/// Where the intake leaves its figures.
pub type Board = Arc<Mutex<Figures>>;

/// Puts the trackers back where they were when the store was last written.
///
/// # Errors
/// [`StoreError`] if the store cannot be read. State that is damaged is left out and said so: the resync finds
/// what is really there.
pub fn restore(store: &Store, switches: &mut [Switch], shelf: &Shelf) -> Result<(), StoreError> {
    let by_name: HashMap<String, usize> =
        switches.iter().enumerate().map(|(at, s)| (s.name.clone(), at)).collect();
    for (key, value) in store.state()? {
        if let Some(call) = stories::call_of(&key) {
            stories::lock(shelf).found(call);
            continue;
        }
        if backfill::is_mark(&key) || pauses::is_mark(&key) {
            continue;
        }
        let family = state::decode(&key, &value);
        match family.map(|(switch, family)| (by_name.get(&switch).copied(), family)) {
            Ok((Some(at), (key, legs, calls))) => {
                ongoing::lock(&switches[at].ongoing).restored(&switches[at].name, &legs, &calls);
                switches[at].tracker.restore(key, legs, calls);
            }
            Ok((None, _)) => {
                warn!(name: "calls_of_unknown_switch", key, "the store remembers calls of a switch that is not configured any more")
            }
            Err(StateError(why)) => {
                warn!(name: "calls_unreadable", key, reason = why, "remembered calls cannot be read and are left out")
            }
        }
    }
    Ok(())
}

/// Runs until every listener is gone, or the store fails.
///
/// # Errors
/// The store failed: it must be opened anew.
pub async fn run(
    mut acceptor: Acceptor,
    mut switches: Vec<Switch>,
    mut heard: mpsc::Receiver<Heard>,
    orders: Orders,
    board: Board,
    shelf: Shelf,
    beat: Beat,
) -> Result<(), StoreError> {
    let Orders { mut blocked, mut rules, mut sent } = orders;
    let mut resyncs: Vec<Resync> = switches.iter().map(|_| Resync::default()).collect();
    let mut group = Vec::with_capacity(GROUP);
    loop {
        beat.moved();
        let due = switches.iter().filter_map(|s| s.tracker.poll_timeout()).min();
        let woken = tokio::select! {
            biased;
            done = acceptor.done() => Woken::Accepted(done),
            count = heard.recv_many(&mut group, GROUP) => Woken::Heard(count),
            Some(call) = blocked.recv() => Woken::Blocked(call),
            Some(sent) = sent.recv() => Woken::Sent(sent),
            () = clock::wait_until(due) => Woken::Due,
            () = beat.tick() => Woken::Tick,
        };
        match woken {
            Woken::Accepted(done) => note(&board, &acceptor, done?),
            Woken::Tick => {}
            Woken::Sent(sent) => {
                if rules.has_changed().unwrap_or_default() {
                    go_by(&rules.borrow_and_update(), &mut switches, &mut acceptor);
                }
                acceptor.add_sent(sent);
            }
            Woken::Blocked(call) => {
                let cause = rules.borrow().end_blocked_with;
                if let Some(cause) = cause {
                    end_call(&switches, &call, cause);
                }
            }
            Woken::Heard(0) => {
                for (switch, resync) in switches.iter_mut().zip(&mut resyncs) {
                    resync.finish(switch);
                }
                take_in(&mut switches, &mut acceptor, &board, &shelf);
                // What is waited for now is the disk.
                drop(beat);
                return finish(&mut acceptor, &board).await;
            }
            Woken::Heard(_) | Woken::Due => {
                if rules.has_changed().unwrap_or_default() {
                    go_by(&rules.borrow_and_update(), &mut switches, &mut acceptor);
                }
                let now = clock::now();
                for switch in &mut switches {
                    switch.tracker.handle_timeout(now);
                }
                for message in group.drain(..) {
                    let at = message.switch;
                    resync::handle(&mut switches[at], &mut resyncs[at], message);
                }
                take_in(&mut switches, &mut acceptor, &board, &shelf);
            }
        }
        if acceptor.is_idle() {
            for (switch, resync) in switches.iter_mut().zip(&resyncs) {
                switch.hearing.on_disk(resync.under_way);
            }
        }
    }
}

/// What begins from now on goes by other rules; calls that are going on keep their numbers, their side and their Zammad.
fn go_by(rules: &Rules, switches: &mut [Switch], acceptor: &mut Acceptor) {
    for (switch, (calls, zammad)) in switches.iter_mut().zip(&rules.switches) {
        switch.tracker.set(Arc::clone(calls));
        switch.zammad.clone_from(zammad);
    }
    acceptor.set_bound(rules.bound);
}

/// The leg is asked for by the name that it has now: the call keeps the one that it began with.
fn end_call(switches: &[Switch], call: &CallId, cause: &'static str) {
    for switch in switches {
        if let Some(leg) = switch.tracker.party_of(call) {
            // Full or closed means that the link is being set up: then the call goes on, as it would without us.
            let _ = switch.wanted.try_send(Ask::End { leg: leg.to_owned(), cause });
        }
    }
}

/// Waits for what is not on disk yet; a disk that refuses is not waited for.
async fn finish(acceptor: &mut Acceptor, board: &Board) -> Result<(), StoreError> {
    const LOOK: Duration = Duration::from_millis(100);
    while !acceptor.is_idle() {
        let done = tokio::time::timeout(LOOK, acceptor.done()).await;
        match done {
            Ok(done) => note(board, acceptor, done?),
            Err(_) => {
                if let Some(why) = acceptor.refused() {
                    let events = acceptor.unaccepted();
                    error!(name: "stopped_with_loss", reason = %why, events, "stopped while the disk refuses: events are lost");
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

enum Woken {
    Accepted(Result<Done, StoreError>),
    Heard(usize),
    Blocked(CallId),
    Sent(Sent),
    Due,
    Tick,
}

/// Takes what the trackers have said to the store.
fn take_in(switches: &mut [Switch], acceptor: &mut Acceptor, board: &Board, shelf: &Shelf) {
    let mut accepting = Accepting::default();
    let mut ended = [[0; Cause::ALL.len()]; 2];
    for (at, switch) in switches.iter_mut().enumerate() {
        while let Some(output) = switch.tracker.poll_output() {
            match output {
                Output::News(news) => {
                    let event = &news.event;
                    debug!(
                        name: "event_told",
                        switch = switch.name,
                        call = event.call_id.as_str(),
                        what = event.what.name(),
                        "Zammad is to be told"
                    );
                    let kept = stories::lock(shelf).told(at, news.family, &event.call_id, &event.what);
                    accepting.state.extend(kept);
                    count_end(&mut ended, event);
                    note_doubt(switch.doubts.as_ref(), &news);
                    ongoing::lock(&switch.ongoing).told(&switch.name, event, news.at);
                    accepting.events.push(pending(switch, news));
                }
                Output::UnknownCause(cause) => {
                    warn!(
                        name: "cause_unknown",
                        switch = switch.name,
                        cause, "a leg ended with a cause that FreeSWITCH does not have; [causes] can name it"
                    );
                }
                Output::Note { leg, text } => {
                    if let Some(family) = switch.tracker.family_of(&leg) {
                        stories::lock(shelf).note(at, family, format!("{} {leg} {text}", clock::now()));
                    }
                }
            }
        }
        let missed = std::mem::take(&mut switch.missed);
        missed.iter().for_each(|news| count_end(&mut ended, &news.event));
        accepting.events.extend(missed.into_iter().map(|news| pending(switch, news)));
        while let Some((family, value)) = switch.tracker.poll_changed() {
            if value.is_none() {
                stories::lock(shelf).forget(at, family);
            }
            let key = state::key(&switch.name, family);
            let value = value.map(|(legs, calls)| state::encode(&legs, &calls));
            accepting.state.push(StateChange { key, value: value.filter(|v| is_storable(v)) });
        }
    }
    let handled = switches.iter().map(|s| s.handled).sum();
    let lost = acceptor.add(accepting, handled);
    let mut figures = board.lock().unwrap_or_else(PoisonError::into_inner);
    figures.calls = switches.iter().map(|s| s.tracker.open_calls()).sum();
    figures.legs = switches.iter().map(|s| s.tracker.legs()).sum();
    figures.dropped += lost;
    figures.unaccepted = acceptor.unaccepted();
    for (all, new) in figures.ended.iter_mut().flatten().zip(ended.iter().flatten()) {
        *all += new;
    }
}

fn count_end(ended: &mut [[u64; Cause::ALL.len()]; 2], event: &Told) {
    if let ToldWhat::Hangup { cause } = event.what {
        let direction = match event.direction {
            Direction::In => 0,
            Direction::Out => 1,
        };
        ended[direction][cause as usize] += 1;
    }
}

/// An ending of which another node may know more goes into the shared outbox later, if there is one.
fn note_doubt(doubts: Option<&Doubts>, news: &News) {
    if let (Some(doubts), ToldWhat::Hangup { .. }) = (doubts, &news.event.what)
        && news.in_doubt
    {
        doubts.note(&news.id);
    }
}

/// A transaction is done.
fn note(board: &Board, acceptor: &Acceptor, done: Done) {
    let mut figures = board.lock().unwrap_or_else(PoisonError::into_inner);
    if done.dropped > 0 && figures.dropped == 0 {
        warn!(name: "queue_full", "the queue is full; events are lost from now on");
    }
    figures.handled = figures.handled.max(done.mark);
    figures.accepted += done.accepted;
    figures.repeated += done.repeated;
    figures.dropped += done.dropped;
    figures.unaccepted = acceptor.unaccepted();
}

/// A family with some thousand legs is forgotten rather than in the way of everything else.
fn is_storable(value: &[u8]) -> bool {
    let fits = value.len() <= STATE_MAX;
    if !fits {
        error!(name: "call_too_large", bytes = value.len(), "a call has too many legs to be remembered over a restart");
    }
    fits
}

fn pending(switch: &Switch, news: News) -> Pending {
    Pending {
        id: news.id,
        zammad: news.zammad.unwrap_or_else(|| switch.zammad.clone()),
        switch: switch.name.clone(),
        event: news.event,
        happened: news.at,
        answered: news.answered,
        attempt: None,
        held: false,
        restored: false,
    }
}
