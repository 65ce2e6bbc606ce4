//! Builds the parts from a configuration, starts their tasks, stops them in order. Decides nothing.
//!
//! Stopping goes with the stream: the listeners first, so that nothing new comes in; then the intake, which
//! commits what it has; then the drains, which finish the requests on their way; then the store.

pub mod fleet;
mod reload;

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::call::tracker::Tracker;
use crate::config::{AdminConfig, Config, SwitchConfig, ZammadConfig};
use crate::cti::client::{Client, ClientError};
use crate::edge::accept::{Acceptor, ToDrain};
use crate::edge::admin;
use crate::edge::backfill::{self, Backfill, BackfillState, Hearing, Noted};
use crate::edge::clock;
use crate::edge::control::{self, Live};
use crate::edge::doubts::Doubts;
use crate::edge::drain::{self, Drain, DrainState};
use crate::edge::history;
use crate::edge::intake;
use crate::edge::listener::{self, Ask, Heard, LinkState};
use crate::edge::ongoing::Ongoing;
use crate::edge::shown::Shown;
use crate::edge::source::Source;
use crate::esl::session::{Fault, Login};
use crate::queue::breaker::Link;
use crate::queue::schedule::Counters;
use crate::store::{Limits, Rest, Store, StoreError, TOGETHER_ABOVE};

/// Delivered events that are kept, whatever their age: three days of 10,000 calls. sled's file settles at some 2.5 kB
/// for each, and its memory follows its file.
const DELIVERED_MAX: usize = 100_000;
/// A store's directory that is larger, in bytes, is made anew once its events are delivered.
const SWAP_BYTES: u64 = 64 * 1024 * 1024;
/// Questions that may wait for a switch.
const ASKS: usize = 64;

/// Why the daemon cannot start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The store.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A switch refuses us.
    #[error("switch {name}: {fault}")]
    Switch {
        /// By its configured name.
        name: String,
        /// Why.
        fault: Fault,
    },
    /// A Zammad's client cannot be made.
    #[error("zammad {name}: {why}")]
    Zammad {
        /// By its configured name.
        name: String,
        /// Why.
        why: ClientError,
    },
}

impl Failure {
    /// Whether starting again would fail the same way until a person changes something.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Store(why) => why.is_permanent(),
            Self::Switch { fault, .. } => fault.is_permanent(),
            Self::Zammad { .. } => true,
        }
    }
}

/// A running daemon.
pub struct Daemon {
    config: Config,
    levers: reload::Levers,
    live: Live,
    failure: mpsc::Receiver<Failure>,
    listeners: JoinSet<()>,
    intake: JoinHandle<()>,
    drains: JoinSet<()>,
    control: JoinHandle<()>,
    hear: CancellationToken,
    post: CancellationToken,
    store: Store,
}

impl Daemon {
    /// Opens the store and starts every task. Links and Zammads need not be there yet.
    ///
    /// # Errors
    /// If the store cannot be opened, or a Zammad's client cannot be made.
    pub async fn start(config: Config) -> Result<Self, Failure> {
        Self::start_with(config, None).await
    }

