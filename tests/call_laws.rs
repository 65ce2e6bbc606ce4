//! What holds whatever comes in: recordings of real calls that are shuffled, thinned, cut short, repeated and
//! mixed with each other never break a call's story, and nothing is left over.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use freeswitch_zammad::call::HEADERS;
use freeswitch_zammad::call::tracker::{FAILOVER_MAX, News, Output, REMEMBERED, Settings, Tracker};
use freeswitch_zammad::cti::event::{Direction, What};
use freeswitch_zammad::esl::event::{Event, Name};
use freeswitch_zammad::store::state;
use freeswitch_zammad::time::UnixMillis;
use proptest::prelude::*;

/// What one recording holds.
struct Script {
    name: String,
    events: Vec<Event>,
}

static SCRIPTS: LazyLock<Vec<Script>> = LazyLock::new(|| {
    let folders = ["captures", "captures-fusionpbx"];
    let all = folders.iter().flat_map(|folder| common::recordings(folder));
    all.map(|(name, bytes)| Script { name, events: events(&bytes) }).collect()
});

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mixed_recordings_leave_nothing_over(picked in prop::collection::vec(any::<usize>(), 1..5), seed: u64) {
        let mut play = Play::new(false);
        play.all(&mixed(&picked, seed));
        play.all_must_be_over();
        play.laws_hold();
    }

    #[test]
    fn any_order_at_all_leaves_nothing_over(picked in prop::collection::vec(any::<usize>(), 1..4), seed: u64) {
        let mut stream = mixed(&picked, seed);
        fastrand::Rng::with_seed(seed).shuffle(&mut stream);
        let mut play = Play::new(seed % 2 == 0);
        play.all(&stream);
        play.all_must_be_over();
        play.laws_hold();
    }

    #[test]
    fn events_heard_again_change_nothing(picked: usize, seed: u64) {
        let script = &SCRIPTS[picked % SCRIPTS.len()];
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut once = Play::new(false);
        let mut again = Play::new(false);
        for (at, event) in script.events.iter().enumerate() {
            once.step(event);
            again.step(event);
            again.now = once.now;
            // The same once more, or an older one of a leg's beginning or end.
            again.tracker.handle_event(event, again.now);
            let older = &script.events[rng.usize(..=at)];
            if matches!(older.name(), Name::ChannelCreate | Name::ChannelHangupComplete | Name::ChannelUuid)
            {
                again.tracker.handle_event(older, again.now);
            }
            again.take();
        }
        prop_assert_eq!(once.told(), again.told(), "{}", script.name);
    }

    #[test]
    fn thinned_and_cut_recordings_break_no_call(
        picked in prop::collection::vec(any::<usize>(), 1..4),
        seed: u64,
        kept in 20_u8..100,
        internal: bool,
    ) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut stream = mixed(&picked, seed);
        let start = rng.usize(..stream.len());
        stream.drain(..start / 2);
        stream.retain(|_| rng.u8(..100) < kept);
        stream.truncate(rng.usize(..=stream.len()));
        let mut play = Play::new(internal);
        play.all(&stream);
        play.laws_hold();
        // What the switch does not know any more is over as well.
        for leg in play.tracker.live_legs().map(str::to_owned).collect::<Vec<_>>() {
            play.tracker.vanished(&leg, play.now);
        }
        play.take();
        play.all_must_be_over();
        play.laws_hold();
    }

    #[test]
    fn a_restart_at_any_moment_changes_nothing(
        picked in prop::collection::vec(any::<usize>(), 1..4),
        seed: u64,
        internal: bool,
    ) {
        let stream = mixed(&picked, seed);
        let mut through = Play::new(internal);
        through.all(&stream);
        let mut restarted = Play::new(internal);
        let mut store = HashMap::new();
        for event in &stream {
            restarted.step(event);
            restarted.restart(&mut store);
        }
        prop_assert_eq!(through.told(), restarted.told());
        restarted.all_must_be_over();
        through.all_must_be_over();
        restarted.restart(&mut store);
        prop_assert!(store.is_empty(), "the store forgets as the tracker does");
    }

    #[test]
    fn a_switch_that_dies_ends_its_calls(picked in prop::collection::vec(any::<usize>(), 1..4), seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut stream = mixed(&picked, seed);
        stream.truncate(rng.usize(1..=stream.len()));
        let mut play = Play::new(true);
        let mut store = HashMap::new();
        play.all(&stream);
        // The daemon may be restarted in between as well.
        if rng.bool() {
            play.restart(&mut store);
        }
        play.step(&event(&[("Event-Name", "HEARTBEAT"), ("Core-UUID", "another-run")]));
        prop_assert_eq!(play.tracker.open_calls(), 0);
        prop_assert_eq!(play.tracker.live_legs().count(), 0);
        play.laws_hold();
    }

    #[test]
    fn few_legs_may_be_remembered(picked in prop::collection::vec(any::<usize>(), 1..5), seed: u64, max in 2_usize..8) {
        let mut play = Play::new(true);
        play.tracker = Tracker::bounded(Arc::new(settings(true)), max);
        for event in mixed(&picked, seed) {
            play.step(&event);
            // What was forgotten too early can begin again: only the bound is promised.
            prop_assert!(play.tracker.legs() <= max && play.tracker.open_calls() <= max);
        }
    }

    #[test]
    fn nonsense_is_survived(headers in prop::collection::vec((0_usize..NONSENSE.len(), 0_usize..12), 0..400)) {
        let mut play = Play::new(true);
        play.tracker.explain();
        for made in headers.chunks(8) {
            let name = ["CHANNEL_CREATE", "CHANNEL_ANSWER", "CHANNEL_BRIDGE", "CHANNEL_UNBRIDGE", "CHANNEL_UUID",
                "CHANNEL_HANGUP_COMPLETE", "CHANNEL_DATA", "CUSTOM"][made[0].1 % 8];
            let mut lines = vec![("Event-Name", name)];
            lines.extend(made.iter().map(|(header, value)| (NONSENSE[*header], VALUES[*value])));
            play.step(&event(&lines));
        }
        play.laws_hold();
    }
}

