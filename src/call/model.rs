//! What the tracker remembers: legs, the families they form, the calls that are told of them.

use crate::call::leg::{Side, Way};
use crate::cti::cause::Cause;
use crate::cti::event::{CallId, Direction};
use crate::time::UnixMillis;

/// A leg within one tracker. Numbers rise with the order of creation and are never reused; the switch's own
/// Unique-ID can change (CHANNEL_UUID) or come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LegKey(pub u64);

/// All legs that one leg caused, directly or not, are a family; its name is the first leg's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FamilyKey(pub u64);

/// One leg.
#[derive(Clone, Debug)]
pub struct Leg {
    /// Its Unique-ID now.
    pub id: String,
    /// The family it belongs to.
    pub family: FamilyKey,
    /// The leg that caused it.
    pub originator: Option<LegKey>,
    /// The other half of a loopback pair.
    pub twin: Option<LegKey>,
    /// Whose it is; decided once.
    pub side: Side,
    /// Which way it was set up.
    pub way: Way,
    /// When it was made, by the switch's clock.
    pub created: UnixMillis,
    /// The voicemail runs on it (loopback).
    pub mailbox: bool,
    /// Outside: the number there, normalised. Ours: the extension.
    pub number: String,
    /// Ours: the domain the extension belongs to.
    pub domain: Option<String>,
    /// It has been answered, by a phone or by the switch.
    pub answered: bool,
    /// The leg it is bridged with.
    pub peer: Option<LegKey>,
    /// The conference it is in.
    pub room: Option<String>,
    /// The call whose outside party it is.
    pub party_of: Option<CallId>,
    /// The call within which it was made.
    pub within: Option<CallId>,
    /// When it ended.
    pub ended: Option<UnixMillis>,
}

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    /// Where its legs are.
    pub family: FamilyKey,
    /// Fixed at the start.
    pub direction: Direction,
    /// Fixed at the start.
    pub from: String,
    /// Fixed at the start.
    pub to: String,
    /// Outbound: our leg that dials, if any.
    pub dialler: Option<LegKey>,
    /// The outside legs that are up: one, or several while trunks are tried.
    pub parties: Vec<LegKey>,
    /// Unique-IDs of the legs that answered, and `voicemail`.
    pub answered_by: Vec<String>,
    /// The number of the last answer.
    pub last_answer: Option<String>,
    /// The last telling cause among the phones that were tried.
    pub tried: Option<Cause>,
    /// Outbound: all its legs have ended unanswered and our leg still stands, so another trunk may be tried
    /// until this moment.
    pub ends_at: Option<UnixMillis>,
    /// Outbound: the telling cause of the last trunk leg that ended.
    pub failed: Option<Cause>,
    /// Outbound: our side hung up first.
    pub gave_up: bool,
}

/// Legs and calls that belong together.
#[derive(Clone, Debug, Default)]
pub struct Family {
    /// Every leg, also ended ones: ties lead through them.
    pub legs: Vec<LegKey>,
    /// Calls that are not over.
    pub calls: Vec<CallId>,
}
