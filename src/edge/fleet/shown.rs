//! The fleet as JSON: what a node says of itself, and what is shown of all.
//!
//! What a node says was written by a program of another version perhaps: what is not understood of it is left out.

use serde_json::{Value, json};

use super::{FleetState, SILENT};
use crate::edge::control::Live;
use crate::edge::{mask, status};
use crate::outbox::{Figures, Node};
use crate::store::Store;
use crate::time::UnixMillis;

/// Longest reason that is told to others, in characters.
const REASON_MAX: usize = 200;

/// How a node is, for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// It says how it is.
    Up,
    /// It has said nothing for too long.
    Silent,
    /// It said that it stops.
    Stopped,
}

impl NodeState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Up, Self::Silent, Self::Stopped];

    /// In a word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Silent => "silent",
            Self::Stopped => "stopped",
        }
    }

    /// Of this one.
    #[must_use]
    pub fn of(node: &Node) -> Self {
        let word: Value = serde_json::from_str(&node.status).unwrap_or_default();
        if word["stopped"] == true {
            Self::Stopped
        } else if node.silence >= SILENT {
            Self::Silent
        } else {
            Self::Up
        }
    }
}

/// When it said how it is, by this machine's clock.
#[must_use]
pub fn seen(state: &FleetState, node: &Node) -> UnixMillis {
    let silence = u64::try_from(node.silence.as_millis()).unwrap_or(u64::MAX);
    UnixMillis(state.seen.unwrap_or_default().0.saturating_sub(silence))
}

/// What this node says of itself, without a number and without a secret. Blocks for a moment.
#[must_use]
pub fn said(store: &Store, live: &Live, owner: &str, stopped: bool) -> Value {
    let all = status::status(store, Some(live));
    let pick = |list: &Value, keys: &[&str]| -> Vec<Value> {
        let picked = |one: &Value| {
            let pairs = keys.iter().map(|key| ((*key).to_owned(), short(&one[*key])));
            Value::Object(pairs.collect())
        };
        list.as_array().into_iter().flatten().map(picked).collect()
    };
    json!({
        "id": owner,
        "version": all["version"],
        "started_ms": live.started.0,
        "stopped": stopped,
        "switches": pick(&all["switches"], &["name", "listening", "since", "reason"]),
        "zammads": pick(&all["zammads"], &["name", "link", "since", "reason", "paused", "in_flight"]),
        "to_ship": all["queue"]["waiting"],
        "calls": all["calls"]["going_on"],
        "disk_refuses": store.refused().is_some(),
    })
}

fn short(value: &Value) -> Value {
    match value {
        Value::String(text) => mask::numbers(text).chars().take(REASON_MAX).collect::<String>().into(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.clone(),
    }
}

/// All that is shown of the fleet: see [`status`].
#[must_use]
pub fn shown(state: &FleetState, this: &str, now: UnixMillis) -> Value {
    let age = |at: Option<UnixMillis>| at.map(|at| now.since(at).as_secs());
    json!({
        "reason": state.away,
        "seen_age_s": age(state.seen),
        "figures_age_s": age(state.counted),
        "same_name": state.twin,
        "nodes": state.nodes.iter().map(|one| node(state, one, this)).collect::<Vec<_>>(),
        "zammads": state.figures.iter().map(|(name, figures)| zammad(state, name, figures, now)).collect::<Vec<_>>(),
    })
}

fn node(state: &FleetState, node: &Node, this: &str) -> Value {
    let mut shown: Value = serde_json::from_str(&node.status).unwrap_or_default();
    if !shown.is_object() {
        shown = json!({});
    }
    let at = seen(state, node);
    shown["node"] = node.name.as_str().into();
    shown["this"] = (node.name == this).into();
    shown["state"] = NodeState::of(node).as_str().into();
    shown["seen"] = at.to_string().into();
    shown["seen_ms"] = at.0.into();
    shown
}

fn zammad(state: &FleetState, name: &str, figures: &Figures, now: UnixMillis) -> Value {
    let hands = figures.hands.iter();
    json!({
        "zammad": name, "waiting": figures.waiting,
        "oldest_age_s": figures.oldest.map(|at| now.since(at).as_secs()),
        "dead": figures.dead,
        "delivered_kept": state.delivered.get(name),
        "hands": hands.map(|h| json!({ "node": h.node, "calls": h.calls, "events": h.events })).collect::<Vec<_>>(),
    })
}
