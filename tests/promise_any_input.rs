//! Whatever bytes come, from the switch, from Zammad, from the operator or from the disk: no crash, no hang, no guess,
//! and nothing in a message that does not belong there.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../fuzz/checks/mod.rs"]
mod checks;
mod common;

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::Index;

/// A way in which bytes get damaged.
#[derive(Clone, Debug)]
enum Damage {
    Flip(Index, u8),
    Cut(Index, usize),
    Insert(Index, Vec<u8>),
    Repeat(Index, usize),
    End(Index),
}

impl Damage {
    fn any(longest: usize) -> impl Strategy<Value = Self> {
        let at = any::<Index>;
        let bytes = prop::collection::vec(any::<u8>(), 1..=longest);
        prop_oneof![
            4 => (at(), 1..=u8::MAX).prop_map(|(at, bits)| Self::Flip(at, bits)),
            2 => (at(), 1..=longest).prop_map(|(at, count)| Self::Cut(at, count)),
            2 => (at(), bytes).prop_map(|(at, bytes)| Self::Insert(at, bytes)),
            2 => (at(), 1..=longest).prop_map(|(at, count)| Self::Repeat(at, count)),
            1 => at().prop_map(Self::End),
        ]
    }

    fn done_to(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let piece = |at: &Index, count: usize| {
            let start = at.index(bytes.len());
            start..bytes.len().min(start + count)
        };
        match self {
            Self::Flip(at, bits) => *at.get_mut(bytes) ^= bits,
            Self::Cut(at, count) => drop(bytes.drain(piece(at, *count))),
            Self::Insert(at, more) => {
                let start = at.index(bytes.len());
                bytes.splice(start..start, more.iter().copied());
            }
            Self::Repeat(at, count) => {
                let again = piece(at, *count);
                let (end, again) = (again.end, bytes[again].to_vec());
                bytes.splice(end..end, again);
            }
            Self::End(at) => bytes.truncate(at.index(bytes.len())),
        }
    }
}

fn damages(longest: usize) -> impl Strategy<Value = Vec<Damage>> {
    prop::collection::vec(Damage::any(longest), 1..5)
}

fn damaged(bytes: &[u8], damages: &[Damage]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    damages.iter().for_each(|damage| damage.done_to(&mut bytes));
    bytes
}

/// Must hold of every input there is.
mod invariants {
    use bytes::BytesMut;
    use freeswitch_zammad::config::{Config, Environment, Overrides};
    use freeswitch_zammad::esl::event::Event;
    use freeswitch_zammad::esl::frame::{Frame, FrameDecoder, Kind};
    use freeswitch_zammad::esl::session::{Login, Output, Session};
    use freeswitch_zammad::time::UnixMillis;
    use tokio_util::codec::Decoder;

    use super::*;

    /// Inputs of each target, to begin from.
    static KEPT: LazyLock<Vec<Vec<Vec<u8>>>> = LazyLock::new(|| {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        let read = |target: &str| -> Vec<Vec<u8>> {
            let mut paths: Vec<_> =
                fs::read_dir(corpus.join(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
            paths.sort();
            assert!(!paths.is_empty(), "no inputs for {target}");
            paths.iter().map(|path| fs::read(path).unwrap()).collect()
        };
        checks::ALL.iter().map(|(target, _)| read(target)).collect()
    });

    static RECORDINGS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
        // Some short ones: each is read many times.
        let all = common::recordings("captures").into_iter().map(|(_, bytes)| bytes);
        let mut all: Vec<Vec<u8>> = all.filter(|bytes| bytes.len() < 150_000).collect();
        all.truncate(12);
        assert_eq!(all.len(), 12);
        all
    });

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_survived_by_every_parser(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            for (_, check) in checks::ALL {
                check(&bytes);
            }
        }

        #[test]
        fn what_was_right_once_may_be_damaged_anyhow(picked: Index, damages in damages(40)) {
            for ((_, check), kept) in checks::ALL.iter().zip(KEPT.iter()) {
                check(&damaged(&kept[picked.index(kept.len())], &damages));
            }
        }

