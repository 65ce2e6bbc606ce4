//! Who hears whom: real legs that are connected by a bridge, through loopback pairs, or in a conference.
//!
//! Early media bridges before either side is answered, so two people talk only when their legs are joined and
//! both answered. A mailbox counts as it is: it stands for the recording, not for a phone.

use super::book::Book;
use super::kin::HOPS_MAX;
use super::leg::Side;
use super::model::{Leg, LegKey};

impl Book {
    /// Pairs of legs that hear each other because of this one. Where a caller enters a conference, the one of
    /// ours who is known longest receives them; whoever comes later is a pair of their own.
    pub(super) fn connected(&self, key: LegKey) -> Vec<(LegKey, LegKey)> {
        let Some(leg) = self.leg(key) else { return Vec::new() };
        let mut pairs = Vec::new();
        if let Some(peer) = leg.peer {
            pairs.extend(self.far_end(peer, key).zip(self.far_end(key, peer)));
        }
        if let Some(room) = &leg.room {
            let others = || self.members(room).filter(|other| *other != key).map(|other| (key, other));
            let received = |pair: &(LegKey, LegKey)| {
                self.talk(*pair) && self.leg(pair.1).is_some_and(|other| other.side == Side::Ours)
            };
            match others().find(received) {
                Some(pair) if leg.party_of.is_some() => pairs.push(pair),
                Some(_) | None => pairs.extend(others()),
            }
        }
        pairs.retain(|pair| self.talk(*pair));
        pairs
    }

    fn talk(&self, (a, b): (LegKey, LegKey)) -> bool {
        let (Some(a), Some(b)) = (self.leg(a), self.leg(b)) else { return false };
        let real = |leg: &Leg| leg.answered && leg.side != Side::Plumbing;
        a.mailbox || b.mailbox || (real(a) && real(b))
    }

    /// From `from` over `to` on, through loopback pairs, to the leg at the other end. A mailbox is an end.
    fn far_end(&self, from: LegKey, to: LegKey) -> Option<LegKey> {
        let (mut from, mut to) = (from, to);
        for _ in 0..HOPS_MAX {
            let leg = self.leg(to)?;
            if leg.side != Side::Plumbing || leg.mailbox {
                return Some(to);
            }
            // Into one half and out of the other, to whatever that is bridged with.
            let twin = leg.twin.filter(|t| *t != from)?;
            let beyond = self.leg(twin)?.peer?;
            (from, to) = (twin, beyond);
        }
        None
    }
}
