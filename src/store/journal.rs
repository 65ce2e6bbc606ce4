//! What is accepted, until sled has it on disk: records in the order in which they were written, in one file of
//! [`SIZE`] bytes that is filled from its beginning again and again. Knows nothing of sled or of what the rows mean.
//!
//! A record is on disk after one write and one `fdatasync` of bytes that the file has already: the disk need not make
//! room, nor note a new length. sled, whose own way to the disk is three times as long, gets the same changes right
//! after and syncs when the file is full ([`Disk::sync`](super::sled::Disk::sync)).
//!
//! ```text
//! crc32 of what follows up to the body (4) │ crc32 of the body (4) │ its length (4) │ serial (8) │ body
//! ```
//!
//! All numbers are little endian. Serials count on by one for ever. sled notes up to which it has all on disk; what is
//! to be read after a crash are the records behind that, from the beginning of the file on, each with the next serial.
//! Since each is synced before the next is written only the last one can be torn, and nobody was told of that. A record
//! that cannot be read with a later one behind it was damaged.
//!
//! A body is one change after the other: the tree (1), the key's length (2) and the key, the value's length (4) and
//! the value; a length of all ones removes.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::sled::{Changes, Tree};

/// Bytes of the file. What sled has not synced it has in memory, and it is written once more after a crash: a larger one
/// saves syncs and costs both.
pub(super) const SIZE: usize = 1024 * 1024;

const HEAD: usize = 20;
/// Where only these stand no record begins, but for what follows.
const NOTHING: [u8; 4096] = [0; 4096];
const REMOVED: u32 = u32::MAX;

/// An open journal, in which one thread at a time writes.
pub(super) struct Journal {
    file: File,
    /// Where the next record goes, and its serial.
    at: usize,
    next: u64,
    /// Up to which sled has all on disk.
    done: u64,
    /// Whether a record is not among sled's rows yet.
    open: bool,
    /// The last record, kept for its room.
    buf: Vec<u8>,
}

/// What of a record's writing went wrong.
pub(super) enum Failed {
    Write(io::Error),
    Sync(io::Error),
}

impl Journal {
    /// Makes the file, with nothing in it.
    pub(super) fn create(dir: &Path) -> io::Result<Self> {
        let path = path(dir);
        let file = File::create(&path)?;
        file.write_all_at(&vec![0; SIZE], 0)?;
        file.sync_all()?;
        Ok(Self { file, at: 0, next: 1, done: 0, open: false, buf: Vec::new() })
    }

    /// Whether there is one that holds a record.
    pub(super) fn is_used(dir: &Path) -> bool {
        std::fs::read(path(dir)).is_ok_and(|bytes| records(&bytes, 0).next().is_some())
    }

    /// Opens the file; with what all records behind `done` change, up to which sled has all.
    ///
    /// # Errors
    /// If it cannot be read; of kind [`InvalidData`](io::ErrorKind::InvalidData) if it is damaged.
    pub(super) fn open(dir: &Path, done: u64) -> io::Result<(Self, Changes)> {
        let path = path(dir);
        let file = File::options().write(true).open(&path)?;
        let bytes = std::fs::read(&path)?;
        let mut journal = Self { file, at: 0, next: done + 1, done, open: false, buf: Vec::new() };
        let mut left = Changes::new();
        while let Some(record) = record(&bytes, journal.at).filter(|record| record.serial == journal.next) {
            left.extend(record.changes(&bytes));
            (journal.at, journal.next) = (record.body.end, record.serial + 1);
        }
        let later = records(&bytes, journal.at).find(|record| record.serial >= journal.next);
        let damage = match later {
            Some(later) => format!("record {} cannot be read, {} can", journal.next, later.serial),
            None if bytes.len() < SIZE => format!("it has {} bytes", bytes.len()),
            None => return Ok((journal, left)),
        };
        Err(io::Error::new(io::ErrorKind::InvalidData, damage))
    }

