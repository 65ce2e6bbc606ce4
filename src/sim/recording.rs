//! Recordings of a FreeSWITCH event socket: cut into events, renamed, shifted, trimmed.
//!
//! A recording is the bytes one connection received in plain format: replies and events in one stream. Only
//! the events are kept, each with the very bytes it had on the wire.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memmem};
use percent_encoding::percent_decode;

use crate::time::UnixMillis;

/// A stream that cannot be cut into events.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("byte {at} of the recording: {what}; record it again, in plain format")]
pub struct BadRecording {
    /// Where the frame in question begins.
    pub at: usize,
    /// What is wrong with it.
    pub what: &'static str,
}

/// The events of one connection, in the order they were received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    events: Arc<[Event]>,
}

impl Recording {
    /// Cuts the raw bytes of a connection. Replies and notices are skipped; a frame cut off at the very end is
    /// left out, as it is in a recording that ends with the switch.
    ///
    /// # Errors
    /// If something in the middle is no frame, or an event is not in plain format.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadRecording> {
        let stream = Bytes::copy_from_slice(bytes);
        let (mut events, mut at) = (Vec::new(), 0);
        while let Some(head) = memmem::find(&stream[at..], b"\n\n") {
            let bad = |what| BadRecording { at, what };
            let body = at + head + 2;
            let length = announced(&stream[at..at + head]).map_err(bad)?;
            let end = body + length;
            if end > stream.len() {
                break;
            }
            match find_header(&stream[at..body], "Content-Type") {
                Some(b"text/event-plain") => {
                    let event = Event::new(stream.slice(at..end), body - at);
                    events.push(event.ok_or(bad("an event without Event-Name"))?);
                }
                Some(b"text/event-json" | b"text/event-xml") => {
                    return Err(bad("an event in another format"));
                }
                Some(_) => {}
                None => return Err(bad("a frame without Content-Type")),
            }
            at = end;
        }
        Ok(Self { events: events.into() })
    }

    /// The events in order.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The first `count` events and the rest, to be played apart.
    #[must_use]
    pub fn split_at(&self, count: usize) -> (Self, Self) {
        let (head, tail) = self.events.split_at(count.min(self.events.len()));
        (Self { events: head.into() }, Self { events: tail.into() })
    }

    /// The same calls as other calls: each leg's id is replaced, wherever it stands, by one made from it and
    /// `suffix`. The same suffix always gives the same ids. A UUID becomes another UUID; an id that an
    /// application chose gets `-suffix` at its end, so keep to letters and digits.
    #[must_use]
    pub fn renamed(&self, suffix: &str) -> Self {
        const KINDS: [&str; 3] = ["Unique-ID", "Other-Leg-Unique-ID", "Old-Unique-ID"];
        let ids = self.events.iter().flat_map(|e| KINDS.iter().filter_map(|kind| e.raw(kind)));
        let ids: BTreeSet<&[u8]> = ids.filter(|id| !id.is_empty()).collect();
        let (uuids, chosen): (Vec<&[u8]>, Vec<&[u8]>) = ids.into_iter().partition(|id| is_uuid(id));
        let mut pairs: Vec<(&[u8], Vec<u8>)> = uuids.iter().map(|id| (*id, fresh_uuid(id, suffix))).collect();
        // An application may build its id around another leg's.
        let named = |id: &[u8]| [&replaced(id, &pairs)[..], b"-", suffix.as_bytes()].concat();
        let named: Vec<(&[u8], Vec<u8>)> = chosen.iter().map(|id| (*id, named(id))).collect();
        pairs.extend(named);
        // Of an id that is the beginning of another, the longer one must match first.
        pairs.sort_by_key(|(id, _)| std::cmp::Reverse(id.len()));
        self.map(|event| {
            let mut block = Vec::with_capacity(event.header_block().len());
            for (name, value) in event.raw_headers() {
                // An id can be as short as a letter: it stands in values only, and no event is called after a leg.
                match name {
                    b"Event-Name" => copy(name, value, &mut block),
                    _ => copy(name, &replaced(value, &pairs), &mut block),
                }
            }
            event.with_body(&block, &replaced(event.inner(), &pairs))
        })
    }

    /// The same calls, later: `Event-Date-Timestamp` and all `…-Time` headers in microseconds move by `by`.
    /// Dates written out as text, and times within variables, stay.
    #[must_use]
    pub fn later(&self, by: Duration) -> Self {
        let by = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        self.each_line(|name, value, line| {
            let is_time = name == b"Event-Date-Timestamp" || name.ends_with(b"-Time");
            match number::<u64>(value).filter(|t| is_time && *t >= MICROS_MIN) {
                Some(t) => {
                    line.extend_from_slice(name);
                    line.extend_from_slice(format!(": {}\n", t.saturating_add(by)).as_bytes());
                }
                None => copy(name, value, line),
            }
        })
    }

    /// The same events as another run of the switch would send them.
    #[must_use]
    pub fn with_core_uuid(&self, core_uuid: &str) -> Self {
        self.each_line(|name, value, line| match name {
            b"Core-UUID" => copy(name, core_uuid.as_bytes(), line),
            _ => copy(name, value, line),
        })
    }

    /// Only the headers named in `keep` (whole names, exact case) and `Event-Name`, for something to look at.
    #[must_use]
    pub fn trimmed(&self, keep: &[&str]) -> Self {
        const ALWAYS: [&[u8]; 2] = [b"Event-Name", b"Content-Length"];
        self.each_line(|name, value, line| {
            if ALWAYS.contains(&name) || keep.iter().any(|k| k.as_bytes() == name) {
                copy(name, value, line);
            }
        })
    }

    /// Only the events of these names.
    #[must_use]
    pub fn only(&self, names: &[&str]) -> Self {
        Self { events: self.events.iter().filter(|e| names.contains(&e.name())).cloned().collect() }
    }

    /// The frames one after the other: what [`Recording::parse`] reads.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.events.iter().flat_map(|e| e.frame().iter().copied()).collect()
    }

    fn each_line(&self, rewrite: impl Fn(&[u8], &[u8], &mut Vec<u8>)) -> Self {
        self.map(|event| {
            let mut block = Vec::with_capacity(event.header_block().len());
            for (name, value) in event.raw_headers() {
                rewrite(name, value, &mut block);
            }
            event.with_body(&block, event.inner())
        })
    }

    fn map(&self, change: impl Fn(&Event) -> Event) -> Self {
        Self { events: self.events.iter().map(change).collect() }
    }
}

