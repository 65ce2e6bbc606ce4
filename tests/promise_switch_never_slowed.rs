//! The switch is never slowed, and whatever it or the way to it does, the stream is read up to that point and begun
//! anew behind it: cut anywhere, flooded, malformed, out of step, deaf.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/road.rs"]
mod road;
#[path = "common/wire.rs"]
mod wire;

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use common::stream::settings;
use freeswitch_zammad::call::{
    self,
    tracker::{FAILOVER_MAX, Tracker},
};
use freeswitch_zammad::edge::clock;
use freeswitch_zammad::edge::control::{self, Request};
use freeswitch_zammad::edge::listener::{self, Ask, Heard, LinkState, What};
use freeswitch_zammad::edge::pulse::Pulse;
use freeswitch_zammad::esl::event::Event;
use freeswitch_zammad::esl::frame::{BODY_MAX, FrameDecoder, FrameError, HEADERS_MAX};
use freeswitch_zammad::esl::session::{Fault, Login, Output, Session};
use freeswitch_zammad::sim::recording::Recording;
use freeswitch_zammad::sim::switch::{Settings, Switch};
use freeswitch_zammad::sim::zammad::{self, Zammad};
use freeswitch_zammad::time::UnixMillis;
use program::{PASSWORD, Program, TOKEN, flags};
use road::{until, within};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::codec::Decoder;
use tokio_util::sync::CancellationToken;
use wire::{NO_CHANNEL, PROMPT, Talk, Wire};

/// A listener alone: the test stands where the switch is, and where the intake is.
struct Listener {
    heard: mpsc::Receiver<Heard>,
    ask: mpsc::Sender<Ask>,
    link: watch::Receiver<LinkState>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Fault>>,
}

impl Listener {
    fn start(address: String, room: usize) -> Self {
        let (intake, heard) = mpsc::channel(room);
        let (ask, asked) = mpsc::channel(64);
        let (state, link) = watch::channel(LinkState::new(clock::now()));
        let stop = CancellationToken::new();
        let settings = listener::Settings {
            name: "main".into(),
            address,
            login: Login { user: None, password: "ClueCon".into() },
            heartbeat_timeout: Duration::from_secs(65),
        };
        let beat = Pulse::default().join("this listener");
        let task = tokio::spawn(listener::run(
            watch::channel(settings).1,
            0,
            intake,
            asked,
            state,
            beat,
            stop.clone(),
        ));
        Self { heard, ask, link, stop, task }
    }

    async fn next(&mut self) -> What {
        within("the listener tells something", self.heard.recv()).await.unwrap().what
    }

    /// How many events come before anything else does; and that.
    async fn events(&mut self) -> (usize, What) {
        let mut count = 0;
        loop {
            match self.next().await {
                What::Event(_) => count += 1,
                what @ (What::Listening
                | What::Channels(_)
                | What::Leg(_)
                | What::Gone(_)
                | What::Refused { .. }
                | What::Missed(_)
                | What::Synced) => return (count, what),
            }
        }
    }

    fn losses(&self) -> u64 {
        self.link.borrow().losses
    }

    async fn stop(self) {
        self.stop.cancel();
        drop(self.heard);
        within("it stops", self.task).await.unwrap().unwrap();
    }
}

/// What goes over the wire for one call: a few events, all that are subscribed.
fn call() -> Recording {
    let whole = Recording::parse(&common::recording("captures", "in_caller_cancels")).unwrap();
    let mut names: Vec<&str> =
        whole.events().iter().filter(|e| common::is_subscribed(e)).map(|e| e.name()).collect();
    names.dedup();
    whole.only(&names)
}

