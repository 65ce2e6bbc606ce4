//! From FreeSWITCH's hangup causes to the CTI's seven, and from a whole call to its one cause.
//!
//! Legs lie: `NORMAL_CLEARING` stands on a caller nobody answered, `LOSE_RACE` on the phones that did not win.
//! So each cause in the table is either *telling* (it says something about the call) or *silent*, and
//! [`Table::judge`] asks the witnesses in order: was it answered, moved away, given up by the caller; then the
//! outside leg's own cause, what the switch noted on it about its last attempt, the phones that were tried.

use std::collections::HashMap;
use std::fmt;

use crate::cti::cause::Cause as Cti;

/// Whether a cause says something about the call as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// It does.
    Tells,
    /// It is said of legs for many reasons; others must be asked.
    Silent,
}
use Weight::{Silent, Tells};

/// One FreeSWITCH cause and what it becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// As in the header Hangup-Cause.
    pub name: &'static str,
    /// Q.850 number, or FreeSWITCH's own above 127.
    pub code: u16,
    /// The CTI cause.
    pub cti: Cti,
    /// Whether it is telling.
    pub weight: Weight,
    /// What it means, in a few words.
    pub gist: &'static str,
}

/// Every cause of FreeSWITCH 1.10 and 1.11, by ascending code.
pub const ROWS: [Row; 82] = [
    row("NONE", 0, Cti::NoAnswer, Silent, "no cause was given"),
    row("UNALLOCATED_NUMBER", 1, Cti::NotFound, Tells, "the number does not exist"),
    row("NO_ROUTE_TRANSIT_NET", 2, Cti::NotFound, Tells, "no route to the network on the way"),
    row("NO_ROUTE_DESTINATION", 3, Cti::NotFound, Tells, "no route to the number"),
    row("CHANNEL_UNACCEPTABLE", 6, Cti::Congestion, Tells, "the channel cannot be used"),
    row("CALL_AWARDED_DELIVERED", 7, Cti::NormalClearing, Silent, "delivered in an established channel"),
    row(
        "NORMAL_CLEARING",
        16,
        Cti::NormalClearing,
        Silent,
        "somebody hung up; FreeSWITCH also says it of callers nobody answered",
    ),
    row("USER_BUSY", 17, Cti::Busy, Tells, "the called phone is busy"),
    row("NO_USER_RESPONSE", 18, Cti::NoAnswer, Tells, "the called phone did not respond"),
    row("NO_ANSWER", 19, Cti::NoAnswer, Tells, "it rang and nobody answered"),
    row("SUBSCRIBER_ABSENT", 20, Cti::NoAnswer, Tells, "the called phone is not reachable"),
    row("CALL_REJECTED", 21, Cti::Busy, Tells, "the called side refused the call"),
    row("NUMBER_CHANGED", 22, Cti::NotFound, Tells, "the number is no longer in use"),
    row(
        "REDIRECTION_TO_NEW_DESTINATION",
        23,
        Cti::Forwarded,
        Silent,
        "the called phone sends the call elsewhere",
    ),
    row("EXCHANGE_ROUTING_ERROR", 25, Cti::Congestion, Tells, "the network could not route the call"),
    row("DESTINATION_OUT_OF_ORDER", 27, Cti::Congestion, Tells, "the called phone or its line does not work"),
    row("INVALID_NUMBER_FORMAT", 28, Cti::NotFound, Tells, "the number is malformed or incomplete"),
    row("FACILITY_REJECTED", 29, Cti::Congestion, Tells, "the network refused a service"),
    row("RESPONSE_TO_STATUS_ENQUIRY", 30, Cti::Congestion, Silent, "an answer to a status enquiry"),
    row("NORMAL_UNSPECIFIED", 31, Cti::NormalClearing, Silent, "ended normally, no more is known"),
    row("NORMAL_CIRCUIT_CONGESTION", 34, Cti::Congestion, Tells, "all lines are busy"),
    row("NETWORK_OUT_OF_ORDER", 38, Cti::Congestion, Tells, "the network does not work"),
    row("NORMAL_TEMPORARY_FAILURE", 41, Cti::Congestion, Tells, "the network failed for a moment"),
    row("SWITCH_CONGESTION", 42, Cti::Congestion, Tells, "the switch is overloaded"),
    row("ACCESS_INFO_DISCARDED", 43, Cti::Congestion, Tells, "the network dropped part of the request"),
    row("REQUESTED_CHAN_UNAVAIL", 44, Cti::Congestion, Tells, "the wanted channel is not available"),
    row("PRE_EMPTED", 45, Cti::Congestion, Tells, "a more important call took the line"),
    row("FACILITY_NOT_SUBSCRIBED", 50, Cti::Congestion, Tells, "the service is not subscribed"),
    row("OUTGOING_CALL_BARRED", 52, Cti::Congestion, Tells, "outgoing calls are barred"),
    row("INCOMING_CALL_BARRED", 54, Cti::Busy, Tells, "the called side takes no calls"),
    row("BEARERCAPABILITY_NOTAUTH", 57, Cti::Congestion, Tells, "the kind of call is not allowed"),
    row("BEARERCAPABILITY_NOTAVAIL", 58, Cti::Congestion, Tells, "the kind of call is not available"),
    row("SERVICE_UNAVAILABLE", 63, Cti::Congestion, Tells, "the service is not available"),
    row("BEARERCAPABILITY_NOTIMPL", 65, Cti::Congestion, Tells, "the kind of call is not implemented"),
    row("CHAN_NOT_IMPLEMENTED", 66, Cti::Congestion, Tells, "the kind of channel is not implemented"),
    row("FACILITY_NOT_IMPLEMENTED", 69, Cti::Congestion, Tells, "the facility is not implemented"),
    row("SERVICE_NOT_IMPLEMENTED", 79, Cti::Congestion, Tells, "the service is not implemented"),
    row("INVALID_CALL_REFERENCE", 81, Cti::Congestion, Tells, "the network lost the call"),
    row("INCOMPATIBLE_DESTINATION", 88, Cti::Congestion, Tells, "the two ends have no codec in common"),
    row("INVALID_MSG_UNSPECIFIED", 95, Cti::Congestion, Tells, "an invalid message"),
    row("MANDATORY_IE_MISSING", 96, Cti::Congestion, Tells, "a message was incomplete"),
    row("MESSAGE_TYPE_NONEXIST", 97, Cti::Congestion, Tells, "an unknown message"),
    row("WRONG_MESSAGE", 98, Cti::Congestion, Tells, "a message at the wrong time"),
    row("IE_NONEXIST", 99, Cti::Congestion, Tells, "an unknown part of a message"),
    row("INVALID_IE_CONTENTS", 100, Cti::Congestion, Tells, "an invalid part of a message"),
    row("WRONG_CALL_STATE", 101, Cti::Congestion, Tells, "a message in the wrong state"),
    row("RECOVERY_ON_TIMER_EXPIRE", 102, Cti::NoAnswer, Tells, "the other side did not respond in time"),
    row("MANDATORY_IE_LENGTH_ERROR", 103, Cti::Congestion, Tells, "a part of a message has the wrong length"),
    row("PROTOCOL_ERROR", 111, Cti::Congestion, Tells, "the protocol was violated"),
    row("INTERWORKING", 127, Cti::Congestion, Tells, "a network on the way failed"),
    row("SUCCESS", 142, Cti::NormalClearing, Silent, "an attempt succeeded"),
    row("ORIGINATOR_CANCEL", 487, Cti::Cancel, Silent, "the caller gave up; said of the phones that rang"),
    row("CRASH", 700, Cti::Congestion, Tells, "the switch crashed"),
    row("SYSTEM_SHUTDOWN", 701, Cti::Congestion, Tells, "the switch was shut down"),
    row("LOSE_RACE", 702, Cti::Cancel, Silent, "another phone took the call"),
    row("MANAGER_REQUEST", 703, Cti::NormalClearing, Silent, "ended by an administrator or a program"),
    row("BLIND_TRANSFER", 800, Cti::Forwarded, Tells, "transferred away"),
    row("ATTENDED_TRANSFER", 801, Cti::Forwarded, Tells, "transferred away after asking"),
    row("ALLOTTED_TIMEOUT", 802, Cti::NoAnswer, Tells, "the allotted time passed"),
    row("USER_CHALLENGE", 803, Cti::Congestion, Tells, "the other side demanded a login"),
    row("MEDIA_TIMEOUT", 804, Cti::Congestion, Tells, "no sound came any more"),
    row("PICKED_OFF", 805, Cti::Cancel, Silent, "another phone picked the call up"),
    row("USER_NOT_REGISTERED", 806, Cti::NoAnswer, Tells, "the called phone is not registered"),
    row("PROGRESS_TIMEOUT", 807, Cti::NoAnswer, Tells, "it never rang"),
    row("INVALID_GATEWAY", 808, Cti::Congestion, Tells, "the trunk is not configured"),
    row("GATEWAY_DOWN", 809, Cti::Congestion, Tells, "the trunk is down"),
    row("INVALID_URL", 810, Cti::NotFound, Tells, "the address is malformed"),
    row("INVALID_PROFILE", 811, Cti::Congestion, Tells, "the SIP profile does not exist"),
    row("NO_PICKUP", 812, Cti::NoAnswer, Tells, "there was nothing to pick up"),
    row("SRTP_READ_ERROR", 813, Cti::Congestion, Tells, "the encrypted sound could not be read"),
    row("BOWOUT", 814, Cti::NormalClearing, Silent, "a helper leg stepped aside"),
    row("BUSY_EVERYWHERE", 815, Cti::Busy, Tells, "the called person is busy at every phone"),
    row("DECLINE", 816, Cti::Busy, Tells, "the called person declined"),
    row("DOES_NOT_EXIST_ANYWHERE", 817, Cti::NotFound, Tells, "the called person does not exist"),
    row("NOT_ACCEPTABLE", 818, Cti::Congestion, Tells, "no common way to talk"),
    row("UNWANTED", 819, Cti::Busy, Tells, "the called person does not want this caller"),
    row("NO_IDENTITY", 820, Cti::Congestion, Tells, "the caller's identity is missing"),
    row("BAD_IDENTITY_INFO", 821, Cti::Congestion, Tells, "the caller's identity cannot be checked"),
    row("UNSUPPORTED_CERTIFICATE", 822, Cti::Congestion, Tells, "the caller's certificate is not supported"),
    row("INVALID_IDENTITY", 823, Cti::Congestion, Tells, "the caller's identity is invalid"),
    row("STALE_DATE", 824, Cti::Congestion, Tells, "the caller's identity has expired"),
    row("REJECT_ALL", 825, Cti::Busy, Tells, "the called person takes no calls"),
];

