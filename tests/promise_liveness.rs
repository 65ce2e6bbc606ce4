//! The loops move, whatever is away, full or slow; and one that does not is named.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
mod disk;
#[path = "common/program.rs"]
mod program;
#[path = "common/road.rs"]
mod road;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use disk::Faults;
use freeswitch_zammad::edge::clock;
use freeswitch_zammad::edge::control::Live;
use freeswitch_zammad::edge::listener::{self, LinkState};
use freeswitch_zammad::edge::pulse::{BOUND, Pulse};
use freeswitch_zammad::esl::session::Login;
use freeswitch_zammad::sim::switch::{Disconnect, Settings, Switch};
use freeswitch_zammad::sim::zammad::Fault;
use program::{PASSWORD, Program, TOKEN, flags, run};
use road::{Road, renamed, until, within};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const LOOPS: [&str; 4] = ["control socket", "intake", "switch main", "zammad main"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_loop_comes_round_by_itself() {
    let mut road = Road::new();
    let daemon = road.daemon().await;
    all_move(daemon.live(), "nothing happens").await;

    // Zammad takes for ever.
    road.zammad.set_fault_rule(|_| Fault::slow(Duration::from_secs(60), Duration::ZERO));
    road.play(&renamed(&road.switch, &common::recording("captures", "in_caller_cancels"), "slow")).await;
    within("it is asked", road.zammad.wait_until(|_, seen| !seen.is_empty())).await;
    all_move(daemon.live(), "a request is on its way").await;
    road.zammad.stop().await;
    all_move(daemon.live(), "Zammad is away").await;
    road.switch.stop(Disconnect::Eof).await;
    let link = daemon.live().switches[0].2.clone();
    until("the link is lost", || !link.borrow().listening).await;
    all_move(daemon.live(), "the switch is away").await;

    let pulse = daemon.live().pulse.clone();
    daemon.stop().await.unwrap();
    assert_eq!(pulse.ages(clock::monotonic()), [], "what has ended is not watched");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_nobody_takes_from_is_stuck_and_named() {
    let switch = Switch::start(Settings::default()).unwrap();
    let pulse = Pulse::default();
    let settings = |name: &str| listener::Settings {
        name: name.to_owned(),
        address: switch.addr().to_string(),
        login: Login { user: None, password: "ClueCon".into() },
        heartbeat_timeout: Duration::from_secs(65),
    };
    let (stop, mut kept) = (CancellationToken::new(), Vec::new());
    for (name, room) in [("stuck", 1), ("well", 64)] {
        let (intake, heard) = mpsc::channel(room);
        let (ask, asked) = mpsc::channel(1);
        let (state, link) = watch::channel(LinkState::new(clock::now()));
        tokio::spawn(listener::run(
            watch::channel(settings(name)).1,
            0,
            intake,
            asked,
            state,
            pulse.join(name),
            stop.clone(),
        ));
        kept.push((heard, ask, link));
    }
    // It has told that it listens and cannot tell what the switch answered: nobody has taken the first.
    let link = kept[0].2.clone();
    until("the reader waits", || link.borrow().waits > 0).await;
    until("the other one listens", || kept[1].2.borrow().listening).await;
    let since = clock::monotonic();
    // Two rounds of an idle loop later the stuck one is where it was.
    for _ in 0..2 {
        let before = clock::monotonic();
        until("the other one comes round", || moved(&pulse, before).contains_key("well")).await;
    }
    assert!(!moved(&pulse, since).contains_key("stuck"), "it moved");
    assert_eq!(pulse.stalled(clock::monotonic()), [], "it is not stuck for long yet");
    // As it will be seen then, had the other one not moved either.
    let stalled = pulse.stalled(since + BOUND);
    let names: Vec<&str> = stalled.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["stuck"]);
    // Taken from, it moves again.
    let before = clock::monotonic();
    while kept[0].0.try_recv().is_ok() || !moved(&pulse, before).contains_key("stuck") {
        tokio::task::yield_now().await;
    }
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_read_only_or_very_slow_stops_no_loop() {
    let road = Road::guarded(PASSWORD, TOKEN);
    let control = tempfile::tempdir().unwrap();
    let faults = Faults::new(control.path().join("faults"));
    let mut command = Command::new("true");
    faults.preload(&mut command, road.dir.path());
    let environment: Vec<(&str, &str)> = command
        .get_envs()
        .map(|(name, value)| (name.to_str().unwrap(), value.unwrap().to_str().unwrap()))
        .collect();
    let (url, address) = (road.zammad.url(), road.switch.addr().to_string());
    let args = flags(&url, &address, road.dir.path());
    let mut program = Program::start(&[&["run"], &args[..]].concat(), &environment);
    program.wait_for("listening to the switch");
    let bytes = common::recording("captures", "in_answered_caller_hangs_up");
    for fault in ["enospc", "erofs", "slow 3000"] {
        faults.set(fault);
        road.play(&renamed(&road.switch, &bytes, fault)).await;
        until(&format!("{fault}: events are in memory only"), || {
            status(road.dir.path())["calls"]["events_unaccepted"].as_u64() > Some(0)
        })
        .await;
        // More clients than there are threads that the loops run on.
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let dir = road.dir.path().to_owned();
                std::thread::spawn(move || run(&["status", "--state-dir", dir.to_str().unwrap()]))
            })
            .collect();
        let begun = clock::monotonic();
        until(&format!("{fault}: every loop comes round"), || {
            let meanwhile = begun.elapsed().as_millis();
            let status = status(road.dir.path());
            let loops = status["loops"].as_array().cloned().unwrap_or_default();
            let moved =
                |it: &Value| it["still_ms"].as_u64().is_some_and(|still| u128::from(still) < meanwhile);
            loops.len() == LOOPS.len() && loops.iter().all(moved)
        })
        .await;
        for client in clients {
            assert_eq!(client.join().unwrap().code, Some(0));
        }
        faults.clear();
        until("the disk works again", || status(road.dir.path())["calls"]["events_unaccepted"] == 0).await;
    }
}

/// What `status --json` says; nothing if it cannot be asked.
fn status(dir: &Path) -> Value {
    let said = run(&["status", "--json", "--state-dir", dir.to_str().unwrap()]);
    serde_json::from_str(&said.out).unwrap_or_default()
}

/// Returns once every loop has come round after this moment.
async fn all_move(live: &Live, meanwhile: &str) {
    let begun = clock::monotonic();
    until(&format!("every loop comes round while {meanwhile}"), || {
        let moved = moved(&live.pulse, begun);
        LOOPS.iter().all(|name| moved.contains_key(*name))
    })
    .await;
    let known: Vec<String> = live.pulse.ages(begun).into_iter().map(|(name, _)| name).collect();
    assert_eq!(known.len(), LOOPS.len(), "{known:?}");
}

/// The loops that have moved after this moment, and how long ago.
fn moved(pulse: &Pulse, since: Instant) -> BTreeMap<String, Duration> {
    let now = clock::monotonic();
    pulse.ages(now).into_iter().filter(|(_, age)| *age < now - since).collect()
}
