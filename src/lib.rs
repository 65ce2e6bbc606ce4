//! freeswitch-zammad: tells Zammad about the calls on a FreeSWITCH.

pub mod call;
pub mod cli;
pub mod config;
pub mod cti;
pub mod daemon;
pub mod edge;
pub mod esl;
pub mod queue;
pub mod sim;
pub mod store;
pub mod time;
