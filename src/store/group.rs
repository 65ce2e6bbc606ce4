//! One transaction in the making: requests in, changes out. What the requests so far change is seen before what
//! is on disk, so that a group behaves as if its requests came one after the other. Writes nothing itself and
//! reads no clock: "now" is the latest moment that a request of the group names.

use std::collections::BTreeSet;

use super::carve::Carved;
use super::error::StoreError;
use super::record::{self, LEDGER, Ledger, Stored, piece_key, seal, seq_key, seq_of};
use super::sled::{Changes, Disk, Tree};
use super::{Dead, Delivered, Limits, Pending, Seq, Settle, Trimmed};
use crate::time::UnixMillis;

/// Most rows of one tree that one group trims besides as many as it settles, so that a lowered limit does not hold up the
/// calls.
const TRIM_MAX: usize = 256;
/// Most rows that are looked at at once for that.
const TRIM_PAGE: usize = 64;

/// An event to accept, encoded.
pub(super) struct NewEvent {
    pub(super) id: String,
    pub(super) payload: Vec<u8>,
}

/// A state value to put in the place of the old one, in pieces; without any, the old one is removed.
pub(super) struct NewState {
    pub(super) name: String,
    pub(super) pieces: Vec<Vec<u8>>,
}

pub(super) struct Group<'d> {
    disk: &'d Disk,
    /// What is still to be taken in beside that.
    rest: Option<&'d Carved>,
    changes: Changes,
    ledger: Ledger,
    ledger_on_disk: Ledger,
    /// The latest moment that a request named.
    now: Option<UnixMillis>,
    /// Requests to settle, whatever came of them.
    settled: usize,
}

impl<'d> Group<'d> {
    pub(super) fn new(disk: &'d Disk, rest: Option<&'d Carved>, ledger: Ledger) -> Self {
        Self { disk, rest, changes: Changes::new(), ledger, ledger_on_disk: ledger, now: None, settled: 0 }
    }

    /// What to commit, and the ledger once it is committed.
    pub(super) fn finish(mut self) -> (Changes, Ledger) {
        if self.ledger != self.ledger_on_disk {
            self.put(Tree::Meta, LEDGER.to_vec(), &self.ledger.encode());
        }
        (self.changes, self.ledger)
    }

    /// Takes note of the time.
    pub(super) fn saw(&mut self, at: UnixMillis) {
        self.now = self.now.max(Some(at));
    }

    /// `before` is what was answered at the first try, if this is another: an event that was new then is new still,
    /// wherever that try has left it.
    pub(super) fn accept(
        &mut self,
        events: &[NewEvent],
        state: &[NewState],
        before: Option<&[Option<Seq>]>,
    ) -> Result<Vec<Option<Seq>>, StoreError> {
        // Of a name that stands twice in this request the last value counts, and nothing of those before it.
        let mut names = BTreeSet::new();
        let mut state: Vec<&NewState> = state.iter().rev().filter(|s| names.insert(&s.name)).collect();
        state.reverse();
        // All reads first: an error must leave nothing of this request in the group.
        let mut known = Vec::with_capacity(events.len());
        for event in events {
            known.push(self.seq_of(&event.id)?);
        }
        let mut leftovers = Vec::new();
        for NewState { name, pieces } in &state {
            let mut piece = u16::try_from(pieces.len()).expect("the handle bounds a state value");
            while self.value(Tree::State, &piece_key(name, piece))?.is_some() {
                leftovers.push(piece_key(name, piece));
                piece += 1;
            }
        }

        let mut seqs = Vec::with_capacity(events.len());
        for (at, (NewEvent { id, payload }, known)) in events.iter().zip(known).enumerate() {
            // The second look finds an identity that stands twice in this request.
            let twice = matches!(self.changes.get(&(Tree::Ids, id.as_bytes().to_vec())), Some(Some(_)));
            let was_new = before.is_some_and(|before| before.get(at).is_some_and(Option::is_some));
            seqs.push(match known {
                Some(seq) if was_new => Some(seq),
                Some(_) => None,
                None if twice => None,
                None => Some(self.append(id, payload)),
            });
        }
        for key in leftovers {
            self.changes.insert((Tree::State, key), None);
        }
        for NewState { name, pieces } in state {
            for (number, piece) in (0..).zip(pieces) {
                self.put(Tree::State, piece_key(name, number), piece);
            }
        }
        Ok(seqs)
    }

    /// Settles all that can be settled; the error names the first row that could not be read.
    pub(super) fn settle(&mut self, settles: &[Settle]) -> Result<(), StoreError> {
        let mut outcome = Ok(());
        self.settled += settles.len();
        for settle in settles {
            outcome = outcome.and(self.settle_one(settle.clone()));
        }
        outcome
    }

