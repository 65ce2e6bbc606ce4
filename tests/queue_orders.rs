//! An operator's orders through the built program: against the running daemon, and against a stopped one's store.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

#[path = "common/pending.rs"]
mod pending;
#[path = "common/road.rs"]
mod road;

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use freeswitch_zammad::config::Config;
use freeswitch_zammad::cti::cause::Cause;
use freeswitch_zammad::cti::event::{Direction, What};
use freeswitch_zammad::daemon::Daemon;
use freeswitch_zammad::edge::clock;
use freeswitch_zammad::sim::zammad::{self, Answer, Fault, Zammad};
use freeswitch_zammad::store::{Accepting, Limits, Pending, Seq, Settle, Store};
use freeswitch_zammad::time::UnixMillis;
use road::{drained, until, within};
use serde_json::Value;
use tempfile::TempDir;

/// A Zammad, a store, and perhaps a daemon; the switch is away, as it may be.
struct Desk {
    zammad: Zammad,
    dir: TempDir,
    daemon: Option<Daemon>,
}

impl Desk {
    fn new() -> Self {
        let zammad = Zammad::start(zammad::Settings::default()).unwrap();
        Self { zammad, dir: tempfile::tempdir().unwrap(), daemon: None }
    }

    fn config(&self) -> Config {
        road::config(&self.zammad.url(), "127.0.0.1:1", "ClueCon", self.dir.path())
    }

    /// The daemon takes what is in the store.
    async fn start(&mut self) {
        self.daemon = Some(Daemon::start(self.config()).await.unwrap());
        until("the control socket is there", || self.dir.path().join("control.sock").exists()).await;
    }

    async fn stop(&mut self) {
        self.daemon.take().unwrap().stop().await.unwrap();
    }

    async fn drained(&self) {
        drained(self.daemon.as_ref().unwrap().store()).await;
    }

    /// Into the store of the stopped daemon.
    async fn accept(&self, events: Vec<Pending>) -> Vec<Seq> {
        let store = open(self.dir.path());
        let seqs = store.accept(Accepting { events, state: vec![] }).await.unwrap();
        store.close().await.unwrap();
        seqs.into_iter().flatten().collect()
    }

    async fn settle(&self, settles: Vec<Settle>) {
        let store = open(self.dir.path());
        store.settle(settles).await.unwrap();
        store.close().await.unwrap();
    }

    async fn run(&self, args: &[&str]) -> Output {
        run(self.dir.path(), &self.zammad.url(), args).await
    }

    /// Of a command that must work: standard output and standard error.
    async fn ok(&self, args: &[&str]) -> (String, String) {
        let output = self.run(args).await;
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{args:?}: {out}{err}");
        (out, err)
    }

    async fn list(&self, which: &str) -> Vec<Value> {
        let (out, _) = self.ok(&["queue", "list", which, "--json", "--limit", "100000"]).await;
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn ids(&self, which: &str) -> Vec<String> {
        self.list(which).await.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    }
}

async fn run(dir: &Path, url: &str, args: &[&str]) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_freeswitch-zammad"));
    command.args(args).arg("--state-dir").arg(dir).args(["--zammad-url", url]);
    command.args(["--freeswitch-password", "ClueCon", "--config", "/dev/null"]);
    command.stdin(Stdio::null());
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap());
    within("the command ends", ended).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn open(dir: &Path) -> Store {
    let age = Duration::from_hours(72);
    let limits = Limits {
        delivered_max: 200_000,
        delivered_age: age,
        dead_max: 10_000,
        dead_age: age,
        swap_bytes: u64::MAX,
        together_above: freeswitch_zammad::store::TOGETHER_ABOVE,
    };
    Store::open(dir, limits).unwrap()
}

fn event(call: &str, what: What, direction: Direction) -> Pending {
    let mut event = pending::pending(call, what);
    event.event.direction = direction;
    Pending { switch: "main".into(), happened: clock::now(), ..event }
}

fn missed(call: &str) -> Vec<Pending> {
    vec![
        event(call, What::NewCall { user: None, queue: Some("Support".into()) }, Direction::In),
        event(call, What::Hangup { cause: Cause::NoAnswer }, Direction::In),
    ]
}

