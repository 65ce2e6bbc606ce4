//! Keeps one connection to one switch: connects, drives [`Session`], hands events to the intake, reconnects.
//!
//! Never waits for Zammad. Where the intake is behind (the disk is slow), reading waits: the switch then keeps
//! up to 100,000 events for us, and each such wait is counted.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_util::codec::FramedRead;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::clock;
use super::pulse::{Beat, Pulse};
use crate::call::tracker::News;
use crate::esl::command;
use crate::esl::event::{Event, Name};
use crate::esl::frame::{FrameDecoder, FrameError};
use crate::esl::session::{Fault, Login, Output, Session};
use crate::queue::backoff::Backoff;
use crate::time::UnixMillis;

/// How long a TCP connect may take.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Bytes read at once; an event is 8 kB on average.
const READ_SIZE: usize = 64 * 1024;
/// Waits between connections.
const RECONNECT: Backoff = Backoff { min: Duration::from_millis(500), max: Duration::from_secs(30) };
/// Wait where only a person can help, once the switch had accepted us before.
const HELPLESS_WAIT: Duration = Duration::from_secs(60);

/// The switch's list of legs lags this long behind them at most: measured were up to 190 ms.
const LIST_LAG: Duration = Duration::from_millis(300);

/// What is asked after each login, and once more when the list has caught up: which legs there are.
pub const CHANNELS: &str = "show channels as json";
/// How [`command::dump`] begins; the leg's name follows.
pub const DUMP: &str = "uuid_dump ";

/// How [`command::kill`] begins.
const KILL: &str = "uuid_kill ";

/// What others ask of a switch.
#[derive(Clone, Debug)]
pub enum Ask {
    /// How these legs are; the answers are told, then [`What::Synced`].
    Legs(Vec<String>),
    /// That this leg is ended, with this hangup cause.
    End {
        /// Unique-ID.
        leg: String,
        /// As FreeSWITCH names it.
        cause: &'static str,
    },
}

/// Which switch, and how to reach it.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// By its configured name.
    pub name: String,
    /// `HOST:PORT`.
    pub address: String,
    /// How to log in.
    pub login: Login,
    /// Longest silence.
    pub heartbeat_timeout: Duration,
}

/// What the listener tells the intake.
#[derive(Debug)]
pub struct Heard {
    /// Index of the switch in the configuration.
    pub switch: usize,
    /// When.
    pub at: UnixMillis,
    /// What.
    pub what: What,
}

/// See [`Heard`].
#[derive(Debug)]
pub enum What {
    /// An event.
    Event(Event),
    /// Logged in and subscribed; what happened before was missed.
    Listening,
    /// The answer to [`CHANNELS`].
    Channels(Bytes),
    /// The answer to [`DUMP`]: one leg as it is now.
    Leg(Event),
    /// The other answer to [`DUMP`]: this leg has ended.
    Gone(String),
    /// No answer to a question: which command, and what the switch said instead.
    Refused {
        /// The command's name.
        command: &'static str,
        /// One line.
        said: String,
    },
    /// Every leg that was asked for has been told, or will not be: the link is lost.
    Synced,
    /// Calls that began and ended unheard, each whole: from a backfill, not from the listener.
    Missed(Vec<Vec<News>>),
}

/// What status shows of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Whether events come in.
    pub listening: bool,
    /// Since when.
    pub since: UnixMillis,
    /// Why not, if not.
    pub why: String,
    /// How often it was lost.
    pub losses: u64,
    /// Events heard.
    pub events: u64,
    /// The same by kind: [`Name::ALL`] has the order.
    pub kinds: [u64; Name::ALL.len()],
    /// When the last one was heard.
    pub last_event: Option<UnixMillis>,
    /// Longest silence that is still taken for a link.
    pub silence_max: Duration,
    /// Events that could not be read, and were skipped.
    pub skipped: u64,
    /// How often reading had to wait for the disk.
    pub waits: u64,
}

impl LinkState {
    /// Nothing has been tried yet.
    #[must_use]
    pub fn new(now: UnixMillis) -> Self {
        Self {
            listening: false,
            since: now,
            why: "not connected yet".to_owned(),
            losses: 0,
            events: 0,
            kinds: [0; Name::ALL.len()],
            last_event: None,
            silence_max: Duration::ZERO,
            skipped: 0,
            waits: 0,
        }
    }
}

