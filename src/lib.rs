//! freeswitch-zammad: tells Zammad about the calls on a FreeSWITCH.

pub mod cti;
pub mod store;
pub mod time;