    /// Writes `changes` as one record, which outlives a power cut when this returns. `false`: there is no room for it.
    pub(super) fn append(&mut self, changes: &Changes) -> Result<bool, Failed> {
        // A body of nothing is taken for no record.
        if changes.is_empty() {
            return Ok(true);
        }
        encode(changes, self.next, &mut self.buf);
        if self.at + self.buf.len() > SIZE {
            return Ok(false);
        }
        self.file.write_all_at(&self.buf, self.at as u64).map_err(Failed::Write)?;
        self.file.sync_data().map_err(Failed::Sync)?;
        self.at += self.buf.len();
        self.next += 1;
        self.open = true;
        Ok(true)
    }

    /// sled has the last record among its rows.
    pub(super) fn applied(&mut self) {
        self.open = false;
    }

    /// The serial up to which sled has all once it has synced, if that is further than before.
    pub(super) fn owed(&self) -> Option<u64> {
        Some(self.next - 1).filter(|last| *last != self.done && !self.open)
    }

    /// sled has all on disk up to `serial`, the last: the file is filled from its beginning.
    pub(super) fn begin_anew(&mut self, serial: u64) {
        self.done = serial;
        self.at = 0;
    }
}

/// Where the file stands in sled's directory.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("journal")
}

/// A record that bears its checksums.
pub(super) struct Record {
    pub(super) serial: u64,
    body: Range<usize>,
}

impl Record {
    /// What it changes, and where in the bytes the value stands; `None` if it removes.
    pub(super) fn places<'b>(
        &self,
        bytes: &'b [u8],
    ) -> impl Iterator<Item = ((Tree, &'b [u8]), Option<Range<usize>>)> {
        let (mut at, end) = (self.body.start, self.body.end);
        std::iter::from_fn(move || {
            let mut take = |len: usize| {
                let taken = at..at.checked_add(len).filter(|to| *to <= end)?;
                at = taken.end;
                Some(taken)
            };
            let tree = *Tree::ALL.get(usize::from(bytes[take(1)?][0]))?;
            let len = u16::from_le_bytes(bytes[take(2)?].try_into().ok()?);
            let key = &bytes[take(usize::from(len))?];
            let len = u32::from_le_bytes(bytes[take(4)?].try_into().ok()?);
            let value = if len == REMOVED { None } else { Some(take(usize::try_from(len).ok()?)?) };
            Some(((tree, key), value))
        })
    }

    fn changes(&self, bytes: &[u8]) -> Changes {
        let owned = |((tree, key), value): ((Tree, &[u8]), Option<Range<usize>>)| {
            ((tree, key.to_vec()), value.map(|value| bytes[value].to_vec()))
        };
        self.places(bytes).map(owned).collect()
    }
}

/// All records that can be read, from a place on, in the order of their places. What is none is stepped over.
pub(super) fn records(bytes: &[u8], from: usize) -> impl Iterator<Item = Record> {
    let mut at = from;
    std::iter::from_fn(move || {
        while at < bytes.len() {
            match record(bytes, at) {
                Some(record) => {
                    at = record.body.end;
                    return Some(record);
                }
                None if bytes[at..].starts_with(&NOTHING) => at += NOTHING.len() - HEAD,
                None => at += 1,
            }
        }
        None
    })
}

fn record(bytes: &[u8], at: usize) -> Option<Record> {
    let head = bytes.get(at..)?.first_chunk::<HEAD>()?;
    let number = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
    let begin = at + HEAD;
    let body = begin..begin.checked_add(usize::try_from(number(8)).ok()?)?;
    // The cheapest first: most of what is none says so by its length.
    if body.is_empty() || body.end > bytes.len() || number(0) != crc32fast::hash(&head[4..]) {
        return None;
    }
    let whole = crc32fast::hash(&bytes[body.clone()]) == number(4);
    let serial = u64::from_le_bytes(head[12..].try_into().expect("eight bytes"));
    whole.then_some(Record { serial, body })
}

