//! A busy switch: recordings played all at once, each at its own speed, with a log of what was sent to whom.
#![allow(dead_code, reason = "each test is a crate of its own, and not every one needs every helper")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use freeswitch_zammad::call::HEADERS;
use freeswitch_zammad::sim::recording::Recording;
use freeswitch_zammad::sim::switch::Switch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::common;

/// Events that nobody subscribes to and that no leg's state depends on: half of every recording.
const NEEDLESS: [&str; 3] = ["CHANNEL_EXECUTE", "CHANNEL_EXECUTE_COMPLETE", "CHANNEL_STATE"];
/// What a switch says of a leg besides what the model reads: a fifth of all headers together, and the switch of these
/// tests has as much less to do.
const ALSO: [&str; 3] = ["Caller-Caller-ID-Name", "Channel-Call-State", "Channel-State"];
/// How often the switch looks what is due.
const TICK: Duration = Duration::from_millis(1);

/// A recording under its own legs.
pub(crate) struct Scene {
    pub(crate) name: String,
    pub(crate) recording: Recording,
}

/// One event that was sent: which of which scene, and the connection that it went to, if any.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) scene: usize,
    pub(crate) event: usize,
    pub(crate) to: Option<u64>,
}

/// What was sent so far. A place in it is a moment.
pub(crate) type Log = Arc<Mutex<Vec<Sent>>>;

/// A switch at work. It goes on until it is told to end, and then plays what it has begun to its end.
pub(crate) struct Load {
    pub(crate) log: Log,
    ending: Arc<AtomicBool>,
    task: JoinHandle<Vec<Scene>>,
}

/// How busy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Business {
    /// A recording is begun this often.
    pub(crate) every_ms: u64,
    /// The quickest recording takes this long.
    pub(crate) shortest_ms: u64,
    /// And the slowest.
    pub(crate) longest_ms: u64,
}

impl Load {
    pub(crate) fn start(switch: Arc<Switch>, business: Business, seed: u64) -> Self {
        let (log, ending) = (Log::default(), Arc::new(AtomicBool::new(false)));
        let templates = templates();
        let task =
            tokio::spawn(work(switch, templates, business, seed, Arc::clone(&log), Arc::clone(&ending)));
        Self { log, ending, task }
    }

    /// How much was sent until now.
    pub(crate) fn now(&self) -> usize {
        self.log.lock().unwrap().len()
    }

    /// No further call begins; returns all that were played once they are over.
    pub(crate) async fn end(self) -> (Vec<Scene>, Vec<Sent>) {
        self.ending.store(true, Ordering::Relaxed);
        let scenes = self.task.await.unwrap();
        let log = std::mem::take(&mut *self.log.lock().unwrap());
        (scenes, log)
    }
}

struct Playing {
    scene: usize,
    recording: Recording,
    next: usize,
    begun: Instant,
    lasts: Duration,
}

impl Playing {
    fn due(&self) -> Instant {
        let count = u32::try_from(self.recording.events().len()).unwrap();
        self.begun + self.lasts * u32::try_from(self.next).unwrap() / count
    }
}

async fn work(
    switch: Arc<Switch>,
    templates: Vec<(String, Recording)>,
    business: Business,
    seed: u64,
    log: Log,
    ending: Arc<AtomicBool>,
) -> Vec<Scene> {
    let mut rng = Rng::with_seed(seed);
    let (mut scenes, mut playing): (Vec<Scene>, Vec<Playing>) = (Vec::new(), Vec::new());
    let mut born = Instant::now();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let over = ending.load(Ordering::Relaxed);
        if born.elapsed() >= Duration::from_millis(business.every_ms) && !over {
            born = Instant::now();
            let (name, template) = &templates[rng.usize(..templates.len())];
            let recording = template.renamed(&format!("n{}", scenes.len()));
            let recording = recording.with_core_uuid(&switch.core_uuid());
            scenes.push(Scene { name: name.clone(), recording: recording.clone() });
            // As many quick ones as slow ones.
            let span = (business.longest_ms as f64 / business.shortest_ms as f64).powf(rng.f64());
            let lasts = Duration::from_millis(business.shortest_ms).mul_f64(span);
            let scene = scenes.len() - 1;
            playing.push(Playing { scene, recording, next: 0, begun: Instant::now(), lasts });
        }
        let now = Instant::now();
        for one in &mut playing {
            while one.next < one.recording.events().len() && (one.due() <= now || over) {
                let mut log = log.lock().unwrap();
                let to = switch.send(&one.recording.events()[one.next]).last().copied();
                log.push(Sent { scene: one.scene, event: one.next, to });
                one.next += 1;
            }
        }
        playing.retain(|one| one.next < one.recording.events().len());
        if over && playing.is_empty() {
            return scenes;
        }
    }
}

/// Every recording whose calls are known, without what nobody needs.
fn templates() -> Vec<(String, Recording)> {
    let needed = [HEADERS.as_slice(), &ALSO].concat();
    let mut all = Vec::new();
    for folder in ["captures", "captures-fusionpbx"] {
        let expected = common::expected(folder);
        for (name, bytes) in common::recordings(folder) {
            if !expected.contains_key(&name) {
                continue;
            }
            let whole = Recording::parse(&bytes).unwrap();
            let mut names: Vec<&str> = whole.events().iter().map(|e| e.name()).collect();
            names.sort_unstable();
            names.dedup();
            names.retain(|name| name.starts_with("CHANNEL_") || *name == "CUSTOM" || *name == "CALL_UPDATE");
            names.retain(|name| !NEEDLESS.contains(name));
            all.push((name.clone(), whole.only(&names).trimmed(&needed)));
        }
    }
    all
}

/// Where in the log each event of each scene stands.
pub(crate) fn places(log: &[Sent]) -> HashMap<(usize, usize), usize> {
    log.iter().enumerate().map(|(at, sent)| ((sent.scene, sent.event), at)).collect()
}
