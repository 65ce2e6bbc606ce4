//! The pages of `docs/trouble` quote the program: each quotation is made by bringing the trouble about.
#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

mod common;
mod docs;
#[path = "common/program.rs"]
mod program;
#[path = "common/road.rs"]
mod road;
#[path = "docs/stage.rs"]
mod stage;

mod disk;

use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use disk::Faults;
use freeswitch_zammad::sim::switch::{Disconnect, Settings, Switch};
use freeswitch_zammad::sim::zammad::{Answer, Fault, Zammad};
use program::{PASSWORD, Program, TOKEN};
use stage::{Stage, write};
use tokio::net::{TcpListener, TcpStream};

const THIS: &str = "docs_trouble";

fn show(page: &str, name: &str, text: &str) {
    docs::hold_shown(&format!("docs/trouble/{page}.md"), THIS, name, text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zammad_does_not_know_the_token() {
    let stage = Stage::new();
    let program = stage.listening().await;
    stage.zammad.change(|zammad| zammad.token = "another".into());
    missed_call(&stage, "NEEDS YOU").await;
    show("zammad-says-401", "status", &stage.status());
    show("zammad-says-401", "log", &stage.log(&program, &["takes no events"]));
    show("zammad-says-401", "check", &stage.tidy(&stage.ask(&["check", "--online"]).out));
    let metrics = ["freeswitch_zammad_zammad_link", "freeswitch_zammad_queue_events"];
    show("zammad-says-401", "metrics", &stage.metrics(&program, &metrics).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zammad_takes_no_events_at_this_address() {
    let stage = Stage::new();
    let program = stage.listening().await;
    stage.zammad.change(|zammad| zammad.enabled = false);
    missed_call(&stage, "NEEDS YOU").await;
    show("zammad-says-404-or-422", "off", &zammads(&stage));
    show("zammad-says-404-or-422", "log", &stage.log(&program, &["takes no events"]));
    for (name, answer) in [
        ("not-found", Answer::nginx(404)),
        ("redirect", Answer::redirect(301, "https://helpdesk.example.com/")),
    ] {
        let stage = Stage::new();
        stage.zammad.set_fault_rule(move |_| Fault::answer_instead(answer.clone()));
        let _program = stage.listening().await;
        missed_call(&stage, "NEEDS YOU").await;
        show("zammad-says-404-or-422", name, &zammads(&stage));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zammad_is_away() {
    let mut stage = Stage::new();
    let mut program = stage.listening().await;
    stage.zammad.stop().await;
    missed_call(&stage, "AWAY").await;
    show("zammad-is-away", "status", &stage.status());
    show("zammad-is-away", "log", &stage.log(&program, &["Zammad is away"]));
    stage.zammad.restart().unwrap();
    program.wait_for("Zammad answers");
    stage.until_status("queue: 0 waiting").await;
    show("zammad-is-away", "back", &stage.log(&program, &["Zammad answers"]));
    show("zammad-is-away", "over", &zammads(&stage));

    let stage = Stage::new();
    stage.zammad.set_fault_rule(|_| Fault::answer_instead(Answer::nginx(502)));
    let _program = stage.listening().await;
    missed_call(&stage, "AWAY").await;
    show("zammad-is-away", "proxy", &zammads(&stage));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zammads_certificate_is_not_trusted() {
    let stage = Stage::new();
    let (address, _) = encrypted(&stage.zammad, "localhost", 2090).await;
    stage.configure(&format!("https://localhost:{}/api/v1/cti/{TOKEN}", address.port()), "");
    let tidy = |text: &str| {
        text.replace(&format!("localhost:{}", address.port()), "zammad.example.com")
            .replace("localhost", "zammad.example.com")
    };
    let program = stage.listening().await;
    missed_call(&stage, "NEEDS YOU").await;
    show("certificate-errors", "status", &tidy(&zammads(&stage)));
    show("certificate-errors", "log", &tidy(&stage.log(&program, &["takes no events"])));

    for (name, host, until) in [("expired", "localhost", 2020), ("name", "helpdesk.example.com", 2090)] {
        let stage = Stage::new();
        let (address, pem) = encrypted(&stage.zammad, host, until).await;
        write(&stage.dir.path().join("ca.pem"), &pem);
        let url = format!("https://localhost:{}/api/v1/cti/{TOKEN}", address.port());
        stage.configure(&url, "ca_file = \"ca.pem\"\n");
        let said = stage.ask(&["check", "--online"]);
        assert_eq!(said.code, Some(78), "{said:?}");
        let line = said.out.lines().find(|line| line.starts_with("zammad main")).unwrap();
        let line = line
            .replace(&format!("localhost:{}", address.port()), "zammad.example.com")
            .replace("localhost", "zammad.example.com");
        show("certificate-errors", name, &without_moments(&line));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fate_of_a_hangup_is_unknown() {
    let stage = Stage::new();
    stage.zammad.set_fault_rule(|seen| match seen.event.as_deref() {
        Some("hangup") => Fault::reset_after(),
        _ => Fault::none(),
    });
    let program = stage.listening().await;
    missed_call(&stage, "1 hangups of unknown fate").await;
    stage.until_status("queue: 0 waiting").await;
    show("calls-ring-for-ever", "status", &zammads(&stage));
    show("calls-ring-for-ever", "log", &stage.log(&program, &["may or may not have arrived"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_arrives() {
    let stage = Stage::new();
    let program = stage.listening().await;
    stage.until_status("listening since").await;
    show("nothing-arrives", "unasked", &stage.status());
    let healthy = ["status page", "listening to the switch", "started"];
    show(
        "nothing-arrives",
        "log",
        &stage.log(&program, &healthy).replace(&address_of(&program), "127.0.0.1:8022"),
    );
    assert_eq!(stage.ask(&["pause"]).code, Some(0));
    missed_call(&stage, "PAUSED").await;
    show("nothing-arrives", "paused", &zammads(&stage));
    program.signal("TERM");
    assert_eq!(program.end().code, Some(0));
    let said = stage.ask(&["status"]);
    assert_eq!(said.code, Some(3));
    show("nothing-arrives", "stopped", &stage.tidy(&said.out));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_explained() {
    let stage = Stage::new();
    let file = stage.dir.path().join("calls.esl");
    std::fs::write(&file, common::recording("captures", "in_caller_cancels")).unwrap();
    let said = stage.ask(&["trace", "--explain", file.to_str().unwrap()]);
    assert_eq!(said.code, Some(0), "{said:?}");
    show("calls-missing-or-wrong", "trace", &format!("{}{}", said.err, said.out));
    let _program = stage.listening().await;
    stage.play("in_answered_caller_hangs_up").await;
    stage.until_status("3 delivered").await;
    let listed = stage.ask(&["queue", "list", "delivered"]);
    let id = stage.zammad.log()[0].call_id.clone();
    let tidy = |text: &str| stage.tidy(text);
    show("screen-pops-late-or-not-at-all", "delivered", &tidy(&listed.out));
    show("screen-pops-late-or-not-at-all", "explain", &tidy(&stage.ask(&["explain", &id]).out));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_no_link_to_the_switch() {
    let mut stage = Stage::new();
    let mut program = stage.listening().await;
    stage.switch.stop(Disconnect::Eof).await;
    program.wait_for("no link to the switch");
    stage.until_status("refused").await;
    show("no-link-to-the-switch", "status", &stage.status());
    show("no-link-to-the-switch", "log", &stage.log(&program, &["no link to the switch"]));
    let metrics = stage.metrics(&program, &["freeswitch_zammad_switch_link_up"]).await;
    show("no-link-to-the-switch", "metrics", &metrics);
    stage.switch.restart().unwrap();
    crate::road::until("the link is back", || program.err().matches("listening to the switch").count() == 2)
        .await;
    show("no-link-to-the-switch", "back", &stage.log(&program, &["listening to the switch"]));

    for (name, settings) in [
        ("password", Settings { password: "another".into(), ..Settings::default() }),
        ("acl", Settings { rude: true, password: PASSWORD.into(), ..Settings::default() }),
    ] {
        let mut stage = Stage::new();
        stage.switch = Switch::start(settings).unwrap();
        stage.configure(&stage.zammad.url(), "");
        let said = stage.start().end();
        assert_eq!(said.code, Some(78), "{said:?}");
        show("no-link-to-the-switch", name, &stage.tidy(said.sentence()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_is_full() {
    let stage = Stage::new();
    let control = tempfile::tempdir().unwrap();
    let faults = Faults::new(control.path().join("faults"));
    let mut program = on_disk(&stage, &faults);
    program.wait_for("listening to the switch");
    faults.set("enospc");
    missed_call(&stage, "NO ROOM FOR EVENTS").await;
    stage.until_status("2 events are not on disk yet").await;
    let status = stage.status();
    let from = status.find("queue:").unwrap();
    show("the-disk-is-full", "status", &status[from..]);
    show("the-disk-is-full", "log", &stage.log(&program, &["the disk refuses"]));
    let metrics = [
        "freeswitch_zammad_store_refused",
        "freeswitch_zammad_events_unaccepted",
        "freeswitch_zammad_events_lost",
    ];
    show("the-disk-is-full", "metrics", &stage.metrics(&program, &metrics).await);
    faults.clear();
    stage.until_status("2 delivered").await;

    let stage = Stage::new();
    faults.set("enospc");
    let mut program = on_disk(&stage, &faults);
    program.wait_for("the store cannot be opened yet");
    show("the-disk-is-full", "start", &stage.log(&program, &["the store cannot be opened yet"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_is_damaged() {
    let mut stage = Stage::new();
    stage.zammad.stop().await;
    let program = stage.listening().await;
    for name in ["in_answered_caller_hangs_up", "in_caller_cancels", "out_busy"] {
        stage.play(name).await;
    }
    stage.until_status("7 events accepted").await;
    program.signal("TERM");
    assert_eq!(program.end().code, Some(0));
    show("the-store-is-damaged", "sound", &stage.tidy(&stage.ask(&["store", "verify"]).out));
    // In the middle of what is written, as a bad sector does it.
    let db = stage.dir.path().join("state/queue/db");
    let written = std::fs::read(&db).unwrap().iter().rposition(|byte| *byte != 0).unwrap();
    let file = std::fs::File::options().write(true).open(db).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0x5a; 512], written as u64 / 2).unwrap();
    let said = stage.ask(&["store", "verify"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    show("the-store-is-damaged", "verify", &stage.tidy(&format!("{}{}", said.out, said.err)));
    let program = stage.listening().await;
    let log = stage.log(&program, &["the store is damaged", "begun anew"]);
    // How many rows lay there hangs on how they were grouped.
    let log: Vec<&str> =
        log.split(' ').map(|word| if word.starts_with("waiting=") { "waiting=4" } else { word }).collect();
    show("the-store-is-damaged", "log", &log.join(" "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_daemon_does_not_start() {
    let stage = Stage::new();
    let program = stage.listening().await;
    let second = stage.start().end();
    show("the-daemon-does-not-start", "locked", &stage.tidy(second.sentence()));
    assert_eq!(second.code, Some(1));
    drop(program);
    let faulty = stage.dir.path().join("faulty.toml");
    write(
        &faulty,
        "country = \"DE\"\n\n[[switch]]\naddress = \"127.0.0.1\"\npassword_file = \"freeswitch-password\"\n\n[[zammad]]\nurl = \"https://zammad.example.com\"\n\n[delivery]\nconcurency = 4\nmax_age_d = 0\n",
    );
    let said = program::run(&["check", "--config", faulty.to_str().unwrap()]);
    assert_eq!(said.code, Some(78));
    show("the-daemon-does-not-start", "check", &stage.tidy(&said.err).replace("faulty.toml", "config.toml"));
    let no_folder = stage.file().join("state");
    let said = stage.ask(&["run", "--state-dir", no_folder.to_str().unwrap()]);
    assert_eq!(said.code, Some(78), "{said:?}");
    let sentence = said.sentence().replace(no_folder.to_str().unwrap(), "/var/lib/freeswitch-zammad");
    show("the-daemon-does-not-start", "not-writable", &sentence);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zammad_refuses_an_event_for_good() {
    let stage = Stage::new();
    stage.zammad.set_fault_rule(|seen| match seen.event.as_deref() {
        Some("newCall") => {
            Fault::answer_instead(Answer::json(422, r#"{"error":"Attribute 'from' required!"}"#))
        }
        _ => Fault::none(),
    });
    let program = stage.listening().await;
    missed_call(&stage, "dead letters").await;
    stage.until_status("queue: 0 waiting").await;
    show("dead-letters", "status", &stage.status());
    show("dead-letters", "log", &stage.log(&program, &["kept as a dead letter"]));
    show("dead-letters", "list", &stage.tidy(&stage.ask(&["queue", "list", "dead"]).out));
    show("dead-letters", "show", &stage.tidy(&stage.ask(&["queue", "show", "1"]).out));
    stage.zammad.clear_faults();
    let said = stage.ask(&["queue", "replay", "--dead", "--wait"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let said = stage.tidy(&format!("{}{}", said.out, said.err));
    // How often it looks hangs on the moment.
    let lines: Vec<&str> =
        said.lines().filter(|line| !line.contains("2 of 2 still") && !line.contains("1 of 2")).collect();
    show("dead-letters", "replay", &lines.join("\n"));
    stage.until_status(" 0 dead letters").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_and_disk_are_shown() {
    let stage = Stage::new();
    let program = stage.listening().await;
    missed_call(&stage, "2 delivered").await;
    let names = [
        "freeswitch_zammad_queue_events",
        "freeswitch_zammad_delivered_kept",
        "freeswitch_zammad_dead_letters",
        "freeswitch_zammad_store_size_bytes",
    ];
    show("memory-or-disk-grows", "metrics", &stage.metrics(&program, &names).await);
    let status = stage.status();
    show("memory-or-disk-grows", "status", status.lines().find(|line| line.starts_with("queue:")).unwrap());
}

/// Plays a call that nobody takes, and returns once status shows what came of it.
async fn missed_call(stage: &Stage, shown: &str) {
    stage.play("in_caller_cancels").await;
    stage.until_status(shown).await;
    if shown != "NO ROOM FOR EVENTS" {
        stage.until_status("2 events accepted").await;
    }
}

/// What status says of Zammad.
fn zammads(stage: &Stage) -> String {
    let status = stage.status();
    let from = status.find("zammad main").unwrap();
    status[from..status.find("queue:").unwrap()].to_owned()
}

fn address_of(program: &Program) -> String {
    let said = program.err();
    said.split("address=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned()
}

/// The daemon on a disk that fails on demand.
fn on_disk(stage: &Stage, faults: &Faults) -> Program {
    let mut command = Command::new("true");
    faults.preload(&mut command, stage.dir.path());
    let text = |os: &std::ffi::OsStr| os.to_str().unwrap().to_owned();
    let environment: Vec<(String, String)> =
        command.get_envs().map(|(name, value)| (text(name), text(value.unwrap()))).collect();
    let environment: Vec<(&str, &str)> = environment.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    Program::start(&["run", "--config", stage.file().to_str().unwrap()], &environment)
}

/// What the clock says now, in seconds since 1970, is of the moment.
fn without_moments(line: &str) -> String {
    let word = |word: &str| match word.strip_prefix("UnixTime(179") {
        Some(_) => "UnixTime(1795576360),".to_owned(),
        None => word.to_owned(),
    };
    line.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// TLS in front of a Zammad, with a certificate that nobody has signed but itself; and that in PEM.
async fn encrypted(zammad: &Zammad, host: &str, until: i32) -> (SocketAddr, String) {
    let signing_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new([host.to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    let cert = params.self_signed(&signing_key).unwrap();
    let key = signing_key.serialize_der();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.try_into().unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let behind = zammad.base_url().trim_start_matches("http://").to_owned();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, behind) = (acceptor.clone(), behind.clone());
            tokio::spawn(async move {
                let mut outer = acceptor.accept(stream).await?;
                let mut inner = TcpStream::connect(behind).await?;
                tokio::io::copy_bidirectional(&mut outer, &mut inner).await.map(drop)?;
                io::Result::Ok(())
            });
        }
    });
    (address, cert.pem())
}
