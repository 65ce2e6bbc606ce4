//! Questions and orders from the command line: over a Unix socket to the running daemon, or, when none runs,
//! straight from the store, with the same answers.
//!
//! One connection carries one request, a line of JSON, and its answer, lines of JSON. The socket lies in the
//! state directory, for this user alone.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::clock;
use super::drain::{DrainState, Order};
use super::intake::Board;
use super::listener::LinkState;
use crate::queue::breaker::Link;
use crate::store::{Pending, Seq, Store, StoreError};
use crate::time::UnixMillis;

/// Longest request, in bytes.
const REQUEST_MAX: u64 = 64 * 1024;
/// Rows read from the store at once.
const PAGE: usize = 500;
/// How long a client may take to ask, or to read.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which rows of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// To be delivered.
    Pending,
    /// Given up.
    Dead,
    /// Delivered and kept.
    Delivered,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Request {
    /// How things are.
    Status,
    /// Rows, oldest first.
    List {
        /// Which.
        kind: Kind,
        /// At most so many.
        limit: usize,
    },
    /// Everything about one event (by its position) or one call (by its id).
    Show {
        /// Position or call id.
        id: String,
    },
    /// Puts dead letters back into the queue.
    Replay {
        /// Only this call's.
        call: Option<String>,
        /// Only these positions.
        seqs: Vec<u64>,
        /// Only says what would be done.
        dry_run: bool,
    },
}

/// What the running daemon can tell beyond the store.
#[derive(Clone)]
pub struct Live {
    /// When it started.
    pub started: UnixMillis,
    /// Name, address, state.
    pub switches: Vec<(String, String, watch::Receiver<LinkState>)>,
    /// Name, masked URL, state, orders.
    pub zammads: Vec<(String, String, watch::Receiver<DrainState>, mpsc::Sender<Order>)>,
    /// The calls.
    pub board: Board,
}

/// The socket's path.
#[must_use]
pub fn socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}

/// Answers until cancelled. Whoever holds the store owns the socket, so an old one is a leftover.
///
/// # Errors
/// If the socket cannot be made.
pub async fn serve(state_dir: &Path, store: Store, live: Live, stop: CancellationToken) -> io::Result<()> {
    let path = socket_path(state_dir);
    match std::fs::remove_file(&path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    let live = Arc::new(live);
    loop {
        let (stream, _) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(why) => {
                    warn!(reason = %why, "the control socket fails");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
            },
        };
        let (store, live) = (store.clone(), Arc::clone(&live));
        tokio::spawn(async move {
            match tokio::time::timeout(PATIENCE, converse(stream, &store, &live)).await {
                Ok(Ok(())) => {}
                Ok(Err(why)) => debug!(reason = %why, "a control client went away"),
                Err(_) => debug!("a control client was too slow"),
            }
        });
    }
    // It would only tell the next client that nobody listens.
    let _ = std::fs::remove_file(path);
    Ok(())
}

/// Asks the running daemon. `None` if none runs.
///
/// # Errors
/// If it runs and the answer breaks off.
pub async fn ask(state_dir: &Path, request: &Request) -> io::Result<Option<Vec<Value>>> {
    let stream = match UnixStream::connect(socket_path(state_dir)).await {
        Ok(stream) => stream,
        Err(why) if matches!(why.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(why) => return Err(why),
    };
    let (read, mut write) = stream.into_split();
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    write.write_all(&line).await?;
    let mut lines = BufReader::new(read).lines();
    let mut answer = Vec::new();
    while let Some(line) = lines.next_line().await? {
        answer.push(serde_json::from_str(&line)?);
    }
    Ok(Some(answer))
}

async fn converse(stream: UnixStream, store: &Store, live: &Live) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(REQUEST_MAX)).read_line(&mut line).await?;
    let answer = match serde_json::from_str::<Request>(&line) {
        Ok(request) => answer(store, Some(live), request).await.unwrap_or_else(|why| vec![failure(&why)]),
        Err(why) => vec![failure(&why)],
    };
    for value in answer {
        let mut line = serde_json::to_vec(&value)?;
        line.push(b'\n');
        write.write_all(&line).await?;
    }
    write.shutdown().await
}

fn failure(why: &dyn std::fmt::Display) -> Value {
    json!({ "error": why.to_string() })
}

/// The answer to a request, from the store and, if there is one, the running daemon.
///
/// # Errors
/// If the store fails.
pub async fn answer(store: &Store, live: Option<&Live>, request: Request) -> Result<Vec<Value>, StoreError> {
    match request {
        Request::Status => Ok(vec![status(store, live)?]),
        Request::List { kind, limit } => rows(store, kind, limit, |_, _| true),
        Request::Show { id } => show(store, &id),
        Request::Replay { call, seqs, dry_run } => {
            let wanted = |seq: Seq, event: &Pending| {
                (seqs.is_empty() || seqs.contains(&seq.0))
                    && call.as_deref().is_none_or(|c| event.event.call_id.as_str() == c)
            };
            replay(store, live, wanted, dry_run).await
        }
    }
}

