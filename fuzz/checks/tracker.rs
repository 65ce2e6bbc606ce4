//! Legs that come, meet and go in any order. An input is the settings, then moves: events of a few legs made from
//! a small grammar, time that passes, restarts of the daemon.
//!
//! A *strict* play keeps to what every switch keeps to: a leg has one moment of creation, and a UUID or a run of
//! the switch does not come back. A *loose* one keeps to nothing, and time jumps.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use freeswitch_zammad::call::people::{Agent, People};
use freeswitch_zammad::call::tracker::{FAILOVER_MAX, LEGS_MAX, News, Output, REMEMBERED, Settings, Tracker};
use freeswitch_zammad::cti::event::{CALL_ID_MAX, Direction, What};
use freeswitch_zammad::esl::event::Event;
use freeswitch_zammad::store::state;
use freeswitch_zammad::time::UnixMillis;

use super::{Input, settings};

/// What a strict play may take in all, so that nothing is forgotten that could be asked for again.
const STRICT_MS: u64 = 100_000;

pub(crate) fn check(input: &[u8]) {
    let mut input = Input::new(input);
    let flags = input.byte();
    let play = Rules {
        internal: flags & 1 != 0,
        explain: flags & 2 != 0,
        legs_max: if flags & 4 != 0 { 2 + usize::from(flags >> 5) } else { LEGS_MAX },
        restarts: flags & 4 == 0,
        strict: flags & 8 == 0,
    };
    let moves = input.rest();
    let told = played(play, moves);
    if play.strict && play.restarts {
        let through = played(Rules { restarts: false, ..play }, moves);
        for (with, without) in told.iter().zip(&through) {
            assert_eq!(with, without, "a restart changes nothing");
        }
        assert_eq!(told.len(), through.len(), "a restart changes nothing");
    }
}

#[derive(Clone, Copy)]
struct Rules {
    internal: bool,
    explain: bool,
    legs_max: usize,
    restarts: bool,
    strict: bool,
}

/// Behind it lies no moment to wait for.
const LATEST: u64 = u64::MAX / 2;

/// Plays all moves, checks as it goes, and gives what was told.
fn played(rules: Rules, moves: &[u8]) -> Vec<(String, String)> {
    let mut play = Play::new(rules);
    let mut moves = Input::new(moves);
    while !moves.is_empty() {
        match moves.byte() % 16 {
            kind @ 0..=12 => play.event(kind, &mut moves),
            13 => play.waits(&mut moves),
            14 => {
                let id = id(moves.byte() % LEGS);
                play.tracker.vanished(&id, play.now);
            }
            _ => play.restarts(),
        }
        play.takes();
        play.is_bounded();
    }
    play.ends();
    play.told
}

struct Play {
    rules: Rules,
    settings: Arc<Settings>,
    tracker: Tracker,
    began: UnixMillis,
    now: UnixMillis,
    runs: u32,
    /// When the leg that now has an id was made, if it says so: its own affair, which it takes along to another id.
    births: [Option<u64>; LEGS as usize],
    last_birth: u64,
    /// Ids that were heard of.
    known: [bool; LEGS as usize],
    store: BTreeMap<String, Vec<u8>>,
    /// Calls that are told as going on: their newCall, and the ids of what was told of them.
    open: HashMap<String, (News, HashSet<String>)>,
    over: HashSet<String>,
    told: Vec<(String, String)>,
}

impl Play {
    fn new(rules: Rules) -> Self {
        let agent = |user: &str, number: Option<&str>| Agent {
            user: Some(user.to_owned()),
            number: number.map(str::to_owned),
        };
        let agents = [
            ("1001".to_owned(), agent("Anton", Some("49305551001"))),
            ("1002@b.test".to_owned(), agent("Berta", None)),
        ];
        let queues = [("49305552000".to_owned(), "Support".to_owned())];
        let settings = Arc::new(Settings {
            people: People::new(agents.into(), queues.into()),
            internal: rules.internal,
            ..settings()
        });
        let now = UnixMillis(1_700_000_000_000);
        let mut play = Self {
            tracker: Tracker::bounded(settings.clone(), rules.legs_max),
            rules,
            settings,
            began: now,
            now,
            runs: 0,
            births: [None; LEGS as usize],
            last_birth: 0,
            known: [false; LEGS as usize],
            store: BTreeMap::new(),
            open: HashMap::new(),
            over: HashSet::new(),
            told: Vec::new(),
        };
        play.explains();
        play
    }

    fn explains(&mut self) {
        if self.rules.explain {
            self.tracker.explain();
        }
    }

