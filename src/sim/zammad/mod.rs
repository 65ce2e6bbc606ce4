//! A stand-in for Zammad's Generic CTI over real HTTP: answers as the real one did, and fails on demand.
//!
//! ```text
//! POST /api/v1/cti/TOKEN        newCall, answer, hangup, probe
//! GET  /api/v1/cti/log          newest 60 rows    } Authorization: Token token=…
//! POST /api/v1/cti/done/ID      {"done": false}   }
//! ```
//!
//! No TLS. Deliberate gaps: no agents, no customers, so no names are looked up and no screens open; a delay
//! ends when the client goes away, where the real one would go on processing.

mod door;
mod fault;
mod http;
mod log;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::door::{Cut, Door};
pub use self::fault::{Answer, Fault, Outcome};
pub use self::log::{Log, Routing, Row, Verdict};
use super::port::Port;
use crate::time::UnixMillis;

/// How this Zammad is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where to listen; port 0 picks a free one.
    pub address: SocketAddr,
    /// The secret at the end of the CTI's URL.
    pub token: String,
    /// The REST credential; without one nobody may read the log.
    pub rest_token: Option<String>,
    /// Whether an administrator has switched the integration on.
    pub enabled: bool,
    /// What an administrator has configured; `None` is "not configured".
    pub routing: Option<Routing>,
    /// What the server's clock says when it starts; from there it runs with Tokio's.
    pub started: UnixMillis,
    /// How many rows and requests are kept, the newest, and the rows of calls that go on; up to twice as many for a
    /// while. `None` keeps all.
    pub keeps: Option<usize>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            token: "sim-token".to_owned(),
            rest_token: None,
            enabled: true,
            routing: Some(Routing::default()),
            started: UnixMillis(1_795_444_000_000),
            keeps: None,
        }
    }
}

/// A request as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// `POST`, `GET`.
    pub method: String,
    /// The path, token included.
    pub path: String,
    /// The body as received.
    pub body: String,
    /// `newCall`, `answer`, `hangup` if it says so.
    pub event: Option<String>,
    /// The call it is about, if it says so.
    pub call_id: Option<String>,
    /// Whether it took effect (or was refused by Zammad itself, not by a scripted fault).
    pub processed: bool,
    /// The status that was answered; `None` while it is under way and after a reset.
    pub status: Option<u16>,
}

/// A running Zammad. Dropped, it is gone with all its connections.
pub struct Zammad {
    shared: Arc<Shared>,
    port: Port,
    open: Option<Open>,
}

struct Open {
    all: CancellationToken,
    server: JoinHandle<()>,
}

impl Zammad {
    /// Listens at once.
    ///
    /// # Errors
    /// If the address cannot be had.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let port = Port::reserve(settings.address)?;
        let mut zammad = Self { shared: Arc::new(Shared::new(settings)), port, open: None };
        zammad.restart()?;
        Ok(zammad)
    }

    /// The CTI address, token included.
    #[must_use]
    pub fn url(&self) -> String {
        let token = self.shared.lock().settings.token.clone();
        format!("{}{}{token}", self.base_url(), http::CTI)
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.port.addr())
    }

    /// The caller log as it stands, oldest row first.
    #[must_use]
    pub fn log(&self) -> Vec<Row> {
        self.shared.lock().log.rows().to_vec()
    }

    /// How often each thing took effect, also of what is not kept: see [`Log::tally`].
    #[must_use]
    pub fn tally(&self) -> BTreeMap<String, u64> {
        self.shared.lock().log.tally().clone()
    }

    /// Every request that is kept, in the order of arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<Seen> {
        self.shared.lock().seen.clone()
    }

    /// The most requests that ever were under way at once for one and the same call. A client that gave one
    /// up and tries again at once can be counted twice for a moment.
    #[must_use]
    pub fn max_in_flight_per_call(&self) -> usize {
        self.shared.lock().max_in_flight
    }

    /// Applies each fault to one of the CTI posts to come, in order; then all is well again.
    pub fn set_faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.shared.lock().faults = faults.into_iter().collect();
    }

    /// Asks `rule` about every request (REST too) that no listed fault applies to.
    pub fn set_fault_rule(&self, rule: impl Fn(&Seen) -> Fault + Send + 'static) {
        self.shared.lock().rule = Some(Box::new(rule));
    }

    /// All is well from here on.
    pub fn clear_faults(&self) {
        let mut inner = self.shared.lock();
        inner.faults.clear();
        inner.rule = None;
    }

    /// Changes the set-up while running: token, switch, routing. The address stays.
    pub fn change(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.shared.lock().settings);
    }

    /// Returns once `true_of` the log and the requests; looks again after each request.
    pub async fn wait_until(&self, mut true_of: impl FnMut(&[Row], &[Seen]) -> bool) {
        let mut changed = self.shared.changed.subscribe();
        loop {
            {
                let inner = self.shared.lock();
                if true_of(inner.log.rows(), &inner.seen) {
                    return;
                }
            }
            changed.changed().await.expect("the sender lives as long as self");
        }
    }

    /// Resets every connection and refuses new ones. Log, requests and faults are kept.
    pub async fn stop(&mut self) {
        if let Some(open) = self.open.take() {
            open.all.cancel();
            open.server.abort();
            // Only once the task is gone is its listening socket closed; that it was cancelled is no news.
            _ = open.server.await;
        }
    }

    /// Listens again, on the same port; does nothing if it does already.
    ///
    /// # Errors
    /// If the port cannot be had any more.
    pub fn restart(&mut self) -> io::Result<()> {
        if self.open.is_some() {
            return Ok(());
        }
        let all = CancellationToken::new();
        let door = Door { listener: self.port.listen()?, all: all.clone() };
        let service = http::router(Arc::clone(&self.shared)).into_make_service_with_connect_info::<Cut>();
        let server = tokio::spawn(async move {
            // It never ends by itself: accept errors are the door's own business.
            _ = axum::serve(door, service).await;
        });
        self.open = Some(Open { all, server });
        Ok(())
    }
}

