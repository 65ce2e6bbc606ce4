//! The disk is full, read-only, slow, or fails to sync, and then works again: the program stays up, follows the
//! calls, says so, and Zammad is told of each call as if nothing had been.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
mod disk;
#[path = "common/pending.rs"]
mod pending;
#[path = "common/program.rs"]
mod program;
#[path = "common/road.rs"]
mod road;

use std::path::Path;
use std::process::Command;

use disk::Faults;
use freeswitch_zammad::daemon::limits;
use freeswitch_zammad::edge::clock;
use freeswitch_zammad::edge::drain::UNRECORDED_MAX;
use freeswitch_zammad::sim::recording::Recording;
use freeswitch_zammad::sim::zammad::{self, Fault};
use freeswitch_zammad::store::{Accepting, Pending, Store};
use program::{PASSWORD, Program, TOKEN, flags, run};
use road::{Road, differences, renamed, rows_of, until};
use serde_json::Value;

const CALLS: [&str; 5] = [
    "in_answered_caller_hangs_up",
    "in_caller_cancels",
    "out_busy",
    "rg_one_answers",
    "in_vanilla_busy_to_voicemail",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_takes_no_writes_loses_no_call_and_delivery_resumes_by_itself() {
    for fault in ["enospc", "enospc-grow", "enospc-after 20000", "erofs"] {
        let site = Site::new();
        let mut program = site.start();
        program.wait_for("listening to the switch");
        let before = site.play("before").await;
        site.told(&before).await;

        site.faults.set(fault);
        let mut during = site.play("during").await;
        // Room for some more is room for some, and so is what the file already covers; and the first that is refused may
        // be a delivery's record, with no event behind it.
        if fault != "enospc" && fault != "erofs" {
            for more in 0..40 {
                let status = site.status();
                let refused = status["queue"]["disk_refuses"].is_string();
                if refused && status["calls"]["events_unaccepted"].as_u64() > Some(0) {
                    break;
                }
                during.extend(site.play(&format!("more{more}")).await);
            }
        }
        until(&format!("{fault}: it says that the disk refuses"), || {
            site.status()["queue"]["disk_refuses"].is_string()
        })
        .await;
        // The calls are followed all the same: they are over, and what is to be told of them is known.
        until(&format!("{fault}: the calls are followed"), || {
            let status = site.status();
            status["calls"]["going_on"] == 0 && status["calls"]["events_unaccepted"].as_u64() > Some(0)
        })
        .await;
        assert!(!site.faults.hits().is_empty(), "{fault}: nothing failed");
        let shown = run(&["status", "--state-dir", site.dir()]);
        assert!(shown.out.contains("NO ROOM FOR EVENTS"), "{shown:?}");

        site.faults.clear();
        site.told(&during).await;
        let after = site.play("after").await;
        site.told(&after).await;
        site.compare(fault, &[before, during, after]);
        let status = site.status();
        assert_eq!(status["queue"]["disk_refuses"], Value::Null);
        assert_eq!(status["calls"]["events_dropped"], 0);
        program.signal("TERM");
        let said = program.end();
        assert_eq!(said.code, Some(0), "{fault}: {said:?}");
        assert_eq!(said.err.matches("the disk refuses; what is not accepted").count(), 1, "{}", said.err);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_at_the_start_is_waited_for() {
    for fault in ["enospc", "erofs"] {
        let site = Site::new();
        site.faults.set(fault);
        let mut program = site.start();
        program.wait_for("the store cannot be opened yet; it is tried again");
        site.faults.clear();
        program.wait_for("listening to the switch");
        let calls = site.play("late").await;
        site.told(&calls).await;
        program.signal("TERM");
        assert_eq!(program.end().code, Some(0));
        // And one with a past is not taken for damaged.
        site.faults.set(fault);
        let mut program = site.start();
        program.wait_for("the store cannot be opened yet; it is tried again");
        program.signal("TERM");
        let said = program.end();
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(!said.err.contains("damaged"), "{}", said.err);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_disk_is_slow_and_nothing_else() {
    let site = Site::new();
    site.faults.set("slow 150");
    let mut program = site.start();
    program.wait_for("listening to the switch");
    let calls = site.play("slow").await;
    site.told(&calls).await;
    site.compare("slow", &[calls]);
    program.signal("TERM");
    assert_eq!(program.end().code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn posts_do_not_run_ahead_of_what_the_disk_takes() {
    const WAITING: usize = 2 * UNRECORDED_MAX;
    let site = Site::new();
    let store = Store::open(Path::new(site.dir()), limits(&site.road.config())).unwrap();
    let begun = |n| Pending { happened: clock::now(), ..pending::new_call(&format!("call-{n}")) };
    store.accept(Accepting { events: (0..WAITING).map(begun).collect(), state: vec![] }).await.unwrap();
    store.close().await.unwrap();

    // At no pace: what waits for nothing is on its way.
    let paceless = site.road.dir.path().join("paceless.toml");
    std::fs::write(&paceless, "[delivery]\nbacklog_per_s = 10000\n").unwrap();
    let program = site.start_with(&["--config", paceless.to_str().unwrap()]);
    until("posting begins", || !site.road.zammad.requests().is_empty()).await;
    site.faults.set("enospc");
    // What Zammad has and is not recorded it would be sent again after a crash.
    let mut unrecorded = 0;
    until("it posts no more", || {
        let status = site.status();
        let figure = |figure: &Value| usize::try_from(figure.as_u64().unwrap()).unwrap();
        let recorded = WAITING - figure(&status["queue"]["waiting"]);
        unrecorded = figure(&status["zammads"][0]["delivered"]) - recorded;
        unrecorded >= UNRECORDED_MAX && status["zammads"][0]["in_flight"] == 0
    })
    .await;
    // Sixteen may be on their way at a time; what becomes of those is to be recorded all the same.
    assert!((UNRECORDED_MAX..=UNRECORDED_MAX + 2 * 16).contains(&unrecorded), "{unrecorded}");

    site.faults.clear();
    until("Zammad has all", || site.road.zammad.requests().len() == WAITING).await;
    program.signal("TERM");
    assert_eq!(program.end().code, Some(0));
    assert_eq!(site.road.zammad.requests().len(), WAITING);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failed_sync_may_have_lost_is_written_anew_at_the_next_start() {
    for fault in ["eio-sync", "eio-write"] {
        let site = Site::new();
        // Zammad takes nothing until the end: what was accepted must outlive all this.
        site.road.zammad.set_fault_rule(|_| Fault::answer_instead(zammad::Answer::nginx(503)));
        let mut program = site.start();
        program.wait_for("listening to the switch");
        let calls = site.play("before").await;
        until("all is accepted", || {
            let status = site.status();
            status["calls"]["events_unaccepted"] == 0 && status["queue"]["waiting"].as_u64() > Some(10)
        })
        .await;
        site.faults.set(fault);
        site.play("during").await;
        let said = program.end();
        assert_eq!(said.code, Some(1), "{fault}: only a new start helps: {said:?}");
        assert!(said.sentence().contains("failed to sync"), "{fault}: {said:?}");

        site.faults.clear();
        site.road.zammad.clear_faults();
        let mut program = site.start();
        program.wait_for("begun anew with what could be read");
        program.wait_for("listening to the switch");
        site.told(&calls).await;
        site.compare(fault, &[calls]);
        program.signal("TERM");
        assert_eq!(program.end().code, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_stops_in_time_while_the_disk_refuses_and_says_what_is_lost() {
    let site = Site::new();
    let mut program = site.start();
    program.wait_for("listening to the switch");
    site.faults.set("enospc");
    site.play("lost").await;
    until("it says that the disk refuses", || site.status()["queue"]["disk_refuses"].is_string()).await;
    program.signal("TERM");
    let said = program.end();
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("stopped while the disk refuses: events are lost"), "{}", said.err);
}

/// A road whose store lies on a disk that fails on demand.
struct Site {
    road: Road,
    faults: Faults,
    _control: tempfile::TempDir,
}

/// A recording under its own legs, and what must come of it.
type Scene = (Recording, Value, String);

impl Site {
    fn new() -> Self {
        let road = Road::guarded(PASSWORD, TOKEN);
        let control = tempfile::tempdir().unwrap();
        Self { road, faults: Faults::new(control.path().join("faults")), _control: control }
    }

    fn dir(&self) -> &str {
        self.road.dir.path().to_str().unwrap()
    }

    fn start(&self) -> Program {
        self.start_with(&[])
    }

    fn start_with(&self, more: &[&str]) -> Program {
        let mut command = Command::new("true");
        self.faults.preload(&mut command, self.road.dir.path());
        let text = |os: &std::ffi::OsStr| os.to_str().unwrap().to_owned();
        let environment: Vec<(String, String)> =
            command.get_envs().map(|(name, value)| (text(name), text(value.unwrap()))).collect();
        let environment: Vec<(&str, &str)> =
            environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let (url, address) = (self.road.zammad.url(), self.road.switch.addr().to_string());
        let args = flags(&url, &address, Path::new(self.dir()));
        Program::start(&[&["run"], &args[..], more].concat(), &environment)
    }

    fn status(&self) -> Value {
        let said = run(&["status", "--json", "--state-dir", self.dir()]);
        serde_json::from_str(&said.out).unwrap_or_default()
    }

    async fn play(&self, suffix: &str) -> Vec<Scene> {
        let mut expected = common::expected("captures");
        let mut scenes = Vec::new();
        for name in CALLS {
            let bytes = common::recording("captures", name);
            let recording = renamed(&self.road.switch, &bytes, &format!("{name}{suffix}"));
            self.road.play(&recording).await;
            scenes.push((recording, expected.remove(name).unwrap(), name.to_owned()));
        }
        scenes
    }

    /// Returns once each of these calls is over in Zammad.
    async fn told(&self, scenes: &[Scene]) {
        until("Zammad is told of every call", || {
            let log = self.road.zammad.log();
            scenes.iter().all(|(recording, want, _)| {
                let rows = rows_of(&log, recording);
                rows.len() >= want.as_array().unwrap().len() && rows.iter().all(|r| r.state == "hangup")
            })
        })
        .await;
    }

    fn compare(&self, fault: &str, all: &[Vec<Scene>]) {
        let (log, seen) = (self.road.zammad.log(), self.road.zammad.requests());
        for (recording, want, name) in all.iter().flatten() {
            let wrong = differences(&rows_of(&log, recording), &seen, want);
            assert!(wrong.is_empty(), "{fault}: {name}: {wrong:?}");
        }
    }
}