/// Runs until cancelled. A permanent fault before the first success is returned; later ones are retried slowly.
///
/// Other settings hold from the next login on, and a login that was being waited for is tried at once. Only another
/// address ends a connection.
///
/// # Errors
/// A permanent fault at the first login: only a person can help, and trying for ever would hide it.
pub async fn run(
    mut configured: watch::Receiver<Settings>,
    switch: usize,
    intake: mpsc::Sender<Heard>,
    mut wanted: mpsc::Receiver<Ask>,
    state: watch::Sender<LinkState>,
    beat: Beat,
    stop: CancellationToken,
) -> Result<(), Fault> {
    let mut failures = 0;
    let mut ever = false;
    while !stop.is_cancelled() {
        let settings = configured.borrow_and_update().clone();
        let newer = configured.clone();
        let mut connection =
            Connection { settings: &settings, newer, switch, intake: &intake, state: &state, beat: &beat };
        let end = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = moved(&mut configured, &settings.address) => End::Moved,
            end = connection.live(&mut wanted) => end,
        };
        let listened = state.borrow().listening;
        ever |= listened;
        if listened {
            // What waits for answers that do not come any more must not wait until the switch is back.
            connection.tell(What::Synced, clock::now()).await;
        }
        failures = if listened { 1 } else { failures + 1 };
        let why = end.to_string();
        let changed = state.borrow().why != why || listened;
        state.send_modify(|s| {
            s.losses += u64::from(listened);
            s.listening = false;
            s.since = if listened { clock::now() } else { s.since };
            s.why.clone_from(&why);
        });
        let wait = match end {
            End::Fault(fault) if fault.is_permanent() && !ever => return Err(fault),
            End::Fault(fault) if fault.is_permanent() => {
                error!(
                    name: "link_refused",
                    switch = settings.name,
                    reason = why,
                    "the switch refuses us; trying again every minute"
                );
                HELPLESS_WAIT
            }
            End::Moved => {
                info!(name: "link_moved", switch = settings.name, "the switch is to be reached at another address now");
                Duration::ZERO
            }
            End::NoConnection { .. }
            | End::Fault(_)
            | End::Frame(_)
            | End::Eof
            | End::Read(_)
            | End::Write(_)
            | End::Stopping => {
                let wait = RECONNECT.wait(failures, fastrand::f64());
                if changed {
                    warn!(name: "link_lost", switch = settings.name, reason = why, "no link to the switch; trying again");
                } else {
                    debug!(name: "link_still_lost", switch = settings.name, reason = why, "still no link to the switch");
                }
                wait
            }
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = beat.through(tokio::time::sleep(wait)) => {}
            () = reconfigured(&mut configured) => {}
        }
    }
    Ok(())
}

/// Returns once there are other settings. May be dropped.
async fn reconfigured(configured: &mut watch::Receiver<Settings>) {
    if configured.changed().await.is_err() {
        std::future::pending().await
    }
}

/// Returns once another address is configured. May be dropped.
async fn moved(configured: &mut watch::Receiver<Settings>, address: &str) {
    while configured.borrow_and_update().address == address {
        reconfigured(configured).await;
    }
}

/// Logs in, subscribes, asks what is asked after a gap, and goes.
///
/// # Errors
/// One sentence on what does not work.
pub async fn try_login(settings: &Settings) -> Result<(), String> {
    let (intake, mut heard) = mpsc::channel(64);
    let (ask, mut wanted) = mpsc::channel(1);
    let (state, _) = watch::channel(LinkState::new(clock::now()));
    let beat = Pulse::default().join("this login");
    let (_, newer) = watch::channel(settings.clone());
    let mut connection =
        Connection { settings, newer, switch: 0, intake: &intake, state: &state, beat: &beat };
    let asking = async {
        while let Some(heard) = heard.recv().await {
            match heard.what {
                // Whether legs may be asked for shows with any.
                What::Channels(_) => drop(ask.try_send(Ask::Legs(vec![NO_LEG.to_owned()]))),
                What::Refused { command, said } => return Err(not_answered(command, &said)),
                What::Synced => break,
                What::Event(_) | What::Listening | What::Leg(_) | What::Gone(_) | What::Missed(_) => {}
            }
        }
        Ok(())
    };
    tokio::select! {
        end = connection.live(&mut wanted) => Err(end.to_string()),
        answered = asking => answered,
    }
}

/// One sentence on a question that the switch does not answer.
#[must_use]
pub fn not_answered(command: &str, said: &str) -> String {
    format!(
        "the switch does not answer the api command {command} ({said}), so calls that change while the link is down would stay as they were: add {command} to this user's esl-allowed-api"
    )
}

