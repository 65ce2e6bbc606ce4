//! What is answered to each request: from the store and, if there is one, the running daemon.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tracing::info;

use super::clock;
use super::control::{Kind, Live, Request, Selection};
use super::drain::Order;
use super::log;
use super::pauses;
use super::rows;
use super::send;
use super::shipper;
use super::status::{self, Seen};
use super::stories;
use crate::store::{Accepting, Pending, Seq, Settle, Store, StoreError};
use crate::time::UnixMillis;

/// How long an order waits to be on disk before it is answered.
const WRITE_WAIT: Duration = Duration::from_secs(2);
/// Every position.
const ALL: RangeInclusive<u64> = 0..=u64::MAX;
/// Rows read from the store at once.
const PAGE: usize = 500;

/// Why a request could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// It makes no sense.
    #[error("{0}")]
    Senseless(String),
    /// Not now.
    #[error("{0}")]
    Later(String),
}

impl Refusal {
    /// Whether the same request may be taken after a while, without anybody doing anything.
    #[must_use]
    pub const fn passes(&self) -> bool {
        match self {
            Self::Store(_) | Self::Senseless(_) => false,
            Self::Later(_) => true,
        }
    }
}

/// The answer to a request, from the store and, if there is one, the running daemon.
///
/// # Errors
/// If the store fails, or the request makes no sense.
pub async fn answer(store: &Store, live: Option<&Live>, request: Request) -> Result<Vec<Value>, Refusal> {
    match request {
        Request::Status => Ok(vec![status::status(store, live)]),
        Request::Snapshot { reveal } => {
            let seen = if reveal { Seen::Whole } else { Seen::Masked };
            Ok(vec![status::snapshot(store, live, seen, UnixMillis(0))])
        }
        Request::Page => page(live),
        Request::List { kind, from, limit } => {
            let mut rows = Vec::new();
            each(store, kind, Seq(from), |_, _, row| {
                rows.push(row);
                rows.len() < limit
            })?;
            Ok(rows)
        }
        Request::Show { id } => Ok(show(store, &id)?),
        Request::Explain { call } => Ok(explain(store, live, &call)?),
        Request::Replay { dead, these, dry_run } => replay(store, live, dead, &these, dry_run).await,
        Request::Hold { these, held } => {
            let (seqs, rows) =
                select(store, Kind::Pending, these.reach(), |seq, event| these.has(seq, event))?;
            store.settle(seqs.iter().map(|seq| Settle::Held { seq: *seq, held }).collect()).await?;
            order(live, || Order::Held(seqs.clone(), held)).await;
            Ok(rows)
        }
        Request::Delete { these } => delete(store, live, &these).await,
        Request::Pause { zammad, paused } => pause(store, live, zammad.as_deref(), paused).await,
        Request::Log { level } => log_level(live, level),
        Request::Waiting { first, last } => {
            let mut waiting = 0_u64;
            each(store, Kind::Pending, Seq(first), |seq, _, _| {
                waiting += u64::from(seq.0 <= last);
                seq.0 < last
            })?;
            Ok(vec![json!({ "waiting": waiting })])
        }
        Request::Import { rows } => import(store, live, &rows).await,
        Request::Outbox { ask } => match live.and_then(|live| live.outbox.as_ref()) {
            Some(outbox) => outbox.desk.answer(ask).await,
            None => Ok(vec![]),
        },
        Request::Send(given) => Ok(vec![send::send(store, live, &given).await?]),
    }
}

/// As [`answer`], of the running daemon, from one of its threads: reading the store waits for the disk, and a thread that
/// does so must not be one that the loops run on.
///
/// # Errors
/// As [`answer`].
pub async fn aside(store: Store, live: Arc<Live>, request: Request) -> Result<Vec<Value>, Refusal> {
    let here = tokio::runtime::Handle::current();
    let answering = tokio::task::spawn_blocking(move || here.block_on(answer(&store, Some(&live), request)));
    // Lost only with the whole program.
    answering.await.unwrap_or(Err(Refusal::Store(StoreError::Closed)))
}

/// A link to the status page, good once and soon.
fn page(live: Option<&Live>) -> Result<Vec<Value>, Refusal> {
    let Some(live) = live else {
        return Err(Refusal::Senseless("the daemon is not running, so there is no status page".into()));
    };
    let Some(admin) = &live.admin else {
        return Err(Refusal::Senseless(
            "there is no status page: write listen = \"127.0.0.1:8022\" under [admin] of the configuration, or read in the log why that address could not be had"
                .into(),
        ));
    };
    let url =
        admin.link(clock::now()).map_err(|why| Refusal::Senseless(format!("no link can be made: {why}")))?;
    Ok(vec![json!({ "url": url })])
}

fn show(store: &Store, id: &str) -> Result<Vec<Value>, StoreError> {
    let seq = id.parse().ok();
    let mut found = Vec::new();
    for kind in [Kind::Delivered, Kind::Dead, Kind::Pending] {
        let named = |at: Seq, event: &Pending| {
            Some(at.0) == seq || event.event.call_id.as_str() == id || event.id == id
        };
        found.extend(select(store, kind, ALL, named)?.1);
    }
    Ok(found)
}

