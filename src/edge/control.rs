//! Questions and orders from the command line: over a Unix socket to the running daemon, or, when none runs,
//! straight from the store, with the same answers.
//!
//! One connection carries one request, a line of JSON, and its answer, lines of JSON. The socket lies in the
//! state directory, for the user of the daemon and root alone: its mode says so, and whoever connects is asked who
//! they are, because a mode is soon changed.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::accept::Sent;
use super::admin::Admin;
use super::admin::metrics::PostSeconds;
use super::answers::{self, Refusal};
use super::backfill::BackfillState;
use super::claims::ShareState;
use super::desk::{Ask, Desk};
use super::drain::{DrainState, Order};
use super::fleet::FleetState;
use super::history::History;
use super::intake::{Board, Figures};
use super::listener::LinkState;
use super::ongoing::Ongoing;
use super::pulse::Pulse;
use super::shipper::ShipperState;
use super::shown::Shown;
use super::stories::Shelf;
use crate::store::{Pending, Seq, Store};
use crate::time::UnixMillis;

/// Longest request, in bytes.
const REQUEST_MAX: u64 = 4 * 1024 * 1024;
/// How long a client may take to ask, or to read.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most clients at the same time. Each may send a whole request, so this also bounds the memory.
pub const CLIENTS_MAX: usize = 32;
/// Where the socket is made, below the state directory: shorter than its final name, which thus always fits.
const MAKING: &str = ".sock";

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

/// Which events: all whose position, identity or call is named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// Positions.
    pub seqs: Vec<u64>,
    /// Identities.
    #[serde(default)]
    pub ids: Vec<String>,
    /// A call.
    pub call: Option<String>,
}

impl Selection {
    /// The positions between which they lie.
    #[must_use]
    pub fn reach(&self) -> RangeInclusive<u64> {
        let anywhere = self.call.is_some() || !self.ids.is_empty();
        match (anywhere, self.seqs.iter().min(), self.seqs.iter().max()) {
            (false, Some(first), Some(last)) => *first..=*last,
            (false, ..) => RangeInclusive::new(1, 0),
            (true, ..) => 0..=u64::MAX,
        }
    }

    /// Whether an event is among them.
    #[must_use]
    pub fn has(&self, seq: Seq, event: &Pending) -> bool {
        self.seqs.contains(&seq.0)
            || self.call.as_deref() == Some(event.event.call_id.as_str())
            || self.ids.contains(&event.id)
    }
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Request {
    /// How things are: figures and states.
    Status,
    /// The same, and the calls going on, what was delivered last, dead letters, the queue over time: see
    /// [`super::status`].
    Snapshot {
        /// Whether numbers are shown.
        #[serde(default)]
        reveal: bool,
    },
    /// A link to the status page that lets its reader reveal numbers and replay events.
    Page,
    /// Rows, oldest first: one page.
    List {
        /// Which.
        kind: Kind,
        /// From this position on.
        from: u64,
        /// At most so many.
        limit: usize,
    },
    /// Everything about one event (by its position) or one call (by its id).
    Show {
        /// Position or call id.
        id: String,
    },
    /// Why a call was told as it was.
    Explain {
        /// Which: its callId.
        call: String,
    },
    /// Puts events back into the queue.
    Replay {
        /// Every dead letter.
        dead: bool,
        /// These, dead or delivered.
        these: Selection,
        /// Only says what would be done.
        dry_run: bool,
    },
    /// Pending events are to wait, or to go on.
    Hold {
        /// Which.
        these: Selection,
        /// Whether they wait.
        held: bool,
    },
    /// Events are to be forgotten, whatever became of them.
    Delete {
        /// Which.
        these: Selection,
    },
    /// Posting is to stop, or to go on. Lasts, over restarts too.
    Pause {
        /// Which Zammad; all without one.
        zammad: Option<String>,
        /// Whether it stops.
        paused: bool,
    },
    /// How much the daemon logs; from now on so much, if a level is given. Holds until it is started again or reloaded.
    Log {
        /// As `[log] level`.
        level: Option<String>,
    },
    /// How many events of a stretch of the queue still wait, positions inclusive.
    Waiting {
        /// The first position.
        first: u64,
        /// The last.
        last: u64,
    },
    /// An event of a call that is on none of the switches is to be told.
    Send(Send),
    /// Exported rows are to be taken in. Events that are known already are passed over.
    Import {
        /// The rows, as exported.
        rows: Vec<Value>,
    },
    /// The same of the shared outbox; nothing where there is none.
    Outbox {
        /// What of it.
        ask: Ask,
    },
}

/// An event from elsewhere: see [`super::send`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Send {
    /// Which Zammad; may be left out where there is one.
    pub zammad: Option<String>,
    /// The event, as it is posted.
    pub body: Value,
    /// Tells several answers of one call by the same user apart, and one that is repeated from them.
    pub leg: Option<String>,
    /// Of a hangup: the call had been answered.
    pub answered: bool,
}