#[tokio::test]
async fn a_link_cut_anywhere_is_read_up_to_there() {
    let wire = Wire::listen();
    let mut listener = Listener::start(wire.addr(), 64);
    let call = call();
    let (stream, ends) = (call.to_bytes(), ends(&call));
    // Around each frame's beginning and its end, and in between.
    let mut cuts: Vec<usize> = ends.iter().flat_map(|end| [end.saturating_sub(1), *end, end + 1]).collect();
    cuts.extend([1, 40, stream.len() / 2]);
    cuts.retain(|cut| *cut <= stream.len());
    cuts.sort_unstable();
    cuts.dedup();
    for (round, cut) in cuts.iter().enumerate() {
        let mut talk = within("it comes back", wire.subscribed()).await;
        assert!(matches!(listener.next().await, What::Listening));
        talk.say(&stream[..*cut]).await;
        talk.close().await;
        let (heard, then) = listener.events().await;
        assert!(matches!(then, What::Synced), "{then:?}");
        assert_eq!(heard, ends.iter().filter(|end| **end <= *cut).count(), "cut at {cut}");
        until("the loss is counted", || listener.losses() == round as u64 + 1).await;
        let whole = *cut == 0 || ends.contains(cut);
        let said = if whole { "ended without a word" } else { "ended inside a frame" };
        assert!(listener.link.borrow().why.contains(said), "{}", listener.link.borrow().why);
    }
    listener.stop().await;
}

/// Through decoder, session and model; through the listener above it is every frame's edges. Behind the cut the switch
/// knows none of the legs any more: whatever began is told as over, once. (`call_gaps` has those that go on.)
#[test]
fn a_stream_cut_at_any_byte_is_decoded_up_to_there_and_its_call_ends() {
    let prelude = format!("{PROMPT}{}{}", wire::ACCEPTED, wire::ENABLED);
    let call = call();
    let stream = [prelude.as_bytes(), &call.to_bytes()].concat();
    let mut ends: Vec<usize> = ends(&call).into_iter().map(|end| prelude.len() + end).collect();
    let fronts = [PROMPT, wire::ACCEPTED, wire::ENABLED];
    ends.splice(
        0..0,
        fronts.iter().scan(0, |end, front| {
            *end += front.len();
            Some(*end)
        }),
    );
    let (settings, mut before) = (Arc::new(settings()), 0);
    for cut in 0..=stream.len() {
        let login = Login { user: None, password: "ClueCon".into() };
        let mut session = Session::new(login, Duration::from_secs(65), UnixMillis(1));
        let (mut decoder, mut buffer) = (FrameDecoder::default(), BytesMut::from(&stream[..cut]));
        let mut frames = 0;
        let end = loop {
            match decoder.decode_eof(&mut buffer) {
                Ok(Some(frame)) => {
                    frames += 1;
                    session.handle_frame(frame, UnixMillis(1));
                }
                Ok(None) => break None,
                Err(why) => break Some(why),
            }
        };
        assert_eq!(frames, ends.iter().filter(|end| **end <= cut).count(), "cut at {cut}");
        match end {
            None => assert!(cut == 0 || ends.contains(&cut), "cut at {cut}"),
            Some(FrameError::CutOff(left)) => {
                let whole = ends.iter().rev().find(|end| **end <= cut).copied().unwrap_or_default();
                assert_eq!(left, cut - whole, "cut at {cut}");
            }
            Some(why) => panic!("cut at {cut}: {why}"),
        }
        let mut events = Vec::new();
        while let Some(output) = session.poll_output() {
            if let Output::Event(event) = output {
                events.push(event);
            }
        }
        assert_eq!(events.len(), frames.saturating_sub(fronts.len()), "cut at {cut}");
        // As many are the same ones, and are told the same.
        if cut == 0 || events.len() != before {
            let told: &[&str] = if events.is_empty() { &[] } else { &["newCall", "hangup"] };
            assert_eq!(told_to_its_end(&settings, &events), told, "cut at {cut}");
        }
        before = events.len();
    }
    assert!(stream.len() > 20_000);
}

