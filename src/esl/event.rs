//! One event: its headers, decoded only when asked for, and its own body if it has one.
//!
//! Values are percent-encoded; `+` is a plus and never a space. A byte that is no UTF-8 after decoding (a
//! Latin-1 caller name) becomes U+FFFD: a strange name is no lost event. Header names match whole: phone legs
//! carry copies such as `variable_Event-Name`. Where a name stands twice (`Hangup-Cause` does), the first counts.

use std::borrow::Cow;

use bytes::Bytes;
use memchr::memmem;
use percent_encoding::percent_decode;

use super::frame::{decimal, lines, split};

/// Most headers that an event may have. FreeSWITCH's longest have some 400.
pub const HEADERS_MAX: usize = 8192;

/// What an event is about, as far as we subscribe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// A leg came into being.
    ChannelCreate,
    /// A leg was answered, by a phone or by the switch itself.
    ChannelAnswer,
    /// Two legs were joined.
    ChannelBridge,
    /// Two legs were parted.
    ChannelUnbridge,
    /// A leg ended; the last that is heard of it.
    ChannelHangupComplete,
    /// A leg changed its Unique-ID.
    ChannelUuid,
    /// The answer to `uuid_dump`: a leg as it is now.
    ChannelData,
    /// The switch is alive.
    Heartbeat,
    /// The switch is going down.
    Shutdown,
    /// A `bgapi` command has finished; its output is the body.
    BackgroundJob,
    /// A module's own event; which one stands in Event-Subclass.
    Custom,
    /// Anything else.
    Other,
}

impl Name {
    /// Every name, in the order in which they are declared: `name as usize` is a name's place here.
    pub const ALL: [Self; 12] = [
        Self::ChannelCreate,
        Self::ChannelAnswer,
        Self::ChannelBridge,
        Self::ChannelUnbridge,
        Self::ChannelHangupComplete,
        Self::ChannelUuid,
        Self::ChannelData,
        Self::Heartbeat,
        Self::Shutdown,
        Self::BackgroundJob,
        Self::Custom,
        Self::Other,
    ];

    /// FreeSWITCH's word for it; `OTHER` for all that we know no word for.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ChannelCreate => "CHANNEL_CREATE",
            Self::ChannelAnswer => "CHANNEL_ANSWER",
            Self::ChannelBridge => "CHANNEL_BRIDGE",
            Self::ChannelUnbridge => "CHANNEL_UNBRIDGE",
            Self::ChannelHangupComplete => "CHANNEL_HANGUP_COMPLETE",
            Self::ChannelUuid => "CHANNEL_UUID",
            Self::ChannelData => "CHANNEL_DATA",
            Self::Heartbeat => "HEARTBEAT",
            Self::Shutdown => "SHUTDOWN",
            Self::BackgroundJob => "BACKGROUND_JOB",
            Self::Custom => "CUSTOM",
            Self::Other => "OTHER",
        }
    }

    fn of(text: &[u8]) -> Self {
        match text {
            b"CHANNEL_CREATE" => Self::ChannelCreate,
            b"CHANNEL_ANSWER" => Self::ChannelAnswer,
            b"CHANNEL_BRIDGE" => Self::ChannelBridge,
            b"CHANNEL_UNBRIDGE" => Self::ChannelUnbridge,
            b"CHANNEL_HANGUP_COMPLETE" => Self::ChannelHangupComplete,
            b"CHANNEL_UUID" => Self::ChannelUuid,
            b"CHANNEL_DATA" => Self::ChannelData,
            b"HEARTBEAT" => Self::Heartbeat,
            b"SHUTDOWN" => Self::Shutdown,
            b"BACKGROUND_JOB" => Self::BackgroundJob,
            b"CUSTOM" => Self::Custom,
            _ => Self::Other,
        }
    }
}

