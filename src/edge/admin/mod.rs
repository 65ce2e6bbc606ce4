//! Over HTTP what the control socket answers over Unix: the status page, metrics, health.
//!
//! ```text
//! GET  /                        the page (page.css, icon.svg, page.js and its parts: compiled in, nothing from outside)
//! GET  /livez, /readyz          whether the loops move; whether every switch is heard
//! GET  /metrics                 OpenMetrics
//! GET  /api/status              one snapshot as JSON: see `edge::status`       } numbers masked; with ?reveal=1 and
//! GET  /api/live                the same each second, as server-sent events    } a session as they are
//! POST /api/session             a link's key in, a session out
//! POST /api/session/end         the session is over
//! POST /api/replay              dead letters back into the queue; only with a session
//! ```
//!
//! # Who may what
//!
//! Whoever reaches the port reads: on loopback that is every user of this machine. So nothing here names a telephone
//! number, and nothing can be ordered, but with a *session*. Who may have one is decided by the control socket, which
//! is for the daemon's user and root: it makes a link (`freeswitch-zammad page`) whose fragment is a key, good once and
//! for five minutes. The page trades it for a session, keeps that in the tab's own memory and sends it as a header.
//!
//! - No cookie: those are shared by all ports of a host, and sent without being asked for. So there is nothing that
//!   another site could ride on; orders are refused to another origin all the same.
//! - A name that leads here (DNS rebinding) is no way in: who asks must ask for an address, `localhost`, or the
//!   configured name.
//! - The page runs under a policy that loads nothing from anywhere else and runs no code but its own files.
//! - Connections, streams, headers, bodies and waits are bounded. A local user can still take all the places: then the
//!   page is not to be had, and nothing else suffers.
//!
//! Not encrypted: from another machine go through `ssh -L`, or a proxy with TLS.

mod gate;
pub mod health;
mod http;
mod keys;
pub mod metrics;
mod stream;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::keys::Keys;
use super::control::Live;
use crate::store::Store;
use crate::time::UnixMillis;

/// Most connections at the same time; more are closed at once.
pub const CONNECTIONS_MAX: usize = 64;
/// How long a client may take for the head of a request, or do nothing between two.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// Largest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long a connection may last, streams included: who does not read gives its place back some day. The page makes
/// a new one.
const CONNECTION_MAX: Duration = Duration::from_hours(1);

/// The page as the rest of the daemon knows it.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    host: Option<String>,
    keys: Keys,
}

impl Admin {
    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the page is for whoever sits at this machine.
    #[must_use]
    pub fn url(&self) -> String {
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        format!("http://{}/", SocketAddr::new(ip, self.address.port()))
    }

    /// A link that opens a session, once and soon. A secret.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn link(&self, now: UnixMillis) -> io::Result<String> {
        Ok(format!("{}#key={}", self.url(), self.keys.link(now)?))
    }
}

/// The listening socket, at which clients may already knock.
pub struct Server {
    listener: TcpListener,
    admin: Arc<Admin>,
}

/// Listens. `host` is one more name under which it may be asked.
///
/// # Errors
/// If the address cannot be had.
pub async fn listen(address: SocketAddr, host: Option<String>) -> io::Result<Server> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    info!(name: "page_served", %address, "status page, metrics and health are served; `freeswitch-zammad page` makes a link");
    Ok(Server { listener, admin: Arc::new(Admin { address, host, keys: Keys::default() }) })
}

impl Server {
    /// What the rest of the daemon needs of it.
    #[must_use]
    pub fn admin(&self) -> Arc<Admin> {
        Arc::clone(&self.admin)
    }

    /// Answers until cancelled; then every connection is closed.
    pub async fn serve(self, store: Store, live: Live, stop: CancellationToken) {
        let Self { listener, admin } = self;
        let router = http::router(store, live, admin);
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
                        debug!(name: "page_full", "too many connections to the status page; one was closed");
                        continue;
                    };
                    let router = router.clone();
                    connections.spawn(async move {
                        converse(stream, router).await;
                        drop(place);
                    });
                }
                Err(why) => {
                    warn!(name: "page_fails", reason = %why, "the status page fails");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
        connections.shutdown().await;
    }
}

async fn converse(stream: TcpStream, router: axum::Router) {
    // Each tick of the stream is one small write, and should not wait for an acknowledgement of another.
    let _ = stream.set_nodelay(true);
    let conversation = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(CONNECTION_MAX, conversation).await {
        Ok(Ok(())) => {}
        Ok(Err(why)) => {
            debug!(name: "page_client_gone", reason = %why, "a client of the status page went away")
        }
        Err(_) => {
            debug!(name: "page_client_let_go", "a connection to the status page has lasted long enough")
        }
    }
}
