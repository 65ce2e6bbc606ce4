//! Rows on disk: named trees of bytes. The only file that names sled. Knows nothing of what the rows mean.
//!
//! What must outlive a power cut at once, and all or none of it, is recorded in a [`journal`](super::journal) first
//! ([`Disk::record`]): sled's own way to the disk goes over two of its threads and two syncs.
//!
//! What sled 0.34 does not do, and is done here:
//! - What it writes it takes for durable once `sync_file_range` has returned, which leaves the disk's own cache and the
//!   file's metadata behind: on Linux a flush promises too little, and a segment is used again while what was moved out
//!   of it can still be lost. [`sync_file_range`] below stands in for the C library's.
//! - `conf` and the directories are never synced. [`Disk::open`] syncs them before anything is accepted. Until then a
//!   snapshot may lose its name: [`snapshots`](super::snapshots).
//! - Pages over 128 KiB go to files of their own under `blobs/`, which are never synced, so that a power cut
//!   loses the page and every row on it. A leaf holds up to some 20 rows; [`ROW_MAX`] keeps it small enough.
//! - A write that fails in the background leaves a flush that waits for it waiting for ever; [`Disk::flush`] ends that.
//! - After the last handle is dropped, a thread of sled's pool may hold the locked file a moment longer.
//!   [`Disk::close`] waits for it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::Duration;

use ::sled::IVec;
use ::sled::transaction::{ConflictableTransactionError, TransactionError, Transactional, TransactionalTree};

use super::error::StoreError;
use super::journal::{self, Journal};
use super::sheaf::{self, Lay};
use super::{record, snapshots};

/// Largest key and value together, in bytes: 18 of them stay below sled's limit of 128 KiB a page.
pub(super) const ROW_MAX: usize = 7 * 1024;

/// sled's page cache, in bytes. The queue is written once and read once, mostly while still in memory, and a
/// quiet daemon has 20 MB in all; a larger cache only keeps a backlog's pages resident.
const CACHE_BYTES: u64 = 4 * 1024 * 1024;

/// After so many looks at pages sled minds how much memory they take.
const LOOKS: u32 = 64;
/// Fewest rows in a leaf, mostly.
const LEAF: usize = 8;

/// How long sled's flush may take before it is asked again; then twice as long each time.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How often, a millisecond apart, [`Disk::close`] looks whether sled has let go of its file.
const RELEASE_TRIES: u32 = 5_000;

/// The trees, in the order in which they are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tree {
    /// Seq → an event to deliver.
    Pending,
    /// Seq → a dead letter.
    Dead,
    /// Seq → an event Zammad has.
    Delivered,
    /// Event identity → seq of its row in one of the three above.
    Ids,
    /// The call tracker's state, in pieces.
    State,
    /// The format's number and the ledger.
    Meta,
}

impl Tree {
    pub(super) const ALL: [Self; 6] =
        [Self::Pending, Self::Dead, Self::Delivered, Self::Ids, Self::State, Self::Meta];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Dead => "dead",
            Self::Delivered => "delivered",
            Self::Ids => "ids",
            Self::State => "state",
            Self::Meta => "meta",
        }
    }

    /// Whether its rows may lie together ([`sheaf`]).
    const fn has_sheaves(self) -> bool {
        match self {
            Self::Pending | Self::Dead | Self::Delivered | Self::Ids => true,
            Self::State | Self::Meta => false,
        }
    }
}

/// That it stands in the tree `meta` says that there may be sheaves.
const SHEAVES: &[u8] = b"sheaves";

/// The serial of the last record in the journal of which sled has all on disk, in the tree `meta`. A journal that begins
/// beside it goes on from there.
pub(super) const JOURNALED: (Tree, &[u8]) = (Tree::Meta, b"journaled");

/// The trees whose rows are events; a row moves from left to right and never back under the same key.
pub(super) const ROW_TREES: [Tree; 3] = [Tree::Pending, Tree::Dead, Tree::Delivered];

/// What is written (`Some`) and removed (`None`) at once.
pub(super) type Changes = BTreeMap<(Tree, Vec<u8>), Option<Vec<u8>>>;