/// One event in plain format, as on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    frame: Bytes,
    body: usize,
    name: Arc<str>,
    at: UnixMillis,
}

impl Event {
    /// An event made here: headers as they read (they are encoded on the way), and an inner body if not empty.
    #[must_use]
    pub(super) fn build(headers: &[(&str, String)], inner: &str) -> Self {
        let encoded: Vec<(&str, String)> =
            headers.iter().map(|(name, value)| (*name, encode(value))).collect();
        Self::build_raw(encoded.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())), inner)
    }

    /// As [`Event::build`], from values that are encoded already.
    pub(super) fn build_raw<'a>(headers: impl Iterator<Item = (&'a [u8], &'a [u8])>, inner: &str) -> Self {
        let mut block = Vec::new();
        for (name, value) in headers {
            copy(name, value, &mut block);
        }
        if !inner.is_empty() {
            copy(b"Content-Length", inner.len().to_string().as_bytes(), &mut block);
        }
        let (frame, body) = framed(&block, inner.as_bytes());
        Self::new(frame, body).expect("who builds an event names it")
    }

    /// `CHANNEL_CREATE`, `HEARTBEAT`, …
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// When the switch sent it, from Event-Date-Timestamp; 0 without one.
    #[must_use]
    pub fn at(&self) -> UnixMillis {
        self.at
    }

    /// The whole frame, `Content-Length` and all.
    #[must_use]
    pub fn frame(&self) -> &Bytes {
        &self.frame
    }

    /// What `Content-Length` counts: the headers of the event, a blank line, an inner body if there is one.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.frame[self.body..]
    }

    /// The first header of exactly this name, decoded; bytes that are no UTF-8 are replaced.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        self.raw(name).map(|raw| percent_decode(raw).decode_utf8_lossy().into_owned())
    }

    /// Names and values as on the wire, percent-encoded.
    pub(super) fn raw_headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        lines(self.header_block())
    }

    /// What follows the blank line within the body.
    pub(super) fn inner(&self) -> &[u8] {
        let start = memmem::find(self.body(), b"\n\n").map_or(self.body().len(), |end| end + 2);
        &self.body()[start..]
    }

    fn new(frame: Bytes, body: usize) -> Option<Self> {
        let name = std::str::from_utf8(find_header(&frame[body..], "Event-Name")?).ok()?.into();
        let micros = find_header(&frame[body..], "Event-Date-Timestamp").and_then(number::<u64>);
        Some(Self { frame, body, name, at: UnixMillis(micros.unwrap_or_default() / 1000) })
    }

    fn raw(&self, name: &str) -> Option<&[u8]> {
        find_header(self.header_block(), name)
    }

    fn header_block(&self) -> &[u8] {
        let end = memmem::find(self.body(), b"\n\n").map_or(self.body().len(), |end| end + 1);
        &self.body()[..end]
    }

    fn with_body(&self, block: &[u8], inner: &[u8]) -> Self {
        let mut fitted = Vec::with_capacity(block.len());
        for (name, value) in lines(block) {
            match name {
                b"Content-Length" => copy(name, inner.len().to_string().as_bytes(), &mut fitted),
                _ => copy(name, value, &mut fitted),
            }
        }
        let (frame, body) = framed(&fitted, inner);
        Self::new(frame, body).expect("Event-Name is always kept")
    }
}