const REFUSED: &str = r#"{"error":"Invalid 'direction'!"}"#;

#[tokio::test]
async fn dead_letters_are_replayed_by_the_running_and_to_the_stopped_daemon() {
    for running in [true, false] {
        let mut desk = Desk::new();
        desk.zammad.set_fault_rule(|seen| match seen.event {
            Some(_) => Fault::answer_instead(Answer::json(422, REFUSED)),
            None => Fault::none(),
        });
        desk.accept([missed("a"), missed("b")].concat()).await;
        desk.start().await;
        desk.drained().await;
        desk.zammad.clear_faults();
        if !running {
            desk.stop().await;
        }
        assert_eq!(desk.ids("dead").await, ["a/newCall", "a/hangup", "b/newCall", "b/hangup"]);

        let (out, err) = desk.ok(&["queue", "replay", "--dead", "--dry-run"]).await;
        assert!(err.contains("4 events would be put back"), "{err}");
        assert_eq!(out.lines().count(), 4);
        assert_eq!(desk.list("dead").await.len(), 4, "a dry run changes nothing");

        let (_, err) = desk.ok(&["queue", "replay", "--call", "a"]).await;
        assert!(err.contains("2 events put back"), "{err}");
        if running {
            let (_, err) = desk.ok(&["queue", "replay", "--dead", "--wait"]).await;
            assert!(err.contains("0 of 2 still waiting"), "{err}");
        } else {
            let refused = desk.run(&["queue", "replay", "--dead", "--wait"]).await;
            assert!(text(&refused.stderr).contains("daemon is not running"));
            assert_eq!(desk.list("dead").await.len(), 2, "it was not done either");
            desk.ok(&["queue", "replay", "--dead"]).await;
            assert_eq!(desk.ids("pending").await, ["a/newCall", "a/hangup", "b/newCall", "b/hangup"]);
            desk.start().await;
        }
        desk.drained().await;
        let rows = desk.zammad.log();
        assert_eq!(rows.len(), 2);
        assert!(rows.iter().all(|r| r.state == "hangup" && r.missed_mark()), "{rows:?}");
        assert!(desk.list("dead").await.is_empty());
        desk.stop().await;
    }
}

#[tokio::test]
async fn a_zammad_from_a_backup_gets_back_what_it_lost_since() {
    for running in [true, false] {
        let mut desk = Desk::new();
        let long_ago = UnixMillis(clock::now().0 - 5 * 3_600_000);
        let old = missed("old").into_iter().map(|e| Pending { happened: long_ago, ..e }).collect();
        desk.accept([old, missed("kept"), missed("lost")].concat()).await;
        desk.start().await;
        desk.drained().await;
        desk.stop().await;
        // Another Zammad with the same token: it has one of the calls.
        desk.zammad = Zammad::start(zammad::Settings::default()).unwrap();
        let client = freeswitch_zammad::cti::client::Client::new(
            &desk.zammad.url(),
            &freeswitch_zammad::cti::client::Tls::System,
            Duration::from_secs(10),
        )
        .unwrap();
        for event in missed("kept") {
            client.post(event.event.body()).await;
        }
        let kept = desk.zammad.log();
        if running {
            desk.start().await;
        }
        let (out, _) = desk.ok(&["queue", "replay", "--since", "2h", "--dry-run"]).await;
        assert_eq!(out.lines().count(), 4, "{out}");
        let (_, err) = desk.ok(&["queue", "replay", "--since", "2h"]).await;
        assert!(err.contains("4 events put back"), "{err}");
        if !running {
            desk.start().await;
        }
        desk.drained().await;
        let rows = desk.zammad.log();
        assert_eq!(rows.len(), 2, "what is older is not told: {rows:?}");
        assert_eq!(rows[..1], kept, "what Zammad has is left alone, its mark too");
        assert!(rows[1].call_id == "lost" && rows[1].state == "hangup" && rows[1].missed_mark());
        desk.stop().await;
    }
}

