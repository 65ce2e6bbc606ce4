//! What is logged, whatever comes by: at INFO and above no telephone number and no name of a caller, and at no level
//! the token, the REST token or the password.
//!
//! Every recording is played, in two wirings: what the code says, before anything is masked, and what is written, in
//! each of its looks.
//! Alone in its file: the subscriber is the whole process's.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
#[path = "common/road.rs"]
mod road;

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use freeswitch_zammad::config::{Config, Secret};
use freeswitch_zammad::daemon::Daemon;
use freeswitch_zammad::edge::log::{self, Look};
use freeswitch_zammad::sim::recording::Recording;
use freeswitch_zammad::sim::switch::{self, Disconnect};
use freeswitch_zammad::sim::zammad::{self, Answer, Fault, Routing, Row};
use road::{Road, config, drained, renamed, rows_of, until, within};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

const PASSWORD: &str = "pAss-w0rd-of-the-switch";
const TOKEN: &str = "tOken-of-the-zammad";
const REST_TOKEN: &str = "rEst-token-of-the-zammad";
/// A caller of many recordings, as Zammad's block list has them.
const CALLER: &str = "4915112345678";
/// Shorter runs of digits are extensions, ports and statuses.
const NUMBER_MIN: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_number_no_name_and_no_secret_is_logged() {
    let secrets = [PASSWORD, TOKEN, REST_TOKEN].map(str::to_owned).to_vec();
    let said = Lines::default();
    let looks = [Look::Plain { colours: false, time: false }, Look::Json, Look::Journal];
    let written: Vec<Lines> = looks.iter().map(|_| Lines::default()).collect();
    let layers = looks.iter().zip(&written).map(|(look, to)| {
        let to = to.clone();
        log::layer(move |entry: &[u8]| to.add(entry), *look, secrets.clone()).boxed()
    });
    let layers: Vec<_> = layers.collect();
    let plain = tracing_subscriber::fmt::layer().with_ansi(false).without_time().with_writer(said.clone());
    tracing_subscriber::registry()
        .with(tracing_subscriber::filter::LevelFilter::TRACE)
        .with(plain)
        .with(layers)
        .init();
    let mut road = Road::of(
        switch::Settings { password: PASSWORD.into(), ..Default::default() },
        zammad::Settings {
            token: TOKEN.into(),
            rest_token: Some(REST_TOKEN.into()),
            routing: Some(Routing { block: vec![CALLER.into()], ..Routing::default() }),
            ..Default::default()
        },
    );
    let daemon = Daemon::start(settings(&road)).await.unwrap();
    within("the daemon subscribes", road.switch.wait_subscribed()).await;

    let names = every_recording(&road, &daemon).await;
    outages(&mut road, &daemon).await;
    damage(&road, &daemon).await;
    let ours = said.text();
    peers_that_repeat_what_they_were_told(&road, &daemon).await;
    road.zammad.stop().await;
    daemon.stop().await.unwrap();

    let said = said.text();
    let written: Vec<String> = written.iter().map(Lines::text).collect();
    for happened in [
        "listening to the switch",
        "no link to the switch",
        "legs that changed unheard",
        "ending the call of a caller on Zammad's block list",
        "kept as a dead letter",
        "Zammad is away",
        "takes no events until",
        "could not be read and was skipped",
        "cause that FreeSWITCH does not have",
        "delivered",
        "stopped",
    ] {
        for (look, text) in [&said].into_iter().chain(&written).enumerate() {
            assert!(text.contains(happened), "{happened:?} did not happen, or is not in look {look}");
        }
    }
    let counts: Vec<usize> = written.iter().map(|text| text.lines().count()).collect();
    assert!(counts.iter().all(|count| *count == counts[0]), "each look has every event: {counts:?}");
    one_call_can_be_picked_out(&written[1]);
    // Our own words need no mask; those of others get one.
    let written = [("as plain", &written[0]), ("as JSON", &written[1]), ("to the journal", &written[2])];
    for (what, text) in [("said", &ours)].into_iter().chain(written) {
        let for_all: Vec<&str> = text.lines().filter(|line| is_for_all(line)).collect();
        assert!(for_all.len() > 50, "{what}: {} lines", for_all.len());
        for line in for_all {
            assert!(!has_number(line), "a number was {what}: {line}");
            for name in &names {
                assert!(!line.contains(name.as_str()), "{name:?} was {what}: {line}");
            }
        }
    }
    assert!(said.lines().any(|line| is_for_all(line) && has_number(line)), "nothing was there to be masked");
    for (what, text) in [("said", &said)].into_iter().chain(written) {
        assert!(text.lines().any(|line| level_of(line) == "TRACE"), "{what}: not everything was heard");
        for line in text.lines() {
            for secret in [PASSWORD, TOKEN, REST_TOKEN] {
                assert!(!line.contains(secret), "{secret} was {what}: {line}");
            }
        }
    }
}