const fn row(name: &'static str, code: u16, cti: Cti, weight: Weight, gist: &'static str) -> Row {
    Row { name, code, cti, weight, gist }
}

/// The row of a cause name; `None` for a name FreeSWITCH does not have (a module's own, a newer version's).
#[must_use]
pub fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}

/// What an unknown cause becomes when nobody answered: all that is certain is that.
pub const UNKNOWN: Cti = Cti::NoAnswer;

/// The table with the operator's overrides.
#[derive(Clone, Debug, Default)]
pub struct Table {
    overrides: HashMap<String, Cti>,
}

impl Table {
    /// With these overrides (FreeSWITCH name → CTI cause). An overridden cause counts as telling: somebody meant it.
    #[must_use]
    pub const fn new(overrides: HashMap<String, Cti>) -> Self {
        Self { overrides }
    }

    /// Whether a name is in the table or among the overrides.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.overrides.contains_key(name) || find(name).is_some()
    }

    /// What a cause becomes, and whether it is telling. Unknown names are silent.
    #[must_use]
    pub fn look_up(&self, name: &str) -> (Cti, Weight) {
        if let Some(cti) = self.overrides.get(name) {
            return (*cti, Tells);
        }
        find(name).map_or((UNKNOWN, Silent), |row| (row.cti, row.weight))
    }

    /// The CTI cause of a name that is telling.
    #[must_use]
    pub fn telling(&self, name: &str) -> Option<Cti> {
        match self.look_up(name) {
            (cti, Tells) => Some(cti),
            (_, Silent) => None,
        }
    }

    /// Why a call that is over ended, and which witness said so.
    #[must_use]
    pub fn judge(&self, ending: &Ending) -> (Cti, Because) {
        if ending.answered {
            return (Cti::NormalClearing, Because::Answered);
        }
        if ending.moved_away {
            return (Cti::Forwarded, Because::MovedAway);
        }
        if ending.caller_gave_up {
            return (Cti::Cancel, Because::CallerGaveUp);
        }
        if let Some(cti) = self.telling(&ending.own) {
            return (cti, Because::OwnCause);
        }
        if let Some(cti) = ending.disposition.as_deref().and_then(|d| self.telling(d)) {
            return (cti, Because::Disposition);
        }
        match ending.tried {
            Some(cti) => (cti, Because::PhonesTried),
            None => (Cti::NoAnswer, Because::NothingElse),
        }
    }
}

