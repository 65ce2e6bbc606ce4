//! What is read back from disk: rows of the queue, the state of calls, rows of an export. An input is which of
//! them, and its bytes.

use std::sync::Arc;

use bytes::Bytes;
use freeswitch_zammad::call::tracker::Tracker;
use freeswitch_zammad::edge::rows;
use freeswitch_zammad::esl::event::Event;
use freeswitch_zammad::store::row::{self, Row, Shelf};
use freeswitch_zammad::store::{Seq, state};
use freeswitch_zammad::time::UnixMillis;
use serde_json::Value;

use super::{Input, holds_number, settings};

pub(crate) fn check(input: &[u8]) {
    let mut input = Input::new(input);
    let kind = input.byte() % 8;
    let shelf = [Shelf::Pending, Shelf::Dead, Shelf::Delivered][usize::from(kind % 3)];
    match kind {
        // The checksum is right: it was written so.
        0..=2 => row_is_read_or_refused(shelf, &row::seal(shelf, Seq(7), input.rest())),
        3 => row_is_read_or_refused(shelf, input.rest()),
        4 => damage_is_found(shelf, input.pair(), input.byte(), input.rest()),
        5 => state_is_read_or_refused("main/0000000000000001", input.rest()),
        6 => {
            let key = String::from_utf8_lossy(input.short()).into_owned();
            state_is_read_or_refused(&key, input.rest());
        }
        _ => export_is_read_or_refused(input.rest()),
    }
}

fn row_is_read_or_refused(shelf: Shelf, value: &[u8]) {
    match row::open(shelf, Seq(7), value) {
        Ok(row) => {
            let again = row::open(shelf, Seq(7), &row.sealed(Seq(7)));
            // Overlong texts are cut as they are written, once.
            let again = again.expect("what is written is read");
            assert_eq!(row::open(shelf, Seq(7), &again.sealed(Seq(7))).as_ref().ok(), Some(&again));
            assert!(row::open(shelf, Seq(8), &row.sealed(Seq(7))).is_err(), "it belongs to its place");
            let told = match &row {
                Row::Pending(pending) => rows::pending(Seq(7), pending),
                Row::Dead(dead) => rows::dead(Seq(7), dead),
                Row::Delivered(delivered) => rows::delivered(Seq(7), delivered),
            };
            drop(rows::read(&told).expect("what is exported is read"));
        }
        Err(why) => {
            let said = why.to_string();
            assert!(!said.contains('\n') && !holds_number(&said) && said.contains("row 7"), "{said}");
        }
    }
}

/// One wrong byte, wherever it is.
fn damage_is_found(shelf: Shelf, at: u16, flip: u8, payload: &[u8]) {
    let mut value = row::seal(shelf, Seq(7), payload);
    let at = usize::from(at) % value.len();
    value[at] ^= flip.max(1);
    assert!(row::open(shelf, Seq(7), &value).is_err());
}

/// The state of calls is read or refused, and whatever was read a tracker lives with.
fn state_is_read_or_refused(key: &str, value: &[u8]) {
    let (_, (family, legs, calls)) = match state::decode(key, value) {
        Ok(read) => read,
        Err(why) => {
            assert!(!why.to_string().contains('\n') && !holds_number(&why.to_string()), "{why}");
            return;
        }
    };
    let written = state::encode(&legs, &calls);
    let (_, again) = state::decode(key, &written).expect("what is written is read");
    assert_eq!(again, (family, legs.clone(), calls.clone()));
    let ids: Vec<String> = legs.iter().map(|(_, leg)| leg.id.clone()).take(20).collect();
    let mut tracker = Tracker::new(Arc::new(settings()));
    tracker.restore(family, legs, calls);
    let mut now = UnixMillis(1_700_000_000_000);
    let other = ids.first().cloned().unwrap_or_default();
    for id in &ids {
        for name in
            ["CHANNEL_DATA", "CHANNEL_CREATE", "CHANNEL_BRIDGE", "CHANNEL_UUID", "CHANNEL_HANGUP_COMPLETE"]
        {
            let escape = |text: &str| text.replace('%', "%25").replace('\n', "%0A");
            let text = format!(
                "Event-Name: {name}\nUnique-ID: {}\nOld-Unique-ID: a\nBridge-A-Unique-ID: {0}\nBridge-B-Unique-ID: {}\n\
                 Call-Direction: inbound\nAnswer-State: answered\nChannel-Name: sofia/external/1\n",
                escape(id),
                escape(&other),
            );
            now = UnixMillis(now.0 + 1000);
            tracker.handle_event(&Event::parse(&Bytes::from(text)).expect("an event was written"), now);
        }
        tracker.vanished(id, now);
    }
    assert_eq!(tracker.live_legs().filter(|id| ids.iter().any(|known| known == id)).count(), 0);
    tracker.handle_timeout(UnixMillis(u64::MAX));
    while let Some(output) = tracker.poll_output() {
        drop(output);
    }
    while tracker.poll_changed().is_some() {}
}

fn export_is_read_or_refused(line: &[u8]) {
    let Ok(row) = serde_json::from_slice::<Value>(line) else { return };
    match rows::read(&row) {
        Ok((pending, ..)) => {
            let (again, ..) = rows::read(&rows::pending(Seq(7), &pending)).expect("what is exported is read");
            assert_eq!(rows::pending(Seq(7), &again), rows::pending(Seq(7), &pending));
        }
        Err(why) => assert!(!why.is_empty() && !why.contains('\n'), "{why:?}"),
    }
}
