//! At INFO the daemon's log holds no telephone number, no token and no password, whatever comes by.
//! Alone in its file: the subscriber is the whole process's.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
#[path = "common/road.rs"]
mod road;

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::{Arc, Mutex};

use freeswitch_zammad::sim::switch::Disconnect;
use freeswitch_zammad::sim::zammad::{Answer, Fault};
use road::{Road, drained, renamed, until, within};
use tracing_subscriber::fmt::MakeWriter;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn no_number_and_no_secret_is_logged() {
    let lines = Lines::default();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_ansi(false)
        .with_writer(lines.clone())
        .init();
    let mut road = Road::new();
    let daemon = road.daemon().await;
    // Some events are refused, some answers break off, some are redirected: what is said of each is logged.
    let refused = Answer::json(422, r#"{"error":"no such thing"}"#);
    let elsewhere = Answer::redirect(301, &road.zammad.url());
    road.zammad.set_faults([Fault::none(), Fault::answer_instead(refused), Fault::reset_after()]);
    let mut told = BTreeSet::new();
    for folder in ["captures", "captures-fusionpbx"] {
        for (name, bytes) in common::recordings(folder) {
            road.play(&renamed(&road.switch, &bytes, &name)).await;
        }
        // Not only in numbers: whoever is called, and whoever calls.
        for call in common::expected(folder).values().flat_map(|calls| calls.as_array().unwrap()) {
            told.extend(["from", "to"].iter().filter_map(|key| call[*key].as_str()).map(str::to_owned));
        }
    }
    drained(daemon.store()).await;
    road.zammad.set_faults([Fault::answer_instead(elsewhere)]);
    let bytes = common::recording("captures", "in_caller_cancels");
    let (before, after) = renamed(&road.switch, &bytes, "last").split_at(4);
    road.play(&before).await;
    let link = daemon.live().switches[0].2.clone();
    until("Zammad needs a person", || lines_of(&lines).contains("takes no events until")).await;
    road.switch.send_raw(b"Caller-Caller-ID-Number%3A%204915112345678\n\n");
    until("the link is lost", || link.borrow().losses == 1).await;
    within("it is back", road.switch.wait_subscribed()).await;
    road.play(&after).await;
    road.switch.drop_connections(Disconnect::Reset).await;
    road.zammad.stop().await;
    daemon.stop().await.unwrap();

    let log = lines_of(&lines);
    assert!(log.lines().count() > 6, "{log}");
    let long = |number: &&String| number.len() > 6;
    assert!(told.iter().filter(long).count() > 20);
    for number in told.iter().filter(long) {
        assert!(!log.contains(number.trim_start_matches("49")), "{number} in:\n{log}");
    }
    for secret in ["ClueCon", "sim-token", "15112345678"] {
        assert!(!log.contains(secret), "{secret} in:\n{log}");
    }
}

fn lines_of(lines: &Lines) -> String {
    String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
}