        #[test]
        fn an_error_in_a_configuration_never_repeats_a_secret(
            password in "[a-zA-Z0-9]{12}", token in "[a-zA-Z0-9]{12}", rest in "[a-zA-Z0-9]{12}", damages in damages(3),
        ) {
            let text = format!(
                "country = \"DE\"\n[[switch]]\naddress = \"127.0.0.1:8021\"\npassword = \"{password}\"\nuser = \"a@b\"\n\n\
                 [[zammad]]\nname = \"main\"\nurl = \"https://z.test/api/v1/cti/{token}\"\nrest_token = \"{rest}\"\ntimeout_s = 10\n"
            );
            let text = String::from_utf8_lossy(&damaged(text.as_bytes(), &damages)).into_owned();
            let none = (Overrides::default(), Environment::default());
            let judged = Config::judge(&text, Path::new("config.toml"), &none.0, &none.1);
            for secret in [password, token, rest] {
                let shown = match &judged {
                    Ok(loaded) => format!("{loaded:?}"),
                    Err(error) => format!("{error} {error:?}"),
                };
                prop_assert!(!shown.contains(&secret), "{secret} of\n{text}\nin {shown}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_damaged_stream_is_cut_the_same_in_any_pieces(
            picked: Index, sizes in prop::collection::vec(1_usize..5000, 1..6), damages in damages(100),
        ) {
            let stream = damaged(recording(picked), &damages);
            checks::frame::pieces_make_no_difference(&stream, &sizes);
        }

        /// Names, numbers, anything between a colon and the end of its line.
        #[test]
        fn a_damaged_value_damages_only_itself(picked: Index, event: Index, line: Index, put: Vec<u8>, fill: u8) {
            let bytes = recording(picked);
            let before = events(bytes);
            let at = event.index(before.len());
            let (start, end) = value_of(bytes, at, line);
            let mut stream = bytes.to_vec();
            for (to, from) in stream[start..end].iter_mut().zip(put.iter().chain(std::iter::repeat(&fill))) {
                *to = if *from == b'\n' { b' ' } else { *from };
            }
            let after = events(&stream);
            prop_assert_eq!(after.len(), before.len());
            for (number, (was, is)) in before.iter().zip(&after).enumerate() {
                let other = |name: &&&str| was.get(name) != is.get(name);
                let changed = freeswitch_zammad::call::HEADERS.iter().filter(other).count();
                prop_assert!(changed <= usize::from(number == at), "{changed} headers of event {number}, not {at}");
            }
        }

        /// Any byte of an event, line feeds too: its frame's length still holds.
        #[test]
        fn a_damaged_event_is_skipped_at_most_and_the_next_is_heard(
            picked: Index, event: Index, byte: Index, flip in 1..=u8::MAX,
        ) {
            let bytes = recording(picked);
            let before = heard(bytes);
            let (start, end) = spans(bytes)[event.index(before.len())];
            let mut stream = bytes.to_vec();
            stream[start + byte.index(end - start)] ^= flip;
            let after = heard(&stream);
            prop_assert_eq!(after.len(), before.len(), "one output for each event");
            let differ = before.iter().zip(&after).filter(|(was, is)| was != is).count();
            prop_assert!(differ <= 1, "{differ} events differ");
        }
    }

    fn recording(picked: Index) -> &'static [u8] {
        &RECORDINGS[picked.index(RECORDINGS.len())]
    }

    fn frames(bytes: &[u8]) -> Vec<Frame> {
        let mut buffer = BytesMut::from(bytes);
        let mut decoder = FrameDecoder::default();
        let mut frames = Vec::new();
        while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
            frames.push(frame);
        }
        assert!(!frames.is_empty());
        frames
    }

    fn events(bytes: &[u8]) -> Vec<Event> {
        let all = frames(bytes);
        all.iter()
            .filter(|frame| frame.kind == Kind::EventPlain)
            .map(|frame| Event::parse(&frame.body).unwrap())
            .collect()
    }

    /// What a session makes of the events: each whole, or skipped.
    fn heard(bytes: &[u8]) -> Vec<Option<Vec<u8>>> {
        let login = Login { user: None, password: "x".into() };
        let mut session = Session::new(login, std::time::Duration::from_secs(65), UnixMillis(0));
        let mut heard = Vec::new();
        for frame in frames(bytes).into_iter().filter(|frame| frame.kind == Kind::EventPlain) {
            let body = frame.body.to_vec();
            session.handle_frame(frame, UnixMillis(0));
            match session.poll_output() {
                Some(Output::Event(_)) => heard.push(Some(body)),
                Some(Output::Skipped(_)) => heard.push(None),
                other => panic!("{other:?}"),
            }
        }
        heard
    }

    /// Where the body of each event lies in a recording, which holds other frames too.
    fn spans(bytes: &[u8]) -> Vec<(usize, usize)> {
        let mut spans = Vec::new();
        let mut from = 0;
        for frame in frames(bytes) {
            let head = (from..).find(|at| bytes[*at..].starts_with(b"\n\n")).unwrap() + 2;
            from = head + frame.body.len();
            if frame.kind == Kind::EventPlain {
                spans.push((head, from));
            }
        }
        spans
    }

    /// Where a value of an event lies that only tells something: not its name, not its length.
    fn value_of(bytes: &[u8], event: usize, line: Index) -> (usize, usize) {
        let (start, end) = spans(bytes)[event];
        let mut values = Vec::new();
        let mut at = start;
        for text in bytes[start..end].split(|byte| *byte == b'\n') {
            let colon = text.windows(2).position(|two| two == b": ");
            if let Some(colon) =
                colon.filter(|_| !text.starts_with(b"Event-Name") && !text.starts_with(b"Content-L"))
            {
                values.push((at + colon + 2, at + text.len()));
            }
            at += text.len() + 1;
        }
        *line.get(&values)
    }
}

