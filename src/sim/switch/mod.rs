//! A stand-in for FreeSWITCH's event socket over real TCP: replies as recorded, plays recordings, fails on
//! demand.
//!
//! ```text
//! recording ─▶ play ─▶ table of live legs ─▶ show channels, uuid_dump
//!                └──▶ every connection that subscribed, in its format
//! ```
//!
//! Deliberate gaps: `api` never waits, so it holds nothing back; no listener is ever killed for lagging; only
//! the api commands a bridge to Zammad could want exist.

mod channels;
mod core;
mod dialogue;
mod format;
mod line;
mod subscription;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use self::core::Core;
use self::dialogue::{Act, Command, Dialogue, GOODBYE, GREETING, REJECTION};
use self::line::{Line, Out};
use super::port::Port;
use super::recording::{Event, Recording};
use crate::time::UnixMillis;

/// How this switch is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where to listen; port 0 picks a free one.
    pub address: SocketAddr,
    /// What `auth` must say.
    pub password: String,
    /// Who else may log in, by `userauth`.
    pub users: Vec<User>,
    /// Refuse every connection as the access list would.
    pub rude: bool,
    /// Who has not logged in by then is disconnected.
    pub auth_timeout: Duration,
    /// How often to send HEARTBEAT; `None` never does by itself. The real default is 20 s.
    pub heartbeat: Option<Duration>,
    /// `show channels` is this much behind: what it lists, and what it lists no more. Measured were 60–190 ms until a
    /// leg is listed, up to 80 ms until it is gone; here it is exact.
    pub list_lag: Duration,
    /// Names this run of the switch in what it sends of its own; recordings keep the one they have.
    pub core_uuid: String,
    /// What the switch's clock says when it starts; from there it runs with Tokio's.
    pub started: UnixMillis,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            password: "ClueCon".to_owned(),
            users: Vec::new(),
            rude: false,
            auth_timeout: Duration::from_secs(25),
            heartbeat: None,
            list_lag: Duration::ZERO,
            core_uuid: "14d74ee2-905c-494a-a828-3aaebacb4093".to_owned(),
            started: UnixMillis(1_795_444_000_000),
        }
    }
}

/// A directory user who may use the event socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// `user@domain`.
    pub name: String,
    /// The password, without colon or line end.
    pub password: String,
    /// The events allowed, by name.
    pub events: Vec<String>,
    /// The api commands allowed.
    pub apis: Vec<String>,
}

/// How fast a recording is played.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As fast as connections take it.
    AtOnce,
    /// As it happened, this many times as fast. Must be positive.
    Times(f64),
}

/// How connections are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disconnect {
    /// Bare end of stream, as when the process is killed.
    Eof,
    /// Disconnect-notice, then end of stream, as on shutdown and module reload.
    Notice,
    /// TCP reset.
    Reset,
}

/// One open connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Counts from 1, never used again.
    pub number: u64,
    /// Whether it has logged in.
    pub authenticated: bool,
    /// Whether it has asked for any events.
    pub subscribed: bool,
}

/// A running switch. Dropped, it is gone with all its connections.
pub struct Switch {
    shared: Arc<Shared>,
    port: Port,
    listening: Option<JoinHandle<()>>,
    heart: Option<JoinHandle<()>>,
}

