//! Calls that began and ended while nobody listened are taken from the switch's records of that time, each once.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/cdr.rs"]
mod record;
#[path = "common/road.rs"]
mod road;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use freeswitch_zammad::config::Config;
use freeswitch_zammad::daemon::Daemon;
use freeswitch_zammad::edge::backfill::{Hearing, Noted};
use freeswitch_zammad::edge::clock;
use freeswitch_zammad::edge::control::{self, Request};
use freeswitch_zammad::edge::listener::{Heard, What};
use freeswitch_zammad::sim::recording::Recording;
use freeswitch_zammad::sim::switch::Disconnect;
use freeswitch_zammad::sim::zammad::{Row, Seen};
use freeswitch_zammad::store::{Accepting, Limits, StateChange, Store};
use freeswitch_zammad::time::UnixMillis;
use program::{Program, TOKEN};
use record::Record;
use road::{Road, differences, drained, renamed, rows_of, until, within};
use serde_json::Value;

/// How long ago the switch was last heard in these tests, and how long ago the calls ended that nobody heard.
const HEARD_AGO: Duration = Duration::from_secs(3600);
const ENDED_AGO: Duration = Duration::from_secs(1800);

mod invariants {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn every_call_is_told_once_late_and_in_its_right_state() {
        let road = Road::new();
        heard_before(&road, HEARD_AGO).await;
        let unheard = unheard(|name| !name.starts_with("out_"));
        write_all(&road, &unheard);
        let calls: usize = unheard.iter().map(|call| call.want.as_array().unwrap().len()).sum();
        assert!(calls > 40, "{calls}");

        // Meanwhile somebody calls.
        let daemon = start(&road).await;
        let live =
            renamed(&road.switch, &common::recording("captures", "in_answered_caller_hangs_up"), "live");
        road.play(&live).await;
        road.all_ended(calls + 1).await;
        drained(daemon.store()).await;
        let seen = road.zammad.requests();
        for call in &unheard {
            compare(&road, &seen, call);
        }
        until("all was looked at", || daemon.live().backfills[0].1.borrow().looks > 0).await;
        let status = control::ask(&config(&road).state_dir, &Request::Status).await.unwrap().unwrap();
        let backfill = &status[0]["backfills"][0];
        let files: usize = unheard.iter().map(|call| call.records.len()).sum();
        assert_eq!((&backfill["files"], &backfill["calls"]), (&files.into(), &calls.into()), "{backfill}");
        assert_eq!((&backfill["busy"], &backfill["switch"]), (&true.into(), &"main".into()), "{backfill}");
        let rows = road.zammad.log();
        assert_eq!(rows.len(), calls + 1);
        let want = &common::expected("captures")["in_answered_caller_hangs_up"];
        assert_eq!(differences(&rows_of(&rows, &live), &seen, want), Vec::<String>::new());
        daemon.stop().await.unwrap();

