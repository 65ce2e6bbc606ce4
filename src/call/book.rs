//! What is known of one switch at this moment: legs by key and by Unique-ID, families, open calls, conferences.
//!
//! What holds after every call of a function: an id leads to at most one leg; a peer's peer is the leg itself;
//! an ended leg has neither peer nor room; each leg stands in exactly one family. Nothing here walks over all
//! legs. Decides nothing about calls and says nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::model::{Call, Family, FamilyKey, Leg, LegKey};
use crate::cti::event::CallId;
use crate::time::UnixMillis;

/// How long an ended leg is still recognised, for events that come late and ties that lead through it.
pub const REMEMBERED: Duration = Duration::from_secs(120);
/// Most former ids of one leg that are kept.
const FORMER_MAX: usize = 4;

/// What must be stored of a family: its legs and its calls.
pub type Kept = (Vec<(LegKey, Leg)>, Vec<(CallId, Call)>);

#[derive(Default)]
pub(super) struct Book {
    legs: BTreeMap<LegKey, Leg>,
    by_id: HashMap<String, LegKey>,
    calls: HashMap<CallId, Call>,
    /// The open calls of each leg of ours that dials.
    dialled: HashMap<LegKey, BTreeSet<CallId>>,
    families: BTreeMap<FamilyKey, Family>,
    rooms: HashMap<String, BTreeSet<LegKey>>,
    waiting: BTreeSet<(UnixMillis, CallId)>,
    ended: BTreeSet<(UnixMillis, LegKey)>,
    changed: BTreeSet<FamilyKey>,
    last_key: u64,
}

/// Legs.
impl Book {
    /// The key of the next leg, and the family it founds if it has no other.
    pub(super) const fn next_key(&mut self) -> LegKey {
        self.last_key += 1;
        LegKey(self.last_key)
    }

    /// Takes a leg in. Its id leads to it from now on.
    pub(super) fn add(&mut self, key: LegKey, leg: Leg) {
        self.families.entry(leg.family).or_default().legs.insert(key);
        self.changed.insert(leg.family);
        self.lead(leg.id.clone(), key);
        if let Some(at) = leg.ended {
            self.ended.insert((at, key));
        }
        if let Some(twin) = leg.twin
            && let Some(other) = self.leg_mut(twin)
        {
            other.twin = Some(key);
        }
        self.legs.insert(key, leg);
    }

    pub(super) fn leg(&self, key: LegKey) -> Option<&Leg> {
        self.legs.get(&key)
    }

    /// A leg that is about to change.
    pub(super) fn leg_mut(&mut self, key: LegKey) -> Option<&mut Leg> {
        let leg = self.legs.get_mut(&key)?;
        self.changed.insert(leg.family);
        Some(leg)
    }

    /// The leg that has, or had, this Unique-ID; the newest where it came back.
    pub(super) fn find(&self, id: &str) -> Option<LegKey> {
        self.by_id.get(id).copied()
    }

    pub(super) fn is_up(&self, key: LegKey) -> bool {
        self.leg(key).is_some_and(|leg| leg.ended.is_none())
    }

    pub(super) fn legs(&self) -> usize {
        self.legs.len()
    }

    /// Every leg that has not ended, oldest first. Walks over all: for what happens once per connection.
    pub(super) fn live(&self) -> impl Iterator<Item = (LegKey, &Leg)> {
        self.legs.iter().filter(|(_, leg)| leg.ended.is_none()).map(|(key, leg)| (*key, leg))
    }

    /// Which leg to give up when there are too many: one that has ended, else the oldest; not `newest`.
    pub(super) fn least_wanted(&self, newest: LegKey) -> Option<LegKey> {
        let ended = self.ended.iter().map(|(_, key)| *key);
        ended.chain(self.legs.keys().copied()).find(|key| *key != newest)
    }

    /// The leg has a new id. The old one still leads to it.
    pub(super) fn rename(&mut self, key: LegKey, new: &str) {
        let Some(leg) = self.leg_mut(key) else { return };
        let old = std::mem::replace(&mut leg.id, new.to_owned());
        leg.former.push(old);
        let forgotten = (leg.former.len() > FORMER_MAX).then(|| leg.former.remove(0));
        self.lead(new.to_owned(), key);
        if let Some(id) = forgotten {
            self.unlink(&id, key);
        }
    }

    /// Another id that the leg had, heard of too late. One that leads to another leg stays that leg's.
    pub(super) fn also_called(&mut self, key: LegKey, former: &str) {
        if self.by_id.contains_key(former) {
            return;
        }
        let Some(leg) = self.leg_mut(key) else { return };
        if leg.former.len() < FORMER_MAX {
            leg.former.push(former.to_owned());
            self.by_id.insert(former.to_owned(), key);
        }
    }

    pub(super) fn join(&mut self, a: LegKey, b: LegKey) {
        self.part(a);
        self.part(b);
        for (one, other) in [(a, b), (b, a)] {
            if let Some(leg) = self.leg_mut(one) {
                leg.peer = Some(other);
            }
        }
    }

