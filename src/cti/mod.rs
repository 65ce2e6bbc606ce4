//! Zammad's Generic CTI contract: what is posted, what comes back, what it means.
//!
//! Knows nothing of FreeSWITCH, of sled or of the queue. [`event`], [`cause`] and [`reply`] are pure;
//! [`client`] is the only file that names reqwest.

pub mod cause;
pub mod client;
pub mod event;
pub mod reply;
