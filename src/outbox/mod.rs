//! The outbox that several nodes share: events that their listeners have accepted, each once, in a PostgreSQL, and
//! which node delivers what. The only code that names `tokio_postgres`; knows no switch and no Zammad's answers.
//!
//! ```text
//!  node A: store ─ ship ─▶ ┌──────────────────────────┐ ─ claim ─▶ node A's drains ─▶ Zammad
//!  node B: store ─ ship ─▶ │ outbox_event, outbox_line │ ─ claim ─▶ node B's drains ─▶ Zammad
//!                          └──────────────────────────┘
//! ```
//!
//! - **Each event once**: its identity is the key. A row that two listeners bring, or one brings again, is one row.
//! - **Each call from one node at a time**: a *line* is claimed for a *lease*, by the server's clock, and renewed while
//!   it is worked on. It changes hands only when the lease is over; its `fence` is counted up then, and nothing that the
//!   node before says of it counts any more.
//! - **Order**: within a call newCall, answers, hangup, whoever brought them.
//! - LISTEN and NOTIFY only make it quick. Where they are not heard, all is found by looking.

mod fleet;
mod lines;
mod link;
mod rows;
mod schema;
mod ship;

use std::time::Duration;

use tokio_postgres::config::{Host, SslMode};

pub use fleet::{Figures, Hand, Node};
pub use lines::{Claimed, Recorded, Settled, Waiting};
pub use link::Link;
pub use rows::{After, Entry, Named, Standing, State};

/// A PostgreSQL, from `postgres://USER:PASSWORD@HOST/DATABASE` or libpq's `host=… dbname=…`. Holds the password, which it
/// does not show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server(tokio_postgres::Config);

impl Server {
    /// Whether what goes there can be read by others on its way.
    #[must_use]
    pub fn is_open_to_others(&self) -> bool {
        let near = |host: &Host| match host {
            Host::Unix(_) => true,
            Host::Tcp(name) => {
                name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
        };
        self.0.get_ssl_mode() == SslMode::Prefer && !self.0.get_hosts().iter().all(near)
    }
}

impl std::str::FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The error's own words may quote what stood there; its cause says which part it is.
        let mut server: tokio_postgres::Config =
            text.parse().map_err(|_| "it is not written as one".to_owned())?;
        if server.get_hosts().is_empty() {
            return Err("it names no host".to_owned());
        }
        if server.get_ssl_mode() == SslMode::Require {
            return Err("sslmode=require: this program does not speak TLS with PostgreSQL".to_owned());
        }
        server.application_name("freeswitch-zammad");
        server.connect_timeout(CONNECT_MAX);
        Ok(Self(server))
    }
}

/// How long a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// How the outbox is reached, and by whom.
#[derive(Clone)]
pub struct Settings {
    /// Where it is.
    pub server: Server,
    /// This node's name, for people.
    pub node: String,
    /// What it claims under: the same after a restart of this node, and no other's, even if that has its name.
    pub owner: String,
    /// How long a line that was claimed is nobody else's.
    pub lease: Duration,
    /// How long events are kept after Zammad has them. As long a repeated one is known.
    pub delivered_keep: Duration,
    /// How long those are kept that were given up.
    pub dead_keep: Duration,
}

impl std::fmt::Debug for Settings {
    /// Without the server, which holds the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("owner", &self.owner)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

/// Why the outbox did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutboxError {
    /// The server cannot be reached, or has broken off.
    #[error("the outbox is away: {0}")]
    Away(String),
    /// The server refuses: a password, a permission, a database that is not there.
    #[error("the outbox's server refuses: {0}")]
    Refused(String),
    /// A newer program has changed the tables.
    #[error("the outbox is of format {found}, and this program knows {known} at most: bring it up to date")]
    Newer {
        /// What it is.
        found: i32,
        /// What this program knows.
        known: i32,
    },
    /// The tables are not what this program would have made.
    #[error(
        "the outbox's tables are not this program's: step {step} reads otherwise; give it a database of its own"
    )]
    Foreign {
        /// Which step.
        step: i32,
    },
}