/// The notes on a call, one object each, and then its events.
fn explain(store: &Store, live: Option<&Live>, call: &str) -> Result<Vec<Value>, StoreError> {
    let going_on = live.and_then(|live| stories::lock(&live.shelf).of(call));
    let lines = match going_on {
        Some(lines) => lines,
        None => {
            let kept = store.state_value(&stories::key(call))?.unwrap_or_default();
            String::from_utf8_lossy(&kept).lines().map(str::to_owned).collect()
        }
    };
    let mut answer: Vec<Value> = lines.into_iter().map(|line| json!({ "note": line })).collect();
    answer.extend(show(store, call)?);
    Ok(answer)
}

async fn replay(
    store: &Store,
    live: Option<&Live>,
    dead: bool,
    these: &Selection,
    dry_run: bool,
) -> Result<Vec<Value>, Refusal> {
    let named = |seq: Seq, event: &Pending| these.has(seq, event);
    let reach = if dead { ALL } else { these.reach() };
    let (mut seqs, mut rows) = select(store, Kind::Dead, reach, |seq, event| dead || named(seq, event))?;
    let (more, told) = select(store, Kind::Delivered, these.reach(), named)?;
    // What went into the outbox is put back there; here only by its position.
    let here = |(seq, row): &(Seq, Value)| row["note"] != shipper::NOTE || these.seqs.contains(&seq.0);
    let (more, told): (Vec<Seq>, Vec<Value>) = more.into_iter().zip(told).filter(here).unzip();
    seqs.extend(more);
    rows.extend(told);
    if dry_run {
        return Ok(rows);
    }
    let revived = store.revive(seqs).await?;
    let rows = revived.iter().map(|(seq, event)| rows::pending(*seq, event)).collect();
    hand_over(live, &revived).await;
    Ok(rows)
}

async fn delete(store: &Store, live: Option<&Live>, these: &Selection) -> Result<Vec<Value>, Refusal> {
    let (mut seqs, mut rows) = (Vec::new(), Vec::new());
    for kind in [Kind::Pending, Kind::Dead, Kind::Delivered] {
        let (more, told) = select(store, kind, these.reach(), |seq, event| these.has(seq, event))?;
        seqs.extend(more);
        rows.extend(told);
    }
    // Out of the schedule first: what it still posts afterwards was on its way already.
    order(live, || Order::Removed(seqs.clone())).await;
    store.settle(seqs.iter().map(|seq| Settle::Removed { seq: *seq }).collect()).await?;
    Ok(rows)
}

/// At once in the running daemon, and in the store for every later one. While the disk refuses only at once.
async fn pause(
    store: &Store,
    live: Option<&Live>,
    zammad: Option<&str>,
    paused: bool,
) -> Result<Vec<Value>, Refusal> {
    let running = live.map(|l| l.zammads.as_slice()).unwrap_or_default();
    let names = match live {
        Some(_) => meant(running.iter().map(|(name, ..)| name.as_str()), zammad)?,
        // The store knows no Zammad: whoever asks it has looked.
        None => zammad.map(str::to_owned).into_iter().collect(),
    };
    for (_, _, _, orders) in running.iter().filter(|(name, ..)| names.contains(name)) {
        // A drain that is stopping posts nothing any more.
        let _ = orders.send(Order::Pause(paused)).await;
    }
    let state = names.iter().map(|name| pauses::change(name, paused)).collect();
    let written = store.accept(Accepting { events: vec![], state });
    let lasts = match tokio::time::timeout(WRITE_WAIT, written).await {
        Ok(written) => written.map(|_| true)?,
        Err(_) => false,
    };
    let shared = live.is_some_and(|live| live.outbox.is_some());
    let answer =
        |name| json!({ "zammad": name, "paused": paused, "lasts": lasts, "others_go_on": shared && paused });
    Ok(names.iter().map(answer).collect())
}

/// Of the Zammads that there are, the one that is named; all where none is.
///
/// # Errors
/// If none is called so.
pub fn meant<'a>(
    there: impl Iterator<Item = &'a str> + Clone,
    zammad: Option<&str>,
) -> Result<Vec<String>, Refusal> {
    let is_meant = |name: &&str| zammad.is_none_or(|zammad| zammad == *name);
    let names: Vec<String> = there.clone().filter(is_meant).map(str::to_owned).collect();
    if names.is_empty() {
        let there = there.collect::<Vec<_>>().join(", ");
        return Err(Refusal::Senseless(format!("no Zammad is called so; there is {there}")));
    }
    Ok(names)
}

/// As [`meant`], where it must be one.
///
/// # Errors
/// If none is called so, or several could be meant.
pub fn one_meant<'a>(
    there: impl Iterator<Item = &'a str> + Clone,
    zammad: Option<&str>,
) -> Result<String, Refusal> {
    <[String; 1]>::try_from(meant(there, zammad)?).map(|[name]| name).map_err(|several| say_which(&several))
}

/// What is said where one of several is meant, and none is named.
pub(super) fn say_which(there: &[String]) -> Refusal {
    Refusal::Senseless(format!("say which Zammad is meant, with --zammad: {}", there.join(", ")))
}

