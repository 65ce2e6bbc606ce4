//! What is fed: the recorded events, as a switch sends them to who subscribes as the daemon does, and what its call
//! tracker makes of them.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use freeswitch_zammad::call::cause::Table;
use freeswitch_zammad::call::number::Country;
use freeswitch_zammad::call::people::People;
use freeswitch_zammad::call::tracker::{News, Output, Settings, Tracker};
use freeswitch_zammad::edge::clock;
use freeswitch_zammad::esl::command::SUBSCRIPTION;
use freeswitch_zammad::esl::event::Event;
use freeswitch_zammad::sim::recording::Recording;
use freeswitch_zammad::store::row::Row;
use freeswitch_zammad::store::{Accepting, Limits, Pending, Seq, StateChange, state};

/// A plain call: it comes in, a phone takes it, it is hung up.
pub(crate) const PLAIN: &str = "in_answered_caller_hangs_up";

/// Every recording, in the order of their names, without the events that the daemon does not subscribe to.
pub(crate) fn recordings() -> Vec<Recording> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(captures())
        .expect("the recordings lie in the repository")
        .map(|entry| entry.expect("a directory that can be read").path())
        .filter(|path| path.to_string_lossy().ends_with(".esl.gz"))
        .collect();
    paths.sort();
    assert!(paths.len() > 50, "{} recordings", paths.len());
    paths.iter().map(|path| read(path)).collect()
}

/// One of them.
pub(crate) fn recording(name: &str) -> Recording {
    read(&captures().join(format!("{name}.esl.gz")))
}

fn captures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/captures")
}

fn read(path: &Path) -> Recording {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).expect("a recording of the repository");
    flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).expect("a recording is compressed");
    let all = Recording::parse(&bytes).expect("a recording of an event socket");
    let names: Vec<&str> = SUBSCRIPTION.split_whitespace().skip(2).filter(|n| *n != "CUSTOM").collect();
    all.only(&names)
}

/// The events of some recordings as they come from the wire.
pub(crate) fn stream(recordings: &[Recording]) -> (Bytes, usize) {
    let mut bytes = BytesMut::new();
    let mut events = 0;
    for event in recordings.iter().flat_map(|r| r.events()) {
        bytes.extend_from_slice(event.frame());
        events += 1;
    }
    (bytes.freeze(), events)
}

/// The events of a recording, parsed.
pub(crate) fn parsed(recording: &Recording) -> Vec<Event> {
    let bodies = recording.events().iter().map(|event| Bytes::copy_from_slice(event.body()));
    bodies.map(|body| Event::parse(&body).expect("a recorded event")).collect()
}

/// The daemon's own tracker, as it is without a configuration, explaining as the daemon's does.
pub(crate) fn tracker() -> Tracker {
    let mut tracker = Tracker::new(Arc::new(Settings {
        country: Country::DEFAULT,
        rules: vec![],
        causes: Table::new(HashMap::default()),
        people: People::new(HashMap::default(), HashMap::default()),
        routes: vec![],
        internal: false,
    }));
    tracker.explain();
    tracker
}

/// Takes out what came of an event, as the intake does.
pub(crate) fn take(tracker: &mut Tracker) -> Accepting {
    let mut accepting = Accepting::default();
    while let Some(output) = tracker.poll_output() {
        if let Output::News(news) = output {
            accepting.events.push(pending(news));
        }
    }
    while let Some((family, value)) = tracker.poll_changed() {
        let value = value.map(|(legs, calls)| state::encode(&legs, &calls));
        accepting.state.push(StateChange { key: state::key("pbx", family), value });
    }
    accepting
}

fn pending(news: News) -> Pending {
    Pending {
        id: news.id,
        zammad: "main".into(),
        switch: "pbx".into(),
        event: news.event,
        happened: news.at,
        answered: news.answered,
        attempt: None,
        held: false,
        restored: false,
    }
}

/// What there is to accept of the plain call, each piece with one event; `calls` times, each time another call.
pub(crate) fn accepted(calls: usize, prefix: &str) -> Vec<Accepting> {
    let plain = recording(PLAIN);
    let mut tracker = tracker();
    let mut all = Vec::new();
    for call in 0..calls {
        for event in parsed(&plain.renamed(&format!("{prefix}{call}"))) {
            tracker.handle_event(&event, clock::now());
            let accepting = take(&mut tracker);
            if accepting.events.len() == 1 {
                all.push(accepting);
            }
        }
    }
    all
}

/// The same events and states without a store around them: what somebody who appends to a file would write.
pub(crate) fn raw(accepting: &Accepting) -> Vec<u8> {
    let mut bytes = Vec::new();
    for event in &accepting.events {
        bytes.extend_from_slice(&Row::Pending(event.clone()).sealed(Seq(1)));
    }
    for change in &accepting.state {
        bytes.extend_from_slice(change.key.as_bytes());
        bytes.extend_from_slice(change.value.as_deref().unwrap_or_default());
    }
    bytes
}

/// As the daemon keeps the past without a configuration.
pub(crate) fn limits() -> Limits {
    Limits {
        delivered_max: 100_000,
        delivered_age: Duration::from_secs(72 * 3600),
        dead_max: 10_000,
        dead_age: Duration::from_secs(90 * 24 * 3600),
        swap_bytes: 64 * 1024 * 1024,
        together_above: freeswitch_zammad::store::TOGETHER_ABOVE,
    }
}