/// The smallest number of microseconds that can be a moment: anything less is "not yet".
const MICROS_MIN: u64 = 1_000_000_000_000_000;

/// The switch puts the length first in events, and a blank line inside it.
fn framed(block: &[u8], inner: &[u8]) -> (Bytes, usize) {
    let length = block.len() + 1 + inner.len();
    let head = format!("Content-Length: {length}\nContent-Type: text/event-plain\n\n");
    let mut frame = BytesMut::with_capacity(head.len() + length);
    frame.extend_from_slice(head.as_bytes());
    frame.extend_from_slice(block);
    frame.extend_from_slice(b"\n");
    frame.extend_from_slice(inner);
    (frame.freeze(), head.len())
}

/// The Content-Length of a frame's head, as strictly as whoever hears the recording will read it.
fn announced(head: &[u8]) -> Result<usize, &'static str> {
    if !head.is_empty()
        && head.split(|b| *b == b'\n').any(|line| matches!(memchr(b':', line), None | Some(0)))
    {
        return Err("a line in a frame's head is no header");
    }
    let mut length = None;
    for (_, text) in lines(head).filter(|(name, _)| *name == b"Content-Length") {
        let digits = text.len() <= 9 && text.iter().all(u8::is_ascii_digit);
        let found = number(text).filter(|_| digits).ok_or("Content-Length is no number")?;
        if length.is_some_and(|known| known != found) {
            return Err("two lengths of one frame");
        }
        length = Some(found);
    }
    Ok(length.unwrap_or_default())
}

fn lines(block: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    block.split(|b| *b == b'\n').take_while(|line| !line.is_empty()).map(|line| {
        let colon = memchr(b':', line).unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
    })
}

fn find_header<'a>(block: &'a [u8], name: &str) -> Option<&'a [u8]> {
    lines(block).find(|(n, _)| *n == name.as_bytes()).map(|(_, value)| value)
}

fn copy(name: &[u8], value: &[u8], to: &mut Vec<u8>) {
    to.extend_from_slice(name);
    to.extend_from_slice(b": ");
    to.extend_from_slice(value);
    to.push(b'\n');
}

fn number<N: std::str::FromStr>(text: &[u8]) -> Option<N> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

/// As the switch encodes: letters, digits and these; all else as `%XX`.
fn encode(value: &str) -> String {
    const PLAIN: &percent_encoding::AsciiSet = &percent_encoding::NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'/')
        .remove(b',')
        .remove(b'~')
        .remove(b'*')
        .remove(b'\'')
        .remove(b'(')
        .remove(b')')
        .remove(b'!');
    percent_encoding::utf8_percent_encode(value, PLAIN).to_string()
}

fn fresh_uuid(id: &[u8], suffix: &str) -> Vec<u8> {
    uuid_from(&format!("{}/{suffix}", String::from_utf8_lossy(id))).into_bytes()
}

