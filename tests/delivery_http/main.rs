//! The real drain over a real store, and a Zammad that fails in every way: what each answer leads to, over HTTP.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod ambiguous;
mod backlog;
mod chaos;
mod outage;
mod tls;
mod verdicts;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use freeswitch_zammad::cti::cause::Cause;
use freeswitch_zammad::cti::client::{Client, Tls};
use freeswitch_zammad::cti::event::{CallId, Direction, Event, What};
use freeswitch_zammad::edge::clock;
use freeswitch_zammad::edge::drain::{Drain, DrainState, Order};
use freeswitch_zammad::queue::backoff::Backoff;
use freeswitch_zammad::queue::breaker::Link;
use freeswitch_zammad::queue::line::{LatePolicy, Lateness};
use freeswitch_zammad::queue::schedule::{Counters, Settings};
use freeswitch_zammad::sim::zammad::{self, Fault, Row, Seen, Zammad};
use freeswitch_zammad::store::{Accepting, Dead, Delivered, Limits, Pending, Seq, Store};
use freeswitch_zammad::time::UnixMillis;
use jiff::tz::TimeZone;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// No condition that these tests wait for takes nearly as long, on whatever machine.
const PATIENCE: Duration = Duration::from_secs(60);
const REST: &str = "rest-secret";

/// A Zammad and a place for a store.
struct Bench {
    zammad: Zammad,
    dir: TempDir,
}

/// A drain at work.
struct Running {
    store: Store,
    accepted: mpsc::Sender<(Seq, Pending)>,
    orders: mpsc::Sender<Order>,
    state: watch::Receiver<DrainState>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Bench {
    fn new() -> Self {
        let settings = zammad::Settings { rest_token: Some(REST.into()), ..zammad::Settings::default() };
        Self { zammad: Zammad::start(settings).unwrap(), dir: tempfile::tempdir().unwrap() }
    }

    fn store(&self) -> Store {
        open(self.dir.path())
    }

    /// A drain that delivers the store's events to this Zammad.
    fn drain(&self, settings: Settings) -> Running {
        let client = Client::new(&self.zammad.url(), &Tls::System, Duration::from_secs(10)).unwrap();
        Running::start(self.store(), client.with_rest_token(REST), settings)
    }

    fn rows(&self) -> Vec<Row> {
        self.zammad.log()
    }

    /// How often something was posted for a call.
    fn posts(&self, call: &str, event: &str) -> Vec<Seen> {
        let of = |s: &Seen| s.call_id.as_deref() == Some(call) && s.event.as_deref() == Some(event);
        self.zammad.requests().into_iter().filter(of).collect()
    }

    fn probes(&self) -> usize {
        self.zammad.requests().iter().filter(|s| is_probe(s)).count()
    }

    /// The next post of this event of this call suffers `fault`; all others, probes too, are well.
    fn fault_once(&self, call: &str, event: &str, fault: Fault) {
        let (call, event) = (call.to_owned(), event.to_owned());
        let once = Mutex::new(Some(fault));
        self.zammad.set_fault_rule(move |seen| {
            let this = seen.call_id.as_ref() == Some(&call) && seen.event.as_ref() == Some(&event);
            once.lock().unwrap().take_if(|_| this).unwrap_or_default()
        });
    }

    fn row(&self, call: &str) -> Row {
        self.zammad.log().into_iter().find(|r| r.call_id == call).unwrap()
    }
}

impl Running {
    fn start(store: Store, client: Client, settings: Settings) -> Self {
        let (accepted, taken) = mpsc::channel(64);
        let (orders, asked) = mpsc::channel(16);
        let (shown, state) = watch::channel(DrainState {
            link: Link::Up,
            paused: false,
            in_flight: 0,
            counters: Counters::default(),
            last_delivery: None,
        });
        let stop = CancellationToken::new();
        let drain = Drain {
            name: "main".into(),
            store: store.clone(),
            client,
            accepted: taken,
            orders: asked,
            end_blocked: None,
            state: shown,
        };
        let task = tokio::spawn(drain.run(settings, stop.clone()));
        Self { store, accepted, orders, state, stop, task }
    }

    /// As the intake does it: into the store, then word to the drain.
    async fn accept(&self, events: Vec<Pending>) -> Vec<Option<Seq>> {
        let seqs = accept(&self.store, events.clone()).await;
        for (seq, event) in seqs.iter().zip(events) {
            if let Some(seq) = seq {
                self.accepted.send((*seq, event)).await.unwrap();
            }
        }
        seqs
    }

    async fn deliver(&self, events: Vec<Pending>) {
        self.accept(events).await;
        self.drained().await;
    }

    async fn drained(&self) {
        until("the queue is empty", || self.store.counts().pending == 0).await;
    }

    async fn link(&mut self, what: &str, fits: impl Fn(&Link) -> bool) -> Link {
        within(what, self.state.wait_for(|s| fits(&s.link))).await.unwrap().link.clone()
    }