/// An event that cannot be read. The stream itself is intact: this one event is skipped and counted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EventError {
    /// A line of the header block is no header: the one that begins at this byte. What stands there may be a
    /// telephone number or a name, and this is for the log.
    #[error("a line of an event's headers is no header, {0} bytes after its start")]
    Malformed(usize),
    /// No Event-Name.
    #[error("an event without Event-Name")]
    NoName,
    /// More than [`HEADERS_MAX`] headers.
    #[error("an event with more than {HEADERS_MAX} headers")]
    TooManyHeaders,
    /// The inner Content-Length does not fit what is there.
    #[error("an event's own Content-Length does not fit its frame")]
    BadLength,
}

/// One event. Cheap to clone: it borrows from the bytes that were read.
#[derive(Clone, Debug)]
pub struct Event {
    name: Name,
    block: Bytes,
    /// Where each header's name starts, how long it is, and where its value ends, within `block`.
    spans: Vec<Span>,
    /// By what is [hashed](bucket) of a name: one more than the place of the last such header in `spans`; 0 is none.
    last: Box<[u16; BUCKETS]>,
    body: Bytes,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    end: u32,
    name_len: u16,
    /// As in [`Event::last`]: the header of the same bucket before this one.
    before: u16,
}

/// As many as most events have headers, nearly: then a bucket holds one or two.
const BUCKETS: usize = 128;
const _: () = assert!(HEADERS_MAX < u16::MAX as usize, "a place fits a bucket");

/// Names differ most in how long they are and how they end.
fn bucket(name: &[u8]) -> usize {
    let end = name.last_chunk::<4>().map_or(0, |end| u32::from_le_bytes(*end));
    let mixed = (end ^ (name.len() as u32).rotate_right(8)).wrapping_mul(0x9e37_79b1);
    (mixed >> 25) as usize
}

impl Event {
    /// Reads the body of a `text/event-plain` frame.
    pub fn parse(frame_body: &Bytes) -> Result<Self, EventError> {
        let end = memmem::find(frame_body, b"\n\n").unwrap_or(frame_body.len());
        let block = frame_body.slice(..end);
        let mut spans = Vec::with_capacity(160);
        let mut last = Box::new([0; BUCKETS]);
        let mut start = 0;
        let mut inner_len = None;
        let mut name = None;
        for line in lines(&block) {
            let (header, value) = split(line).ok_or(EventError::Malformed(start))?;
            if spans.len() == HEADERS_MAX {
                return Err(EventError::TooManyHeaders);
            }
            match header {
                b"Event-Name" if name.is_none() => name = Some(Name::of(value)),
                b"Content-Length" if inner_len.is_none() => {
                    inner_len = Some(decimal(value).ok_or(EventError::BadLength)?);
                }
                _ => {}
            }
            let fits = |n: usize| u32::try_from(n).map_err(|_| EventError::BadLength);
            let name_len = u16::try_from(header.len()).map_err(|_| EventError::Malformed(start))?;
            let place = u16::try_from(spans.len() + 1).map_err(|_| EventError::TooManyHeaders)?;
            let before = std::mem::replace(&mut last[bucket(header)], place);
            spans.push(Span { start: fits(start)?, end: fits(start + line.len())?, name_len, before });
            start += line.len() + 1;
        }
        let after = frame_body.len().min(end + 2);
        let body = match inner_len {
            Some(len) if after + len <= frame_body.len() => frame_body.slice(after..after + len),
            Some(_) => return Err(EventError::BadLength),
            None => Bytes::new(),
        };
        Ok(Self { name: name.ok_or(EventError::NoName)?, block, spans, last, body })
    }

    /// What it is about.
    #[must_use]
    pub const fn name(&self) -> Name {
        self.name
    }