        // Again, as after a crash before it was noted that all is told: nothing twice.
        for _ in 0..2 {
            heard_before(&road, HEARD_AGO).await;
            let daemon = start(&road).await;
            let marker = renamed(&road.switch, &common::recording("captures", "in_caller_cancels"), "then");
            road.play(&marker).await;
            until("the folder was read", || daemon.live().backfills[0].1.borrow().looks > 0).await;
            drained(daemon.store()).await;
            daemon.stop().await.unwrap();
        }
        assert_eq!(road.zammad.log().len(), calls + 2);
        // Two answers of one late call look the same.
        let is_once = |s: &Seen| matches!(s.event.as_deref(), Some("newCall" | "hangup"));
        let told: Vec<Seen> = road.zammad.requests().into_iter().filter(is_once).collect();
        let once: BTreeSet<(String, &str)> =
            told.iter().map(|s| (s.call_id.clone().unwrap(), s.body.as_str())).collect();
        assert_eq!(once.len(), told.len(), "an event was posted twice");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_told_or_lies_outside_of_the_gap_is_left_alone() {
        let road = Road::new();
        let first = start(&road).await;
        // Told live.
        let bytes = common::recording("captures", "in_answered_callee_hangs_up");
        let live = renamed(&road.switch, &bytes, "live");
        road.play(&live.only(&["CHANNEL_CREATE", "CHANNEL_HANGUP_COMPLETE"])).await;
        road.all_ended(1).await;
        drained(first.store()).await;
        first.stop().await.unwrap();
        forget_legs(&road).await;
        heard_before(&road, HEARD_AGO).await;
        for record in record::records(&live) {
            write(&road, &ended(record, ENDED_AGO), true);
        }
        // Told live without its answer, which was not heard: it is over, and stays as it is.
        assert!(!road.zammad.requests().iter().any(|s| s.event.as_deref() == Some("answer")));
        // Begun and over before, and begun before.
        let long_ago = renamed(&road.switch, &common::recording("captures", "in_caller_cancels"), "old");
        for record in record::records(&long_ago) {
            write(&road, &ended(record, HEARD_AGO + Duration::from_secs(60)), true);
        }
        let across = renamed(&road.switch, &common::recording("captures", "rg_one_answers"), "across");
        for record in record::records(&across) {
            write(&road, &ended(record.longer(HEARD_AGO), ENDED_AGO), true);
        }
        // And one that belongs there, to know when all are read.
        let unheard = renamed(&road.switch, &common::recording("captures", "in_busy_486"), "unheard");
        for record in record::records(&unheard) {
            write(&road, &ended(record, ENDED_AGO), true);
        }
        let daemon = start(&road).await;
        road.all_ended(2).await;
        drained(daemon.store()).await;
        daemon.stop().await.unwrap();
        let rows = road.zammad.log();
        assert_eq!(rows.len(), 2, "{rows:#?}");
        assert_eq!(rows_of(&rows, &unheard).len(), 1);
        assert_eq!(rows_of(&rows, &live).len(), 1);
        assert!(!road.zammad.requests().iter().any(|s| s.event.as_deref() == Some("answer")));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_call_that_is_just_over_is_told_when_its_other_files_had_time_to_appear() {
        let road = Road::new();
        heard_before(&road, HEARD_AGO).await;
        let mut call = unheard(|name| name == "cc_answered").remove(0);
        call.records = call.records.into_iter().map(|r| r.moved(micros_of(ENDED_AGO))).collect();
        // The caller's file comes first; who answered them stands in the agent's.
        let (agents, callers): (Vec<&Record>, Vec<&Record>) = call.records.iter().partition(|r| r.is_b_leg);
        assert!(!agents.is_empty());
        for record in callers {
            write(&road, &record.without_others(), true);
        }
        let daemon = start(&road).await;
        let looks = || daemon.live().backfills[0].1.borrow().looks;
        until("the folder was read once", || looks() > 0).await;
        assert!(road.zammad.log().is_empty(), "told after {} looks", looks());
        for record in agents {
            write(&road, record, true);
        }
        road.all_ended(1).await;
        drained(daemon.store()).await;
        daemon.stop().await.unwrap();
        assert!(road.zammad.requests().iter().any(|s| s.event.as_deref() == Some("answer")));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn calls_of_a_lost_link_are_told_by_the_daemon_that_lost_it() {
        let mut road = Road::new();
        let daemon = start(&road).await;
        let call = |recording: &str, name: &str| {
            renamed(&road.switch, &common::recording("captures", recording), name)
        };
        let (heard, unheard) =
            (call("in_caller_cancels", "heard"), call("in_answered_caller_hangs_up", "unheard"));
        let live = call("in_busy_486", "live");
        road.play(&heard).await;
        road.all_ended(1).await;
        road.switch.stop(Disconnect::Eof).await;
        let records = record::records(&unheard);
        let last = records.iter().map(Record::ended).max().unwrap();
        let by = micros(clock::now()) - i64::try_from(last).unwrap();
        // That of the call before is there too, as it is of every call.
        for record in records.into_iter().map(|record| record.moved(by)) {
            write(&road, &record, true);
        }
        for record in record::records(&heard) {
            write(&road, &ended(record, Duration::ZERO), true);
        }
        road.switch.restart().unwrap();
        within("the daemon is back", road.switch.wait_subscribed()).await;
        road.play(&live).await;
        road.all_ended(3).await;
        drained(daemon.store()).await;
        daemon.stop().await.unwrap();
        let (rows, seen) = (road.zammad.log(), road.zammad.requests());
        let ends =
            seen.iter().filter(|s| s.event.as_deref() == Some("hangup")).map(|s| s.call_id.clone().unwrap());
        let order: Vec<usize> = ends
            .map(|call| {
                [&heard, &live, &unheard].iter().position(|r| rows_of(&rows, r)[0].call_id == call).unwrap()
            })
            .collect();
        assert_eq!(order, [0, 1, 2], "each once, and no call waits for what is told late");
        let told = rows_of(&rows, &unheard);
        assert_eq!((told[0].missed_mark(), told[0].start_at.is_some()), (false, true), "{told:#?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_daemon_that_never_heard_the_switch_tells_nothing_of_the_past() {
        let road = Road::new();
        write_all(&road, &unheard(|name| name == "in_answered_caller_hangs_up"));
        let daemon = start(&road).await;
        let live = renamed(&road.switch, &common::recording("captures", "in_caller_cancels"), "live");
        road.play(&live).await;
        road.all_ended(1).await;
        drained(daemon.store()).await;
        let noted = || daemon.store().state_value("heard//main").unwrap();
        until("it is noted since when the switch is heard", || noted().is_some()).await;
        let first = noted();
        road.switch.heartbeat();
        until("and with each heartbeat anew", || noted() > first).await;
        daemon.stop().await.unwrap();
        assert_eq!(road.zammad.log().len(), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn killed_at_any_moment_it_tells_each_call_once() {
        let road = Road::new();
        heard_before(&road, HEARD_AGO).await;
        let unheard = unheard(|name| name.starts_with("in_") || name.starts_with("xfer"));
        write_all(&road, &unheard);
        let calls: usize = unheard.iter().map(|call| call.want.as_array().unwrap().len()).sum();
        let config = road.dir.path().join("config.toml");
        // With a look into Zammad's log no hangup is left in doubt by a kill.
        road.zammad.change(|settings| settings.rest_token = Some("a-rest-token".to_owned()));
        let text = format!(
            "state_dir = {:?}\n[[switch]]\naddress = \"{}\"\ncdr_dir = {:?}\n[[zammad]]\nrest_token = \"a-rest-token\"\n",
            road.dir.path().join("state"),
            road.switch.addr(),
            folder(&road),
        );
        fs::write(&config, text).unwrap();
        fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
        let url = road.zammad.url();
        let environment = [
            ("FREESWITCH_ZAMMAD_ZAMMAD_URL", url.as_str()),
            ("FREESWITCH_ZAMMAD_FREESWITCH_PASSWORD", "ClueCon"),
        ];
        assert!(!TOKEN.is_empty());
        // Killed after ever more of it has arrived in Zammad.
        for part in 0..8 {
            let program = Program::start(&["run", "--config", config.to_str().unwrap()], &environment);
            let some = calls * part / 10;
            let begun = |rows: &[Row], _: &[Seen]| rows.len() >= some;
            within("some calls arrive", road.zammad.wait_until(begun)).await;
            program.kill();
        }
        let program = Program::start(&["run", "--config", config.to_str().unwrap()], &environment);
        road.all_ended(calls).await;
        program.kill();
        assert_eq!(road.zammad.log().len(), calls);
        let seen = road.zammad.requests();
        for call in &unheard {
            compare(&road, &seen, call);
        }
    }

    #[test]
    fn a_gap_lasts_from_what_was_heard_until_all_legs_are_known_again() {
        let (to, mut noted) = tokio::sync::mpsc::channel(8);
        let mut hearing = Hearing::new(Some(to));
        let at = |at: u64, what: What| Heard { switch: 0, at: UnixMillis(at), what };
        let event = |name: &str| {
            let text = format!("Event-Name: {name}\nUnique-ID: 1\n\n");
            What::Event(freeswitch_zammad::esl::event::Event::parse(&text.into()).unwrap())
        };
        let gap = |from: Option<u64>, until: u64| Noted::Gap {
            from: from.map(UnixMillis),
            until: UnixMillis(until),
        };
        let mut told = || noted.try_recv().ok();

        hearing.note(&at(10, What::Listening));
        hearing.on_disk(true);
        assert_eq!(told(), None, "not before all legs are known");
        hearing.note(&at(11, event("HEARTBEAT")));
        hearing.on_disk(true);
        assert_eq!(told(), None, "not either, and no later moment counts");
        hearing.note(&at(12, What::Synced));
        hearing.on_disk(false);
        assert_eq!(told(), Some(gap(None, 10)));
        assert_eq!(told(), Some(Noted::Heard(UnixMillis(11))));

        hearing.note(&at(30, event("CHANNEL_CREATE")));
        hearing.on_disk(false);
        assert_eq!(told(), None, "only heartbeats are noted");
        // Lost, back, lost again before the legs were known, back.
        hearing.note(&at(60, What::Listening));
        hearing.on_disk(true);
        hearing.note(&at(61, event("CHANNEL_CREATE")));
        hearing.note(&at(90, What::Listening));
        hearing.on_disk(true);
        hearing.note(&at(91, What::Synced));
        hearing.on_disk(false);
        assert_eq!(told(), Some(gap(Some(30), 90)));
        assert_eq!(told(), None);
    }
}

mod known_errors {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn files_that_cannot_be_read_are_in_nobodys_way_and_looked_at_again() {
        let road = Road::new();
        heard_before(&road, HEARD_AGO).await;
        let good = unheard(|name| name == "in_busy_486");
        write_all(&road, &good);
        let dir = folder(&road);
        fs::write(dir.join("damaged.cdr.json"), "{\"variables\": ").unwrap();
        fs::write(dir.join("foreign.cdr.xml"), "<html><body>no</body></html>").unwrap();
        let huge = unheard(|name| name == "in_rejected_603").remove(0);
        for record in &huge.records {
            let text = record.json(true) + &" ".repeat(5 * 1024 * 1024);
            fs::write(dir.join(record.json_name(true)), text).unwrap();
        }
        fs::write(dir.join("empty.cdr.xml"), "").unwrap();
        fs::write(dir.join("notes.txt"), "not looked at").unwrap();
        std::os::unix::fs::symlink("/dev/zero", dir.join("endless.cdr.json")).unwrap();
        let half = unheard(|name| name == "in_caller_cancels").remove(0);
        for record in &half.records {
            let text = record.json(true);
            fs::write(dir.join(record.json_name(true)), &text[..text.len() / 2]).unwrap();
        }
        let daemon = start(&road).await;
        road.all_ended(1).await;
        assert_eq!(road.zammad.log().len(), 1);
        for record in &half.records {
            write(&road, record, true);
        }
        road.all_ended(2).await;
        drained(daemon.store()).await;
        assert_eq!(road.zammad.log().len(), 2);
        let seen = road.zammad.requests();
        compare(&road, &seen, &half);
        compare(&road, &seen, &good[0]);
        daemon.stop().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_folder_that_is_not_there_is_said_and_read_when_it_is() {
        let road = Road::new();
        heard_before(&road, HEARD_AGO).await;
        let daemon = start(&road).await;
        let why = || daemon.live().backfills[0].1.borrow().why.clone().unwrap_or_default();
        until("it says so", || why().contains("is it there")).await;
        assert!(daemon.live().backfills[0].1.borrow().unlisted > 0);
        let calls = unheard(|name| name == "in_busy_486");
        write_all(&road, &calls);
        road.all_ended(1).await;
        daemon.stop().await.unwrap();
    }
}

/// The calls of a recording that nobody heard.
struct Unheard {
    recording: Recording,
    records: Vec<Record>,
    want: Value,
}

/// Recordings with calls, as they were recorded but half an hour ago.
fn unheard(wanted: impl Fn(&str) -> bool) -> Vec<Unheard> {
    let expected = common::expected("captures");
    let calls = expected.into_iter().filter(|(name, want)| wanted(name) && want != &Value::Array(vec![]));
    let all: Vec<Unheard> = calls
        .map(|(name, want)| {
            let suffix: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
            // All in one run of the switch.
            let recording = Recording::parse(&common::recording("captures", &name))
                .unwrap()
                .renamed(&suffix)
                .with_core_uuid("00000000-0000-4000-8000-000000000000");
            let records = record::records(&recording);
            let last = records.iter().map(Record::ended).max().unwrap();
            let by = micros(clock::now()) - micros_of(ENDED_AGO) - i64::try_from(last).unwrap();
            let records = records.into_iter().map(|record| record.moved(by)).collect();
            Unheard { recording, records, want }
        })
        .collect();
    assert!(!all.is_empty());
    all
}

/// A record that ended so long ago.
fn ended(record: Record, ago: Duration) -> Record {
    let by = micros(clock::now()) - micros_of(ago) - i64::try_from(record.ended()).unwrap();
    record.moved(by)
}

fn micros(at: UnixMillis) -> i64 {
    i64::try_from(at.0 * 1000).unwrap()
}

fn micros_of(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap()
}

fn folder(road: &Road) -> std::path::PathBuf {
    road.dir.path().join("cdr")
}

/// Every other recording in XML, some in folders below, some with the prefix of a-legs.
fn write_all(road: &Road, calls: &[Unheard]) {
    for (nth, call) in calls.iter().enumerate() {
        for record in &call.records {
            write(road, record, nth % 2 == 0);
        }
    }
}

fn write(road: &Road, record: &Record, json: bool) {
    let dir = if json { folder(road) } else { folder(road).join("archive/2026/Nov/24") };
    fs::create_dir_all(&dir).unwrap();
    let (name, text) = if json {
        (record.json_name(true), record.json(true))
    } else {
        (record.xml_name(false), record.xml())
    };
    fs::write(dir.join(name), text).unwrap();
}

fn config(road: &Road) -> Config {
    let mut config = road.config();
    config.state_dir = road.dir.path().join("state");
    config.switches[0].cdr_dir = Some(folder(road));
    config
}

async fn start(road: &Road) -> Daemon {
    let daemon = Daemon::start(config(road)).await.unwrap();
    within("the daemon subscribes", road.switch.wait_subscribed()).await;
    daemon
}

/// As if so much time had passed that no ended leg is remembered any more.
async fn forget_legs(road: &Road) {
    let store = open(&road.dir.path().join("state"));
    let keys = store.state().unwrap().into_iter().map(|(key, _)| key).filter(|key| key.starts_with("main/"));
    let state: Vec<StateChange> = keys.map(|key| StateChange { key, value: None }).collect();
    assert!(!state.is_empty());
    store.accept(Accepting { events: vec![], state }).await.unwrap();
    store.close().await.unwrap();
}

/// A store whose daemon heard the switch for the last time so long ago.
async fn heard_before(road: &Road, ago: Duration) {
    let at = clock::now().0 - u64::try_from(ago.as_millis()).unwrap();
    let store = open(&road.dir.path().join("state"));
    let mark = StateChange { key: "heard//main".into(), value: Some(at.to_string().into_bytes()) };
    store.accept(Accepting { events: vec![], state: vec![mark] }).await.unwrap();
    store.close().await.unwrap();
}

fn open(dir: &Path) -> Store {
    fs::create_dir_all(dir).unwrap();
    let limits = Limits {
        delivered_max: 1000,
        delivered_age: Duration::from_secs(86_400),
        dead_max: 10,
        dead_age: Duration::from_secs(60),
        swap_bytes: u64::MAX,
        together_above: freeswitch_zammad::store::TOGETHER_ABOVE,
    };
    Store::open(dir, limits).unwrap()
}

/// Zammad's rows of a call that was told late: as a person would say, but for what a late call must not do.
fn compare(road: &Road, seen: &[Seen], call: &Unheard) {
    let mut rows: Vec<Row> = rows_of(&road.zammad.log(), &call.recording).into_iter().cloned().collect();
    for row in &mut rows {
        let comment = row.comment.clone().unwrap_or_default();
        let (cause, late) = comment.split_once(", ").unwrap_or((&comment, ""));
        let is_plain = matches!(cause, "forwarded" | "normalClearing");
        assert!(late.ends_with("reported late") || is_plain, "{comment}");
        row.comment = Some(cause.to_owned());
        let of_call = seen.iter().filter(|s| s.call_id.as_ref() == Some(&row.call_id));
        for answer in of_call.filter(|s| s.event.as_deref() == Some("answer")) {
            let body: Value = serde_json::from_str(&answer.body).unwrap();
            assert!(body.get("answeringNumber").is_none(), "a screen opens for a call that is over: {body}");
        }
    }
    let rows: Vec<&Row> = rows.iter().collect();
    let wrong = differences(&rows, seen, &call.want);
    // Who answered is not told of late calls, where that opens a screen: only that somebody did.
    let is_of_answers = |w: &&String| ["answered by", "shown", "missed"].iter().any(|of| w.starts_with(of));
    let wrong: Vec<&String> = wrong.iter().filter(|w| !is_of_answers(w)).collect();
    assert!(wrong.is_empty(), "{wrong:?}: {rows:#?}");
    for row in rows.iter().filter(|row| row.direction == "in") {
        let wanted = call.want.as_array().unwrap().iter().find(|want| want["to"] == row.to.as_str());
        let answers = wanted.and_then(|want| want["answers"].as_array()).unwrap();
        let last = answers.last().map(|last| last.as_str().unwrap_or("one of several"));
        let to_return = match last {
            None => row.comment.as_deref() != Some("forwarded"),
            Some(by) => by == "voicemail",
        };
        assert_eq!((row.missed_mark(), row.start_at.is_some()), (to_return, last.is_some()), "{row:#?}");
    }
}