#[test]
fn legs_that_never_end_do_not_fill_the_memory() {
    let mut play = Play::new(true);
    play.tracker = Tracker::bounded(Arc::new(settings(true)), 1000);
    for number in 0..20_000 {
        let id = format!("{number:08}-0000-4000-8000-000000000000");
        let first = "00000000-0000-4000-8000-000000000000";
        let call = |direction| {
            event(&[
                ("Event-Name", "CHANNEL_CREATE"),
                ("Unique-ID", &id),
                ("Call-Direction", direction),
                ("Channel-Name", "sofia/external/+4915112345678@provider"),
                ("Caller-Caller-ID-Number", "+4915112345678"),
                ("Caller-Destination-Number", "+49305551001"),
                ("variable_originator", first),
            ])
        };
        play.step(&call(if number % 2 == 0 { "inbound" } else { "outbound" }));
    }
    assert!(play.tracker.legs() <= 1000);
    assert!(play.tracker.open_calls() <= 1000);
    play.laws_hold();
}

#[test]
fn every_event_is_explained() {
    for script in SCRIPTS.iter() {
        let mut play = Play::new(false);
        play.tracker.explain();
        for event in &script.events {
            play.tracker.handle_event(event, play.now);
            let mut notes = 0;
            let mut news = 0;
            while let Some(output) = play.tracker.poll_output() {
                match output {
                    Output::UnknownCause(_) => {}
                    Output::Note { text, .. } => {
                        notes += 1;
                        assert!(!text.contains('\n'));
                    }
                    Output::News(_) => news += 1,
                }
            }
            assert!(notes >= 1 && notes >= news, "{}: {:?}", script.name, event.get("Event-Name"));
        }
    }
}

/// Headers and values that fit each other only by chance.
const NONSENSE: [&str; 22] = [
    "Unique-ID",
    "Unique-ID",
    "Old-Unique-ID",
    "Other-Leg-Unique-ID",
    "Bridge-A-Unique-ID",
    "Bridge-B-Unique-ID",
    "Other-Type",
    "Call-Direction",
    "Channel-Name",
    "Other-Leg-Channel-Name",
    "Caller-Caller-ID-Number",
    "Caller-Destination-Number",
    "Caller-Channel-Created-Time",
    "Answer-State",
    "Core-UUID",
    "Event-Subclass",
    "Action",
    "Conference-Name",
    "variable_other_loopback_leg_uuid",
    "variable_originator",
    "variable_dialed_user",
    "variable_bridge_uuid",
];
const VALUES: [&str; 12] = [
    "a",
    "b",
    "c",
    "originator",
    "inbound",
    "outbound",
    "sofia/external/+49301@x",
    "loopback/1001-a",
    "answered",
    "conference::maintenance",
    "add-member",
    "1",
];

fn settings(internal: bool) -> Settings {
    Settings { internal, ..common::stream::settings() }
}

/// A tracker that is fed, and all that it has told.
struct Play {
    tracker: Tracker,
    settings: Arc<Settings>,
    now: UnixMillis,
    news: Vec<News>,
}

impl Play {
    fn new(internal: bool) -> Self {
        let settings = Arc::new(settings(internal));
        Self {
            tracker: Tracker::new(settings.clone()),
            settings,
            now: UnixMillis(1_000_000),
            news: Vec::new(),
        }
    }

    fn all(&mut self, events: &[Event]) {
        for event in events {
            self.step(event);
        }
    }

    fn step(&mut self, event: &Event) {
        self.now = UnixMillis(self.now.0 + 10);
        self.tracker.handle_event(event, self.now);
        self.take();
    }

    fn take(&mut self) {
        while let Some(output) = self.tracker.poll_output() {
            match output {
                Output::UnknownCause(_) => {}
                Output::News(news) => self.news.push(news),
                Output::Note { .. } => {}
            }
        }
    }