    fn settle_one(&mut self, settle: Settle) -> Result<(), StoreError> {
        match settle {
            Settle::Delivered { seq, at, note } => {
                self.saw(at);
                if let Some(pending) = self.row::<Pending>(seq)? {
                    self.take::<Pending>(seq);
                    self.add(seq, &Delivered { pending, delivered: at, note });
                }
            }
            Settle::Dead { seq, at, story } => {
                self.saw(at);
                if let Some(pending) = self.row::<Pending>(seq)? {
                    self.take::<Pending>(seq);
                    self.add(seq, &Dead { pending, died: at, story });
                }
            }
            Settle::Attempt { seq, at } => self.amend(seq, |p| p.attempt = Some(at))?,
            Settle::Unattempted { seq } => self.amend(seq, |p| p.attempt = None)?,
            Settle::Held { seq, held } => self.amend(seq, |p| p.held = held)?,
            Settle::Missing { seq } => self.amend(seq, |p| p.restored = false)?,
            Settle::Removed { seq } => {
                self.forget::<Pending>(seq)?;
                self.forget::<Dead>(seq)?;
                self.forget::<Delivered>(seq)?;
            }
        }
        Ok(())
    }

    fn amend(&mut self, seq: Seq, change: impl FnOnce(&mut Pending)) -> Result<(), StoreError> {
        if let Some(mut pending) = self.row::<Pending>(seq)? {
            change(&mut pending);
            self.put(Tree::Pending, seq_key(seq).to_vec(), &pending.encode());
        }
        Ok(())
    }

    /// `before` is what was answered at the first try, if this is another.
    pub(super) fn revive(
        &mut self,
        seqs: &[Seq],
        before: &[(Seq, Pending)],
    ) -> Result<Vec<(Seq, Pending)>, StoreError> {
        let mut revived = Vec::new();
        for (_, row) in before {
            let seq = self.seq_of(&row.id)?;
            let found = seq.map(|seq| self.row::<Pending>(seq)).transpose()?.flatten();
            revived.extend(seq.zip(found));
        }
        let mut seqs = seqs.to_vec();
        seqs.sort_unstable();
        seqs.dedup();
        let mut dead = Vec::new();
        let mut delivered = Vec::new();
        for &seq in &seqs {
            dead.extend(self.row::<Dead>(seq)?.map(|row| (seq, row.pending)));
            delivered.extend(
                self.row::<Delivered>(seq)?
                    .map(|row| (seq, Pending { restored: true, attempt: None, ..row.pending })),
            );
        }
        for &(seq, _) in &dead {
            self.take::<Dead>(seq);
        }
        for &(seq, _) in &delivered {
            self.take::<Delivered>(seq);
        }
        let mut found = dead;
        found.append(&mut delivered);
        found.sort_by_key(|(seq, _)| *seq);
        revived.extend(found.into_iter().map(|(_, row)| (self.append(&row.id, &row.encode()), row)));
        Ok(revived)
    }

    /// Takes away what the limits no longer allow, oldest first. Rows that this very group has settled stay for
    /// the next.
    pub(super) fn trim(&mut self, limits: &Limits) -> Trimmed {
        let &Limits { delivered_max, delivered_age, dead_max, dead_age, swap_bytes: _, together_above: _ } =
            limits;
        let now = self.now;
        let old = |at: UnixMillis, age| now.is_some_and(|now| now.since(at) > age);
        let delivered = self.trim_tree(delivered_max, |row: &Delivered| old(row.delivered, delivered_age));
        let dead = self.trim_tree(dead_max, |row: &Dead| old(row.died, dead_age));
        Trimmed { delivered, dead }
    }

    fn trim_tree<T: Row>(&mut self, max: usize, old: impl Fn(&T) -> bool) -> u64 {
        if self.now.is_none() && *T::count(&mut self.ledger) <= max as u64 {
            return 0;
        }
        // Never behind what the groups settle.
        let mut left = TRIM_MAX + self.settled;
        let mut trimmed = 0;
        let mut from = Seq(0);
        while left > 0 {
            let over = usize::try_from(*T::count(&mut self.ledger)).unwrap_or(usize::MAX).saturating_sub(max);
            let some = over.clamp(1, TRIM_PAGE).min(left);
            // Trimming is nobody's request: a disk that cannot be read is told to those who ask for something.
            let Ok(rows) = self.disk.page(T::TREE, &seq_key(from), some) else { break };
            let Some(last) = rows.last().and_then(|(key, _)| seq_of(T::TREE, key).ok()) else { break };
            from = Seq(last.0 + 1);
            left -= rows.len();
            for (key, value) in rows {
                if self.changes.contains_key(&(T::TREE, key.clone())) {
                    continue;
                }
                let row = record::open::<T>(T::TREE, &key, &value);
                let over = *T::count(&mut self.ledger) > max as u64;
                // A row that cannot be read has no age; it goes when the number of rows asks for it.
                let aged = row.as_ref().is_ok_and(&old);
                let Ok(seq) = seq_of(T::TREE, &key) else { return trimmed };
                if !(over || aged) {
                    return trimmed;
                }
                self.forget_row(seq, row);
                trimmed += 1;
            }
        }
        trimmed
    }

