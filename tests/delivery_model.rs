//! Random histories against the model of Zammad: whatever fails, wherever, however often the program dies,
//! every call ends up in Zammad once, as it happened, and no missed mark is wrong.
//!
//! The schedule is driven with virtual time; the store is a map that keeps exactly what the schedule asked to
//! keep. `DELIVERY_HISTORIES=100000 cargo test --release --test delivery_model` runs more of them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use fastrand::Rng;
use freeswitch_zammad::cti::cause::Cause;
use freeswitch_zammad::cti::event::{CallId, Direction, Event, VOICEMAIL, What};
use freeswitch_zammad::cti::reply::{Looked, Outcome, Reply};
use freeswitch_zammad::queue::backoff::Backoff;
use freeswitch_zammad::queue::breaker::Link;
use freeswitch_zammad::queue::line::{Item, LatePolicy, Lateness};
use freeswitch_zammad::queue::schedule::{Fate, Output, Schedule, Settings};
use freeswitch_zammad::sim::zammad::{Log, Routing, Row, Verdict};
use freeswitch_zammad::time::UnixMillis;
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

const START: UnixMillis = UnixMillis(1_795_444_000_000);

#[test]
fn every_call_once_right_state_right_mark() {
    let histories = std::env::var("DELIVERY_HISTORIES").map_or(3000, |n| n.parse().unwrap());
    let mut ambiguous = 0;
    for seed in 0..histories {
        ambiguous += World::new(seed, false).live();
    }
    assert!(ambiguous > 0, "no history had a hangup of unknown fate: the faults are not what they should be");
}

#[test]
fn with_a_rest_credential_no_fate_stays_unknown() {
    for seed in 0..1000 {
        assert_eq!(World::new(seed, true).live(), 0, "seed {seed}");
    }
}

struct World {
    seed: u64,
    rng: Rng,
    now: UnixMillis,
    zammad: Log,
    settings: Settings,
    schedule: Schedule,
    /// What is on disk: pending events and whether their attempt is recorded.
    store: BTreeMap<u64, Item>,
    /// Events yet to be accepted.
    future: Vec<(UnixMillis, Item)>,
    /// Events of a damaged store, older than those, that come into this one behind its back; and when.
    rest: VecDeque<(UnixMillis, Item)>,
    /// Accepted events whose word has not reached the schedule yet, in their order.
    notices: VecDeque<(UnixMillis, Item)>,
    flying: Vec<Flight>,
    fates: HashMap<u64, Fate>,
    stories: Vec<Story>,
    /// From when on nothing fails any more.
    calm: UnixMillis,
    outages: Vec<(UnixMillis, UnixMillis, bool)>,
}

/// What truly happened in one call.
struct Story {
    id: CallId,
    direction: Direction,
    missed: bool,
    hangup: u64,
    answered_by: Option<String>,
}

struct Flight {
    due: UnixMillis,
    seq: Option<u64>,
    call: Option<CallId>,
    result: Landing,
}

enum Landing {
    Post(Outcome),
    Probe(Outcome),
    Look(Looked),
    /// Read when it lands: other things happen between the asking and the reading.
    Load(u64, usize),
}

impl World {
    fn new(seed: u64, can_look: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let settings = Settings {
            concurrency: rng.usize(1..12),
            backoff: Backoff { min: Duration::from_millis(200), max: Duration::from_secs(20) },
            lateness: Lateness {
                after: Duration::from_secs(rng.u64(5..120)),
                policy: LatePolicy::Deliver,
                zone: TimeZone::UTC,
            },
            backlog_gap: Duration::from_millis(rng.u64(0..50)),
            age_max: Duration::from_hours(24),
            can_look,
        };
        let mut world = Self {
            seed,
            now: START,
            zammad: Log::default(),
            schedule: Schedule::new(settings.clone(), seed),
            settings,
            store: BTreeMap::new(),
            future: Vec::new(),
            rest: VecDeque::new(),
            notices: VecDeque::new(),
            flying: Vec::new(),
            fates: HashMap::new(),
            stories: Vec::new(),
            calm: START.after(Duration::from_secs(300)),
            outages: Vec::new(),
            rng,
        };
        world.imagine();
        world
    }

