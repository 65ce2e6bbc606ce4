//! What is done about a damaged store: find it out, read what is readable, begin anew with that.
//!
//! [`verify`] opens the store as the daemon would, and sled may hang or panic over it: only a process that may be
//! lost calls it. [`salvage`] does not ask sled about the damaged directory at all ([`super::carve`]), so it comes
//! back whatever the damage is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::carve::{Carved, writes};
use super::error::StoreError;
use super::group::Row;
use super::migrate::{self, FORMAT, FORMAT_KEY};
use super::record::{self, LEDGER, Ledger, Stored, seal};
use super::sled::{Changes, Disk, ROW_TREES, Tree};
use super::{Counts, Dead, Delivered, Pending, Seq, folder};
use crate::time::UnixMillis;

/// Rows written in one transaction, or read at once.
const CHUNK: usize = 500;
/// Positions that are left out after a salvage: those of rows that could not be read must not be given out again.
const SEQ_GAP: u64 = 1_000_000;

/// Rows after which it is said how far a salvage has come: about a second's.
const SAY_EVERY: u64 = 25_000;

/// Damaged rows that are named.
const EXAMPLES: usize = 10;

/// Whether there is a store in `state_dir`, or a copy that is to become one.
#[must_use]
pub fn exists(state_dir: &Path) -> bool {
    state_dir.join("FORMAT").exists() || folder::queue(state_dir).exists()
}

/// What [`verify`] has seen of a store that opens.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    /// Rows that were read, over all trees.
    pub rows: u64,
    /// How many of them have a wrong checksum or shape. They are stepped over; all else is delivered.
    pub damaged: u64,
    /// The first of those.
    pub examples: Vec<StoreError>,
    /// Whether every row was read; if not, there was no time for more.
    pub whole: bool,
}

/// Opens the store and reads it row by row while `go_on` says so. Blocks; sled may hang, or panic.
///
/// # Errors
/// What [`Store::open`](super::Store::open) answers, and [`Damaged`](StoreError::Damaged) where the store holds
/// other numbers of rows than it has counted: sled has lost pages without a word.
pub fn verify(state_dir: &Path, mut go_on: impl FnMut() -> bool) -> Result<Verified, StoreError> {
    if folder::is_suspect(state_dir) {
        let queue = folder::queue(state_dir);
        return Err(StoreError::damaged_file(
            &queue,
            "the disk had failed to sync it, so it is written anew",
        ));
    }
    let disk = migrate::open(state_dir)?;
    let verified = read_through(&disk, &mut go_on);
    // The finding counts, not how it closes.
    let _ = disk.close();
    verified
}

fn read_through(disk: &Disk, go_on: &mut impl FnMut() -> bool) -> Result<Verified, StoreError> {
    let mut seen = Verified { whole: true, ..Verified::default() };
    let ledger: Ledger = match disk.get(Tree::Meta, LEDGER)? {
        Some(value) => record::open(Tree::Meta, LEDGER, &value)?,
        None => return Err(record::damaged(Tree::Meta, LEDGER, "it is missing")),
    };
    for tree in [Tree::State, Tree::Pending, Tree::Dead, Tree::Delivered, Tree::Ids] {
        let mut count = 0;
        let mut from = Vec::new();
        loop {
            if !go_on() {
                seen.whole = false;
                return Ok(seen);
            }
            let page = disk.page(tree, &from, CHUNK)?;
            let Some((last, _)) = page.last() else { break };
            // The very next key.
            from = [last.as_slice(), &[0]].concat();
            count += page.len() as u64;
            for (key, value) in &page {
                if let Err(why) = readable(tree, key, value) {
                    seen.damaged += 1;
                    seen.examples.extend((seen.examples.len() < EXAMPLES).then_some(why));
                }
            }
        }
        seen.rows += count;
        let counted = match tree {
            Tree::Pending => ledger.pending,
            Tree::Dead => ledger.dead,
            Tree::Delivered => ledger.delivered,
            Tree::State | Tree::Ids | Tree::Meta => count,
        };
        if counted != count {
            let reason = format!("{} rows are {}, {counted} were counted", count, tree.name());
            return Err(StoreError::damaged_file(disk.path(), reason));
        }
    }
    Ok(seen)
}

