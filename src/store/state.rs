//! How the call tracker's memory is stored: one value per family of legs, JSON, its own shapes.
//!
//! The names here are a promise to later versions; the types the tracker thinks with may change freely.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::call::leg::{Side, Way};
use crate::call::model::{Call, FamilyKey, Leg, LegKey};
use crate::cti::event::{CallId, Direction};
use crate::time::UnixMillis;

/// A stored value that is no family.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StateError(pub String);

/// Highest key that a leg can have come to.
const KEY_MAX: u64 = u64::MAX / 2;

/// A family as the tracker takes it back.
pub type Remembered = (FamilyKey, Vec<(LegKey, Leg)>, Vec<(CallId, Call)>);

/// The key of a family of a switch. Switch names hold no `/`.
#[must_use]
pub fn key(switch: &str, family: FamilyKey) -> String {
    format!("{switch}/{:016x}", family.0)
}

/// The value of a family.
#[must_use]
pub fn encode(legs: &[(LegKey, Leg)], calls: &[(CallId, Call)]) -> Vec<u8> {
    let family = StoredFamily {
        legs: legs.iter().map(|(key, leg)| StoredLeg::of(*key, leg)).collect(),
        calls: calls.iter().map(|(id, call)| StoredCall::of(id, call)).collect(),
    };
    serde_json::to_vec(&family).expect("a struct of strings and numbers always serializes")
}

/// The switch's name and the family, from what [`key`] and [`encode`] made.
pub fn decode(key: &str, value: &[u8]) -> Result<(String, Remembered), StateError> {
    let bad = |why: &dyn std::fmt::Display| StateError(why.to_string());
    let (switch, number) = key.rsplit_once('/').ok_or_else(|| bad(&"the key has no /"))?;
    let number = u64::from_str_radix(number, 16).map_err(|why| bad(&why))?;
    // serde's message can quote what it read, a telephone number, and this is logged: only the place is told.
    let stored: StoredFamily = serde_json::from_slice(value)
        .map_err(|why| bad(&format!("not the expected shape at byte {}", why.column())))?;
    // Keys are counted up; from one of these the count would run over.
    if stored.legs.iter().any(|leg| leg.key > KEY_MAX) {
        return Err(bad(&"the key of a leg is beyond all counting"));
    }
    // One that an id no longer leads to could never be ended by it.
    let mut newest: HashMap<&str, &StoredLeg> = HashMap::new();
    for leg in &stored.legs {
        if let Some(other) = newest.insert(&leg.id, leg)
            && [leg, other]
                .into_iter()
                .min_by_key(|leg| leg.key)
                .is_some_and(|older| older.ended_ms.is_none())
        {
            return Err(bad(&"a leg that goes on has the id of a later one"));
        }
    }
    let family = FamilyKey(number);
    let legs = stored.legs.into_iter().map(|leg| leg.into_leg(family)).collect();
    let calls = stored
        .calls
        .into_iter()
        .map(|call| call.into_call(family))
        .collect::<Option<_>>()
        .ok_or_else(|| bad(&"an unknown cause"))?;
    Ok((switch.to_owned(), (family, legs, calls)))
}

#[derive(Serialize, Deserialize)]
struct StoredFamily {
    legs: Vec<StoredLeg>,
    calls: Vec<StoredCall>,
}