    /// The event's own body; empty for most.
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// The decoded value of a header; `None` if it is not there. An empty value is `Some("")`.
    #[must_use]
    pub fn get(&self, header: &str) -> Option<Cow<'_, str>> {
        let raw = self.raw(header)?;
        if memchr::memchr(b'%', raw).is_none() {
            return Some(String::from_utf8_lossy(raw));
        }
        Some(match percent_decode(raw).decode_utf8_lossy() {
            Cow::Borrowed(text) => Cow::Borrowed(text),
            Cow::Owned(text) => Cow::Owned(text),
        })
    }

    /// As [`Event::get`], but an empty value counts as absent.
    #[must_use]
    pub fn some(&self, header: &str) -> Option<Cow<'_, str>> {
        self.get(header).filter(|v| !v.is_empty())
    }

    /// Whether a header stands there with exactly this value.
    #[must_use]
    pub fn is(&self, header: &str, value: &str) -> bool {
        self.get(header).is_some_and(|v| v == value)
    }

    /// When the switch made the event, in milliseconds since 1970 by the switch's clock.
    #[must_use]
    pub fn timestamp_ms(&self) -> Option<u64> {
        self.get("Event-Date-Timestamp")?.parse::<u64>().ok().map(|micros| micros / 1000)
    }

    fn raw(&self, header: &str) -> Option<&[u8]> {
        let wanted = header.as_bytes();
        let mut at = self.last[bucket(wanted)];
        let mut found = None;
        // From the last to the first, which counts.
        while let Some(span) = usize::from(at).checked_sub(1).and_then(|at| self.spans.get(at)) {
            if usize::from(span.name_len) == wanted.len() {
                let (name, value) = self.parts(*span);
                found = if name == wanted { Some(value) } else { found };
            }
            at = span.before;
        }
        found
    }

    fn parts(&self, span: Span) -> (&[u8], &[u8]) {
        let line = &self.block[span.start as usize..span.end as usize];
        let (name, value) = line.split_at(usize::from(span.name_len));
        let value = &value[1..];
        (name, value.strip_prefix(b" ").unwrap_or(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &'static [u8]) -> Result<Event, EventError> {
        Event::parse(&Bytes::from_static(text))
    }

    #[test]
    fn values_are_decoded_and_names_match_whole() {
        let e = event(b"Event-Name: CHANNEL_ANSWER\nvariable_Event-Name: REQUEST_PARAMS\nA: %2B49%20+1%25\nEmpty: \nNothing:\nHangup-Cause: X\nHangup-Cause: Y\n\n").unwrap();
        assert_eq!(e.name(), Name::ChannelAnswer);
        assert_eq!(e.get("A").unwrap(), "+49 +1%");
        assert_eq!(e.get("Empty").unwrap(), "");
        assert_eq!(e.get("Nothing").unwrap(), "");
        assert_eq!(e.some("Empty"), None);
        assert_eq!(e.get("Absent"), None);
        assert_eq!(e.get("event-name"), None);
        assert_eq!(e.get("Hangup-Cause").unwrap(), "X");
    }

    #[test]
    fn a_latin1_name_is_a_strange_name_and_no_lost_event() {
        let e = event(b"Event-Name: CHANNEL_CREATE\nCaller-Caller-ID-Name: J%FCrgen\nRaw: J\xfcrgen\n\n")
            .unwrap();
        assert_eq!(e.get("Caller-Caller-ID-Name").unwrap(), "J\u{fffd}rgen");
        assert_eq!(e.get("Raw").unwrap(), "J\u{fffd}rgen");
    }

    #[test]
    fn an_inner_body_is_cut_at_its_own_length() {
        let e = event(b"Event-Name: BACKGROUND_JOB\nContent-Length: 5\n\n+OK x\n\n").unwrap();
        assert_eq!(&e.body()[..], b"+OK x");
        assert_eq!(
            event(b"Event-Name: BACKGROUND_JOB\nContent-Length: 50\n\n+OK").unwrap_err(),
            EventError::BadLength
        );
    }

    #[test]
    fn what_is_no_event_says_so() {
        assert_eq!(event(b"Core-UUID: x\n\n").unwrap_err(), EventError::NoName);
        assert_eq!(event(b"").unwrap_err(), EventError::NoName);
    }

    #[test]
    fn what_cannot_be_read_is_told_by_its_place_alone() {
        let why = event(b"Event-Name: X\n4915112345678\n\n").unwrap_err();
        assert_eq!(why, EventError::Malformed(14));
        assert_eq!(why.to_string(), "a line of an event's headers is no header, 14 bytes after its start");
    }
}