    async fn misconfigured(&mut self) -> String {
        match self.link("misconfigured", |l| matches!(l, Link::Misconfigured { .. })).await {
            Link::Misconfigured { why, .. } => why,
            Link::Up | Link::Away { .. } => unreachable!("waited for"),
        }
    }

    async fn away(&mut self) {
        self.link("away", |l| matches!(l, Link::Away { .. })).await;
    }

    async fn up(&mut self) {
        self.link("up", |l| *l == Link::Up).await;
    }

    fn counters(&self) -> Counters {
        self.state.borrow().counters
    }

    fn dead(&self) -> Vec<Dead> {
        self.store.dead_from(Seq(0), 1000).unwrap().into_iter().map(|(_, dead)| dead).collect()
    }

    fn delivered(&self) -> Vec<Delivered> {
        self.store.delivered_from(Seq(0), 1000).unwrap().into_iter().map(|(_, done)| done).collect()
    }

    /// The note on a call's hangup.
    fn note(&self, call: &str, event: &str) -> Option<String> {
        let of = |d: &Delivered| d.pending.id == format!("{call}/{event}");
        self.delivered().into_iter().find(of).unwrap().note
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
        self.store.close().await.unwrap();
    }

    /// As a crash does it: nothing more is written by the drain.
    async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
        self.store.close().await.unwrap();
    }
}

fn open(dir: &Path) -> Store {
    let age = Duration::from_hours(1000);
    Store::open(
        dir,
        Limits {
            delivered_max: 100_000,
            delivered_age: age,
            dead_max: 100_000,
            dead_age: age,
            swap_bytes: u64::MAX,
        },
    )
    .unwrap()
}

async fn accept(store: &Store, events: Vec<Pending>) -> Vec<Option<Seq>> {
    store.accept(Accepting { events, state: vec![] }).await.unwrap()
}

fn quick() -> Settings {
    Settings {
        concurrency: 4,
        backoff: Backoff { min: Duration::from_millis(10), max: Duration::from_millis(60) },
        lateness: Lateness {
            after: Duration::from_secs(600),
            policy: LatePolicy::Deliver,
            zone: TimeZone::UTC,
        },
        backlog_gap: Duration::ZERO,
        age_max: Duration::from_hours(720),
        can_look: false,
    }
}

fn event(call: &str, name: &str, direction: Direction, what: What) -> Pending {
    Pending {
        id: format!("{call}/{name}"),
        zammad: "main".into(),
        switch: "pbx".into(),
        event: Event {
            call_id: CallId::new(call),
            direction,
            from: "4915112345678".into(),
            to: "4930555".into(),
            what,
        },
        happened: clock::now(),
        answered: false,
        attempt: None,
        held: false,
        restored: false,
    }
}

fn new_call(call: &str) -> Pending {
    event(call, "newCall", Direction::In, What::NewCall { user: None, queue: None })
}

fn answer(call: &str) -> Pending {
    let by = Some("1001".to_owned());
    event(call, "answer", Direction::In, What::Answer { answering_number: by.clone(), user: by })
}

/// Of a call that nobody answered.
fn hangup(call: &str) -> Pending {
    event(call, "hangup", Direction::In, What::Hangup { cause: Cause::Cancel })
}

fn hangup_after_answer(call: &str) -> Pending {
    let hangup = event(call, "hangup", Direction::In, What::Hangup { cause: Cause::NormalClearing });
    Pending { answered: true, ..hangup }
}

fn missed(call: &str) -> Vec<Pending> {
    vec![new_call(call), hangup(call)]
}

fn answered(call: &str) -> Vec<Pending> {
    vec![new_call(call), answer(call), hangup_after_answer(call)]
}

fn aged(events: Vec<Pending>, age: Duration) -> Vec<Pending> {
    let then = UnixMillis(clock::now().0 - u64::try_from(age.as_millis()).unwrap());
    events.into_iter().map(|e| Pending { happened: then, ..e }).collect()
}

fn is_probe(seen: &Seen) -> bool {
    seen.method == "POST" && seen.event.is_none() && seen.body.contains("probe")
}

/// Fails the test, naming what was waited for, if `future` takes longer than [`PATIENCE`].
async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(done) => done,
        Err(_) => panic!("waited in vain: {what}"),
    }
}

/// Looks again and again until `true_of` holds. For what has no signal to wait for.
async fn until(what: &str, mut true_of: impl FnMut() -> bool) {
    within(what, async {
        while !true_of() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// What is logged on this thread while the guard lives.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn listen() -> (Self, tracing::subscriber::DefaultGuard) {
        let lines = Self::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        (lines, tracing::subscriber::set_default(subscriber))
    }

    fn with(&self, text: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock().unwrap()).lines().filter(|l| l.contains(text)).count()
    }
}

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
