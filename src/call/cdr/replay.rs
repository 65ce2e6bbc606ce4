//! From records of legs to the events that the switch sent for them, and on to what Zammad must learn.
//!
//! A leg that has no file of its own (`log-b-leg = false`) is still known by what the leg that caused it has noted:
//! its number, its channel, its hangup cause. Whether it answered shows in whether it was bridged.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::{Cdr, HOPS_MAX, Micros, Profile, Stay, array};
use crate::call::HEADERS;
use crate::call::tracker::{FAILOVER_MAX, News, Output, Settings, Tracker};
use crate::cti::event::{CallId, What};
use crate::esl::event::Event;
use crate::time::UnixMillis;

/// What an event's value is encoded for.
const VALUE: &AsciiSet = &CONTROLS.add(b'%');

/// Variables that are written after a leg's creation, by the bridge or by an application, and would be taken for marks
/// of it. On legs of the other direction none of them stands, or it keeps.
const LATER_ON_CALLERS: [&str; 5] =
    ["dialed_user", "dialed_domain", "dialed_extension", "cc_queue", "sip_hangup_disposition"];
/// What is only true at the end.
const AT_THE_END: [&str; 6] = [
    "current_application",
    "current_application_data",
    "originate_disposition",
    "endpoint_disposition",
    "send_to_voicemail",
    "bridge_to",
];

/// What Zammad would have learnt, call by call; a call is told whole, from its newCall to its hangup. `cdrs` are
/// all that is known of them, in any order.
#[must_use]
pub fn tell(settings: Arc<Settings>, cdrs: &[Cdr]) -> Vec<Vec<News>> {
    let mut tracker = Tracker::new(settings);
    let mut last = UnixMillis::default();
    for (at, event) in replay(cdrs) {
        tracker.handle_event(&event, at);
        last = at;
    }
    tracker.handle_timeout(last.after(FAILOVER_MAX));
    let mut calls: Vec<Vec<News>> = Vec::new();
    let mut by_id: HashMap<CallId, usize> = HashMap::new();
    while let Some(output) = tracker.poll_output() {
        if let Output::News(news) = output {
            let at = *by_id.entry(news.event.call_id.clone()).or_insert(calls.len());
            if at == calls.len() {
                calls.push(Vec::new());
            }
            calls[at].push(news);
        }
    }
    let is_whole = |call: &Vec<News>| {
        matches!(call.last().map(|news| &news.event.what), Some(What::Hangup { .. }))
            && matches!(call.first().map(|news| &news.event.what), Some(What::NewCall { .. }))
    };
    calls.retain(is_whole);
    calls
}

/// The events of these legs in the order in which they were sent, with the moments at which.
#[must_use]
pub fn replay(cdrs: &[Cdr]) -> Vec<(UnixMillis, Event)> {
    let by_id: HashMap<&str, &Cdr> = cdrs.iter().map(|cdr| (cdr.id(), cdr)).collect();
    let mut timeline = Timeline::default();
    let mut written: HashSet<&str> = HashSet::new();
    for cdr in cdrs {
        // The same leg in two files is one leg.
        if written.insert(cdr.id()) {
            timeline.own(cdr, depth(cdr, &by_id));
        }
    }
    let mut unwritten: HashSet<String> = HashSet::new();
    for cdr in cdrs {
        for leg in cdr.unwritten() {
            if !by_id.contains_key(&*leg.id) && unwritten.insert(leg.id.clone()) {
                timeline.noted(cdr, &leg, depth(cdr, &by_id) + 1);
            }
        }
    }
    timeline.entries.sort_by_key(|(when, _)| *when);
    timeline.entries.into_iter().map(|(when, event)| (UnixMillis(when.at / 1000), event)).collect()
}

/// How many legs caused this one, one after the other: a cause comes before what it causes, also at the same moment.
fn depth(cdr: &Cdr, by_id: &HashMap<&str, &Cdr>) -> usize {
    let (mut cdr, mut depth) = (cdr, 0);
    while depth < HOPS_MAX
        && let Some(cause) = cdr.ties().find_map(|tie| by_id.get(tie))
    {
        cdr = cause;
        depth += 1;
    }
    depth
}

/// The order of events: at one moment legs begin before they are answered, and end last, the caller's after all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct When {
    at: Micros,
    step: Step,
    depth: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Created,
    Answered,
    Joined,
    Ended,
    CallerEnded,
}

#[derive(Default)]
struct Timeline {
    entries: Vec<(When, Event)>,
}

/// A leg without a file, as its cause knows it.
struct Unwritten {
    id: String,
    profile: Profile,
    from: Micros,
    /// When it was joined with its cause, if it was.
    joined: Option<Micros>,
    until: Micros,
    cause: String,
}