/// A key and its value.
pub(super) type Row = (Vec<u8>, Vec<u8>);

/// An open sled directory. Any thread may read; one at a time writes.
pub(super) struct Disk {
    path: PathBuf,
    journal: Mutex<Journal>,
    db: ::sled::Db,
    /// In the order of [`Tree::ALL`].
    trees: Vec<::sled::Tree>,
    /// A second descriptor of sled's log file.
    log: File,
    /// Whether rows lie together, or ever did: then each must be looked for.
    sheaves: AtomicBool,
    /// Held to read, and to write.
    moving: RwLock<()>,
}

/// Changes that outlive a power cut, and that no reader sees yet: whoever reads waits until they are
/// [applied](Recorded::apply).
#[must_use]
pub(super) struct Recorded<'d> {
    disk: &'d Disk,
    /// To sled's rows; `None`: it has them already.
    left: Option<Cow<'d, Changes>>,
    _moving: RwLockWriteGuard<'d, ()>,
}

impl Recorded<'_> {
    /// Makes them rows. Where that fails they become rows when the directory is opened again.
    pub(super) fn apply(self) -> Result<(), StoreError> {
        if let Some(changes) = self.left {
            // Whichever of them outlive a crash, all are written once more then.
            self.disk.put(&changes)?;
            self.disk.journal().applied();
        }
        Ok(())
    }
}