fn status(store: &Store, live: Option<&Live>) -> Result<Value, StoreError> {
    let now = clock::now();
    let counts = store.counts();
    let oldest = store.oldest_pending()?.map(|(_, p)| now.since(p.happened).as_secs());
    let mut status = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "running": live.is_some(),
        "queue": {
            "waiting": counts.pending,
            "oldest_age_s": oldest,
            "dead": counts.dead,
            "delivered_kept": counts.delivered,
            "disk_bytes": store.disk_bytes()?,
        },
    });
    if let Some(live) = live {
        let figures = *live.board.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        status["started"] = live.started.to_string().into();
        status["calls"] = json!({
            "going_on": figures.calls, "legs": figures.legs, "events_accepted": figures.accepted,
            "events_repeated": figures.repeated,
        });
        status["switches"] = live
            .switches
            .iter()
            .map(|(name, address, state)| switch(name, address, &state.borrow()))
            .collect();
        status["zammads"] =
            live.zammads.iter().map(|(name, url, state, _)| zammad(name, url, &state.borrow())).collect();
    }
    Ok(status)
}

fn switch(name: &str, address: &str, state: &LinkState) -> Value {
    json!({
        "name": name, "address": address, "listening": state.listening, "since": state.since.to_string(),
        "reason": state.why, "losses": state.losses, "events": state.events, "skipped": state.skipped,
        "waits_for_disk": state.waits,
    })
}

fn zammad(name: &str, url: &str, state: &DrainState) -> Value {
    let (link, reason, since) = match &state.link {
        Link::Up => ("up", None, None),
        Link::Away { why, since } => ("away", Some(why), Some(since)),
        Link::Misconfigured { why, since } => ("misconfigured", Some(why), Some(since)),
    };
    json!({
        "name": name, "url": url, "link": link, "reason": reason, "since": since.map(ToString::to_string),
        "paused": state.paused, "in_flight": state.in_flight,
        "last_delivery": state.last_delivery.map(|t| t.to_string()),
        "delivered": state.counters.delivered, "dead": state.counters.dead, "repeated": state.counters.repeated,
        "healed": state.counters.healed, "ambiguous": state.counters.ambiguous,
    })
}

fn show(store: &Store, id: &str) -> Result<Vec<Value>, StoreError> {
    let seq = id.parse().ok();
    let mut found = Vec::new();
    for kind in [Kind::Delivered, Kind::Dead, Kind::Pending] {
        found.extend(rows(store, kind, usize::MAX, |at, event| {
            Some(at.0) == seq || event.event.call_id.as_str() == id || event.id == id
        })?);
    }
    Ok(found)
}

async fn replay(
    store: &Store,
    live: Option<&Live>,
    wanted: impl Fn(Seq, &Pending) -> bool,
    dry_run: bool,
) -> Result<Vec<Value>, StoreError> {
    let mut seqs = Vec::new();
    let mut found = Vec::new();
    each(store, Kind::Dead, |seq, event, row| {
        if wanted(seq, event) {
            seqs.push(seq);
            found.push(row);
        }
        true
    })?;
    if dry_run {
        return Ok(found);
    }
    let revived = store.revive(seqs).await?;
    let rows = revived.iter().map(|(seq, event)| row(*seq, event, "pending")).collect();
    for (name, _, _, orders) in live.map(|l| l.zammads.as_slice()).unwrap_or_default() {
        let theirs: Vec<_> = revived.iter().filter(|(_, e)| e.zammad == *name).cloned().collect();
        // A drain that is stopping finds them in the store at the next start.
        let _ = orders.send(Order::Revived(theirs)).await;
    }
    Ok(rows)
}

fn rows(
    store: &Store,
    kind: Kind,
    limit: usize,
    wanted: impl Fn(Seq, &Pending) -> bool,
) -> Result<Vec<Value>, StoreError> {
    let mut rows = Vec::new();
    each(store, kind, |seq, event, row| {
        if wanted(seq, event) && rows.len() < limit {
            rows.push(row);
        }
        rows.len() < limit
    })?;
    Ok(rows)
}

/// Every row of a kind, page by page, until `take` has enough.
fn each(
    store: &Store,
    kind: Kind,
    mut take: impl FnMut(Seq, &Pending, Value) -> bool,
) -> Result<(), StoreError> {
    let mut from = Seq(0);
    loop {
        let page: Vec<(Seq, Pending, Value)> = match kind {
            Kind::Pending => {
                let page = store.pending_from(from, PAGE)?;
                page.into_iter().map(|(seq, e)| (seq, e.clone(), row(seq, &e, "pending"))).collect()
            }
            Kind::Dead => {
                let page = store.dead_from(from, PAGE)?;
                let told = page.into_iter().map(|(seq, dead)| {
                    let mut row = row(seq, &dead.pending, "dead");
                    row["died"] = dead.died.to_string().into();
                    row["story"] = dead.story.into();
                    (seq, dead.pending, row)
                });
                told.collect()
            }
            Kind::Delivered => {
                let page = store.delivered_from(from, PAGE)?;
                let told = page.into_iter().map(|(seq, done)| {
                    let mut row = row(seq, &done.pending, "delivered");
                    row["delivered"] = done.delivered.to_string().into();
                    row["note"] = done.note.into();
                    (seq, done.pending, row)
                });
                told.collect()
            }
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

fn row(seq: Seq, event: &Pending, state: &str) -> Value {
    json!({
        "seq": seq.0, "state": state, "id": event.id, "switch": event.switch, "zammad": event.zammad,
        "happened": event.happened.to_string(), "attempted": event.attempt.map(|t| t.to_string()),
        "body": serde_json::from_str::<Value>(&event.event.body()).unwrap_or_default(),
    })
}
