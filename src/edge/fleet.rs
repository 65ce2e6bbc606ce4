//! One node's lookout over the fleet: says in the outbox how this node is, and reads how the others are and how much waits.
//! For status, page and metrics alone: nobody decides anything by it, and where it fails nothing else does.
//!
//! A node says how it is every [`SAY`]. One that has said nothing for [`SILENT`], by the server's clock, is shown as silent;
//! one that said that it stops, as stopped; after [`FORGOTTEN`] neither is shown any more. The figures are read as often, but
//! so that what waits takes no more than a twentieth of the time to be counted, and what is kept a hundredth: with hundreds
//! of thousands of calls the figures grow older rather than the server busier. How old they are is shown with them.

mod shown;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use shown::{NodeState, said, seen, shown};

use super::clock;
use super::control::Live;
use super::pulse::Beat;
use super::status::{DEAD_SHOWN, DELIVERED_SHOWN};
use crate::outbox::{Entry, Figures, Link, Node, OutboxError, Settings, State};
use crate::queue::backoff::Backoff;
use crate::store::Store;
use crate::time::UnixMillis;

/// How often a node says how it is, and looks.
pub const SAY: Duration = Duration::from_secs(5);
/// A node that has said nothing for so long is silent.
pub const SILENT: Duration = Duration::from_secs(30);
/// A node that has said nothing for so long is forgotten.
pub const FORGOTTEN: Duration = Duration::from_hours(7 * 24);
/// Figures older than this are not given as metrics: nothing is better than what was.
pub const STALE: Duration = Duration::from_mins(2);
/// What waits is counted in at most one of so many parts of the time.
const PARTS: u32 = 20;
/// What is kept, in at most one of so many.
const PARTS_KEPT: u32 = 100;
/// Waits after the server failed.
const AGAIN: Backoff = Backoff { min: Duration::from_millis(500), max: SAY };
/// How long the last word may take.
const LAST_WORD: Duration = Duration::from_secs(2);

/// What is known of the fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetState {
    /// Whether the server answers; if not, why.
    pub away: Option<String>,
    /// When the nodes were read.
    pub seen: Option<UnixMillis>,
    /// Those that take part, by name.
    pub nodes: Vec<Node>,
    /// Another node has this one's name.
    pub twin: bool,
    /// When the figures were read.
    pub counted: Option<UnixMillis>,
    /// What there is, by Zammad.
    pub figures: BTreeMap<String, Figures>,
    /// How many delivered events are kept, by Zammad.
    pub delivered: BTreeMap<String, u64>,
    /// The newest dead letters.
    pub newest_dead: Vec<Entry>,
    /// The newest deliveries.
    pub newest_delivered: Vec<Entry>,
}

impl FleetState {
    /// How many events wait, all Zammads' together, and when the oldest of them happened.
    #[must_use]
    pub fn waiting(&self) -> (u64, Option<UnixMillis>) {
        let all = self.figures.values();
        (all.clone().map(|figures| figures.waiting).sum(), all.filter_map(|figures| figures.oldest).min())
    }
}

/// Reads all of it once: for whoever is asked while no daemon runs.
///
/// # Errors
/// [`OutboxError`].
pub async fn look(settings: Arc<Settings>, zammads: &[String]) -> Result<FleetState, OutboxError> {
    let mut link = Link::new(settings);
    let mut state =
        FleetState { seen: Some(clock::now()), nodes: link.nodes().await?, ..FleetState::default() };
    count(&mut link, zammads, &mut state).await?;
    state.delivered = kept(&mut link, &state).await?;
    Ok(state)
}

/// See the module.
pub struct Lookout {
    /// How the outbox is reached.
    pub settings: Arc<Settings>,
    /// This node's own.
    pub store: Store,
    /// How this node is.
    pub live: Live,
    /// What is found.
    pub state: watch::Sender<FleetState>,
    /// An operator has changed something.
    pub changed: Arc<Notify>,
    /// Where it notes that it moves.
    pub beat: Beat,
}

/// When what is read next.
struct Due {
    count: Instant,
    kept: Instant,
}