    fn event(&mut self, kind: u8, moves: &mut Input<'_>) {
        let legs = moves.byte();
        let flags = moves.pair();
        let words = moves.byte();
        let (one, other) = (legs % LEGS, (legs >> 4) % LEGS);
        if flags & BORN_AGAIN != 0 && words.is_multiple_of(32) {
            self.runs += 1;
        }
        let run = if self.rules.strict { self.runs } else { u32::from(flags & BORN_AGAIN != 0) };
        if self.rules.strict {
            if !self.as_a_switch_would(kind, one, other, flags) {
                return;
            }
        } else {
            let timeless = flags & (SECOND_LIFE | PRIVATE) == SECOND_LIFE;
            let life = u64::from(flags & SECOND_LIFE != 0);
            self.births = std::array::from_fn(|leg| (!timeless).then_some(2 * leg as u64 + life));
        }
        let created = [one, other].map(|leg| self.births[usize::from(leg)].map(moment));
        let text = written(kind, [one, other], created, flags, words, run);
        let event = Event::parse(&Bytes::from(text)).expect("an event was written");
        self.now = UnixMillis(self.now.0.saturating_add(10));
        self.tracker.handle_event(&event, self.now);
    }

    /// Whether a switch could say this, and what it would have to be about: a leg is made once, and not renamed
    /// when it is over; a UUID is given once.
    fn as_a_switch_would(&mut self, kind: u8, one: u8, other: u8, flags: u16) -> bool {
        let (at, from) = (usize::from(one), usize::from(other));
        if kind == RENAMED {
            let old = id(other);
            let over =
                self.tracker.family_of(&old).is_some() && self.tracker.live_legs().all(|leg| leg != old);
            if one == other || over || self.known[at] && !chosen(one) {
                return false;
            }
            self.is_born(other, false);
            self.births[at] = self.births[from];
            self.known[at] = true;
            return true;
        }
        self.is_born(one, kind <= CREATED && chosen(one) && flags & SECOND_LIFE != 0);
        self.is_born(other, false);
        true
    }

    /// A leg that was not heard of, or is another by an old id, has its own moment of creation; some never say it.
    fn is_born(&mut self, leg: u8, again: bool) {
        let at = usize::from(leg);
        if (again || !self.known[at]) && !matches!(leg, 5 | 6) {
            self.last_birth += 1;
            self.births[at] = Some(self.last_birth);
        }
        self.known[at] = true;
    }

    fn waits(&mut self, moves: &mut Input<'_>) {
        let by = moves.byte();
        if self.rules.strict {
            let ms = [0, 1, 1000, 9_990, 10_000, 30_000][usize::from(by) % 6];
            if self.now.0 + ms - self.began.0 < STRICT_MS {
                self.now = UnixMillis(self.now.0 + ms);
            }
        } else {
            let ms = u64::from(moves.pair()) << (by % 60);
            let back = by & 128 != 0;
            let now = if back { self.now.0.saturating_sub(ms) } else { self.now.0.saturating_add(ms) };
            self.now = UnixMillis(now.min(LATEST));
        }
        self.tracker.handle_timeout(self.now);
        let later = self.tracker.poll_timeout().is_none_or(|due| due > self.now);
        assert!(later, "what was due has been done");
    }

    /// The daemon stops after what it has heard so far, and a new one goes on from the store.
    fn restarts(&mut self) {
        if !self.rules.restarts {
            return;
        }
        self.stores();
        let mut next = Tracker::bounded(self.settings.clone(), self.rules.legs_max);
        for (key, value) in &self.store {
            let (switch, (family, legs, calls)) = state::decode(key, value).expect("what was stored is read");
            assert_eq!(switch, "main");
            assert_eq!(state::encode(&legs, &calls), *value, "what was read is what was stored");
            next.restore(family, legs, calls);
        }
        assert_eq!(next.open_calls(), self.tracker.open_calls());
        self.tracker = next;
        self.explains();
    }

    fn stores(&mut self) {
        while let Some((family, kept)) = self.tracker.poll_changed() {
            let key = state::key("main", family);
            match kept {
                Some((legs, calls)) => drop(self.store.insert(key, state::encode(&legs, &calls))),
                None => drop(self.store.remove(&key)),
            }
        }
    }

    fn takes(&mut self) {
        while let Some(output) = self.tracker.poll_output() {
            match output {
                Output::News(news) => self.hears(news),
                Output::Note { text, .. } => assert!(self.rules.explain && !text.is_empty()),
                Output::UnknownCause(cause) => assert!(!cause.is_empty()),
            }
        }
    }

