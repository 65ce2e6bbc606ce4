//! Events in, accepted events out: drives one [`Tracker`] per switch and commits what comes of it in groups.
//!
//! What the trackers say and what they remember is one transaction of the store: after a crash both are of the
//! same moment. A group is what has come in while the last one was being synced.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tracing::{debug, error, info, warn};

use super::accept::{Acceptor, Bound, Done, Sent};
use super::backfill::{self, Hearing};
use super::clock;
use super::listener::{Ask, DUMP, Heard, What, not_answered};
use super::ongoing::{self, Ongoing};
use super::pauses;
use super::pulse::Beat;
use super::stories::{self, Shelf};
use crate::call::tracker::{News, Output, Settings as Calls, Tracker};
use crate::cti::cause::Cause;
use crate::cti::event::{CallId, Direction, Event as Told, What as ToldWhat};
use crate::esl::command;
use crate::esl::event::{Event, Name};
use crate::store::state::{self, StateError};
use crate::store::{Accepting, Pending, STATE_MAX, StateChange, Store, StoreError};
use crate::time::UnixMillis;

/// Messages that may wait between the listeners and the intake.
pub const QUEUE: usize = 4096;
/// Most messages that go into one commit.
const GROUP: usize = 512;
/// Most legs that are asked for after a gap; more are left to their own events.
const LEGS_ASKED: usize = 2000;
/// Most events that wait until what was missed is known; some seconds of a large switch.
const HELD_MAX: usize = 10_000;

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
                    handle(&mut switches[at], &mut resyncs[at], message);
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

/// After a gap: which legs are in doubt, what the switch says of those it has, and what happened while it did. The
/// events wait until the legs are known: a phone's event before its caller is known would hide the call.
#[derive(Default)]
struct Resync {
    under_way: bool,
    doubted: HashSet<String>,
    /// In doubt, and not in the list.
    unlisted: HashSet<String>,
    found: Vec<(UnixMillis, Event)>,
    held: Vec<(UnixMillis, Event)>,
    refused: bool,
}

fn handle(switch: &mut Switch, resync: &mut Resync, heard: Heard) {
    switch.hearing.note(&heard);
    match heard.what {
        What::Event(event) => {
            resync.held.push((heard.at, event));
            if !resync.under_way || resync.held.len() >= HELD_MAX {
                resync.finish(switch);
            }
        }
        What::Listening => {
            resync.finish(switch);
            let doubted = switch.tracker.live_legs().map(str::to_owned).collect();
            *resync = Resync { under_way: true, doubted, ..Resync::default() };
        }
        What::Channels(body) => match listed_legs(&body) {
            Some(listed) => compare(switch, resync, listed, heard.at),
            None => {
                warn!(
                    name: "channels_unreadable",
                    switch = switch.name,
                    "the switch's list of channels cannot be read; calls that ended unheard stay open"
                );
                resync.finish(switch);
            }
        },
        What::Leg(event) => resync.found.push((heard.at, event)),
        What::Gone(leg) => resync.gone(&leg, &mut switch.tracker, heard.at),
        What::Refused { command, said } => {
            if !std::mem::replace(&mut resync.refused, true) {
                warn!(name: "question_refused", switch = switch.name, "{}", not_answered(command, &said));
            }
            if command != DUMP.trim_end() {
                // Without a list each leg can still be asked for by its name.
                let doubted = resync.doubted.drain().take(LEGS_ASKED).collect();
                let _ = switch.wanted.try_send(Ask::Legs(doubted));
            }
        }
        What::Synced => resync.finish(switch),
        // What was told of them meanwhile is perhaps not in the store yet.
        What::Missed(calls) => switch.missed.extend(
            calls
                .into_iter()
                .filter(|call| call.iter().all(|news| !switch.tracker.has_told(&news.event.call_id)))
                .flatten(),
        ),
    }
}