fn settings(road: &Road) -> Config {
    let (url, switch) = (road.zammad.url(), road.switch.addr().to_string());
    let mut config = config(&url, &switch, PASSWORD, road.dir.path());
    config.calls.end_blocked_with = Some("CALL_REJECTED");
    config.zammads[0].rest_token = Some(Secret::new(REST_TOKEN));
    config
}

/// Plays them all while Zammad fails in every way now and then, and the link is cut in the middle of some. The names
/// that were on the wire.
async fn every_recording(road: &Road, daemon: &Daemon) -> BTreeSet<String> {
    let count = AtomicU64::new(0);
    road.zammad.set_fault_rule(move |_| match count.fetch_add(1, Ordering::Relaxed) % 29 {
        3 => Fault::answer_instead(Answer::json(
            422,
            r#"{"error":"Attribute 'x' of relation 'cti_logs' required!"}"#,
        )),
        7 => Fault::reset_after(),
        11 => Fault::answer_instead(Answer::nginx(502)),
        13 => Fault::answer_after(Answer::rails(500)),
        17 => Fault::reset_before(),
        19 => Fault::answer_after(Answer::garbage()),
        _ => Fault::none(),
    });
    let hows = [Disconnect::Eof, Disconnect::Notice, Disconnect::Reset];
    let (mut played, mut names) = (0, BTreeSet::new());
    for folder in ["captures", "captures-fusionpbx"] {
        for (name, bytes) in common::recordings(folder) {
            let recording = renamed(&road.switch, &bytes, &name);
            names.extend(names_in(&recording));
            if played % 21 == 0 {
                let (before, after) = recording.split_at(recording.events().len() / 2);
                road.play(&before).await;
                let (unheard, after) = after.split_at(1);
                within("the link is cut", road.switch.drop_connections(hows[played / 21 % 3])).await;
                road.play(&unheard).await;
                within("the daemon is back", road.switch.wait_subscribed()).await;
                road.play(&after).await;
            } else {
                road.play(&recording).await;
            }
            played += 1;
        }
    }
    assert!(played >= 148, "only {played} recordings");
    assert!(names.len() > 10, "{names:?}");
    road.zammad.clear_faults();
    drained(daemon.store()).await;
    names
}