impl Disk {
    /// Opens the directory `path`, creating it if it is missing.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let refused = |error| match error {
            ::sled::Error::Io(_) if is_locked(path) => StoreError::Locked { path: path.to_owned() },
            ::sled::Error::Io(source) if is_damage(&source) => {
                StoreError::damaged_file(path, source.to_string())
            }
            ::sled::Error::Io(source) => StoreError::at_open(path, source),
            other => wrong(path, other),
        };
        sync_what_was_left(path)?;
        snapshots::finish(path)?;
        snapshots::check(path)?;
        // We flush and sync each group ourselves: a flusher thread would only wake an idle machine.
        let config = ::sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        let db = config.open().map_err(refused)?;
        let trees = Tree::ALL.iter().map(|t| db.open_tree(t.name())).collect::<Result<Vec<_>, _>>();
        let trees = trees.map_err(refused)?;
        let log_path = path.join("db");
        let log =
            File::options().write(true).open(&log_path).map_err(|e| StoreError::at_open(&log_path, e))?;
        let (journal, left) = open_journal(path, &trees[JOURNALED.0 as usize])?;
        let (journal, sheaves, moving) = (Mutex::new(journal), AtomicBool::new(false), RwLock::new(()));
        let mut disk = Self { path: path.to_owned(), journal, db, trees, log, sheaves, moving };
        disk.put(&left)?;
        disk.sync()?;
        disk.sheaves = AtomicBool::new(disk.get(Tree::Meta, SHEAVES)?.is_some());
        for part in [path.join("conf"), path.join("blobs"), path.to_owned()] {
            File::open(&part).and_then(|f| f.sync_all()).map_err(|e| StoreError::at_open(&part, e))?;
        }
        Ok(disk)
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// One value.
    pub(super) fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let _still = self.still();
        let stands = if self.has_sheaves(tree) {
            self.stands(tree, key)?
        } else {
            let value = self.tree(tree).get(key).map_err(|e| wrong(&self.path, e))?;
            value.map(|value| (key.into(), value))
        };
        Ok(stands.and_then(|(at, value)| {
            let row = sheaf::rows(&at, &value).into_iter().find(|(of, _)| *of == key);
            row.map(|(_, value)| value.to_vec())
        }))
    }

    /// Up to `limit` rows from the key `from` on, in the order of their keys, as they were in one moment.
    pub(super) fn page(&self, tree: Tree, from: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        let _still = self.still();
        let before = if self.has_sheaves(tree) { self.stands(tree, from)? } else { None };
        let start = before.as_ref().map_or(from, |(key, _)| key);
        let mut page = Vec::new();
        for row in self.tree(tree).range(start..) {
            if page.len() >= limit {
                break;
            }
            let (key, value) = row.map_err(|e| wrong(&self.path, e))?;
            let rows = sheaf::rows(&key, &value).into_iter().filter(|(key, _)| *key >= from);
            page.extend(rows.map(|(key, value)| (key.to_vec(), value.to_vec())));
        }
        page.truncate(limit);
        Ok(page)
    }

    /// As [`Disk::page`], for walks over the whole store. sled keeps a page that was read until it, or others that are
    /// counted with it, have been looked at [`LOOKS`] times, however little memory it may take: what is read once
    /// stays.
    pub(super) fn walk(&self, tree: Tree, from: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        let rows = self.page(tree, from, limit)?;
        for (key, _) in rows.iter().step_by(LEAF) {
            (0..LOOKS)
                .try_for_each(|_| self.tree(tree).get(key).map(drop))
                .map_err(|e| wrong(&self.path, e))?;
        }
        Ok(rows)
    }

    /// Up to `limit` rows from the end, the last one first, as they were in one moment.
    pub(super) fn last(&self, tree: Tree, limit: usize) -> Result<Vec<Row>, StoreError> {
        let _still = self.still();
        let mut last = Vec::new();
        for row in self.tree(tree).iter().rev() {
            if last.len() >= limit {
                break;
            }
            let (key, value) = row.map_err(|e| wrong(&self.path, e))?;
            let rows = sheaf::rows(&key, &value).into_iter().rev();
            last.extend(rows.map(|(key, value)| (key.to_vec(), value.to_vec())));
        }
        last.truncate(limit);
        Ok(last)
    }

    /// Makes `changes` outlive a power cut, all or none of them.
    pub(super) fn record<'d>(&'d self, changes: &'d Changes, lay: Lay) -> Result<Recorded<'d>, StoreError> {
        // As sled is to have them: a row that moves from one of sled's to another might else be in none after a crash.
        let changes = self.laid(changes, lay)?;
        let mut fits = self.journaled(&changes)?;
        if !fits {
            self.sync()?;
            fits = self.journaled(&changes)?;
        }
        let moving = self.moving.write().unwrap_or_else(PoisonError::into_inner);
        if !fits {
            // More than a whole journal holds.
            self.transact(&changes)?;
            self.sync()?;
        }
        Ok(Recorded { disk: self, left: fits.then_some(changes), _moving: moving })
    }

    fn journaled(&self, changes: &Changes) -> Result<bool, StoreError> {
        let mut journal = self.journal();
        journal.append(changes).map_err(|failed| match failed {
            // Only a write that was refused is surely not half done.
            journal::Failed::Write(why) if is_refusal(&why) => StoreError::io(&self.path, why),
            journal::Failed::Write(why) | journal::Failed::Sync(why) => self.not_synced("journal", why),
        })
    }

    /// Writes `changes` past the journal, into a directory that nobody needs before [`Disk::sync`] has returned: until
    /// then some of them may outlive a crash, and others not.
    pub(super) fn write(&self, changes: &Changes, lay: Lay) -> Result<(), StoreError> {
        let _moving = self.moving.write().unwrap_or_else(PoisonError::into_inner);
        self.put(&*self.laid(changes, lay)?)
    }

    /// Changes rows of sled's, one after the other.
    fn put(&self, changes: &Changes) -> Result<(), StoreError> {
        for ((tree, key), value) in changes {
            let tree = self.tree(*tree);
            let written = match value {
                Some(value) => tree.insert(key, value.as_slice()),
                None => tree.remove(key),
            };
            written.map_err(|e| wrong(&self.path, e))?;
        }
        Ok(())
    }

    /// Changes rows of sled's, all or none. sled writes its log for that, twice.
    pub(super) fn transact(&self, changes: &Changes) -> Result<(), StoreError> {
        let written = self.trees.as_slice().transaction(|trees: &Vec<TransactionalTree>| {
            for ((tree, key), value) in changes {
                let tree = &trees[*tree as usize];
                match value {
                    Some(value) => tree.insert(key.as_slice(), value.as_slice())?,
                    None => tree.remove(key.as_slice())?,
                };
            }
            Ok::<(), ConflictableTransactionError<()>>(())
        });
        written.map_err(|error| match error {
            TransactionError::Storage(error) => wrong(&self.path, error),
            TransactionError::Abort(()) => unreachable!("the transaction above never aborts"),
        })
    }

    /// The changes to sled's rows that make those to ours.
    fn laid<'c>(&self, changes: &'c Changes, lay: Lay) -> Result<Cow<'c, Changes>, StoreError> {
        if lay == Lay::Apart && !self.sheaves.load(Ordering::Acquire) {
            return Ok(Cow::Borrowed(changes));
        }
        let mut laid = Changes::new();
        if !self.sheaves.swap(true, Ordering::AcqRel) {
            laid.insert((Tree::Meta, SHEAVES.to_vec()), Some(record::seal(Tree::Meta, SHEAVES, b"true")));
        }
        let mut left = changes.iter().peekable();
        while let Some(((tree, first), value)) = left.next() {
            if !tree.has_sheaves() {
                laid.insert((*tree, first.clone()), value.clone());
                continue;
            }
            let stands = self.stands(*tree, first)?;
            let lies_in_it = stands.as_ref().is_some_and(|(_, value)| sheaf::reaches(value, first));
            if lay == Lay::Apart && !lies_in_it {
                laid.insert((*tree, first.clone()), value.clone());
                continue;
            }
            let next = self.tree(*tree).get_gt(first).map_err(|e| wrong(&self.path, e))?;
            let mut here = vec![(first.clone(), value.clone())];
            while let Some(((_, key), value)) = left.next_if(|((of, key), _)| {
                of == tree && next.as_ref().is_none_or(|(next, _)| key.as_slice() < next.as_ref())
            }) {
                here.push((key.clone(), value.clone()));
            }
            let stands = stands.as_ref().map(|(key, value)| (key.as_ref(), value.as_ref()));
            laid.extend(sheaf::lay(stands, here, lay).into_iter().map(|(key, value)| ((*tree, key), value)));
        }
        Ok(Cow::Owned(laid))
    }

    /// Until it is dropped nothing is written: what lies together may else lie elsewhere the moment after.
    fn still(&self) -> RwLockReadGuard<'_, ()> {
        self.moving.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether several rows of a tree may lie together.
    fn has_sheaves(&self, tree: Tree) -> bool {
        tree.has_sheaves() && self.sheaves.load(Ordering::Acquire)
    }

    /// What of sled's rows stands at a key, or next before it.
    fn stands(&self, tree: Tree, key: &[u8]) -> Result<Option<(IVec, IVec)>, StoreError> {
        self.tree(tree).range(..=key).next_back().transpose().map_err(|e| wrong(&self.path, e))
    }

    /// Returns when all that was written outlives a power cut, without the journal.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let mut journal = self.journal();
        let serial = journal.owed();
        if let Some(serial) = serial {
            note_journaled(&self.path, self.tree(JOURNALED.0), serial)?;
        }
        let flushed = self.flush().map_err(|error| match error {
            // It writes and syncs. Only a write that was refused is surely not half done.
            ::sled::Error::Io(source) if !is_refusal(&source) => self.not_synced("db", in_words(source)),
            error => wrong(&self.path, error),
        });
        flushed?;
        serial.into_iter().for_each(|serial| journal.begin_anew(serial));
        Ok(())
    }

    fn not_synced(&self, file: &str, source: io::Error) -> StoreError {
        not_synced(&self.path.join(file), source)
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// sled's own flush. After a write that failed in the background sled does not wake who waits for it: a flush that
    /// finds the error does. So it is asked again and again where one takes long; where nothing failed that waits for
    /// the disk, as the first one does.
    fn flush(&self) -> ::sled::Result<usize> {
        let (done, waits) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let ask = || thread::Builder::new().name("store-flush".to_owned());
            let watch = move || {
                let mut patience = ASK_AGAIN;
                while waits.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                    // Whoever waits is told the same.
                    drop(ask().spawn_scoped(scope, || self.db.flush()));
                    patience *= 2;
                }
            };
            // Where there can be no more threads, the disk is mostly well all the same.
            drop(ask().spawn_scoped(scope, watch));
            let flushed = self.db.flush();
            drop(done);
            flushed
        })
    }

    /// Bytes that the directory takes.
    pub(super) fn bytes(&self) -> Result<u64, StoreError> {
        self.db.size_on_disk().map_err(|e| wrong(&self.path, e))
    }

    /// Lets go of the directory, in which all is synced then. When it returns, another process may open it.
    pub(super) fn close(self) -> Result<(), StoreError> {
        let synced = self.sync();
        if matches!(synced, Err(StoreError::NotSynced { .. })) {
            // sled would sync once more, and panic where that fails.
            std::mem::forget(self);
            return synced;
        }
        let Self { path, journal: _, db, trees, log, sheaves: _, moving: _ } = self;
        drop(trees);
        drop(db);
        for _ in 0..RELEASE_TRIES {
            match log.try_lock() {
                // Dropping `log` gives the lock back.
                Ok(()) => return synced,
                Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(1)),
                Err(TryLockError::Error(e)) => return Err(StoreError::io(&path.join("db"), e)),
            }
        }
        Err(StoreError::Locked { path })
    }

    fn tree(&self, tree: Tree) -> &::sled::Tree {
        &self.trees[tree as usize]
    }
}

