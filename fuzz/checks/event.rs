//! The body of an event frame into headers that can be asked for. An input is such a body.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use freeswitch_zammad::call::leg::Created;
use freeswitch_zammad::call::tracker::{Output, Settings, Tracker};
use freeswitch_zammad::esl::event::{Event, HEADERS_MAX};
use freeswitch_zammad::time::UnixMillis;
use percent_encoding::percent_decode;

use super::settings;

/// Headers that are looked at one by one.
const LOOKED_AT: usize = 100;

pub(crate) fn check(input: &[u8]) {
    let whole = Bytes::copy_from_slice(input);
    let by_hand = by_second_hand(input);
    let event = match Event::parse(&whole) {
        Ok(event) => event,
        Err(why) => {
            // It is logged, and a piece of an event is a number or a name.
            let said = why.to_string();
            assert!(said.len() < 100 && !said.contains('\n'), "{said:?}");
            assert!(by_hand.is_none(), "refused: {said}");
            return;
        }
    };
    let (headers, body) = by_hand.expect("what is accepted is an event");
    assert_eq!(event.body()[..], *body);
    let named = headers.iter().find(|(name, _)| *name == b"Event-Name").expect("an event has a name").1;
    let alone = Event::parse(&Bytes::from([b"Event-Name: ", named].concat())).expect("a name is an event");
    assert_eq!(event.name(), alone.name(), "the first name counts");
    let mut first = HashMap::new();
    for (name, value) in &headers {
        first.entry(*name).or_insert(*value);
    }
    for (name, value) in headers.iter().take(LOOKED_AT) {
        let Ok(name) = std::str::from_utf8(name) else { continue };
        let wanted = percent_decode(first[name.as_bytes()]).decode_utf8_lossy();
        assert_eq!(event.get(name).as_deref(), Some(&*wanted), "{name}");
        assert_eq!(event.some(name).is_some(), !wanted.is_empty());
        assert!(event.is(name, &wanted) && !event.is(name, &format!("{wanted}x")));
        assert!(
            event.get(&format!("{name}-")).is_none() || first.contains_key(format!("{name}-").as_bytes())
        );
        // The same of less: what stands behind a header changes nothing of it.
        assert!(!value.contains(&b'\n'));
    }
    let stamp = event.get("Event-Date-Timestamp").and_then(|text| text.parse::<u64>().ok());
    assert_eq!(event.timestamp_ms(), stamp.map(|micros| micros / 1000));
    is_survived(&event);
}

/// Headers in order and the event's own body, read as the format is described; `None` if it is no event.
type Read<'a> = (Vec<(&'a [u8], &'a [u8])>, &'a [u8]);

fn by_second_hand(input: &[u8]) -> Option<Read<'_>> {
    let end = (0..input.len()).find(|at| input[*at..].starts_with(b"\n\n"));
    let (block, after) = match end {
        Some(end) => (&input[..end], &input[end + 2..]),
        None => (input.strip_suffix(b"\n").unwrap_or(input), &input[..0]),
    };
    if block.is_empty() {
        return None;
    }
    let mut headers = Vec::new();
    for line in block.split(|byte| *byte == b'\n') {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let value = &line[colon + 1..];
        headers.push((&line[..colon], value.strip_prefix(b" ").unwrap_or(value)));
        if colon == 0 || colon > usize::from(u16::MAX) {
            return None;
        }
    }
    let value = |wanted: &[u8]| headers.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
    value(b"Event-Name")?;
    let body = match value(b"Content-Length") {
        Some(length) => {
            let plain = !length.is_empty() && length.len() <= 9 && length.iter().all(u8::is_ascii_digit);
            let length = std::str::from_utf8(length).ok().filter(|_| plain)?.parse().ok()?;
            after.get(..length)?
        }
        None => &after[..0],
    };
    (headers.len() <= HEADERS_MAX).then_some((headers, body))
}

/// All that is ever asked of an event is asked of this one.
fn is_survived(event: &Event) {
    static SETTINGS: LazyLock<Arc<Settings>> = LazyLock::new(|| Arc::new(settings()));
    drop(Created::read(event));
    let mut tracker = Tracker::new(SETTINGS.clone());
    tracker.explain();
    tracker.handle_event(event, UnixMillis(1));
    let mut notes = 0;
    while let Some(output) = tracker.poll_output() {
        match output {
            Output::Note { text, .. } => {
                notes += 1;
                assert!(!text.is_empty());
            }
            Output::News(news) => drop(news.event.body()),
            Output::UnknownCause(_) => {}
        }
    }
    assert!(notes > 0, "every event is explained");
    assert!(tracker.legs() <= 3, "one event tells of a leg, its other, and the one that caused it");
}