    /// Calls that overlap, and times at which Zammad is away or misconfigured.
    fn imagine(&mut self) {
        let calls = self.rng.u64(1..14);
        let mut drafts = Vec::new();
        for number in 0..calls {
            let begin = START.after(Duration::from_millis(self.rng.u64(0..240_000)));
            drafts.push((number, begin, self.draft(number)));
        }
        let mut events: Vec<(UnixMillis, u64, usize, What, bool)> = Vec::new();
        for (number, begin, (_, whats)) in &drafts {
            let mut at = *begin;
            let mut answered = false;
            for (index, what) in whats.iter().enumerate() {
                events.push((at, *number, index, what.clone(), answered));
                answered |= matches!(what, What::Answer { .. });
                at = at.after(Duration::from_millis(self.rng.u64(1..60_000)));
            }
        }
        events.sort_by_key(|(at, number, index, ..)| (*at, *number, *index));
        for (seq, (at, number, _, what, answered)) in (1..).zip(events) {
            let (direction, whats) = &drafts[usize::try_from(number).unwrap()].2;
            let id = CallId::new(&format!("call-{number}"));
            if let What::Hangup { cause } = what {
                let last = whats.iter().rev().find_map(|w| match w {
                    What::Answer { user, .. } => Some(user.clone().unwrap_or_default()),
                    What::NewCall { .. } | What::Hangup { .. } => None,
                });
                let talked = last.as_deref().is_some_and(|by| by != VOICEMAIL);
                let missed = *direction == Direction::In && !talked && cause != Cause::Forwarded;
                self.stories.push(Story {
                    id: id.clone(),
                    direction: *direction,
                    missed,
                    hangup: seq,
                    answered_by: last,
                });
            }
            let event = Event {
                call_id: id,
                direction: *direction,
                from: "4915112345678".into(),
                to: "4930555".into(),
                what,
            };
            let item =
                Item { seq, event, happened: at, answered, attempted: false, held: false, restored: false };
            self.future.push((at, item));
        }
        if self.rng.bool() {
            let mut at = START;
            for (_, item) in self.future.drain(..self.rng.usize(..=self.future.len())) {
                at = at.after(Duration::from_millis(self.rng.u64(0..8_000)));
                self.rest.push_back((at, item));
            }
        }
        self.future.reverse();
        for _ in 0..self.rng.u32(0..4) {
            let from = START.after(Duration::from_millis(self.rng.u64(0..280_000)));
            let to = from.after(Duration::from_millis(self.rng.u64(1000..200_000)));
            self.outages.push((from, to, self.rng.bool()));
        }
    }

    fn draft(&mut self, number: u64) -> (Direction, Vec<What>) {
        let direction = if self.rng.u32(0..4) == 0 { Direction::Out } else { Direction::In };
        let mut whats = vec![What::NewCall { user: None, queue: None }];
        let answer = |by: String| What::Answer { answering_number: Some(by.clone()), user: Some(by) };
        match (direction, self.rng.u32(0..6)) {
            (Direction::In, 0..3) => whats.push(What::Hangup { cause: Cause::Cancel }),
            (Direction::In, 3) => {
                whats.push(What::Answer { answering_number: None, user: Some(VOICEMAIL.into()) });
                whats.push(What::Hangup { cause: Cause::NormalClearing });
            }
            (Direction::In, 4) => whats.push(What::Hangup { cause: Cause::Forwarded }),
            (Direction::In, _) => {
                whats.push(answer(format!("{}", 1000 + number)));
                if self.rng.bool() {
                    whats.push(answer("1999".into()));
                }
                whats.push(What::Hangup { cause: Cause::NormalClearing });
            }
            (Direction::Out, n) => {
                if n > 1 {
                    whats.push(What::Answer { answering_number: None, user: None });
                }
                whats.push(What::Hangup { cause: if n > 1 { Cause::NormalClearing } else { Cause::Busy } });
            }
        }
        (direction, whats)
    }

    /// Until nothing is left to do; how many hangups ended with an unknown fate.
    fn live(mut self) -> usize {
        let mut steps = 0;
        loop {
            steps += 1;
            if steps > 20_000 {
                let left: Vec<_> = self.store.values().collect();
                panic!(
                    "seed {}: it never ends; {:?} {left:#?} wake {:?} now {}",
                    self.seed,
                    self.schedule.link(),
                    self.schedule.poll_timeout(),
                    self.now
                );
            }
            self.act();
            let accept = self.future.last().map(|(at, _)| *at);
            let notice = self.notices.front().map(|(at, _)| *at);
            let land = self.flying.iter().map(|f| f.due).min();
            let wake = self.schedule.poll_timeout();
            let taken_in = self.rest.front().map(|(at, _)| *at);
            let Some(next) = [accept, notice, land, wake, taken_in].into_iter().flatten().min() else {
                break;
            };
            self.now = self.now.max(next);
            if self.now < self.calm && self.rng.u32(0..150) == 0 {
                self.die();
                continue;
            }
            while self.rest.front().is_some_and(|(at, _)| *at <= self.now) {
                let (_, item) = self.rest.pop_front().unwrap();
                self.store.insert(item.seq, item);
            }
            while self.future.last().is_some_and(|(at, _)| *at <= self.now) {
                let (_, item) = self.future.pop().unwrap();
                self.store.insert(item.seq, item.clone());
                let due = self.now.after(Duration::from_millis(self.rng.u64(0..300)));
                self.notices.push_back((due, item));
            }
            while self.notices.front().is_some_and(|(at, _)| *at <= self.now) {
                let (_, item) = self.notices.pop_front().unwrap();
                self.schedule.handle_accepted(item, self.now);
            }
            if let Some(at) = (0..self.flying.len()).find(|at| self.flying[*at].due <= self.now) {
                self.land(at);
            }
        }
        self.judge()
    }