fn is_uuid(id: &[u8]) -> bool {
    id.len() == 36
        && id.iter().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => *b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

/// A UUID that depends on `seed` alone (two rounds of 64-bit FNV-1a).
pub(super) fn uuid_from(seed: &str) -> String {
    let hash =
        |start: u64| seed.bytes().fold(start, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    let high = hash(0xcbf2_9ce4_8422_2325);
    let hex = format!("{high:016x}{:016x}", hash(high.rotate_left(17)));
    format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

/// One pass, so that what was put in is never replaced again.
fn replaced(text: &[u8], pairs: &[(&[u8], Vec<u8>)]) -> Vec<u8> {
    let mut begins = [false; 256];
    for first in pairs.iter().filter_map(|(id, _)| id.first()) {
        begins[usize::from(*first)] = true;
    }
    let mut out = Vec::with_capacity(text.len());
    let (mut kept, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        if !begins[usize::from(rest[0])] {
            at += 1;
            continue;
        }
        match pairs.iter().find(|(id, _)| rest.starts_with(id)) {
            Some((id, fresh)) => {
                out.extend_from_slice(&text[kept..at]);
                out.extend_from_slice(fresh);
                at += id.len();
                kept = at;
            }
            None => at += 1,
        }
    }
    out.extend_from_slice(&text[kept..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "82ac7419-a888-417e-88d9-a0bd613f105d";

    fn event(headers: &[(&str, &str)], inner: &str) -> Event {
        let headers: Vec<(&str, String)> = headers.iter().map(|(n, v)| (*n, (*v).to_owned())).collect();
        Event::build(&headers, inner)
    }

    fn recording(events: &[Event]) -> Recording {
        let stream: Vec<u8> = events.iter().flat_map(|e| e.frame().to_vec()).collect();
        Recording::parse(&stream).unwrap()
    }

    #[test]
    fn renamed_ids_are_new_the_same_each_time_and_lengths_are_right() {
        let own = event(&[("Event-Name", "X"), ("Unique-ID", "own"), ("variable_uuid", "own")], "");
        let leg = event(&[("Event-Name", "Y"), ("Unique-ID", A), ("Bridge-A-Unique-ID", A)], "");
        let job = event(&[("Event-Name", "BACKGROUND_JOB")], "+OK own\n");
        let original = recording(&[own, leg, job]);
        let renamed = original.renamed("7");
        assert_eq!(renamed, original.renamed("7"));
        assert_ne!(renamed, original.renamed("8"));
        let again: Vec<u8> = renamed.events().iter().flat_map(|e| e.frame().to_vec()).collect();
        assert_eq!(Recording::parse(&again).unwrap(), renamed, "the lengths frame it again");
        let [own, leg, job] = renamed.events() else { panic!("three events") };
        assert_eq!(own.header("variable_uuid").unwrap(), "own-7");
        assert_ne!(leg.header("Unique-ID").unwrap(), A);
        assert!(is_uuid(leg.header("Unique-ID").unwrap().as_bytes()));
        assert_eq!(leg.header("Unique-ID"), leg.header("Bridge-A-Unique-ID"));
        assert_eq!(job.inner(), b"+OK own-7\n");
        assert_eq!(job.header("Content-Length").unwrap(), "10");
    }

    #[test]
    fn an_id_that_is_part_of_a_header_name_renames_no_header() {
        let renamed =
            recording(&[event(&[("Event-Name", "HEARTBEAT"), ("Unique-ID", "E")], "")]).renamed("7");
        let [event] = renamed.events() else { panic!("one event") };
        assert_eq!((event.name(), event.header("Unique-ID").as_deref()), ("HEARTBEAT", Some("E-7")));
    }

    #[test]
    fn later_moves_moments_but_not_zeroes() {
        let times = [
            ("Event-Name", "X"),
            ("Event-Date-Timestamp", "1795444362505757"),
            ("Caller-Channel-Answered-Time", "0"),
        ];
        let moved = recording(&[event(&times, "")]).later(Duration::from_secs(2));
        assert_eq!(moved.events()[0].at(), UnixMillis(1_795_444_364_505));
        assert_eq!(moved.events()[0].header("Caller-Channel-Answered-Time").unwrap(), "0");
    }

    #[test]
    fn trimmed_keeps_what_is_named_and_frames_right() {
        let headers = [("Event-Name", "X"), ("Unique-ID", A), ("variable_Unique-ID", "no")];
        let trimmed = recording(&[event(&headers, "inner")]).trimmed(&["Unique-ID"]);
        let body = format!("Event-Name: X\nUnique-ID: {A}\nContent-Length: 5\n\ninner");
        assert_eq!(trimmed.events()[0].body(), body.as_bytes());
        let head = format!("Content-Length: {}\nContent-Type: text/event-plain\n\n", body.len());
        assert!(trimmed.events()[0].frame().starts_with(head.as_bytes()));
    }

    #[test]
    fn what_is_no_frame_is_said_with_its_place() {
        let what = Recording::parse(b"Content-Type: auth/request\n\nHello\n\n").unwrap_err();
        assert_eq!(what, BadRecording { at: 28, what: "a line in a frame's head is no header" });
        let what = Recording::parse(b"Content-Length: x\n\n").unwrap_err();
        assert_eq!(what.what, "Content-Length is no number");
        for (stream, what) in [
            ("X: y\n\n", "a frame without Content-Type"),
            ("Content-Length: +1\n\n", "Content-Length is no number"),
            ("Content-Length: 1\nContent-Length: 2\n\n", "two lengths of one frame"),
            ("Content-Type: auth/request\nnonsense\n\n", "a line in a frame's head is no header"),
        ] {
            assert_eq!(
                Recording::parse(stream.as_bytes()).unwrap_err(),
                BadRecording { at: 0, what },
                "{stream:?}"
            );
        }
    }

    #[test]
    fn frame_cut_off_at_the_end_is_left_out() {
        let whole = event(&[("Event-Name", "X")], "");
        let mut stream = whole.frame().to_vec();
        stream.extend_from_slice(&whole.frame()[..whole.frame().len() - 1]);
        assert_eq!(Recording::parse(&stream).unwrap().events().len(), 1);
    }
}