impl Switch {
    /// Listens at once.
    ///
    /// # Errors
    /// If the address cannot be had.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let port = Port::reserve(settings.address)?;
        let heartbeat = settings.heartbeat;
        let shared = Arc::new(Shared::new(settings));
        let heart = heartbeat.map(|every| tokio::spawn(beat(Arc::clone(&shared), every)));
        let mut switch = Self { shared, port, listening: None, heart };
        switch.restart()?;
        Ok(switch)
    }

    /// Where it listens (or will again).
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// Sends the events to whoever wants them and returns once all are on the wire. Legs are created and ended
    /// even while nobody listens. While stalled it returns without waiting for the wire.
    ///
    /// Safe to drop: it stops between two events.
    pub async fn play(&self, recording: &Recording, pace: Pace) {
        let begin = tokio::time::Instant::now();
        let first = recording.events().first().map(Event::at).unwrap_or_default();
        for event in recording.events() {
            match pace {
                Pace::AtOnce => tokio::task::coop::consume_budget().await,
                Pace::Times(factor) => {
                    tokio::time::sleep_until(begin + event.at().since(first).div_f64(factor)).await;
                }
            }
            _ = self.shared.lock().emit(event);
        }
        self.written().await;
    }

    /// Sends one event now. The numbers of the connections that it goes to; it may still be under way to them.
    pub fn send(&self, event: &Event) -> Vec<u64> {
        self.shared.lock().emit(event)
    }

    /// Sends a HEARTBEAT now.
    pub fn heartbeat(&self) {
        self.shared.heartbeat();
    }

    /// Sends these bytes, whatever they are, to everyone who has logged in.
    pub fn send_raw(&self, bytes: &[u8]) {
        let inner = self.shared.lock();
        for peer in inner.peers.values().filter(|peer| peer.dialogue.authenticated) {
            peer.say(Bytes::copy_from_slice(bytes));
        }
    }

    /// The connections open now.
    #[must_use]
    pub fn connections(&self) -> Vec<Connection> {
        self.shared.lock().connections()
    }

    /// Every command so far, passwords included: the connection's number and the first line.
    #[must_use]
    pub fn commands(&self) -> Vec<(u64, String)> {
        self.shared.lock().commands.clone()
    }

    /// Live legs, by the events played so far.
    #[must_use]
    pub fn live_legs(&self) -> usize {
        self.shared.lock().core.channels.count()
    }

    /// This run's Core-UUID, as its heartbeats say.
    #[must_use]
    pub fn core_uuid(&self) -> String {
        self.shared.lock().core.core_uuid.clone()
    }

    /// Returns once a connection has subscribed.
    pub async fn wait_subscribed(&self) {
        self.wait_until(|connections| connections.iter().any(|c| c.subscribed)).await;
    }

    /// Returns once `true_of` the open connections; looks again after each command, connect and disconnect.
    pub async fn wait_until(&self, mut true_of: impl FnMut(&[Connection]) -> bool) {
        let mut changed = self.shared.changed.subscribe();
        while !true_of(&self.connections()) {
            changed.changed().await.expect("the sender lives as long as self");
        }
    }

    /// Ends every connection and returns once they are closed. New ones are taken.
    pub async fn drop_connections(&self, how: Disconnect) {
        let numbers: Vec<u64> = {
            let mut inner = self.shared.lock();
            let ended = inner.peers.iter_mut().filter_map(|(n, peer)| Some((*n, peer.end.take()?)));
            ended.map(|(number, end)| (number, end.send(how)).0).collect()
        };
        self.wait_until(|open| !open.iter().any(|c| numbers.contains(&c.number))).await;
    }

    /// Half-open from now on, or no longer: connections stay, but nothing is sent and no command is heard.
    /// What is played meanwhile is lost to them.
    pub fn set_silent(&self, silent: bool) {
        self.shared.lock().silent = silent;
    }

    /// Neither reads nor writes from now on, or goes on: nothing is lost, all is late.
    pub fn set_stalled(&self, stalled: bool) {
        self.shared.stalled.send_replace(stalled);
    }

    /// Refuses new connections and ends the open ones. Calls go on, as when the socket module is unloaded.
    pub async fn stop(&mut self, how: Disconnect) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
            // Only once the task is gone is its socket closed; that it was cancelled is no news.
            _ = listening.await;
        }
        self.drop_connections(how).await;
    }

    /// As [`Switch::stop`], but the whole process died: no call is left, and it comes back with another
    /// Core-UUID.
    pub async fn crash(&mut self) {
        self.stop(Disconnect::Eof).await;
        self.shared.lock().core.crash();
    }

    /// Listens again, on the same port; does nothing if it does already.
    ///
    /// # Errors
    /// If the port cannot be had any more.
    pub fn restart(&mut self) -> io::Result<()> {
        if self.listening.is_some() {
            return Ok(());
        }
        let (listener, shared) = (self.port.listen()?, Arc::clone(&self.shared));
        self.listening = Some(tokio::spawn(async move {
            loop {
                // An accept that failed (the client went away, or we are out of descriptors) is not ours to report.
                match listener.accept().await {
                    Ok((stream, _)) => shared.connected(stream),
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        }));
        Ok(())
    }

    /// Returns once everything said so far is on the wire (or its connection is gone, or stalled).
    pub async fn written(&self) {
        let marks: Vec<oneshot::Receiver<()>> = {
            let inner = self.shared.lock();
            inner.peers.values().map(Peer::mark).collect()
        };
        let mut stalled = self.shared.stalled.subscribe();
        for mark in marks {
            tokio::select! {
                // An error is a connection that is gone: nothing more will be written to it.
                _ = mark => {}
                _ = stalled.wait_for(|stalled| *stalled) => {}
            }
        }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        for task in [self.listening.take(), self.heart.take()].into_iter().flatten() {
            task.abort();
        }
        // Each line's task sees its end's sender go, and closes.
        self.shared.lock().peers.clear();
    }
}

async fn beat(shared: Arc<Shared>, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    // The first tick is at once; a switch's first heartbeat is not.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        shared.heartbeat();
    }
}