async fn outages(road: &mut Road, daemon: &Daemon) {
    let call = |road: &Road, suffix: &str| {
        renamed(&road.switch, &common::recording("captures", "in_answered_callee_hangs_up"), suffix)
    };
    road.zammad.stop().await;
    road.play(&call(road, "away")).await;
    let away = daemon.live().zammads[0].2.clone();
    until("Zammad is away", || format!("{:?}", away.borrow().link).contains("Away")).await;
    road.zammad.restart().unwrap();
    drained(daemon.store()).await;

    road.zammad.change(|settings| settings.enabled = false);
    road.play(&call(road, "off")).await;
    until("Zammad needs a person", || format!("{:?}", away.borrow().link).contains("Misconfigured")).await;
    road.zammad.change(|settings| settings.enabled = true);
    drained(daemon.store()).await;

    let elsewhere = Answer::redirect(301, &road.zammad.url());
    road.zammad.set_fault_rule(move |_| Fault::answer_instead(elsewhere.clone()));
    road.play(&call(road, "moved")).await;
    until("Zammad needs a person", || format!("{:?}", away.borrow().link).contains("redirects")).await;
    road.zammad.clear_faults();
    drained(daemon.store()).await;

    // A caller on the block list, while the call goes on.
    let rings =
        renamed(&road.switch, &common::recording("captures", "in_answered_caller_hangs_up"), "blocked");
    road.play(&rings.split_at(2).0).await;
    until("it is ended", || road.switch.commands().iter().any(|(_, said)| said.contains("uuid_kill"))).await;
    drained(daemon.store()).await;

    let link = daemon.live().switches[0].2.clone();
    let losses = link.borrow().losses;
    road.switch.crash().await;
    until("the link is lost", || link.borrow().losses > losses).await;
    road.switch.restart().unwrap();
    within("the daemon is back", road.switch.wait_subscribed()).await;
}

/// Events and frames that are none, with a number and a name in the middle of the damage.
async fn damage(road: &Road, daemon: &Daemon) {
    let link = daemon.live().switches[0].2.clone();
    let body = "Event-Name: CHANNEL_CREATE\nErika Mustermann 4915112345678\n\n";
    let frame = format!("Content-Length: {}\nContent-Type: text/event-plain\n\n{body}", body.len());
    road.switch.send_raw(frame.as_bytes());
    until("an event is skipped", || link.borrow().skipped == 1).await;
    for bad in [
        &b"Erika Mustermann%3A%204915112345678\n\n"[..],
        b"Content-Type: text/event-plain\nContent-Length: Erika\n\n",
        b"Caller-Caller-ID-Number: 4915112345678\n\n",
    ] {
        let losses = link.borrow().losses;
        let given_up = road.switch.connections().iter().map(|c| c.number).max();
        road.switch.send_raw(bad);
        until("the link is lost", || link.borrow().losses > losses).await;
        // The switch may still hold the connection that was given up for open.
        let anew = road.switch.wait_until(|c| c.iter().any(|c| c.subscribed && Some(c.number) > given_up));
        within("the daemon is back", anew).await;
    }
}

