//! What goes into the store and comes out of it: events and what became of them, and how much is kept.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::cti::event::Event;
use crate::time::UnixMillis;

/// A position in the queue. Ever increasing and never given out twice, not even after the queue was empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// An event that Zammad must still learn. Its texts are stored as they are sent: cut to
/// [`TEXT_MAX`](crate::cti::event::TEXT_MAX) characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The event's identity: the same whenever the same thing on the switch is seen. At most [`KEY_MAX`](super::KEY_MAX) bytes.
    pub id: String,
    /// Which Zammad, by its configured name.
    pub zammad: String,
    /// Which switch, by its configured name.
    pub switch: String,
    /// What to tell.
    pub event: Event,
    /// When it happened on the switch.
    pub happened: UnixMillis,
    /// The call had been answered, by a person or the mailbox, before this event.
    pub answered: bool,
    /// A request that must not be blindly repeated was begun then.
    pub attempt: Option<UnixMillis>,
    /// A person wants it to wait.
    pub held: bool,
    /// It had been delivered and was put back, for a Zammad that may have lost it.
    pub restored: bool,
}

/// An event that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    /// The event.
    pub pending: Pending,
    /// When it was given up.
    pub died: UnixMillis,
    /// Why, for a person; stored up to 500 characters.
    pub story: String,
}

/// An event that Zammad has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The event.
    pub pending: Pending,
    /// When Zammad answered.
    pub delivered: UnixMillis,
    /// What a person may want to know of it; stored up to 500 characters.
    pub note: Option<String>,
}

/// What one moment on the switch brings: accepted together or not at all.
#[derive(Clone, Debug, Default)]
pub struct Accepting {
    /// To be delivered, in this order.
    pub events: Vec<Pending>,
    /// The call tracker's state after them.
    pub state: Vec<StateChange>,
}

/// A change of the call tracker's state, which is opaque here.
#[derive(Clone, Debug)]
pub struct StateChange {
    /// Which value; at most [`KEY_MAX`](super::KEY_MAX) bytes.
    pub key: String,
    /// The new value, at most [`STATE_MAX`](super::STATE_MAX) bytes; `None` removes it. An empty value is a value.
    pub value: Option<Vec<u8>>,
}

/// What became of a pending event. A position that is not pending (any more) is left alone.
#[derive(Clone, Debug)]
pub enum Settle {
    /// Zammad has it.
    Delivered {
        /// Which.
        seq: Seq,
        /// When.
        at: UnixMillis,
        /// What a person may want to know of it.
        note: Option<String>,
    },
    /// It is given up.
    Dead {
        /// Which.
        seq: Seq,
        /// When.
        at: UnixMillis,
        /// Why.
        story: String,
    },
    /// A request that must not be blindly repeated is about to be sent. Durable when `settle` returns.
    Attempt {
        /// Which.
        seq: Seq,
        /// When.
        at: UnixMillis,
    },
    /// The request that was begun surely did not arrive: it may be sent again like any other.
    Unattempted {
        /// Which.
        seq: Seq,
    },
    /// A person wants it to wait, or to go on.
    Held {
        /// Which.
        seq: Seq,
        /// Whether it waits.
        held: bool,
    },
    /// Zammad had lost the call of this restored event: it is delivered like any other.
    Missing {
        /// Which.
        seq: Seq,
    },
    /// A person wants it gone: from pending, dead or delivered, readable or damaged.
    Removed {
        /// Which.
        seq: Seq,
    },
}

/// How much of the past is kept. What is over is trimmed with the next write, lowest position first: a row that
/// was settled late can hold younger ones behind it until its own age is up.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most delivered events.
    pub delivered_max: usize,
    /// Longest time since delivery.
    pub delivered_age: Duration,
    /// Most dead letters.
    pub dead_max: usize,
    /// Longest time since death.
    pub dead_age: Duration,
    /// A directory that is larger, in bytes, is swapped for a fresh one when nothing is pending and most of it is
    /// unused.
    pub swap_bytes: u64,
    /// Where more events wait than these, rows are laid together: they take less memory then, and more writing.
    pub together_above: u64,
}

/// How many rows there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// To be delivered.
    pub pending: u64,
    /// Given up and kept.
    pub dead: u64,
    /// Delivered and kept.
    pub delivered: u64,
}

impl Counts {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.pending + self.dead + self.delivered
    }
}

/// How many rows were trimmed since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Delivered events.
    pub delivered: u64,
    /// Dead letters.
    pub dead: u64,
}

/// A stretch of what waits, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The events.
    pub rows: Vec<(Seq, Pending)>,
    /// Where the next stretch begins.
    pub next: Seq,
    /// That there are none, or no more, does not mean that this was the last: older ones than those that are accepted
    /// now are still being taken in.
    pub more_to_come: bool,
}

/// What of a damaged store is still being taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakingIn {
    /// Where it was set aside; then others that were not wholly taken in before it.
    pub directories: Vec<PathBuf>,
    /// Rows that could be read.
    pub rows: u64,
    /// How many of them are not here yet.
    pub left: u64,
}
