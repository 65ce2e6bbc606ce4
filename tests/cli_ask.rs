//! `queue` and `status`: the running daemon and the stopped one's store answer in the same words.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/road.rs"]
mod road;

use freeswitch_zammad::sim::zammad::{self, Answer, Fault};
use program::{PASSWORD, Program, Said, TOKEN, flags, run};
use road::{Road, renamed, until};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_or_stopped_the_words_are_the_same() {
    let mut road = Road::guarded(PASSWORD, TOKEN);
    // One call's answer is refused for good; another call waits, because Zammad is away.
    road.zammad.set_fault_rule(|seen| match seen.event.as_deref() {
        Some("answer") => Fault::answer_instead(Answer::json(422, r#"{"error":"no such thing"}"#)),
        _ => Fault::none(),
    });
    let (url, address) = (road.zammad.url(), road.switch.addr().to_string());
    let dir = road.dir.path().to_str().unwrap().to_owned();
    let args = [&["run"][..], &flags(&url, &address, road.dir.path())].concat();
    let mut program = Program::start(&args, &[]);
    program.wait_for("listening to the switch");
    let bytes = common::recording("captures", "in_answered_caller_hangs_up");
    road.play(&renamed(&road.switch, &bytes, "one")).await;
    road.all_ended(1).await;
    let ask = |words: &[&str]| run(&[words, &["--state-dir", &dir]].concat());
    let json = |said: &Said| serde_json::from_str::<Value>(&said.out).unwrap();
    let queue = || json(&ask(&["status", "--json"]))["queue"].clone();
    until("the dead letter is written", || queue()["dead"] == 1 && queue()["waiting"] == 0).await;
    road.zammad.stop().await;
    let bytes = common::recording("captures", "in_caller_cancels");
    road.play(&renamed(&road.switch, &bytes, "two")).await;
    until("two events wait", || queue()["waiting"] == 2).await;

    let call = road.zammad.log()[0].call_id.clone();
    let questions: [&[&str]; 12] = [
        &["queue", "list"],
        &["queue", "list", "pending", "--limit", "1"],
        &["queue", "list", "dead"],
        &["queue", "list", "dead", "--json"],
        &["queue", "list", "delivered"],
        &["queue", "list", "delivered", "--json"],
        &["queue", "show", &call],
        &["queue", "show", "2"],
        &["queue", "show", "nothing"],
        &["queue", "replay", "--dead", "--dry-run"],
        &["queue", "replay", "--call", "nothing"],
        &["queue", "replay", "77"],
    ];
    let answers = || questions.map(&ask).map(|said| (said.code, said.out, said.err));
    let running = answers();
    let status = ask(&["status"]);
    assert_eq!(status.code, Some(0), "{status:?}");
    for words in ["running since", "listening since", "AWAY since", "2 waiting", "1 dead letters"] {
        assert!(status.out.contains(words), "{words}: {}", status.out);
    }
    program.signal("TERM");
    assert_eq!(program.end().code, Some(0));

    let stopped = answers();
    for (question, (running, stopped)) in questions.iter().zip(running.iter().zip(&stopped)) {
        assert_eq!(running, stopped, "{question:?}");
    }
    assert_eq!(running[0].1.lines().count(), 3, "{}", running[0].1);
    assert_eq!(running[1].1.lines().count(), 2, "{}", running[1].1);
    assert!(running[2].1.contains("no such thing"), "{}", running[2].1);
    assert_eq!((running[8].0, running[9].0), (Some(1), Some(0)));
    let status = ask(&["status"]);
    assert_eq!(status.code, Some(3), "{status:?}");
    assert!(status.out.contains("not running") && status.out.contains("2 waiting"), "{}", status.out);
    let status = json(&ask(&["status", "--json"]));
    assert_eq!((&status["running"], &status["queue"]["waiting"]), (&false.into(), &2.into()));

    // Put back while it is stopped, delivered once it runs.
    let said = ask(&["queue", "replay", "--dead"]);
    assert_eq!((said.code, said.err.as_str()), (Some(0), "1 event put back into the queue\n"));
    road.zammad.clear_faults();
    road.zammad.restart().unwrap();
    let mut program = Program::start(&args, &[]);
    program.wait_for("listening to the switch");
    road.all_ended(2).await;
    until("the queue is empty", || queue()["waiting"] == 0).await;
    assert_eq!(queue()["dead"], 0);
    program.signal("TERM");
    assert_eq!(program.end().code, Some(0));
}

#[test]
fn where_nothing_is_there_is_one_sentence_and_nothing_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("state");
    for words in [&["status"][..], &["queue", "list"], &["queue", "replay", "--dead"]] {
        let said = run(&[words, &["--state-dir", empty.to_str().unwrap()]].concat());
        assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{said:?}");
        assert!(
            said.sentence().contains("no store in") && said.sentence().contains("--state-dir"),
            "{said:?}"
        );
    }
    assert!(!empty.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_go_on_are_told_running_or_stopped() {
    let road = Road::guarded(PASSWORD, TOKEN);
    let (url, address) = (road.zammad.url(), road.switch.addr().to_string());
    let dir = road.dir.path().to_str().unwrap().to_owned();
    let ask = |words: &[&str]| run(&[words, &["--state-dir", &dir]].concat());
    let mut program = Program::start(&[&["run"][..], &flags(&url, &address, road.dir.path())].concat(), &[]);
    program.wait_for("listening to the switch");
    let none = ask(&["calls"]);
    assert_eq!((none.code, none.out.as_str(), none.sentence()), (Some(0), "", "no calls are going on"));

    let bytes = common::recording("captures", "in_answered_caller_hangs_up");
    let whole = renamed(&road.switch, &bytes, "on");
    let end = whole.events().iter().position(|e| e.name() == "CHANNEL_HANGUP_COMPLETE").unwrap();
    road.play(&whole.split_at(end).0).await;
    let answered = |rows: &[zammad::Row]| rows.first().is_some_and(|row| row.state == "answer");
    until("it is answered", || answered(&road.zammad.log())).await;
    let row = &road.zammad.log()[0];
    let going_on = || {
        let said = ask(&["calls", "--json"]);
        let call: Value = serde_json::from_str(&said.out).unwrap();
        let text = |key: &str| call[key].as_str().unwrap().to_owned();
        (text("id"), text("direction"), text("from"), text("to"), text("state"), text("answered_by"))
    };
    let (from, to) = (row.from.clone(), row.to.clone());
    let told = (row.call_id.clone(), "in".into(), from, to, "talking".into(), "1001".into());
    assert_eq!(going_on(), told);
    let running = ask(&["calls"]).out;
    assert_eq!(running.lines().count(), 2, "{running}");
    let not_here = ask(&["top"]);
    assert_eq!((not_here.code, not_here.sentence().contains("needs a terminal")), (Some(2), true));
    program.signal("TERM");
    assert_eq!(program.end().code, Some(0));

    assert_eq!(going_on(), told);
    let stopped = ask(&["calls"]);
    assert!(stopped.err.contains("not running; when it stopped"), "{stopped:?}");
    assert_eq!(stopped.out.lines().count(), 2, "{stopped:?}");
}

#[test]
fn what_failed_is_told_in_json_too() {
    let dir = tempfile::tempdir().unwrap();
    let said = run(&["status", "--json", "--state-dir", dir.path().to_str().unwrap()]);
    let error: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(said.code, Some(1));
    assert!(error["error"].as_str().unwrap().contains("there is no store in"), "{said:?}");
    let said = run(&["cause", "--json"]);
    let rows: Vec<Value> = said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rows.len() > 60 && rows.iter().any(|row| row["cause"] == "USER_BUSY" && row["zammad"] == "busy"));
}