/// What a peer says is not ours to word, and may hold what it was told.
async fn peers_that_repeat_what_they_were_told(road: &Road, daemon: &Daemon) {
    let bytes = common::recording("captures", "in_answered_callee_hangs_up");
    let dead = daemon.store().counts().dead;
    let error =
        format!(r#"{{"error":"Attribute 'from' +{CALLER} of relation 'cti_logs' invalid, token {TOKEN}"}}"#);
    let answer = Answer::json(422, &error);
    road.zammad.set_fault_rule(move |_| Fault::answer_instead(answer.clone()));
    road.play(&renamed(&road.switch, &bytes, "echo")).await;
    until("it is a dead letter", || daemon.store().counts().dead > dead).await;

    let page = format!(
        "<h1>No route matches [POST] \"/api/v1/cti/{TOKEN}\"</h1> Token token={REST_TOKEN}, +{CALLER}"
    );
    let answer = Answer { status: 404, headers: vec![], body: page };
    road.zammad.set_fault_rule(move |_| Fault::answer_instead(answer.clone()));
    road.play(&renamed(&road.switch, &bytes, "page")).await;
    let state = daemon.live().zammads[0].2.clone();
    until("Zammad needs a person", || format!("{:?}", state.borrow().link).contains("No route")).await;
    assert!(!format!("{:?}", state.borrow()).contains(TOKEN), "status shows the token");
    road.zammad.clear_faults();
    drained(daemon.store()).await;

    let strange = String::from_utf8_lossy(&bytes).replace("NORMAL_CLEARING", "C_4915112345678");
    let strange = renamed(&road.switch, strange.as_bytes(), "cause");
    road.play(&strange).await;
    let over = |row: &Row| row.state == "hangup";
    until("it is over", || rows_of(&road.zammad.log(), &strange).into_iter().any(over)).await;
    drained(daemon.store()).await;
}

/// The names of people and companies that a recording shows; FreeSWITCH's own words are none.
fn names_in(recording: &Recording) -> BTreeSet<String> {
    const HEADERS: [&str; 4] = [
        "Caller-Caller-ID-Name",
        "Caller-Callee-ID-Name",
        "Other-Leg-Caller-ID-Name",
        "variable_sip_from_display",
    ];
    const NONE: [&str; 4] = ["outbound call", "anonymous", "unknown", "restricted"];
    let all =
        recording.events().iter().flat_map(|event| HEADERS.iter().filter_map(|name| event.header(name)));
    let is_name = |text: &String| {
        let letters = text.chars().filter(|c| c.is_alphabetic()).count();
        letters >= 4 && !NONE.contains(&text.to_lowercase().as_str())
    };
    all.filter(is_name).collect()
}

fn is_for_all(line: &str) -> bool {
    ["INFO", "WARN", "ERROR"].contains(&level_of(line))
}

/// In whichever look.
fn level_of(line: &str) -> &str {
    if let Some((_, rest)) = line.split_once("\"level\":\"") {
        return rest.split('"').next().unwrap();
    }
    if let Some((_, rest)) = line.split_once(" PRIORITY=") {
        return match rest.as_bytes()[0] {
            b'3' => "ERROR",
            b'4' => "WARN",
            b'6' => "INFO",
            // The journal has no finer level.
            _ => "TRACE",
        };
    }
    line.split_ascii_whitespace().next().unwrap_or_default()
}

/// Whoever asks for the lines of a call gets them: each delivery and each dead letter names it in a field of its own.
fn one_call_can_be_picked_out(json: &str) {
    let lines: Vec<serde_json::Value> =
        json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for event in ["event_delivered", "event_dead", "event_told"] {
        let about: Vec<_> = lines.iter().filter(|line| line["event"] == event).collect();
        assert!(!about.is_empty(), "no {event}");
        for line in about {
            assert!(line["call"].as_str().is_some_and(|call| !call.is_empty()), "{line}");
        }
    }
    let a_call = lines.iter().find(|line| line["event"] == "event_told").unwrap()["call"].clone();
    let its: Vec<&str> = lines
        .iter()
        .filter(|line| line["call"] == a_call)
        .filter_map(|line| line["event"].as_str())
        .collect();
    assert!(its.contains(&"event_told") && its.contains(&"event_delivered"), "{its:?}");
}

/// Whether digits stand in a row as in a number. Those of a UUID are none.
fn has_number(line: &str) -> bool {
    let bytes = line.as_bytes();
    let (mut at, mut run) = (0, 0);
    while at < bytes.len() {
        if bytes[at..].len() >= 36 && is_uuid(&bytes[at..at + 36]) {
            (at, run) = (at + 36, 0);
            continue;
        }
        run = if bytes[at].is_ascii_digit() { run + 1 } else { 0 };
        if run >= NUMBER_MIN {
            return true;
        }
        at += 1;
    }
    false
}

fn is_uuid(bytes: &[u8]) -> bool {
    bytes.iter().enumerate().all(|(at, b)| match at {
        8 | 13 | 18 | 23 => *b == b'-',
        _ => b.is_ascii_hexdigit(),
    })
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// An entry, which becomes one line.
    fn add(&self, entry: &[u8]) {
        let text = String::from_utf8_lossy(entry);
        let mut all = self.0.lock().unwrap();
        all.extend_from_slice(text.trim_end().replace('\n', " ").as_bytes());
        all.push(b'\n');
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
