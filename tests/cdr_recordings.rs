//! Every recording as the files that FreeSWITCH would have written of it, read back: each call must come out as a
//! person watching would say, and under the same identity as live.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/cdr.rs"]
mod record;

use std::collections::BTreeSet;
use std::sync::Arc;

use freeswitch_zammad::call::cdr::{self, Cdr};
use freeswitch_zammad::call::tracker::{FAILOVER_MAX, News, Output, Tracker};
use freeswitch_zammad::cti::event::What;
use freeswitch_zammad::sim::recording::Recording;
use freeswitch_zammad::time::UnixMillis;
use record::Record;
use serde_json::Value;

use common::stream::settings;
use common::told::problems;

const FOLDERS: [&str; 2] = ["captures", "captures-fusionpbx"];

/// FreeSWITCH takes a leg for a b-leg if it has been picked up, or put through, by a leg that it did not dial: with
/// `log-b-leg = false` there is then no file of the caller at all, and nothing can be told of the call.
const CALLER_WITHOUT_FILE: [&str; 4] =
    ["fifo_consumer", "fp_att_xfer_threeway", "fp_intercept_enterprise", "fp_intercept_ext"];

#[test]
fn every_call_comes_out_right_from_the_files_of_all_its_legs() {
    let wrong = check(|_| true);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn and_from_the_files_of_the_callers_alone() {
    let wrong = check(|record| !record.is_b_leg);
    let (unknown, wrong): (Vec<_>, Vec<_>) =
        wrong.into_iter().partition(|(name, _)| CALLER_WITHOUT_FILE.contains(&name.as_str()));
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(unknown.len(), CALLER_WITHOUT_FILE.len());
    for (name, why) in unknown {
        assert_eq!(why, "0 calls, expected 1", "{name}");
    }
}

#[test]
fn a_call_has_the_same_identity_heard_or_read() {
    for folder in FOLDERS {
        for (name, bytes) in common::recordings(folder) {
            let live = live(&bytes);
            let recording = Recording::parse(&bytes).unwrap();
            let records = record::records(&recording);
            let every: Vec<Cdr> = records.iter().map(|r| read(&r.json(true))).collect();
            let callers: Vec<Cdr> =
                records.iter().filter(|r| !r.is_b_leg).map(|r| read(&r.json(true))).collect();
            assert_eq!(beginnings(&told_of(&every)), beginnings(&live), "{folder}/{name}");
            assert!(beginnings(&told_of(&callers)).is_subset(&beginnings(&live)), "{folder}/{name}");
        }
    }
}

/// What is wrong with each recording, read from the records that `keep` keeps.
fn check(keep: impl Fn(&Record) -> bool) -> Vec<(String, String)> {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for folder in FOLDERS {
        for (name, want) in common::expected(folder) {
            let recording = Recording::parse(&common::recording(folder, &name)).unwrap();
            let records: Vec<Record> = record::records(&recording).into_iter().filter(&keep).collect();
            let cdrs: Vec<Cdr> = records.iter().map(|r| read(&r.json(true))).collect();
            let plain: Vec<Cdr> = records.iter().map(|r| read(&r.json(false))).collect();
            let xml: Vec<Cdr> = records.iter().map(|r| read(&r.xml())).collect();
            assert_eq!(told_of(&plain), told_of(&cdrs), "{name}: without encode-values");
            assert_eq!(told_of(&xml), told_of(&cdrs), "{name}: in XML");
            seen += 1;
            let told: Vec<Value> =
                told_of(&cdrs).iter().map(|news| serde_json::from_str(&news.event.body()).unwrap()).collect();
            let all = problems(&told, want.as_array().unwrap());
            wrong.extend(all.into_iter().map(|problem| (name.clone(), problem)));
        }
    }
    assert!(seen > 140, "only {seen} recordings");
    wrong
}

fn read(text: &str) -> Cdr {
    cdr::read(text.as_bytes()).unwrap_or_else(|why| panic!("{why}: {text}"))
}

fn told_of(cdrs: &[Cdr]) -> Vec<News> {
    cdr::tell(Arc::new(settings()), cdrs).into_iter().flatten().collect()
}

fn live(bytes: &[u8]) -> Vec<News> {
    let mut tracker = Tracker::new(Arc::new(settings()));
    let mut now = UnixMillis(0);
    for event in common::events(bytes) {
        now = event.timestamp_ms().map_or(now, UnixMillis).max(now);
        tracker.handle_event(&event, now);
    }
    tracker.handle_timeout(now.after(FAILOVER_MAX));
    let outputs = std::iter::from_fn(|| tracker.poll_output());
    outputs
        .filter_map(|output| match output {
            Output::News(news) => Some(news),
            Output::UnknownCause(_) | Output::Note { .. } => None,
        })
        .collect()
}

fn beginnings(told: &[News]) -> BTreeSet<&str> {
    let begun = told.iter().filter(|news| matches!(news.event.what, What::NewCall { .. }));
    begun.map(|news| news.id.as_str()).collect()
}