/// The journal, with what it holds that sled may not have.
fn open_journal(path: &Path, meta: &::sled::Tree) -> Result<(Journal, Changes), StoreError> {
    let at_open = |why| StoreError::at_open(&journal::path(path), why);
    let damaged = |why: &str| StoreError::damaged_file(&journal::path(path), why);
    let Some(noted) = meta.get(JOURNALED.1).map_err(|e| wrong(path, e))? else {
        // A new directory, or one of the time before there was a journal.
        if Journal::is_used(path) {
            return Err(damaged("sled has forgotten how much of it it has"));
        }
        let journal = Journal::create(path).map_err(at_open)?;
        note_journaled(path, meta, 0)?;
        return Ok((journal, Changes::new()));
    };
    Journal::open(path, journaled(&noted)?).map_err(|why| match why.kind() {
        io::ErrorKind::InvalidData => damaged(&why.to_string()),
        io::ErrorKind::NotFound => damaged("it is missing"),
        _ => at_open(why),
    })
}

fn note_journaled(path: &Path, meta: &::sled::Tree, serial: u64) -> Result<(), StoreError> {
    let (tree, key) = JOURNALED;
    let value = record::seal(tree, key, serial.to_string().as_bytes());
    meta.insert(key, value).map(drop).map_err(|e| wrong(path, e))
}

