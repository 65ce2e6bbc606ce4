//! The simulated switch says what the real one was recorded to say, byte for byte.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use freeswitch_zammad::sim::recording::Recording;
use freeswitch_zammad::sim::switch::{Disconnect, Pace, Settings, Switch, User};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const FOLDERS: [&str; 3] = ["captures", "captures-fusionpbx", "link"];
const TALKING: &str = "in_answered_caller_hangs_up";

#[tokio::test]
async fn says_what_freeswitch_said() {
    let names = [
        "acl_rude_rejection",
        "auth_bad",
        "auth_ok",
        "auth_timeout",
        "auth_twice",
        "client_half_close",
        "command_before_auth",
        "connect_during_startup",
        "crlf_commands",
        "exit",
        "format_switch",
        "heartbeat_json",
        "heartbeat_plain",
        "reloadxml",
        "split_and_pipelined",
        "userauth",
        "wrong_commands",
    ];
    for name in names {
        let transcript = Transcript::read(name);
        let switch = Switch::start(settings_for(name)).unwrap();
        let mut client = Client::connect(&switch).await;
        let mut expected = Vec::new();
        for step in &transcript.steps {
            match step {
                Step::Sent(bytes) => client.send(bytes).await,
                Step::Received(bytes) => {
                    expected.extend_from_slice(bytes);
                    if memchr::memmem::find(bytes, b"HEARTBEAT").is_some() {
                        switch.heartbeat();
                    }
                    if name == "client_half_close" && bytes.ends_with(b"cluecon.com/\n") {
                        client.stream.shutdown().await.unwrap();
                    }
                    client.read_frames(frames(&expected).len()).await;
                }
                Step::End => client.read_to_end().await,
            }
        }
        let (got, wanted) = (frames(&client.received), frames(&transcript.raw));
        let masked = |frames: &[Frame]| frames.iter().map(Frame::masked).collect::<Vec<_>>();
        assert_eq!(masked(&got), masked(&wanted), "{name}");
    }
}

#[tokio::test]
async fn every_event_of_every_recording_arrives_byte_for_byte() {
    let switch = Switch::start(Settings::default()).unwrap();
    let mut client = Client::subscribed(&switch, "ALL").await;
    let mut events = 0;
    for (name, bytes) in FOLDERS.iter().flat_map(|folder| common::recordings(folder)) {
        let recording = Recording::parse(&bytes).unwrap();
        let expected: Vec<Vec<u8>> = event_frames(&bytes);
        client.received.clear();
        tokio::join!(switch.play(&recording, Pace::AtOnce), client.read_frames(expected.len()));
        assert_eq!(client.received.len(), expected.concat().len(), "{name}");
        assert!(client.received == expected.concat(), "{name}");
        events += expected.len();
    }
    assert!(events > 2000, "only {events} events");
}

#[tokio::test]
async fn subscription_is_a_filter() {
    let bytes = common::recording("captures", "cc_answered");
    let recording = Recording::parse(&bytes).unwrap();
    for (asked, wanted) in [
        ("CHANNEL_CREATE CHANNEL_BRIDGE", vec!["CHANNEL_CREATE", "CHANNEL_BRIDGE"]),
        ("CHANNEL_CREATE CUSTOM callcenter::info", vec!["CHANNEL_CREATE", "callcenter::info"]),
        // Everything after CUSTOM is a subclass.
        ("CUSTOM callcenter::info CHANNEL_CREATE", vec!["callcenter::info"]),
        ("CUSTOM", vec![]),
        ("CHANNEL_CREATE CUSTOM fifo::info", vec!["CHANNEL_CREATE"]),
    ] {
        let switch = Switch::start(Settings::default()).unwrap();
        let mut client = Client::subscribed(&switch, asked).await;
        client.received.clear();
        switch.play(&recording, Pace::AtOnce).await;
        client.send(b"api hostname\n\n").await;
        client.read_until(b"vm").await;
        let kind = |e: &freeswitch_zammad::sim::recording::Event| {
            e.header("Event-Subclass").unwrap_or_else(|| e.name().to_owned())
        };
        let expected: Vec<u8> = (recording.events().iter())
            .filter(|e| wanted.contains(&kind(e).as_str()))
            .flat_map(|e| e.frame().to_vec())
            .collect();
        assert!(wanted.is_empty() || !expected.is_empty(), "{asked} proves nothing");
        let got = client.received.strip_suffix(&b"Content-Type: api/response\nContent-Length: 2\n\nvm"[..]);
        assert!(got == Some(&expected[..]), "{asked}");
    }
}

