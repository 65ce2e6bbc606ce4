//! A queue of a million events: how soon the daemon posts, how much memory it takes, whether it keeps its pace, and
//! whether it gives the disk back.

use std::time::Duration;

use freeswitch_zammad::edge::clock;

use crate::child::{Daemon, bytes_below};
use crate::disk;
use crate::drain::{self, nowhere};
use crate::measure::{Row, Size};
use crate::server::Zammad;

const SLICES: u64 = 10;
/// A slice takes no longer than this.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long the disk may take to be given back.
const SETTLE: Duration = Duration::from_secs(120);

pub(crate) fn run(size: Size) -> Vec<Row> {
    let events = size.of(1_000_000, 20_000);
    let dir = disk::dir();
    drain::fill(dir.path(), events);
    let queue = dir.path().join("queue");
    let full = bytes_below(&queue);
    let zammad = Zammad::start(Duration::ZERO, false);
    let begun = clock::monotonic();
    let delivery = "concurrency = 32\nbacklog_per_s = 10000\nlate_after_s = 86400\ndelivered_keep_h = 1";
    let daemon = Daemon::start(dir.path(), nowhere(), &zammad.url(), delivery);
    assert!(zammad.wait(1, PATIENCE), "the first is posted");
    let open = begun.elapsed();
    let opened = daemon.figures();
    let (mut rates, mut costs, mut busy) = (Vec::new(), Vec::new(), opened.busy);
    for slice in 1..=SLICES {
        let (begun, from) = (clock::monotonic(), zammad.events());
        assert!(zammad.wait(events as u64 * slice / SLICES, PATIENCE), "all is delivered");
        let (events, figures) = ((zammad.events() - from) as f64, daemon.figures());
        rates.push(events / begun.elapsed().as_secs_f64());
        costs.push((figures.busy - busy).as_secs_f64() / events);
        busy = figures.busy;
        eprintln!("slice {slice}: {:.0} events a second, {figures:?}", rates[rates.len() - 1]);
    }
    let begun = clock::monotonic();
    while bytes_below(&queue) > full / 2 && begun.elapsed() < SETTLE {
        std::thread::sleep(Duration::from_millis(200));
    }
    std::thread::sleep(Duration::from_secs(2));
    let left = bytes_below(&queue);
    let figures = daemon.figures();
    // Three at once: the machine itself is not as fast in each moment.
    let late_to_early = |of: &[f64]| of[7..].iter().sum::<f64>() / of[1..4].iter().sum::<f64>();
    let (flat, cost) = (late_to_early(&rates), late_to_early(&costs));
    let row = |what, goal: &str, result: String, met| Row {
        what,
        against: "–",
        goal: goal.into(),
        result,
        met: Some(met),
    };
    vec![
        row(
            "1,000,000 events wait: start of the process → first POST",
            "≤ 1 s",
            format!("{:.2} s", open.as_secs_f64()),
            open <= Duration::from_secs(1),
        ),
        row(
            "the same: RSS, greatest, until all is delivered and the disk given back",
            "≤ 64 MB",
            format!(
                "{:.0} MB (when opened {:.0}, at the end {:.0})",
                figures.rss_max_mb, opened.rss_mb, figures.rss_mb
            ),
            figures.rss_max_mb <= 64.0,
        ),
        row(
            "the same: pace of the last three tenths, against the second to the fourth",
            "flat (≥ 0.8)",
            format!("{flat:.2} (processor time of an event: {cost:.2})"),
            flat >= 0.8,
        ),
        row(
            "the same: bytes on disk after the drain, against before",
            "given back",
            format!(
                "{:.2} of {} MB (newest 100,000 delivered are kept)",
                left as f64 / full as f64,
                full / 1_000_000
            ),
            left < full / 2,
        ),
    ]
}
