//! `trace` says what would be posted for a recording; `cli_record` holds what it says of what is none.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
#[path = "common/program.rs"]
mod program;

use program::{run, run_with};

#[test]
fn standard_input_and_a_file_say_the_same() {
    let bytes = common::recording("captures", "xfer_blind_refer");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("calls.esl");
    std::fs::write(&file, &bytes).unwrap();
    let from_file = run(&["trace", "--country", "DE", file.to_str().unwrap()]);
    let from_input = run_with(&["trace", "--country", "DE", "-"], &bytes);
    assert_eq!((from_file.code, &from_file.out), (Some(0), &from_input.out));
    let events: Vec<serde_json::Value> =
        from_file.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let kinds: Vec<_> = events.iter().map(|e| e["event"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["newCall", "answer", "answer", "hangup"]);

    let explained = run_with(&["trace", "--country", "DE", "--explain", "-"], &bytes);
    assert_eq!(explained.out, from_file.out, "explanations go to standard error");
    assert!(explained.err.contains("CHANNEL_CREATE: ours: it was dialled as user 1002"), "{}", explained.err);
}

#[test]
fn an_unknown_cause_is_warned_of_and_still_becomes_one_of_the_seven() {
    let mut bytes = common::recording("captures", "in_busy_486");
    // The same length, so that the frames stay whole.
    for at in 0..bytes.len() - 9 {
        if &bytes[at..at + 9] == b"USER_BUSY" {
            bytes[at..at + 9].copy_from_slice(b"USER_BUZY");
        }
    }
    let said = run_with(&["trace", "-"], &bytes);
    assert_eq!(said.code, Some(0));
    assert!(said.err.contains("USER_BUZY is no hangup cause"), "{}", said.err);
    assert!(said.out.lines().last().unwrap().contains(r#""cause":"noAnswer""#), "{}", said.out);
}