    pub(super) fn part(&mut self, key: LegKey) {
        let peer = self.leg_mut(key).and_then(|leg| leg.peer.take());
        if let Some(other) = peer.and_then(|peer| self.leg_mut(peer)) {
            other.peer = None;
        }
    }

    pub(super) fn enter_room(&mut self, key: LegKey, room: &str) {
        self.leave_room(key);
        if let Some(leg) = self.leg_mut(key) {
            leg.room = Some(room.to_owned());
            self.rooms.entry(room.to_owned()).or_default().insert(key);
        }
    }

    pub(super) fn leave_room(&mut self, key: LegKey) {
        let Some(room) = self.leg_mut(key).and_then(|leg| leg.room.take()) else { return };
        if let Some(members) = self.rooms.get_mut(&room) {
            members.remove(&key);
            if members.is_empty() {
                self.rooms.remove(&room);
            }
        }
    }

    /// Who is in a conference, longest known first.
    pub(super) fn members(&self, room: &str) -> impl Iterator<Item = LegKey> {
        self.rooms.get(room).into_iter().flatten().copied()
    }

    /// The leg has ended; it is remembered for a while.
    pub(super) fn close(&mut self, key: LegKey, at: UnixMillis) {
        self.part(key);
        self.leave_room(key);
        if let Some(leg) = self.leg_mut(key) {
            leg.ended = Some(at);
            self.ended.insert((at, key));
        }
    }

    /// A leg that stands alone joins the family of the leg that caused it.
    pub(super) fn adopt_into(&mut self, key: LegKey, family: FamilyKey) {
        let Some(own) = self.leg(key).map(|leg| leg.family) else { return };
        let alone = self.families.get(&own).is_some_and(|f| f.legs.len() == 1 && f.calls.is_empty());
        if own == family || !alone {
            return;
        }
        self.families.remove(&own);
        self.changed.insert(own);
        self.families.entry(family).or_default().legs.insert(key);
        if let Some(leg) = self.leg_mut(key) {
            leg.family = family;
        }
        self.changed.insert(family);
    }

    /// Something of any family may have gone unheard. Walks over all: for what happens once per connection.
    pub(super) fn doubt_all(&mut self) {
        self.families.values_mut().for_each(|family| family.in_doubt = true);
    }

    /// Something of this leg's family has gone unheard.
    pub(super) fn doubt(&mut self, key: LegKey) {
        let family = self.leg(key).map(|leg| leg.family);
        if let Some(family) = family.and_then(|family| self.families.get_mut(&family)) {
            family.in_doubt = true;
        }
    }

    pub(super) fn is_in_doubt(&self, family: FamilyKey) -> bool {
        self.families.get(&family).is_some_and(|family| family.in_doubt)
    }

    /// Forgets legs that ended long enough ago.
    pub(super) fn expire(&mut self, now: UnixMillis) {
        while let Some((at, key)) = self.ended.first().copied()
            && now.since(at) >= REMEMBERED
        {
            self.ended.pop_first();
            self.drop_leg(key);
        }
    }

    /// Forgets a leg that has ended.
    pub(super) fn drop_leg(&mut self, key: LegKey) {
        let Some(leg) = self.legs.remove(&key) else { return };
        if let Some(at) = leg.ended {
            self.ended.remove(&(at, key));
        }
        for id in leg.former.iter().chain([&leg.id]) {
            self.unlink(id, key);
        }
        if let Some(other) = leg.twin.and_then(|twin| self.legs.get_mut(&twin))
            && other.twin == Some(key)
        {
            other.twin = None;
        }
        let Some(family) = self.families.get_mut(&leg.family) else { return };
        family.legs.remove(&key);
        // A family that goes on is written when something of it changes; what it lost by then matters to nobody.
        if family.legs.is_empty() && family.calls.is_empty() {
            self.families.remove(&leg.family);
            self.changed.insert(leg.family);
        }
    }

    /// An id leads to this leg from now on, and is no other leg's any more, now or after a restart: one that has ended
    /// under it is left without a name.
    fn lead(&mut self, id: String, key: LegKey) {
        let before = self.by_id.get(&id).copied().filter(|before| *before != key);
        if let Some(leg) = before.and_then(|before| self.leg_mut(before)) {
            leg.former.retain(|former| *former != id);
            if leg.id == id && leg.ended.is_some() {
                leg.id.clear();
            }
        }
        self.by_id.insert(id, key);
    }

    fn unlink(&mut self, id: &str, key: LegKey) {
        if self.by_id.get(id) == Some(&key) {
            self.by_id.remove(id);
        }
    }
}

/// Calls.
impl Book {
    pub(super) fn open(&mut self, id: &CallId, call: Call) {
        self.changed.insert(call.family);
        self.families.entry(call.family).or_default().calls.insert(id.clone());
        self.index(id, call);
    }

