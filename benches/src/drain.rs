//! A backlog of whole calls, delivered to a Zammad that takes 5 ms for each request: by the daemon, by a bare loop of
//! the same HTTP client, and by py-zammad-cti in a loop.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use freeswitch_zammad::cti::cause::Cause;
use freeswitch_zammad::cti::event::{CallId, Direction, Event, What};
use freeswitch_zammad::edge::clock;
use freeswitch_zammad::store::{Accepting, Pending, Store};

use crate::child::Daemon;
use crate::measure::{Row, Sample, Size, in_turns, timed};
use crate::server::Zammad;
use crate::{corpus, disk};

pub(crate) const ANSWER_AFTER: Duration = Duration::from_millis(5);
const CONCURRENCY: usize = 32;
const PATIENCE: Duration = Duration::from_secs(120);
/// Events of py-zammad-cti's loop: its time for each does not change, and all of them would take minutes.
const BY_PYTHON: usize = 300;

pub(crate) fn run(size: Size) -> Vec<Row> {
    let calls = size.of(10_000, 200);
    let python = python(size);
    let mut against_python = Sample::default();
    let ratios = in_turns(
        size.of(5, 1),
        |_| {
            let took = by_daemon(calls);
            if let Some(python) = &python {
                let each = by_python(python).as_secs_f64() / BY_PYTHON as f64;
                against_python.add(each / (took.as_secs_f64() / (calls * 3) as f64));
            }
            took
        },
        |_| by_reqwest(calls),
    );
    let beside_python = match python {
        Some(_) => against_python.to_string(),
        None => "not run: python3 with venv and PyPI are needed".into(),
    };
    vec![
        Row {
            what: "drain 10,000 calls (30,000 events), server answering in 5 ms",
            against: "py-zammad-cti 0.0.2 in a loop",
            goal: "≥ 20".into(),
            met: python.map(|_| against_python.median() >= 20.0),
            result: beside_python,
        },
        Row {
            what: "the same",
            against: "a bare reqwest loop at the same concurrency (32)",
            goal: "≥ 0.8".into(),
            met: Some(ratios.median() >= 0.8),
            result: ratios.to_string(),
        },
    ]
}

/// The `at`th event of a queue of answered calls. `spread` calls overlap: their events stand in turns.
pub(crate) fn event(at: usize, spread: usize) -> Pending {
    let (block, within) = (at / (3 * spread), at % (3 * spread));
    let (call, step) = (block * spread + within % spread, within / spread);
    let id = format!("{call:08}-a888-417e-88d9-a0bd613f105d");
    let (name, what) = match step {
        0 => ("newCall", What::NewCall { user: None, queue: None }),
        1 => ("answer", What::Answer { answering_number: Some("1001".into()), user: Some("Alice".into()) }),
        _ => ("hangup", What::Hangup { cause: Cause::NormalClearing }),
    };
    Pending {
        id: format!("{id}/{name}"),
        zammad: "main".into(),
        switch: "main".into(),
        event: Event {
            call_id: CallId::new(&id),
            direction: Direction::In,
            from: "4930123456".into(),
            to: "4940654321".into(),
            what,
        },
        happened: clock::now(),
        answered: step > 0,
        attempt: None,
        held: false,
        restored: false,
    }
}

/// Fills a store with so many events.
pub(crate) fn fill(dir: &Path, events: usize) {
    fill_from(dir, 0, events);
}

/// From this one on.
pub(crate) fn fill_from(dir: &Path, first: usize, events: usize) {
    const AT_ONCE: usize = 1000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let store = Store::open(dir, corpus::limits()).expect("a fresh store");
    runtime.block_on(async {
        let end = first + events;
        for begin in (first..end).step_by(AT_ONCE) {
            let events = (begin..end.min(begin + AT_ONCE)).map(|at| event(at, 100)).collect();
            store.accept(Accepting { events, state: vec![] }).await.expect("a disk with room");
        }
        store.close().await.expect("a sound disk");
    });
}