    /// Removes a row of any kind, and its identity.
    fn forget<T: Row>(&mut self, seq: Seq) -> Result<(), StoreError> {
        if let Some(value) = self.value(T::TREE, &seq_key(seq))? {
            self.forget_row(seq, record::open::<T>(T::TREE, &seq_key(seq), &value));
        }
        Ok(())
    }

    /// A row that cannot be read goes too; its identity stays.
    fn forget_row<T: Row>(&mut self, seq: Seq, row: Result<T, StoreError>) {
        match row {
            Ok(row) => {
                self.changes.insert((Tree::Ids, row.id().as_bytes().to_vec()), None);
            }
            Err(error) => tracing::warn!(name: "row_damaged_removed", %error, "damaged row removed"),
        }
        self.take::<T>(seq);
    }

    /// Puts an event at the end of the queue.
    fn append(&mut self, id: &str, payload: &[u8]) -> Seq {
        let seq = Seq(self.ledger.next_seq);
        self.ledger.next_seq += 1;
        self.ledger.pending += 1;
        self.put(Tree::Pending, seq_key(seq).to_vec(), payload);
        self.put(Tree::Ids, id.as_bytes().to_vec(), &seq.encode());
        seq
    }

    /// Adds a row that was not there.
    fn add<T: Row>(&mut self, seq: Seq, row: &T) {
        *T::count(&mut self.ledger) += 1;
        self.put(T::TREE, seq_key(seq).to_vec(), &row.encode());
    }

    /// Removes a row that was there.
    fn take<T: Row>(&mut self, seq: Seq) {
        *T::count(&mut self.ledger) -= 1;
        self.changes.insert((T::TREE, seq_key(seq).to_vec()), None);
    }

    fn put(&mut self, tree: Tree, key: Vec<u8>, payload: &[u8]) {
        let value = seal(tree, &key, payload);
        self.changes.insert((tree, key), Some(value));
    }

    /// Where the event with this identity stands, if it is remembered.
    fn seq_of(&self, id: &str) -> Result<Option<Seq>, StoreError> {
        // An identity that cannot be read is one all the same; its row is nowhere, or not here yet.
        const NOWHERE: Seq = Seq(0);
        if let Some(value) = self.value(Tree::Ids, id.as_bytes())? {
            return Ok(Some(record::open(Tree::Ids, id.as_bytes(), &value).unwrap_or(NOWHERE)));
        }
        Ok(self.rest.filter(|rest| rest.knows(id)).map(|_| NOWHERE))
    }

    fn row<T: Row>(&self, seq: Seq) -> Result<Option<T>, StoreError> {
        let key = seq_key(seq);
        self.value(T::TREE, &key)?.map(|value| record::open(T::TREE, &key, &value)).transpose()
    }

    fn value(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.changes.get(&(tree, key.to_vec())) {
            Some(value) => Ok(value.clone()),
            None => self.disk.get(tree, key),
        }
    }
}

/// A row of the queue: where it stands, how it is counted, whose it is.
pub(super) trait Row: Stored {
    const TREE: Tree;
    fn count(ledger: &mut Ledger) -> &mut u64;
    fn id(&self) -> &str;
}

impl Row for Pending {
    const TREE: Tree = Tree::Pending;
    fn count(ledger: &mut Ledger) -> &mut u64 {
        &mut ledger.pending
    }
    fn id(&self) -> &str {
        &self.id
    }
}

impl Row for Dead {
    const TREE: Tree = Tree::Dead;
    fn count(ledger: &mut Ledger) -> &mut u64 {
        &mut ledger.dead
    }
    fn id(&self) -> &str {
        &self.pending.id
    }
}

impl Row for Delivered {
    const TREE: Tree = Tree::Delivered;
    fn count(ledger: &mut Ledger) -> &mut u64 {
        &mut ledger.delivered
    }
    fn id(&self) -> &str {
        &self.pending.id
    }
}
