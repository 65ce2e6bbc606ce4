//! The durable store: what is to be delivered, what was, what never could be, and the state of the calls.
//!
//! **Promise.** An event that [`Store::accept`] has answered for is still there after `kill -9` and after a
//! power cut, in its place in the order, together with the call state that was given with it; and it is there
//! once, however often the same event is accepted. Knows nothing of Zammad's answers, of HTTP or of the switch.
//!
//! **Time and threads.** Opening and reading block, for as long as a disk takes: call them where blocking is
//! allowed. Writing is asynchronous: one thread writes, and takes all that waits as one group, with one sync; or the
//! task that asks writes, where it may block ([`accept_in_place`](Store::accept_in_place)). A write whose future is
//! dropped may still happen.
//!
//! **What a call promises when it returns.**
//!
//! | call | on return |
//! |---|---|
//! | [`accept`](Store::accept), [`accept_in_place`](Store::accept_in_place), [`revive`](Store::revive), [`settle`](Store::settle), [`trim`](Store::trim) | synced: outlives a power cut |
//! | [`close`](Store::close) | all is synced, the directory is free for another process |
//!
//! **Identity.** An event's `id` is remembered as long as the event is: while it is pending, then as long as it
//! is kept as delivered or dead. An event whose id is remembered is not accepted again. So a replay or a
//! second listener queues nothing twice within [`Limits::delivered_age`]; after that it does.
//!
//! **Layout.** Below the state directory stand `FORMAT`, a number in text, and `queue/`, sled's directory, with
//! a `journal` (`journal.rs`) of what sled may not have on disk yet, and these trees:
//!
//! | tree | key → value |
//! |---|---|
//! | `pending`, `dead`, `delivered` | [`Seq`] → the event and what became of it |
//! | `ids` | event id → its [`Seq`] |
//! | `state` | name and piece → a piece of the call tracker's state |
//! | `meta` | `format` → the number again; `ledger` → the next [`Seq`] and the three counts; `rest` → what of a damaged store is still to be taken in, if anything; `sheaves`: whether rows may lie together; `journaled`: how far of the journal sled has on disk |
//!
//! Where many events wait, several rows of the first two lines lie in one of sled's (`sheaf.rs`).

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{mpsc, oneshot};

use crate::time::UnixMillis;

mod carve;
mod copy;
mod error;
mod folder;
mod group;
mod journal;
mod memory;
mod migrate;
mod model;
mod record;
mod request;
mod rest;
#[doc(hidden)]
pub mod row;
mod salvage;
mod segments;
mod shared;
mod sheaf;
mod sled;
mod snapshots;
pub mod state;
mod writer;

pub use error::{Place, StoreError};
pub use model::{
    Accepting, Counts, Dead, Delivered, Limits, Pending, Seq, Settle, StateChange, Stretch, TakingIn, Trimmed,
};

pub use record::{payload, read_payload};
pub use rest::Rest;
pub use salvage::{Relic, Salvaged, Verified, begin_anew, exists, relics, salvage, verify};
pub use sheaf::TOGETHER_ABOVE;

use group::Row;
use record::PIECE_MAX;
use request::{Answer, Request, encoded, new_event};
use shared::Shared;
use sled::{Disk, Tree};
use writer::{Desk, GROUP_MAX};

/// Longest event id and longest state key, in bytes.
pub const KEY_MAX: usize = 1024;
/// Largest event, in bytes as stored. Its texts are cut to what Zammad holds first; only a bug is larger.
pub const EVENT_MAX: usize = 4 * 1024;
/// Largest state value, in bytes: a call with some thousand legs.
pub const STATE_MAX: usize = 1024 * 1024;
/// Most events and pieces of state that a task writes itself. Who asked waits until sled has them, too: for as many that
/// takes about as long as to wake the writer's thread and to be woken.
const IN_PLACE_MAX: usize = 8;

const _: () = assert!(KEY_MAX + PIECE_MAX <= sled::ROW_MAX, "a piece of state fits a row");
const _: () = assert!(EVENT_MAX + 6 * record::STORY_MAX <= sled::ROW_MAX, "a dead letter fits a row");