/// What the row [`JOURNALED`] says.
pub(super) fn journaled(value: &[u8]) -> Result<u64, StoreError> {
    let (tree, key) = JOURNALED;
    let serial = std::str::from_utf8(record::unseal(tree, key, value)?).ok().and_then(|n| n.parse().ok());
    serial.ok_or_else(|| record::damaged(tree, key, "it is no number"))
}

/// Whether some process, perhaps this one, holds the directory `path` open. sled itself says so only in words.
pub(super) fn is_locked(path: &Path) -> bool {
    let Ok(log) = File::open(path.join("db")) else { return false };
    matches!(log.try_lock(), Err(TryLockError::WouldBlock))
}

/// Whether the directory `path` has ever been opened by sled.
pub(super) fn exists(path: &Path) -> bool {
    path.join("db").exists()
}

/// Whether the disk has no room, or takes no changes at all. sled keeps of an error no more than its kind.
fn is_refusal(why: &io::Error) -> bool {
    matches!(
        why.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::ReadOnlyFilesystem
    )
}

/// Whether it is the directory that is at fault: sled's own words (a file that ends too soon), or a disk that cannot
/// read back what it holds.
fn is_damage(why: &io::Error) -> bool {
    const EIO: i32 = 5;
    why.raw_os_error().is_none_or(|code| code == EIO)
}

