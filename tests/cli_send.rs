//! `send` as scripts use it: what is told, what is said of it, and by which exit code a script knows.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/road.rs"]
mod road;
#[path = "common/tls.rs"]
mod tls;

use std::fs;

use freeswitch_zammad::edge::clock;
use freeswitch_zammad::sim::zammad::{Answer, Fault, Routing, Row, Seen, Settings, Zammad};
use program::{PASSWORD, Program, Said, TOKEN, flags, run};
use road::{Road, until, within};
use serde_json::{Value, json};
use tls::Front;

const CUSTOMER: &str = "4915112345678";

fn zammad() -> Zammad {
    Zammad::start(Settings { token: TOKEN.into(), ..Settings::default() }).unwrap()
}

/// `send` of one event of an inbound call, with `more`.
fn words<'a>(event: &'a str, call: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let cause: &[&str] = if event == "hangup" { &["--cause", "cancel"] } else { &[] };
    let said = ["send", event, "--call-id", call, "--direction", "in", "--from", CUSTOMER, "--to", "4930555"];
    [&said[..], cause, more].concat()
}

/// Straight to this Zammad, named by the variable of py-zammad-cti.
fn send(url: &str, words: &[&str]) -> Said {
    Program::start(words, &[("ZammadCTI_URL", url)]).end()
}

