//! freeswitch-zammad: tells Zammad about the calls on a FreeSWITCH.

pub mod config;
pub mod cti;
pub mod time;
