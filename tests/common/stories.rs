//! A call's events, as a listener accepts them.

use freeswitch_zammad::cti::cause::Cause;
use freeswitch_zammad::cti::event::{CallId, Direction, Event, What};
use freeswitch_zammad::store::{Pending, Seq};
use freeswitch_zammad::time::UnixMillis;

/// Each with a place in a store.
pub(crate) fn placed(events: &[Pending]) -> Vec<(Seq, Pending)> {
    (1..).map(Seq).zip(events.iter().cloned()).collect()
}

/// An inbound call that was answered, from `from` on, in ms since 1970.
pub(crate) fn story(zammad: &str, call: &str, from: u64) -> Vec<Pending> {
    let steps = [
        ("newCall", What::NewCall { user: None, queue: Some("sales".into()) }),
        ("answer", What::Answer { answering_number: Some("4940456".into()), user: None }),
        ("hangup", What::Hangup { cause: Cause::NormalClearing }),
    ];
    let event = |(at, (name, what)): (u64, (&str, What))| Pending {
        id: format!("{call}/{name}"),
        zammad: zammad.into(),
        switch: "pbx".into(),
        event: Event {
            call_id: CallId::new(call),
            direction: Direction::In,
            from: "4930123".into(),
            to: "4940456".into(),
            what,
        },
        happened: UnixMillis(from + at),
        answered: at > 0,
        attempt: None,
        held: false,
        restored: false,
    };
    (0..).zip(steps).map(event).collect()
}
