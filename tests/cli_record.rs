//! `record` and `trace`: what is recorded of a switch tells the same calls as what the switch sent.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
#[path = "common/program.rs"]
mod program;

use freeswitch_zammad::sim::recording::Recording;
use freeswitch_zammad::sim::switch::{Disconnect, Pace, Settings, Switch};
use program::{PASSWORD, Program, Said, run, run_with};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recording_is_whole_and_tells_what_was_played() {
    let dir = tempfile::tempdir().unwrap();
    for (number, end) in ["INT", "TERM", "cut"].into_iter().enumerate() {
        let switch = Switch::start(Settings { password: PASSWORD.into(), ..Settings::default() }).unwrap();
        let file = dir.path().join(format!("{number}.esl"));
        let file = file.to_str().unwrap();
        let address = switch.addr().to_string();
        let args = ["record", file, "--freeswitch", &address, "--freeswitch-password", PASSWORD];
        let mut program = Program::start(&args, &[]);
        program.wait_for("recording");
        let mut played = Vec::new();
        for name in ["in_caller_cancels", "rg_one_answers", "out_busy", "in_latin1_name"] {
            let recording = Recording::parse(&common::recording("captures", name)).unwrap();
            let recording = recording.with_core_uuid(&switch.core_uuid());
            switch.play(&recording, Pace::AtOnce).await;
            played.extend(recording.to_bytes());
        }
        // The first half of a frame: what was cut off must not be in the file.
        switch.send_raw(b"Content-Length: 100\nContent-Type: text/event-plain\n\nEvent-Name: CHA");
        wait_for_size(file, &played);
        if end == "cut" {
            switch.drop_connections(Disconnect::Eof).await;
        } else {
            program.signal(end);
        }
        let said = program.end();
        assert_eq!(said.code, Some(i32::from(end == "cut")), "{said:?}");
        assert!(said.err.contains("events, "), "{said:?}");

        let recorded = std::fs::read(file).unwrap();
        assert!(recorded.ends_with(b"\n\n") && !recorded.ends_with(b"event-plain\n\n"));
        assert!(!recorded.windows(PASSWORD.len()).any(|w| w == PASSWORD.as_bytes()));
        let told = run(&["trace", file]);
        assert_eq!(told.code, Some(0), "{told:?}");
        let expected = run_with(&["trace", "-"], &played);
        assert_eq!(told.out, expected.out);
        assert_eq!(told.out.lines().count(), 10, "{}", told.out);

        let again = run(&args);
        refused(&again, 1, &[file, "does not exist"]);
        assert!(std::fs::read(file).unwrap() == recorded, "it was overwritten");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_that_cannot_be_recorded_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.esl");
    let file = file.to_str().unwrap();
    let mut switch = Switch::start(Settings::default()).unwrap();
    let address = switch.addr().to_string();
    let record =
        |file: &str| run(&["record", file, "--freeswitch", &address, "--freeswitch-password", PASSWORD]);
    refused(&record(file), 78, &["refused the password"]);
    assert!(!std::path::Path::new(file).exists(), "an empty file is left");
    refused(&record("/nonexistent/x.esl"), 1, &["/nonexistent/x.esl", "where you may write"]);
    switch.stop(Disconnect::Eof).await;
    refused(&record(file), 1, &[&address, "mod_event_socket"]);
    assert!(!std::path::Path::new(file).exists(), "an empty file is left");
}

#[test]
fn what_is_no_recording_is_one_sentence_after_what_could_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let whole = common::recording("captures", "in_caller_cancels");
    let cut = &whole[..whole.len() - 100];
    let json = common::bytes("protocol/heartbeat_json.raw");
    let cases: [(&str, &[u8], usize, &[&str]); 5] = [
        ("empty", b"", 0, &["no events"]),
        ("cut", cut, 2, &["inside a frame", "events before that were traced"]),
        ("json", &json, 0, &["json", "plain"]),
        (
            "text",
            b"Dear Sir or Madam,\n\nthe telephone does not ring.\n",
            0,
            &["no recording of an event socket"],
        ),
        ("noise", &[0xff; 70_000], 0, &["no recording of an event socket"]),
    ];
    for (name, bytes, told, words) in cases {
        let file = dir.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        for said in [run(&["trace", file.to_str().unwrap()]), run_with(&["trace", "-"], bytes)] {
            assert_eq!(said.out.lines().count(), told, "{name}: {said:?}");
            refused(&said, 1, words);
            assert_eq!(said.err.lines().count(), 1, "{name}: {said:?}");
        }
    }
    refused(&run(&["trace", "/nonexistent.esl"]), 1, &["/nonexistent.esl"]);
    refused(&run(&["trace", dir.path().to_str().unwrap()]), 1, &["call detail record", "mod_json_cdr"]);
}

fn wait_for_size(file: &str, played: &[u8]) {
    let names = ["CREATE", "ANSWER", "BRIDGE", "UNBRIDGE", "HANGUP_COMPLETE", "UUID"];
    let names: Vec<String> = names.iter().map(|n| format!("CHANNEL_{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let expected = Recording::parse(played).unwrap().only(&names).events().len();
    let whole =
        || Recording::parse(&std::fs::read(file).unwrap()).is_ok_and(|r| r.events().len() == expected);
    assert!(program::wait(whole), "{file} does not grow to {expected} events");
}

fn refused(said: &Said, code: i32, words: &[&str]) {
    assert_eq!(said.code, Some(code), "{said:?}");
    assert!(said.sentence().starts_with("freeswitch-zammad: "), "{said:?}");
    for word in words {
        assert!(said.sentence().contains(word), "{word:?} is not in {:?}", said.sentence());
    }
}