#[tokio::test]
async fn events_are_held_released_and_deleted() {
    for running in [true, false] {
        let mut desk = Desk::new();
        desk.zammad.stop().await;
        let seqs = desk.accept([missed("a"), missed("b"), missed("c")].concat()).await;
        if running {
            desk.start().await;
        }
        desk.ok(&["queue", "hold", "--call", "a"]).await;
        desk.ok(&["queue", "hold", &seqs[3].to_string()]).await;
        let held: Vec<bool> = desk.list("pending").await.iter().map(|r| r["held"] == true).collect();
        assert_eq!(held, [true, true, false, true, false, false]);
        let (out, _) = desk.ok(&["queue", "show", "a"]).await;
        assert!(out.contains("4915112345678") && out.contains("\"held\": true"), "{out}");
        desk.ok(&["queue", "delete", "--call", "c"]).await;
        desk.zammad.restart().unwrap();
        if !running {
            desk.start().await;
        }
        let started =
            |rows: &[zammad::Row], _: &[zammad::Seen]| rows.iter().any(|r| r.call_id == "b" && r.ringing());
        within("what is not held goes", desk.zammad.wait_until(started)).await;
        until("only what is held waits", || desk.daemon.as_ref().unwrap().store().counts().pending == 3)
            .await;
        desk.ok(&["queue", "release", "--call", "b"]).await;
        desk.ok(&["queue", "release", "--call", "a"]).await;
        desk.drained().await;
        let mut told: Vec<_> = desk.zammad.log().into_iter().map(|r| (r.call_id, r.state)).collect();
        told.sort();
        assert_eq!(told, [("a".into(), "hangup".into()), ("b".to_owned(), "hangup".to_owned())]);
        desk.stop().await;
    }
}