/// A leg that no switch has.
const NO_LEG: &str = "00000000-0000-0000-0000-000000000000";

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("no connection to {address}: {why}; is mod_event_socket loaded and listening there?")]
    NoConnection { address: String, why: String },
    #[error("{0}")]
    Fault(Fault),
    #[error("{}; reconnecting, because the next frame's beginning is unknown", quietly(.0))]
    Frame(FrameError),
    #[error("the connection ended without a word; the switch or the way to it broke down")]
    Eof,
    #[error("the connection broke: {0}; the switch or the way to it broke down")]
    Read(std::io::Error),
    #[error("the connection broke while writing: {0}")]
    Write(std::io::Error),
    #[error("stopping")]
    Stopping,
    #[error("it is to be reached at another address")]
    Moved,
}

/// What bytes were found instead of a frame may hold a telephone number, and is not for the log.
fn quietly(why: &FrameError) -> String {
    match why {
        FrameError::NotAHeader(_) => "a line in a frame's headers is no header".to_owned(),
        FrameError::BadLength(_) => "a frame's Content-Length is no length".to_owned(),
        FrameError::HeadersTooLong
        | FrameError::NoContentType
        | FrameError::BodyTooLong(_)
        | FrameError::CutOff(_)
        | FrameError::Io(_) => why.to_string(),
    }
}

struct Connection<'a> {
    /// What it was made with.
    settings: &'a Settings,
    /// What is configured since.
    newer: watch::Receiver<Settings>,
    switch: usize,
    intake: &'a mpsc::Sender<Heard>,
    state: &'a watch::Sender<LinkState>,
    beat: &'a Beat,
}

enum Woken {
    Written(std::io::Result<usize>),
    Frame(Option<Result<crate::esl::frame::Frame, FrameError>>),
    Wanted(Option<Ask>),
    Timeout,
    /// Legs that began just before we listened are in the list by now.
    LookAgain,
    Tick,
}

