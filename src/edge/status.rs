//! How the daemon is, as one JSON object: the single source of `status`, `top`, the page and the metrics.
//!
//! ```text
//! { "version": "0.1.0", "running": true,
//!   "now": "2026-11-25T02:00:00Z", "now_ms": …, "started": "…",            when this was said; when the daemon started
//!   "queue": { "waiting": 3, "oldest_age_s": 12 | null, "dead": 0, "delivered_kept": 40,
//!              "disk_bytes": 524288 | null, "disk_refuses": null | "why",
//!              "taking_in": null | { "directory": "/…/queue.damaged-…", "rows": 1000000, "left": 420000 } },
//!   "calls": { "going_on": 2, "legs": 5, "events_handled": …, "events_accepted": …, "events_repeated": …,
//!              "events_dropped": …, "events_unaccepted": … },
//!   "switches": [{ "name", "address", "listening": true, "since", "reason": "", "losses", "events", "skipped",
//!                  "waits_for_disk", "last_event" }],
//!   "backfills": [{ "switch", "dir", "busy", "gaps", "files", "calls", "skipped", "left_out", "lost",
//!                   "unlisted", "reason" }],
//!   "outbox": { "node", "reason": null | "why it takes nothing", "shipped", "known", "last_shipped",       only with one
//!               "shares": [{ "zammad", "reason": null | "why nothing is taken", "calls", "events", "lost" }],
//!               "fleet": { "reason": null | "why it cannot be read now", "seen_age_s", "figures_age_s", "same_name": false,
//!                          "nodes": [{ "node", "this": true, "state": "up" | "silent" | "stopped", "seen", "seen_ms",
//!                                      "version", "started_ms", "switches": [{ "name", "listening", "since", "reason" }],
//!                                      "zammads": [{ "name", "link", "since", "reason", "paused", "in_flight" }],
//!                                      "to_ship", "calls", "disk_refuses" }],
//!                          "zammads": [{ "zammad", "waiting", "oldest_age_s", "dead", "delivered_kept",
//!                                        "hands": [{ "node", "calls", "events" }] }] } },
//!   "loops": [{ "name", "still_ms", "stuck": false }],                      what the daemon is made of, and whether it moves
//!   "zammads": [{ "name", "url", "link": "up" | "unasked" | "away" | "misconfigured", "reason", "since", "paused",
//!                 "in_flight", "last_delivery", "delivered", "dead", "repeated", "healed", "ambiguous", "dropped",
//!                 "looked_up" }] }
//! ```
//!
//! That is [`status`]; from a store without a daemon only `version`, `running`, `now` and `queue` are there, the names of
//! the Zammads that are `paused`, of `outbox` its `node` and `fleet`, and of the lists all but `history`.
//! [`snapshot`] adds lists, each bounded, newest first:
//!
//! ```text
//! { "masked": true,                                                       whether numbers are hidden in all of this
//!   "calls_now": [{ "id", "switch", "direction": "in" | "out", "from", "to", "queue": null | "Support", "since_ms",
//!                   "state": "ringing" | "dialling" | "talking" | "mailbox",
//!                   "answered_by": null | "Eva", "answered_ms": null | … }],
//!   "delivered": [{ "seq", "zammad", "switch", "call": id, "event": "newCall" | "answer" | "hangup", "direction",
//!                   "from", "to", "what": null | who answered, or the cause, "happened_ms", "settled_ms",
//!                   "note": null | "…" }],      of the shared outbox: "seq": null, "key": its name here, "node": who told it
//!   "dead_letters": the same, with the story as "note",
//!   "history": { "step_s": 10, "samples": [[ms, most waiting, longest age in s], …] } }    oldest first
//! ```
//!
//! Times are text as in the log, or milliseconds since 1970 where the key ends in `_ms`.

use std::time::Duration;

use serde_json::{Value, json};

use super::backfill::BackfillState;
use super::claims::ShareState;
use super::control::{Live, Outbox};
use super::drain::DrainState;
use super::listener::LinkState;
use super::ongoing::{self, Call, Calls};
use super::shown::Shown;
use super::{clock, fleet, history, mask, pauses, pulse, shipper};
use crate::cti::event::{Direction, What};
use crate::outbox::Entry;
use crate::queue::breaker::Link;
use crate::queue::schedule::Counters;
use crate::store::{Pending, Seq, Store, TakingIn, state};
use crate::time::UnixMillis;

/// Most calls that are listed; there can be more.
pub const CALLS_SHOWN: usize = 100;
/// Most deliveries that are listed.
pub const DELIVERED_SHOWN: usize = 25;
/// Most dead letters that are listed.
pub const DEAD_SHOWN: usize = 50;

/// Whether telephone numbers are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Only their last digits.
    Masked,
    /// As they are.
    Whole,
}