/// What a process wrote that was killed before it could sync will be read as if it were durable: so it is made that.
fn sync_what_was_left(path: &Path) -> Result<(), StoreError> {
    let files = ["conf", "db"].map(|name| path.join(name)).into_iter().chain([journal::path(path)]);
    for file in files.chain(snapshots::all(path)).chain([path.to_owned()]) {
        match File::open(&file) {
            Ok(open) => open.sync_all().map_err(|why| not_synced(&file, why))?,
            Err(why) if why.kind() == io::ErrorKind::NotFound => {}
            Err(why) => return Err(StoreError::at_open(&file, why)),
        }
    }
    Ok(())
}

fn not_synced(file: &Path, source: io::Error) -> StoreError {
    StoreError::NotSynced { path: file.to_owned(), source: source.into() }
}

/// In the place of the C library's function of this name, for all that is linked with this crate: `fdatasync`, which
/// promises all that the original does and what sled takes it to promise. sled itself has no setting for it.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "it is called from beyond Rust, with a number for a file")]
#[unsafe(no_mangle)]
extern "C" fn sync_file_range(
    fd: std::os::fd::RawFd,
    _from: i64,
    _bytes: i64,
    _flags: std::ffi::c_uint,
) -> i32 {
    // SAFETY: the caller's descriptor is open for as long as the call; it stays the caller's, and is not closed.
    let file = std::mem::ManuallyDrop::new(unsafe { <File as std::os::fd::FromRawFd>::from_raw_fd(fd) });
    // The caller reads `errno`, which nothing has touched since.
    if file.sync_data().is_ok() { 0 } else { -1 }
}

fn wrong(path: &Path, error: ::sled::Error) -> StoreError {
    match error {
        ::sled::Error::Io(source) => StoreError::io(path, in_words(source)),
        ::sled::Error::Corruption { at: Some(at), .. } => {
            StoreError::damaged_file(path, format!("sled reads what was not written there, at {at:?}"))
        }
        ::sled::Error::Corruption { at: None, .. } => {
            StoreError::damaged_file(path, "sled cannot read its snapshot or its log")
        }
        other => StoreError::damaged_file(path, other.to_string()),
    }
}

