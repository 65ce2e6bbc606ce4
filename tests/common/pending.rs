//! An event as it waits in the queue.
#![allow(dead_code, reason = "each test is a crate of its own, and not every one needs every helper")]

use freeswitch_zammad::cti::event::{CallId, Direction, Event, What};
use freeswitch_zammad::store::Pending;
use freeswitch_zammad::time::UnixMillis;

/// One of an inbound call that nobody talked in, at the beginning of all time.
pub(crate) fn pending(call: &str, what: What) -> Pending {
    Pending {
        id: format!("{call}/{}", what.name()),
        zammad: "main".into(),
        switch: "pbx".into(),
        event: Event {
            call_id: CallId::new(call),
            direction: Direction::In,
            from: "4915112345678".into(),
            to: "4930555".into(),
            what,
        },
        happened: UnixMillis(0),
        answered: false,
        attempt: None,
        held: false,
        restored: false,
    }
}

pub(crate) fn new_call(call: &str) -> Pending {
    pending(call, What::NewCall { user: None, queue: None })
}
