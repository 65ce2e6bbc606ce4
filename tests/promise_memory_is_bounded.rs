//! Memory, disk, threads and open files do not grow with the calls that were, nor with how often and how long
//! Zammad was away; and every call is told, once. On the built program, with calls a real switch sent, under a clock
//! that runs fast: what is remembered for minutes or an hour must be forgotten within the test.
//!
//! Some thousand calls here. By hand a day of a million:
//!
//! ```text
//! SOAK_CALLS=1000000 SOAK_CYCLES=24 SOAK_NIGHT=120000 SOAK_SPEED=48 SOAK_KEEP_H=72 SOAK_BACKLOG=200000 \
//!     cargo test --release --test promise_memory_is_bounded -- --nocapture --test-threads 1
//! ```
#![allow(clippy::print_stdout, reason = "a long run shows how it goes")]
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod clock;
mod common;
#[path = "common/crowd.rs"]
mod crowd;
#[path = "common/gauge.rs"]
mod gauge;
#[path = "common/program.rs"]
mod program;
#[path = "common/unit.rs"]
mod unit;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crowd::Load;
use freeswitch_zammad::cti::cause::Cause;
use freeswitch_zammad::cti::event::{CallId, Direction, Event, What};
use freeswitch_zammad::edge::control::{self, Request};
use freeswitch_zammad::sim::switch::{self, Switch};
use freeswitch_zammad::sim::zammad::{self, Answer, Fault, Zammad};
use freeswitch_zammad::store::{Accepting, Limits, Pending, Store};
use gauge::{Gauge, Sample, Window, growth};
use program::{PASSWORD, Program, TOKEN};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

const MB: f64 = 1024.0;
/// Events of the switch that may be on their way to the disk: each takes some 10 kB meanwhile, so that many would look
/// like growth while the disk stands still.
const LEAD: u64 = 200;
/// Events that may wait while Zammad is there: more, and the switch pauses.
const WAITING: u64 = 3_000;
/// In each stretch of so many cycles the last one has a long night.
const STRETCH: u64 = 3;
/// Looks again after this.
const LOOK: Duration = Duration::from_millis(5);

mod invariants {
    use super::*;

    /// Cycles of calls while Zammad is there, calls while it is away, and the backlog's delivery.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_grows_with_the_calls_or_the_outages() {
        let cycles = given("SOAK_CYCLES", 9);
        // The calls of a day.
        let day = given("SOAK_CALLS", 2_700) / cycles;
        // Events that wait after a night; a call makes some 2.6.
        let long = given("SOAK_NIGHT", 1_200);
        let (minutes, begun) = (given("SOAK_MINUTES", 24 * 60), Instant::now());
        let mut soak = Soak::new();
        soak.speed = given("SOAK_SPEED", 400);
        soak.start();
        let mut done: Vec<Cycle> = Vec::new();
        println!("{}", Cycle::HEAD);
        for number in 1..=cycles {
            let (start, from) = (Instant::now(), soak.load.calls);
            let night = if number % STRETCH == 0 { long } else { long / 4 };
            soak.goes_away().await;
            soak.calls_until("a backlog", |now| now.waiting >= night).await;
            soak.comes_back().await;
            soak.calls_until("the calls of a day", |now| now.calls >= from + day).await;
            soak.drained().await;
            let cycle = Cycle {
                calls: soak.load.calls,
                night,
                window: soak.gauge().window(),
                rests_at: soak.gauge().now(),
                per_s: (soak.load.calls - from) as f64 / start.elapsed().as_secs_f64(),
            };
            println!("{}", cycle.line(number));
            done.push(cycle);
            if begun.elapsed() > Duration::from_mins(minutes) {
                break;
            }
        }
        soak.all_is_told_once().await;
        println!(
            "{} calls, {} events of the switch in {:.0} s",
            soak.load.calls,
            soak.load.events,
            begun.elapsed().as_secs_f64()
        );
        assert_eq!(growths(&done), [""; 0]);
        soak.stop();
    }

    /// What waits is on disk; and a start does not take longer for it, also after a kill.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_large_backlog_is_not_in_memory_and_does_not_delay_the_start() {
        const START_S: f64 = 10.0;
        let backlog = given("SOAK_BACKLOG", 24_000);
        let mut soak = Soak::new();
        soak.zammad.stop().await;
        let mut took = Vec::new();
        // More than is held in memory of a queue wait in the first round already.
        for waiting in [backlog / 2, backlog] {
            fill(&soak.state_dir(), waiting).await;
            for how in ["TERM", "KILL", "TERM"] {
                let begun = Instant::now();
                soak.start();
                let seconds = begun.elapsed().as_secs_f64();
                soak.until("Zammad is found away", |now| now.away && now.waiting == waiting).await;
                let most = soak.gauge().window().1;
                println!("{waiting} events wait: listening after {seconds:.2} s, {}", line(&most));
                assert_eq!(more("seconds to start", seconds, START_S), None);
                took.push(most.anon as f64);
                soak.end(how);
            }
        }
        assert_eq!(more("memory", took[3], took[0] + 8.0 * MB), None);
        assert_eq!(more("memory after a kill", took[5], took[2] + 8.0 * MB), None);
    }
}

