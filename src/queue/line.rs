//! One call's events, in order, and what is posted for the first of them. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::tz::TimeZone;

use crate::cti::cause::Cause;
use crate::cti::event::{Direction, Event, VOICEMAIL, What};
use crate::time::UnixMillis;

/// An accepted event, as the schedule needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its place in the store; rises with the order of acceptance.
    pub seq: u64,
    /// The event.
    pub event: Event,
    /// When it happened.
    pub happened: UnixMillis,
    /// The call had been answered before.
    pub answered: bool,
    /// An attempt was begun, and what came of it is not known.
    pub attempted: bool,
    /// An operator wants it to wait.
    pub held: bool,
    /// It had been delivered; it was put back for a Zammad that may have lost it.
    pub restored: bool,
}

impl Item {
    /// Whether its repetition does harm.
    pub(super) fn is_unrepeatable(&self) -> bool {
        self.event.is_unrepeatable(self.answered)
    }
}

/// What is done with a call that was over before Zammad could learn of it in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LatePolicy {
    /// It is told, in one burst, without what opens screens.
    #[default]
    Deliver,
    /// It is told if somebody must call back.
    MissedOnly,
    /// It is not told.
    Drop,
}

/// How late events are told.
#[derive(Clone, Debug)]
pub struct Lateness {
    /// From this age on an event is late.
    pub after: Duration,
    /// What is done with calls that are over by then.
    pub policy: LatePolicy,
    /// In which time zone a late hangup says when it really happened.
    pub zone: TimeZone,
}

impl Lateness {
    fn is_late(&self, item: &Item, now: UnixMillis) -> bool {
        now.since(item.happened) >= self.after
    }
}

/// A call's events, and where the first of them stands.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) items: VecDeque<Item>,
    /// Not before.
    pub(super) due: UnixMillis,
    /// How often the first event failed.
    pub(super) failures: u32,
    /// What was answered to it, for a dead letter.
    pub(super) story: String,
    pub(super) step: Step,
    /// The call was over before its newCall could be told in time: all of it goes as a late burst.
    pub(super) burst: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Step {
    /// The first event is to be posted.
    #[default]
    Idle,
    /// It is on its way.
    Posting,
    /// Zammad did not know the call: its newCall is to be posted, then the event.
    MustHeal,
    /// That newCall is on its way.
    Healing,
    /// The newCall that shows whether Zammad has lost a restored call is on its way.
    Restoring,
    /// What came of the first event is to be looked up in Zammad's log.
    MustLook,
    /// The look-up is on its way.
    Looking,
    /// The first event, the newCall that heals, or the one that restores was refused in unknown words; the
    /// probe's answer is waited for.
    Suspected,
    SuspectedHealing,
    SuspectedRestoring,
}

impl Line {
    /// The first event is gone; what is known of it goes with it.
    pub(super) fn shift(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        self.due = UnixMillis::default();
        self.failures = 0;
        self.story.clear();
        self.step = Step::Idle;
        Some(item)
    }

    /// Whether something of it is on its way.
    pub(super) const fn is_busy(&self) -> bool {
        match self.step {
            Step::Idle | Step::MustHeal | Step::MustLook => false,
            Step::Posting
            | Step::Healing
            | Step::Restoring
            | Step::Looking
            | Step::Suspected
            | Step::SuspectedHealing
            | Step::SuspectedRestoring => true,
        }
    }

    /// Whether the call is over before its newCall was told in time; asked when that newCall's turn has come.
    pub(super) fn is_late_story(&self, lateness: &Lateness, now: UnixMillis) -> bool {
        let Some(first) = self.items.front() else { return false };
        matches!(first.event.what, What::NewCall { .. })
            && lateness.is_late(first, now)
            && self.hangup().is_some()
    }