    /// A call's newCall is its first event and its hangup the last; what it is about never changes.
    fn hears(&mut self, news: News) {
        let call = news.event.call_id.as_str().to_owned();
        assert!(!call.is_empty() && call.chars().count() <= CALL_ID_MAX);
        self.told.push((news.id.clone(), news.event.body()));
        if let What::NewCall { .. } = &news.event.what {
            let again = self.open.insert(call.clone(), (news.clone(), HashSet::from([news.id.clone()])));
            assert!(again.is_none(), "{call} begins while it goes on");
            assert!(
                !(self.rules.strict && self.rules.legs_max == LEGS_MAX && self.over.contains(&call)),
                "{call} begins again"
            );
            return;
        }
        let (first, ids) =
            self.open.get_mut(&call).unwrap_or_else(|| panic!("{call} does not go on: {news:?}"));
        let about = |event: &News| (event.event.direction, event.event.from.clone(), event.event.to.clone());
        assert_eq!(about(&news), about(first));
        assert_eq!((news.family, &news.zammad), (first.family, &first.zammad));
        assert!(ids.insert(news.id.clone()), "{} twice", news.id);
        match &news.event.what {
            What::NewCall { .. } => {}
            What::Answer { answering_number, user } => {
                let named = answering_number.is_some() || user.is_some();
                assert!(news.event.direction == Direction::In || !named, "an outbound answer names nobody");
            }
            What::Hangup { .. } => {
                self.open.remove(&call);
                self.over.insert(call);
            }
        }
    }

    fn is_bounded(&self) {
        assert!(self.tracker.legs() <= self.rules.legs_max);
        // One is a leg's own, one it dialled and waits for.
        assert!(self.tracker.open_calls() <= 2 * self.tracker.legs());
        assert_eq!(self.tracker.open_calls(), self.open.len(), "what goes on was told, and nothing else");
    }

    /// The switch knows none of the legs any more: every call ends, and all is forgotten, here and in the store.
    fn ends(&mut self) {
        for leg in self.tracker.live_legs().map(str::to_owned).collect::<Vec<_>>() {
            self.tracker.vanished(&leg, self.now);
        }
        self.takes();
        self.now = self.now.after(FAILOVER_MAX);
        self.tracker.handle_timeout(self.now);
        self.takes();
        assert_eq!((self.tracker.open_calls(), self.open.len()), (0, 0), "calls go on without legs");
        assert_eq!(self.tracker.live_legs().collect::<Vec<_>>(), [""; 0], "legs that nothing ends");
        // Time may have jumped back since something ended.
        while let Some(due) = self.tracker.poll_timeout() {
            self.now = self.now.max(due).after(REMEMBERED);
            self.tracker.handle_timeout(self.now);
        }
        assert_eq!(self.tracker.legs(), 0);
        self.stores();
        assert!(self.store.is_empty(), "the store forgets as the tracker does: {:?}", self.store.keys());
    }
}

const LEGS: u8 = 12;
/// Up to here kinds of event are CREATEs.
const CREATED: u8 = 2;
const RENAMED: u8 = 9;
const NUMBERS: [&str; 16] = [
    "+4915112345678",
    "1001",
    "1002",
    "0301234567",
    "anonymous",
    "",
    "+49305551001",
    "sip:+49305552000@provider.test",
    "110",
    "*98",
    "49305552000",
    "0049151123456789012345",
    "J\u{fc}rgen",
    "0000000000",
    "1002@b.test",
    "00",
];
const CAUSES: [&str; 8] = [
    "NORMAL_CLEARING",
    "USER_BUSY",
    "ORIGINATOR_CANCEL",
    "LOSE_RACE",
    "BLIND_TRANSFER",
    "",
    "NO_SUCH_CAUSE",
    "ALLOTTED_TIMEOUT",
];

const INBOUND: u16 = 1;
const GATEWAY: u16 = 8;
const LOGIN: u16 = 16;
const DIALLED_USER: u16 = 32;
const TIED: u16 = 64;
const ANSWERED: u16 = 128;
const SECOND_LIFE: u16 = 256;
const PRESENCE: u16 = 512;
const TWIN: u16 = 1024;
const BORN_AGAIN: u16 = 2048;
const PRIVATE: u16 = 4096;
const HUNG_UP: u16 = 8192;
const MAILBOX: u16 = 16_384;
const OVER: u16 = 32_768;

/// By an application: it can come back.
const fn chosen(leg: u8) -> bool {
    leg >= 7
}

fn id(leg: u8) -> String {
    match leg {
        0..=6 => format!("00000000-0000-4000-8000-0000000000{leg:02}"),
        7..=9 => format!("own-{leg}"),
        10 => "\u{fc}".repeat(260),
        _ => "own".into(),
    }
}

/// A moment of creation by the switch's clock, in microseconds.
fn moment(birth: u64) -> u64 {
    1_699_999_000_000_000 + birth * 5_000
}