/// The statistics above find what they are for.
mod statistics {
    use super::*;

    #[test]
    fn a_slope_is_seen_and_a_peak_is_not() {
        let line =
            |slope: f64| (0..24).map(|n| (f64::from(n), 100.0 + slope * f64::from(n))).collect::<Vec<_>>();
        assert!((growth(&line(0.5)) - 11.5).abs() < 1e-9);
        let mut peak = line(0.0);
        peak[20].1 = 900.0;
        assert!(growth(&peak).abs() < 1e-9);
    }

    #[test]
    fn what_grows_is_not_flat() {
        let cycle = |n: u64, rss: u64| {
            let sample = Sample { rss, anon: rss, threads: 9, files: 20, db: 8_000, disk: 8_000 };
            Cycle { calls: n * 1_000, night: 0, window: (sample, sample), rests_at: sample, per_s: 1.0 }
        };
        let flat: Vec<Cycle> = (1..=12).map(|n| cycle(n, 50_000 + n % 2 * 500)).collect();
        assert_eq!(growths(&flat), [""; 0]);
        let leaks: Vec<Cycle> = (1..=12).map(|n| cycle(n, 50_000 + n * 2_100)).collect();
        assert!(!growths(&leaks).is_empty());
    }
}

/// One rise and fall of the backlog.
struct Cycle {
    /// Calls since the beginning.
    calls: u64,
    /// Events that waited at most.
    night: u64,
    window: Window,
    /// What it takes when nothing waits any more.
    rests_at: Sample,
    /// Calls in a second.
    per_s: f64,
}

impl Cycle {
    const HEAD: &str = "cycle    calls  waited  RSS min   max  rest MB | anon max MB | db min    max MB | disk max MB | threads | files | calls/s";

    fn line(&self, number: u64) -> String {
        let (least, most) = self.window;
        let mb = |kb: u64| kb as f64 / MB;
        format!(
            "{number:5} {:8} {:7} {:8.1} {:5.1} {:8.1} | {:11.1} | {:6.1} {:6.1} | {:11.1} | {:7} | {:5} | {:.0}",
            self.calls,
            self.night,
            mb(least.rss),
            mb(most.rss),
            mb(self.rests_at.rss),
            mb(most.anon),
            mb(least.db),
            mb(most.db),
            mb(most.disk),
            most.threads,
            most.files,
            self.per_s
        )
    }
}

fn line(sample: &Sample) -> String {
    let mut line = format!("RSS {:.1} MB, anon {:.1} MB", sample.rss as f64 / MB, sample.anon as f64 / MB);
    write!(line, ", db {:.1} MB, {} threads", sample.db as f64 / MB, sample.threads).unwrap();
    line
}

