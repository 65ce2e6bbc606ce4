//! Zammad's Generic CTI contract: what is posted, what comes back, what it means.
//!
//! Knows nothing of FreeSWITCH, of sled or of the queue.

pub mod cause;
pub mod event;
