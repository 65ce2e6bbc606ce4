//! What the daemon costs while nothing happens, and at 50 calls a second.

use std::time::Duration;

use freeswitch_zammad::edge::clock;
use freeswitch_zammad::sim::recording::Event;
use freeswitch_zammad::sim::switch::{Settings, Switch};

use crate::child::{Daemon, Figures};
use crate::measure::{Row, Size};
use crate::server::Zammad;
use crate::{corpus, disk};

const CALLS_PER_S: u64 = 50;
/// From a call's first event to its last.
const CALL_LASTS: Duration = Duration::from_secs(3);

pub(crate) fn run(size: Size) -> Vec<Row> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let dir = disk::dir();
    let zammad = Zammad::start(Duration::from_millis(5), false);
    let settings = Settings { heartbeat: Some(Duration::from_secs(20)), ..Settings::default() };
    let switch = runtime.block_on(async { Switch::start(settings) }).expect("a port");
    let daemon = Daemon::start(dir.path(), switch.addr(), &zammad.url(), "");
    runtime.block_on(switch.wait_subscribed());
    std::thread::sleep(Duration::from_secs(size.of(5, 1)));
    let span = Duration::from_secs(size.of(60, 2));
    let before = daemon.figures();
    std::thread::sleep(span);
    let idle = said(before, daemon.figures(), span);
    let idle_mb = daemon.figures().rss_mb;

    let calls = span.as_secs() * CALLS_PER_S;
    let mut plan: Vec<(Duration, Event)> = Vec::new();
    let plain = corpus::recording(corpus::PLAIN).with_core_uuid(&switch.core_uuid());
    for call in 0..calls {
        let begins = Duration::from_secs(1) * u32::try_from(call).unwrap_or(u32::MAX) / CALLS_PER_S as u32;
        let events = plain.renamed(&format!("i{call}"));
        let count = u32::try_from(events.events().len()).unwrap_or(u32::MAX);
        let at = |nth: usize| begins + CALL_LASTS * u32::try_from(nth).unwrap_or(u32::MAX) / count;
        plan.extend(events.events().iter().enumerate().map(|(nth, event)| (at(nth), event.clone())));
    }
    plan.sort_by_key(|(at, _)| *at);
    let (before, begun) = (daemon.figures(), clock::monotonic());
    for (at, event) in plan {
        std::thread::sleep(at.saturating_sub(begun.elapsed()));
        let _ = switch.send(&event);
    }
    assert!(zammad.wait(calls * 3, Duration::from_secs(60)), "all calls are told");
    let busy = said(before, daemon.figures(), begun.elapsed());
    let row = |what, goal: &str, result, met| Row { what, against: "–", goal: goal.into(), result, met };
    vec![
        row("idle, a switch that beats every 20 s", "stated; RSS ≤ 20 MB", idle, Some(idle_mb <= 20.0)),
        row("50 calls a second", "stated", busy, None),
    ]
}

fn said(before: Figures, after: Figures, span: Duration) -> String {
    let cpu = (after.busy - before.busy).as_secs_f64() / span.as_secs_f64() * 100.0;
    let sleeps = (after.sleeps - before.sleeps) as f64 / span.as_secs_f64();
    format!("RSS {:.1} MB, {cpu:.2} % of one core, {sleeps:.1} wake-ups a second", after.rss_mb)
}
