//! Cuts the byte stream into frames. Every length is bounded; a boundary that is lost is an error, never a guess.
//!
//! Two kinds of damage are kept apart. A strange *value* (a bad byte in a caller's name) belongs to the event
//! and loses nothing. A header block without Content-Type, a line that is no header, a length that is no
//! number: then nobody knows where the next frame begins, and the only honest way on is a new connection.

use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr, memmem};
use tokio_util::codec::Decoder;

/// Longest header block of a frame, in bytes. FreeSWITCH's longest (a `userauth` reply) stays below 4 kB.
pub const HEADERS_MAX: usize = 64 * 1024;
/// Longest body of a frame, in bytes: `show channels as json` of some 50,000 channels. Events stay below 20 kB.
pub const BODY_MAX: usize = 64 * 1024 * 1024;

/// What a frame is, from its Content-Type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `auth/request`: the switch asks for a password.
    AuthRequest,
    /// `command/reply`: the answer to a command, in the header Reply-Text.
    CommandReply,
    /// `api/response`: the answer to an `api` command, in the body.
    ApiResponse,
    /// `text/event-plain`: an event, in the body.
    EventPlain,
    /// `text/disconnect-notice`: the switch is about to close the connection, at once or after it has [lingered].
    ///
    /// [lingered]: Frame::lingers
    DisconnectNotice,
    /// `text/rude-rejection`: our address is not allowed to connect.
    RudeRejection,
    /// A type that we never asked for (`log/data`, `text/event-json`, …). Its length is known, so it is skipped.
    Other,
}

/// One frame: its kind, its own headers (as received, `Name: value` lines) and its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    headers: Bytes,
    /// Exactly the bytes that Content-Length announced; empty without one.
    pub body: Bytes,
}

impl Frame {
    /// The value of a header of the frame itself (not of an event inside it).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        lines(&self.headers)
            .filter_map(split)
            .find(|(n, _)| *n == name.as_bytes())
            .map(|(_, v)| String::from_utf8_lossy(v).into_owned())
    }

    /// The `Reply-Text` of a command reply; empty if there is none.
    #[must_use]
    pub fn reply_text(&self) -> String {
        self.header("Reply-Text").unwrap_or_default()
    }

    /// Whether a disconnect notice says that further events follow before the end. FreeSWITCH says so where it was
    /// asked to (`linger`), and then only on a socket that it opened for one leg.
    #[must_use]
    pub fn lingers(&self) -> bool {
        self.header("Content-Disposition").is_some_and(|how| how == "linger")
    }
}

/// The frame boundary is lost, or never was one: this is not an event socket, or bytes are missing.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// No empty line within [`HEADERS_MAX`].
    #[error(
        "no end of a header block within {HEADERS_MAX} bytes: this is no event socket, or bytes were lost"
    )]
    HeadersTooLong,
    /// A line of the header block has no `Name: value`.
    #[error("a line in a frame's headers is no header: {0:?}")]
    NotAHeader(String),
    /// The header block has no Content-Type.
    #[error("a frame without Content-Type")]
    NoContentType,
    /// Content-Length is no plain number, or there are two that differ.
    #[error("a frame with the Content-Length {0:?}")]
    BadLength(String),
    /// Content-Length is over [`BODY_MAX`].
    #[error("a frame announces {0} bytes; at most {BODY_MAX} are accepted")]
    BodyTooLong(usize),
    /// The connection ended inside a frame.
    #[error("the connection ended inside a frame, {0} bytes after its start")]
    CutOff(usize),
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// The decoder. Remembers how far it has looked, so that a frame which arrives in many pieces is scanned once.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    scanned: usize,
    head: Option<Head>,
}

#[derive(Debug)]
struct Head {
    kind: Kind,
    headers: Bytes,
    body_len: usize,
}

