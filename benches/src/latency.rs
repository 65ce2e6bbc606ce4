//! From the last byte of an event on the socket to the first of its POST, one call at a time, beside one append and
//! `fdatasync`.

use std::time::Duration;

use freeswitch_zammad::edge::clock;
use freeswitch_zammad::sim::recording::Recording;
use freeswitch_zammad::sim::switch::{Settings, Switch};
use tempfile::TempDir;

use crate::child::Daemon;
use crate::measure::{Row, Sample, Size};
use crate::server::Zammad;
use crate::{corpus, disk};

const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run(size: Size) -> Vec<Row> {
    let mut road = Road::new("");
    let mut log = disk::Log::new(road.dir.path());
    let (mut ours, mut sync) = (Sample::default(), Sample::default());
    let bytes = corpus::accepted(1, "bytes").iter().map(corpus::raw).next().expect("a call begins");
    for _ in 0..size.of(600, 10) {
        sync.add(log.append(&bytes).as_secs_f64() * 1e3);
        ours.add(road.call());
    }
    let (p50, p99) = (ours.median() - sync.median(), ours.at(0.99) - sync.at(0.99));
    vec![Row {
        what: "event on the socket → POST begins, one call",
        against: "one append + fdatasync",
        goal: "p50 ≤ +1 ms; p99 ≤ +5 ms".into(),
        result: format!(
            "p50 {p50:+.2} ms, p99 {p99:+.2} ms (fdatasync p50 {:.2}, p99 {:.2})",
            sync.median(),
            sync.at(0.99)
        ),
        met: Some(p50 <= 1.0 && p99 <= 5.0),
    }]
}

/// A daemon between a switch and a Zammad.
pub(crate) struct Road {
    runtime: tokio::runtime::Runtime,
    switch: Switch,
    zammad: Zammad,
    plain: Recording,
    calls: u64,
    told: u64,
    _daemon: Daemon,
    dir: TempDir,
}

impl Road {
    /// `delivery` is as in [`Daemon::start`].
    pub(crate) fn new(delivery: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let dir = disk::dir();
        let zammad = Zammad::start(Duration::ZERO, true);
        let switch = runtime.block_on(async { Switch::start(Settings::default()) }).expect("a port");
        let daemon = Daemon::start(dir.path(), switch.addr(), &zammad.url(), delivery);
        runtime.block_on(switch.wait_subscribed());
        let plain = corpus::recording(corpus::PLAIN);
        Self { runtime, switch, zammad, plain, calls: 0, told: 0, _daemon: daemon, dir }
    }

    /// From one call's beginning on the socket to the beginning of its POST, in ms. Returns when it is over.
    pub(crate) fn call(&mut self) -> f64 {
        let Self { switch, zammad, told, .. } = self;
        let _inside = self.runtime.enter();
        self.calls += 1;
        let call = self.plain.renamed(&format!("l{}", self.calls)).with_core_uuid(&switch.core_uuid());
        let mut took = f64::NAN;
        for event in call.events() {
            let begins = event.name() == "CHANNEL_CREATE"
                && event.header("Call-Direction").as_deref() == Some("inbound");
            let begun = clock::monotonic();
            let _ = switch.send(event);
            if begins {
                *told += 1;
                assert!(zammad.wait(*told, PATIENCE), "a call is told");
                let posted = zammad.take_begun()[0];
                took = posted.saturating_duration_since(begun).as_secs_f64() * 1e3;
            }
        }
        *told += 2;
        assert!(zammad.wait(*told, PATIENCE), "it is answered and ends");
        zammad.take_begun();
        // Its being delivered is written too, and is not what the next one is measured against.
        std::thread::sleep(Duration::from_millis(20));
        took
    }
}