#[tokio::test]
async fn posting_is_paused_and_resumed_running_or_stopped() {
    let mut desk = Desk::new();
    desk.accept(missed("a")).await;
    let (out, _) = desk.ok(&["pause"]).await;
    assert_eq!(out, "zammad main: paused; events wait until `resume`\n");
    let status = desk.run(&["status", "--json"]).await;
    assert!(text(&status.stdout).contains(r#""paused":["main"]"#), "{status:?}");
    let refused = desk.run(&["pause", "other"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("there is main"));
    // Over any start.
    for _ in 0..2 {
        desk.start().await;
        let (out, _) = desk.ok(&["status"]).await;
        assert!(out.contains("PAUSED by an operator") && out.contains("queue: 2 waiting"), "{out}");
        desk.stop().await;
    }
    assert!(desk.zammad.requests().is_empty());
    desk.ok(&["resume", "main"]).await;
    desk.start().await;
    desk.drained().await;

    let (out, _) = desk.ok(&["pause", "--json"]).await;
    assert_eq!(out, "{\"lasts\":true,\"others_go_on\":false,\"paused\":true,\"zammad\":\"main\"}\n");
    desk.ok(&["queue", "replay", "--call", "a"]).await;
    let (out, _) = desk.ok(&["status"]).await;
    assert!(out.contains("PAUSED by an operator"), "{out}");
    assert!(out.contains("queue: 2 waiting"), "{out}");
    let posts = desk.zammad.requests().len();
    desk.ok(&["resume"]).await;
    desk.drained().await;
    assert!(desk.zammad.requests().len() > posts);
    desk.stop().await;
    let status = desk.run(&["status", "--json"]).await;
    assert!(text(&status.stdout).contains(r#""paused":[]"#), "{status:?}");
}

#[tokio::test]
async fn status_gives_the_reason_why_zammad_takes_nothing() {
    let mut desk = Desk::new();
    desk.zammad.change(|s| s.enabled = false);
    desk.accept(missed("a")).await;
    desk.start().await;
    let said = |seen: &[zammad::Seen]| seen.iter().any(|s| s.event.is_none() && s.status.is_some());
    within("it probes", desk.zammad.wait_until(|_, seen| said(seen))).await;
    let (out, _) = desk.ok(&["status"]).await;
    assert!(out.contains("NEEDS YOU since") && out.contains("CTI integration is off"), "{out}");
    assert!(!out.contains("sim-token"), "{out}");
    desk.zammad.change(|s| s.enabled = true);
    desk.drained().await;
    let (out, _) = desk.ok(&["status"]).await;
    assert!(out.contains(": answers"), "{out}");
    desk.stop().await;
}

/// Rows of every kind, with everything that a row can say.
async fn all_kinds(desk: &Desk) {
    // Lately: what was delivered long ago is not kept.
    let began = clock::now().0 - 3_600_000;
    let at = |n: u64| UnixMillis(began + n);
    let voicemail = What::Answer { answering_number: None, user: Some("voicemail".into()) };
    let seen = What::Answer { answering_number: Some("1001".into()), user: Some("Eva \"E.\" Öz".into()) };
    let mut events = [missed("a"), missed("b"), missed("c")].concat();
    events.push(event("a", voicemail, Direction::In));
    events.push(event("d", seen.clone(), Direction::Out));
    events.push(event("e", seen, Direction::In));
    for (number, event) in (0..).zip(&mut events) {
        event.happened = at(number);
        event.answered = number % 2 == 0;
        event.attempt = (number % 3 == 0).then(|| at(100 + number));
        event.held = number % 4 == 0;
        event.restored = number % 5 == 0;
    }
    let seqs = desk.accept(events).await;
    desk.settle(vec![
        Settle::Delivered { seq: seqs[0], at: at(900), note: None },
        Settle::Delivered { seq: seqs[1], at: at(901), note: Some("on Zammad's block list (busy)".into()) },
        Settle::Delivered { seq: seqs[5], at: at(902), note: Some(String::new()) },
        Settle::Dead { seq: seqs[2], at: at(903), story: "one\ntwo".into() },
        Settle::Dead { seq: seqs[4], at: at(904), story: String::new() },
    ])
    .await;
}

fn rows(file: &PathBuf) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    let rows = text.lines().map(|line| {
        let mut row: Value = serde_json::from_str(line).unwrap();
        row.as_object_mut().unwrap().remove("seq").unwrap();
        row
    });
    rows.collect()
}

#[tokio::test]
async fn an_export_is_taken_in_whole_and_loss_free() {
    for running in [true, false] {
        let mut desk = Desk::new();
        // Nothing is to be delivered meanwhile.
        desk.zammad.change(|s| s.enabled = false);
        all_kinds(&desk).await;
        if running {
            desk.start().await;
        }
        let first = desk.dir.path().join("first.jsonl");
        let (_, err) = desk.ok(&["queue", "export", first.to_str().unwrap()]).await;
        assert!(err.contains("9 rows exported"), "{err}");
        let again = desk.run(&["queue", "export", first.to_str().unwrap()]).await;
        assert!(!again.status.success(), "a file that is there is not overwritten");

        let mut fresh = Desk::new();
        fresh.zammad.change(|s| s.enabled = false);
        open(fresh.dir.path()).close().await.unwrap();
        if running {
            fresh.start().await;
        }
        let (_, err) = fresh.ok(&["queue", "import", first.to_str().unwrap()]).await;
        assert!(err.contains("9 of 9 rows taken in"), "{err}");
        let (_, err) = fresh.ok(&["queue", "import", first.to_str().unwrap()]).await;
        assert!(err.contains("0 of 9 rows taken in"), "{err}");
        let second = fresh.dir.path().join("second.jsonl");
        fresh.ok(&["queue", "export", second.to_str().unwrap()]).await;
        assert_eq!(rows(&first).len(), 9);
        assert_eq!(rows(&second), rows(&first));
        for mut desk in [desk, fresh] {
            if running {
                desk.stop().await;
            }
        }
    }
}

#[tokio::test]
async fn imported_events_are_delivered_and_those_that_were_are_not_again() {
    let desk = Desk::new();
    let seqs = desk.accept([missed("done"), missed("todo")].concat()).await;
    let done = |seq| Settle::Delivered { seq, at: clock::now(), note: None };
    desk.settle(vec![done(seqs[0]), done(seqs[1])]).await;
    let file = desk.dir.path().join("all.jsonl");
    desk.ok(&["queue", "export", file.to_str().unwrap()]).await;
    let mut fresh = Desk::new();
    fresh.start().await;
    fresh.ok(&["queue", "import", file.to_str().unwrap()]).await;
    fresh.drained().await;
    let rows = fresh.zammad.log();
    assert_eq!((rows.len(), rows[0].call_id.as_str()), (1, "todo"));
    assert!(rows[0].missed_mark());
    fresh.stop().await;
}
