//! The real drain over a real store, and a Zammad that fails in every way.
#![allow(
    dead_code,
    unused_imports,
    reason = "each test is a crate of its own, and not every one needs every helper"
)]

mod patience;
mod pending;

pub(crate) use std::path::Path;
pub(crate) use std::sync::{Arc, Mutex};
pub(crate) use std::time::Duration;

pub(crate) use freeswitch_zammad::cti::cause::Cause;
pub(crate) use freeswitch_zammad::cti::client::{Client, Tls};
pub(crate) use freeswitch_zammad::cti::event::{CallId, Direction, Event, What};
pub(crate) use freeswitch_zammad::edge::admin::metrics::PostSeconds;
pub(crate) use freeswitch_zammad::edge::clock;
pub(crate) use freeswitch_zammad::edge::drain::{Drain, DrainState, Order};
pub(crate) use freeswitch_zammad::edge::pulse::Pulse;
use freeswitch_zammad::edge::source::Source;
pub(crate) use freeswitch_zammad::queue::backoff::Backoff;
pub(crate) use freeswitch_zammad::queue::breaker::Link;
pub(crate) use freeswitch_zammad::queue::line::{LatePolicy, Lateness};
pub(crate) use freeswitch_zammad::queue::schedule::{Counters, Settings};
pub(crate) use freeswitch_zammad::sim::zammad::{self, Fault, Row, Seen, Zammad};
pub(crate) use freeswitch_zammad::store::{Accepting, Dead, Delivered, Limits, Pending, Seq, Store};
pub(crate) use freeswitch_zammad::time::UnixMillis;
pub(crate) use jiff::tz::TimeZone;
pub(crate) use patience::{PATIENCE, until, within};
pub(crate) use tempfile::TempDir;
pub(crate) use tokio::sync::{mpsc, watch};
pub(crate) use tokio::task::JoinHandle;
pub(crate) use tokio_util::sync::CancellationToken;

pub(crate) const REST: &str = "rest-secret";

/// A Zammad and a place for a store.
pub(crate) struct Bench {
    pub(crate) zammad: Zammad,
    pub(crate) dir: TempDir,
}

/// A drain at work.
pub(crate) struct Running {
    pub(crate) store: Store,
    pub(crate) accepted: mpsc::Sender<(Seq, Pending)>,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) state: watch::Receiver<DrainState>,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let settings = zammad::Settings { rest_token: Some(REST.into()), ..zammad::Settings::default() };
        Self { zammad: Zammad::start(settings).unwrap(), dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn store(&self) -> Store {
        open(self.dir.path())
    }

    /// A drain that delivers the store's events to this Zammad.
    pub(crate) fn drain(&self, settings: Settings) -> Running {
        let client = Client::new(&self.zammad.url(), &Tls::System, Duration::from_secs(10)).unwrap();
        Running::start(self.store(), client.with_rest_token(REST), settings)
    }

    pub(crate) fn rows(&self) -> Vec<Row> {
        self.zammad.log()
    }

    /// How often something was posted for a call.
    pub(crate) fn posts(&self, call: &str, event: &str) -> Vec<Seen> {
        let of = |s: &Seen| s.call_id.as_deref() == Some(call) && s.event.as_deref() == Some(event);
        self.zammad.requests().into_iter().filter(of).collect()
    }

    pub(crate) fn probes(&self) -> usize {
        self.zammad.requests().iter().filter(|s| is_probe(s)).count()
    }

    /// The next post of this event of this call suffers `fault`; all others, probes too, are well.
    pub(crate) fn fault_once(&self, call: &str, event: &str, fault: Fault) {
        let (call, event) = (call.to_owned(), event.to_owned());
        let once = Mutex::new(Some(fault));
        self.zammad.set_fault_rule(move |seen| {
            let this = seen.call_id.as_ref() == Some(&call) && seen.event.as_ref() == Some(&event);
            once.lock().unwrap().take_if(|_| this).unwrap_or_default()
        });
    }

    pub(crate) fn row(&self, call: &str) -> Row {
        self.zammad.log().into_iter().find(|r| r.call_id == call).unwrap()
    }
}