#[tokio::test]
async fn channels_are_listed_as_freeswitch_listed_them() {
    let recording = Recording::parse(&common::recording("captures", TALKING)).unwrap();
    let talking = recording.events().iter().position(|e| e.name() == "CHANNEL_BRIDGE").unwrap();
    // The CALL_UPDATE that follow the bridge belong to it.
    let later =
        recording.events()[talking..].iter().take_while(|e| e.name() != "CHANNEL_HANGUP_COMPLETE").count();
    let (until, rest) = recording.split_at(talking + later);
    let switch = Switch::start(Settings::default()).unwrap();
    switch.play(&until, Pace::AtOnce).await;

    let got = api(&switch, "show channels as json").await;
    let wanted = common::bytes(&format!("protocol/{TALKING}__talking-channels.json"));
    let columns = |text: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(text).into_owned();
        text.split("\",\"").map(|pair| pair.split("\":").next().unwrap().to_owned()).collect()
    };
    assert_eq!(columns(&got), columns(&wanted), "same columns in the same order");
    let (got, wanted): (Value, Value) =
        (serde_json::from_slice(&got).unwrap(), serde_json::from_slice(&wanted).unwrap());
    assert_eq!(got["row_count"], wanted["row_count"]);
    for (got, wanted) in got["rows"].as_array().unwrap().iter().zip(wanted["rows"].as_array().unwrap()) {
        for (column, value) in wanted.as_object().unwrap() {
            assert_eq!(&got[column], value, "{column}");
        }
    }
    let leg = got["rows"][0]["uuid"].as_str().unwrap();
    assert_eq!(api(&switch, &format!("uuid_exists {leg}")).await, b"true");
    let calls: Value = serde_json::from_slice(&api(&switch, "show calls as json").await).unwrap();
    assert_eq!(calls["row_count"], 1);
    assert_eq!(calls["rows"][0]["b_uuid"], got["rows"][1]["uuid"]);

    switch.play(&rest, Pace::AtOnce).await;
    assert_eq!(api(&switch, "show channels as json").await, b"{\"row_count\": 0}\n");
    assert_eq!(api(&switch, &format!("uuid_exists {leg}")).await, b"false");
}

#[tokio::test]
async fn ringing_legs_are_listed_as_freeswitch_listed_them() {
    // The switch's table follows events that the recordings did not ask for (CHANNEL_EXECUTE, _CALLSTATE, …).
    const UNHEARD: [&str; 6] =
        ["application", "application_data", "callee_name", "callee_num", "callstate", "ip_addr"];
    for name in ["cc_answered__waiting", "out_answered_agent_hangs_up__ringing", "rg_one_answers__ringing"] {
        let recording = name.split("__").next().unwrap();
        let recording = Recording::parse(&common::recording("captures", recording)).unwrap();
        let is_phone = |call: Option<String>| call.as_deref() == Some("outbound");
        let answered = recording
            .events()
            .iter()
            .position(|e| e.name() == "CHANNEL_ANSWER" && is_phone(e.header("Call-Direction")))
            .unwrap();
        let switch = Switch::start(Settings::default()).unwrap();
        switch.play(&recording.split_at(answered).0, Pace::AtOnce).await;
        let got: Value = serde_json::from_slice(&api(&switch, "show channels as json").await).unwrap();
        let wanted = common::json(&format!("protocol/{name}-channels.json"));
        assert_eq!(got["row_count"], wanted["row_count"], "{name}");
        let row_of = |leg: &Value| {
            let rows = got["rows"].as_array().unwrap();
            rows.iter().find(|row| row["uuid"] == *leg).unwrap_or_else(|| panic!("{name}: no {leg}")).clone()
        };
        for wanted in wanted["rows"].as_array().unwrap() {
            let got = row_of(&wanted["uuid"]);
            for (column, value) in wanted.as_object().unwrap() {
                if !UNHEARD.contains(&column.as_str()) {
                    assert_eq!(&got[column], value, "{name}: {column}");
                }
            }
        }
    }
}