/// What is told of these events when none of their legs is there any more.
fn told_to_its_end(settings: &Arc<call::tracker::Settings>, events: &[Event]) -> Vec<&'static str> {
    let mut tracker = Tracker::new(Arc::clone(settings));
    events.iter().for_each(|event| tracker.handle_event(event, UnixMillis(1)));
    let legs: Vec<String> = tracker.live_legs().map(str::to_owned).collect();
    for leg in legs {
        tracker.vanished(&leg, UnixMillis(2));
    }
    tracker.handle_timeout(UnixMillis(2).after(FAILOVER_MAX));
    let mut told = Vec::new();
    while let Some(output) = tracker.poll_output() {
        match output {
            call::tracker::Output::News(news) => told.push(news.event.what.name()),
            call::tracker::Output::UnknownCause(_) | call::tracker::Output::Note { .. } => {}
        }
    }
    told
}

#[tokio::test]
async fn a_listener_slower_than_the_switch_loses_nothing_and_counts_its_waits() {
    const EVENTS: usize = 3_000;
    let wire = Wire::listen();
    let mut listener = Listener::start(wire.addr(), 4);
    let mut talk = wire.subscribed().await;
    let frame = call().events()[0].frame().clone();
    let writing = tokio::spawn(async move {
        for _ in 0..EVENTS {
            talk.say(&frame).await;
        }
        talk
    });
    // Nobody takes anything: the switch is held up by TCP, once all buffers are full.
    until("it waits", || listener.link.borrow().waits > 0).await;
    let before = listener.link.borrow().events;
    assert!(before < 10, "{before} events have no room");
    assert!(matches!(listener.next().await, What::Listening));
    let mut heard = 0;
    while heard < EVENTS {
        match listener.next().await {
            What::Event(_) => heard += 1,
            What::Listening
            | What::Channels(_)
            | What::Leg(_)
            | What::Gone(_)
            | What::Refused { .. }
            | What::Missed(_)
            | What::Synced => panic!("nothing was answered"),
        }
    }
    assert_eq!((listener.losses(), listener.link.borrow().events), (0, EVENTS as u64));
    drop(writing.await.unwrap());
    listener.stop().await;
}

/// A hundred thousand events are what FreeSWITCH keeps for a listener that does not read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_read_whole_in_bounded_memory() {
    const EVENTS: u64 = 100_000;
    const CALLS: usize = 200;
    /// Some 10 kB for each of the 4,096 events that may wait for the intake and the 10,000 that wait for a resync; the
    /// flood itself is 700 MB.
    const GROWTH_MAX_KB: u64 = 150 * 1024;
    let switch = Settings { password: PASSWORD.into(), ..Settings::default() };
    let switch = Switch::start(switch).unwrap();
    let zammad =
        Zammad::start(zammad::Settings { token: TOKEN.into(), ..zammad::Settings::default() }).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (url, address) = (zammad.url(), switch.addr().to_string());
    let program = Program::start(&[&["run"], &flags(&url, &address, dir.path())[..]].concat(), &[]);
    within("it subscribes", switch.wait_subscribed()).await;
    let call = call().with_core_uuid(&switch.core_uuid());
    let mut sent = 0;
    // Each call comes again and again: a leg that is over is heard of, and nothing more is told.
    let calls: Vec<Recording> = (0..CALLS).map(|n| call.renamed(&format!("flood{n}"))).collect();
    let before = program.memory_max_kb();
    'flood: loop {
        for event in calls.iter().flat_map(Recording::events) {
            sent += switch.send(event).len() as u64;
            if sent == EVENTS {
                break 'flood;
            }
        }
    }
    let mut handled = 0;
    let all = async {
        while handled < EVENTS {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let said = control::ask(dir.path(), &Request::Status).await;
            let status = said.ok().flatten().and_then(|mut said| said.pop()).unwrap_or_default();
            handled = status["calls"]["events_handled"].as_u64().unwrap_or_default();
        }
    };
    tokio::time::timeout(Duration::from_secs(120), all).await.unwrap();
    let growth = program.memory_max_kb() - before;
    assert!(growth < GROWTH_MAX_KB, "{growth} kB");
    assert_eq!(switch.connections().len(), 1, "it was not lost on the way");
    within(
        "each call is told",
        zammad.wait_until(|rows, _| rows.iter().filter(|r| r.state == "hangup").count() == CALLS),
    )
    .await;
    assert_eq!(zammad.log().len(), CALLS);
    program.signal("TERM");
    assert_eq!(program.end().code, Some(0));
}