impl Connection<'_> {
    /// From connect to the end.
    async fn live(&mut self, wanted: &mut mpsc::Receiver<Ask>) -> End {
        let address = &self.settings.address;
        let no = |why: String| End::NoConnection { address: address.clone(), why };
        let connecting = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address));
        let stream = match self.beat.through(connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(why)) => return no(why.to_string()),
            Err(_) => return no(format!("nothing answered within {} s", CONNECT_MAX.as_secs())),
        };
        // Commands are short and rare; none should wait for an acknowledgement of another.
        let _ = stream.set_nodelay(true);
        let (read, mut write) = stream.into_split();
        let mut frames = FramedRead::with_capacity(read, FrameDecoder::default(), READ_SIZE);
        let mut session =
            Session::new(self.settings.login.clone(), self.settings.heartbeat_timeout, clock::now());
        let mut dumps = 0_usize;
        let mut look_again = None;
        // A switch that is busy sending reads nothing: who waits for it to read must not stop reading.
        let mut unsent = BytesMut::new();
        let mut broken = None;
        while wanted.try_recv().is_ok() {} // asked for on an earlier connection
        loop {
            self.beat.moved();
            // What has come in while we waited for the disk must not be taken for silence.
            let woken = tokio::select! {
                biased;
                ask = wanted.recv() => Woken::Wanted(ask),
                () = clock::wait_until(look_again) => Woken::LookAgain,
                written = write.write_buf(&mut unsent), if !unsent.is_empty() => Woken::Written(written),
                frame = frames.next() => Woken::Frame(frame),
                () = clock::wait_until(session.poll_timeout()) => Woken::Timeout,
                () = self.beat.tick() => Woken::Tick,
            };
            let now = clock::now();
            let listened = session.is_listening();
            match woken {
                Woken::Written(Ok(_)) => {}
                Woken::Tick => {
                    let silence_max = self.newer.borrow().heartbeat_timeout;
                    session.set_silence_max(silence_max);
                    self.state.send_if_modified(|s| {
                        std::mem::replace(&mut s.silence_max, silence_max) != silence_max
                    });
                }
                // What the switch had said before is still to be read; the end comes behind it.
                Woken::Written(Err(why)) => {
                    unsent.clear();
                    broken = Some(why);
                }
                Woken::Frame(Some(Ok(frame))) => session.handle_frame(frame, now),
                Woken::Frame(Some(Err(FrameError::Io(why)))) => return End::Read(why),
                Woken::Frame(Some(Err(why))) => return End::Frame(why),
                Woken::Frame(None) => return broken.map_or(End::Eof, End::Write),
                Woken::Timeout => session.handle_timeout(now),
                Woken::LookAgain => {
                    look_again = None;
                    session.ask(CHANNELS).expect("a fixed command is one line");
                }
                Woken::Wanted(None) => return End::Stopping,
                Woken::Wanted(Some(_)) if !session.is_listening() => {} // the leg is asked for anew, or has ended
                Woken::Wanted(Some(Ask::End { leg, cause })) => {
                    info!(
                        name: "blocked_call_ended",
                        switch = self.settings.name,
                        leg, cause, "ending the call of a caller on Zammad's block list"
                    );
                    match command::kill(&leg, cause).and_then(|kill| session.ask(&kill)) {
                        Ok(()) => {}
                        Err(command::UnsafeCommand) => warn!(
                            name: "blocked_call_unnamed",
                            switch = self.settings.name,
                            "a leg's name cannot be sent, so it is not ended"
                        ),
                    }
                }
                Woken::Wanted(Some(Ask::Legs(legs))) => {
                    for leg in legs {
                        let asked = command::dump(&leg).and_then(|dump| session.ask(&dump));
                        dumps += usize::from(asked.is_ok());
                    }
                    if dumps == 0 {
                        self.tell(What::Synced, now).await;
                    }
                }
            }
            if let Err(end) = self.act(&mut session, &mut unsent, &mut dumps).await {
                return end;
            }
            if broken.is_some() {
                unsent.clear();
            }
            if !listened && session.is_listening() {
                look_again = Some(clock::now().after(LIST_LAG));
            }
        }
    }

    async fn act(
        &mut self,
        session: &mut Session,
        unsent: &mut BytesMut,
        dumps: &mut usize,
    ) -> Result<(), End> {
        while let Some(output) = session.poll_output() {
            let now = clock::now();
            match output {
                Output::Send(bytes) => unsent.extend_from_slice(&bytes),
                Output::Listening => {
                    info!(name: "link_up", switch = self.settings.name, "listening to the switch");
                    self.state.send_modify(|s| {
                        s.listening = true;
                        s.since = now;
                        s.silence_max = self.settings.heartbeat_timeout;
                        s.why.clear();
                    });
                    self.tell(What::Listening, now).await;
                    session.ask(CHANNELS).expect("a fixed command is one line");
                }
                Output::Event(event) => {
                    self.state.send_modify(|s| {
                        s.events += 1;
                        s.kinds[event.name() as usize] += 1;
                        s.last_event = Some(now);
                    });
                    self.tell(What::Event(event), now).await;
                }
                Output::Skipped(why) => {
                    self.state.send_modify(|s| s.skipped += 1);
                    let (switch, skipped) = (&self.settings.name, self.state.borrow().skipped);

                    // A switch that says nothing else must not fill the disk with this.
                    if skipped.is_power_of_two() {
                        warn!(name: "event_unreadable", switch, reason = %why, skipped, "an event could not be read and was skipped");
                    } else {
                        debug!(name: "event_unreadable", switch, reason = %why, skipped, "an event could not be read and was skipped");
                    }
                }
                Output::Answer { asked, body } if asked == CHANNELS => {
                    let what = if body.starts_with(b"-ERR") {
                        What::Refused { command: "show", said: first_line(&body) }
                    } else {
                        What::Channels(body)
                    };
                    self.tell(what, now).await;
                }
                Output::Answer { asked, body } if asked.starts_with(KILL) => {
                    if body.starts_with(b"-ERR") && !body.starts_with(b"-ERR No such channel") {
                        warn!(
                            name: "blocked_call_not_ended",
                            switch = self.settings.name,
                            said = first_line(&body),
                            "the switch does not end a blocked call"
                        );
                    }
                }
                Output::Answer { asked, body } => {
                    let leg = asked.strip_prefix(DUMP).unwrap_or_default();
                    let what = match Event::parse(&body) {
                        _ if body.starts_with(b"-ERR No such channel") => What::Gone(leg.to_owned()),
                        Ok(leg) => What::Leg(leg),
                        Err(_) => What::Refused { command: DUMP.trim_end(), said: first_line(&body) },
                    };
                    self.tell(what, now).await;
                    *dumps = dumps.saturating_sub(1);
                    if *dumps == 0 {
                        self.tell(What::Synced, now).await;
                    }
                }
                Output::Fault(fault) => return Err(End::Fault(fault)),
            }
        }
        Ok(())
    }

    async fn tell(&self, what: What, at: UnixMillis) {
        let heard = Heard { switch: self.switch, at, what };
        if let Err(mpsc::error::TrySendError::Full(heard)) = self.intake.try_send(heard) {
            self.state.send_modify(|s| s.waits += 1);
            // Closed means that the program is stopping; then nobody listens any more.
            let _ = self.intake.send(heard).await;
        }
    }
}

fn first_line(body: &[u8]) -> String {
    const SHOWN: usize = 100;
    String::from_utf8_lossy(body).lines().next().unwrap_or_default().chars().take(SHOWN).collect()
}