/// The error as the system words it: sled passes on what it looks like to a programmer.
fn in_words(error: io::Error) -> io::Error {
    let text = error.to_string();
    let code = text.split_once("code: ").map(|(_, rest)| rest.split(',').next().unwrap_or_default());
    match code.and_then(|code| code.trim().parse().ok()) {
        Some(code) if error.raw_os_error().is_none() => io::Error::from_raw_os_error(code),
        Some(_) | None => error,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::store) const KEY: &[u8] = b"key";

    /// What of an open directory has left its process, in another.
    pub(in crate::store) fn as_it_lies(path: &Path, found: &Path) {
        std::fs::create_dir_all(found).unwrap();
        for file in std::fs::read_dir(path).unwrap().map(Result::unwrap) {
            if file.file_type().unwrap().is_file() {
                std::fs::copy(file.path(), found.join(file.file_name())).unwrap();
            }
        }
    }

    #[test]
    fn who_reads_waits_until_what_is_recorded_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path()).unwrap();
        let changes = of(b"new");
        let recorded = disk.record(&changes, Lay::Apart).unwrap();
        thread::scope(|scope| {
            let (told, found) = mpsc::channel();
            let disk = &disk;
            scope.spawn(move || told.send(disk.get(Tree::Meta, KEY).unwrap()));
            assert!(found.recv_timeout(Duration::from_millis(50)).is_err());
            recorded.apply().unwrap();
            assert_eq!(found.recv().unwrap().unwrap(), b"new");
        });
    }

    #[test]
    fn what_could_not_become_rows_does_so_when_it_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path()).unwrap();
        drop(disk.record(&of(b"kept"), Lay::Apart).unwrap());
        disk.sync().unwrap();
        disk.close().unwrap();
        let disk = Disk::open(dir.path()).unwrap();
        assert_eq!(disk.get(Tree::Meta, KEY).unwrap().unwrap(), b"kept");
    }

    #[test]
    fn more_than_the_journal_holds_is_written_all_the_same() {
        let (dir, found) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let disk = Disk::open(dir.path()).unwrap();
        let row = |n: u64| ((Tree::Pending, n.to_be_bytes().to_vec()), Some(vec![7; 4000]));
        disk.record(&of(b"before"), Lay::Apart).and_then(Recorded::apply).unwrap();
        disk.record(&(0..300).map(row).collect(), Lay::Apart).and_then(Recorded::apply).unwrap();
        disk.record(&of(b"after"), Lay::Apart).and_then(Recorded::apply).unwrap();
        as_it_lies(dir.path(), found.path());
        disk.close().unwrap();
        let disk = Disk::open(found.path()).unwrap();
        assert_eq!(disk.page(Tree::Pending, &[], usize::MAX).unwrap().len(), 300);
        assert_eq!(disk.get(Tree::Meta, KEY).unwrap().unwrap(), b"after");
    }

    #[test]
    fn what_changes_nothing_leaves_no_trace() {
        let (dir, found) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let disk = Disk::open(dir.path()).unwrap();
        let gone = Changes::from([((Tree::Pending, b"never there".to_vec()), None)]);
        for changes in [Changes::new(), gone, of(b"kept")] {
            disk.record(&changes, Lay::Together).and_then(Recorded::apply).unwrap();
        }
        as_it_lies(dir.path(), found.path());
        disk.close().unwrap();
        let disk = Disk::open(found.path()).unwrap();
        assert_eq!(disk.get(Tree::Meta, KEY).unwrap().unwrap(), b"kept");
    }

    #[test]
    fn a_journal_whose_state_is_forgotten_is_damage_and_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path()).unwrap();
        drop(disk.record(&of(b"kept"), Lay::Apart).unwrap());
        disk.tree(JOURNALED.0).remove(JOURNALED.1).unwrap();
        disk.close().unwrap();
        for _ in 0..2 {
            let why = Disk::open(dir.path()).err().unwrap();
            assert!(matches!(why, StoreError::Damaged { .. }), "{why}");
        }
    }

    #[test]
    fn a_journal_that_is_gone_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        Disk::open(dir.path()).unwrap().close().unwrap();
        std::fs::remove_file(journal::path(dir.path())).unwrap();
        for _ in 0..2 {
            let why = Disk::open(dir.path()).err().unwrap();
            assert!(matches!(why, StoreError::Damaged { .. }), "{why}");
        }
    }

    #[test]
    fn rows_that_move_from_one_of_sleds_to_another_are_in_none_too_few_after_a_crash() {
        const ROWS: u64 = 1_500;
        let row = |key: u64, len: usize| ((Tree::Pending, key.to_be_bytes().to_vec()), Some(vec![7; len]));
        for at in 1..=6 {
            let (dir, found) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let disk = Disk::open(dir.path()).unwrap();
            disk.write(&(0..ROWS).map(|n| row(n * 16, 200)).collect(), Lay::Together).unwrap();
            disk.sync().unwrap();
            let before = disk.log.metadata().unwrap().len();
            // One more in each of the sheaves, more than sled holds back.
            let more = (0..ROWS).map(|n| row(n * 16 + at, 150 + 31 * at as usize)).collect();
            disk.record(&more, Lay::Together).and_then(Recorded::apply).unwrap();
            while disk.log.metadata().unwrap().len() == before {
                thread::yield_now();
            }
            as_it_lies(dir.path(), found.path());
            disk.close().unwrap();
            let disk = Disk::open(found.path()).unwrap();
            let rows = disk.page(Tree::Pending, &[], usize::MAX).unwrap();
            assert_eq!(rows.len() as u64, 2 * ROWS, "{at}");
        }
    }

    pub(in crate::store) fn of(value: &[u8]) -> Changes {
        Changes::from([((Tree::Meta, KEY.to_vec()), Some(value.to_vec()))])
    }

    #[test]
    fn an_error_is_worded_as_the_system_words_it() {
        let full = io::Error::from_raw_os_error(28);
        let passed_on = ::sled::Error::Io(io::Error::from_raw_os_error(28)).clone();
        let said = wrong(Path::new("/q"), passed_on).to_string();
        assert!(said.contains(&full.to_string()) && !said.contains("kind"), "{said}");
        let other = io::Error::other("no code: here");
        assert_eq!(in_words(other).to_string(), "no code: here");
    }
}
