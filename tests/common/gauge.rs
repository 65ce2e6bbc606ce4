//! How much a process takes, looked at while it runs, and whether that grows.
#![allow(dead_code, reason = "each test is a crate of its own, and not every one needs every helper")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

const EVERY: Duration = Duration::from_millis(100);

/// What a process takes at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Memory in all, in kB.
    pub(crate) rss: u64,
    /// Of that, its own: not a file's.
    pub(crate) anon: u64,
    pub(crate) threads: u64,
    /// Open files and sockets.
    pub(crate) files: u64,
    /// sled's file, in kB.
    pub(crate) db: u64,
    /// The whole state directory, in kB.
    pub(crate) disk: u64,
}

impl Sample {
    pub(crate) fn of(process: u32, state_dir: &Path) -> Self {
        let proc = PathBuf::from(format!("/proc/{process}"));
        let status = fs::read_to_string(proc.join("status")).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_ascii_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or_default()
        };
        Self {
            rss: field("VmRSS:"),
            anon: field("RssAnon:"),
            threads: field("Threads:"),
            files: fs::read_dir(proc.join("fd")).map_or(0, |all| all.count() as u64),
            db: fs::metadata(state_dir.join("queue/db")).map_or(0, |about| about.len() / 1024),
            disk: bytes(state_dir) / 1024,
        }
    }

    /// The larger of each.
    #[must_use]
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            rss: self.rss.max(other.rss),
            anon: self.anon.max(other.anon),
            threads: self.threads.max(other.threads),
            files: self.files.max(other.files),
            db: self.db.max(other.db),
            disk: self.disk.max(other.disk),
        }
    }

    /// The smaller of each.
    #[must_use]
    pub(crate) fn min(self, other: Self) -> Self {
        Self {
            rss: self.rss.min(other.rss),
            anon: self.anon.min(other.anon),
            threads: self.threads.min(other.threads),
            files: self.files.min(other.files),
            db: self.db.min(other.db),
            disk: self.disk.min(other.disk),
        }
    }
}

fn bytes(path: &Path) -> u64 {
    match fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| bytes(&entry.path())).sum(),
        Err(_) => fs::metadata(path).map_or(0, |about| about.len()),
    }
}

/// The least and the most since the last look.
pub(crate) type Window = (Sample, Sample);

/// Looks at a process ten times in a second until it is dropped.
pub(crate) struct Gauge {
    process: u32,
    state_dir: PathBuf,
    window: Arc<Mutex<Option<Window>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Gauge {
    pub(crate) fn new(process: u32, state_dir: &Path) -> Self {
        let (window, stop) = (Arc::new(Mutex::new(None)), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (window, stop, dir) = (Arc::clone(&window), Arc::clone(&stop), state_dir.to_owned());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    note(&window, Sample::of(process, &dir));
                    std::thread::sleep(EVERY);
                }
            }
        });
        Self { process, state_dir: state_dir.to_owned(), window, stop, thread: Some(thread) }
    }

    /// What it takes now.
    pub(crate) fn now(&self) -> Sample {
        Sample::of(self.process, &self.state_dir)
    }

    /// What was seen since the last call of this.
    pub(crate) fn window(&self) -> Window {
        note(&self.window, self.now());
        self.window.lock().unwrap().take().expect("it was just looked at")
    }
}

fn note(window: &Mutex<Option<Window>>, seen: Sample) {
    let mut window = window.lock().unwrap();
    *window = Some(window.map_or((seen, seen), |(least, most)| (least.min(seen), most.max(seen))));
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How much `y` grows from the first to the last `x`, by the median of the slopes between all pairs (Theil and Sen):
/// a single high or low one does not change it.
pub(crate) fn growth(points: &[(f64, f64)]) -> f64 {
    let pairs = points.iter().enumerate().flat_map(|(n, a)| points[n + 1..].iter().map(move |b| (a, b)));
    let mut slopes: Vec<f64> =
        pairs.filter(|(a, b)| a.0 != b.0).map(|(a, b)| (b.1 - a.1) / (b.0 - a.0)).collect();
    slopes.sort_by(f64::total_cmp);
    let median = slopes.get(slopes.len() / 2).copied().unwrap_or_default();
    let (first, last) = (points.first().map_or(0.0, |p| p.0), points.last().map_or(0.0, |p| p.0));
    median * (last - first)
}
