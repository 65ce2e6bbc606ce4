//! Events in, accepted events out: drives one [`Tracker`] per switch and commits what comes of it in groups.
//!
//! What the trackers say and what they remember is one transaction of the store: after a crash both are of the
//! same moment. A group is what has come in while the last one was being synced.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::clock;
use super::listener::{Heard, What};
use crate::call::tracker::{News, Output, Tracker};
use crate::esl::event::Event;
use crate::store::state::{self, StateError};
use crate::store::{Accepting, Pending, Seq, StateChange, Store, StoreError};
use crate::time::UnixMillis;

/// Messages that may wait between the listeners and the intake.
pub const QUEUE: usize = 4096;
/// Most messages that go into one commit.
const GROUP: usize = 512;
/// Most legs that are asked for after a gap; more are left to their own events.
const LEGS_ASKED: usize = 2000;
/// Wait before the disk is tried again.
const DISK_WAIT: Duration = Duration::from_secs(1);

/// One switch, as the intake knows it.
pub struct Switch {
    /// By its configured name.
    pub name: String,
    /// The Zammad its calls go to: index of its drain.
    pub zammad: usize,
    /// That Zammad's configured name.
    pub zammad_name: String,
    /// Its calls.
    pub tracker: Tracker,
    /// Where to ask for legs.
    pub wanted: mpsc::Sender<Vec<String>>,
}

/// What status shows of the calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Calls going on.
    pub calls: usize,
    /// Legs remembered.
    pub legs: usize,
    /// Events accepted since the start.
    pub accepted: u64,
    /// Events that had been accepted before and were not queued again.
    pub repeated: u64,
}

/// Where the intake leaves its figures.
pub type Board = Arc<Mutex<Figures>>;

/// An accepted event on its way to a drain.
pub type Accepted = (Seq, Pending);

/// Puts the trackers back where they were when the store was last written.
///
/// # Errors
/// [`StoreError`] if the store cannot be read. State that is damaged is left out and said so: the resync finds
/// what is really there.
pub fn restore(store: &Store, switches: &mut [Switch]) -> Result<(), StoreError> {
    let by_name: HashMap<String, usize> =
        switches.iter().enumerate().map(|(at, s)| (s.name.clone(), at)).collect();
    for (key, value) in store.state()? {
        let family = state::decode(&key, &value);
        match family.map(|(switch, family)| (by_name.get(&switch).copied(), family)) {
            Ok((Some(at), (key, legs, calls))) => switches[at].tracker.restore(key, legs, calls),
            Ok((None, _)) => {
                warn!(key, "the store remembers calls of a switch that is not configured any more")
            }
            Err(StateError(why)) => {
                warn!(key, reason = why, "remembered calls cannot be read and are left out")
            }
        }
    }
    Ok(())
}

/// Runs until every listener is gone, or the store fails for good.
///
/// # Errors
/// A store failure that waiting cannot mend.
pub async fn run(
    store: Store,
    mut switches: Vec<Switch>,
    mut heard: mpsc::Receiver<Heard>,
    drains: Vec<mpsc::Sender<Accepted>>,
    board: Board,
) -> Result<(), StoreError> {
    let mut resyncs: Vec<Resync> = switches.iter().map(|_| Resync::default()).collect();
    let mut group = Vec::with_capacity(GROUP);
    loop {
        let due = switches.iter().filter_map(|s| s.tracker.poll_timeout()).min();
        let woken = tokio::select! {
            count = heard.recv_many(&mut group, GROUP) => Woken::Heard(count),
            () = clock::wait_until(due) => Woken::Due,
        };
        match woken {
            Woken::Heard(0) => return Ok(()),
            Woken::Heard(_) | Woken::Due => {}
        }
        let now = clock::now();
        for switch in &mut switches {
            switch.tracker.handle_timeout(now);
        }
        for message in group.drain(..) {
            let at = message.switch;
            handle(&mut switches[at], &mut resyncs[at], message);
        }
        commit(&store, &mut switches, &drains, &board).await?;
    }
}

enum Woken {
    Heard(usize),
    Due,
}

/// After a gap: which legs are in doubt, and what the switch says of those we never heard of.
#[derive(Default)]
struct Resync {
    doubted: HashSet<String>,
    found: Vec<(UnixMillis, Event)>,
}

