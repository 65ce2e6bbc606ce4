//! What the tracker remembers: legs, the families they form, the calls that are told of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::call::leg::{Side, Way};
use crate::cti::cause::Cause;
use crate::cti::event::{CallId, Direction};
use crate::time::UnixMillis;

/// A leg within one tracker. Numbers rise in the order in which legs became known and are never reused; the
/// switch's own Unique-ID can change (CHANNEL_UUID) or come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LegKey(pub u64);

/// All legs that one leg caused, directly or not, are a family; its name is the first leg's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FamilyKey(pub u64);

/// One leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    /// Its Unique-ID now.
    pub id: String,
    /// Unique-IDs that it had before.
    pub former: Vec<String>,
    /// Core-UUID of the run of the switch that it belongs to.
    pub core: Option<Arc<str>>,
    /// A leg of an earlier run had its id: the switch recovered its calls.
    pub recovered: bool,
    /// The family it belongs to.
    pub family: FamilyKey,
    /// The leg that caused it.
    pub originator: Option<LegKey>,
    /// The other half of a loopback pair.
    pub twin: Option<LegKey>,
    /// Whose it is; decided once, at its own first event.
    pub side: Side,
    /// Known only from another leg's headers so far.
    pub hearsay: bool,
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
    /// Ours, inbound: what it dialled, normalised.
    pub dialled: Option<String>,
    /// It has been answered, by a phone or by the switch.
    pub answered: bool,
    /// The leg it is bridged with.
    pub peer: Option<LegKey>,
    /// The conference it is in.
    pub room: Option<String>,
    /// The call whose outside party it is.
    pub party_of: Option<CallId>,
    /// The internal call that it made.
    pub calls_inside: Option<CallId>,
    /// The call within which it was made.
    pub within: Option<CallId>,
    /// When it ended.
    pub ended: Option<UnixMillis>,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Where its legs are.
    pub family: FamilyKey,
    /// Fixed at the start.
    pub direction: Direction,
    /// Fixed at the start.
    pub from: String,
    /// Fixed at the start.
    pub to: String,
    /// The Zammad that a route names for it.
    pub zammad: Option<String>,
    /// It has no outside party: it is told because the operator asked for internal calls too.
    pub internal: bool,
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
    /// Every leg that is remembered, also ended ones: ties lead through them.
    pub legs: BTreeSet<LegKey>,
    /// Calls that are not over.
    pub calls: BTreeSet<CallId>,
    /// Something of it may have gone unheard.
    pub in_doubt: bool,
}