    /// As [`Daemon::start`], on a store that has just been begun anew: what is still to be taken in of the damaged one.
    ///
    /// # Errors
    /// As [`Daemon::start`]'s.
    pub async fn start_with(config: Config, rest: Option<Rest>) -> Result<Self, Failure> {
        let clients = clients(&config)?;
        let store = open(&config, rest).await?;
        // From here on nobody else can look into the store: so that whoever wants to can ask us.
        let socket = control::listen(&config.state_dir);
        let (hear, post) = (CancellationToken::new(), CancellationToken::new());
        let (fail, failure) = mpsc::channel(1);
        let (heard, hearing) = mpsc::channel(intake::QUEUE);
        let mut live = Live::new(clock::now());
        let (board, shelf, pulse) = (live.board.clone(), live.shelf.clone(), live.pulse.clone());
        let page = listen(config.admin.as_ref()).await;
        live.admin = page.as_ref().map(admin::Server::admin);
        let (asks, asked): (Vec<_>, Vec<_>) = config.switches.iter().map(|_| mpsc::channel(ASKS)).unzip();
        let (blocked, to_end) = mpsc::channel(ASKS);
        let rules = watch::Sender::new(Arc::new(reload::rules(&config)));
        let mut drains = JoinSet::new();
        let mut to_drains = Vec::new();
        let fleet = fleet::join(&config, &store, &mut live, &mut drains, &post)?;
        for (zammad, client) in config.zammads.iter().zip(clients) {
            let (to, accepted) = mpsc::channel(drain::QUEUE);
            let (order, orders) = mpsc::channel(drain::ORDERS);
            let (state, shown) = watch::channel(idle());
            let name = zammad.name.to_string();
            let (source, to, order) = match &fleet {
                Some(fleet) => fleet.share(&name, (to, order), &mut live, &mut drains, &post),
                None => (Source::Own(store.clone()), to, order),
            };
            to_drains.push(ToDrain { zammad: name.clone(), accepted: to, orders: order.clone() });
            live.zammads.push((name.clone(), Shown::new(zammad.url.to_string()), shown, order));
            let end_blocked = Some(blocked.clone());
            let beat = pulse.join(format!("zammad {name}"));
            let took = live.posts.of(&name);
            let drain = Drain {
                name,
                source,
                store: store.clone(),
                client,
                accepted,
                orders,
                end_blocked,
                state,
                beat,
                took,
            };
            drains.spawn(drain.run(
                config.delivery.schedule(TimeZone::system(), zammad.rest_token.is_some()),
                post.clone(),
            ));
        }

        let mut listeners = JoinSet::new();
        let (mut switches, mut links) = (Vec::new(), Vec::new());
        let channels = asks.into_iter().zip(asked);
        for (at, (switch, (wanted, asked))) in config.switches.iter().zip(channels).enumerate() {
            let (state, shown) = watch::channel(LinkState::new(clock::now()));
            live.switches.push((switch.name.to_string(), Shown::new(switch.address.to_string()), shown));
            let backfill = backfill_of(switch, at, rules.subscribe(), &store, &heard);
            let hearing = backfill.map(|(backfill, noted, shown)| {
                live.backfills.push((switch.name.to_string(), shown));
                listeners.spawn(backfill.run(hear.clone()));
                noted
            });
            let hearing = Hearing::new(hearing);
            let doubts = fleet.as_ref().map(fleet::Fleet::doubts);
            switches.push(intake_switch(&config, switch, wanted, hearing, live.ongoing.clone(), doubts));
            let (settings, configured) = watch::channel(link(switch));
            links.push(settings);
            let beat = pulse.join(format!("switch {}", switch.name));
            let job = listener::run(configured, at, heard.clone(), asked, state, beat, hear.clone());
            let (fail, name) = (fail.clone(), switch.name.to_string());
            listeners.spawn(async move {
                if let Err(fault) = job.await {
                    // Full means that another failure already stops the daemon.
                    let _ = fail.try_send(Failure::Switch { name, fault });
                }
            });
        }
        drop(heard);
        intake::restore(&store, &mut switches, &shelf)?;
        let acceptor = Acceptor::new(store.clone(), to_drains, rules.borrow().bound);
        let (send, sent) = mpsc::channel(ASKS);
        live.sent = Some(send);
        let orders = intake::Orders { blocked: to_end, rules: rules.subscribe(), sent };
        let job = intake::run(acceptor, switches, hearing, orders, board, shelf, pulse.join("intake"));
        let intake = tokio::spawn(async move {
            if let Err(why) = job.await {
                let _ = fail.try_send(Failure::Store(why));
            }
        });
        if let Some(fleet) = fleet {
            fleet.watch(&store, &live, &mut drains, &post);
        }
        let control = serve(socket, store.clone(), live.clone(), post.clone());
        // Until the drains have finished: how they do is still to be seen.
        let fleets = live.outbox.as_ref().map(|outbox| outbox.fleet.clone());
        drains.spawn(history::run(live.history.clone(), store.clone(), fleets, post.clone()));
        if let Some(page) = page {
            drains.spawn(page.serve(store.clone(), live.clone(), post.clone()));
        }
        let levers = reload::Levers { rules, links };
        Ok(Self { config, levers, live, failure, listeners, intake, drains, control, hear, post, store })
    }

    /// What it is doing.
    #[must_use]
    pub const fn live(&self) -> &Live {
        &self.live
    }

    /// Its store, to look into.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// Returns when something fails that the daemon cannot go on without. May be dropped.
    pub async fn failed(&mut self) -> Failure {
        tokio::select! {
            failure = self.failure.recv() => match failure {
                Some(failure) => failure,
                None => std::future::pending().await,
            },
            why = self.store.broken() => Failure::Store(why),
        }
    }

    /// Stops in order. When it returns all that was accepted is on disk and the store is free.
    ///
    /// # Errors
    /// If the last writes failed.
    pub async fn stop(mut self) -> Result<(), Failure> {
        self.hear.cancel();
        while self.listeners.join_next().await.is_some() {}
        joined("intake", self.intake.await);
        self.post.cancel();
        while self.drains.join_next().await.is_some() {}
        joined("control", self.control.await);
        self.store.close().await?;
        info!(name: "stopped", "stopped");
        Ok(())
    }
}