#[tokio::test]
async fn questions_never_keep_the_answers_from_being_read() {
    const LEGS: usize = 2_000;
    // It reads one command after the other, answers it, and reads no further while its answer is not taken.
    let wire = Wire::with_buffers(Some(4_096));
    let mut listener = Listener::start(wire.addr(), 16);
    let mut talk = wire.subscribed().await;
    let switch = tokio::spawn(async move {
        let dump =
            format!("Event-Name: CHANNEL_DATA\nUnique-ID: x\nvariable_filler: {}\n\n", "x".repeat(9_000));
        while let Some(command) = talk.command().await {
            if command.starts_with("api show") {
                talk.answer(wire::IDLE).await
            } else {
                talk.answer(&dump).await
            }
        }
    });
    assert!(matches!(listener.next().await, What::Listening));
    let legs = (0..LEGS).map(|n| format!("00000000-0000-4000-8000-{n:012}")).collect();
    assert!(matches!(listener.next().await, What::Channels(_)));
    listener.ask.send(Ask::Legs(legs)).await.unwrap();
    let mut told = 0;
    loop {
        match listener.next().await {
            What::Leg(_) => told += 1,
            What::Synced if told > 0 => break,
            What::Event(_)
            | What::Listening
            | What::Channels(_)
            | What::Gone(_)
            | What::Refused { .. }
            | What::Missed(_)
            | What::Synced => {}
        }
    }
    assert_eq!(told, LEGS);
    listener.stop().await;
    switch.await.unwrap();
}

/// What a real switch does not do, or only now and then; each seen somewhere.
mod known_errors {
    use super::*;

    #[tokio::test]
    async fn a_malformed_frame_is_said_once_without_its_words_and_the_link_begun_anew() {
        const NUMBER: &str = "4915112345678";
        let long = vec![b'x'; HEADERS_MAX + 2];
        let too_long = BODY_MAX + 1;
        let broken: Vec<(Vec<u8>, &str)> = vec![
            (long, "no end of a header block"),
            (format!("{NUMBER} is no header\n\n").into_bytes(), "is no header"),
            (format!("Content-Length: 3\n\n{NUMBER}").into_bytes(), "without Content-Type"),
            (
                format!("Content-Type: text/event-plain\nContent-Length: {NUMBER}x\n\n").into_bytes(),
                "no length",
            ),
            (
                b"Content-Type: text/event-plain\nContent-Length: 1\nContent-Length: 2\n\n".to_vec(),
                "no length",
            ),
            (
                format!("Content-Type: text/event-plain\nContent-Length: {too_long}\n\n").into_bytes(),
                "at most",
            ),
        ];
        let wire = Wire::listen();
        let mut listener = Listener::start(wire.addr(), 64);
        for (round, (bytes, said)) in broken.into_iter().enumerate() {
            let mut talk = within("it comes back", wire.subscribed()).await;
            assert!(matches!(listener.next().await, What::Listening));
            talk.say(call().events()[0].frame()).await;
            talk.say(bytes).await;
            // What came before is not lost.
            assert!(matches!(listener.events().await, (1, What::Synced)));
            until("the loss is counted", || listener.losses() == round as u64 + 1).await;
            let why = listener.link.borrow().why.clone();
            assert!(why.contains(said) && why.contains("reconnecting") && !why.contains(NUMBER), "{why}");
        }
        listener.stop().await;
    }