/// Nobody listens there.
pub(crate) fn nowhere() -> SocketAddr {
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("it has one")
}

/// From the first post to the last answer.
fn by_daemon(calls: usize) -> Duration {
    let dir = disk::dir();
    fill(dir.path(), calls * 3);
    let zammad = Zammad::start(ANSWER_AFTER, true);
    let delivery = format!("concurrency = {CONCURRENCY}\nbacklog_per_s = 10000\nlate_after_s = 86400");
    let _daemon = Daemon::start(dir.path(), nowhere(), &zammad.url(), &delivery);
    assert!(zammad.wait(calls as u64 * 3, PATIENCE), "all is delivered: {}", zammad.events());
    let begun = zammad.take_begun();
    begun[0].elapsed()
}

fn by_reqwest(calls: usize) -> Duration {
    let zammad = Zammad::start(ANSWER_AFTER, false);
    let bodies: Vec<String> = (0..calls * 3).map(|at| event(at, 100).event.body()).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    // The daemon's own client would set this up.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build();
    let (client, bodies, next) = (client.expect("a client"), Arc::new(bodies), Arc::new(AtomicUsize::new(0)));
    let posting = |_| {
        let (client, bodies, next, url) =
            (client.clone(), Arc::clone(&bodies), Arc::clone(&next), zammad.url());
        async move {
            while let Some(body) = bodies.get(next.fetch_add(1, Ordering::Relaxed)) {
                let request = client.post(&url).header("Accept", "application/json");
                let request = request.header("Content-Type", "application/json").body(body.clone());
                let answer = request.send().await.expect("the bench's Zammad answers");
                assert_eq!(answer.status().as_u16(), 200);
                let _ = answer.bytes().await.expect("a whole answer");
            }
        }
    };
    let (took, ()) = timed(|| {
        runtime.expect("a runtime").block_on(async {
            let tasks: Vec<_> = (0..CONCURRENCY).map(|at| tokio::spawn(posting(at))).collect();
            for task in tasks {
                task.await.expect("it does not panic");
            }
        });
    });
    took
}

/// A Python with py-zammad-cti, made where the benches are built; `None` where that cannot be had.
fn python(size: Size) -> Option<PathBuf> {
    if size == Size::Quick {
        return None;
    }
    let venv = disk::built().join("venv");
    let python = venv.join("bin/python");
    let run = |command: &mut Command| command.status().is_ok_and(|status| status.success());
    if !run(Command::new(&python).args(["-c", "import zammad_cti"])) {
        let made = run(Command::new("python3").args(["-m", "venv"]).arg(&venv))
            && run(Command::new(&python).args(["-m", "pip", "install", "-q", "py-zammad-cti==0.0.2"]));
        if !made {
            eprintln!("py-zammad-cti is not measured: no python3 that makes a venv, or no PyPI");
            return None;
        }
    }
    Some(python)
}

fn by_python(python: &Path) -> Duration {
    const LOOP: &str = "
import sys, time, logging
from zammad_cti import CTIClient
client = CTIClient(sys.argv[1], False)
begun = time.monotonic()
for n in range(int(sys.argv[2]) // 3):
    call = f'{n:08}-a888-417e-88d9-a0bd613f105d'
    about = dict(_from='4930123456', to='4940654321', direction='in', call_id=call)
    client.new_call(**about)
    client.answer(**about, user='Alice', answering_number='1001')
    client.hangup(**about, cause='normalClearing')
print(time.monotonic() - begun)
";
    let zammad = Zammad::start(ANSWER_AFTER, false);
    let events = BY_PYTHON.to_string();
    let done =
        Command::new(python).args(["-c", LOOP, &zammad.url(), &events]).output().expect("it was there");
    let said = String::from_utf8_lossy(&done.stdout);
    let took = said.lines().last().and_then(|line| line.parse().ok());
    Duration::from_secs_f64(took.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&done.stderr))))
}