impl Timeline {
    fn add(&mut self, at: Micros, step: Step, depth: usize, headers: Headers) {
        self.entries.push((When { at, step, depth }, headers.event()));
    }

    fn own(&mut self, cdr: &Cdr, depth: usize) {
        self.add(cdr.begun, Step::Created, depth, cdr.creation());
        if let Some(answered) = cdr.answered {
            let mut headers = Headers::of("CHANNEL_ANSWER", cdr.id(), &cdr.core);
            headers.set("Answer-State", "answered");
            if let Some(running) = cdr.applications.iter().rev().find(|a| a.at > 0 && a.at <= answered) {
                headers.set("variable_current_application", &running.name);
                headers.set("variable_current_application_data", &running.arguments);
            }
            self.add(answered, Step::Answered, depth, headers);
        }
        for (at, peer) in cdr.bridges() {
            let mut headers = Headers::of("CHANNEL_BRIDGE", cdr.id(), &cdr.core);
            headers.set("Bridge-A-Unique-ID", cdr.id());
            headers.set("Bridge-B-Unique-ID", peer);
            self.add(at, Step::Joined, depth, headers);
        }
        for application in cdr.applications.iter().filter(|a| a.name == "conference" && a.at > 0) {
            let room = application.arguments.split(['@', '+']).next().unwrap_or_default();
            let mut headers = Headers::of("CUSTOM", cdr.id(), &cdr.core);
            headers.set("Event-Subclass", "conference::maintenance");
            headers.set("Action", "add-member");
            headers.set("Conference-Name", cdr.variable("conference_name").unwrap_or(room));
            self.add(application.at.max(cdr.answered.unwrap_or_default()), Step::Joined, depth, headers);
        }
        let step = if depth == 0 { Step::CallerEnded } else { Step::Ended };
        self.add(cdr.ended, step, depth, cdr.end());
    }

    fn noted(&mut self, cause: &Cdr, leg: &Unwritten, depth: usize) {
        let mut headers = Headers::of("CHANNEL_CREATE", &leg.id, &cause.core);
        headers.set("Call-Direction", "outbound");
        headers.set("Channel-Name", &leg.profile.channel);
        headers.set("Caller-Context", &leg.profile.context);
        headers.set("Caller-Caller-ID-Number", &leg.profile.caller);
        headers.set("Caller-Destination-Number", &leg.profile.dialled);
        headers.set("Caller-Channel-Created-Time", &leg.from.to_string());
        headers.set("Other-Type", "originator");
        headers.set("Other-Leg-Unique-ID", cause.id());
        self.add(leg.from, Step::Created, depth, headers);
        if let Some(at) = leg.joined {
            let mut headers = Headers::of("CHANNEL_ANSWER", &leg.id, &cause.core);
            headers.set("Answer-State", "answered");
            self.add(at, Step::Answered, depth, headers);
        }
        let mut headers = Headers::of("CHANNEL_HANGUP_COMPLETE", &leg.id, &cause.core);
        headers.set("Hangup-Cause", &leg.cause);
        self.add(leg.until, Step::Ended, depth, headers);
    }
}

impl Cdr {
    fn creation(&self) -> Headers {
        let first = self.first();
        let mut headers = Headers::of("CHANNEL_CREATE", self.id(), &self.core);
        headers.set("Call-Direction", if self.outbound { "outbound" } else { "inbound" });
        headers.set("Answer-State", "ringing");
        headers.set("Channel-Name", &first.own.channel);
        headers.set("Caller-Context", &first.own.context);
        headers.set("Caller-Caller-ID-Number", &first.own.caller);
        headers.set("Caller-Destination-Number", &first.own.dialled);
        headers.set("Caller-Channel-Created-Time", &self.begun.to_string());
        headers.set("Channel-Presence-ID", self.variable("presence_id").unwrap_or_default());
        if let Some(originator) = &first.originator {
            headers.set("Other-Type", "originator");
            headers.set("Other-Leg-Unique-ID", &originator.id);
        }
        // A leg that has dialled by itself carries who it dialled last; who it is shows in its presence.
        let has_dialled = !self.outbound || self.variable("originated_legs").is_some();
        let later: &[&str] = if has_dialled { &LATER_ON_CALLERS } else { &[] };
        self.add_variables(&mut headers, |name| !AT_THE_END.contains(&name) && !later.contains(&name));
        headers
    }