    fn told(&self) -> Vec<(String, String)> {
        self.news.iter().map(|news| (news.id.clone(), news.event.body())).collect()
    }

    /// The daemon stops after what it has heard so far, and a new one goes on from the store.
    fn restart(&mut self, store: &mut HashMap<String, Vec<u8>>) {
        while let Some((family, kept)) = self.tracker.poll_changed() {
            let key = state::key("main", family);
            match kept {
                Some((legs, calls)) => store.insert(key, state::encode(&legs, &calls)),
                None => store.remove(&key),
            };
        }
        let mut next = Tracker::new(self.settings.clone());
        let mut keys: Vec<&String> = store.keys().collect();
        keys.sort();
        for key in keys {
            let (_, (family, legs, calls)) = state::decode(key, &store[key]).unwrap();
            next.restore(family, legs, calls);
        }
        assert_eq!(next.open_calls(), self.tracker.open_calls());
        self.tracker = next;
    }

    fn all_must_be_over(&mut self) {
        self.now = self.now.after(FAILOVER_MAX);
        self.tracker.handle_timeout(self.now);
        self.take();
        assert_eq!(self.tracker.open_calls(), 0, "open calls");
        let live: Vec<&str> = self.tracker.live_legs().collect();
        assert_eq!(live, [""; 0], "legs that stand");
        self.now = self.now.after(REMEMBERED);
        self.tracker.handle_timeout(self.now);
        assert_eq!(self.tracker.legs(), 0, "legs remembered");
        assert_eq!(self.tracker.poll_timeout(), None);
    }

    fn laws_hold(&self) {
        let mut begun: HashMap<&str, &News> = HashMap::new();
        let mut over = HashSet::new();
        let mut ids = HashSet::new();
        for news in &self.news {
            let event = &news.event;
            let call = event.call_id.as_str();
            assert!(ids.insert(&news.id), "{} twice", news.id);
            assert!(!over.contains(call), "{call} after its hangup");
            match &event.what {
                What::NewCall { .. } => assert!(begun.insert(call, news).is_none(), "{call} begins twice"),
                What::Answer { answering_number, user } => {
                    assert!(begun.contains_key(call), "{call} does not begin with newCall");
                    if event.direction == Direction::Out {
                        assert!(answering_number.is_none() && user.is_none(), "{event:?}");
                    }
                }
                What::Hangup { .. } => {
                    assert!(begun.contains_key(call), "{call} does not begin with newCall");
                    over.insert(call);
                }
            }
            let first = &begun[call].event;
            assert_eq!((event.direction, &event.from, &event.to), (first.direction, &first.from, &first.to));
        }
    }
}

/// Recordings mixed with each other: the order within a leg is kept, that between legs is not. All of one run.
fn mixed(picked: &[usize], seed: u64) -> Vec<Event> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut lanes: Vec<Vec<Event>> = Vec::new();
    let mut lane_of: HashMap<String, usize> = HashMap::new();
    let chosen: HashSet<usize> = picked.iter().map(|at| at % SCRIPTS.len()).collect();
    for at in chosen {
        for event in &SCRIPTS[at].events {
            let id = event.get("Unique-ID").unwrap_or_default().into_owned();
            let old = event.get("Old-Unique-ID").unwrap_or_default();
            let next = lanes.len();
            let lane =
                lane_of.get(&*old).copied().unwrap_or_else(|| *lane_of.entry(id.clone()).or_insert(next));
            lane_of.insert(id, lane);
            if lane == lanes.len() {
                lanes.push(Vec::new());
            }
            lanes[lane].push(event.clone());
        }
    }
    let mut lanes: Vec<_> = lanes.into_iter().map(Vec::into_iter).collect();
    let mut mixed = Vec::new();
    while !lanes.is_empty() {
        let lane = rng.usize(..lanes.len());
        match lanes[lane].next() {
            Some(event) => mixed.push(event),
            None => drop(lanes.swap_remove(lane)),
        }
    }
    mixed
}

/// The events of a recording, all of one run of one switch, so that several can be mixed.
fn events(bytes: &[u8]) -> Vec<Event> {
    common::events(bytes)
        .iter()
        .map(|found| {
            let mut text = String::new();
            for name in HEADERS {
                let Some(value) = found.get(name) else { continue };
                let value = if name == "Core-UUID" { "one-run".into() } else { value };
                text.push_str(&format!("{name}: {}\n", escaped(&value)));
            }
            Event::parse(&text.into()).unwrap()
        })
        .collect()
}

fn event(headers: &[(&str, &str)]) -> Event {
    let text: String = headers.iter().map(|(name, value)| format!("{name}: {}\n", escaped(value))).collect();
    Event::parse(&text.into()).unwrap()
}

fn escaped(value: &str) -> String {
    value.replace('%', "%25").replace('+', "%2B").replace('\n', "%0A")
}