fn handle(switch: &mut Switch, resync: &mut Resync, heard: Heard) {
    match heard.what {
        What::Event(event) => switch.tracker.handle_event(&event, heard.at),
        What::Listening => {
            resync.doubted = switch.tracker.live_legs().map(str::to_owned).collect();
            resync.found.clear();
        }
        What::Channels(body) => {
            let Some(listed) = listed_legs(&body) else {
                warn!(
                    switch = switch.name,
                    "the switch's list of channels cannot be read; calls that ended unheard stay open"
                );
                return;
            };
            let gone: Vec<String> = resync.doubted.drain().filter(|leg| !listed.contains(leg)).collect();
            for leg in &gone {
                switch.tracker.vanished(leg, heard.at);
            }
            let known: HashSet<&str> = switch.tracker.live_legs().collect();
            let mut unheard: Vec<String> =
                listed.into_iter().filter(|leg| !known.contains(leg.as_str())).collect();
            unheard.truncate(LEGS_ASKED);
            if !gone.is_empty() || !unheard.is_empty() {
                info!(
                    switch = switch.name,
                    ended = gone.len(),
                    begun = unheard.len(),
                    "legs that changed unheard"
                );
            }
            // Full only if the link is lost again, and then all this is asked anew.
            let _ = switch.wanted.try_send(unheard);
        }
        What::Leg(event) => resync.found.push((heard.at, event)),
        What::Synced => {
            // First every leg, then, when all are known, who is connected to whom.
            let mut found = std::mem::take(&mut resync.found);
            found.sort_by_key(|(_, event)| created(event));
            for _ in 0..2 {
                for (at, event) in &found {
                    switch.tracker.handle_event(event, *at);
                }
            }
        }
    }
}

fn created(event: &Event) -> u64 {
    event.get("Caller-Channel-Created-Time").and_then(|t| t.parse().ok()).unwrap_or_default()
}

/// The legs in an answer to `show channels as json`; an idle switch leaves `rows` out.
fn listed_legs(body: &[u8]) -> Option<HashSet<String>> {
    let answer: Value = serde_json::from_str(&String::from_utf8_lossy(body)).ok()?;
    answer.get("row_count")?;
    let rows = answer.get("rows").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    Some(rows.iter().filter_map(|row| row.get("uuid")?.as_str().map(str::to_owned)).collect())
}

async fn commit(
    store: &Store,
    switches: &mut [Switch],
    drains: &[mpsc::Sender<Accepted>],
    board: &Board,
) -> Result<(), StoreError> {
    let mut accepting = Accepting::default();
    let mut targets = Vec::new();
    for switch in switches.iter_mut() {
        while let Some(output) = switch.tracker.poll_output() {
            match output {
                Output::News(news) => {
                    accepting.events.push(pending(switch, news));
                    targets.push(switch.zammad);
                }
                Output::Note { .. } => {} // only asked for by `trace --explain`
            }
        }
        while let Some((family, value)) = switch.tracker.poll_changed() {
            let key = state::key(&switch.name, family);
            accepting
                .state
                .push(StateChange { key, value: value.map(|(legs, calls)| state::encode(&legs, &calls)) });
        }
    }
    let mut figures = Figures {
        calls: switches.iter().map(|s| s.tracker.open_calls()).sum(),
        legs: switches.iter().map(|s| s.tracker.legs()).sum(),
        ..*board.lock().unwrap_or_else(PoisonError::into_inner)
    };
    if !accepting.events.is_empty() || !accepting.state.is_empty() {
        let seqs = accept(store, &accepting).await?;
        for ((seq, event), target) in seqs.into_iter().zip(accepting.events).zip(targets) {
            let Some(seq) = seq else {
                figures.repeated += 1;
                continue;
            };
            figures.accepted += 1;
            // A drain that is gone finds the event in the store when it is back.
            let _ = drains[target].send((seq, event)).await;
        }
    }
    *board.lock().unwrap_or_else(PoisonError::into_inner) = figures;
    Ok(())
}

/// Until the disk takes it: meanwhile events wait in the listeners' queue, then in the switch.
async fn accept(store: &Store, accepting: &Accepting) -> Result<Vec<Option<Seq>>, StoreError> {
    loop {
        match store.accept(accepting.clone()).await {
            Ok(seqs) => return Ok(seqs),
            Err(why) if why.is_permanent() || matches!(why, StoreError::Closed) => return Err(why),
            Err(why) => {
                error!(reason = %why, waiting = accepting.events.len(), "events cannot be stored; trying again");
                tokio::time::sleep(DISK_WAIT).await;
            }
        }
    }
}

fn pending(switch: &Switch, news: News) -> Pending {
    Pending {
        id: news.id,
        zammad: switch.zammad_name.clone(),
        switch: switch.name.clone(),
        event: news.event,
        happened: news.at,
        answered: news.answered,
        attempt: None,
        held: false,
        restored: false,
    }
}
