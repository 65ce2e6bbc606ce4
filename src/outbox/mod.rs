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
mod server;
mod ship;

use std::time::Duration;

pub use fleet::{Figures, Hand, Node};
pub use lines::{Claimed, Recorded, Settled, Waiting};
pub use link::Link;
pub use rows::{After, Entry, Named, Standing, State};
pub use server::Server;

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