impl Lookout {
    /// Runs until cancelled; then it says that this node stops.
    pub async fn run(self, stop: CancellationToken) {
        let mut link = Link::new(Arc::clone(&self.settings));
        let now = clock::monotonic();
        let mut due = Due { count: now, kept: now };
        let mut failures = 0;
        loop {
            self.beat.moved();
            let round = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                round = self.beat.through(self.round(&mut link, &mut due)) => round,
            };
            failures = if round.is_ok() { 0 } else { failures + 1 };
            let away = round.err().map(|why| why.to_string());
            self.state.send_if_modified(|state| std::mem::replace(&mut state.away, away.clone()) != away);
            let pause = if failures == 0 { SAY } else { AGAIN.wait(failures, fastrand::f64()) };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.changed.notified() => due.count = clock::monotonic(),
                () = tokio::time::sleep(pause) => {}
            }
        }
        let last = said(&self.store, &self.live, &self.settings.owner, true).to_string();
        // Who does not hear it sees a silent node.
        let _ = tokio::time::timeout(LAST_WORD, link.say(&last, FORGOTTEN)).await;
    }

    async fn round(&self, link: &mut Link, due: &mut Due) -> Result<(), OutboxError> {
        let (store, live, owner) = (self.store.clone(), self.live.clone(), self.settings.owner.clone());
        let saying = move || said(&store, &live, &owner, false).to_string();
        // Lost only with the whole program.
        let word = tokio::task::spawn_blocking(saying).await.unwrap_or_default();
        let before = link.say(&word, FORGOTTEN).await?;
        let nodes = link.nodes().await?;
        let mut next = self.state.borrow().clone();
        next.twin = self.twin(before.as_ref(), next.twin);
        (next.seen, next.nodes) = (Some(clock::now()), nodes);
        let begun = clock::monotonic();
        if begun >= due.count {
            count(link, &self.zammads(), &mut next).await?;
            due.count = later(begun, PARTS);
        }
        let begun = clock::monotonic();
        if begun >= due.kept {
            next.delivered = kept(link, &next).await?;
            due.kept = later(begun, PARTS_KEPT);
        }
        self.state.send_replace(next);
        Ok(())
    }

    fn zammads(&self) -> Vec<String> {
        let known = self.state.borrow();
        let mut names: BTreeSet<String> = self.live.zammads.iter().map(|(name, ..)| name.clone()).collect();
        names.extend(known.figures.keys().chain(known.delivered.keys()).cloned());
        names.into_iter().collect()
    }

    /// Whether somebody else speaks in this node's name.
    fn twin(&self, before: Option<&Node>, was: bool) -> bool {
        let is = before.is_some_and(|before| {
            let word: serde_json::Value = serde_json::from_str(&before.status).unwrap_or_default();
            let other = word["id"].as_str().is_some_and(|id| id != self.settings.owner);
            other && word["stopped"] != true && before.silence < SILENT
        });
        if is && !was {
            let node = &self.settings.node;
            warn!(name: "node_name_taken", node, "another node of the outbox has the same name; give each its own");
        }
        is
    }
}

/// So that what was begun then takes no more than its part of the time.
fn later(begun: Instant, parts: u32) -> Instant {
    let now = clock::monotonic();
    now + now.saturating_duration_since(begun) * (parts - 1)
}

/// What is kept, of each Zammad of which there is anything.
async fn kept(link: &mut Link, known: &FleetState) -> Result<BTreeMap<String, u64>, OutboxError> {
    let mut kept: BTreeMap<String, u64> = known.figures.keys().map(|name| (name.clone(), 0)).collect();
    kept.extend(link.delivered().await?);
    Ok(kept)
}

/// What waits and what is dead.
async fn count(link: &mut Link, zammads: &[String], into: &mut FleetState) -> Result<(), OutboxError> {
    into.figures = link.figures(zammads).await?;
    let names: Vec<String> = into.figures.keys().cloned().collect();
    into.newest_dead = link.newest(&names, State::Dead, DEAD_SHOWN).await?;
    into.newest_dead.truncate(DEAD_SHOWN);
    into.newest_delivered = link.newest(&names, State::Delivered, DELIVERED_SHOWN).await?;
    into.newest_delivered.truncate(DELIVERED_SHOWN);
    into.counted = Some(clock::now());
    Ok(())
}
