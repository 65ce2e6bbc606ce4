//! From records of legs to the events that the switch sent for them, and on to what Zammad must learn.
//!
//! A leg that has no file of its own (`log-b-leg = false`) is still known by what the leg that caused it has noted:
//! its number, its channel, its hangup cause. Whether it answered shows in whether it was bridged.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::{Cdr, HOPS_MAX, Micros, Profile, Stay, array};
use crate::call::HEADERS;
use crate::call::number::user_part;
use crate::call::tracker::{FAILOVER_MAX, News, Output, Settings, Tracker};
use crate::cti::event::{CallId, What};
use crate::esl::event::Event;
use crate::time::UnixMillis;

/// What an event's value is encoded for.
const VALUE: &AsciiSet = &CONTROLS.add(b'%');

/// Variables that dialling writes on the leg that dials, or a queue on its caller: they would be taken for marks of
/// the leg's creation.
const LATER: [&str; 4] = ["dialed_user", "dialed_domain", "dialed_extension", "cc_queue"];

/// What Zammad would have learnt, call by call; a call is told whole, from its newCall to its hangup. `cdrs` are
/// all that is known of them, in any order.
#[must_use]
pub fn tell(settings: Arc<Settings>, cdrs: &[Cdr]) -> Vec<Vec<News>> {
    runs(cdrs).into_iter().flat_map(|run| tell_run(Arc::clone(&settings), run)).collect()
}

/// The records of each run of a switch by themselves, oldest run first, each leg once; of two files of one leg the last
/// counts. Files of several switches may lie in one folder, and to one tracker another run means that the calls of the
/// last are over.
#[must_use]
pub fn runs(cdrs: &[Cdr]) -> Vec<Vec<&Cdr>> {
    let legs: BTreeMap<&str, &Cdr> = cdrs.iter().map(|cdr| (cdr.id(), cdr)).collect();
    let mut runs: BTreeMap<&str, Vec<&Cdr>> = BTreeMap::new();
    for cdr in legs.into_values() {
        runs.entry(&cdr.core).or_default().push(cdr);
    }
    let mut runs: Vec<Vec<&Cdr>> = runs.into_values().collect();
    runs.sort_by_key(|run| run.iter().map(|cdr| cdr.begun()).min());
    runs
}

fn tell_run<'a>(settings: Arc<Settings>, cdrs: impl IntoIterator<Item = &'a Cdr>) -> Vec<Vec<News>> {
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
///
/// A leg whose cause is not among them is left out: what it was part of is told elsewhere, or cannot be told.
#[must_use]
pub fn replay<'a>(cdrs: impl IntoIterator<Item = &'a Cdr>) -> Vec<(UnixMillis, Event)> {
    let known = rooted(cdrs);
    let mut timeline = Timeline::default();
    for cdr in known.values() {
        timeline.own(cdr, depth(cdr, &known));
    }
    for leg in unwritten(&known).values() {
        timeline.noted(leg);
    }
    timeline.entries.sort_by_key(|(when, _)| *when);
    timeline.entries.into_iter().map(|(when, event)| (UnixMillis(when.at / 1000), event)).collect()
}

/// The legs that began by themselves, and those that they caused. Of two files of one leg the last counts.
fn rooted<'a>(cdrs: impl IntoIterator<Item = &'a Cdr>) -> BTreeMap<&'a str, &'a Cdr> {
    let mut waiting: BTreeMap<&str, &Cdr> = cdrs.into_iter().map(|cdr| (cdr.id(), cdr)).collect();
    let mut known: BTreeMap<&str, &Cdr> = BTreeMap::new();
    let mut named: HashSet<&str> = HashSet::new();
    for _ in 0..HOPS_MAX {
        let is_next = |cdr: &Cdr| {
            let mut ties = cdr.ties().peekable();
            ties.peek().is_none() || ties.any(|tie| named.contains(tie))
        };
        let next: Vec<&str> = waiting.iter().filter(|(_, cdr)| is_next(cdr)).map(|(id, _)| *id).collect();
        if next.is_empty() {
            break;
        }
        for cdr in next.into_iter().filter_map(|id| waiting.remove(id)) {
            named.insert(cdr.id());
            // A loopback's far half is caused by the near one, which may have no file.
            named.extend(cdr.dialled());
            known.insert(cdr.id(), cdr);
        }
    }
    known
}