fn channel(leg: u8, flags: u16, number: &str) -> String {
    match flags >> 1 & 3 {
        0 => format!("sofia/external/{number}@provider.test"),
        1 => format!("sofia/internal/{number}@b.test"),
        2 => format!("loopback/{number}-{}", if leg.is_multiple_of(2) { "a" } else { "b" }),
        _ => "verto.rtc/1001".into(),
    }
}

/// An event as the switch writes it.
fn written(
    kind: u8,
    [one, other]: [u8; 2],
    created: [Option<u64>; 2],
    flags: u16,
    words: u8,
    run: u32,
) -> String {
    let has = |flag: u16| flags & flag != 0;
    let number = NUMBERS[usize::from(words % 16)];
    let far = NUMBERS[usize::from(words >> 4)];
    let cause = CAUSES[usize::from(words >> 4) % 8];
    let name = match kind {
        0..=CREATED => "CHANNEL_CREATE",
        3 => "CHANNEL_ANSWER",
        4 | 5 => "CHANNEL_BRIDGE",
        6 => "CHANNEL_UNBRIDGE",
        7 | 8 => "CHANNEL_HANGUP_COMPLETE",
        RENAMED => "CHANNEL_UUID",
        10 => "CHANNEL_DATA",
        11 => "CUSTOM",
        _ => "HEARTBEAT",
    };
    let mut text = String::new();
    let mut say = |name: &str, value: &str| {
        let escaped = value.replace('%', "%25").replace('+', "%2B");
        text.push_str(&format!("{name}: {escaped}\n"));
    };
    say("Event-Name", name);
    say("Core-UUID", &format!("run-{run}"));
    if kind == 12 {
        return text;
    }
    say("Unique-ID", &id(one));
    say("Call-Direction", if has(INBOUND) { "inbound" } else { "outbound" });
    say("Channel-Name", &channel(one, flags, far));
    say("Caller-Context", if has(PRESENCE) { "public" } else { "default" });
    say("Caller-Caller-ID-Number", number);
    say("Caller-Destination-Number", far);
    if let Some(at) = created[0] {
        say("Caller-Channel-Created-Time", &at.to_string());
    }
    let state = if has(OVER) && kind == 10 {
        "hangup"
    } else if has(ANSWERED) {
        "answered"
    } else {
        "ringing"
    };
    say("Answer-State", state);
    if has(GATEWAY) {
        say("variable_sip_gateway_name", "trunk");
    }
    if has(LOGIN) {
        for header in ["variable_sip_auth_username", "variable_user_name", "variable_sip_from_user"] {
            say(header, number);
        }
        say("variable_domain_name", "b.test");
    }
    if has(DIALLED_USER) {
        say("variable_dialed_user", far);
        say("variable_dialed_domain", "b.test");
    }
    if has(PRESENCE) {
        say("Channel-Presence-ID", &format!("{number}@b.test"));
    }
    if has(TWIN) {
        say("variable_other_loopback_leg_uuid", &id(other));
    }
    if has(MAILBOX) {
        say("variable_loopback_app", "voicemail");
        say("variable_current_application", "conference");
        say("variable_conference_name", "3000");
    }
    if has(PRIVATE) {
        say("Caller-Privacy-Hide-Number", "true");
    }
    if has(TIED) || (kind == 4 && has(OVER)) {
        say("Other-Type", if has(TIED) { "originator" } else { "originatee" });
        say("variable_originator", &id(other));
        say("Other-Leg-Unique-ID", &id(other));
        say("Other-Leg-Channel-Name", &channel(other, flags >> 8, number));
        say("Other-Leg-Direction", if has(OVER) { "inbound" } else { "outbound" });
        say("Other-Leg-Caller-ID-Number", far);
        say("Other-Leg-Destination-Number", number);
        if let Some(at) = created[1] {
            say("Other-Leg-Channel-Created-Time", &at.to_string());
        }
    }
    match kind {
        4 | 6 => {
            say("Bridge-A-Unique-ID", &id(one));
            say("Bridge-B-Unique-ID", &id(other));
        }
        5 => say("variable_bridge_uuid", &id(other)),
        7 | 8 => {
            say("Hangup-Cause", cause);
            say("variable_sip_hangup_disposition", if has(HUNG_UP) { "recv_bye" } else { "send_bye" });
            say("variable_originate_disposition", CAUSES[usize::from(words % 8)]);
        }
        RENAMED => say("Old-Unique-ID", &id(other)),
        10 => say("variable_bridge_to", &id(other)),
        11 => {
            say("Event-Subclass", "conference::maintenance");
            say("Action", if has(HUNG_UP) { "del-member" } else { "add-member" });
            say("Conference-Name", "3000");
        }
        _ => {}
    }
    text
}