#[tokio::test]
async fn leg_is_dumped_as_freeswitch_dumped_it() {
    let recording = Recording::parse(&common::recording("captures", TALKING)).unwrap();
    let end = recording.events().iter().position(|e| e.name() == "CHANNEL_HANGUP_COMPLETE").unwrap();
    let switch = Switch::start(Settings::default()).unwrap();
    switch.play(&recording.split_at(end).0, Pace::AtOnce).await;
    let wanted: Value = common::json("protocol/uuid_dump.json");
    let leg = wanted["Unique-ID"].as_str().unwrap();
    let got: Value = serde_json::from_slice(&api(&switch, &format!("uuid_dump {leg} json")).await).unwrap();
    let moves = |name: &str| name.starts_with("Event-") || name.starts_with("variable_");
    for (name, value) in wanted.as_object().unwrap() {
        if !moves(name) || name == "Event-Name" || name == "variable_DP_MATCH" {
            assert_eq!(&got[name], value, "{name}");
        }
    }
    assert_eq!(api(&switch, "uuid_dump nobody json").await, b"-ERR No such channel!\n");
}

#[tokio::test]
async fn legs_alive_are_the_truth_after_every_recording() {
    for (name, bytes) in ["captures", "captures-fusionpbx"].iter().flat_map(|f| common::recordings(f)) {
        let recording = Recording::parse(&bytes).unwrap();
        let legs = |event: &str| -> BTreeSet<String> {
            let of = recording.events().iter().filter(|e| e.name() == event);
            of.filter_map(|e| e.header("Unique-ID")).collect()
        };
        let left = legs("CHANNEL_CREATE").difference(&legs("CHANNEL_HANGUP_COMPLETE")).count();
        let switch = Switch::start(Settings::default()).unwrap();
        switch.play(&recording, Pace::AtOnce).await;
        assert_eq!(switch.live_legs(), left, "{name}");
    }
}

