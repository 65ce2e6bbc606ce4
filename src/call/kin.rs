//! Who caused a leg: ties are followed through helpers of the switch to the call or the person behind it.
//!
//! Ties come from a leg's CREATE and do not change; what bridges and transfers do later is the connection's
//! business. Never follows more than [`HOPS_MAX`] ties, whatever the switch says.

use super::book::Book;
use super::leg::{Side, Way};
use super::model::LegKey;
use crate::cti::event::CallId;

/// Most ties, or halves of loopback pairs, between two legs. Forwards run over three.
pub(super) const HOPS_MAX: usize = 16;

/// At whose wish a leg was made.
pub(super) enum Sponsor {
    /// It was made within this call.
    Call(CallId),
    /// One of our people made it, of their own accord.
    Person(LegKey),
}

impl Book {
    /// The call or person that a leg was made for; `None` if a program made it, or its maker is not known.
    pub(super) fn sponsor(&self, key: LegKey) -> Option<Sponsor> {
        let mut at = key;
        for _ in 0..HOPS_MAX {
            at = self.cause_of(at)?;
            let leg = self.leg(at)?;
            let call = leg.party_of.as_ref().or(leg.within.as_ref().filter(|_| leg.side == Side::Outside));
            if let Some(call) = call {
                return Some(Sponsor::Call(call.clone()));
            }
            let was_rung = leg.way == Way::Outbound && !leg.answered && self.cause_of(at).is_some();
            match leg.side {
                Side::Plumbing | Side::Outside => {}
                // A phone that rings and sends the call on (302) dials for whoever rang it; one that talks for itself.
                Side::Ours if was_rung => {}
                Side::Ours => return Some(Sponsor::Person(at)),
            }
        }
        None
    }

    /// Click-to-call over loopback: nobody dialled, but one of our phones stands in the same family.
    pub(super) fn person_near(&self, key: LegKey) -> Option<LegKey> {
        self.relatives(key)
            .find(|(_, leg)| {
                leg.side == Side::Ours && leg.answered && leg.ended.is_none() && leg.within.is_none()
            })
            .map(|(near, _)| near)
    }

    fn cause_of(&self, key: LegKey) -> Option<LegKey> {
        let leg = self.leg(key)?;
        let twin = leg.twin.filter(|t| self.leg(*t).is_some_and(|t| t.originator.is_some()));
        leg.originator.or(twin).filter(|k| *k != key && self.leg(*k).is_some())
    }
}
