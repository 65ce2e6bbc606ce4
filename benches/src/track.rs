//! The call tracker with few and with many calls open.

use std::time::Duration;

use freeswitch_zammad::call::tracker::Tracker;
use freeswitch_zammad::edge::clock;
use freeswitch_zammad::esl::event::Event;

use crate::corpus;
use crate::measure::{Row, Size, in_turns, timed};

/// Calls that come and go in one run.
const CALLS: usize = 200;

pub(crate) fn run(size: Size) -> Vec<Row> {
    let many = size.of(100_000, 1_000);
    let mut small = with_open(10);
    let mut large = with_open(many);
    let calls: Vec<Vec<Event>> = (0..size.of(40, 2)).map(|round| some_calls(round, CALLS)).collect();
    // What the first run of each finds cold is no matter of how many calls are open.
    let _ = (run_calls(&mut small, &some_calls(900, CALLS)), run_calls(&mut large, &some_calls(901, CALLS)));
    // Each round has calls of its own: the tracker remembers ended ones.
    let ratios = in_turns(
        calls.len(),
        |round| run_calls(&mut small, &calls[round]),
        |round| run_calls(&mut large, &calls[round]),
    );
    assert!(large.open_calls() >= many, "the calls stay open");
    vec![Row {
        what: "tracker, time per event with 100,000 open calls",
        against: "itself with 10",
        goal: "flat (≤ 1.25: what a memory that no cache holds costs)".into(),
        result: ratios.to_string(),
        met: Some(ratios.median() <= 1.25),
    }]
}

/// A tracker with so many calls that have begun and are not answered.
pub(crate) fn with_open(calls: usize) -> Tracker {
    let mut tracker = corpus::tracker();
    let plain = corpus::recording(corpus::PLAIN).split_at(1).0;
    for call in 0..calls {
        for event in corpus::parsed(&plain.renamed(&format!("open{call}"))) {
            tracker.handle_event(&event, clock::now());
        }
        corpus::take(&mut tracker);
    }
    tracker
}

/// Whole calls, one after the other.
pub(crate) fn some_calls(round: usize, calls: usize) -> Vec<Event> {
    let plain = corpus::recording(corpus::PLAIN);
    let each = |call| corpus::parsed(&plain.renamed(&format!("r{round}c{call}")));
    (0..calls).flat_map(each).collect()
}

pub(crate) fn run_calls(tracker: &mut Tracker, events: &[Event]) -> Duration {
    let now = clock::now();
    let (took, told) = timed(|| {
        let mut told = 0;
        for event in events {
            tracker.handle_event(event, now);
            while tracker.poll_output().is_some() {
                told += 1;
            }
            while tracker.poll_changed().is_some() {
                told += 1;
            }
        }
        told
    });
    assert!(told > 0, "something is told");
    took
}