fn encode(changes: &Changes, serial: u64, buf: &mut Vec<u8>) {
    buf.clear();
    buf.resize(HEAD, 0);
    for ((tree, key), value) in changes {
        buf.push(*tree as u8);
        buf.extend(u16::try_from(key.len()).expect("a row is smaller").to_le_bytes());
        buf.extend_from_slice(key);
        match value {
            Some(value) => {
                buf.extend(u32::try_from(value.len()).expect("a row is smaller").to_le_bytes());
                buf.extend_from_slice(value);
            }
            None => buf.extend(REMOVED.to_le_bytes()),
        }
    }
    let (head, body) = buf.split_at_mut(HEAD);
    head[4..8].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    head[8..12].copy_from_slice(&u32::try_from(body.len()).expect("a group is smaller").to_le_bytes());
    head[12..].copy_from_slice(&serial.to_le_bytes());
    let crc = crc32fast::hash(&head[4..]);
    head[..4].copy_from_slice(&crc.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_read_in_its_order_from_where_sled_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(dir.path()).unwrap();
        let all: Vec<Changes> = (1..=5).map(changes).collect();
        for some in &all {
            assert!(add(&mut journal, some));
        }
        assert_eq!(left(dir.path(), 0), in_one(&all));
        // Its end is found, too.
        let (mut journal, _) = Journal::open(dir.path(), 0).unwrap();
        add(&mut journal, &changes(6));
        assert_eq!(left(dir.path(), 0), in_one(&[all, vec![changes(6)]].concat()));
        assert_eq!(left(dir.path(), 6), Changes::new());
    }

    #[test]
    fn a_full_one_begins_anew_when_sled_has_all() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(dir.path()).unwrap();
        let (mut serial, mut done) = (0, 0);
        let mut first = Changes::new();
        for round in 1..4 {
            while add(&mut journal, &changes(200)) {
                assert_eq!(journal.owed(), None, "it is among no rows yet");
                journal.applied();
                serial += 1;
                assert_eq!(journal.owed(), Some(serial));
            }
            assert!(serial > done + 5);
            assert!(left(dir.path(), done) == in_one(&[first, changes(200)]));
            journal.begin_anew(serial);
            done = serial;
            assert_eq!((left(dir.path(), done), journal.owed()), (Changes::new(), None));
            // Of the older ones none is taken for damaged, or comes back.
            add(&mut journal, &changes(round));
            serial += 1;
            first = changes(round);
            assert_eq!(left(dir.path(), done), first);
        }
        assert_eq!(std::fs::metadata(path(dir.path())).unwrap().len(), SIZE as u64);
    }

    #[test]
    fn a_torn_record_was_never_written_and_a_damaged_one_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(dir.path()).unwrap();
        let all: Vec<Changes> = (1..=3).map(changes).collect();
        let mut ends = vec![0];
        for some in &all {
            add(&mut journal, some);
            ends.push(journal.at);
        }
        let whole = std::fs::read(path(dir.path())).unwrap();
        for at in 0..ends[3] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(path(dir.path()), &bytes).unwrap();
            let read = Journal::open(dir.path(), 0).map(|(_, left)| left);
            if at < ends[2] {
                let why = read.unwrap_err();
                assert_eq!(why.kind(), io::ErrorKind::InvalidData, "byte {at}");
                let others: Vec<u64> = records(&bytes, 0).map(|record| record.serial).collect();
                assert_eq!(others.len(), 2, "byte {at}: {others:?}");
            } else {
                assert_eq!(read.unwrap(), in_one(&all[..2]), "byte {at}");
            }
        }
    }

    fn left(dir: &Path, done: u64) -> Changes {
        Journal::open(dir, done).unwrap().1
    }

    fn in_one(all: &[Changes]) -> Changes {
        all.iter().flatten().map(|(place, value)| (place.clone(), value.clone())).collect()
    }

    fn add(journal: &mut Journal, changes: &Changes) -> bool {
        journal.append(changes).unwrap_or_else(|_| panic!("a disk with room"))
    }

    fn changes(number: u8) -> Changes {
        let value = (!number.is_multiple_of(3)).then(|| vec![number; usize::from(number) * 10]);
        Changes::from([
            ((Tree::Pending, vec![0, number]), value),
            ((Tree::Meta, b"last".to_vec()), Some(vec![number])),
        ])
    }
}