fn joined(name: &str, end: Result<(), tokio::task::JoinError>) {
    if let Err(why) = end {
        error!(name: "task_lost", task = name, reason = %why, "a task was lost");
    }
}

fn clients(config: &Config) -> Result<Vec<Client>, Failure> {
    config.zammads.iter().map(client).collect()
}

fn client(zammad: &ZammadConfig) -> Result<Client, Failure> {
    Client::new(zammad.url.expose(), &zammad.tls, zammad.timeout)
        .map(|client| match &zammad.rest_token {
            Some(token) => client.with_rest_token(token.expose()),
            None => client,
        })
        .map_err(|why| Failure::Zammad { name: zammad.name.to_string(), why })
}

async fn open(config: &Config, rest: Option<Rest>) -> Result<Store, StoreError> {
    let (dir, limits) = (config.state_dir.clone(), limits(config));
    let opened = tokio::task::spawn_blocking(move || Store::open_with(&dir, limits, rest)).await;
    opened.unwrap_or(Err(StoreError::Closed))
}

/// How much of the past the store keeps.
#[must_use]
pub fn limits(config: &Config) -> Limits {
    Limits {
        delivered_max: DELIVERED_MAX,
        delivered_age: config.delivery.delivered_keep,
        dead_max: config.delivery.dead_keep_max.get(),
        dead_age: config.delivery.dead_keep,
        swap_bytes: SWAP_BYTES,
        together_above: TOGETHER_ABOVE,
    }
}

/// How a switch is reached.
#[must_use]
pub fn link(switch: &SwitchConfig) -> listener::Settings {
    listener::Settings {
        name: switch.name.to_string(),
        address: switch.address.to_string(),
        login: Login {
            user: switch.user.as_ref().map(ToString::to_string),
            password: switch.password.expose().to_owned(),
        },
        heartbeat_timeout: switch.heartbeat_timeout,
    }
}

/// The backfill of a switch that has one, where the intake tells it, and what status shows of it.
fn backfill_of(
    switch: &SwitchConfig,
    at: usize,
    rules: watch::Receiver<Arc<intake::Rules>>,
    store: &Store,
    intake: &mpsc::Sender<Heard>,
) -> Option<(Backfill, mpsc::Sender<Noted>, watch::Receiver<BackfillState>)> {
    let dir = switch.cdr_dir.clone()?;
    let (tell, noted) = mpsc::channel(backfill::QUEUE);
    let (state, shown) = watch::channel(BackfillState::default());
    let backfill = Backfill {
        name: switch.name.to_string(),
        switch: at,
        dir,
        rules,
        store: store.clone(),
        noted,
        intake: intake.clone(),
        state,
    };
    Some((backfill, tell, shown))
}

fn intake_switch(
    config: &Config,
    switch: &SwitchConfig,
    wanted: mpsc::Sender<Ask>,
    hearing: Hearing,
    ongoing: Ongoing,
    doubts: Option<Doubts>,
) -> intake::Switch {
    intake::Switch {
        name: switch.name.to_string(),
        zammad: switch.zammad.to_string(),
        handled: 0,
        tracker: explaining(Tracker::new(Arc::new(config.calls_of(switch)))),
        wanted,
        hearing,
        missed: vec![],
        ongoing,
        doubts,
    }
}

fn explaining(mut tracker: Tracker) -> Tracker {
    tracker.explain();
    tracker
}

fn serve(
    socket: std::io::Result<control::Socket>,
    store: Store,
    live: Live,
    stop: CancellationToken,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        match socket {
            Ok(socket) => socket.serve(store, live, stop).await,
            Err(why) => {
                warn!(name: "control_socket_missing", reason = %why, "no control socket: status and queue only work while the daemon is stopped");
            }
        }
    })
}

/// The status page, if the configuration wants one. Calls are told without it, so one whose address cannot be had keeps
/// nothing from starting.
async fn listen(config: Option<&AdminConfig>) -> Option<admin::Server> {
    let AdminConfig { listen, host } = config?;
    match admin::listen(*listen, host.clone()).await {
        Ok(page) => Some(page),
        Err(why) => {
            error!(name: "page_missing", address = %listen, reason = %why, "no status page, metrics and health: this address cannot be had");
            None
        }
    }
}

fn idle() -> DrainState {
    DrainState {
        link: Link::Up,
        paused: false,
        in_flight: 0,
        counters: Counters::default(),
        last_delivery: None,
    }
}

/// Longest time a stop may take before the process ends anyway: what is accepted is on disk in any case.
pub const STOP_MAX: Duration = Duration::from_secs(25);
