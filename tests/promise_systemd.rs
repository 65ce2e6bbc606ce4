//! What systemd is told, and what it asks: ready, how things are, that the loops move, a reload, the end in time.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
mod disk;
#[path = "common/notify.rs"]
mod notify;
#[path = "common/program.rs"]
mod program;
#[path = "common/road.rs"]
mod road;

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use disk::Faults;
use freeswitch_zammad::daemon::{Daemon, STOP_MAX};
use freeswitch_zammad::edge::{clock, systemd};
use freeswitch_zammad::sim::switch::{Disconnect, Settings, Switch};
use freeswitch_zammad::sim::zammad::{self, Fault, Zammad};
use notify::Notified;
use program::{PASSWORD, Program, TOKEN, flags};
use road::{Road, renamed, until, within};
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_ready_once_and_says_in_a_line_how_things_are() {
    let mut road = road();
    road.zammad.stop().await;
    road.switch.stop(Disconnect::Eof).await;
    let (url, address) = (road.zammad.url(), road.switch.addr().to_string());
    let systemd = Notified::listen();
    let program = start(&url, &address, road.dir.path(), &systemd, &[("WATCHDOG_USEC", "2000000")]);
    // Neither need be there.
    until("it is ready", || systemd.has("READY=1")).await;
    until("it says that there is no link", || systemd.status().starts_with("NO LINK to main since ")).await;
    road.switch.restart().unwrap();
    until("it says what it does", || {
        systemd.status() == "listening to main; Zammad main is up; 0 calls, 0 events wait"
    })
    .await;
    let bytes = common::recording("captures", "in_caller_cancels");
    let recording = renamed(&road.switch, &bytes, "status");
    let (begins, ends) = recording.split_at(recording.events().len() / 2);
    road.play(&begins).await;
    until("it says that Zammad is away", || {
        let status = systemd.status();
        status.contains("Zammad main AWAY since ") && status.ends_with("1 calls, 1 events wait")
    })
    .await;
    let fed = || systemd.all().iter().filter(|message| *message == "WATCHDOG=1\n").count();
    let before = fed();
    until("it says again and again that it lives", || fed() >= before + 2).await;
    road.zammad.restart().unwrap();
    road.play(&ends).await;
    road.all_ended(1).await;
    until("all is well", || systemd.status().contains("Zammad main is up; 0 calls, 0 events wait")).await;
    program.signal("TERM");
    assert_eq!(program.end().code, Some(0));
    assert!(systemd.has("STOPPING=1"));
    let all = systemd.all();
    assert_eq!(all.iter().filter(|message| message.contains("READY=1")).count(), 1, "{all:?}");
    for message in &all {
        assert!(!message.contains(TOKEN) && !message.contains(PASSWORD), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_not_ready_while_the_disk_refuses_says_so_and_asks_for_time() {
    let road = road();
    let control = tempfile::tempdir().unwrap();
    let faults = Faults::new(control.path().join("faults"));
    faults.set("enospc");
    let mut command = Command::new("true");
    faults.preload(&mut command, road.dir.path());
    let preload: Vec<(&str, &str)> = command
        .get_envs()
        .map(|(name, value)| (name.to_str().unwrap(), value.unwrap().to_str().unwrap()))
        .collect();
    let (url, address) = (road.zammad.url(), road.switch.addr().to_string());
    let systemd = Notified::listen();
    let program = start(&url, &address, road.dir.path(), &systemd, &preload);
    until("it says what it waits for", || systemd.status().starts_with("waiting for the disk: ")).await;
    until("it asks for time", || systemd.has("EXTEND_TIMEOUT_USEC=60000000")).await;
    assert!(!systemd.has("READY=1"));
    faults.clear();
    until("it is ready", || systemd.has("READY=1")).await;
    program.signal("TERM");
    assert_eq!(program.end().code, Some(0));
}

#[tokio::test(start_paused = true)]
async fn only_loops_that_move_feed_the_watchdog() {
    let road = Road::new();
    let daemon = Daemon::start(road.config()).await.unwrap();
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let all = Arc::clone(&said);
    let (live, store) = (daemon.live().clone(), daemon.store().clone());
    let stuck = live.pulse.join("a loop");
    let every = Duration::from_secs(20);
    let told = tokio::spawn(systemd::keep_told(
        live.clone(),
        store,
        CancellationToken::new(),
        Some(every),
        move |states| all.lock().unwrap().extend(states.iter().map(ToString::to_string)),
    ));
    let fed = || said.lock().unwrap().iter().filter(|it| *it == "WATCHDOG=1").count();
    for _ in 0..60 {
        stuck.moved();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // Every quarter of what is asked for, at the least.
    assert!(fed() >= 12, "{:?}", said.lock().unwrap());
    tokio::time::sleep(every / 2).await;
    let before = fed();
    tokio::time::sleep(every * 3).await;
    assert_eq!(fed(), before, "it was fed although a loop is stuck");
    let named = said.lock().unwrap().iter().any(|it| it.starts_with("STATUS=STUCK: a loop (for 10 s)"));
    assert!(named, "{:?}", said.lock().unwrap());
    stuck.moved();
    tokio::time::sleep(every / 4).await;
    assert!(fed() > before, "it moves again");
    told.abort();
    daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_reloads_a_good_configuration_and_leaves_a_bad_one() {
    let road = road();
    let file = road.dir.path().join("config.toml");
    let (url, address) = (road.zammad.url(), road.switch.addr().to_string());
    let base = format!(
        "state_dir = {:?}\ncountry = \"DE\"\n[[switch]]\naddress = \"{address}\"\npassword = \"{PASSWORD}\"\n[[zammad]]\nurl = \"{url}\"\n",
        road.dir.path().join("state")
    );
    let write = |more: &str| {
        std::fs::write(&file, format!("{base}{more}")).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    };
    write("");
    let systemd = Notified::listen();
    let environment = [("NOTIFY_SOCKET", systemd.path().to_str().unwrap().to_owned())];
    let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
    let mut program = Program::start(&["run", "--config", file.to_str().unwrap()], &environment);
    program.wait_for("listening to the switch");

    write("[log]\nlevel = \"debug\"\n[[queue]]\nnumber = \"4930555100\"\nname = \"Support\"\n");
    program.signal("HUP");
    program.wait_for("reloaded: the configuration is in use");
    until("it says that it reloads, and when", || {
        systemd.all().iter().any(|m| m.starts_with("RELOADING=1\nMONOTONIC_USEC=") && m.lines().count() == 2)
    })
    .await;
    let readies = || systemd.all().iter().filter(|m| m.contains("READY=1")).count();
    until("and that it is ready again", || readies() == 2).await;
    let bytes = common::recording("captures", "in_caller_cancels");
    road.play(&renamed(&road.switch, &bytes, "debug")).await;
    road.all_ended(1).await;
    program.wait_for("DEBUG");

    write("[log]\nlevel = \"loud\"\n[delivery]\nconcurrency = 0\nspeed = 9\n");
    program.signal("HUP");
    program.wait_for("not reloaded: the configuration that was read before stays in use");
    until("it is ready all the same", || readies() == 3).await;
    let err = program.err();
    for fault in ["log.level", "delivery.concurrency", "delivery.speed"] {
        let lines = err.lines().filter(|l| l.contains("the configuration has a fault") && l.contains(fault));
        assert_eq!(lines.count(), 1, "{fault} in\n{err}");
    }
    // A reload that is bad or pointless disturbs nothing, and what is asked meanwhile is done.
    road.play(&renamed(&road.switch, &bytes, "after")).await;
    road.all_ended(2).await;
    program.signal("TERM");
    let said = program.end();
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(said.err.matches("listening to the switch").count(), 1, "the link was kept: {}", said.err);
}

/// A Zammad that takes longer than we wait, in the middle of a backlog.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_stops_in_time_while_zammad_takes_for_ever_and_loses_nothing() {
    let road = road();
    road.zammad.set_fault_rule(|_| Fault::slow(Duration::from_secs(600), Duration::ZERO));
    let file = road.dir.path().join("config.toml");
    let (url, address) = (road.zammad.url(), road.switch.addr().to_string());
    let state = road.dir.path().join("state");
    let text = format!(
        "state_dir = {state:?}\ncountry = \"DE\"\n[[switch]]\naddress = \"{address}\"\npassword = \"{PASSWORD}\"\n[[zammad]]\nurl = \"{url}\"\ntimeout_s = 60\n"
    );
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut program = Program::start(&["run", "--config", file.to_str().unwrap()], &[]);
    program.wait_for("listening to the switch");
    let bytes = common::recording("captures", "in_caller_cancels");
    for call in 0..5 {
        road.play(&renamed(&road.switch, &bytes, &format!("slow{call}"))).await;
    }
    within("a request is on its way", road.zammad.wait_until(|_, seen| !seen.is_empty())).await;
    let begun = clock::monotonic();
    program.signal("TERM");
    let said = program.end();
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(begun.elapsed() < STOP_MAX, "it took {:?}", begun.elapsed());
    assert!(said.err.contains("requests were still on their way"), "{}", said.err);
    let listed = program::run(&["queue", "list", "--json", "--state-dir", state.to_str().unwrap()]);
    assert_eq!(listed.out.lines().count(), 10, "a beginning and an end of each call: {listed:?}");
}

fn road() -> Road {
    let zammad = zammad::Settings { token: TOKEN.into(), ..zammad::Settings::default() };
    Road {
        switch: Switch::start(Settings { password: PASSWORD.into(), ..Settings::default() }).unwrap(),
        zammad: Zammad::start(zammad).unwrap(),
        dir: tempfile::tempdir().unwrap(),
    }
}

fn start(url: &str, switch: &str, dir: &Path, systemd: &Notified, more: &[(&str, &str)]) -> Program {
    let path = systemd.path();
    let environment = [&[("NOTIFY_SOCKET", path.to_str().unwrap())], more].concat();
    Program::start(&[&["run"], &flags(url, switch, dir)[..]].concat(), &environment)
}