/// Inputs that broke a promise once. More of them, with what they are about in their name, are kept among the
/// fuzzers' inputs.
mod known_errors {
    use std::sync::Arc;
    use std::time::Duration;

    use freeswitch_zammad::call::tracker::Tracker;
    use freeswitch_zammad::store::state;
    use freeswitch_zammad::time::UnixMillis;

    use super::common::stream::settings;

    /// Two legs of one key, two calls of one id: what was to be forgotten was looked for, not found, and looked for.
    #[test]
    fn state_that_says_a_thing_twice_is_lived_with() {
        let leg = |ended: u64| {
            format!(
                r#"{{"key":1,"id":"a","core":null,"originator":null,"twin":null,"side":"ours","inbound":true,"created_ms":1,"mailbox":false,"number":"1","domain":null,"dialled":null,"answered":false,"peer":null,"room":null,"party_of":null,"calls_inside":null,"within":null,"ended_ms":{ended}}}"#
            )
        };
        let call = |ends: u64| {
            format!(
                r#"{{"id":"c","out":true,"from":"1","to":"2","dialler":null,"parties":[],"answered_by":[],"last_answer":null,"tried":null,"ends_at_ms":{ends},"failed":null,"gave_up":false}}"#
            )
        };
        let value = format!(r#"{{"legs":[{},{}],"calls":[{},{}]}}"#, leg(1), leg(2), call(3), call(4));
        let mut tracker = Tracker::new(Arc::new(settings()));
        let (_, (family, legs, calls)) = state::decode("main/1", value.as_bytes()).unwrap();
        tracker.restore(family, legs, calls);
        let now = UnixMillis(0).after(Duration::from_secs(86_400));
        tracker.handle_timeout(now);
        assert_eq!((tracker.legs(), tracker.open_calls(), tracker.poll_timeout()), (0, 0, None));
    }

    /// It is logged, and what stands where something else was expected is a number.
    #[test]
    fn state_that_cannot_be_read_is_told_by_its_place_alone() {
        let value = br#"{"legs":[{"key":"4915112345678"}],"calls":[]}"#;
        let why = state::decode("main/1", value).unwrap_err();
        assert_eq!(why.to_string(), "not the expected shape at byte 31");
    }

    /// The switch is asked for legs by their ids: of two that lived by one, the older would have lived for ever.
    #[test]
    fn state_with_a_leg_that_its_id_does_not_lead_to_is_refused() {
        let leg = |key: u64, ended: &str| {
            format!(
                r#"{{"key":{key},"id":"a","core":null,"originator":null,"twin":null,"side":"ours","inbound":true,"created_ms":1,"mailbox":false,"number":"1","domain":null,"dialled":null,"answered":false,"peer":null,"room":null,"party_of":null,"calls_inside":null,"within":null,"ended_ms":{ended}}}"#
            )
        };
        let read = |legs: [String; 2]| {
            let value = format!(r#"{{"legs":[{}],"calls":[]}}"#, legs.join(","));
            state::decode("main/1", value.as_bytes()).map_err(|why| why.to_string())
        };
        let why = "a leg that goes on has the id of a later one";
        assert_eq!(read([leg(1, "null"), leg(2, "2")]).unwrap_err(), why);
        assert_eq!(read([leg(2, "null"), leg(1, "null")]).unwrap_err(), why);
        // An id may come back.
        assert!(read([leg(1, "2"), leg(2, "null")]).is_ok());
    }

    /// The next leg's key would have been none.
    #[test]
    fn state_with_a_key_beyond_counting_is_refused() {
        let value = |key: u64| {
            format!(
                r#"{{"legs":[{{"key":{key},"id":"a","core":null,"originator":null,"twin":null,"side":"ours","inbound":true,"created_ms":1,"mailbox":false,"number":"1","domain":null,"dialled":null,"answered":false,"peer":null,"room":null,"party_of":null,"calls_inside":null,"within":null,"ended_ms":null}}],"calls":[]}}"#
            )
        };
        assert!(state::decode("main/1", value(1).as_bytes()).is_ok());
        let why = state::decode("main/1", value(u64::MAX).as_bytes()).unwrap_err();
        assert_eq!(why.to_string(), "the key of a leg is beyond all counting");
    }
}
