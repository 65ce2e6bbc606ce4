//! freeswitch-zammad: tells Zammad about the calls on a FreeSWITCH.

pub mod call;
pub mod cti;
pub mod esl;
pub mod queue;
pub mod time;
