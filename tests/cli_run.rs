//! `run` as an operator starts it: told by flags, environment or file; refused, locked, stopped and killed.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/road.rs"]
mod road;

use std::path::Path;
use std::time::Duration;

use freeswitch_zammad::config::CtiUrl;
use freeswitch_zammad::daemon::limits;
use freeswitch_zammad::esl::command::SUBSCRIPTION;
use freeswitch_zammad::sim::recording::{Event, Recording};
use freeswitch_zammad::sim::switch::{Disconnect, Settings, User};
use freeswitch_zammad::sim::zammad::{self, Fault, Row};
use freeswitch_zammad::store::{Seq, Store};
use program::{PASSWORD, Program, Said, TOKEN, flags, run};
use road::{Road, config, differences, renamed, rows_of, until, within};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_environment_or_file_are_enough_each_alone() {
    let user = User {
        name: "zammad@pbx.example.test".into(),
        password: PASSWORD.into(),
        events: SUBSCRIPTION.split_ascii_whitespace().skip(2).map(str::to_owned).collect(),
        apis: vec!["show".into(), "uuid_dump".into()],
    };
    let road = road(Settings { users: vec![user], ..switch() });
    let (url, address) = (road.zammad.url(), road.switch.addr().to_string());
    let dir = |name: &str| road.dir.path().join(name);
    let by_environment = [
        ("FREESWITCH_ZAMMAD_ZAMMAD_URL", url.as_str()),
        ("FREESWITCH_ZAMMAD_FREESWITCH", &address),
        ("FREESWITCH_ZAMMAD_FREESWITCH_PASSWORD", PASSWORD),
        ("FREESWITCH_ZAMMAD_STATE_DIR", dir("by-environment").to_str().unwrap()),
        ("FREESWITCH_ZAMMAD_COUNTRY", "DE"),
    ]
    .map(|(name, value)| (name, value.to_owned()));
    let by_environment = by_environment.each_ref().map(|(name, value)| (*name, value.as_str()));
    let file = dir("config.toml");
    let text = format!(
        "state_dir = {:?}\ncountry = \"DE\"\n\n[[switch]]\naddress = \"{address}\"\nuser = \"zammad@pbx.example.test\"\npassword = \"{PASSWORD}\"\n\n[[zammad]]\nurl = \"{url}\"\n",
        dir("by-file")
    );
    std::fs::write(&file, text).unwrap();
    let (by_flags, flagged) = (dir("by-flags"), ["run"]);
    let flagged = [&flagged[..], &flags(&url, &address, &by_flags)].concat();
    type Way<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)]);
    let ways: [Way<'_>; 3] =
        [(&flagged, &[]), (&["run"], &by_environment), (&["run", "--config", file.to_str().unwrap()], &[])];
    for (number, (args, environment)) in ways.into_iter().enumerate() {
        let mut program = Program::start(args, environment);
        program.wait_for("listening to the switch");
        let bytes = common::recording("captures", "in_caller_cancels");
        road.play(&renamed(&road.switch, &bytes, &format!("way{number}"))).await;
        road.all_ended(number + 1).await;
        program.signal("TERM");
        let said = program.end();
        assert_eq!(said.code, Some(0), "{said:?}");
        assert_eq!(said.out, "");
    }
    let logins: Vec<String> = road.switch.commands().into_iter().map(|(_, said)| said).collect();
    let logins: Vec<&String> = logins.iter().filter(|said| said.contains("auth ")).collect();
    let auth = format!("auth {PASSWORD}");
    let userauth = format!("userauth zammad@pbx.example.test:{PASSWORD}");
    assert_eq!(logins, [&auth, &auth, &userauth]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_that_refuses_us_ends_the_program_with_a_sentence() {
    let narrow = User {
        name: "zammad@pbx.example.test".into(),
        password: PASSWORD.into(),
        events: ["CHANNEL_CREATE", "CHANNEL_ANSWER", "HEARTBEAT"].map(str::to_owned).to_vec(),
        apis: vec![],
    };
    let other = Settings { password: "another".into(), users: vec![narrow], ..switch() };
    let user = ["--freeswitch-user", "zammad@pbx.example.test"];
    let stranger = ["--freeswitch-user", "nobody@pbx.example.test"];
    for (settings, more, words) in [
        (other.clone(), &[][..], &["refused the password", "event_socket.conf.xml"][..]),
        (other.clone(), &stranger, &["refused the password", "esl-password"]),
        (Settings { rude: true, ..switch() }, &[], &["does not accept connections", "apply-inbound-acl"]),
        (other, &user, &["CHANNEL_BRIDGE CHANNEL_UNBRIDGE", "CHANNEL_UUID", "esl-allowed-events"]),
    ] {
        let road = road(settings);
        let (url, address) = (road.zammad.url(), road.switch.addr().to_string());
        let said = run(&[&["run"], &flags(&url, &address, road.dir.path())[..], more].concat());
        refused(&said, 78, words);
        assert!(!said.sentence().contains("HEARTBEAT"), "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_nobody_listens_on_is_tried_again_and_said_once() {
    let mut road = road(switch());
    road.switch.stop(Disconnect::Eof).await;
    let (url, address) = (road.zammad.url(), road.switch.addr().to_string());
    let mut program = start(&url, &address, road.dir.path());
    program.wait_for("no link to the switch");
    road.switch.restart().unwrap();
    program.wait_for("listening to the switch");
    program.signal("TERM");
    let said = program.end();
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(said.err.matches("no link to the switch").count(), 1, "{}", said.err);
    assert!(said.err.contains(&address) && said.err.contains("mod_event_socket"), "{}", said.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_store_a_newer_format_and_a_bad_directory_are_each_one_sentence() {
    let road = road(switch());
    let (url, address) = (road.zammad.url(), road.switch.addr().to_string());
    let at = |dir: &Path| run(&[&["run"], &flags(&url, &address, dir)[..]].concat());
    let dir = road.dir.path().join("state");
    let mut program = start(&url, &address, &dir);
    program.wait_for("listening to the switch");
    let said = at(&dir);
    refused(&said, 1, &["another process", dir.to_str().unwrap(), "--state-dir"]);
    program.signal("TERM");
    assert_eq!(program.end().code, Some(0));

    std::fs::write(dir.join("FORMAT"), "99\n").unwrap();
    let before = contents(&dir);
    refused(&at(&dir), 78, &["format 99", "newer program"]);
    for ask in [&["queue", "list"][..], &["status"]] {
        let said = run(&[ask, &["--state-dir", dir.to_str().unwrap()]].concat());
        refused(&said, 78, &["format 99", "newer program"]);
    }
    assert!(contents(&dir) == before, "something was touched");

    let file = road.dir.path().join("a-file");
    std::fs::write(&file, "").unwrap();
    refused(&at(&file), 78, &[file.to_str().unwrap(), "directory"]);
    refused(&at(&file.join("below")), 78, &[file.to_str().unwrap(), "directory"]);
    // Where nothing can be made, whoever asks.
    refused(&at(Path::new("/proc/x/y")), 78, &["/proc/x/y", "--state-dir"]);
    assert!(road.zammad.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_without_ca_certificates_speaks_http_and_is_told_what_https_wants() {
    let road = road(switch());
    let (url, address) = (road.zammad.url(), road.switch.addr().to_string());
    let nowhere = road.dir.path().join("no-certificates");
    let nowhere = nowhere.to_str().unwrap();
    let bare = [("SSL_CERT_FILE", nowhere), ("SSL_CERT_DIR", nowhere)];
    let mut program =
        Program::start(&[&["run"], &flags(&url, &address, road.dir.path())[..]].concat(), &bare);
    program.wait_for("listening to the switch");
    let bytes = common::recording("captures", "in_caller_cancels");
    road.play(&renamed(&road.switch, &bytes, "bare")).await;
    road.all_ended(1).await;
    program.signal("TERM");
    assert_eq!(program.end().code, Some(0));

    let url = format!("https://zammad.example.test/api/v1/cti/{TOKEN}");
    let args = [&["run"], &flags(&url, &address, road.dir.path())[..]].concat();
    refused(&Program::start(&args, &bare).end(), 78, &["CA certificates", "ca-certificates", "ca_file"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_configuration_is_told_without_its_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let whole = format!("https://zammad.example.test/api/v1/cti/{TOKEN}");
    let bad: [(&str, &str, &str); 5] = [
        (&whole.replace("https://", ""), "127.0.0.1:8021", "https://"),
        (&format!("https://zammad.example.test/{TOKEN}"), "127.0.0.1:8021", "/api/v1/cti"),
        (&format!("{whole}?x=1"), "127.0.0.1:8021", "after the token"),
        (&whole, "127.0.0.1:http", "is no port"),
        (&whole, "127.0.0.1:99999", "is no port"),
    ];
    for (url, switch, word) in bad {
        for command in ["run", "check"] {
            let said = run(&[&[command], &flags(url, switch, dir.path())[..]].concat());
            assert_eq!(said.code, Some(78), "{said:?}");
            assert!(said.err.contains(word), "{word}: {said:?}");
        }
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was made");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_finishes_the_requests_on_their_way() {
    for signal in ["TERM", "INT"] {
        let road = road(switch());
        let wait = Duration::from_millis(400);
        road.zammad.set_fault_rule(move |_| Fault::slow(wait, Duration::ZERO));
        let (url, address) = (road.zammad.url(), road.switch.addr().to_string());
        let mut program = start(&url, &address, road.dir.path());
        program.wait_for("listening to the switch");
        let bytes = common::recording("captures", "in_caller_cancels");
        road.play(&renamed(&road.switch, &bytes, "term")).await;
        within("a request is on its way", road.zammad.wait_until(|_, seen| !seen.is_empty())).await;
        program.signal(signal);
        let said = program.end();
        assert_eq!(said.code, Some(0), "{said:?}");
        assert_eq!(road.zammad.requests().len(), 1);
        assert_eq!(road.zammad.log().len(), 1);
        let store = store(&road);
        assert_eq!((store.counts().delivered, store.counts().pending), (1, 1));
        store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_finishes_its_calls_when_it_is_started_again() {
    let road = road(switch());
    let (url, address) = (road.zammad.url(), road.switch.addr().to_string());
    let mut expected = common::expected("captures");
    let scenes: Vec<_> = common::recordings("captures")
        .into_iter()
        .filter_map(|(name, bytes)| {
            Some((renamed(&road.switch, &bytes, &name), expected.remove(&name)?, name))
        })
        .step_by(3)
        .collect();
    let rounds = 5;
    for round in 0..rounds {
        let mut program = start(&url, &address, road.dir.path());
        program.wait_for("listening to the switch");
        let mut heard = 0;
        for (recording, ..) in &scenes {
            let count = recording.events().len();
            let (begin, end) = (count * round / rounds, count * (round + 1) / rounds);
            let piece = recording.split_at(end).0.split_at(begin).1;
            road.play(&piece).await;
            heard += piece.events().iter().filter(|e| is_subscribed(e)).count() as u64;
        }
        // What was read but is not on disk yet dies with the process: that is the limit, and not what is tried here.
        until("all was heard and is on disk", || {
            status(&road)["calls"]["events_handled"].as_u64() >= Some(heard)
        })
        .await;
        if round + 1 < rounds {
            program.kill();
            continue;
        }
        let calls = scenes.iter().map(|(_, want, _)| want.as_array().unwrap().len()).sum::<usize>();
        until("nothing waits and no call goes on", || {
            let status = status(&road);
            let over = status["queue"]["waiting"] == 0 && status["calls"]["going_on"] == 0;
            over && road.zammad.log().len() >= calls
        })
        .await;
        program.signal("TERM");
        assert_eq!(program.end().code, Some(0));
        finished(&road, &scenes, &unsure(&road).await);
    }
}

fn status(road: &Road) -> Value {
    let said = run(&["status", "--json", "--state-dir", road.dir.path().to_str().unwrap()]);
    // Between its start and its control socket a daemon cannot be asked.
    serde_json::from_str(&said.out).unwrap_or_default()
}

fn is_subscribed(event: &Event) -> bool {
    let kind = event.header("Event-Subclass").unwrap_or_else(|| event.name().to_owned());
    SUBSCRIPTION.split_ascii_whitespace().any(|word| word == kind)
}

/// The calls whose hangup was left alone, because it may have arrived before the process was killed.
async fn unsure(road: &Road) -> Vec<String> {
    let store = store(road);
    let delivered = store.delivered_from(Seq(0), usize::MAX).unwrap();
    assert_eq!(store.counts().dead, 0);
    store.close().await.unwrap();
    let is_unsure = |note: &Option<String>| note.as_ref().is_some_and(|n| n.contains("may not have arrived"));
    let unsure = delivered.into_iter().filter(|(_, done)| is_unsure(&done.note));
    unsure.map(|(_, done)| done.pending.event.call_id.to_string()).collect()
}

fn finished(road: &Road, scenes: &[(Recording, Value, String)], unsure: &[String]) {
    let (log, seen) = (road.zammad.log(), road.zammad.requests());
    for (recording, want, name) in scenes {
        let rows: Vec<&Row> = rows_of(&log, recording);
        assert_eq!(rows.len(), want.as_array().unwrap().len(), "{name}: {rows:#?}");
        if rows.iter().any(|row| unsure.contains(&row.call_id)) {
            continue;
        }
        // Who answered may be known no more; that it was missed or answered, and is over, must stand.
        let wrong: Vec<String> = differences(&rows, &seen, want)
            .into_iter()
            .filter(|d| !d.starts_with("answered by") && !d.starts_with("shown as"))
            .collect();
        assert!(wrong.is_empty(), "{name}: {wrong:?} {rows:#?}");
    }
}

fn switch() -> Settings {
    Settings { password: PASSWORD.into(), ..Settings::default() }
}

fn road(settings: Settings) -> Road {
    Road::of(settings, zammad::Settings { token: TOKEN.into(), ..zammad::Settings::default() })
}

fn start(url: &str, switch: &str, dir: &Path) -> Program {
    assert!(url.parse::<CtiUrl>().is_ok());
    Program::start(&[&["run"], &flags(url, switch, dir)[..]].concat(), &[])
}

fn store(road: &Road) -> Store {
    let config = config(&road.zammad.url(), &road.switch.addr().to_string(), PASSWORD, road.dir.path());
    Store::open(road.dir.path(), limits(&config)).unwrap()
}

/// It ended with this code, and its last line is one sentence with these words.
fn refused(said: &Said, code: i32, words: &[&str]) {
    assert_eq!(said.code, Some(code), "{said:?}");
    assert!(said.sentence().starts_with("freeswitch-zammad: "), "{said:?}");
    for word in words {
        assert!(said.sentence().contains(word), "{word:?} is not in {:?}", said.sentence());
    }
    assert_eq!(said.out, "", "{said:?}");
}

/// Every file below, with its bytes.
fn contents(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path)
            } else {
                all.push((path.clone(), std::fs::read(&path).unwrap()))
            }
        }
    }
    all.sort();
    assert!(all.len() > 2, "nothing in {}", dir.display());
    all
}
