//! freeswitch-zammad: tells Zammad about the calls on a FreeSWITCH.

pub mod cti;
pub mod sim;
pub mod time;
