//! The parts of the power-cut test: what is done to a store ([`work`]), what is found in one ([`look`]), and what
//! must be found ([`history`]).

pub(crate) mod history;
pub(crate) mod look;
pub(crate) mod work;

use std::time::Duration;

use freeswitch_zammad::cti::cause::Cause;
use freeswitch_zammad::cti::event::{CallId, Direction, Event, What};
use freeswitch_zammad::store::{Limits, Pending, StateChange};
use freeswitch_zammad::time::UnixMillis;

/// An event of the test: the step of a call, from 0 (it begins) to [`LAST`] (it ends).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Told {
    pub(crate) call: u64,
    pub(crate) step: u64,
}

/// The step that ends a call, and takes its state away.
pub(crate) const LAST: u64 = 3;

impl Told {
    /// As ids and moments spell it.
    pub(crate) fn word(self) -> String {
        format!("{}/{}", self.call, self.step)
    }

    pub(crate) fn of(word: &str) -> Self {
        let (call, step) = word.split_once('/').unwrap();
        Self { call: call.parse().unwrap(), step: step.parse().unwrap() }
    }

    pub(crate) fn event(self) -> Pending {
        let what = match self.step {
            0 => What::NewCall { user: None, queue: Some("sales".into()) },
            LAST => What::Hangup { cause: Cause::NormalClearing },
            _ => What::Answer { answering_number: Some("4940456".into()), user: None },
        };
        Pending {
            id: self.word(),
            zammad: "main".into(),
            switch: "pbx".into(),
            event: Event {
                call_id: CallId::new(&format!("call-{}", self.call)),
                direction: Direction::In,
                from: "4930123".into(),
                to: "4940456".into(),
                what,
            },
            happened: UnixMillis(self.call * 10 + self.step),
            answered: self.step > 0,
            attempt: None,
            held: false,
            restored: false,
        }
    }

    /// The state of the call after this step.
    pub(crate) fn state(self) -> StateChange {
        StateChange { key: self.call.to_string(), value: (self.step < LAST).then(|| self.value()) }
    }

    /// Of a length of its own, so that rows and pages of all sizes are written.
    pub(crate) fn value(self) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(self.call * 10 + self.step);
        let len = if random.u8(0..4) == 0 { random.usize(5_000..30_000) } else { random.usize(100..3_000) };
        let mut value = format!("{}\n", self.word()).into_bytes();
        value.extend((0..len).map(|_| random.u8(..)));
        value
    }
}

/// Few, so that there is always something to trim.
pub(crate) fn limits() -> Limits {
    let day = Duration::from_secs(86_400);
    Limits {
        delivered_max: 12,
        delivered_age: day,
        dead_max: 6,
        dead_age: day,
        swap_bytes: u64::MAX,
        together_above: 2,
    }
}
