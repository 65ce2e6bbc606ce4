//! Every hangup cause FreeSWITCH has becomes one of the CTI's seven.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use freeswitch_types::HangupCause;
use freeswitch_zammad::call::cause::{ROWS, Table, find};
use freeswitch_zammad::cti::cause::Cause;

#[test]
fn every_cause_of_the_switch_is_in_the_table_with_its_number() {
    let listed = String::from_utf8(common::bytes("hangup_causes.csv")).unwrap();
    let mut count = 0;
    for line in listed.lines().skip(1) {
        let (name, code) = line.split_once(',').unwrap();
        let row = find(name).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(row.code.to_string(), code.trim(), "{name}");
        count += 1;
    }
    assert_eq!(count, ROWS.len());
}

#[test]
fn no_cause_that_others_know_is_missing() {
    for row in &ROWS {
        let theirs: HangupCause =
            row.name.parse().unwrap_or_else(|_| panic!("{} is unknown to freeswitch-types", row.name));
        assert_eq!(theirs.to_string(), row.name);
    }
    for code in 0..=1000 {
        if let Some(theirs) = HangupCause::from_number(code) {
            assert_eq!(find(&theirs.to_string()).map(|row| row.code), Some(code), "{theirs}");
        }
    }
}

#[test]
fn an_unknown_cause_becomes_one_of_the_seven_too() {
    let (cti, _) = Table::default().look_up("SOMETHING_NEW");
    assert!(Cause::ALL.contains(&cti));
}
