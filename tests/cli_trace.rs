//! `trace` says what would be posted for a recording; `cli_record` holds what it says of what is none.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/cdr.rs"]
mod record;

use freeswitch_zammad::sim::recording::Recording;
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

#[test]
fn call_detail_records_say_the_same_as_the_recording() {
    let bytes = common::recording("captures", "xfer_blind_refer");
    let heard = run_with(&["trace", "--country", "DE", "-"], &bytes);
    let dir = tempfile::tempdir().unwrap();
    let below = dir.path().join("archive/2026");
    std::fs::create_dir_all(&below).unwrap();
    let mut files = Vec::new();
    for (nth, record) in record::records(&Recording::parse(&bytes).unwrap()).iter().enumerate() {
        let (file, text) = match nth % 2 {
            0 => (dir.path().join(record.json_name(true)), record.json(true)),
            _ => (below.join(record.xml_name(true)), record.xml()),
        };
        std::fs::write(&file, text).unwrap();
        files.push(file);
    }
    let of_folder = run(&["trace", "--country", "DE", dir.path().to_str().unwrap()]);
    assert_eq!((of_folder.code, &of_folder.out), (Some(0), &heard.out));
    let named = files.iter().map(|file| file.to_str().unwrap());
    let of_files = run(&["trace", "--country", "DE"].into_iter().chain(named).collect::<Vec<_>>());
    assert_eq!((of_files.code, &of_files.out), (Some(0), &heard.out));

    std::fs::write(&files[0], "{").unwrap();
    let skipped = run(&["trace", dir.path().to_str().unwrap()]);
    assert_eq!(skipped.code, Some(0));
    assert!(
        skipped.err.contains("it is damaged or not written to its end; it was skipped"),
        "{}",
        skipped.err
    );
    let none = run(&["trace", files[0].to_str().unwrap()]);
    assert_eq!(none.code, Some(1), "{}", none.err);
}