/// Figures and states: no number of anybody. Blocks for a moment.
#[must_use]
pub fn status(store: &Store, live: Option<&Live>) -> Value {
    let now = clock::now();
    let counts = store.counts();
    // While the disk refuses, and of a damaged row, there is nothing to say.
    let oldest = store.oldest_pending().ok().flatten().map(|(_, p)| now.since(p.happened).as_secs());
    let mut status = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "running": live.is_some(),
        "now": now.to_string(),
        "now_ms": now.0,
        "queue": {
            "waiting": counts.pending,
            "oldest_age_s": oldest,
            "dead": counts.dead,
            "delivered_kept": counts.delivered,
            "disk_bytes": store.disk_bytes().ok(),
            "disk_refuses": store.refused().map(|why| why.to_string()),
            "taking_in": store.taking_in().map(taking_in),
        },
    });
    if live.is_none() {
        status["paused"] = pauses::all(store).unwrap_or_default().into();
    }
    if let Some(live) = live {
        let figures = live.figures();
        status["started"] = live.started.to_string().into();
        status["calls"] = json!({
            "going_on": figures.calls, "legs": figures.legs, "events_handled": figures.handled, "events_accepted": figures.accepted,
            "events_repeated": figures.repeated,
            "events_dropped": figures.dropped,
            "events_unaccepted": figures.unaccepted,
        });
        status["switches"] = live
            .switches
            .iter()
            .map(|(name, address, state)| switch(name, address, &state.borrow()))
            .collect();
        status["backfills"] =
            live.backfills.iter().map(|(name, state)| backfill(name, &state.borrow())).collect();
        if let Some(outbox) = &live.outbox {
            let shipper = outbox.shipper.borrow().clone();
            let shares = outbox.shares.iter().map(|(zammad, state)| {
                let ShareState { away, calls, events, lost } = state.borrow().clone();
                json!({ "zammad": zammad, "reason": away, "calls": calls, "events": events, "lost": lost })
            });
            status["outbox"] = json!({
                "node": outbox.node, "reason": shipper.away, "shipped": shipper.shipped, "known": shipper.known,
                "last_shipped": shipper.last.map(|at| at.to_string()), "shares": shares.collect::<Vec<_>>(),
                "fleet": fleet::shown(&outbox.fleet.borrow(), &outbox.node, now),
            });
        }
        status["loops"] = live.pulse.ages(clock::monotonic()).iter().map(a_loop).collect();
        status["zammads"] =
            live.zammads.iter().map(|(name, url, state, _)| zammad(name, url, &state.borrow())).collect();
    }
    status
}

/// [`status`] and the lists; of the history only what began at `from` or later. Blocks for a moment.
#[must_use]
pub fn snapshot(store: &Store, live: Option<&Live>, seen: Seen, from: UnixMillis) -> Value {
    let mut all = status(store, live);
    all["masked"] = (seen == Seen::Masked).into();
    // What cannot be read now is not shown now; `queue.disk_refuses` says why.
    let shared = live.and_then(|live| live.outbox.as_ref());
    let delivered = store.newest_delivered(DELIVERED_SHOWN).unwrap_or_default();
    let here = |note: Option<&str>| shared.is_none() || note != Some(shipper::NOTE);
    let delivered = delivered.iter().filter(|(_, row)| here(row.note.as_deref()));
    let delivered =
        delivered.map(|(seq, row)| settled(*seq, &row.pending, row.delivered, row.note.as_deref(), seen));
    let dead = store.newest_dead(DEAD_SHOWN).unwrap_or_default();
    let dead = dead.iter().map(|(seq, row)| settled(*seq, &row.pending, row.died, Some(&row.story), seen));
    let fleet = shared.map(|shared| shared.fleet.borrow().clone()).unwrap_or_default();
    let there = |entries: &[Entry]| -> Vec<Value> {
        let row = |entry| in_outbox(shared?, entry, seen);
        entries.iter().filter_map(row).collect()
    };
    all["delivered"] = newest(delivered.chain(there(&fleet.newest_delivered)), DELIVERED_SHOWN);
    all["dead_letters"] = newest(dead.chain(there(&fleet.newest_dead)), DEAD_SHOWN);
    let calls = match live {
        Some(live) => ongoing::lock(&live.ongoing).newest(CALLS_SHOWN),
        None => remembered(store).newest(CALLS_SHOWN),
    };
    all["calls_now"] = calls.iter().map(|now| call(now, seen)).collect();
    if let Some(live) = live {
        let samples = history::lock(&live.history);
        let samples: Vec<Value> =
            samples.since(from).map(|s| json!([s.at.0, s.waiting, s.oldest_s])).collect();
        all["history"] = json!({ "step_s": history::STEP.as_secs(), "samples": samples });
    }
    all
}

fn newest(rows: impl Iterator<Item = Value>, limit: usize) -> Value {
    let mut rows: Vec<Value> = rows.collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row["settled_ms"].as_u64()));
    rows.truncate(limit);
    rows.into()
}

/// One that is over in the outbox; one that cannot be read is not shown, only counted.
fn in_outbox(outbox: &Outbox, entry: &Entry, seen: Seen) -> Option<Value> {
    let event = entry.event.as_ref().ok()?;
    let mut row = settled(Seq(0), event, entry.settled?, entry.note.as_deref(), seen);
    row["seq"] = Value::Null;
    row["key"] = outbox.desk.key(&entry.id).into();
    row["node"] = entry.settled_by.as_deref().into();
    Some(row)
}

