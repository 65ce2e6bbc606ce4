//! What is going on: legs become calls, and calls are told as a person would tell them.
//!
//! > A call is an outside party's stay on the switch. It begins when their leg is created, is answered each time
//! > a new person on our side is connected to them, and ends when their leg ends.
//!
//! Pure: no socket, no clock, no store, nothing of how Zammad is reached. The only place that knows both
//! FreeSWITCH's headers and the CTI's words.

pub mod cause;
pub mod leg;
pub mod model;
pub mod number;
pub mod people;
pub mod rule;
pub mod tracker;
