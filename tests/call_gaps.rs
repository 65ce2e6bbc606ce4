//! Whatever stretch of a recording goes unheard, and the switch is asked behind it: nothing is told of a call that
//! there was not, what is told begins and ends, each once, and where it differs from what happened, that is known to be in
//! doubt. In memory: the model, and a switch's answers made from what each leg said last.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
#[path = "common/truth.rs"]
mod truth;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use common::stream::{Stream, settings};
use freeswitch_zammad::call::tracker::{FAILOVER_MAX, Output, Settings, Tracker};
use freeswitch_zammad::cti::event::What;
use freeswitch_zammad::esl::event::Event;
use freeswitch_zammad::sim::recording::Recording;
use freeswitch_zammad::time::UnixMillis;

const T0: UnixMillis = UnixMillis(1_700_000_000_000);
/// Lengths of what goes unheard, in events, the unsubscribed ones counted.
const GAPS: [usize; 4] = [0, 2, 8, 30];
/// How many events the switch sends, and we hear, while it is asked for one leg after the other.
const LATE: [usize; 2] = [0, 30];

#[test]
fn whatever_goes_unheard_no_call_is_made_up_and_each_ends_once() {
    let settings = Arc::new(settings());
    let (mut tried, mut wrong) = (0, BTreeSet::new());
    for folder in ["captures", "captures-fusionpbx"] {
        for (name, bytes) in common::recordings(folder) {
            let gaps = Gaps::new(&Recording::parse(&bytes).unwrap(), &settings);
            for from in 0..gaps.events.len() {
                for (length, late) in GAPS.into_iter().flat_map(|gap| LATE.map(|late| (gap, late))) {
                    let to = (from + length).min(gaps.events.len());
                    tried += 1;
                    let wrongs = gaps.told_wrong(from, to, late);
                    wrong.extend(wrongs.map(|what| format!("{name} {from}..{to}+{late}: {what}")));
                }
            }
        }
    }
    assert!(tried > 20_000, "only {tried} gaps");
    let shown: Vec<_> = wrong.iter().take(40).cloned().collect();
    assert!(wrong.is_empty(), "{} of {tried}:\n{}", wrong.len(), shown.join("\n"));
}

#[test]
fn a_call_that_only_another_leg_tells_of_is_in_doubt() {
    // Who had answered the caller before nobody knows; the phone that is rung now was heard from its beginning.
    let mut s = Stream::new();
    let caller = s.unheard(&Stream::caller_headers("sofia/external/x", "+4915112345678", "+49305551001"));
    let phone = s.rings(Some(caller), "1001");
    s.talk(caller, phone);
    s.bye(caller);
    let told: Vec<(&str, bool)> = s.news.iter().map(|news| (news.event.what.name(), news.in_doubt)).collect();
    assert_eq!(told, [("newCall", true), ("answer", true), ("hangup", true)]);
}

/// A recording, ready to be cut anywhere.
struct Gaps {
    settings: Arc<Settings>,
    events: Vec<Heard>,
    has_loopback: bool,
    /// Each call, and all that its own trunks are called.
    calls: Vec<(truth::Call, BTreeSet<String>)>,
}

struct Heard {
    name: String,
    leg: Option<String>,
    old: Option<String>,
    subscribed: Option<Event>,
    /// What the switch would say of the leg now.
    dump: Option<Event>,
}

impl Gaps {
    fn new(recording: &Recording, settings: &Arc<Settings>) -> Self {
        let heard = |event: &freeswitch_zammad::sim::recording::Event| {
            let text = |text: String| Event::parse(&text.into_bytes().into()).unwrap();
            let body = String::from_utf8_lossy(event.body()).into_owned();
            let of_leg = event.name().starts_with("CHANNEL_") || event.name() == "CALL_UPDATE";
            let name = format!("Event-Name: {}\n", event.name());
            Heard {
                name: event.name().to_owned(),
                leg: event.header("Unique-ID").filter(|_| of_leg),
                old: event.header("Old-Unique-ID"),
                dump: of_leg.then(|| text(body.replacen(&name, "Event-Name: CHANNEL_DATA\n", 1))),
                subscribed: common::is_subscribed(event).then(|| text(body)),
            }
        };
        let calls = truth::calls(recording, settings).into_iter().map(|call| {
            let events = recording.events();
            let dialled = events[call.span().0].header("Caller-Destination-Number");
            let trunks =
                events.iter().filter(|e| e.name() == "CHANNEL_CREATE" && call.row.direction == "out");
            let trunks = trunks.filter(|e| e.header("Caller-Destination-Number") == dialled);
            let ids = trunks.filter_map(|e| e.header("Unique-ID")).chain([call.id.clone()]).collect();
            assert!(call.told.iter().all(|(_, news)| !news.in_doubt), "{}: all of it was heard", call.id);
            (call, ids)
        });
        Self {
            settings: Arc::clone(settings),
            has_loopback: recording.events().iter().any(is_loopback),
            calls: calls.collect(),
            events: recording.events().iter().map(heard).collect(),
        }
    }