/// The legs that have no file, as those that dialled them know them.
fn unwritten<'a>(known: &BTreeMap<&'a str, &'a Cdr>) -> BTreeMap<&'a str, Unwritten<'a>> {
    let mut legs: BTreeMap<&str, Unwritten<'_>> = BTreeMap::new();
    let by_any = known.values().flat_map(|cdr| {
        let dialled: HashSet<&str> = cdr.dialled().collect();
        let noted =
            cdr.stays.iter().flat_map(|stay| stay.originatees.iter().rev().map(move |leg| (stay, leg)));
        noted.map(move |(stay, leg)| (dialled.contains(leg.id.as_str()), *cdr, stay, leg))
    });
    // Whoever was picked up, or talked to after a transfer, is noted in the stay too. Who of them was dialled by
    // somebody else shows in their channel; who came by themselves is not known from here.
    let mut by_any: Vec<_> =
        by_any.filter(|(own, _, _, leg)| *own || !leg.id.is_empty() && leg.was_dialled()).collect();
    by_any.sort_by_key(|(own, ..)| !own);
    for (_, cdr, stay, profile) in by_any {
        if !known.contains_key(profile.id.as_str()) {
            let nth = legs.len();
            legs.entry(&profile.id).or_insert(Unwritten {
                by: cdr,
                profile,
                depth: depth(cdr, known) + 1,
                nth,
                from: stay.entered.max(cdr.begun),
                joined: None,
                until: cdr.ended,
                last_with: None,
                twin: None,
            });
        }
    }
    for cdr in known.values() {
        if let Some(leg) = cdr.variable("other_loopback_leg_uuid").and_then(|twin| legs.get_mut(twin)) {
            leg.twin = Some(cdr.id());
        }
    }
    // Who was transferred talks on with somebody else's leg.
    for cdr in known.values() {
        let bridges = cdr.bridges();
        for (nth, (at, peer)) in bridges.iter().enumerate() {
            let Some(leg) = legs.get_mut(peer) else { continue };
            let parted = bridges.get(nth + 1).map(|(next, _)| *next);
            let until = parted.unwrap_or(cdr.ended);
            if leg.joined.is_none() || until > leg.until {
                leg.until = until;
                leg.last_with = Some(*cdr).filter(|_| parted.is_none());
            }
            leg.joined = Some(leg.joined.map_or(*at, |first| first.min(*at)));
        }
    }
    legs
}

/// How many legs caused this one, one after the other: a cause comes before what it causes, also at the same moment.
fn depth(cdr: &Cdr, by_id: &BTreeMap<&str, &Cdr>) -> usize {
    let (mut cdr, mut depth) = (cdr, 0);
    while depth < HOPS_MAX
        && let Some(cause) = cdr.ties().find_map(|tie| by_id.get(tie).copied())
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
    nth: usize,
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

/// A leg without a file.
struct Unwritten<'a> {
    by: &'a Cdr,
    profile: &'a Profile,
    depth: usize,
    /// Its place among all those without a file: what a leg dialled one after the other is not timed.
    nth: usize,
    from: Micros,
    /// When it was first joined with a leg that has a file.
    joined: Option<Micros>,
    until: Micros,
    /// The leg that it was joined with to the end.
    last_with: Option<&'a Cdr>,
    /// The other half of a loopback, which has a file: FreeSWITCH takes it for a caller.
    twin: Option<&'a str>,
}

impl Unwritten<'_> {
    /// What it failed with.
    fn failed(&self) -> Option<&str> {
        self.by
            .causes()
            .find(|(id, _)| *id == self.profile.id)
            .map(|(_, cause)| cause)
            .filter(|c| *c != WENT_WELL)
    }

    fn cause(&self) -> &str {
        let at_the_end = || {
            let with = self.last_with?;
            with.variable("bridge_hangup_cause").or(with.variable("hangup_cause"))
        };
        self.failed().or_else(at_the_end).unwrap_or("NORMAL_CLEARING")
    }

    /// The application that a loopback was called to run instead of the dialplan (`loopback/app=voicemail:…`).
    fn application(&self) -> Option<&str> {
        let dialled = &self.profile.dialled;
        let called = format!("loopback/app={dialled}:");
        let is_called = |arguments: &str| arguments.contains(&called);
        let by = self.by.applications.iter().map(|a| a.arguments.as_str());
        let is_one = by.chain(self.by.variable("current_application_data")).any(is_called);
        Some(dialled.as_str()).filter(|_| is_one && self.profile.channel.starts_with("loopback/"))
    }
}

impl Timeline {
    /// Takes in the events of one leg: none lies before its beginning or behind its end, whatever the files say.
    fn of_a_leg(
        &mut self,
        begun: Micros,
        ended: Micros,
        (depth, nth): (usize, usize),
    ) -> impl FnMut(Micros, Step, Headers) {
        move |at, step, headers| {
            let at = at.clamp(begun, ended.max(begun));
            self.entries.push((When { at, step, depth, nth }, headers.event()));
        }
    }