/// What a node of a shared outbox can tell of it.
#[derive(Clone)]
pub struct Outbox {
    /// This node's name.
    pub node: String,
    /// How bringing events in goes.
    pub shipper: watch::Receiver<ShipperState>,
    /// What this node has of it, by the Zammads' names.
    pub shares: Vec<(String, watch::Receiver<ShareState>)>,
    /// Everybody who takes part, and how much waits.
    pub fleet: watch::Receiver<FleetState>,
    /// Answers questions about its rows.
    pub desk: Desk,
}

/// What the running daemon can tell beyond the store.
#[derive(Clone)]
pub struct Live {
    /// When it started.
    pub started: UnixMillis,
    /// Name, address, state.
    pub switches: Vec<(String, Shown, watch::Receiver<LinkState>)>,
    /// Name, masked URL, state, orders.
    pub zammads: Vec<(String, Shown, watch::Receiver<DrainState>, mpsc::Sender<Order>)>,
    /// What was read of calls that nobody heard, by the switch's name; only of switches that have records.
    pub backfills: Vec<(String, watch::Receiver<BackfillState>)>,
    /// The calls.
    pub board: Board,
    /// Why they were told as they were.
    pub shelf: Shelf,
    /// Whether the loops move.
    pub pulse: Pulse,
    /// Those that are going on.
    pub ongoing: Ongoing,
    /// The queue over time.
    pub history: History,
    /// How long posts took.
    pub posts: PostSeconds,
    /// The status page, if there is one.
    pub admin: Option<Arc<Admin>>,
    /// Takes events from elsewhere.
    pub sent: Option<mpsc::Sender<Sent>>,
    /// The shared outbox, if there is one.
    pub outbox: Option<Outbox>,
}

impl Live {
    /// A daemon that starts now and has no part yet.
    #[must_use]
    pub fn new(started: UnixMillis) -> Self {
        Self {
            started,
            switches: vec![],
            zammads: vec![],
            backfills: vec![],
            board: Board::default(),
            shelf: Shelf::default(),
            pulse: Pulse::default(),
            ongoing: Ongoing::default(),
            history: History::default(),
            posts: PostSeconds::default(),
            admin: None,
            sent: None,
            outbox: None,
        }
    }

    /// What is known of the calls at this moment.
    #[must_use]
    pub fn figures(&self) -> Figures {
        *self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The links to the switches, by the switches' names.
    #[must_use]
    pub fn links(&self) -> Vec<(String, LinkState)> {
        self.switches.iter().map(|(name, _, state)| (name.clone(), state.borrow().clone())).collect()
    }
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
    listen(state_dir)?.serve(store, live, stop).await;
    Ok(())
}

/// The socket, at which clients may already knock.
pub struct Socket {
    listener: UnixListener,
    owner: u32,
    path: PathBuf,
}

/// Makes the socket. Whoever holds the store owns it, so an old one is a leftover.
///
/// # Errors
/// If it cannot be made.
pub fn listen(state_dir: &Path) -> io::Result<Socket> {
    let path = socket_path(state_dir);
    let (listener, owner) = bind(state_dir, &path)?;
    Ok(Socket { listener, owner, path })
}

impl Socket {
    /// Answers until cancelled.
    pub async fn serve(self, store: Store, live: Live, stop: CancellationToken) {
        let Self { listener, owner, path } = self;
        let beat = live.pulse.join("control socket");
        let live = Arc::new(live);
        let room = Arc::new(Semaphore::new(CLIENTS_MAX));
        loop {
            beat.moved();
            let (stream, _) = tokio::select! {
                () = stop.cancelled() => break,
                () = beat.tick() => continue,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(why) => {
                        warn!(name: "control_socket_failed", reason = %why, "the control socket fails");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        continue;
                    }
                },
            };
            let admitted = admit(&stream, owner, &room);
            let (store, live) = (store.clone(), Arc::clone(&live));
            tokio::spawn(async move {
                let talk = async {
                    match admitted {
                        Ok(_place) => converse(stream, &store, &live).await,
                        Err(why) => refuse(stream, why).await,
                    }
                };
                match tokio::time::timeout(PATIENCE, talk).await {
                    Ok(Ok(())) => {}
                    Ok(Err(why)) => {
                        debug!(name: "control_client_gone", reason = %why, "a control client went away")
                    }
                    Err(_) => debug!(name: "control_client_slow", "a control client was too slow"),
                }
            });
        }
        // It would only tell the next client that nobody listens.
        let _ = fs::remove_file(path);
    }
}