/// What grows. The first third warms up; of the rest the second half may take no more than the first, and what stays
/// when all is delivered may have no slope, but for what the delivered events that are kept take of sled's memory until
/// there are as many as are kept: a short run does not come so far.
fn growths(cycles: &[Cycle]) -> Vec<String> {
    let warm = &cycles[cycles.len() / 3..];
    assert!(warm.len() >= 4, "too few cycles to tell");
    let most = |part: &[Cycle]| part.iter().fold(Sample::default(), |most, cycle| most.max(cycle.window.1));
    let (first, second) = warm.split_at(warm.len() / 2);
    let (first, second) = (most(first), most(second));
    let margin = 8.0 * MB;
    let rests: Vec<(f64, f64)> = warm.iter().map(|c| (c.calls as f64, c.rests_at.anon as f64)).collect();
    [
        more("memory", second.rss as f64, first.rss as f64 + margin),
        more("memory of its own", second.anon as f64, first.anon as f64 + margin),
        more("the store", second.disk as f64, first.disk as f64 * 1.5 + margin),
        more("threads", second.threads as f64, first.threads as f64 + 4.0),
        more("open files", second.files as f64, first.files as f64 + 8.0),
        more("growth of memory at rest", growth(&rests), 14.0 * MB),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn more(what: &str, is: f64, may_be: f64) -> Option<String> {
    (is > may_be).then(|| format!("{what}: {is}, more than {may_be}"))
}

fn given(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

/// A switch and a Zammad here, the program between them.
struct Soak {
    switch: Switch,
    zammad: Zammad,
    load: Load,
    dir: TempDir,
    running: Option<(Program, Gauge)>,
    /// How many times as fast the program's clock runs.
    speed: u64,
    /// Events of the switch that earlier runs of the program had handled.
    before: u64,
}

/// What status says.
#[derive(Clone, Copy, Debug, Default)]
struct Now {
    /// Calls that were begun on the switch.
    calls: u64,
    /// Events that wait for Zammad.
    waiting: u64,
    /// Events of the switch that the program has not done with.
    ahead: u64,
    legs: u64,
    going_on: u64,
    away: bool,
    in_flight: u64,
}

impl Soak {
    fn new() -> Self {
        let heartbeat = Some(Duration::from_secs(1));
        let settings =
            switch::Settings { password: PASSWORD.into(), heartbeat, ..switch::Settings::default() };
        let switch = Switch::start(settings).unwrap();
        let settings =
            zammad::Settings { token: TOKEN.into(), keeps: Some(2_000), ..zammad::Settings::default() };
        let zammad = Zammad::start(settings).unwrap();
        let load = Load::new(&switch.core_uuid(), 7);
        let dir = tempfile::tempdir().unwrap();
        let keep_h = given("SOAK_KEEP_H", 1);
        let text = format!(
            "state_dir = {:?}\ncountry = \"DE\"\n[[switch]]\naddress = \"{}\"\npassword = \"{PASSWORD}\"\n\
             heartbeat_timeout_s = 3600\n[[zammad]]\nurl = \"{}\"\n\
             [delivery]\nbacklog_per_s = 10000\nretry_wait_ms_min = 50\nretry_wait_ms_max = 1000\nmax_events = 10000000\n\
             delivered_keep_h = {keep_h}\n",
            dir.path().join("state"),
            switch.addr(),
            zammad.url(),
        );
        std::fs::write(dir.path().join("config.toml"), text).unwrap();
        Self { switch, zammad, load, dir, running: None, speed: 1, before: 0 }
    }

    fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Returns when the program listens.
    fn start(&mut self) {
        let config = self.dir.path().join("config.toml");
        let faster = if self.speed == 1 { vec![] } else { clock::faster(self.speed) };
        let faster = faster.iter().map(|(name, value)| (*name, value.as_str()));
        let environment: Vec<(&str, &str)> = unit::malloc().chain(faster).collect();
        let mut program = Program::start(&["run", "--config", config.to_str().unwrap()], &environment);
        program.wait_for("listening to the switch");
        let gauge = Gauge::new(program.id(), &self.state_dir());
        self.running = Some((program, gauge));
        self.before = self.load.events;
    }

    fn end(&mut self, how: &str) {
        let (program, gauge) = self.running.take().unwrap();
        drop(gauge);
        if how == "KILL" {
            program.kill();
        } else {
            program.signal(how);
            assert_eq!(program.end().code, Some(0));
        }
    }

    fn stop(&mut self) {
        self.end("TERM");
    }

    fn gauge(&self) -> &Gauge {
        &self.running.as_ref().unwrap().1
    }

    async fn now(&self) -> Now {
        let status = status(&self.state_dir()).await;
        let count = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{value} in {status}"));
        let (calls, zammad) = (&status["calls"], &status["zammads"][0]);
        assert_eq!(calls["events_dropped"], 0, "{status}");
        Now {
            calls: self.load.calls,
            waiting: count(&status["queue"]["waiting"]),
            ahead: (self.load.events - self.before).saturating_sub(count(&calls["events_handled"])),
            legs: count(&calls["legs"]),
            going_on: count(&calls["going_on"]),
            away: zammad["link"] == "away",
            in_flight: count(&zammad["in_flight"]),
        }
    }

    /// Looks until `true_of` holds; fails if nothing moves for long.
    async fn until(&self, what: &str, true_of: impl Fn(&Now) -> bool) -> Now {
        const STILL: Duration = Duration::from_secs(60);
        let mut moved = (Instant::now(), 0, 0);
        loop {
            let now = self.now().await;
            if true_of(&now) {
                return now;
            }
            if (now.waiting, now.ahead) != (moved.1, moved.2) {
                moved = (Instant::now(), now.waiting, now.ahead);
            }
            assert!(moved.0.elapsed() < STILL, "waited in vain: {what}: {now:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// As many calls as the program takes, and as Zammad takes while it is there.
    async fn calls_until(&mut self, what: &str, true_of: impl Fn(&Now) -> bool) {
        loop {
            let now = self.until(what, |now| now.ahead < LEAD && (now.away || now.waiting < WAITING)).await;
            if true_of(&now) {
                return;
            }
            let bytes = self.load.go_on();
            self.send(&bytes).await;
        }
    }

    async fn calls_end(&mut self) {
        loop {
            let bytes = self.load.end();
            if bytes.is_empty() {
                break;
            }
            self.send(&bytes).await;
        }
        self.until("every call ends", |now| now.ahead == 0 && now.going_on == 0 && now.legs == 0).await;
    }

    async fn send(&self, bytes: &[u8]) {
        self.switch.send_raw(bytes);
        self.switch.written().await;
    }

    /// First it only says that it is away, so that no request's fate is unknown; then it is gone.
    async fn goes_away(&mut self) {
        self.zammad.set_fault_rule(|_| Fault::answer_instead(Answer::nginx(502)));
        self.calls_until("Zammad is found away", |now| now.away).await;
        self.until("no request is on its way", |now| now.in_flight == 0).await;
        self.zammad.stop().await;
    }

    async fn comes_back(&mut self) {
        self.zammad.clear_faults();
        self.zammad.restart().unwrap();
        self.until("Zammad is found", |now| !now.away).await;
    }

    async fn drained(&self) {
        self.until("the queue is empty", |now| now.waiting == 0 && now.ahead == 0).await;
    }

    async fn all_is_told_once(&mut self) {
        self.calls_end().await;
        self.drained().await;
        assert_eq!(&self.zammad.tally(), self.load.told());
        let status = status(&self.state_dir()).await;
        for nothing in ["dead", "ambiguous", "healed"] {
            assert_eq!(status["zammads"][0][nothing], 0, "{status}");
        }
    }
}

async fn status(state_dir: &Path) -> Value {
    let answer = control::ask(state_dir, &Request::Status).await.unwrap();
    answer.expect("it runs").swap_remove(0)
}

/// Calls that ended while nobody took them, until so many events wait.
async fn fill(state_dir: &Path, events: u64) {
    let day = Duration::from_hours(24);
    let limits = Limits {
        delivered_max: 1,
        delivered_age: day,
        dead_max: 1,
        dead_age: day,
        swap_bytes: u64::MAX,
        together_above: freeswitch_zammad::store::TOGETHER_ABOVE,
    };
    std::fs::create_dir_all(state_dir).unwrap();
    let store = Store::open(state_dir, limits).unwrap();
    let have = store.counts().pending;
    for first in (have..events).step_by(500) {
        let events = (first..events.min(first + 500)).map(event).collect();
        store.accept(Accepting { events, state: vec![] }).await.unwrap();
    }
    store.close().await.unwrap();
}

/// The events of calls, three of each.
fn event(n: u64) -> Pending {
    let call = format!("{:08x}-0000-4000-8000-{:012x}", n / 3, n / 3);
    let (what, name) = match n % 3 {
        0 => (What::NewCall { user: None, queue: Some("Support".into()) }, "newCall"),
        1 => (
            What::Answer { answering_number: Some("49305551001".into()), user: Some("Anton Example".into()) },
            "answer",
        ),
        _ => (What::Hangup { cause: Cause::NormalClearing }, "hangup"),
    };
    Pending {
        id: format!("{call}/{name}"),
        zammad: "main".into(),
        switch: "main".into(),
        event: Event {
            call_id: CallId::new(&call),
            direction: Direction::In,
            from: format!("49151{:08}", n / 3),
            to: "49305552101".into(),
            what,
        },
        happened: freeswitch_zammad::edge::clock::now(),
        answered: n % 3 == 2,
        attempt: None,
        held: false,
        restored: false,
    }
}