struct Shared {
    inner: Mutex<Inner>,
    changed: watch::Sender<()>,
    stalled: watch::Sender<bool>,
}

struct Inner {
    core: Core,
    peers: BTreeMap<u64, Peer>,
    connected: u64,
    commands: Vec<(u64, String)>,
    silent: bool,
}

struct Peer {
    dialogue: Dialogue,
    out: mpsc::UnboundedSender<Out>,
    end: Option<oneshot::Sender<Disconnect>>,
}

impl Peer {
    /// A line whose task has ended no longer listens; its peer is about to be removed.
    fn say(&self, bytes: Bytes) {
        _ = self.out.send(Out::Bytes(bytes));
    }

    fn mark(&self) -> oneshot::Receiver<()> {
        let (reached, mark) = oneshot::channel();
        _ = self.out.send(Out::Mark(reached));
        mark
    }
}

impl Inner {
    fn emit(&mut self, event: &Event) -> Vec<u64> {
        self.core.channels.apply(event, tokio::time::Instant::now());
        if self.silent {
            return Vec::new();
        }
        let wanting = self.peers.iter().filter(|(_, peer)| peer.dialogue.subscription.wants(event));
        let told = wanting.map(|(number, peer)| {
            peer.say(peer.dialogue.format.frame(event));
            *number
        });
        told.collect()
    }

    fn connections(&self) -> Vec<Connection> {
        let view = |(number, peer): (&u64, &Peer)| Connection {
            number: *number,
            authenticated: peer.dialogue.authenticated,
            subscribed: !peer.dialogue.subscription.is_empty(),
        };
        self.peers.iter().map(view).collect()
    }
}

impl Shared {
    fn new(settings: Settings) -> Self {
        let core = Core::new(settings);
        let inner = Inner { core, peers: BTreeMap::new(), connected: 0, commands: Vec::new(), silent: false };
        Self { inner: Mutex::new(inner), changed: watch::Sender::new(()), stalled: watch::Sender::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("a panic while the lock was held has already failed the test")
    }

    fn heartbeat(&self) {
        let mut inner = self.lock();
        let event = inner.core.heartbeat();
        _ = inner.emit(&event);
    }

    fn connected(self: &Arc<Self>, stream: TcpStream) {
        let (out, lines) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel();
        let peer = Peer { dialogue: Dialogue::default(), out, end: Some(end) };
        let mut inner = self.lock();
        inner.connected += 1;
        let number = inner.connected;
        if inner.core.settings.rude {
            peer.say(Bytes::from_static(REJECTION));
            peer.say(Bytes::from_static(GOODBYE));
            _ = peer.out.send(Out::Close);
        } else if !inner.silent {
            peer.say(Bytes::from_static(GREETING));
        }
        inner.peers.insert(number, peer);
        drop(inner);
        let line = Line { number, stream, out: lines, end: ended, stalled: self.stalled.subscribe() };
        tokio::spawn(line.run(Arc::clone(self)));
        self.changed.send_replace(());
    }

    fn handle(&self, number: u64, command: &Command) {
        let mut inner = self.lock();
        if inner.silent {
            return;
        }
        inner.commands.push((number, command.line.clone()));
        let Inner { core, peers, .. } = &mut *inner;
        let Some(peer) = peers.get_mut(&number) else { return };
        for act in peer.dialogue.handle(command, core) {
            match act {
                Act::Emit(event) => _ = inner.emit(&event),
                Act::Say(bytes) => inner.tell(number, Out::Bytes(bytes.into())),
                Act::Close => inner.tell(number, Out::Close),
            }
        }
        drop(inner);
        self.changed.send_replace(());
    }

    fn client_finished(&self, number: u64) {
        let inner = self.lock();
        inner.tell(number, Out::Bytes(Bytes::from_static(GOODBYE)));
        inner.tell(number, Out::Close);
    }

    fn gone(&self, number: u64) {
        self.lock().peers.remove(&number);
        self.changed.send_replace(());
    }

    fn is_authenticated(&self, number: u64) -> bool {
        self.lock().peers.get(&number).is_some_and(|peer| peer.dialogue.authenticated)
    }

    fn auth_timeout(&self) -> Duration {
        self.lock().core.settings.auth_timeout
    }
}

impl Inner {
    fn tell(&self, number: u64, out: Out) {
        if let Some(peer) = self.peers.get(&number) {
            _ = peer.out.send(out);
        }
    }
}