impl Drop for Zammad {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            open.all.cancel();
            open.server.abort();
        }
    }
}

type Rule = Box<dyn Fn(&Seen) -> Fault + Send>;

struct Shared {
    inner: Mutex<Inner>,
    changed: watch::Sender<()>,
}

struct Inner {
    settings: Settings,
    since: Instant,
    log: Log,
    seen: Vec<Seen>,
    /// Requests that are no longer in `seen`.
    forgotten: usize,
    faults: VecDeque<Fault>,
    rule: Option<Rule>,
    in_flight: HashMap<String, usize>,
    max_in_flight: usize,
}

impl Inner {
    fn now(&self) -> UnixMillis {
        self.settings.started.after(self.since.elapsed())
    }

    fn forget(&mut self) {
        let Some(newest) = self.settings.keeps else { return };
        self.log.forget(newest);
        if self.seen.len() > newest.saturating_mul(2) {
            let gone = self.seen.len() - newest;
            self.seen.drain(..gone);
            self.forgotten += gone;
        }
    }

    /// The request of this number, if it is kept.
    fn seen(&mut self, number: usize) -> Option<&mut Seen> {
        self.seen.get_mut(number.checked_sub(self.forgotten)?)
    }
}

impl Shared {
    fn new(settings: Settings) -> Self {
        let inner = Inner {
            settings,
            since: Instant::now(),
            log: Log::default(),
            seen: Vec::new(),
            forgotten: 0,
            faults: VecDeque::new(),
            rule: None,
            in_flight: HashMap::new(),
            max_in_flight: 0,
        };
        Self { inner: Mutex::new(inner), changed: watch::Sender::new(()) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("a panic while the lock was held has already failed the test")
    }

    fn arrived(self: &Arc<Self>, request: &http::Request) -> Visit {
        let params = request.params().unwrap_or_default();
        let get = |key: &str| params.get(key).and_then(Value::as_str).map(str::to_owned);
        let seen = Seen {
            method: request.method.to_string(),
            path: request.path.clone(),
            body: String::from_utf8_lossy(&request.body).into_owned(),
            event: get("event"),
            call_id: get("callId").or_else(|| get("call_id")),
            processed: false,
            status: None,
        };
        let mut inner = self.lock();
        let listed = if request.is_cti() { inner.faults.pop_front() } else { None };
        let fault = listed.or_else(|| inner.rule.as_ref().map(|rule| rule(&seen))).unwrap_or_default();
        let call_id = seen.call_id.clone();
        if let Some(call_id) = &call_id {
            let now = inner.in_flight.entry(call_id.clone()).or_default();
            *now += 1;
            let now = *now;
            inner.max_in_flight = inner.max_in_flight.max(now);
        }
        let number = inner.forgotten + inner.seen.len();
        inner.seen.push(seen);
        inner.forget();
        drop(inner);
        self.changed.send_replace(());
        Visit { shared: Arc::clone(self), number, call_id, fault }
    }
}

/// One request under way.
struct Visit {
    shared: Arc<Shared>,
    number: usize,
    call_id: Option<String>,
    fault: Fault,
}

impl Visit {
    fn process(&self, request: &http::Request) -> Answer {
        let mut inner = self.shared.lock();
        let answer = inner.process(request);
        if let Some(seen) = inner.seen(self.number) {
            seen.processed = true;
        }
        inner.forget();
        drop(inner);
        self.shared.changed.send_replace(());
        answer
    }

    fn answered(&self, status: u16) {
        if let Some(seen) = self.shared.lock().seen(self.number) {
            seen.status = Some(status);
        }
        self.shared.changed.send_replace(());
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let Some(call_id) = &self.call_id else { return };
        let mut inner = self.shared.lock();
        if let Some(now) = inner.in_flight.get_mut(call_id) {
            *now -= 1;
            if *now == 0 {
                inner.in_flight.remove(call_id);
            }
        }
    }
}
