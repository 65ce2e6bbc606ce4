//! What is asked of a switch after a gap, and what its answers make of the calls.

use std::collections::HashSet;

use serde_json::Value;
use tracing::{info, warn};

use super::intake::Switch;
use super::listener::{Ask, DUMP, Heard, What, not_answered};
use crate::call::tracker::Tracker;
use crate::esl::command;
use crate::esl::event::{Event, Name};
use crate::time::UnixMillis;

/// Most legs that are asked for after a gap; more are left to their own events.
const LEGS_ASKED: usize = 2000;
/// Most events that wait until what was missed is known; some seconds of a large switch.
const HELD_MAX: usize = 10_000;

/// After a gap: which legs are in doubt, what the switch says of those it has, and what happened while it did. The
/// events wait until the legs are known: a phone's event before its caller is known would hide the call.
#[derive(Default)]
pub(super) struct Resync {
    /// The switch has not answered all yet.
    pub(super) under_way: bool,
    doubted: HashSet<String>,
    /// In doubt, and not in the list.
    unlisted: HashSet<String>,
    found: Vec<(UnixMillis, Event)>,
    held: Vec<(UnixMillis, Event)>,
    refused: bool,
}

/// Takes in what a listener, or a backfill, has to say of a switch.
pub(super) fn handle(switch: &mut Switch, resync: &mut Resync, heard: Heard) {
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
            switch.tracker.missed_some();
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
        What::Synced => {
            resync.finish(switch);
            // Perhaps because the link is lost: what is concluded before it is back, nobody said.
            switch.tracker.missed_some();
        }
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
    pub(super) fn finish(&mut self, switch: &mut Switch) {
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