impl Running {
    pub(crate) fn start(store: Store, client: Client, settings: Settings) -> Self {
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
            source: Source::Own(store.clone()),
            store: store.clone(),
            client,
            accepted: taken,
            orders: asked,
            end_blocked: None,
            state: shown,
            beat: Pulse::default().join("this drain"),
            took: PostSeconds::default().of("main"),
        };
        let task = tokio::spawn(drain.run(settings, stop.clone()));
        Self { store, accepted, orders, state, stop, task }
    }

    /// As the intake does it: into the store, then word to the drain.
    pub(crate) async fn accept(&self, events: Vec<Pending>) -> Vec<Option<Seq>> {
        let seqs = accept(&self.store, events.clone()).await;
        for (seq, event) in seqs.iter().zip(events) {
            if let Some(seq) = seq {
                self.accepted.send((*seq, event)).await.unwrap();
            }
        }
        seqs
    }

    pub(crate) async fn deliver(&self, events: Vec<Pending>) {
        self.accept(events).await;
        self.drained().await;
    }

    pub(crate) async fn drained(&self) {
        until("the queue is empty", || self.store.counts().pending == 0).await;
    }

    pub(crate) async fn link(&mut self, what: &str, fits: impl Fn(&Link) -> bool) -> Link {
        within(what, self.state.wait_for(|s| fits(&s.link))).await.unwrap().link.clone()
    }

    pub(crate) async fn misconfigured(&mut self) -> String {
        match self.link("misconfigured", |l| matches!(l, Link::Misconfigured { .. })).await {
            Link::Misconfigured { why, .. } => why,
            Link::Up | Link::Away { .. } => unreachable!("waited for"),
        }
    }

    pub(crate) async fn away(&mut self) {
        self.link("away", |l| matches!(l, Link::Away { .. })).await;
    }

    pub(crate) async fn up(&mut self) {
        self.link("up", |l| *l == Link::Up).await;
    }

    pub(crate) fn counters(&self) -> Counters {
        self.state.borrow().counters
    }

    pub(crate) fn dead(&self) -> Vec<Dead> {
        self.store.dead_from(Seq(0), 1000).unwrap().into_iter().map(|(_, dead)| dead).collect()
    }

    pub(crate) fn delivered(&self) -> Vec<Delivered> {
        self.store.delivered_from(Seq(0), 1000).unwrap().into_iter().map(|(_, done)| done).collect()
    }

    /// The note on a call's hangup.
    pub(crate) fn note(&self, call: &str, event: &str) -> Option<String> {
        let of = |d: &Delivered| d.pending.id == format!("{call}/{event}");
        self.delivered().into_iter().find(of).unwrap().note
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
        self.store.close().await.unwrap();
    }

    /// As a crash does it: nothing more is written by the drain.
    pub(crate) async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
        self.store.close().await.unwrap();
    }
}

pub(crate) fn open(dir: &Path) -> Store {
    let age = Duration::from_hours(1000);
    Store::open(
        dir,
        Limits {
            delivered_max: 100_000,
            delivered_age: age,
            dead_max: 100_000,
            dead_age: age,
            swap_bytes: u64::MAX,
            together_above: 2,
        },
    )
    .unwrap()
}

pub(crate) async fn accept(store: &Store, events: Vec<Pending>) -> Vec<Option<Seq>> {
    store.accept(Accepting { events, state: vec![] }).await.unwrap()
}

pub(crate) fn quick() -> Settings {
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

pub(crate) fn event(call: &str, direction: Direction, what: What) -> Pending {
    let mut event = pending::pending(call, what);
    event.event.direction = direction;
    Pending { happened: clock::now(), ..event }
}

pub(crate) fn new_call(call: &str) -> Pending {
    Pending { happened: clock::now(), ..pending::new_call(call) }
}

pub(crate) fn answer(call: &str) -> Pending {
    let by = Some("1001".to_owned());
    event(call, Direction::In, What::Answer { answering_number: by.clone(), user: by })
}

/// Of a call that nobody answered.
pub(crate) fn hangup(call: &str) -> Pending {
    event(call, Direction::In, What::Hangup { cause: Cause::Cancel })
}

pub(crate) fn hangup_after_answer(call: &str) -> Pending {
    let hangup = event(call, Direction::In, What::Hangup { cause: Cause::NormalClearing });
    Pending { answered: true, ..hangup }
}

pub(crate) fn missed(call: &str) -> Vec<Pending> {
    vec![new_call(call), hangup(call)]
}

pub(crate) fn answered(call: &str) -> Vec<Pending> {
    vec![new_call(call), answer(call), hangup_after_answer(call)]
}

pub(crate) fn aged(events: Vec<Pending>, age: Duration) -> Vec<Pending> {
    let then = UnixMillis(clock::now().0 - u64::try_from(age.as_millis()).unwrap());
    events.into_iter().map(|e| Pending { happened: then, ..e }).collect()
}

pub(crate) fn is_probe(seen: &Seen) -> bool {
    seen.method == "POST" && seen.event.is_none() && seen.body.contains("probe")
}

/// What is logged on this thread while the guard lives.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    pub(crate) fn listen() -> (Self, tracing::subscriber::DefaultGuard) {
        // Where nobody listens on any thread for a moment, tracing may take a line for one that nobody wants.
        static SOMEBODY: std::sync::Once = std::sync::Once::new();
        SOMEBODY.call_once(|| tracing_subscriber::fmt().with_writer(std::io::sink).init());
        let lines = Self::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        (lines, tracing::subscriber::set_default(subscriber))
    }

    pub(crate) fn with(&self, text: &str) -> usize {
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
