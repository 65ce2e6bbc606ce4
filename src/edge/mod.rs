//! The only code that waits or touches the world: sockets, the store's threads, the clock.
//!
//! ```text
//! listener (one per switch) ─▶ intake ─▶ store ─▶ drain (one per Zammad)
//!                                control: answers questions about all of them
//!                                admin: the same over HTTP: page, metrics, health
//! ```
//!
//! Beside them one backfill per switch that keeps records: what was missed goes from its files into the intake.
//!
//! Each task drives a pure state machine and decides nothing itself. The queues between them are bounded.

pub mod accept;
pub mod admin;
pub mod answers;
pub mod backfill;
pub mod claims;
pub mod clock;
pub mod control;
pub mod desk;
pub mod doubts;
pub mod drain;
pub mod fleet;
pub mod heal;
pub mod history;
pub mod intake;
pub mod listener;
pub mod log;
pub mod mask;
pub mod ongoing;
pub mod pauses;
pub mod process;
pub mod pulse;
mod resync;
pub mod rows;
pub mod send;
pub mod shipper;
pub mod shown;
pub mod source;
pub mod status;
pub mod stories;
pub mod systemd;
