//! A recording in, the events out: every recording of a real FreeSWITCH against what a person watching said.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use bytes::BytesMut;
use freeswitch_zammad::call::HEADERS;
use freeswitch_zammad::call::tracker::{FAILOVER_MAX, Output, Tracker};
use freeswitch_zammad::esl::event::Event;
use freeswitch_zammad::esl::frame::{FrameDecoder, Kind};
use freeswitch_zammad::sim::recording::Recording;
use freeswitch_zammad::time::UnixMillis;
use serde_json::Value;
use tokio_util::codec::Decoder;

use common::stream::settings;
use common::told::problems;

#[test]
fn stock_freeswitch_is_told_as_a_person_would() {
    check_folder("captures");
}

#[test]
fn fusionpbx_and_other_trunks_are_told_as_a_person_would() {
    check_folder("captures-fusionpbx");
}

#[test]
fn pieces_of_any_size_give_the_same_result() {
    let mut recordings = common::recordings("captures");
    recordings.sort_by_key(|(_, bytes)| bytes.len());
    for (number, (name, bytes)) in recordings.iter().enumerate() {
        let whole = tell(bytes, bytes.len());
        // Byte by byte for the short ones; primes that fall everywhere for all.
        let sizes = if number < 8 { vec![1, 2, 3, 7] } else { vec![] };
        for size in sizes.into_iter().chain([61, 1021, 8191, 65_537]) {
            assert_eq!(tell(bytes, size), whole, "{name} in pieces of {size}");
        }
    }
}

#[test]
fn the_headers_that_are_named_are_all_that_is_read() {
    for folder in ["captures", "captures-fusionpbx", "link"] {
        for (name, bytes) in common::recordings(folder) {
            let trimmed = Recording::parse(&bytes).unwrap().trimmed(&HEADERS).to_bytes();
            assert_eq!(tell(&trimmed, 4096), tell(&bytes, 4096), "{folder}/{name}");
        }
    }
}

#[test]
fn a_conference_with_one_of_ours_is_an_answer() {
    let told = tell(&common::recording("link", "conference_inbound"), 4096);
    let kinds: Vec<_> = told.iter().map(|e| e["event"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["newCall", "answer", "hangup"]);
    assert_eq!(told[1]["answeringNumber"], "1001");
}

#[test]
fn a_switch_that_dies_leaves_its_calls_open_until_more_is_known() {
    for name in ["esl_kill9", "esl_reload"] {
        let told = tell(&common::recording("link", name), 4096);
        assert!(!told.is_empty() && told.iter().all(|e| e["event"] != "hangup"), "{name}: {told:?}");
    }
}

fn check_folder(folder: &str) {
    let expected = common::expected(folder);
    let mut wrong = Vec::new();
    for (name, want) in &expected {
        let told = tell(&common::recording(folder, name), 65_536);
        for problem in problems(&told, want.as_array().unwrap()) {
            wrong.push(format!("{name}: {problem}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), expected.len(), wrong.join("\n"));
}

/// What would be posted for a stream that arrives in pieces of `size` bytes.
fn tell(bytes: &[u8], size: usize) -> Vec<Value> {
    let mut tracker = Tracker::new(Arc::new(settings()));
    let mut decoder = FrameDecoder::default();
    let mut buffer = BytesMut::new();
    let mut now = UnixMillis(0);
    for piece in bytes.chunks(size.max(1)) {
        buffer.extend_from_slice(piece);
        while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
            if frame.kind == Kind::EventPlain {
                let event = Event::parse(&frame.body).unwrap();
                now = event.timestamp_ms().map_or(now, UnixMillis).max(now);
                tracker.handle_event(&event, now);
            }
        }
    }
    tracker.handle_timeout(now.after(FAILOVER_MAX));
    let mut told = Vec::new();
    while let Some(output) = tracker.poll_output() {
        if let Output::News(news) = output {
            told.push(serde_json::from_str(&news.event.body()).unwrap());
        }
    }
    told
}