    /// kill -9: what was on its way may or may not arrive; what was not on disk is gone.
    fn die(&mut self) {
        self.flying.clear();
        self.notices.clear();
        self.schedule = Schedule::new(self.settings.clone(), self.rng.u64(..));
    }

    fn act(&mut self) {
        while let Some(output) = self.schedule.poll_output(self.now) {
            match output {
                Output::Post { seq, call_id: _, body, guarded } => {
                    if guarded {
                        self.store.get_mut(&seq).unwrap().attempted = true;
                    }
                    self.post(seq, &body);
                }
                Output::Look { seq, call_id } => self.look(seq, &call_id),
                Output::Probe => {
                    let outcome = self.probe();
                    self.fly(None, None, Landing::Probe(outcome));
                }
                Output::Settle { seq, call_id: _, fate } => {
                    self.store.remove(&seq).unwrap();
                    assert!(self.fates.insert(seq, fate).is_none(), "seed {}: settled twice", self.seed);
                }
                Output::Unguard { seq } => self.store.get_mut(&seq).unwrap().attempted = false,
                Output::Missing { .. } => unreachable!("nothing is restored here"),
                Output::Load { from, limit } => self.fly(None, None, Landing::Load(from, limit)),
                Output::Link(_) | Output::Blocked { .. } => {}
            }
        }
    }

    fn post(&mut self, seq: u64, body: &str) {
        let call = self.store[&seq].event.call_id.clone();
        assert!(
            self.flying.iter().all(|f| f.call.as_ref() != Some(&call)),
            "seed {}: two requests for {call} at once",
            self.seed
        );
        assert!(self.flying.len() < self.settings.concurrency + 3, "seed {}", self.seed);
        let outcome = match self.down() {
            Some(outcome) => outcome,
            None => self.process(body),
        };
        self.fly(Some(seq), Some(call), Landing::Post(outcome));
    }

