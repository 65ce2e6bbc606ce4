//! The recordings that the stand-in for a switch plays. An input is such a file.

use std::time::Duration;

use bytes::BytesMut;
use freeswitch_zammad::call::HEADERS;
use freeswitch_zammad::esl::event::Event;
use freeswitch_zammad::esl::frame::{FrameDecoder, Kind};
use freeswitch_zammad::sim::recording::Recording;
use tokio_util::codec::Decoder;

pub(crate) fn check(input: &[u8]) {
    let recording = match Recording::parse(input) {
        Ok(recording) => recording,
        Err(why) => {
            assert!(why.at <= input.len() && !why.to_string().contains('\n'));
            return;
        }
    };
    frames_again(&recording);
    let count = recording.events().len();
    let (head, tail) = recording.split_at(count / 2);
    assert_eq!(head.events().len() + tail.events().len(), count);
    assert_eq!([head.to_bytes(), tail.to_bytes()].concat(), recording.to_bytes());
    let changed = [
        recording.renamed("7"),
        recording.later(Duration::from_secs(86_400)),
        recording.with_core_uuid("another-run"),
        recording.trimmed(&HEADERS),
    ];
    for changed in changed {
        assert_eq!(changed.events().len(), count, "a changed recording has the same events");
        frames_again(&changed);
    }
    assert_eq!(recording.renamed("7"), recording.renamed("7"));
    let names: Vec<&str> = recording.events().iter().map(|event| event.name()).collect();
    assert_eq!(recording.only(&names), recording);
}

/// What it holds is what the daemon would hear: the same events from the same bytes.
fn frames_again(recording: &Recording) {
    let bytes = recording.to_bytes();
    assert_eq!(Recording::parse(&bytes).as_ref(), Ok(recording));
    let mut buffer = BytesMut::from(&bytes[..]);
    let mut decoder = FrameDecoder::default();
    for event in recording.events() {
        let frame = decoder.decode_eof(&mut buffer).expect("a frame").expect("as many as there are events");
        assert_eq!((frame.kind, &frame.body[..]), (Kind::EventPlain, event.body()));
        if let Ok(heard) = Event::parse(&frame.body) {
            for name in ["Event-Name", "Unique-ID", "Core-UUID"] {
                assert_eq!(event.header(name), heard.get(name).map(|value| value.into_owned()), "{name}");
            }
        }
    }
    assert!(buffer.is_empty());
}
