//! What is done about a damaged store: find it out, read what is readable, begin anew with that.
//!
//! [`verify`] opens the store as the daemon would, and sled may hang or panic over it: only a process that may be
//! lost calls it. [`salvage`] does not ask sled about the damaged directory at all ([`super::carve`]), so it comes
//! back whatever the damage is.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::carve::Carved;
use super::error::StoreError;
use super::migrate::{self, FORMAT, FORMAT_KEY};
use super::record::{self, LEDGER, Ledger, REST, Stored, seal};
use super::rest::{self, Rest};
use super::sheaf::{Lay, TOGETHER_ABOVE};
use super::sled::{Changes, Disk, Tree};
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
    // Opening needs it as well.
    rest::mark_of(disk.get(Tree::Meta, REST)?)?;
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
    /// What could be read: it is in the new store, or is going to be.
    pub found: Counts,
    /// What of that is not in the new store yet.
    pub left: Counts,
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
    begin_anew(state_dir, now, u64::MAX, progress).map(|(salvaged, _)| salvaged)
}

/// As [`salvage`], but of the events only about `at_once` are written before it returns. The rest is given back, for
/// [`Store::open_with`](super::Store::open_with), which goes on with it; the new store knows of it, so that any later
/// start does, too.
///
/// # Errors
/// As [`salvage`]'s.
pub fn begin_anew(
    state_dir: &Path,
    now: UnixMillis,
    at_once: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Salvaged, Option<Rest>), StoreError> {
    let queue = folder::queue(state_dir);
    if super::sled::is_locked(&queue) {
        return Err(StoreError::Locked { path: queue });
    }
    migrate::guard(state_dir)?;
    folder::clear_part(state_dir)?;
    let aside = folder::aside(state_dir, now);
    // What is read now is read again if the power fails before all is taken in. A disk that does not sync it makes that
    // no worse.
    let _ = File::open(queue.join("db")).and_then(|log| log.sync_all());
    let carved = Carved::read(&queue);
    let disk = Disk::open(&folder::part(state_dir))?;
    let mut salvaged = Salvaged {
        aside: aside.clone(),
        found: Counts::default(),
        left: Counts::default(),
        counted: None,
        unreadable: None,
    };
    let mut rest = None;
    match carved {
        Ok(carved) => {
            let format = format_of(&carved, disk.path())?;
            // What a step of the format needs to see must all be there.
            let at_once = if migrate::keeps_rows(format) { at_once } else { u64::MAX };
            let counted = ledger_of(&carved);
            let mut begun = Rest::begin(state_dir, &aside, carved);
            (salvaged.found, salvaged.counted) = (begun.left(), counted.as_ref().map(Ledger::counts));
            let next_seq = counted.map_or(1, |l| l.next_seq).max(begun.highest() + 1) + SEQ_GAP;
            let mut ledger = Ledger { next_seq, ..Ledger::default() };
            write_head(&disk, &ledger, format, &begun)?;
            write_at_once(&disk, &mut ledger, &mut begun, at_once, progress)?;
            salvaged.left = begun.left();
            rest = Some(begun).filter(|rest| !rest.is_done());
        }
        Err(why) => {
            disk.write(&head(&Ledger { next_seq: 1, ..Ledger::default() }, FORMAT), Lay::Apart)?;
            salvaged.unreadable = Some(why.to_string());
        }
    }
    disk.sync()?;
    disk.close()?;
    let wanted = rest.as_ref().map(|rest| rest.directories(state_dir)).unwrap_or_default();
    folder::set_aside(state_dir, &aside, &wanted)?;
    Ok((salvaged, rest))
}

/// The format that the rows are of.
fn format_of(carved: &Carved, path: &Path) -> Result<u32, StoreError> {
    let stands = carved.other(Tree::Meta, FORMAT_KEY);
    let format = stands.and_then(|value| migrate::format_of(value).ok()).unwrap_or(FORMAT);
    if format > FORMAT {
        return Err(StoreError::NewerFormat { found: format, known: FORMAT, path: path.to_owned() });
    }
    Ok(format)
}

fn ledger_of(carved: &Carved) -> Option<Ledger> {
    let value = carved.other(Tree::Meta, LEDGER)?;
    record::open::<Ledger>(Tree::Meta, LEDGER, value).ok()
}

/// What a store needs before its first event: its numbers, its calls, and what is still to come.
fn write_head(disk: &Disk, ledger: &Ledger, format: u32, rest: &Rest) -> Result<(), StoreError> {
    let mut changes = head(ledger, format);
    changes.extend(rest.mark_change());
    disk.write(&changes, Lay::Apart)?;
    let state: Vec<_> = rest.state().collect();
    for some in state.chunks(CHUNK) {
        let change =
            |(key, value): &(&Vec<u8>, &Vec<u8>)| ((Tree::State, (*key).clone()), Some((*value).clone()));
        disk.write(&some.iter().map(change).collect(), Lay::Apart)?;
    }
    Ok(())
}

/// Nobody has the store open yet, so nothing needs to be synced on the way.
fn write_at_once(
    disk: &Disk,
    ledger: &mut Ledger,
    rest: &mut Rest,
    at_once: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), StoreError> {
    let (mut done, mut say_at) = (0, SAY_EVERY);
    while done < at_once && !rest.is_done() {
        let slice = rest.slice(*ledger, CHUNK);
        disk.write(&slice.changes, Lay::of(ledger.pending, TOGETHER_ABOVE))?;
        *ledger = slice.ledger;
        rest.took(&slice);
        done = rest.all() - rest.left().total();
        if done >= say_at {
            say_at = done + SAY_EVERY;
            progress(done, rest.all());
        }
    }
    Ok(())
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
    let carved = Carved::read(dir)?;
    for tree in [Tree::Delivered, Tree::Dead, Tree::Pending] {
        for (seq, spot) in carved.events(tree) {
            let (value, seq) = (carved.value(*spot)?, Seq(*seq));
            let key = record::seq_key(seq);
            let relic = match tree {
                Tree::Pending => record::open(tree, &key, &value).ok().map(|row| Relic::Pending(seq, row)),
                Tree::Dead => record::open(tree, &key, &value).ok().map(|row| Relic::Dead(seq, row)),
                Tree::Delivered => {
                    record::open(tree, &key, &value).ok().map(|row| Relic::Delivered(seq, row))
                }
                Tree::Ids | Tree::State | Tree::Meta => None,
            };
            if let Some(relic) = relic {
                take(relic);
            }
        }
    }
    Ok(())
}