/// Asks for every leg that is listed or in doubt: the unheard ones, to learn of them; the known ones, because what
/// became of them meanwhile (answered, transferred, ended) was missed too. The list alone proves nothing: it lags by
/// up to 190 ms behind the legs, while the answer for a leg does not.
fn compare(switch: &mut Switch, resync: &mut Resync, listed: Vec<String>, at: UnixMillis) {
    let names: HashSet<&str> = listed.iter().map(String::as_str).collect();
    // Where no leg may be asked for, one that has stayed out of the list until it had caught up is gone.
    let unlisted: Vec<String> =
        resync.unlisted.drain().filter(|leg| resync.refused && !names.contains(leg.as_str())).collect();
    for leg in &unlisted {
        resync.gone(leg, &mut switch.tracker, at);
    }
    let (left, gone): (Vec<String>, Vec<String>) =
        resync.doubted.drain().partition(|leg| names.contains(leg.as_str()));
    let known: HashSet<&str> = switch.tracker.live_legs().collect();
    let mut asked: Vec<String> = listed.into_iter().filter(|leg| !known.contains(leg.as_str())).collect();
    let begun = asked.len();
    if !gone.is_empty() || begun > 0 {
        info!(name: "legs_changed", switch = switch.name, ended = gone.len(), begun, "legs that changed unheard");
    }
    asked.extend(left);
    // One whose name cannot be sent cannot be asked for either; then the list is all there is.
    let (gone, unnamed): (Vec<String>, Vec<String>) =
        gone.into_iter().partition(|leg| command::can_name(leg));
    for leg in &unnamed {
        resync.gone(leg, &mut switch.tracker, at);
    }
    resync.unlisted.extend(gone.iter().cloned());
    let room = LEGS_ASKED.saturating_sub(asked.len());
    for leg in gone.iter().skip(room) {
        resync.gone(leg, &mut switch.tracker, at);
    }
    asked.extend(gone.into_iter().take(room));
    asked.truncate(LEGS_ASKED);
    // Full only if the link is lost again, and then all this is asked anew.
    let _ = switch.wanted.try_send(Ask::Legs(asked));
}

impl Resync {
    /// The switch does not know this leg any more. If its end was heard after all, that says more.
    fn gone(&self, leg: &str, tracker: &mut Tracker, at: UnixMillis) {
        let is_its_end =
            |event: &Event| event.name() == Name::ChannelHangupComplete && event.is("Unique-ID", leg);
        if !self.held.iter().any(|(_, event)| is_its_end(event)) {
            tracker.vanished(leg, at);
        }
    }

    /// First every leg, then, when all are known, who is connected to whom, then what happened meanwhile.
    fn finish(&mut self, switch: &mut Switch) {
        self.under_way = false;
        if !self.found.is_empty() {
            // Who was heard from the beginning tells all of it, in order; what the switch says of it now would be ahead.
            let begun = self.held.iter().filter(|(_, event)| event.name() == Name::ChannelCreate);
            let begun: HashSet<_> = begun.filter_map(|(_, event)| event.get("Unique-ID")).collect();
            self.found.retain(|(_, leg)| leg.get("Unique-ID").is_none_or(|id| !begun.contains(&id)));
        }
        self.found.sort_by_key(|(_, event)| begun(event));
        for _ in 0..2 {
            for (at, event) in &self.found {
                switch.tracker.handle_event(event, *at);
            }
        }
        self.found.clear();
        switch.handled += self.held.len() as u64;
        for (at, event) in self.held.drain(..) {
            switch.tracker.handle_event(&event, at);
        }
    }
}

/// Legs of one call often have the very same time; then the one that was originated comes after its originator,
/// and otherwise the order stands in which the switch listed them.
fn begun(event: &Event) -> (u64, bool) {
    let created = event.get("Caller-Channel-Created-Time").and_then(|t| t.parse().ok());
    (created.unwrap_or_default(), event.is("Other-Type", "originator"))
}

/// The legs in an answer to `show channels as json`, in its order; an idle switch leaves `rows` out.
fn listed_legs(body: &[u8]) -> Option<Vec<String>> {
    let answer: Value = serde_json::from_str(&String::from_utf8_lossy(body)).ok()?;
    answer.get("row_count")?;
    let rows = answer.get("rows").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    Some(rows.iter().filter_map(|row| row.get("uuid")?.as_str().map(str::to_owned)).collect())
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