    /// Zammad's work, with something going wrong before or after it now and then.
    fn process(&mut self, body: &str) -> Outcome {
        let faulty = self.now < self.calm && self.rng.u32(0..4) == 0;
        let page = |status| answer(status, "<html><head><title>Sorry</title></head></html>");
        let error_id = || answer(500, r#"{"error":"Error ID 1a2b3c4d: Please contact your administrator."}"#);
        match if faulty { self.rng.u32(0..12) } else { 99 } {
            0 => Outcome::NotSent("refused".into()),
            1 => Outcome::NoAnswer("reset before processing".into()),
            2 => page(502),
            3 => page(503),
            4 => answer(429, ""),
            5 => error_id(),
            6 => page(504),
            kind => {
                let done = self.take(body);
                match kind {
                    7 => Outcome::NoAnswer("reset after processing".into()),
                    8 => page(504),
                    9 => error_id(),
                    10 => answer(200, "garbage"),
                    11 => Outcome::NoAnswer("timeout".into()),
                    _ => done,
                }
            }
        }
    }

    fn take(&mut self, body: &str) -> Outcome {
        let params: Map<String, Value> = serde_json::from_str(body).unwrap();
        let is_over = |row: &Row| row.state == "hangup" && row.missed_mark();
        let before = self
            .zammad
            .rows()
            .iter()
            .find(|r| Some(r.call_id.as_str()) == params["callId"].as_str())
            .cloned();
        let verdict = self.zammad.post(&params, &Routing::default(), self.now);
        if let Some(before) = before.filter(is_over) {
            let after = self.zammad.rows().iter().find(|r| r.call_id == before.call_id).unwrap();
            assert!(is_over(after), "seed {}: a missed mark was taken back by {body}", self.seed);
        }
        match verdict {
            Verdict::Ok(value) => answer(200, &value.to_string()),
            Verdict::Said(status, text) => answer(status, &json!({ "error": text }).to_string()),
            Verdict::Raised(status, text) => {
                answer(status, &json!({ "error": text, "error_human": text }).to_string())
            }
            Verdict::Fault(status) => answer(status, r#"{"error":"Error ID 9f8e7d6c: Please contact …"}"#),
        }
    }

    fn probe(&mut self) -> Outcome {
        match self.down() {
            Some(outcome) => outcome,
            None if self.now < self.calm && self.rng.u32(0..6) == 0 => Outcome::NoAnswer("timeout".into()),
            None => answer(422, r#"{"error":"Invalid 'direction'!"}"#),
        }
    }

    fn look(&mut self, seq: u64, call: &CallId) {
        let row = self.zammad.rows().iter().find(|r| r.call_id == call.as_str());
        let looked = match (self.down(), row) {
            (Some(_), _) => Looked::Failed("away".into()),
            (None, None) => Looked::NotListed,
            (None, Some(row)) if row.state == "hangup" => Looked::Processed,
            (None, Some(_)) => Looked::Unprocessed,
        };
        self.fly(Some(seq), Some(call.clone()), Landing::Look(looked));
    }

    fn down(&self) -> Option<Outcome> {
        let down = self.outages.iter().find(|(from, to, _)| (*from..*to).contains(&self.now))?;
        Some(if down.2 {
            Outcome::NotSent("connection refused".into())
        } else {
            answer(401, r#"{"error":"Invalid token, please contact your admin!"}"#)
        })
    }

    fn fly(&mut self, seq: Option<u64>, call: Option<CallId>, result: Landing) {
        let due = self.now.after(Duration::from_millis(self.rng.u64(1..400)));
        self.flying.push(Flight { due, seq, call, result });
    }

    fn land(&mut self, at: usize) {
        let flight = self.flying.swap_remove(at);
        match flight.result {
            Landing::Post(outcome) => self.schedule.handle_outcome(flight.seq.unwrap(), &outcome, self.now),
            Landing::Probe(outcome) => self.schedule.handle_probe(&outcome, self.now),
            Landing::Look(looked) => self.schedule.handle_looked(flight.seq.unwrap(), looked, self.now),
            Landing::Load(from, limit) => {
                // Nothing is read past what is still to come, which is older.
                let end = self.rest.front().map_or(u64::MAX, |(_, item)| item.seq);
                let rows = self.store.range(from.min(end)..end).take(limit);
                let items: Vec<Item> = rows.map(|(_, item)| item.clone()).collect();
                let at_end = items.len() < limit && self.rest.is_empty();
                let next = items.last().map_or(from, |i| i.seq + 1);
                self.schedule.handle_loaded(items, next, at_end, self.now);
            }
        }
    }

    fn judge(self) -> usize {
        let seed = self.seed;
        assert!(self.store.is_empty(), "seed {seed}: {} events are still pending", self.store.len());
        assert_eq!(*self.schedule.link(), Link::Up, "seed {seed}");
        assert_eq!(self.zammad.rows().len(), self.stories.len(), "seed {seed}: one row per call");
        let mut ambiguous = 0;
        for story in &self.stories {
            let row = self.zammad.rows().iter().find(|r| r.call_id == story.id.as_str()).unwrap();
            let fate = &self.fates[&story.hangup];
            if matches!(fate, Fate::Ambiguous(_)) {
                // It was left alone: it rings still, or it is as it should be, but never marked wrongly.
                ambiguous += 1;
                assert!(row.state == "newCall" || row.missed_mark(), "seed {seed} {}: {row:?}", story.id);
                continue;
            }
            assert!(!matches!(fate, Fate::Dead(_)), "seed {seed} {}: {fate:?}", story.id);
            assert_eq!(row.state, "hangup", "seed {seed} {}", story.id);
            assert_eq!(row.missed_mark(), story.missed, "seed {seed} {}: {row:?}", story.id);
            assert_eq!(row.direction, story.direction.as_str());
            if let (Direction::In, Some(by)) = (story.direction, &story.answered_by) {
                // A late or repeated answer goes without identity; the mailbox keeps its name.
                let shown = row.to_comment.as_deref();
                assert!(
                    shown == Some(by) || (shown != Some(VOICEMAIL) && by != VOICEMAIL),
                    "seed {seed}: {row:?}"
                );
            }
        }
        ambiguous
    }
}

fn answer(status: u16, body: &str) -> Outcome {
    Outcome::Reply(Reply { status, body: body.to_owned(), retry_after: None, location: None })
}