    fn index(&mut self, id: &CallId, call: Call) {
        if let Some(dialler) = call.dialler {
            self.dialled.entry(dialler).or_default().insert(id.clone());
        }
        if let Some(due) = call.ends_at {
            self.waiting.insert((due, id.clone()));
        }
        self.calls.insert(id.clone(), call);
    }

    pub(super) fn call(&self, id: &CallId) -> Option<&Call> {
        self.calls.get(id)
    }

    /// A call that is about to change.
    pub(super) fn call_mut(&mut self, id: &CallId) -> Option<&mut Call> {
        let call = self.calls.get_mut(id)?;
        self.changed.insert(call.family);
        Some(call)
    }

    pub(super) fn calls(&self) -> usize {
        self.calls.len()
    }

    /// The open calls that a leg of ours dialled.
    pub(super) fn dialled_by(&self, dialler: LegKey) -> Vec<CallId> {
        self.dialled.get(&dialler).into_iter().flatten().cloned().collect()
    }

    /// The legs of the family that a leg belongs to.
    pub(super) fn relatives(&self, key: LegKey) -> impl Iterator<Item = (LegKey, &Leg)> {
        let family = self.leg(key).and_then(|leg| self.families.get(&leg.family));
        let keys = family.into_iter().flat_map(|family| &family.legs);
        keys.filter_map(|key| self.legs.get(key).map(|leg| (*key, leg)))
    }

    /// The call ends at `due` unless another trunk is tried before.
    pub(super) fn wait(&mut self, id: &CallId, due: UnixMillis) {
        if let Some(call) = self.call_mut(id) {
            call.ends_at = Some(due);
            self.waiting.insert((due, id.clone()));
        }
    }

    pub(super) fn wait_no_longer(&mut self, id: &CallId) {
        if let Some(due) = self.call_mut(id).and_then(|call| call.ends_at.take()) {
            self.waiting.remove(&(due, id.clone()));
        }
    }

    /// The next call that has waited long enough at `now`, and until when it was to wait. It is handed out once.
    pub(super) fn take_due(&mut self, now: UnixMillis) -> Option<(UnixMillis, CallId)> {
        self.waiting.first().filter(|(due, _)| *due <= now)?;
        self.waiting.pop_first()
    }

    /// Takes a call out: it is over.
    pub(super) fn finish(&mut self, id: &CallId) -> Option<Call> {
        self.wait_no_longer(id);
        let call = self.calls.remove(id)?;
        self.changed.insert(call.family);
        if let Some(dialler) = call.dialler
            && let Some(open) = self.dialled.get_mut(&dialler)
        {
            open.remove(id);
            if open.is_empty() {
                self.dialled.remove(&dialler);
            }
        }
        if let Some(family) = self.families.get_mut(&call.family) {
            family.calls.remove(id);
            if family.legs.is_empty() && family.calls.is_empty() {
                self.families.remove(&call.family);
            }
        }
        Some(call)
    }
}

/// What survives a restart.
impl Book {
    /// When [`Book::expire`] has something to do, or a call has waited long enough.
    pub(super) fn next_due(&self) -> Option<UnixMillis> {
        let waiting = self.waiting.first().map(|(due, _)| *due);
        let ended = self.ended.first().map(|(at, _)| at.after(REMEMBERED));
        waiting.into_iter().chain(ended).min()
    }

    /// A family that changed since it was last asked for; `None` in it when it is forgotten.
    pub(super) fn take_changed(&mut self) -> Option<(FamilyKey, Option<Kept>)> {
        let key = self.changed.pop_first()?;
        let kept = self.families.get(&key).map(|family| {
            let legs = family.legs.iter().filter_map(|k| self.legs.get(k).map(|leg| (*k, leg.clone())));
            let calls = family
                .calls
                .iter()
                .filter_map(|id| self.calls.get(id).map(|call| (id.clone(), call.clone())));
            (legs.collect(), calls.collect())
        });
        Some((key, kept))
    }

    /// Puts back what [`Book::take_changed`] handed out. What is here already stays as it is: no leg and no call
    /// stands in two families.
    pub(super) fn put_back(&mut self, key: FamilyKey, legs: Vec<(LegKey, Leg)>, calls: Vec<(CallId, Call)>) {
        let mut family = Family::default();
        for (leg_key, leg) in legs {
            if self.legs.contains_key(&leg_key) {
                continue;
            }
            self.last_key = self.last_key.max(leg_key.0);
            family.legs.insert(leg_key);
            for id in leg.former.iter().chain([&leg.id]) {
                // The newest where an id came back.
                let newest = self.by_id.entry(id.clone()).or_insert(leg_key);
                *newest = (*newest).max(leg_key);
            }
            if let Some(room) = &leg.room {
                self.rooms.entry(room.clone()).or_default().insert(leg_key);
            }
            if let Some(at) = leg.ended {
                self.ended.insert((at, leg_key));
            }
            self.legs.insert(leg_key, leg);
        }
        for (id, call) in calls {
            if self.calls.contains_key(&id) {
                continue;
            }
            family.calls.insert(id.clone());
            self.index(&id, call);
        }
        self.families.insert(key, family);
    }
}