impl Decoder for FrameDecoder {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let head = match self.head.take() {
            Some(head) => head,
            None => match self.head_from(buf)? {
                Some(head) => head,
                None => return Ok(None),
            },
        };
        if buf.len() < head.body_len {
            buf.reserve(head.body_len - buf.len());
            self.head = Some(head);
            return Ok(None);
        }
        let body = buf.split_to(head.body_len).freeze();
        Ok(Some(Frame { kind: head.kind, headers: head.headers, body }))
    }

    fn decode_eof(&mut self, buf: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        match self.decode(buf)? {
            Some(frame) => Ok(Some(frame)),
            None if buf.is_empty() && self.head.is_none() => Ok(None),
            None => {
                let left = self.held() + buf.len();
                self.head = None;
                buf.clear();
                self.scanned = 0;
                Err(FrameError::CutOff(left))
            }
        }
    }
}

impl FrameDecoder {
    /// Bytes that were taken from the buffer for a frame whose body has not come yet.
    #[must_use]
    pub fn held(&self) -> usize {
        self.head.as_ref().map_or(0, |head| head.headers.len() + 2)
    }

    fn head_from(&mut self, buf: &mut BytesMut) -> Result<Option<Head>, FrameError> {
        // Step back one byte: the empty line may lie across the old end of the buffer.
        let from = self.scanned.saturating_sub(1);
        let Some(end) = memmem::find(&buf[from..], b"\n\n").map(|at| from + at) else {
            self.scanned = buf.len();
            // The block may be as long as it may be, and the first half of its end be here.
            return if buf.len() > HEADERS_MAX + 1 { Err(FrameError::HeadersTooLong) } else { Ok(None) };
        };
        if end > HEADERS_MAX {
            return Err(FrameError::HeadersTooLong);
        }
        self.scanned = 0;
        let headers = buf.split_to(end).freeze();
        buf.advance(2);
        let (kind, body_len) = read_head(&headers)?;
        Ok(Some(Head { kind, headers, body_len }))
    }
}

fn read_head(headers: &[u8]) -> Result<(Kind, usize), FrameError> {
    let mut kind = None;
    let mut length: Option<usize> = None;
    for line in lines(headers) {
        let Some((name, value)) = split(line) else {
            let shown = &line[..line.len().min(60)];
            return Err(FrameError::NotAHeader(String::from_utf8_lossy(shown).into_owned()));
        };
        match name {
            b"Content-Type" if kind.is_none() => kind = Some(kind_of(value)),
            b"Content-Length" => {
                let bad = || FrameError::BadLength(beginning(value));
                let found = decimal(value).ok_or_else(bad)?;
                if length.is_some_and(|known| known != found) {
                    return Err(bad());
                }
                length = Some(found);
            }
            _ => {}
        }
    }
    let kind = kind.ok_or(FrameError::NoContentType)?;
    let length = length.unwrap_or(0);
    if length > BODY_MAX {
        return Err(FrameError::BodyTooLong(length));
    }
    Ok((kind, length))
}

/// Enough to see that it is no length, and too little for a telephone number: it goes to the log.
fn beginning(value: &[u8]) -> String {
    const SHOWN: usize = 6;
    let text = String::from_utf8_lossy(value);
    let shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() { format!("{shown}…") } else { shown }
}

fn kind_of(content_type: &[u8]) -> Kind {
    match content_type {
        b"auth/request" => Kind::AuthRequest,
        b"command/reply" => Kind::CommandReply,
        b"api/response" => Kind::ApiResponse,
        b"text/event-plain" => Kind::EventPlain,
        b"text/disconnect-notice" => Kind::DisconnectNotice,
        b"text/rude-rejection" => Kind::RudeRejection,
        _ => Kind::Other,
    }
}

/// The lines of a block without their line feeds.
pub(super) fn lines(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = block;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = memchr(b'\n', rest).unwrap_or(rest.len());
        let line = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        Some(line)
    })
}

/// `Name: value` → (`Name`, `value`); `Name:` with nothing behind it has the empty value.
pub(super) fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr(b':', line).filter(|&at| at > 0)?;
    let value = &line[colon + 1..];
    Some((&line[..colon], value.strip_prefix(b" ").unwrap_or(value)))
}