/// The open store. Clones are cheap and share it; dropping the last one writes out and waits for the writer.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

impl Store {
    /// Opens the store in `state_dir`, creating (for this user alone) or upgrading it. Blocks.
    ///
    /// # Errors
    /// [`Locked`](StoreError::Locked), [`NotWritable`](StoreError::NotWritable),
    /// [`NewerFormat`](StoreError::NewerFormat) (nothing was touched), [`Damaged`](StoreError::Damaged),
    /// [`Io`](StoreError::Io).
    pub fn open(state_dir: &Path, limits: Limits) -> Result<Self, StoreError> {
        Self::open_with(state_dir, limits, None)
    }

    /// As [`Store::open`], where a damaged store has just been begun anew: what of that is still to be taken in need not
    /// be looked for again. It is taken in from now on ([`Store::taking_in`]), also where it is not given here.
    ///
    /// # Errors
    /// As [`Store::open`]'s.
    pub fn open_with(state_dir: &Path, limits: Limits, rest: Option<Rest>) -> Result<Self, StoreError> {
        let (disk, ledger, mark) = writer::open(state_dir)?;
        let rest = mark.map(|mark| match rest {
            Some(rest) if rest.is_of(&mark) => rest,
            Some(_) | None => {
                let rest = Rest::read(state_dir, mark);
                tracing::info!(name: "salvage_resumed", left = rest.left().total(), "the rest of a damaged store is taken in");
                rest
            }
        });
        let shared = Arc::new(Shared::new(disk, limits));
        shared.set_rest(state_dir, rest.as_ref());
        shared.publish(&ledger, rest.as_ref(), Trimmed::default());
        let (requests, waiting) = mpsc::channel(GROUP_MAX);
        let desk = Arc::new(Desk::new(state_dir.to_owned(), (ledger, rest), Arc::clone(&shared)));
        let thread = std::thread::Builder::new().name("store-writer".to_owned());
        let thread = thread.spawn({
            let desk = Arc::clone(&desk);
            move || desk.run(waiting)
        });
        let thread = thread.map_err(|e| StoreError::io(state_dir, e))?;
        let inner = Inner { requests: Some(requests), desk, shared, thread: Some(thread) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Accepts events and the state that goes with them, in one transaction. When it returns they outlive a
    /// power cut.
    ///
    /// Returns the position of each event, in the order given; `None` for one whose id is already known, which
    /// is not queued again. The state changes are made in any case.
    ///
    /// # Errors
    /// [`TooLarge`](StoreError::TooLarge), [`Io`](StoreError::Io), [`Closed`](StoreError::Closed),
    /// [`Damaged`](StoreError::Damaged) if sled finds its file damaged. Nothing of the request was accepted
    /// then, except that after `Io` it may be found on disk all the same.
    pub async fn accept(&self, accepting: Accepting) -> Result<Vec<Option<Seq>>, StoreError> {
        let (events, state) = encoded(accepting)?;
        self.ask(|answer| Request::Accept { events, state, answer }).await
    }

    /// As [`Store::accept`], for a task of its own: what else it does (`join!`, `select!`) may wait for the disk. What is
    /// little the task writes itself, where nobody else writes and the runtime has other threads: the writer's need not
    /// be woken, nor wake the task.
    ///
    /// # Errors
    /// As [`Store::accept`]'s.
    pub async fn accept_in_place(&self, accepting: Accepting) -> Result<Vec<Option<Seq>>, StoreError> {
        let (events, state) = encoded(accepting)?;
        let pieces: usize = state.iter().map(|state| state.pieces.len()).sum();
        let is_little = events.len() + pieces <= IN_PLACE_MAX;
        self.ask_of(is_little && may_block(), |answer| Request::Accept { events, state, answer }).await
    }

    /// Records what became of pending events, in one transaction. When it returns that outlives a power cut.
    ///
    /// # Errors
    /// [`Damaged`](StoreError::Damaged) names the first row that could not be read; the others are settled
    /// nevertheless. [`Io`](StoreError::Io), [`Closed`](StoreError::Closed).
    pub async fn settle(&self, settles: Vec<Settle>) -> Result<(), StoreError> {
        self.ask(|answer| Request::Settle { settles, answer }).await
    }

    /// Brings dead or delivered events back to the end of the queue, under new positions, in their old order.
    /// Positions that are neither are left out of the answer. [`Pending::attempt`] is kept of dead ones; what
    /// had been delivered comes back as [`Pending::restored`].
    ///
    /// # Errors
    /// [`Damaged`](StoreError::Damaged): one of the rows cannot be read, none was revived.
    /// [`Io`](StoreError::Io), [`Closed`](StoreError::Closed).
    pub async fn revive(&self, seqs: Vec<Seq>) -> Result<Vec<(Seq, Pending)>, StoreError> {
        self.ask(|answer| Request::Revive { seqs, answer }).await
    }

    /// Trims what is over the limits at `now`. Each `settle` does so too, with its own time; this is for quiet
    /// days. A call trims a bounded number of rows.
    ///
    /// # Errors
    /// [`Io`](StoreError::Io), [`Closed`](StoreError::Closed).
    pub async fn trim(&self, now: UnixMillis) -> Result<(), StoreError> {
        self.ask(|answer| Request::Trim { now, answer }).await
    }

    /// How much of the past is kept from now on. Heeded with the next write.
    pub fn set_limits(&self, limits: Limits) {
        *self.inner.shared.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// Closes the store for this and every other clone. When it returns, another process may open it. Requests
    /// that were made before are done first, later ones get [`Closed`](StoreError::Closed).
    ///
    /// # Errors
    /// [`Io`](StoreError::Io) if this or an earlier write failed; [`Closed`](StoreError::Closed) if another
    /// clone was quicker; [`Locked`](StoreError::Locked) if the directory could not be freed.
    pub async fn close(self) -> Result<(), StoreError> {
        self.inner.shared.closing.store(true, Ordering::Relaxed);
        self.ask(|answer| Request::Close { answer }).await
    }

    /// Up to `limit` pending events from position `from` on, in order. Blocks.
    ///
    /// # Errors
    /// [`Damaged`](StoreError::Damaged) names the row, if it is the first: a page ends before a damaged row, and
    /// the one behind it begins at the next position. [`Io`](StoreError::Io), [`Closed`](StoreError::Closed).
    pub fn pending_from(&self, from: Seq, limit: usize) -> Result<Vec<(Seq, Pending)>, StoreError> {
        self.page(from, limit, Disk::walk)
    }

    /// As [`Store::pending_from`], past damaged rows, of each of which `damaged` is told; and never past events that are
    /// still to be taken in. Blocks.
    ///
    /// # Errors
    /// As [`Store::pending_from`], of damage to more than a row.
    pub fn readable_from(
        &self,
        from: Seq,
        limit: usize,
        mut damaged: impl FnMut(Seq, &StoreError),
    ) -> Result<Stretch, StoreError> {
        // Asked before the rows are: one that is taken in meanwhile is read with the next stretch.
        let end = self.first_missing();
        let within = |seq: Seq| end.is_none_or(|end| seq < end);
        let mut next = from;
        loop {
            match self.page(next, limit, Disk::page) {
                Ok(mut rows) => {
                    rows.retain(|(seq, _)| within(*seq));
                    let next = rows.last().map_or(next, |(last, _)| Seq(last.0 + 1));
                    return Ok(Stretch { rows, next, more_to_come: end.is_some() });
                }
                Err(why) => match why.damaged_row() {
                    Some(seq) if within(seq) => {
                        damaged(seq, &why);
                        next = Seq(seq.0 + 1);
                    }
                    Some(_) => return Ok(Stretch { rows: vec![], next, more_to_come: true }),
                    None => return Err(why),
                },
            }
        }
    }

    /// The first event that waits and is still to be taken in; every other that waits behind it in the order is here.
    /// `None` where all are. Costs nothing.
    #[must_use]
    pub fn first_missing(&self) -> Option<Seq> {
        self.inner.shared.rest.borrow().as_ref().and_then(|missing| missing.first_waiting)
    }

    /// What of a damaged store that was set aside is still being taken in, if anything. Costs nothing.
    #[must_use]
    pub fn taking_in(&self) -> Option<TakingIn> {
        self.inner.shared.rest.borrow().as_ref().map(|missing| missing.shown.clone())
    }

    /// Returns when nothing is left to be taken in, or the store is broken; `told` hears how far it is. May be dropped.
    pub async fn whole(&self, mut told: impl FnMut(&TakingIn)) {
        let mut rest = self.inner.shared.rest.subscribe();
        loop {
            match rest.borrow_and_update().as_ref() {
                Some(missing) => told(&missing.shown),
                None => return,
            }
            tokio::select! {
                changed = rest.changed() => if changed.is_err() { return },
                _ = self.broken() => return,
            }
        }
    }

    /// The pending event at `seq`, if it is (still) pending. Blocks.
    ///
    /// # Errors
    /// As [`Store::pending_from`].
    pub fn pending(&self, seq: Seq) -> Result<Option<Pending>, StoreError> {
        let key = record::seq_key(seq);
        let value = self.reading(|disk| disk.get(Tree::Pending, &key))?;
        value.map(|value| record::open(Tree::Pending, &key, &value)).transpose()
    }

    /// The pending event that waits longest. Blocks.
    ///
    /// # Errors
    /// As [`Store::pending_from`].
    pub fn oldest_pending(&self) -> Result<Option<(Seq, Pending)>, StoreError> {
        Ok(self.page(Seq(0), 1, Disk::page)?.pop())
    }

    /// Up to `limit` dead letters from position `from` on, in order. Blocks.
    ///
    /// # Errors
    /// As [`Store::pending_from`].
    pub fn dead_from(&self, from: Seq, limit: usize) -> Result<Vec<(Seq, Dead)>, StoreError> {
        self.page(from, limit, Disk::walk)
    }

    /// Up to `limit` delivered events from position `from` on, in order. Blocks.
    ///
    /// # Errors
    /// As [`Store::pending_from`].
    pub fn delivered_from(&self, from: Seq, limit: usize) -> Result<Vec<(Seq, Delivered)>, StoreError> {
        self.page(from, limit, Disk::walk)
    }

    /// The dead letters accepted last, at most `limit`, the newest first. Damaged ones are passed over. Blocks.
    ///
    /// # Errors
    /// [`Io`](StoreError::Io), [`Closed`](StoreError::Closed).
    pub fn newest_dead(&self, limit: usize) -> Result<Vec<(Seq, Dead)>, StoreError> {
        self.newest(limit)
    }

    /// The delivered events accepted last, at most `limit`, the newest first. Damaged ones are passed over. Blocks.
    ///
    /// # Errors
    /// As [`Store::newest_dead`].
    pub fn newest_delivered(&self, limit: usize) -> Result<Vec<(Seq, Delivered)>, StoreError> {
        self.newest(limit)
    }

    /// The call tracker's state, ordered by key: for the start, before anything is accepted. Blocks.
    ///
    /// A value with a damaged piece is left out and said so: the other calls must not suffer for it.
    ///
    /// # Errors
    /// [`Io`](StoreError::Io), [`Closed`](StoreError::Closed), or [`Damaged`](StoreError::Damaged) if it is no
    /// single row.
    pub fn state(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let mut pieces = Vec::new();
        let mut damaged = HashSet::new();
        for (key, value) in self.reading(|disk| disk.page(Tree::State, &[], usize::MAX))? {
            let Ok((name, piece)) = record::piece_of(&key) else {
                tracing::warn!(name: "call_piece_unnamed", "a piece of the remembered calls has no name and is left out");
                continue;
            };
            match record::unseal(Tree::State, &key, &value) {
                Ok(payload) => pieces.push((name.to_owned(), piece, payload.to_vec())),
                Err(error) => {
                    tracing::warn!(name: "calls_unreadable", %error, "remembered calls cannot be read and are left out");
                    damaged.insert(name.to_owned());
                }
            }
        }
        // Keys that are the beginning of another may be mixed with its pieces.
        pieces.sort_unstable_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        let mut state: Vec<(String, Vec<u8>)> = Vec::new();
        for (name, piece, mut payload) in pieces {
            match state.last_mut() {
                Some((last, value)) if *last == name => value.append(&mut payload),
                Some(_) | None if piece == 0 => state.push((name, payload)),
                Some(_) | None => {
                    damaged.insert(name);
                }
            }
        }
        state.retain(|(name, _)| !damaged.contains(name));
        Ok(state)
    }

    /// One value of the state. Blocks.
    ///
    /// # Errors
    /// As [`Store::pending_from`].
    pub fn state_value(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let mut value: Option<Vec<u8>> = None;
        for piece in 0..u16::MAX {
            let key = record::piece_key(name, piece);
            let Some(sealed) = self.reading(|disk| disk.get(Tree::State, &key))? else { break };
            value.get_or_insert_default().extend_from_slice(record::unseal(Tree::State, &key, &sealed)?);
        }
        Ok(value)
    }

    /// Whether an event of this identity was accepted and is still kept: pending, dead or delivered. Blocks.
    ///
    /// # Errors
    /// [`Io`](StoreError::Io), [`Closed`](StoreError::Closed).
    pub fn knows(&self, id: &str) -> Result<bool, StoreError> {
        // Before the disk, where it may be the moment after.
        if self.inner.shared.rest.borrow().as_ref().is_some_and(|missing| missing.carved.knows(id)) {
            return Ok(true);
        }
        self.reading(|disk| disk.get(Tree::Ids, id.as_bytes())).map(|seq| seq.is_some())
    }

    /// How many rows there are, with those that are still to be taken in. Costs nothing.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.inner.shared.totals().0
    }

    /// How many rows were trimmed since the store was opened. Costs nothing.
    #[must_use]
    pub fn trimmed(&self) -> Trimmed {
        self.inner.shared.totals().1
    }

    /// Why the disk takes no writes now, if so. What was asked for is written when it does again; so long nothing
    /// can be read either.
    #[must_use]
    pub fn refused(&self) -> Option<StoreError> {
        self.inner.shared.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns when sled says that the file is damaged, as a read or a write has found: open the store anew, after
    /// [`salvage`]. May be dropped.
    pub async fn broken(&self) -> StoreError {
        let mut broken = self.inner.shared.broken.subscribe();
        match broken.wait_for(Option::is_some).await {
            Ok(why) => why.clone().expect("it was waited for"),
            Err(_) => std::future::pending().await,
        }
    }

    /// Bytes on disk. sled reuses space but never gives it back. Blocks.
    ///
    /// # Errors
    /// [`Io`](StoreError::Io), [`Closed`](StoreError::Closed).
    pub fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.reading(Disk::bytes)
    }

    async fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> Request) -> Result<T, StoreError> {
        self.ask_of(false, request).await
    }

    /// Asks the writer's thread; or nobody, if it is to be written `here` and can be.
    async fn ask_of<T>(
        &self,
        here: bool,
        request: impl FnOnce(Answer<T>) -> Request,
    ) -> Result<T, StoreError> {
        let (answer, outcome) = oneshot::channel();
        let requests = self.inner.requests.as_ref().expect("present until the last handle is dropped");
        let request = request(answer);
        let left = if here { self.inner.desk.write_here(request, requests) } else { Err(request) };
        if let Err(request) = left {
            requests.send(request).await.map_err(|_| StoreError::Closed)?;
        }
        outcome.await.map_err(|_| StoreError::Closed)?
    }

    fn page<T: Row>(&self, from: Seq, limit: usize, read: Read) -> Result<Vec<(Seq, T)>, StoreError> {
        let mut page = Vec::new();
        for (key, value) in self.reading(|disk| read(disk, T::TREE, &record::seq_key(from), limit))? {
            let seq = record::seq_of(T::TREE, &key);
            match seq.and_then(|seq| Ok((seq, record::open(T::TREE, &key, &value)?))) {
                Ok(row) => page.push(row),
                Err(damaged) if page.is_empty() => return Err(damaged),
                Err(_) => break,
            }
        }
        Ok(page)
    }

    fn newest<T: Row>(&self, limit: usize) -> Result<Vec<(Seq, T)>, StoreError> {
        let rows = self.reading(|disk| disk.last(T::TREE, limit))?;
        let read = rows.into_iter().filter_map(|(key, value)| {
            let seq = record::seq_of(T::TREE, &key).ok()?;
            Some((seq, record::open(T::TREE, &key, &value).ok()?))
        });
        Ok(read.collect())
    }

    fn reading<T>(&self, read: impl FnOnce(&Disk) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let closed = || self.refused().unwrap_or(StoreError::Closed);
        let outcome = self.inner.shared.disk().as_ref().ok_or_else(closed).and_then(read);
        outcome.inspect_err(|why| self.inner.shared.mind(why))
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

/// How a page of rows is read: as a part of the work, or in a walk over all of them.
type Read = fn(&Disk, Tree, &[u8], usize) -> Result<Vec<sled::Row>, StoreError>;

/// What all clones of a handle hold together.
struct Inner {
    /// `None` only while it is dropped.
    requests: Option<mpsc::Sender<Request>>,
    desk: Arc<Desk>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The writer ends when nobody can ask any more, and waits for no disk then.
        self.shared.closing.store(true, Ordering::Relaxed);
        drop(self.requests.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(name: "writer_panicked", "the store's writer panicked");
        }
    }
}

/// Whether an event is of a size that [`Store::accept`] takes: for those that are not made of what was cut before.
///
/// # Errors
/// [`StoreError::TooLarge`].
pub fn fits(pending: &Pending) -> Result<(), StoreError> {
    new_event(pending.clone()).map(drop)
}

/// Whether a thread of this runtime can do without the others.
fn may_block() -> bool {
    Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::record::Stored;
    use super::sled::Changes;
    use super::*;
    use crate::cti::event::{CallId, Direction, Event, What};

    #[tokio::test]
    async fn a_damaged_row_is_named_and_holds_up_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), LIMITS).unwrap();
        let events = (1..=3).map(event).collect();
        let seqs = store.accept(Accepting { events, state: vec![] }).await.unwrap();
        assert_eq!(seqs, [1, 2, 3].map(|n| Some(Seq(n))));
        store.close().await.unwrap();
        tamper(dir.path(), Tree::Pending, &record::seq_key(Seq(2)), |value| value[10] ^= 1);