#[tokio::test]
async fn renamed_recording_has_no_leg_of_the_old_one() {
    for (name, bytes) in FOLDERS.iter().flat_map(|folder| common::recordings(folder)) {
        let recording = Recording::parse(&bytes).unwrap();
        let renamed = recording.renamed("2");
        let legs: BTreeSet<String> = recording
            .events()
            .iter()
            .filter_map(|e| e.header("Unique-ID"))
            .filter(|l| l.len() == 36)
            .collect();
        for (old, new) in recording.events().iter().zip(renamed.events()) {
            assert_eq!((old.name(), old.at()), (new.name(), new.at()), "{name}");
            for leg in &legs {
                assert!(memchr::memmem::find(new.body(), leg.as_bytes()).is_none(), "{name}: {leg}");
            }
        }
        let stream: Vec<u8> = renamed.events().iter().flat_map(|e| e.frame().to_vec()).collect();
        assert_eq!(Recording::parse(&stream).unwrap(), renamed, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn paced_play_takes_the_recorded_time_divided_by_the_factor() {
    let recording = Recording::parse(&common::recording("captures", TALKING)).unwrap();
    let last = recording.events().iter().map(freeswitch_zammad::sim::recording::Event::at).max().unwrap();
    let length = last.since(recording.events()[0].at());
    assert!(length > Duration::from_secs(1));
    let switch = Switch::start(Settings::default()).unwrap();
    let begin = tokio::time::Instant::now();
    switch.play(&recording, Pace::Times(4.0)).await;
    let took = begin.elapsed();
    assert!(took.abs_diff(length.div_f64(4.0)) < Duration::from_millis(5), "{took:?} of {length:?}");
}

#[tokio::test]
async fn background_job_says_what_the_command_said() {
    let switch = Switch::start(Settings::default()).unwrap();
    let mut client = Client::subscribed(&switch, "BACKGROUND_JOB").await;
    client.received.clear();
    client.send(b"bgapi uuid_exists x\nJob-UUID: mine\n\n").await;
    client.read_frames(2).await;
    let got = frames(&client.received);
    assert_eq!(got[0].header("Reply-Text"), Some("+OK Job-UUID: mine"));
    let body = String::from_utf8_lossy(&got[1].body).into_owned();
    assert!(body.contains("\nJob-UUID: mine\nJob-Command: uuid_exists\nJob-Command-Arg: x\n"), "{body}");
    assert!(body.ends_with("\nContent-Length: 5\n\nfalse"), "{body}");
}

#[tokio::test]
async fn killed_leg_is_gone_and_says_why() {
    let recording = Recording::parse(&common::recording("captures", TALKING)).unwrap();
    let switch = Switch::start(Settings::default()).unwrap();
    let mut client = Client::subscribed(&switch, "CHANNEL_HANGUP_COMPLETE").await;
    client.received.clear();
    switch.play(&recording.split_at(1).0, Pace::AtOnce).await;
    let leg = recording.events()[0].header("Unique-ID").unwrap();
    client.send(format!("api uuid_kill {leg} USER_BUSY\n\n").as_bytes()).await;
    client.read_frames(2).await;
    let event = String::from_utf8_lossy(&frames(&client.received)[1].body).into_owned();
    assert!(
        event.contains("\nHangup-Cause: USER_BUSY\n") && event.contains(&format!("\nUnique-ID: {leg}\n"))
    );
    assert_eq!(switch.live_legs(), 0);
}

#[tokio::test]
async fn connections_end_as_they_are_told() {
    let switch = Switch::start(Settings::default()).unwrap();
    for how in [Disconnect::Eof, Disconnect::Notice, Disconnect::Reset] {
        let mut client = Client::subscribed(&switch, "ALL").await;
        client.received.clear();
        switch.drop_connections(how).await;
        assert!(switch.connections().is_empty());
        let mut rest = Vec::new();
        let end = client.stream.read_to_end(&mut rest).await;
        match how {
            Disconnect::Eof => assert_eq!((end.unwrap(), rest.len()), (0, 0)),
            Disconnect::Notice => {
                assert!(end.is_ok() && rest.starts_with(b"Content-Type: text/disconnect-n"))
            }
            Disconnect::Reset => assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
}

#[tokio::test]
async fn stopped_it_refuses_and_back_on_its_port_it_knows_its_calls() {
    let recording = Recording::parse(&common::recording("captures", TALKING)).unwrap();
    let mut switch = Switch::start(Settings::default()).unwrap();
    let (addr, core_uuid) = (switch.addr(), switch.core_uuid());
    for round in 0..3 {
        let mut client = Client::subscribed(&switch, "ALL").await;
        switch.stop(Disconnect::Notice).await;
        client.read_to_end().await;
        let refused = TcpStream::connect(addr).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "round {round}");
        // What happens while nobody can listen happens all the same.
        switch.play(&recording.renamed(&round.to_string()).split_at(2).0, Pace::AtOnce).await;
        switch.restart().unwrap();
        assert_eq!(switch.addr(), addr);
    }
    assert_eq!((switch.live_legs(), switch.core_uuid()), (6, core_uuid.clone()));
    switch.crash().await;
    switch.restart().unwrap();
    assert_eq!(switch.live_legs(), 0);
    assert_ne!(switch.core_uuid(), core_uuid);
    assert_eq!(api(&switch, "show channels as json").await, b"{\"row_count\": 0}\n");
}

#[tokio::test]
async fn silent_loses_what_happens_and_stalled_delays_it() {
    let recording = Recording::parse(&common::recording("captures", TALKING)).unwrap();
    let (one, rest) = recording.split_at(1);
    let (two, three) = (rest.split_at(1).0, rest.split_at(1).1.split_at(1).0);
    let switch = Switch::start(Settings::default()).unwrap();
    let mut client = Client::subscribed(&switch, "ALL").await;
    client.received.clear();

    switch.set_silent(true);
    switch.play(&one, Pace::AtOnce).await;
    switch.set_silent(false);
    switch.set_stalled(true);
    switch.play(&two, Pace::AtOnce).await;
    switch.set_stalled(false);
    switch.play(&three, Pace::AtOnce).await;
    client.read_frames(2).await;
    let expected: Vec<u8> = [two, three].iter().flat_map(|r| r.events()[0].frame().to_vec()).collect();
    assert!(client.received == expected);

    switch.set_stalled(true);
    switch.drop_connections(Disconnect::Eof).await;
    client.read_to_end().await;
}

#[tokio::test]
async fn raw_bytes_are_sent_as_they_are() {
    let switch = Switch::start(Settings::default()).unwrap();
    let mut client = Client::subscribed(&switch, "ALL").await;
    client.received.clear();
    switch.send_raw(b"\0no frame\xff");
    client.read_until(b"\0no frame\xff").await;
}

#[tokio::test(start_paused = true)]
async fn heart_beats_at_its_interval() {
    let every = Some(Duration::from_secs(20));
    let switch = Switch::start(Settings { heartbeat: every, ..Settings::default() }).unwrap();
    let mut client = Client::subscribed(&switch, "HEARTBEAT").await;
    client.received.clear();
    let begin = tokio::time::Instant::now();
    client.read_frames(3).await;
    let took = begin.elapsed();
    assert!(took > Duration::from_secs(40) && took <= Duration::from_secs(61), "{took:?}");
}

#[tokio::test]
async fn commands_are_remembered() {
    let switch = Switch::start(Settings::default()).unwrap();
    let _client = Client::subscribed(&switch, "CHANNEL_CREATE").await;
    let said = [(1, "auth ClueCon".to_owned()), (1, "event plain CHANNEL_CREATE".to_owned())];
    assert_eq!(switch.commands(), said);
    let open = switch.connections();
    assert!(open.len() == 1 && open[0].authenticated && open[0].subscribed, "{open:?}");
}

fn settings_for(name: &str) -> Settings {
    let list = |text: &str| text.split(',').map(str::to_owned).collect();
    let user = User {
        name: "1001@pbx.example.test".into(),
        password: "esl1001".into(),
        events: list("CHANNEL_CREATE,CHANNEL_ANSWER,CHANNEL_BRIDGE,CHANNEL_HANGUP_COMPLETE,HEARTBEAT"),
        apis: list("show,uuid_exists,uuid_dump,status"),
    };
    let auth_timeout =
        if name == "auth_timeout" { Duration::from_millis(20) } else { Settings::default().auth_timeout };
    Settings { users: vec![user], rude: name == "acl_rude_rejection", auth_timeout, ..Settings::default() }
}

async fn api(switch: &Switch, command: &str) -> Vec<u8> {
    let mut client = Client::connect(switch).await;
    client.send(format!("auth ClueCon\n\napi {command}\n\n").as_bytes()).await;
    client.read_frames(3).await;
    frames(&client.received)[2].body.clone()
}

struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    async fn connect(switch: &Switch) -> Self {
        Self { stream: TcpStream::connect(switch.addr()).await.unwrap(), received: Vec::new() }
    }

    async fn subscribed(switch: &Switch, events: &str) -> Self {
        let mut client = Self::connect(switch).await;
        client.send(format!("auth ClueCon\n\nevent plain {events}\n\n").as_bytes()).await;
        client.read_frames(3).await;
        client
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    async fn read_frames(&mut self, count: usize) {
        let mut whole = 0;
        let mut at = 0;
        loop {
            while let Some(length) = frame_length(&self.received[at..]) {
                at += length;
                whole += 1;
            }
            if whole >= count {
                return;
            }
            self.read().await;
        }
    }

    async fn read_until(&mut self, end: &[u8]) {
        while !self.received.ends_with(end) {
            self.read().await;
        }
    }

    async fn read(&mut self) {
        let got = self.stream.read_buf(&mut self.received).await.unwrap();
        assert!(got > 0, "ended after {}", String::from_utf8_lossy(&self.received));
    }

    async fn read_to_end(&mut self) {
        self.stream.read_to_end(&mut self.received).await.unwrap();
    }
}

/// A frame as the tests see it; written apart from the library so that the two can disagree.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    head: String,
    body: Vec<u8>,
}

impl Frame {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// Without what differs from run to run: ids, and the numbers (so the length) of events and api answers.
    fn masked(&self) -> (String, String) {
        let kind = self.header("Content-Type").unwrap();
        let body = String::from_utf8(self.body.clone()).unwrap();
        if kind != "api/response" && !kind.starts_with("text/event") {
            return (mask_uuids(&self.head), body);
        }
        (mask_digits(&self.head), mask_digits(&mask_uuids(&body)))
    }
}

fn frame_length(stream: &[u8]) -> Option<usize> {
    let head = memchr::memmem::find(stream, b"\n\n")?;
    let text = std::str::from_utf8(&stream[..head]).unwrap();
    let length = text.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let whole = head + 2 + length.map_or(0, |l| l.parse::<usize>().unwrap());
    (whole <= stream.len()).then_some(whole)
}

fn frames(mut stream: &[u8]) -> Vec<Frame> {
    let mut all = Vec::new();
    while let Some(length) = frame_length(stream) {
        let head = memchr::memmem::find(stream, b"\n\n").unwrap();
        let text = String::from_utf8(stream[..head].to_vec()).unwrap();
        all.push(Frame { head: text, body: stream[head + 2..length].to_vec() });
        stream = &stream[length..];
    }
    all
}

fn event_frames(mut stream: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(length) = frame_length(stream) {
        if stream.starts_with(b"Content-Length: ") {
            all.push(stream[..length].to_vec());
        }
        stream = &stream[length..];
    }
    all
}

fn mask_digits(text: &str) -> String {
    let mut masked = String::new();
    for c in text.chars() {
        match c.is_ascii_digit() {
            true if masked.ends_with('#') => {}
            true => masked.push('#'),
            false => masked.push(c),
        }
    }
    masked
}

fn mask_uuids(text: &str) -> String {
    let is_uuid = |s: &str| {
        let parts: Vec<usize> = s.split('-').map(str::len).collect();
        parts == [8, 4, 4, 4, 12] && s.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit())
    };
    let nil = "00000000-0000-0000-0000-000000000000";
    let mut masked = text.to_owned();
    for start in (0..text.len().saturating_sub(35)).rev() {
        match masked.get(start..start + 36) {
            Some(id) if is_uuid(id) && id != nil => masked.replace_range(start..start + 36, "UUID"),
            _ => {}
        }
    }
    masked
}

/// A recorded conversation: `[seconds] >> b'…'`, `<< b'…'`, `EOF`.
struct Transcript {
    steps: Vec<Step>,
    raw: Vec<u8>,
}

enum Step {
    Sent(Vec<u8>),
    Received(Vec<u8>),
    End,
}

impl Transcript {
    fn read(name: &str) -> Self {
        let text = String::from_utf8(common::bytes(&format!("protocol/{name}.txt"))).unwrap();
        let raw = common::bytes(&format!("protocol/{name}.raw"));
        let steps: Vec<Step> = text
            .lines()
            .map(|line| {
                let (kind, rest) = line.split_once("] ").unwrap().1.split_once(' ').unwrap();
                match kind {
                    ">>" => Step::Sent(python_bytes(rest)),
                    "<<" => Step::Received(python_bytes(rest)),
                    "EOF" => Step::End,
                    other => panic!("{name}: {other}"),
                }
            })
            .collect();
        let received: Vec<u8> = (steps.iter())
            .flat_map(|step| if let Step::Received(bytes) = step { bytes.clone() } else { Vec::new() })
            .collect();
        assert_eq!(received, raw, "{name}: transcript and bytes are of one conversation");
        Self { steps, raw }
    }
}

fn python_bytes(literal: &str) -> Vec<u8> {
    let inner = &literal[2..literal.len() - 1];
    let (mut bytes, mut chars) = (Vec::new(), inner.bytes());
    while let Some(b) = chars.next() {
        bytes.push(match b {
            b'\\' => match chars.next().unwrap() {
                b'n' => b'\n',
                b'r' => b'\r',
                quoted @ (b'\'' | b'\\') => quoted,
                other => panic!("escape {other}"),
            },
            _ => b,
        });
    }
    bytes
}