fn readable(tree: Tree, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
    match tree {
        Tree::Pending => record::open::<Pending>(tree, key, value).map(drop),
        Tree::Dead => record::open::<Dead>(tree, key, value).map(drop),
        Tree::Delivered => record::open::<Delivered>(tree, key, value).map(drop),
        Tree::Ids | Tree::State | Tree::Meta => record::unseal(tree, key, value).map(drop),
    }
}

/// What [`salvage`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Salvaged {
    /// Where the damaged directory is now.
    pub aside: PathBuf,
    /// What the new store holds.
    pub found: Counts,
    /// What the damaged one had counted, if that could still be read.
    pub counted: Option<Counts>,
    /// Why nothing of it could be read, if so.
    pub unreadable: Option<String>,
}

/// Sets the store's directory aside and puts another in its place that holds what could be read of it. Blocks; a
/// hundred thousand rows take some seconds, and `progress` is told now and then how many of how many are done. `now`
/// names the directory.
///
/// # Errors
/// [`Locked`](StoreError::Locked), [`NewerFormat`](StoreError::NewerFormat) (nothing was touched),
/// [`NotWritable`](StoreError::NotWritable), [`Io`](StoreError::Io).
pub fn salvage(
    state_dir: &Path,
    now: UnixMillis,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Salvaged, StoreError> {
    let queue = folder::queue(state_dir);
    if super::sled::is_locked(&queue) {
        return Err(StoreError::Locked { path: queue });
    }
    migrate::guard(state_dir)?;
    folder::clear_part(state_dir)?;
    let carved = open_log(&queue).and_then(|log| Ok((Carved::read(&log)?, log)));
    let disk = Disk::open(&folder::part(state_dir))?;
    let (found, counted, unreadable) = match carved {
        Ok((carved, log)) => {
            let written = write_anew(&disk, &carved, &log, progress)?;
            (written.0, written.1, None)
        }
        Err(why) => {
            let ledger = Ledger::default();
            disk.commit(&head(&ledger, FORMAT))?;
            (Counts::default(), None, Some(why.to_string()))
        }
    };
    disk.sync()?;
    disk.close()?;
    let aside = folder::set_aside(state_dir, now)?;
    Ok(Salvaged { aside, found, counted, unreadable })
}

fn open_log(queue: &Path) -> io::Result<File> {
    File::open(queue.join("db"))
}

/// Writes what was carved into an empty store. Returns how much that is, and what the damaged one had counted.
fn write_anew(
    disk: &Disk,
    carved: &Carved,
    log: &File,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Counts, Option<Counts>), StoreError> {
    let io = |why| StoreError::io(disk.path(), why);
    let meta = |key: &[u8]| carved.value(log, Tree::Meta, key).map_err(io);
    let format = meta(FORMAT_KEY)?.and_then(|value| migrate::format_of(&value).ok()).unwrap_or(FORMAT);
    if format > FORMAT {
        let path = disk.path().to_owned();
        return Err(StoreError::NewerFormat { found: format, known: FORMAT, path });
    }
    let counted = meta(LEDGER)?.and_then(|value| record::open::<Ledger>(Tree::Meta, LEDGER, &value).ok());

    // Of a row that is in several trees the last move counts: what was settled never waits again there.
    let mut homes: BTreeMap<Vec<u8>, Tree> = BTreeMap::new();
    for tree in ROW_TREES {
        homes.extend(carved.keys().filter(|(of, _)| *of == tree).map(|(_, key)| (key.clone(), tree)));
    }
    let mut ledger = Ledger { next_seq: counted.map_or(1, |l| l.next_seq), ..Ledger::default() };
    let (mut done, mut say_at, all) = (0, SAY_EVERY, homes.len() as u64);
    let mut next = Some((Tree::Pending, Vec::new()));
    while let Some(from) = next.take() {
        let mut changes = writes(log, carved, &from, CHUNK).map_err(io)?;
        let Some((tree, last)) = changes.keys().next_back().cloned() else { break };
        next = Some((tree, [last.as_slice(), &[0]].concat()));
        changes.retain(|(tree, key), _| match tree {
            Tree::Pending | Tree::Dead | Tree::Delivered => homes.get(key) == Some(tree),
            Tree::State => true,
            Tree::Ids | Tree::Meta => false,
        });
        let mut ids = Changes::new();
        for ((tree, key), value) in &changes {
            let value = value.as_deref().unwrap_or_default();
            let id = match tree {
                Tree::Pending => counted_in::<Pending>(&mut ledger, key, value),
                Tree::Dead => counted_in::<Dead>(&mut ledger, key, value),
                Tree::Delivered => counted_in::<Delivered>(&mut ledger, key, value),
                Tree::Ids | Tree::State | Tree::Meta => None,
            };
            if let Some((id, seq)) = id {
                done += 1;
                ids.insert((Tree::Ids, id.clone()), Some(seal(Tree::Ids, &id, &seq.encode())));
            }
        }
        changes.append(&mut ids);
        disk.commit(&changes)?;
        if done >= say_at {
            say_at = done + SAY_EVERY;
            progress(done, all);
        }
    }
    ledger.next_seq += SEQ_GAP;
    disk.commit(&head(&ledger, format))?;
    Ok((counts(&ledger), counted.as_ref().map(counts)))
}

/// Counts a row; its identity and position.
fn counted_in<T: Row>(ledger: &mut Ledger, key: &[u8], value: &[u8]) -> Option<(Vec<u8>, Seq)> {
    let seq = record::seq_of(T::TREE, key).ok()?;
    *T::count(ledger) += 1;
    ledger.next_seq = ledger.next_seq.max(seq.0 + 1);
    // A row of an older format may read otherwise; then a repeat of its event is not recognised.
    let row = record::open::<T>(T::TREE, key, value).ok()?;
    Some((row.id().as_bytes().to_vec(), seq))
}

fn counts(ledger: &Ledger) -> Counts {
    Counts { pending: ledger.pending, dead: ledger.dead, delivered: ledger.delivered }
}

fn head(ledger: &Ledger, format: u32) -> Changes {
    let ledger = seal(Tree::Meta, LEDGER, &ledger.encode());
    let format = seal(Tree::Meta, FORMAT_KEY, format.to_string().as_bytes());
    Changes::from([
        ((Tree::Meta, LEDGER.to_vec()), Some(ledger)),
        ((Tree::Meta, FORMAT_KEY.to_vec()), Some(format)),
    ])
}

/// A row that was read from a directory that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relic {
    /// It waited.
    Pending(Seq, Pending),
    /// It had been given up.
    Dead(Seq, Dead),
    /// Zammad had it.
    Delivered(Seq, Delivered),
}