    #[tokio::test]
    async fn a_malformed_event_is_skipped_and_counted_and_the_stream_goes_on() {
        let bodies =
            ["Core-UUID: x\n\n", "Event-Name: X\nnonsense\n\n", "Event-Name: X\nContent-Length: 9\n\nx", ""];
        let wire = Wire::listen();
        let mut listener = Listener::start(wire.addr(), 64);
        let mut talk = wire.subscribed().await;
        assert!(matches!(listener.next().await, What::Listening));
        for body in bodies {
            talk.say(format!("Content-Length: {}\nContent-Type: text/event-plain\n\n{body}", body.len()))
                .await;
            talk.say(call().events()[0].frame()).await;
        }
        for _ in bodies {
            assert!(matches!(listener.next().await, What::Event(_)));
        }
        let link = listener.link.borrow().clone();
        assert_eq!((link.skipped, link.events, link.losses), (bodies.len() as u64, bodies.len() as u64, 0));
        listener.stop().await;
    }

    #[tokio::test]
    async fn a_second_prompt_is_a_new_conversation_and_begun_as_one() {
        // A real switch asks once for each connection (`protocol/auth_twice`); who asks again is not where it was.
        let wire = Wire::listen();
        let mut listener = Listener::start(wire.addr(), 64);
        let mut talk = wire.accept().await;
        talk.say(PROMPT).await;
        talk.command().await.unwrap();
        talk.say(PROMPT).await;
        let mut first = within("it comes back", wire.subscribed()).await;
        assert!(matches!(listener.next().await, What::Listening));
        let began = tokio::time::Instant::now();
        first.say(call().events()[0].frame()).await;
        first.say(PROMPT).await;
        assert!(matches!(listener.events().await, (1, What::Synced)));
        until("the loss is counted", || listener.losses() == 1).await;
        assert!(listener.link.borrow().why.contains("a second auth/request"));
        let talk = within("it comes back", wire.subscribed()).await;
        assert!(began.elapsed() >= Duration::from_millis(250), "it does not wait");
        assert!(matches!(listener.next().await, What::Listening));
        listener.stop().await;
        drop(talk);
    }

    #[tokio::test]
    async fn what_comes_after_a_notice_that_lingers_is_heard() {
        let wire = Wire::listen();
        let mut listener = Listener::start(wire.addr(), 64);
        let mut talk = wire.subscribed().await;
        assert!(matches!(listener.next().await, What::Listening));
        talk.say("Content-Type: text/disconnect-notice\nControlled-Session-UUID: x\nContent-Disposition: linger\nChannel-Name: y\nLinger-Time: 5\nContent-Length: 0\n\n").await;
        talk.say(call().to_bytes()).await;
        talk.say("Content-Type: text/disconnect-notice\nContent-Length: 67\n\nDisconnected, goodbye.\nSee you at ClueCon! http://www.cluecon.com/\n").await;
        assert!(matches!(listener.events().await, (count, What::Synced) if count == call().events().len()));
        until("the loss is counted", || listener.losses() == 1).await;
        assert!(listener.link.borrow().why.contains("closed the connection"));
        listener.stop().await;
    }

    #[tokio::test]
    async fn what_was_said_before_a_write_failed_is_heard() {
        let wire = Wire::listen();
        let mut listener = Listener::start(wire.addr(), 4);
        let mut talk: Talk = wire.subscribed().await;
        // One more than may wait: it has arrived when the other end is gone and every write fails.
        talk.say(call().to_bytes()).await;
        until("it waits", || listener.link.borrow().waits > 0).await;
        assert_eq!(talk.command().await.unwrap(), "api show channels as json");
        talk.close().await;
        let legs = vec![NO_CHANNEL.trim().replace(['!', '-'], "")];
        for _ in 0..3 {
            listener.ask.send(Ask::Legs(legs.clone())).await.unwrap();
        }
        assert!(matches!(listener.next().await, What::Listening));
        let (count, then) = listener.events().await;
        assert!(matches!(then, What::Synced), "{then:?}");
        assert_eq!(count, call().events().len(), "{}", listener.link.borrow().why);
        listener.stop().await;
    }
}

/// Where each frame ends.
fn ends(recording: &Recording) -> Vec<usize> {
    recording
        .events()
        .iter()
        .scan(0, |end, event| {
            *end += event.frame().len();
            Some(*end)
        })
        .collect()
}
