//! Calls without end, many at the same time: what a FreeSWITCH sent for a few of them, with legs and an outside
//! number of its own for each.
#![allow(dead_code, reason = "each test is a crate of its own, and not every one needs every helper")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use freeswitch_zammad::esl::command::SUBSCRIPTION;
use freeswitch_zammad::sim::recording::Recording;
use memchr::memmem;
use serde_json::Value;

use super::common;

/// How often each recording comes, of 20 calls. Two legs each; the ring group has four. None in which what is told
/// depends on how long something took.
const MIX: [(&str, usize); 9] = [
    ("in_answered_callee_hangs_up", 4),
    ("in_answered_caller_hangs_up", 3),
    ("in_caller_cancels", 3),
    ("in_no_answer_timeout", 2),
    ("in_busy_486", 2),
    ("out_answered_agent_hangs_up", 3),
    ("out_busy", 1),
    ("out_404", 1),
    ("rg_one_answers", 1),
];
/// Calls that go on at the same time.
const OVERLAP: usize = 60;
/// About how many bytes are made at once.
const CHUNK: usize = 128 * 1024;
/// The outside numbers of the recordings, as far as they stay; eight digits that are each call's own follow.
const NUMBERS: [&str; 2] = ["15112345678", "17099988877"];
const OWN_DIGITS: usize = 8;

/// See the module.
pub(crate) struct Load {
    kinds: Vec<Arc<Kind>>,
    going_on: Vec<Call>,
    dice: fastrand::Rng,
    /// Calls that were begun.
    pub(crate) calls: u64,
    /// Events of the switch that were made.
    pub(crate) events: u64,
    told: BTreeMap<String, u64>,
}

struct Kind {
    /// Frames of the events that the daemon asks for.
    events: Vec<Pattern>,
    legs: usize,
    /// What Zammad must be told, as its tally says it.
    told: Vec<String>,
}

struct Pattern {
    frame: Vec<u8>,
    /// Where which of the call's own texts stand.
    places: Vec<(usize, usize)>,
}

struct Call {
    kind: Arc<Kind>,
    /// An id for each leg, then the digits.
    own: Vec<String>,
    next: usize,
}

impl Load {
    /// Calls on a switch of this Core-UUID; the same seed makes the same calls.
    pub(crate) fn new(core_uuid: &str, seed: u64) -> Self {
        let expected = common::expected("captures");
        let kinds = MIX.iter().flat_map(|(name, weight)| {
            let kind = Arc::new(Kind::new(name, core_uuid, &expected[*name]));
            std::iter::repeat_n(kind, *weight)
        });
        Self {
            kinds: kinds.collect(),
            going_on: Vec::new(),
            dice: fastrand::Rng::with_seed(seed),
            calls: 0,
            events: 0,
            told: BTreeMap::new(),
        }
    }

    /// The next events, while new calls begin.
    pub(crate) fn go_on(&mut self) -> Vec<u8> {
        self.chunk(true)
    }

    /// The next events, while no new calls begin; empty when all have ended.
    pub(crate) fn end(&mut self) -> Vec<u8> {
        self.chunk(false)
    }

    /// What Zammad must have been told when all have ended, each once: as its tally says it.
    pub(crate) fn told(&self) -> &BTreeMap<String, u64> {
        assert!(self.going_on.is_empty(), "calls go on");
        &self.told
    }

    fn chunk(&mut self, new_calls: bool) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(CHUNK + CHUNK / 4);
        while bytes.len() < CHUNK {
            while new_calls && self.going_on.len() < OVERLAP {
                let call = self.begin();
                self.going_on.push(call);
            }
            let Some(at) = self.dice.choice(0..self.going_on.len()) else { break };
            let call = &mut self.going_on[at];
            call.kind.events[call.next].write(&call.own, &mut bytes);
            call.next += 1;
            self.events += 1;
            if call.next == call.kind.events.len() {
                self.going_on.swap_remove(at);
            }
        }
        bytes
    }

    fn begin(&mut self) -> Call {
        let kind = Arc::clone(&self.kinds[self.dice.usize(..self.kinds.len())]);
        let mut own: Vec<String> = (0..kind.legs).map(|_| uuid(self.dice.u128(..))).collect();
        own.push(format!("{:08}", self.dice.u32(..100_000_000)));
        for what in &kind.told {
            *self.told.entry(what.clone()).or_default() += 1;
        }
        self.calls += 1;
        Call { kind, own, next: 0 }
    }
}

impl Kind {
    fn new(name: &str, core_uuid: &str, expected: &Value) -> Self {
        let asked_for: Vec<&str> = SUBSCRIPTION.split_ascii_whitespace().skip(2).collect();
        let recording = Recording::parse(&common::recording("captures", name)).unwrap();
        let recording = recording.only(&asked_for).with_core_uuid(core_uuid);
        let legs: BTreeSet<String> =
            recording.events().iter().filter_map(|event| event.header("Unique-ID")).collect();
        // Heartbeats are the switch's own.
        let of_legs = recording.events().iter().filter(|event| event.header("Unique-ID").is_some());
        let events = of_legs.map(|event| Pattern::new(event.frame(), &legs)).collect();
        let [call] = expected.as_array().unwrap().as_slice() else { panic!("{name} is not one call") };
        Self { events, legs: legs.len(), told: told(call) }
    }
}

/// What Zammad is told of a call, from what a person would say of it.
fn told(call: &Value) -> Vec<String> {
    let text = |key: &str| call[key].as_str().unwrap().to_owned();
    let (direction, cause) = (text("direction"), text("cause"));
    let answers = match call["answers"].as_array() {
        Some(answers) => answers.len(),
        None => usize::from(call["answered"].as_bool().unwrap()),
    };
    let mut told = vec![format!("newCall {direction}"), format!("hangup {direction} {cause}")];
    told.extend(std::iter::repeat_n(format!("answer {direction}"), answers));
    if direction == "in" && answers == 0 {
        told.push("missed".to_owned());
    }
    told
}

impl Pattern {
    fn new(frame: &[u8], legs: &BTreeSet<String>) -> Self {
        let mut places = Vec::new();
        for (which, leg) in legs.iter().enumerate() {
            places.extend(memmem::find_iter(frame, leg).map(|at| (at, which)));
        }
        assert!(!places.is_empty(), "an event of no leg");
        for number in NUMBERS {
            let digits = number.len() - OWN_DIGITS;
            places.extend(memmem::find_iter(frame, number).map(|at| (at + digits, legs.len())));
        }
        Self { frame: frame.to_vec(), places }
    }

    fn write(&self, own: &[String], to: &mut Vec<u8>) {
        let start = to.len();
        to.extend_from_slice(&self.frame);
        for (at, which) in &self.places {
            let text = own[*which].as_bytes();
            to[start + at..start + at + text.len()].copy_from_slice(text);
        }
    }
}

fn uuid(random: u128) -> String {
    let hex = format!("{random:032x}");
    format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}
