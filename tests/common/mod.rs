//! Reads the recordings that the tests start from.
#![allow(dead_code, reason = "each test is a crate of its own, and not every one needs every helper")]

pub(crate) mod stream;
pub(crate) mod told;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

/// Every `NAME.esl.gz` of `tests/FOLDER`, unpacked, by name. Panics if there is none.
pub(crate) fn recordings(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = tests().join(folder);
    let mut found: Vec<(String, Vec<u8>)> = fs::read_dir(&folder)
        .unwrap_or_else(|why| panic!("{}: {why}", folder.display()))
        .map(|entry| entry.expect("the folder can be read").path())
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?.strip_suffix(".esl.gz")?.to_owned();
            Some((name, unpack(&path)))
        })
        .collect();
    assert!(!found.is_empty(), "no recordings in {}", folder.display());
    found.sort();
    found
}

/// One recording of `tests/FOLDER`, unpacked.
pub(crate) fn recording(folder: &str, name: &str) -> Vec<u8> {
    unpack(&tests().join(folder).join(format!("{name}.esl.gz")))
}

/// What a person watching would say of each recording of `tests/FOLDER`: an object, recording → calls.
pub(crate) fn expected(folder: &str) -> serde_json::Map<String, serde_json::Value> {
    match json(&format!("{folder}/expected.json")) {
        serde_json::Value::Object(all) if !all.is_empty() => all,
        other => panic!("{folder}/expected.json is no full object: {other}"),
    }
}

/// A JSON file below `tests`.
pub(crate) fn json(path: &str) -> serde_json::Value {
    serde_json::from_slice(&bytes(path)).unwrap_or_else(|why| panic!("{path}: {why}"))
}

/// A file below `tests`, as it is.
pub(crate) fn bytes(path: &str) -> Vec<u8> {
    fs::read(tests().join(path)).unwrap_or_else(|why| panic!("{path}: {why}"))
}

fn unpack(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(fs::File::open(path).unwrap_or_else(|why| panic!("{}: {why}", path.display())))
        .read_to_end(&mut bytes)
        .unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    bytes
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// The events in the bytes of a recording.
pub(crate) fn events(bytes: &[u8]) -> Vec<freeswitch_zammad::esl::event::Event> {
    use freeswitch_zammad::esl::frame::{FrameDecoder, Kind};
    use tokio_util::codec::Decoder;

    let mut buffer = bytes::BytesMut::from(bytes);
    let mut decoder = FrameDecoder::default();
    let mut events = Vec::new();
    while let Some(frame) = decoder.decode(&mut buffer).expect("a recording is frames") {
        if frame.kind == Kind::EventPlain {
            let event = freeswitch_zammad::esl::event::Event::parse(&frame.body);
            events.push(event.expect("a recording's frames are events"));
        }
    }
    events
}

/// Whether the daemon asks the switch for events of this kind.
pub(crate) fn is_subscribed(event: &freeswitch_zammad::sim::recording::Event) -> bool {
    let kind = event.header("Event-Subclass").unwrap_or_else(|| event.name().to_owned());
    let mut words = freeswitch_zammad::esl::command::SUBSCRIPTION.split_ascii_whitespace();
    words.any(|word| word == kind)
}
