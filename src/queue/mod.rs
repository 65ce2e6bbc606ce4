//! What is posted when: order within a call, many calls at once, repeats, pauses, dead letters.
//!
//! Pure: knows no clock, no HTTP, no store. [`schedule`] is the state machine of one Zammad; [`breaker`] is its
//! judgement on whether Zammad can be reached, [`mod@line`] one call's events, [`backoff`] the waits.

pub mod backoff;
pub mod breaker;
pub mod line;
pub mod schedule;
