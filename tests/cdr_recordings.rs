//! Every recording as the files that FreeSWITCH would have written of it, read back: each call must come out as a
//! person watching would say, and as it came out live.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/cdr.rs"]
mod record;

use std::sync::Arc;

use freeswitch_zammad::call::cause::Table;
use freeswitch_zammad::call::cdr::{self, Cdr};
use freeswitch_zammad::call::people::People;
use freeswitch_zammad::call::tracker::Settings;
use freeswitch_zammad::sim::recording::Recording;
use record::Record;
use serde_json::Value;

use common::told::problems;

const FOLDERS: [&str; 2] = ["captures", "captures-fusionpbx"];

fn settings() -> Arc<Settings> {
    Arc::new(Settings {
        country: "DE".parse().unwrap(),
        rules: vec![],
        causes: Table::default(),
        people: People::default(),
        routes: vec![],
        internal: false,
    })
}

fn told(cdrs: &[Cdr]) -> Vec<Value> {
    let calls = cdr::tell(settings(), cdrs);
    calls.iter().flatten().map(|news| serde_json::from_str(&news.event.body()).unwrap()).collect()
}

fn read(text: &str) -> Cdr {
    cdr::read(text.as_bytes()).unwrap_or_else(|why| panic!("{why}: {text}"))
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
            for (form, others) in [
                ("plain json", records.iter().map(|r| read(&r.json(false))).collect::<Vec<_>>()),
                ("xml", records.iter().map(|r| read(&r.xml())).collect()),
            ] {
                assert_eq!(told(&others), told(&cdrs), "{name}: {form} says something else than json");
            }
            seen += 1;
            let all = problems(&told(&cdrs), want.as_array().unwrap());
            wrong.extend(all.into_iter().map(|problem| (name.clone(), problem)));
        }
    }
    assert!(seen > 140, "only {seen} recordings");
    wrong
}

#[test]
fn every_call_comes_out_right_from_the_files_of_all_its_legs() {
    let wrong = check(|_| true);
    for (name, why) in &wrong { println!("{name}: {why}"); }
    println!("{}", wrong.len());
    assert!(wrong.is_empty());
}

#[test]
fn and_from_those_of_the_callers_alone() {
    let wrong = check(|record| !record.is_b_leg);
    for (name, why) in &wrong { println!("{name}: {why}"); }
    println!("{}", wrong.len());
    assert!(wrong.is_empty());
}
