//! The recordings inside the program are the ones of `tests/captures`, trimmed to what is read.
//! After a change of the headers: `BLESS=1 cargo test --test demo_recordings`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;

use freeswitch_zammad::call::HEADERS;
use freeswitch_zammad::sim::recording::Recording;

const EVENTS: [&str; 5] =
    ["CHANNEL_CREATE", "CHANNEL_ANSWER", "CHANNEL_BRIDGE", "CHANNEL_UNBRIDGE", "CHANNEL_HANGUP_COMPLETE"];

#[test]
fn they_are_trimmed_from_the_captures() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/demo");
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "esl") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap();
        let whole = Recording::parse(&common::recording("captures", name)).unwrap();
        let trimmed = whole.only(&EVENTS).trimmed(&HEADERS).to_bytes();
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &trimmed).unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), trimmed, "{name}");
        count += 1;
    }
    assert!(count >= 8, "{count} recordings in {}", folder.display());
}