fn straight(zammad: &Zammad, event: &str, call: &str, more: &[&str]) -> (Option<i32>, String) {
    let said = send(&zammad.url(), &words(event, call, more));
    (said.code, said.out.trim_end().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_zammad_says_is_said_and_has_an_exit_code() {
    let mut zammad = zammad();
    let more = ["--user", "Alice", "--user", "Bob", "--queue-name", "Support"];
    assert_eq!(straight(&zammad, "new-call", "c", &more), (Some(0), "accepted".into()));
    let row = || zammad.log()[0].clone();
    assert_eq!((row().to_comment.as_deref(), row().queue.as_deref()), (Some("Alice, Bob"), Some("Support")));
    assert_eq!(
        straight(&zammad, "new-call", "c", &["--json"]),
        (Some(0), r#"{"result":"already-known"}"#.into())
    );
    let more = ["--answering-number", "1001", "--user", "Bob"];
    assert_eq!(straight(&zammad, "answer", "c", &more), (Some(0), "accepted".into()));
    assert_eq!(row().to_comment.as_deref(), Some("Bob"));
    assert_eq!(straight(&zammad, "hangup", "c", &["--answered"]), (Some(0), "accepted".into()));
    assert_eq!((row().state.as_str(), row().comment.as_deref()), ("hangup", Some("cancel")));

    let routing = Routing {
        block: vec![CUSTOMER.into()],
        table: vec![("4915*".into(), "49309999".into())],
        default_caller_id: None,
    };
    zammad.change(|settings| settings.routing = Some(routing));
    assert_eq!(straight(&zammad, "new-call", "blocked", &[]), (Some(4), "rejected: busy".into()));
    let rejected = (Some(4), r#"{"reason":"busy","result":"rejected"}"#.to_owned());
    assert_eq!(straight(&zammad, "new-call", "blocked2", &["--json"]), rejected);
    let out = [
        "send",
        "new-call",
        "--callId",
        "d",
        "--direction",
        "out",
        "--from",
        "1001",
        "--to",
        "+4915112345678",
    ];
    let said = send(&zammad.url(), &out);
    assert_eq!((said.code, said.out.trim()), (Some(0), "dial: number=4915112345678 caller_id=49309999"));

    assert_eq!(straight(&zammad, "hangup", "never-told", &[]), (Some(65), String::new()));
    zammad.set_faults([Fault::answer_instead(Answer::json(422, r#"{"error":"no such thing"}"#))]);
    assert_eq!(straight(&zammad, "new-call", "e", &[]), (Some(65), String::new()));
    // Of a missed call nobody may ask twice; of one that was answered one should.
    zammad.set_faults([Fault::reset_after()]);
    let said = send(&zammad.url(), &words("hangup", "blocked", &[]));
    assert!(said.code == Some(65) && said.sentence().contains("do not repeat it"), "{said:?}");
    zammad.set_faults([Fault::reset_after()]);
    assert_eq!(straight(&zammad, "hangup", "blocked2", &["--answered"]), (Some(75), String::new()));

    zammad.set_faults([Fault::answer_instead(Answer::nginx(503).with_header("retry-after", "7"))]);
    let (code, out) = straight(&zammad, "new-call", "f", &["--json"]);
    let said: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &said["retry"], &said["retry_after_s"]), (Some(75), &json!(true), &json!(7)));
    zammad.change(|settings| settings.enabled = false);
    let (code, out) = straight(&zammad, "new-call", "f", &["--json"]);
    assert!(code == Some(78) && out.contains("\"retry\":false"), "{code:?} {out}");
    zammad.stop().await;
    assert_eq!(straight(&zammad, "new-call", "f", &[]), (Some(75), String::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_said_and_not_sent() {
    let zammad = zammad();
    let long = "x".repeat(251);
    let out = |event, more: &[&'static str]| {
        let said =
            ["send", event, "--call-id", "c", "--direction", "out", "--from", "1001", "--to", "4930555"];
        [&said[..], more].concat()
    };
    for (words, why) in [
        (words("new-call", &long, &[]), "callId has 251 characters"),
        (words("new-call", "", &[]), "callId is empty"),
        (out("new-call", &["--user", ""]), "user is empty"),
        (
            words("answer", "c", &["--user", "A", "--user", "B"]),
            "'--user <USER>' cannot be used multiple times",
        ),
        (out("answer", &["--user", "Alice"]), "user does not go with the answer of an outbound call"),
        (out("answer", &["--answering-number", "1001"]), "answeringNumber does not go with"),
        (out("hangup", &["--cause", "NORMAL_CLEARING"]), "no CTI cause"),
        (out("answer", &["--leg", "x"]), "--queue"),
    ] {
        let said = send(&zammad.url(), &words);
        assert!(said.code == Some(2) && said.err.contains(why), "{words:?}: {said:?}");
        assert!(said.out.is_empty(), "{said:?}");
    }
    let nobody = ["send", "new-call", "--call-id", "c", "--direction", "in", "--from", "", "--to", "4930555"];
    let said = send(&zammad.url(), &nobody);
    assert!(said.code == Some(2) && said.err.contains("from is empty"), "{said:?}");
    assert!(zammad.requests().is_empty());
    let help = run(&["send", "hangup", "--help"]).out;
    assert!(["65 ", "75 ", "78 "].iter().all(|code| help.contains(code)), "{help}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_several_zammads_is_named_and_its_own_authority_trusted() {
    let (acme, other) = (zammad(), zammad());
    let front = Front::of(&acme).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let write = |ca: &str| {
        let of = |name: &str, url: &str, ca: &str| {
            format!("[[zammad]]\nname = \"{name}\"\nurl = \"{url}\"\n{ca}\n")
        };
        let text = of("acme", &front.url(TOKEN), ca) + &of("other", &other.url(), "");
        fs::write(&file, format!("state_dir = \"state\"\n{text}")).unwrap();
    };
    fs::write(dir.path().join("ca.pem"), &front.pem).unwrap();
    let config = ["--config", file.to_str().unwrap()];
    let send = |zammad: &[&str]| run(&[&words("new-call", "c", &config)[..], zammad].concat());

    write("");
    let said = send(&["--zammad", "acme"]);
    assert!(said.code == Some(78) && said.err.contains("certificate is not trusted"), "{said:?}");
    assert!(acme.requests().is_empty());
    write("ca_file = \"ca.pem\"");
    let said = send(&["--zammad", "acme"]);
    assert_eq!((said.code, said.out.trim()), (Some(0), "accepted"), "{said:?}");
    assert_eq!((acme.log().len(), other.log().len()), (1, 0));
    assert_eq!(send(&["--zammad", "other"]).code, Some(0));
    assert_eq!(other.log().len(), 1);
    let said = send(&[]);
    assert!(said.code == Some(2) && said.err.contains("acme, other"), "{said:?}");
    let said = send(&["--zammad", "none"]);
    assert!(said.code == Some(2) && said.err.contains("acme, other"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_queue_has_taken_survives_a_kill_and_is_told_once_and_in_order() {
    let mut road = Road::guarded(PASSWORD, TOKEN);
    let (url, switch) = (road.zammad.url(), road.switch.addr().to_string());
    let args = [&["run"][..], &flags(&url, &switch, road.dir.path())].concat();
    let dir = road.dir.path().to_str().unwrap().to_owned();
    let queue = |event: &str, call: &str, more: &[&str]| {
        let how = ["--queue", "--state-dir", &dir];
        let said = run(&words(event, call, &[&how, more].concat()));
        (said.code, said.out.trim_end().to_owned())
    };
    road.zammad.stop().await;
    let mut program = Program::start(&args, &[]);
    program.wait_for("listening to the switch");
    assert_eq!(queue("new-call", "a", &["--user", "Alice"]), (Some(0), "queued: 1".into()));
    assert_eq!(queue("new-call", "b", &["--json"]), (Some(0), r#"{"result":"queued","seq":2}"#.into()));
    assert_eq!(queue("answer", "a", &["--user", "Bob"]), (Some(0), "queued: 3".into()));
    // The script does not know whether it was heard.
    assert_eq!(queue("answer", "a", &["--user", "Bob"]), (Some(0), "already queued".into()));
    assert_eq!(queue("answer", "a", &["--user", "Eve"]), (Some(0), "queued: 4".into()));
    assert_eq!(queue("answer", "a", &["--user", "Bob", "--leg", "2"]), (Some(0), "queued: 5".into()));
    assert_eq!(queue("hangup", "a", &["--answered"]), (Some(0), "queued: 6".into()));
    program.kill();

    let hangups = |call: &str| {
        let rows = run(&["queue", "show", call, "--json", "--state-dir", &dir]).out;
        let rows: Vec<Value> = rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
        let answered =
            rows.iter().filter(|row| row["body"]["event"] == "hangup").map(|row| row["answered"] == true);
        answered.collect::<Vec<_>>()
    };
    assert_eq!(hangups("a"), [true]);

    // Nobody runs: into the stopped queue, and told of the same as before.
    assert_eq!(queue("hangup", "a", &["--answered"]), (Some(0), "already queued".into()));
    let said = run(&words("hangup", "b", &["--queue", "--state-dir", &dir]));
    assert_eq!((said.code, said.out.trim()), (Some(0), "queued: 7"), "{said:?}");
    assert!(said.err.contains("the daemon is not running"), "{said:?}");
    assert_eq!(hangups("b"), [false]);

    road.zammad.restart().unwrap();
    let mut program = Program::start(&args, &[]);
    program.wait_for("listening to the switch");
    road.all_ended(2).await;
    assert_eq!(queue("new-call", "c", &[]), (Some(0), "queued: 8".into()));
    let told =
        |_: &[Row], seen: &[Seen]| seen.iter().filter(|s| s.processed && s.event.is_some()).count() == 8;
    within("all are told", road.zammad.wait_until(told)).await;
    let of = |call: &str| {
        let told = road.zammad.requests().into_iter().filter(|s| s.call_id.as_deref() == Some(call));
        told.map(|s| s.event.unwrap()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(of("a"), "newCall answer answer answer hangup");
    assert_eq!(of("b"), "newCall hangup");
    let rows = road.zammad.log();
    let row = |call: &str| rows.iter().find(|r| r.call_id == call).unwrap();
    assert!(!row("a").missed_mark() && row("b").missed_mark());
    let queue_is_empty = || {
        let status: Value =
            serde_json::from_str(&run(&["status", "--json", "--state-dir", &dir]).out).unwrap();
        status["queue"]["waiting"] == 0
    };
    until("all are recorded", queue_is_empty).await;
    program.signal("TERM");
    let said = program.end();
    assert_eq!(said.code, Some(0));
    assert!(!said.err.contains(CUSTOMER), "a number in the log:\n{}", said.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_cannot_take_it_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_str().unwrap();
    let said = run(&words("new-call", "a", &["--queue", "--state-dir", at]));
    assert!(said.code == Some(1) && said.sentence().contains("there is no store in"), "{said:?}");

    let mut road = Road::guarded(PASSWORD, TOKEN);
    road.zammad.stop().await;
    let file = dir.path().join("config.toml");
    let text = format!(
        "state_dir = \"state\"\n[delivery]\nmax_events = 1000\n[[switch]]\naddress = \"{}\"\npassword = \"{PASSWORD}\"\n\
         [[zammad]]\nname = \"acme\"\nurl = \"{}\"\n[[zammad]]\nname = \"other\"\nurl = \"https://other.invalid/api/v1/cti/x\"\n",
        road.switch.addr(),
        road.zammad.url()
    );
    fs::write(&file, text.replace("password =", "zammad = \"acme\"\npassword =")).unwrap();
    let config = ["--config", file.to_str().unwrap()];
    let mut program = Program::start(&[&["run"][..], &config].concat(), &[]);
    program.wait_for("listening to the switch");
    let queue = |call: &str, more: &[&str]| {
        run(&words("new-call", call, &[&config, &["--queue"][..], more].concat()))
    };
    let said = queue("a", &[]);
    assert!(said.code == Some(1) && said.sentence().contains("--zammad: acme, other"), "{said:?}");
    let said = queue("a", &["--zammad", "none"]);
    assert!(said.code == Some(1) && said.sentence().contains("acme, other"), "{said:?}");
    // One call may be told to both.
    for zammad in ["acme", "other"] {
        let said = queue("both", &["--zammad", zammad]);
        assert!(said.code == Some(0) && said.out.starts_with("queued"), "{said:?}");
    }
    let rows = run(&[&["queue", "show", "both", "--json"][..], &config].concat()).out;
    let rows = rows.lines().map(|row| serde_json::from_str::<Value>(row).unwrap()["zammad"].clone());
    assert_eq!(rows.collect::<Vec<_>>(), ["acme", "other"]);
    let now = clock::now().0;
    let row = |call: u32| {
        let body = json!({ "event": "newCall", "callId": call.to_string(), "direction": "in", "from": "1", "to": "2" });
        json!({ "state": "pending", "id": format!("x{call}"), "switch": "s", "zammad": "acme", "happened_ms": now, "body": body })
    };
    let rows = dir.path().join("rows");
    fs::write(&rows, (0..1000).map(|call| format!("{}\n", row(call))).collect::<String>()).unwrap();
    let said = run(&[&["queue", "import", rows.to_str().unwrap()][..], &config].concat());
    assert_eq!(said.code, Some(0), "{said:?}");
    let said = queue("a", &["--zammad", "acme", "--json"]);
    assert_eq!(said.code, Some(75), "{said:?}");
    assert!(said.out.contains("the queue is full") && said.out.contains("\"retry\":true"), "{said:?}");
    program.signal("TERM");
    assert_eq!(program.end().code, Some(0));
    // The stopped one asks likewise which is meant.
    let said = queue("a", &[]);
    assert!(said.code == Some(1) && said.sentence().contains("--zammad: acme, other"), "{said:?}");
}