    fn end(&self) -> Headers {
        let mut headers = Headers::of("CHANNEL_HANGUP_COMPLETE", self.id(), &self.core);
        headers.set("Answer-State", "hangup");
        headers.set("Hangup-Cause", self.variable("hangup_cause").unwrap_or_default());
        self.add_variables(&mut headers, |_| true);
        headers
    }

    fn add_variables(&self, headers: &mut Headers, wanted: impl Fn(&str) -> bool) {
        for header in HEADERS {
            let name = header.strip_prefix("variable_");
            if let Some(value) = name.filter(|name| wanted(name)).and_then(|name| self.variable(name)) {
                headers.set(header, value);
            }
        }
    }

    /// When this leg was joined with which other, oldest first. One join for each stay in the dialplan is known.
    fn bridges(&self) -> Vec<(Micros, &str)> {
        let last = ["last_bridge_to", "bridge_uuid", "signal_bond"];
        let mut last = last.into_iter().find_map(|name| self.variable(name));
        let mut bridges = Vec::new();
        for stay in self.stays.iter().rev().filter(|stay| stay.bridged > 0) {
            let peer = last.take().or_else(|| self.peer_in(stay));
            bridges.extend(peer.filter(|peer| *peer != self.id).map(|peer| (stay.bridged, peer)));
        }
        // FreeSWITCH before 1.4 wrote no moment of the bridge.
        if let Some(peer) = last.filter(|_| bridges.is_empty()) {
            let at = self.variable("bridge_uepoch").and_then(|at| at.parse().ok()).filter(|at| *at > 0);
            bridges.extend(at.or(self.answered).map(|at| (at, peer)));
        }
        bridges.reverse();
        bridges
    }

    /// Whom a leg was joined with in a stay that was not its last: who did not fail, else who called it.
    fn peer_in<'a>(&'a self, stay: &'a Stay) -> Option<&'a str> {
        let causes = self.causes();
        let called = stay.originatees.iter().map(|profile| profile.id.as_str());
        let mut called = called.filter(|id| causes.get(id).is_none_or(|cause| *cause == WENT_WELL));
        called.next().or(stay.originator.as_ref().map(|profile| profile.id.as_str()))
    }

    /// What became of the legs that this one dialled: [`WENT_WELL`], or a hangup cause.
    fn causes(&self) -> HashMap<&str, &str> {
        let causes = self.variable("originate_causes").into_iter().flat_map(array);
        causes.filter_map(|entry| entry.split_once(';')).collect()
    }

    /// The legs that this one dialled, oldest first.
    fn unwritten(&self) -> Vec<Unwritten> {
        let causes = self.causes();
        let bridges = self.bridges();
        let mut found: Vec<Unwritten> = Vec::new();
        let stays = self.stays.iter().flat_map(|stay| {
            stay.originatees.iter().rev().filter(|profile| !profile.id.is_empty()).map(move |p| (stay, p))
        });
        for (stay, profile) in stays {
            if found.iter().any(|leg| leg.id == profile.id) {
                continue;
            }
            let joined = bridges.iter().position(|(_, peer)| *peer == profile.id);
            let failed = causes.get(profile.id.as_str()).filter(|cause| **cause != WENT_WELL);
            let talked_to_the_end = joined.is_some_and(|at| at + 1 == bridges.len());
            let cause = match failed {
                Some(cause) => cause,
                None if talked_to_the_end => {
                    let of_bridge = self.variable("bridge_hangup_cause");
                    of_bridge.or(self.variable("hangup_cause")).unwrap_or_default()
                }
                None => "NORMAL_CLEARING",
            };
            let next = joined.and_then(|at| bridges.get(at + 1)).map(|(at, _)| *at);
            found.push(Unwritten {
                id: profile.id.clone(),
                profile: profile.clone(),
                from: stay.entered.max(self.begun),
                joined: joined.map(|at| bridges[at].0).filter(|_| failed.is_none()),
                until: next.unwrap_or(self.ended),
                cause: cause.to_owned(),
            });
        }
        found
    }
}

/// What `originate_causes` says of a leg that was taken.
const WENT_WELL: &str = "NONE";

/// An event in the making.
struct Headers {
    text: String,
}

impl Headers {
    fn of(name: &str, leg: &str, core: &str) -> Self {
        let mut headers = Self { text: String::new() };
        headers.set("Event-Name", name);
        headers.set("Unique-ID", leg);
        headers.set("Core-UUID", core);
        headers
    }

    fn set(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            let value = utf8_percent_encode(value, VALUE);
            self.text.push_str(&format!("{name}: {value}\n"));
        }
    }

    fn event(self) -> Event {
        Event::parse(&Bytes::from(self.text)).expect("lines of a name and an encoded value are an event")
    }
}