        let store = Store::open(dir.path(), LIMITS).unwrap();
        assert_eq!(store.pending_from(Seq(1), 9).unwrap(), [(Seq(1), event(1))]);
        let error = store.pending_from(Seq(2), 9).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the store is damaged: row 2 of tree pending: its checksum does not match"
        );
        assert!(!error.is_permanent(), "a new start mends it");
        assert!(matches!(error, StoreError::Damaged { place: Place::Row { seq: Some(Seq(2)), .. }, .. }));
        assert_eq!(store.pending_from(Seq(3), 9).unwrap(), [(Seq(3), event(3))]);

        let done = |n| Settle::Delivered { seq: Seq(n), at: UnixMillis(9), note: None };
        let settled = store.settle(vec![done(1), done(2), done(3)]).await;
        assert!(matches!(settled, Err(StoreError::Damaged { .. })), "{settled:?}");
        assert_eq!(store.counts(), Counts { pending: 1, dead: 0, delivered: 2 });
        store.settle(vec![Settle::Removed { seq: Seq(2) }]).await.unwrap();
        assert_eq!(store.counts(), Counts { pending: 0, dead: 0, delivered: 2 });
        assert_eq!(store.pending_from(Seq(1), 9).unwrap(), []);
    }

    #[tokio::test]
    async fn damaged_state_is_left_out_and_is_no_shorter_value() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), LIMITS).unwrap();
        let large = |key: &str| StateChange { key: key.into(), value: Some(vec![7; PIECE_MAX + 1]) };
        let state = vec![large("call"), large("call2"), large("call3")];
        store.accept(Accepting { events: vec![], state }).await.unwrap();
        store.close().await.unwrap();
        tamper(dir.path(), Tree::State, &record::piece_key("call", 1), |value| value.truncate(3));
        tamper(dir.path(), Tree::State, &record::piece_key("call3", 0), |value| value[9] ^= 1);

        let state = Store::open(dir.path(), LIMITS).unwrap().state().unwrap();
        assert_eq!(state, [("call2".to_owned(), vec![7; PIECE_MAX + 1])]);
    }

    #[tokio::test]
    async fn a_damaged_word_of_what_is_still_to_come_is_found_out_before_it_keeps_the_store_shut() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), LIMITS).unwrap();
        let events = (1..=3).map(event).collect();
        store.accept(Accepting { events, state: vec![] }).await.unwrap();
        store.close().await.unwrap();
        drop(begin_anew(dir.path(), UnixMillis(1), 0, &mut |_, _| {}).unwrap());
        assert!(verify(dir.path(), || true).is_ok());
        tamper(dir.path(), Tree::Meta, record::REST, |value| value[9] ^= 1);
        let damaged = verify(dir.path(), || true);
        assert!(matches!(damaged, Err(StoreError::Damaged { .. })), "{damaged:?}");
        drop(begin_anew(dir.path(), UnixMillis(1), 0, &mut |_, _| {}).unwrap());
        assert!(Store::open(dir.path(), LIMITS).is_ok());
    }

    /// sled keeps pages over 128 KiB in files that it never syncs, until the page is written anew.
    #[tokio::test]
    async fn the_largest_rows_never_leave_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), LIMITS).unwrap();
        for n in 1..=200 {
            let mut large = event(n);
            large.zammad = "z".repeat(EVENT_MAX - 300);
            let value = Some(vec![7; 3 * PIECE_MAX]);
            let state = vec![StateChange { key: format!("{n:0KEY_MAX$}"), value }];
            let seq = store.accept(Accepting { events: vec![large], state }).await.unwrap()[0].unwrap();
            let story = "\u{1}".repeat(9999);
            store.settle(vec![Settle::Dead { seq, at: UnixMillis(1), story }]).await.unwrap();
            let blobs = std::fs::read_dir(dir.path().join("queue/blobs")).unwrap().count();
            assert_eq!(blobs, 0, "after {n} events");
        }
        let (_, dead) = store.dead_from(Seq(0), 1).unwrap().remove(0);
        assert!(dead.encode().len() > 6 * 1024, "the rows of this test are large");
    }

    const LIMITS: Limits = Limits {
        delivered_max: 1000,
        delivered_age: Duration::MAX,
        dead_max: 1000,
        dead_age: Duration::MAX,
        swap_bytes: u64::MAX,
        together_above: 2,
    };

    fn event(n: u64) -> Pending {
        Pending {
            id: format!("c{n}/newCall"),
            zammad: "main".into(),
            switch: "pbx".into(),
            event: Event {
                call_id: CallId::new(&format!("c{n}")),
                direction: Direction::In,
                from: "4930123".into(),
                to: "4940456".into(),
                what: What::NewCall { user: None, queue: None },
            },
            happened: UnixMillis(n),
            answered: false,
            attempt: None,
            held: false,
            restored: false,
        }
    }

    /// Changes a value on disk behind the store's back, but through sled: its own checksums hold.
    fn tamper(state_dir: &Path, tree: Tree, key: &[u8], change: impl FnOnce(&mut Vec<u8>)) {
        let disk = migrate::open(state_dir).unwrap();
        let mut value = disk.get(tree, key).unwrap().unwrap();
        change(&mut value);
        disk.write(&Changes::from([((tree, key.to_vec()), Some(value))]), sheaf::Lay::Apart).unwrap();
        disk.sync().unwrap();
        disk.close().unwrap();
    }
}
