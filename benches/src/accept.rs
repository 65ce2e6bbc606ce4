//! Durable acceptance, as the daemon does it, beside a bare append and `fdatasync` of the same bytes: of one event with
//! the state of its call, and of groups as they form under load.

use std::time::Duration;

use freeswitch_zammad::edge::clock;
use freeswitch_zammad::store::{Accepting, Store};
use tokio::runtime::Runtime;

use crate::measure::{Row, Sample, Size, in_turns};
use crate::{corpus, disk};

/// Events in a group.
pub(crate) const GROUP: usize = 64;
/// Operations that are compared with as many of the other kind.
const BLOCK: usize = 16;
/// Events of a plain call.
const PER_CALL: usize = 3;
/// The busiest switch that is thought of.
const CALLS_PER_S: f64 = 1000.0;

pub(crate) fn run(size: Size) -> Vec<Row> {
    let dir = disk::dir();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    let store = Store::open(dir.path(), corpus::limits()).expect("a fresh store");
    let mut log = disk::Log::new(dir.path());

    let rounds = size.of(40, 2);
    let singles = corpus::accepted(rounds * BLOCK / PER_CALL + 1, "one");
    let (mut a, mut b) = (singles.iter(), singles.iter().map(corpus::raw));
    // Block by block, and in turns within each: a disk has its moods.
    let mut one = Sample::default();
    for _ in 0..rounds {
        let mut sum = |ratios: Sample| one.add(ratios.median());
        sum(in_turns(
            BLOCK,
            |_| accept(&runtime, &store, a.next().expect("enough for all rounds").clone()),
            |_| log.append(&b.next().expect("enough for all rounds")),
        ));
    }

    let groups: Vec<Accepting> = groups(size.of(200, 4), "group");
    let raw: Vec<Vec<u8>> = groups.iter().map(corpus::raw).collect();
    let mut rate = Sample::default();
    let group = in_turns(
        groups.len(),
        |at| {
            let took = accept(&runtime, &store, groups[at].clone());
            rate.add(GROUP as f64 / took.as_secs_f64() / (CALLS_PER_S * PER_CALL as f64));
            took
        },
        |at| log.append(&raw[at]),
    );
    runtime.block_on(store.close()).expect("a sound disk");
    vec![
        Row {
            what: "durable accept of 1 event, with its call's state",
            against: "one append + fdatasync of the same bytes",
            goal: "≥ 0.9".into(),
            met: Some(one.median() >= 0.9),
            result: one.to_string(),
        },
        Row {
            what: "durable accept of 64 events (group commit)",
            against: "one append + fdatasync of the same bytes",
            goal: "≥ 0.4".into(),
            met: Some(group.median() >= 0.4),
            result: quartiles(&group),
        },
        Row {
            what: "the same, one group after the other",
            against: "3,000 events a second (1,000 call set-ups)",
            goal: "> 1".into(),
            met: Some(rate.median() > 1.0),
            result: quartiles(&rate),
        },
    ]
}

fn quartiles(sample: &Sample) -> String {
    format!("{:.2} (quartiles {:.2}–{:.2})", sample.median(), sample.at(0.25), sample.at(0.75))
}

/// So many groups of whole calls.
pub(crate) fn groups(count: usize, prefix: &str) -> Vec<Accepting> {
    let mut singles = corpus::accepted(count * GROUP / PER_CALL + 1, prefix).into_iter();
    let group = |_| {
        let mut group = Accepting::default();
        for single in singles.by_ref().take(GROUP) {
            group.events.extend(single.events);
            for change in single.state {
                // The latest state of a call counts, as in the daemon.
                group.state.retain(|s| s.key != change.key);
                group.state.push(change);
            }
        }
        group
    };
    (0..count).map(group).collect()
}

fn accept(runtime: &Runtime, store: &Store, accepting: Accepting) -> Duration {
    let store = store.clone();
    let task = runtime.spawn(async move {
        let begun = clock::monotonic();
        let seqs = store.accept_in_place(accepting).await;
        (begun.elapsed(), seqs)
    });
    let (took, seqs) = runtime.block_on(task).expect("it does not panic");
    assert!(seqs.expect("a sound disk").iter().all(Option::is_some), "each is new");
    took
}