    fn own(&mut self, cdr: &Cdr, depth: usize) {
        let mut add = self.of_a_leg(cdr.begun, cdr.ended, (depth, 0));
        add(cdr.begun, Step::Created, cdr.creation());
        if let Some(answered) = cdr.answered {
            let mut headers = Headers::of("CHANNEL_ANSWER", cdr.id(), &cdr.core);
            headers.set("Answer-State", "answered");
            if let Some(running) = cdr.applications.iter().rev().find(|a| a.at > 0 && a.at <= answered) {
                headers.set("variable_current_application", &running.name);
                headers.set("variable_current_application_data", &running.arguments);
            }
            add(answered, Step::Answered, headers);
        }
        for (at, peer) in cdr.bridges() {
            let mut headers = Headers::of("CHANNEL_BRIDGE", cdr.id(), &cdr.core);
            headers.set("Bridge-A-Unique-ID", cdr.id());
            headers.set("Bridge-B-Unique-ID", peer);
            add(at, Step::Joined, headers);
        }
        for application in cdr.applications.iter().filter(|a| a.name == "conference" && a.at > 0) {
            let room = application.arguments.split(['@', '+']).next().unwrap_or_default();
            let mut headers = Headers::of("CUSTOM", cdr.id(), &cdr.core);
            headers.set("Event-Subclass", "conference::maintenance");
            headers.set("Action", "add-member");
            headers.set("Conference-Name", cdr.variable("conference_name").unwrap_or(room));
            add(application.at.max(cdr.answered.unwrap_or_default()), Step::Joined, headers);
        }
        let step = if depth == 0 { Step::CallerEnded } else { Step::Ended };
        add(cdr.ended, step, cdr.end());
    }

    fn noted(&mut self, leg: &Unwritten<'_>) {
        let (id, core) = (&leg.profile.id, &leg.by.core);
        let mut add = self.of_a_leg(leg.from, leg.until, (leg.depth, leg.nth));
        let mut headers = Headers::of("CHANNEL_CREATE", id, core);
        headers.set("Call-Direction", "outbound");
        headers.set("Channel-Name", &leg.profile.channel);
        headers.set("Caller-Context", &leg.profile.context);
        headers.set("Caller-Caller-ID-Number", &leg.profile.caller);
        headers.set("Caller-Destination-Number", &leg.profile.dialled);
        headers.set("Caller-Channel-Created-Time", &leg.from.to_string());
        headers.set("Other-Type", "originator");
        headers.set("Other-Leg-Unique-ID", leg.by.id());
        headers.set("variable_loopback_app", leg.application().unwrap_or_default());
        headers.set("variable_other_loopback_leg_uuid", leg.twin.unwrap_or_default());
        add(leg.from, Step::Created, headers);
        if let Some(at) = leg.joined {
            let mut headers = Headers::of("CHANNEL_ANSWER", id, core);
            headers.set("Answer-State", "answered");
            add(at, Step::Answered, headers);
        }
        let mut headers = Headers::of("CHANNEL_HANGUP_COMPLETE", id, core);
        headers.set("Hangup-Cause", leg.cause());
        add(leg.until, Step::Ended, headers);
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
        // A bridge swaps caller and callee of a leg that was dialled.
        let presented = Some(&first.own.ani).filter(|ani| self.outbound && !ani.is_empty());
        headers.set("Caller-Caller-ID-Number", presented.unwrap_or(&first.own.caller));
        headers.set("Caller-Destination-Number", &first.own.dialled);
        headers.set("Caller-Channel-Created-Time", &self.begun.to_string());
        headers.set("Channel-Presence-ID", self.variable("presence_id").unwrap_or_default());
        if let Some(originator) = &first.originator {
            headers.set("Other-Type", "originator");
            headers.set("Other-Leg-Unique-ID", &originator.id);
        }
        // A leg that has dialled by itself carries who it dialled last; who it is shows in its presence.
        let has_dialled = !self.outbound || self.variable("originated_legs").is_some();
        self.add_variables(&mut headers, |name| !(has_dialled && LATER.contains(&name)));
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
        let causes: HashMap<&str, &str> = self.causes().collect();
        let called = stay.originatees.iter().map(|profile| profile.id.as_str());
        let mut called = called.filter(|id| causes.get(id).is_none_or(|cause| *cause == WENT_WELL));
        called.next().or(stay.originator.as_ref().map(|profile| profile.id.as_str()))
    }

    /// What became of the legs that this one dialled: [`WENT_WELL`], or a hangup cause.
    fn causes(&self) -> impl Iterator<Item = (&str, &str)> {
        let causes = self.variable("originate_causes").into_iter().flat_map(array);
        causes.filter_map(|entry| entry.split_once(';'))
    }

    /// The legs that this one dialled.
    fn dialled(&self) -> impl Iterator<Item = &str> {
        let legs = self.variable("originated_legs").into_iter().flat_map(array);
        legs.map(|leg| leg.split(';').next().unwrap_or_default()).filter(|id| !id.is_empty())
    }
}

impl Profile {
    /// A channel is named after who called, or after what was dialled.
    fn was_dialled(&self) -> bool {
        let called = self.channel.rsplit('/').next().unwrap_or_default();
        !self.dialled.is_empty() && user_part(called) == user_part(&self.dialled)
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