/// The calls that went on when the daemon stopped. What cannot be read of them the daemon says when it starts.
fn remembered(store: &Store) -> Calls {
    let mut calls = Calls::default();
    for (key, value) in store.state().unwrap_or_default() {
        if let Ok((switch, (_, legs, open))) = state::decode(&key, &value) {
            calls.restored(&switch, &legs, &open);
        }
    }
    calls
}

impl Seen {
    fn number(self, number: &str) -> String {
        match self {
            Self::Masked => mask::number(number),
            Self::Whole => number.to_owned(),
        }
    }

    /// A text in which a number may stand.
    fn text(self, text: &str) -> String {
        match self {
            Self::Masked => mask::numbers(text),
            Self::Whole => text.to_owned(),
        }
    }
}

fn call(call: &Call, seen: Seen) -> Value {
    let answer = call.answer.as_ref();
    let state = match (answer, call.direction) {
        (Some(answer), _) if answer.is_mailbox() => "mailbox",
        (Some(_), _) => "talking",
        (None, Direction::In) => "ringing",
        (None, Direction::Out) => "dialling",
    };
    let by = answer.and_then(|a| match (&a.user, &a.number) {
        (Some(user), _) => Some(seen.text(user)),
        (None, Some(number)) => Some(seen.number(number)),
        (None, None) => None,
    });
    json!({
        "id": seen.text(call.id.as_str()), "switch": call.switch, "direction": call.direction.as_str(),
        "from": seen.number(&call.from), "to": seen.number(&call.to),
        "queue": call.queue.as_deref().map(|queue| seen.text(queue)),
        "since_ms": call.since.0, "state": state,
        "answered_by": by, "answered_ms": answer.and_then(|a| a.since).map(|t| t.0),
    })
}

fn settled(seq: Seq, row: &Pending, at: UnixMillis, note: Option<&str>, seen: Seen) -> Value {
    let event = &row.event;
    let (kind, what) = match &event.what {
        What::NewCall { queue, .. } => ("newCall", queue.as_deref().map(|queue| seen.text(queue))),
        What::Answer { user: Some(user), .. } => ("answer", Some(seen.text(user))),
        What::Answer { user: None, answering_number } => {
            ("answer", answering_number.as_deref().map(|number| seen.number(number)))
        }
        What::Hangup { cause } => ("hangup", Some(cause.as_str().to_owned())),
    };
    json!({
        "seq": seq.0, "zammad": row.zammad, "switch": row.switch, "call": seen.text(event.call_id.as_str()),
        "event": kind, "direction": event.direction.as_str(),
        "from": seen.number(&event.from), "to": seen.number(&event.to), "what": what,
        "happened_ms": row.happened.0, "settled_ms": at.0, "note": note.map(|note| seen.text(note)),
    })
}

fn switch(name: &str, address: &Shown, state: &LinkState) -> Value {
    json!({
        "name": name, "address": address, "listening": state.listening, "since": state.since.to_string(),
        "reason": mask::numbers(&state.why), "losses": state.losses, "events": state.events,
        "skipped": state.skipped, "waits_for_disk": state.waits,
        "last_event": state.last_event.map(|at| at.to_string()),
    })
}

fn backfill(name: &str, state: &BackfillState) -> Value {
    json!({
        "switch": name, "dir": state.dir.display().to_string(), "busy": state.busy, "gaps": state.gaps,
        "files": state.files, "calls": state.calls, "skipped": state.skipped, "left_out": state.left_out,
        "lost": state.lost, "unlisted": state.unlisted, "reason": state.why.as_deref().map(mask::numbers),
    })
}

/// A damaged store that was set aside: the one that is named was the last.
fn taking_in(TakingIn { directories, rows, left }: TakingIn) -> Value {
    json!({ "directory": directories.first().map(|dir| dir.display().to_string()), "rows": rows, "left": left })
}

fn a_loop((name, age): &(String, Duration)) -> Value {
    json!({ "name": name, "still_ms": age.as_millis(), "stuck": *age >= pulse::BOUND })
}

fn zammad(name: &str, url: &Shown, state: &DrainState) -> Value {
    let (link, reason, since) = match &state.link {
        // Nothing was asked of it yet: it is asked with the first event.
        Link::Up if state.last_delivery.is_none() && state.counters == Counters::default() => {
            ("unasked", None, None)
        }
        Link::Up => ("up", None, None),
        Link::Away { why, since } => ("away", Some(why), Some(since)),
        Link::Misconfigured { why, since } => ("misconfigured", Some(why), Some(since)),
    };
    json!({
        "name": name, "url": url, "link": link, "reason": reason.map(|why| mask::numbers(why)),
        "since": since.map(ToString::to_string),
        "paused": state.paused, "in_flight": state.in_flight,
        "last_delivery": state.last_delivery.map(|t| t.to_string()),
        "delivered": state.counters.delivered, "dead": state.counters.dead, "repeated": state.counters.repeated,
        "healed": state.counters.healed, "ambiguous": state.counters.ambiguous,
        "dropped": state.counters.dropped, "looked_up": state.counters.looked_up,
    })
}
