//! What is posted when: order within a call, many calls at once, repeats, pauses, dead letters.
//!
//! Pure: knows no clock, no HTTP, no store. [`schedule`] is the state machine of one Zammad, [`backoff`] its waits.

pub mod backoff;
pub mod schedule;