/// The witnesses of a call's end.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// A person, or the mailbox, was connected to the outside party.
    pub answered: bool,
    /// Redirected, deflected or transferred out of the switch.
    pub moved_away: bool,
    /// The calling side's BYE or CANCEL came first.
    pub caller_gave_up: bool,
    /// Hangup-Cause of the outside leg.
    pub own: String,
    /// `originate_disposition` of the outside leg, at its end.
    pub disposition: Option<String>,
    /// The last telling cause among the phones that were tried.
    pub tried: Option<Cti>,
}

/// Which witness decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// Somebody talked.
    Answered,
    /// The call went on elsewhere.
    MovedAway,
    /// The caller hung up first.
    CallerGaveUp,
    /// The outside leg's own cause.
    OwnCause,
    /// What the outside leg remembers of its last attempt.
    Disposition,
    /// The phones that were tried.
    PhonesTried,
    /// Nobody said anything: nobody answered.
    NothingElse,
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Answered => "it was answered",
            Self::MovedAway => "it was moved away from this switch",
            Self::CallerGaveUp => "the calling side hung up first",
            Self::OwnCause => "the outside leg's own cause says so",
            Self::Disposition => "the outside leg's last attempt ended so",
            Self::PhonesTried => "the last phone that was tried said so",
            Self::NothingElse => "nothing says why, so nobody answered",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_codes_are_unique() {
        let mut names: Vec<_> = ROWS.iter().map(|r| r.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ROWS.len());
        assert!(ROWS.is_sorted_by_key(|r| r.code));
    }

    #[test]
    fn an_answered_call_is_cleared_normally_whatever_its_leg_says() {
        let ending = Ending {
            answered: true,
            own: "MANAGER_REQUEST".into(),
            caller_gave_up: true,
            ..Ending::default()
        };
        assert_eq!(Table::default().judge(&ending).0, Cti::NormalClearing);
    }

    #[test]
    fn silent_causes_hand_the_question_on() {
        let table = Table::default();
        let mut ending = Ending { own: "NORMAL_CLEARING".into(), ..Ending::default() };
        assert_eq!(table.judge(&ending), (Cti::NoAnswer, Because::NothingElse));
        ending.tried = Some(Cti::Busy);
        assert_eq!(table.judge(&ending), (Cti::Busy, Because::PhonesTried));
        ending.disposition = Some("failure".into());
        assert_eq!(table.judge(&ending), (Cti::Busy, Because::PhonesTried));
        ending.disposition = Some("NO_ANSWER".into());
        assert_eq!(table.judge(&ending), (Cti::NoAnswer, Because::Disposition));
        ending.own = "UNALLOCATED_NUMBER".into();
        assert_eq!(table.judge(&ending), (Cti::NotFound, Because::OwnCause));
    }

    #[test]
    fn an_override_is_meant() {
        let table = Table::new(HashMap::from([("MANAGER_REQUEST".to_owned(), Cti::Congestion)]));
        let ending = Ending { own: "MANAGER_REQUEST".into(), ..Ending::default() };
        assert_eq!(table.judge(&ending), (Cti::Congestion, Because::OwnCause));
    }
}