#[derive(Serialize, Deserialize)]
struct StoredLeg {
    key: u64,
    id: String,
    #[serde(default)]
    former: Vec<String>,
    core: Option<String>,
    #[serde(default)]
    recovered: bool,
    originator: Option<u64>,
    twin: Option<u64>,
    side: StoredSide,
    #[serde(default)]
    hearsay: bool,
    inbound: bool,
    created_ms: u64,
    mailbox: bool,
    number: String,
    domain: Option<String>,
    dialled: Option<String>,
    answered: bool,
    peer: Option<u64>,
    room: Option<String>,
    party_of: Option<String>,
    calls_inside: Option<String>,
    within: Option<String>,
    ended_ms: Option<u64>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StoredSide {
    Outside,
    Ours,
    Plumbing,
}

#[derive(Serialize, Deserialize)]
struct StoredCall {
    id: String,
    out: bool,
    from: String,
    to: String,
    #[serde(default)]
    zammad: Option<String>,
    #[serde(default)]
    internal: bool,
    dialler: Option<u64>,
    parties: Vec<u64>,
    answered_by: Vec<String>,
    last_answer: Option<String>,
    tried: Option<String>,
    ends_at_ms: Option<u64>,
    failed: Option<String>,
    gave_up: bool,
}

impl StoredLeg {
    fn of(key: LegKey, leg: &Leg) -> Self {
        Self {
            key: key.0,
            id: leg.id.clone(),
            former: leg.former.clone(),
            core: leg.core.as_deref().map(str::to_owned),
            recovered: leg.recovered,
            originator: leg.originator.map(|k| k.0),
            twin: leg.twin.map(|k| k.0),
            side: match leg.side {
                Side::Outside => StoredSide::Outside,
                Side::Ours => StoredSide::Ours,
                Side::Plumbing => StoredSide::Plumbing,
            },
            hearsay: leg.hearsay,
            inbound: leg.way == Way::Inbound,
            created_ms: leg.created.0,
            mailbox: leg.mailbox,
            number: leg.number.clone(),
            domain: leg.domain.clone(),
            dialled: leg.dialled.clone(),
            answered: leg.answered,
            peer: leg.peer.map(|k| k.0),
            room: leg.room.clone(),
            party_of: leg.party_of.as_ref().map(|c| c.as_str().to_owned()),
            calls_inside: leg.calls_inside.as_ref().map(|c| c.as_str().to_owned()),
            within: leg.within.as_ref().map(|c| c.as_str().to_owned()),
            ended_ms: leg.ended.map(|t| t.0),
        }
    }

    fn into_leg(self, family: FamilyKey) -> (LegKey, Leg) {
        let leg = Leg {
            id: self.id,
            former: self.former,
            core: self.core.map(Arc::from),
            recovered: self.recovered,
            family,
            originator: self.originator.map(LegKey),
            twin: self.twin.map(LegKey),
            side: match self.side {
                StoredSide::Outside => Side::Outside,
                StoredSide::Ours => Side::Ours,
                StoredSide::Plumbing => Side::Plumbing,
            },
            hearsay: self.hearsay,
            way: if self.inbound { Way::Inbound } else { Way::Outbound },
            created: UnixMillis(self.created_ms),
            mailbox: self.mailbox,
            number: self.number,
            domain: self.domain,
            dialled: self.dialled,
            answered: self.answered,
            peer: self.peer.map(LegKey),
            room: self.room,
            party_of: self.party_of.as_deref().map(CallId::new),
            calls_inside: self.calls_inside.as_deref().map(CallId::new),
            within: self.within.as_deref().map(CallId::new),
            ended: self.ended_ms.map(UnixMillis),
        };
        (LegKey(self.key), leg)
    }
}

impl StoredCall {
    fn of(id: &CallId, call: &Call) -> Self {
        Self {
            id: id.as_str().to_owned(),
            out: call.direction == Direction::Out,
            from: call.from.clone(),
            to: call.to.clone(),
            zammad: call.zammad.clone(),
            internal: call.internal,
            dialler: call.dialler.map(|k| k.0),
            parties: call.parties.iter().map(|k| k.0).collect(),
            answered_by: call.answered_by.clone(),
            last_answer: call.last_answer.clone(),
            tried: call.tried.map(|c| c.as_str().to_owned()),
            ends_at_ms: call.ends_at.map(|t| t.0),
            failed: call.failed.map(|c| c.as_str().to_owned()),
            gave_up: call.gave_up,
        }
    }

    fn into_call(self, family: FamilyKey) -> Option<(CallId, Call)> {
        let cause = |text: Option<String>| text.map(|t| t.parse().ok()).map_or(Some(None), |c| c.map(Some));
        let call = Call {
            family,
            direction: if self.out { Direction::Out } else { Direction::In },
            from: self.from,
            to: self.to,
            zammad: self.zammad,
            internal: self.internal,
            dialler: self.dialler.map(LegKey),
            parties: self.parties.into_iter().map(LegKey).collect(),
            answered_by: self.answered_by,
            last_answer: self.last_answer,
            tried: cause(self.tried)?,
            ends_at: self.ends_at_ms.map(UnixMillis),
            failed: cause(self.failed)?,
            gave_up: self.gave_up,
        };
        Some((CallId::new(&self.id), call))
    }
}
