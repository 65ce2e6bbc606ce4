//! What the handles of an open store and its writer share: the disk, and what is told of it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::watch;

use super::carve::Carved;
use super::record::Ledger;
use super::rest::Rest;
use super::sled::Disk;
use super::{Counts, Limits, Place, Seq, StoreError, TakingIn, Trimmed};

/// What the handles and the writer share.
pub(super) struct Shared {
    /// `None` once the store is closed.
    pub(super) disk: RwLock<Option<Disk>>,
    /// What is still to be taken in.
    pub(super) rest: watch::Sender<Option<Missing>>,
    pub(super) totals: Mutex<(Counts, Trimmed)>,
    /// The first word of sled that the file is damaged.
    pub(super) broken: watch::Sender<Option<StoreError>>,
    /// Why the disk takes no writes now.
    pub(super) refused: Mutex<Option<StoreError>>,
    /// Whoever waits for the disk is to give up.
    pub(super) closing: AtomicBool,
    /// How much of the past is kept.
    pub(super) limits: Mutex<Limits>,
}

/// What is still to be taken in, as readers see it.
pub(super) struct Missing {
    pub(super) shown: TakingIn,
    pub(super) first_waiting: Option<Seq>,
    pub(super) carved: Arc<Carved>,
}

impl Shared {
    pub(super) fn new(disk: Disk, limits: Limits) -> Self {
        Self {
            disk: RwLock::new(Some(disk)),
            rest: watch::Sender::new(None),
            totals: Mutex::default(),
            broken: watch::Sender::new(None),
            refused: Mutex::new(None),
            closing: AtomicBool::new(false),
            limits: Mutex::new(limits),
        }
    }

    /// Takes note if sled says that the file is damaged. A damaged row is none of that.
    pub(super) fn mind(&self, why: &StoreError) {
        if matches!(why, StoreError::Damaged { place: Place::File(_), .. }) {
            self.break_down(why);
        }
    }

    /// The store must be opened anew.
    pub(super) fn break_down(&self, why: &StoreError) {
        self.broken.send_if_modified(|broken| {
            let first = broken.is_none();
            if first {
                *broken = Some(why.clone());
            }
            first
        });
    }

    /// Whether the disk takes writes, and if not why. Returns whether that is news.
    pub(super) fn set_refused(&self, why: Option<&StoreError>) -> bool {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let news = refused.is_none() != why.is_none();
        *refused = why.cloned();
        news
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// The disk, to read or write; it stays open until the guard is dropped.
    pub(super) fn disk(&self) -> RwLockReadGuard<'_, Option<Disk>> {
        self.disk.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the disk away, once nobody reads any more.
    pub(super) fn take_disk(&self) -> Option<Disk> {
        self.disk.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn put_disk(&self, disk: Disk) {
        *self.disk.write().unwrap_or_else(PoisonError::into_inner) = Some(disk);
    }

    /// Puts what `open` makes of the present disk in its place; how large that is.
    pub(super) fn exchange_disk(
        &self,
        open: impl FnOnce(Option<Disk>) -> Result<Disk, StoreError>,
    ) -> Result<u64, StoreError> {
        let mut disk = self.disk.write().unwrap_or_else(PoisonError::into_inner);
        let old = disk.take();
        disk.insert(open(old)?).bytes()
    }

    pub(super) fn totals(&self) -> MutexGuard<'_, (Counts, Trimmed)> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what is still to be taken in.
    pub(super) fn set_rest(&self, state_dir: &Path, rest: Option<&Rest>) {
        let missing = rest.map(|rest| Missing {
            shown: TakingIn {
                directories: rest.directories(state_dir),
                rows: rest.all(),
                left: rest.left().total(),
            },
            first_waiting: rest.first_waiting(),
            carved: Arc::clone(rest.carved()),
        });
        self.rest.send_if_modified(|before| {
            let news = before.is_some() || missing.is_some();
            *before = missing;
            news
        });
    }

    /// Tells what a group has changed.
    pub(super) fn publish(&self, ledger: &Ledger, rest: Option<&Rest>, trimmed: Trimmed) {
        let left = rest.map(Rest::left).unwrap_or_default();
        let mut totals = self.totals();
        totals.0 = ledger.counts();
        totals.0.pending += left.pending;
        totals.0.dead += left.dead;
        totals.0.delivered += left.delivered;
        totals.1.delivered += trimmed.delivered;
        totals.1.dead += trimmed.dead;
        drop(totals);
        if trimmed.dead > 0 {
            tracing::warn!(name: "dead_letters_trimmed", count = trimmed.dead, "dead letters trimmed; they will never be delivered");
        }
    }
}