/// The listening socket and whose it is.
///
/// A socket is born with what the umask leaves it. So it is made in a folder that nobody else can enter, narrowed
/// there, and only then moved to where it is found; no moment is left in which it is open to others, whatever the
/// mode of the state directory.
fn bind(state_dir: &Path, path: &Path) -> io::Result<(UnixListener, u32)> {
    // A path too long for clients is refused here, where it can be said.
    SocketAddr::from_pathname(path)?;
    let making = state_dir.join(MAKING);
    let new = making.join("s");
    for leftover in [fs::remove_file(&new), fs::remove_dir(&making)] {
        match leftover {
            Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
            Ok(()) | Err(_) => {}
        }
    }
    DirBuilder::new().mode(0o700).create(&making)?;
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, Permissions::from_mode(0o600))?;
    let owner = fs::metadata(&new)?.uid();
    fs::rename(&new, path)?;
    fs::remove_dir(&making)?;
    Ok((listener, owner))
}

/// A place for a client, or why there is none.
fn admit(stream: &UnixStream, owner: u32, room: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Refusal> {
    let uid = stream
        .peer_cred()
        .map_err(|why| Refusal::Senseless(format!("it cannot be told who asks: {why}")))?
        .uid();
    if uid != owner && uid != 0 {
        warn!(name: "control_client_refused", uid, "another user asked at the control socket and was refused");
        return Err(Refusal::Senseless(format!(
            "user {uid} may not ask this daemon: ask as user {owner}, whom it runs as, or as root"
        )));
    }
    Arc::clone(room).try_acquire_owned().map_err(|_| {
        Refusal::Later(format!("{CLIENTS_MAX} others are asking already; ask again in a moment"))
    })
}

/// What was asked is not read: a stranger's words are none of ours.
async fn refuse(mut stream: UnixStream, why: Refusal) -> io::Result<()> {
    stream.write_all(format!("{}\n", refusal(&why)).as_bytes()).await?;
    stream.shutdown().await
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
    let asked = write.write_all(&line).await;
    let mut lines = BufReader::new(read).lines();
    let mut answer: Vec<Value> = Vec::new();
    loop {
        match lines.next_line().await {
            Ok(Some(line)) => answer.push(serde_json::from_str(&line)?),
            Ok(None) => break,
            // Whoever is refused is not listened to: the connection breaks, with the reason already in it.
            Err(_) if answer.first().is_some_and(|a| a["error"].is_string()) => return Ok(Some(answer)),
            Err(why) => return Err(why),
        }
    }
    if answer.is_empty() {
        asked?;
    }
    Ok(Some(answer))
}

async fn converse(stream: UnixStream, store: &Store, live: &Arc<Live>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(REQUEST_MAX)).read_line(&mut line).await?;
    if line.len() as u64 == REQUEST_MAX && !line.ends_with('\n') {
        return Err(io::Error::other("a request without an end"));
    }
    let answer = match serde_json::from_str::<Request>(&line) {
        Ok(request) => answers::aside(store.clone(), Arc::clone(live), request)
            .await
            .unwrap_or_else(|why| vec![refusal(&why)]),
        Err(why) => vec![failure(&why)],
    };
    for value in answer {
        let mut line = serde_json::to_vec(&value)?;
        line.push(b'\n');
        write.write_all(&line).await?;
    }
    write.shutdown().await
}

fn refusal(why: &Refusal) -> Value {
    let mut answer = failure(why);
    if why.passes() {
        answer["later"] = true.into();
    }
    answer
}

fn failure(why: &dyn std::fmt::Display) -> Value {
    json!({ "error": why.to_string() })
}