    /// What is wrong with what is told if the events `from..to` go unheard, and legs that end in the `late` events after
    /// them have ended before their turn.
    fn told_wrong(&self, from: usize, to: usize, late: usize) -> impl Iterator<Item = String> {
        let mut tracker = Tracker::new(Arc::clone(&self.settings));
        for heard in &self.events[..from] {
            hear(&mut tracker, heard);
        }
        tracker.missed_some();
        let mut live = self.live(to);
        let asked = (to + late).min(self.events.len());
        let ending = |leg: &str| {
            let ends = |e: &Heard| e.name == "CHANNEL_HANGUP_COMPLETE" && e.leg.as_deref() == Some(leg);
            self.events[to..asked].iter().any(ends)
        };
        let gone: Vec<String> = tracker
            .live_legs()
            .filter(|leg| !live.iter().any(|(id, _)| id == leg))
            .map(str::to_owned)
            .collect();
        for leg in gone {
            tracker.vanished(&leg, T0);
        }
        live.retain(|(leg, _)| !ending(leg));
        for _ in 0..2 {
            for (_, dump) in &live {
                tracker.handle_event(dump, T0);
            }
        }
        for heard in &self.events[to..] {
            hear(&mut tracker, heard);
        }
        tracker.handle_timeout(T0.after(FAILOVER_MAX));
        let mut told: BTreeMap<String, Vec<&'static str>> = BTreeMap::new();
        let mut sure: BTreeMap<String, Vec<What>> = BTreeMap::new();
        while let Some(output) = tracker.poll_output() {
            match output {
                Output::News(news) => {
                    let id = news.event.call_id.to_string();
                    told.entry(id.clone()).or_default().push(news.event.what.name());
                    sure.entry(id.clone()).or_default().push(news.event.what.clone());
                    if matches!(news.event.what, What::Hangup { .. }) && news.in_doubt {
                        sure.remove(&id);
                    }
                }
                Output::UnknownCause(_) | Output::Note { .. } => {}
            }
        }
        let known = |begins: usize| {
            let alive = || live.iter().any(|(leg, _)| self.events[begins].leg.as_ref() == Some(leg));
            begins < from || begins >= to || alive()
        };
        let first = self.events.iter().position(|e| e.name == "CHANNEL_CREATE").unwrap_or_default();
        let mut wrong = Vec::new();
        for (id, events) in &told {
            let call = self.calls.iter().find(|(_, ids)| ids.contains(id));
            // Known limit: dialled through a loopback for a caller who was not heard of, and gone before he could be
            // asked for.
            if call.is_none() && (known(first) || !self.has_loopback) {
                wrong.push(format!("there was no call {id}"));
            }
            let count = |name: &str| events.iter().filter(|event| **event == name).count();
            if events.first() != Some(&"newCall")
                || events.last() != Some(&"hangup")
                || count("newCall") != 1
                || count("hangup") != 1
            {
                wrong.push(format!("{id} is told as {events:?}"));
            }
        }
        // What another may know better is told as such.
        for (id, events) in sure {
            let truth = self.calls.iter().find(|(call, _)| call.id == id);
            let right = truth.map(|(call, _)| call.told.iter().map(|(_, news)| news.event.what.clone()));
            if right.is_some_and(|right| !right.eq(events.iter().cloned())) {
                wrong.push(format!("{id} is told without a doubt as {events:?}"));
            }
        }
        // What was heard to begin, or still went on when the switch was asked, is told; so must be the leg that dialled.
        for (call, ids) in &self.calls {
            let begins = call.span().0;
            let due = known(begins) && (call.row.direction == "in" || known(first));
            if due && !ids.iter().any(|id| told.contains_key(id)) {
                wrong.push(format!("{} is not told", call.id));
            }
        }
        wrong.into_iter()
    }

    /// The legs that stand before event `to`, eldest first, with what the switch says of them.
    fn live(&self, to: usize) -> Vec<(String, &Event)> {
        let mut order: Vec<&str> = Vec::new();
        let mut live: HashMap<&str, &Event> = HashMap::new();
        for heard in &self.events[..to] {
            let (Some(leg), Some(dump)) = (&heard.leg, &heard.dump) else { continue };
            match heard.name.as_str() {
                "CHANNEL_CREATE" => {
                    order.push(leg);
                    live.insert(leg, dump);
                }
                // The switch knows no leg by its name any more that is on its way down.
                _ if dump.is("Answer-State", "hangup") => _ = live.remove(leg.as_str()),
                "CHANNEL_UUID" => {
                    if let Some(at) = order.iter().position(|id| Some(*id) == heard.old.as_deref()) {
                        live.remove(order[at]);
                        order[at] = leg;
                        live.insert(leg, dump);
                    }
                }
                _ => {
                    if let Some(known) = live.get_mut(leg.as_str()) {
                        *known = dump;
                    }
                }
            }
        }
        order.iter().filter_map(|leg| Some(((*leg).to_owned(), *live.get(leg)?))).collect()
    }
}

fn is_loopback(event: &freeswitch_zammad::sim::recording::Event) -> bool {
    event.header("Channel-Name").is_some_and(|name| name.starts_with("loopback/"))
}

fn hear(tracker: &mut Tracker, heard: &Heard) {
    if let Some(event) = &heard.subscribed {
        tracker.handle_event(event, T0);
    }
}
