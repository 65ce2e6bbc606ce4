//! Bytes into frames. An input is a count of piece sizes, the sizes, and the stream that comes in such pieces.

use bytes::BytesMut;
use freeswitch_zammad::esl::frame::{BODY_MAX, Frame, FrameDecoder, FrameError, HEADERS_MAX, Kind};
use tokio_util::codec::Decoder;

use super::{Input, holds_number};

pub(crate) fn check(input: &[u8]) {
    let mut input = Input::new(input);
    let count = 1 + input.byte() % 8;
    let sizes: Vec<usize> = (0..count).map(|_| 1 + usize::from(input.byte())).collect();
    pieces_make_no_difference(input.rest(), &sizes);
}

/// The stream cut into pieces of these sizes, over and over, gives what it gives whole; and what it gives is right.
pub(crate) fn pieces_make_no_difference(stream: &[u8], sizes: &[usize]) {
    let whole = decoded(stream, &[stream.len().max(1)]);
    let pieces = decoded(stream, sizes);
    assert_eq!(pieces.frames, whole.frames, "frames by the size of the pieces");
    assert_eq!(pieces.end, whole.end, "the end by the size of the pieces");
    let (frames, sound) = by_second_hand(stream);
    let found: Vec<(Kind, Vec<u8>)> = whole.frames.iter().map(|f| (f.kind, f.body.to_vec())).collect();
    assert_eq!(found, frames, "frames by the format's description");
    assert_eq!(whole.end.is_none(), sound, "{:?}", whole.end);
    for frame in &whole.frames {
        let named = frame.header("Content-Type").expect("a frame has a type");
        assert_eq!(
            kind_of(named.as_bytes()),
            frame.kind,
            "the type that is asked for is the one that counted"
        );
    }
}

struct Decoded {
    frames: Vec<Frame>,
    /// Why it ended early, as it is logged.
    end: Option<String>,
}

/// As `FramedRead` drives the decoder.
fn decoded(stream: &[u8], sizes: &[usize]) -> Decoded {
    let mut decoder = FrameDecoder::default();
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    let mut rest = stream;
    for size in sizes.iter().cycle() {
        let (piece, after) = rest.split_at((*size).min(rest.len()));
        rest = after;
        buffer.extend_from_slice(piece);
        loop {
            let decode = if piece.is_empty() { FrameDecoder::decode_eof } else { FrameDecoder::decode };
            match decode(&mut decoder, &mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(why) => return Decoded { frames, end: Some(said(&why)) },
            }
        }
        let waiting = if decoder.held() == 0 { HEADERS_MAX + 1 } else { BODY_MAX };
        assert!(buffer.len() <= waiting, "{} bytes wait", buffer.len());
        assert!(decoder.held() <= HEADERS_MAX + 2, "{} bytes are held", decoder.held());
        assert!(
            buffer.capacity() <= 2 * (BODY_MAX + HEADERS_MAX + size),
            "{} bytes are kept free",
            buffer.capacity()
        );
        if piece.is_empty() {
            break;
        }
    }
    assert!(buffer.is_empty() && decoder.held() == 0, "nothing is left over without a word");
    Decoded { frames, end: None }
}

fn said(why: &FrameError) -> String {
    let said = why.to_string();
    assert!(said.len() < 500 && !said.contains('\n'), "a line for the log: {said:?}");
    match why {
        // Text that is no protocol's is shown to whoever tries, and kept out of the daemon's log.
        FrameError::NotAHeader(_) | FrameError::CutOff(_) | FrameError::BodyTooLong(_) => {}
        FrameError::HeadersTooLong
        | FrameError::NoContentType
        | FrameError::BadLength(_)
        | FrameError::Io(_) => {
            assert!(!holds_number(&said), "{said}");
        }
    }
    said
}

/// The frames up to the first that is none, and whether all was well: the format read as it is described, slowly.
fn by_second_hand(stream: &[u8]) -> (Vec<(Kind, Vec<u8>)>, bool) {
    let mut frames = Vec::new();
    let mut rest = stream;
    while !rest.is_empty() {
        let Some(end) = (0..rest.len()).find(|at| rest[*at..].starts_with(b"\n\n")) else {
            return (frames, false);
        };
        let (mut kind, mut length) = (None, None);
        for line in rest[..end].split(|byte| *byte == b'\n') {
            let Some(colon) = line.iter().position(|byte| *byte == b':').filter(|at| *at > 0) else {
                // An empty block has no line at all.
                if end == 0 { break } else { return (frames, false) }
            };
            let value = &line[colon + 1..];
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match &line[..colon] {
                b"Content-Type" => kind = kind.or(Some(kind_of(value))),
                b"Content-Length" => {
                    let number: Option<usize> =
                        std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    let plain = number.filter(|_| value.len() <= 9 && value.iter().all(u8::is_ascii_digit));
                    if plain.is_none() || length.is_some_and(|known| Some(known) != plain) {
                        return (frames, false);
                    }
                    length = plain;
                }
                _ => {}
            }
        }
        let body = &rest[end + 2..];
        let length = length.unwrap_or_default();
        let Some(kind) = kind.filter(|_| end <= HEADERS_MAX && length <= BODY_MAX && length <= body.len())
        else {
            return (frames, false);
        };
        frames.push((kind, body[..length].to_vec()));
        rest = &body[length..];
    }
    (frames, true)
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
