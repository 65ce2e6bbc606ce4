//! `check`: offline every fault at once, online what does not work and what to do; no trace in Zammad.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
#[path = "common/program.rs"]
mod program;

use std::path::Path;

use freeswitch_zammad::esl::command::SUBSCRIPTION;
use freeswitch_zammad::sim::switch::{Disconnect, Settings, Switch, User};
use freeswitch_zammad::sim::zammad::{self, Answer, Fault, Zammad};
use program::{PASSWORD, Said, TOKEN, flags, run};

#[test]
fn every_fault_is_told_with_its_file_its_key_and_its_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let text = format!(
        "country = \"Germany\"\n\n[[switch]]\naddress = \"pbx\"\nheartbeat_timeout_s = 1\n\n[[zammad]]\nurl = \"https://z.example.test/{TOKEN}\"\ncolour = \"red\"\n"
    );
    std::fs::write(&file, text).unwrap();
    let said = run(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(said.code, Some(78), "{said:?}");
    let keys = ["country", "switch[0].address", "switch[0].heartbeat_timeout_s", "switch[0].password"];
    for key in keys.iter().chain(&["zammad[0].url", "colour"]) {
        let line = said.err.lines().find(|line| line.contains(key));
        let line = line.unwrap_or_else(|| panic!("{key}: {}", said.err));
        assert!(line.contains("; "), "no remedy in {line}");
    }
    assert!(said.err.matches(file.to_str().unwrap()).count() >= 5, "{}", said.err);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was made");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn online_both_ends_are_asked_and_nothing_is_left_behind() {
    let (switch, zammad) = (switch(), zammad());
    let said = check(&zammad.url(), &switch.addr().to_string());
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(said.out.lines().count(), 3, "{said:?}");
    assert!(said.out.contains("logged in") && said.out.contains("takes events"), "{said:?}");
    assert!(zammad.log().is_empty());
    assert_eq!(zammad.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn online_each_thing_that_does_not_work_says_what_to_do() {
    let (mut switch, mut zammad) = (switch(), zammad());
    let (url, address) = (zammad.url(), switch.addr().to_string());
    let elsewhere = format!("https://other.example.test/api/v1/cti/{TOKEN}");

    zammad.set_faults([Fault::answer_instead(Answer::redirect(301, &elsewhere))]);
    fails(
        &check(&url, &address),
        &["redirects to https://other.example.test/api/v1/cti/****", "set the URL"],
    );
    zammad.change(|s| s.enabled = false);
    fails(&check(&url, &address), &["integration is off", "switch it on"]);
    zammad.change(|s| s.enabled = true);
    zammad.change(|s| s.token = "another".into());
    fails(&check(&url, &address), &["does not know this token", "copy the URL"]);
    zammad.change(|s| s.token = TOKEN.into());
    zammad.stop().await;
    fails(&check(&url, &address), &["refused", "is Zammad running"]);
    zammad.restart().unwrap();
    let unknown = format!("http://zammad.invalid/api/v1/cti/{TOKEN}");
    fails(&check(&unknown, &address), &["zammad.invalid", "correct the host"]);

    fails(&check(&url, "pbx.invalid:8021"), &["pbx.invalid:8021", "no connection"]);
    switch.stop(Disconnect::Eof).await;
    fails(&check(&url, &address), &[&address, "refused", "mod_event_socket"]);
    for (settings, words) in [
        (
            Settings { password: "another".into(), ..Settings::default() },
            ["refused the password", "set the one"],
        ),
        (Settings { rude: true, ..Settings::default() }, ["does not accept", "apply-inbound-acl"]),
    ] {
        let switch = Switch::start(settings).unwrap();
        fails(&check(&url, &switch.addr().to_string()), &words);
    }
    assert!(zammad.log().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_may_not_ask_for_legs_is_found_before_it_matters() {
    let zammad = zammad();
    for (apis, missing) in [(&[][..], "show"), (&["show"], "uuid_dump")] {
        let user = User {
            name: "zammad@pbx.example.test".into(),
            password: PASSWORD.into(),
            events: SUBSCRIPTION.split_ascii_whitespace().skip(2).map(str::to_owned).collect(),
            apis: apis.iter().map(|api| (*api).to_owned()).collect(),
        };
        let switch = Switch::start(Settings { users: vec![user], ..Settings::default() }).unwrap();
        let (url, address, dir) = (zammad.url(), switch.addr().to_string(), Path::new("/nonexistent"));
        let args = [&["check", "--online"][..], &flags(&url, &address, dir)].concat();
        let said = run(&[&args[..], &["--freeswitch-user", "zammad@pbx.example.test"]].concat());
        fails(&said, &[&format!("add {missing} to"), "esl-allowed-api"]);
    }
}

fn switch() -> Switch {
    Switch::start(Settings { password: PASSWORD.into(), ..Settings::default() }).unwrap()
}

fn zammad() -> Zammad {
    Zammad::start(zammad::Settings { token: TOKEN.into(), ..zammad::Settings::default() }).unwrap()
}

/// The directory need not exist: a check makes nothing.
fn check(url: &str, switch: &str) -> Said {
    run(&[&["check", "--online"][..], &flags(url, switch, Path::new("/nonexistent/state"))].concat())
}

fn fails(said: &Said, words: &[&str]) {
    assert_eq!(said.code, Some(78), "{said:?}");
    let lines: Vec<&str> = said.out.lines().filter(|line| line.contains("FAILS")).collect();
    assert_eq!(lines.len(), 1, "{said:?}");
    for word in words {
        assert!(lines[0].contains(word), "{word:?} is not in {:?}", lines[0]);
    }
}
