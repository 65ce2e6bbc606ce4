//! A switch and a Zammad to talk to: what demo, tests and benches use in place of the real ones.
//!
//! Both speak over real sockets and answer as the real ones were recorded to answer. They share nothing with
//! the daemon: no parser, no type of the wire, so that each side tests the other. They are honest about faults
//! too: a reset is a TCP reset, a stopped server refuses connections.
//!
//! Knows nothing of `esl`, `call`, `cti`, `queue` or the store.

pub mod recording;
pub mod switch;
pub mod zammad;

mod port;