fn log_level(live: Option<&Live>, level: Option<String>) -> Result<Vec<Value>, Refusal> {
    if live.is_none() {
        let why = "the daemon is not running, so it logs nothing; write [log] level for its next start";
        return Err(Refusal::Senseless(why.into()));
    }
    let before = match &level {
        Some(level) => Some(log::set_level(level).map_err(Refusal::Senseless)?),
        None => None,
    };
    if let Some(level) = &level {
        info!(name: "log_level_set", level, before, "the log level was changed by an operator");
    }
    Ok(vec![json!({ "level": log::level(), "before": before })])
}

async fn import(store: &Store, live: Option<&Live>, given: &[Value]) -> Result<Vec<Value>, Refusal> {
    let mut read = Vec::new();
    for (number, row) in (1..).zip(given) {
        let row = rows::read(row);
        read.push(
            row.map_err(|why| Refusal::Senseless(format!("row {number}: {why}; give rows as exported")))?,
        );
    }
    // What was settled already is held until that is recorded, so that nothing sends it again in between.
    let held = |(event, kind, ..): &(Pending, Kind, UnixMillis, Option<String>)| Pending {
        held: event.held || *kind != Kind::Pending,
        ..event.clone()
    };
    let events = read.iter().map(held).collect();
    let seqs = store.accept(Accepting { events, state: vec![] }).await?;
    let mut taken = Vec::new();
    let mut settles = Vec::new();
    let mut pending = Vec::new();
    let mut settled = Vec::new();
    for (seq, (event, kind, at, note)) in seqs.into_iter().zip(read) {
        let Some(seq) = seq else { continue };
        taken.push(rows::pending(seq, &event));
        match rows::settle(seq, kind, at, note) {
            Some(settle) => {
                settles.push(Settle::Held { seq, held: event.held });
                settles.push(settle);
                settled.push(seq);
            }
            None => pending.push((seq, event)),
        }
    }
    store.settle(settles).await?;
    // A drain may have read them meanwhile.
    order(live, || Order::Removed(settled.clone())).await;
    hand_over(live, &pending).await;
    Ok(taken)
}

/// Gives events that are new in the queue to the drains of their Zammads.
async fn hand_over(live: Option<&Live>, events: &[(Seq, Pending)]) {
    for (name, _, _, orders) in live.map(|l| l.zammads.as_slice()).unwrap_or_default() {
        let theirs: Vec<_> = events.iter().filter(|(_, e)| e.zammad == *name).cloned().collect();
        // A drain that is stopping finds them in the store at the next start.
        let _ = orders.send(Order::Revived(theirs)).await;
    }
}

async fn order(live: Option<&Live>, order: impl Fn() -> Order) {
    for (_, _, _, orders) in live.map(|l| l.zammads.as_slice()).unwrap_or_default() {
        let _ = orders.send(order()).await;
    }
}

fn select(
    store: &Store,
    kind: Kind,
    reach: RangeInclusive<u64>,
    wanted: impl Fn(Seq, &Pending) -> bool,
) -> Result<(Vec<Seq>, Vec<Value>), StoreError> {
    let (mut seqs, mut rows) = (Vec::new(), Vec::new());
    each(store, kind, Seq(*reach.start()), |seq, event, row| {
        if reach.contains(&seq.0) && wanted(seq, event) {
            seqs.push(seq);
            rows.push(row);
        }
        seq.0 < *reach.end()
    })?;
    Ok((seqs, rows))
}

/// Rows of a kind from a position on, page by page, until `take` has enough. Damaged ones are passed over.
fn each(
    store: &Store,
    kind: Kind,
    from: Seq,
    mut take: impl FnMut(Seq, &Pending, Value) -> bool,
) -> Result<(), StoreError> {
    let mut from = from;
    loop {
        let page: Result<Vec<(Seq, Pending, Value)>, StoreError> = match kind {
            Kind::Pending => store.pending_from(from, PAGE).map(|page| {
                let told = page.into_iter().map(|(seq, event)| {
                    let row = rows::pending(seq, &event);
                    (seq, event, row)
                });
                told.collect()
            }),
            Kind::Dead => store.dead_from(from, PAGE).map(|page| {
                let told = page.into_iter().map(|(seq, dead)| {
                    let row = rows::dead(seq, &dead);
                    (seq, dead.pending, row)
                });
                told.collect()
            }),
            Kind::Delivered => store.delivered_from(from, PAGE).map(|page| {
                let told = page.into_iter().map(|(seq, done)| {
                    let row = rows::delivered(seq, &done);
                    (seq, done.pending, row)
                });
                told.collect()
            }),
        };
        let page = match page {
            Ok(page) => page,
            Err(why) => match why.damaged_row() {
                Some(seq) => {
                    from = Seq(seq.0 + 1);
                    continue;
                }
                None => return Err(why),
            },
        };
        let Some((last, ..)) = page.last() else { return Ok(()) };
        from = Seq(last.0 + 1);
        for (seq, event, row) in page {
            if !take(seq, &event, row) {
                return Ok(());
            }
        }
    }
}