/// Reads the rows of `dir`, a sled directory that nobody has open, whatever its damage; `take` gets each, those
/// that wait last. Nothing is written.
///
/// # Errors
/// If the directory's log cannot be read at all.
pub fn relics(dir: &Path, mut take: impl FnMut(Relic)) -> io::Result<()> {
    let log = open_log(dir)?;
    let carved = Carved::read(&log)?;
    let settled = |key: &[u8]| [Tree::Delivered, Tree::Dead].into_iter().any(|tree| carved.has(tree, key));
    for tree in [Tree::Delivered, Tree::Dead, Tree::Pending] {
        for (_, key) in carved.keys().filter(|(of, _)| *of == tree) {
            let Some(value) = carved.value(&log, tree, key)? else { continue };
            let Ok(seq) = record::seq_of(tree, key) else { continue };
            let relic = match tree {
                Tree::Pending if settled(key) => None,
                Tree::Pending => record::open(tree, key, &value).ok().map(|row| Relic::Pending(seq, row)),
                Tree::Dead => record::open(tree, key, &value).ok().map(|row| Relic::Dead(seq, row)),
                Tree::Delivered => record::open(tree, key, &value).ok().map(|row| Relic::Delivered(seq, row)),
                Tree::Ids | Tree::State | Tree::Meta => None,
            };
            if let Some(relic) = relic {
                take(relic);
            }
        }
    }
    Ok(())
}