/// A plain decimal number: digits only, no sign, nothing over nine digits.
pub(super) fn decimal(text: &[u8]) -> Option<usize> {
    if text.is_empty() || text.len() > 9 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Result<Vec<Frame>, FrameError> {
        let mut decoder = FrameDecoder::default();
        let mut buf = BytesMut::from(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = decoder.decode_eof(&mut buf)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[test]
    fn reply_and_event_are_cut_at_their_lengths() {
        let frames = decode(
            b"Content-Type: command/reply\nReply-Text: +OK accepted\n\nContent-Length: 5\nContent-Type: text/event-plain\n\nA: b\nContent-Type: auth/request\n\n",
        )
        .unwrap();
        let kinds: Vec<_> = frames.iter().map(|f| f.kind).collect();
        assert_eq!(kinds, [Kind::CommandReply, Kind::EventPlain, Kind::AuthRequest]);
        assert_eq!(frames[0].reply_text(), "+OK accepted");
        assert_eq!(&frames[1].body[..], b"A: b\n");
    }

    #[test]
    fn a_lost_boundary_is_an_error_and_never_a_guess() {
        for broken in [
            &b"\nContent-Type: auth/request\n\n"[..],
            b"Content-Length: 3\n\nabc",
            b"Content-Type: api/response\nContent-Length: 3x\n\nabc",
            b"Content-Type: api/response\nContent-Length: -3\n\nabc",
            b"Content-Type: api/response\nContent-Length: 3\nContent-Length: 4\n\nabcd",
            b"Content-Type: api/response\nContent-Length: 99999999999999999999\n\n",
            b"Content-Type: api/response\nContent-Length: 99999999\n\n",
            b"HTTP/1.1 400 Bad Request\n\n",
            b"Content-Type: auth/request\nContent-Length: 5\n\nabc",
        ] {
            assert!(decode(broken).is_err(), "{:?}", String::from_utf8_lossy(broken));
        }
        assert!(matches!(decode(&vec![b'x'; HEADERS_MAX + 2]), Err(FrameError::HeadersTooLong)));
    }

    #[test]
    fn the_longest_header_block_may_come_in_pieces_too() {
        for (length, fits) in [(HEADERS_MAX - 1, true), (HEADERS_MAX, true), (HEADERS_MAX + 1, false)] {
            let mut block = b"Content-Type: auth/request\nX: ".to_vec();
            block.resize(length, b'x');
            block.extend_from_slice(b"\n\n");
            for cut in length - 1..=length + 2 {
                let mut decoder = FrameDecoder::default();
                let mut buf = BytesMut::from(&block[..cut]);
                let first = decoder.decode(&mut buf);
                buf.extend_from_slice(&block[cut..]);
                let frame = first.and_then(|first| Ok(first.or(decoder.decode_eof(&mut buf)?)));
                assert_eq!(matches!(frame, Ok(Some(_))), fits, "{length} bytes, cut at {cut}: {frame:?}");
            }
        }
    }

    #[test]
    fn of_two_types_the_first_counts_and_is_the_one_that_is_told() {
        let frames = decode(b"Content-Type: auth/request\nContent-Type: log/data\n\n").unwrap();
        assert_eq!(frames[0].kind, Kind::AuthRequest);
        assert_eq!(frames[0].header("Content-Type").unwrap(), "auth/request");
    }

    #[test]
    fn a_length_that_is_none_is_told_without_the_number_it_may_be() {
        let why = decode(b"Content-Type: api/response\nContent-Length: +4915112345678\n\n").unwrap_err();
        assert_eq!(why.to_string(), "a frame with the Content-Length \"+49151…\"");
    }

    #[test]
    fn an_unknown_type_is_skipped_by_its_length() {
        let frames =
            decode(b"Content-Type: log/data\nContent-Length: 4\n\n\n\n\n\nContent-Type: auth/request\n\n")
                .unwrap();
        assert_eq!(frames.iter().map(|f| f.kind).collect::<Vec<_>>(), [Kind::Other, Kind::AuthRequest]);
    }
}