    /// Whether a policy keeps a late story from being told.
    pub(super) fn is_unwanted(&self, policy: LatePolicy) -> bool {
        match policy {
            LatePolicy::Deliver => false,
            LatePolicy::Drop => true,
            LatePolicy::MissedOnly => !self.is_missed(),
        }
    }

    /// The body of the first event.
    pub(super) fn body(&self, item: &Item, lateness: &Lateness, now: UnixMillis) -> String {
        let late = self.burst || lateness.is_late(item, now);
        match item.event.what {
            What::Hangup { cause } if late => {
                item.event.body_with_cause(Some(&late_cause(cause, item.happened, now, &lateness.zone)))
            }
            What::Answer { .. } if late || self.failures > 0 || item.attempted => {
                item.event.without_identity().body()
            }
            What::NewCall { .. } | What::Answer { .. } | What::Hangup { .. } => item.event.body(),
        }
    }

    fn hangup(&self) -> Option<Cause> {
        self.items.iter().find_map(|item| match item.event.what {
            What::Hangup { cause } => Some(cause),
            What::NewCall { .. } | What::Answer { .. } => None,
        })
    }

    fn is_missed(&self) -> bool {
        let talked = |item: &Item| match &item.event.what {
            What::Answer { user, .. } => user.as_deref() != Some(VOICEMAIL),
            What::NewCall { .. } | What::Hangup { .. } => false,
        };
        let inbound = self.items.front().is_some_and(|i| i.event.direction == Direction::In);
        inbound && !self.items.iter().any(talked) && self.hangup() != Some(Cause::Forwarded)
    }
}

/// `cancel, 12:03, reported late`: Zammad stamps arrivals, so the text says when it was. `forwarded` stays as it
/// is, because that exact word keeps Zammad from marking the call as missed.
fn late_cause(cause: Cause, happened: UnixMillis, now: UnixMillis, zone: &TimeZone) -> String {
    let local = |t: UnixMillis| {
        let moment = jiff::Timestamp::from_millisecond(i64::try_from(t.0).ok()?).ok()?;
        Some(moment.to_zoned_datetime(zone.clone()))
    };
    match (cause, local(happened), local(now)) {
        (Cause::Forwarded, _, _) | (_, None, _) => cause.to_string(),
        (_, Some(then), Some(now)) if then.date() == now.date() => {
            format!("{cause}, {}, reported late", then.strftime("%H:%M"))
        }
        (_, Some(then), _) => format!("{cause}, {}, reported late", then.strftime("%Y-%m-%d %H:%M")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cti::event::CallId;

    const NOON: UnixMillis = UnixMillis(1_795_435_200_000);

    #[test]
    fn a_late_hangup_says_when_it_happened() {
        let zone = TimeZone::UTC;
        let hour = Duration::from_secs(3600);
        assert_eq!(late_cause(Cause::Cancel, NOON, NOON.after(hour), &zone), "cancel, 12:00, reported late");
        assert_eq!(
            late_cause(Cause::Cancel, NOON, NOON.after(13 * hour), &zone),
            "cancel, 2026-11-23 12:00, reported late"
        );
        assert_eq!(late_cause(Cause::Forwarded, NOON, NOON.after(hour), &zone), "forwarded");
    }

    #[test]
    fn only_the_hangup_that_would_lose_its_mark_is_unrepeatable() {
        let hangup = |direction, answered, cause| Item {
            seq: 1,
            event: Event {
                call_id: CallId::new("c"),
                direction,
                from: "1".into(),
                to: "2".into(),
                what: What::Hangup { cause },
            },
            happened: NOON,
            answered,
            attempted: false,
            held: false,
            restored: false,
        };
        assert!(hangup(Direction::In, false, Cause::Cancel).is_unrepeatable());
        assert!(!hangup(Direction::In, true, Cause::NormalClearing).is_unrepeatable());
        assert!(!hangup(Direction::In, false, Cause::Forwarded).is_unrepeatable());
        assert!(!hangup(Direction::Out, false, Cause::Busy).is_unrepeatable());
    }
}
