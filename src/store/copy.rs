//! A second directory with the same rows, made beside the first while that is in use: sled's file never shrinks, so
//! after a large backlog a fresh one takes its place.
//!
//! Rows are copied in the order of trees and keys, some at a time. What is written meanwhile is written there too
//! as far as the copy has come; the rest it finds when it comes by.

use std::path::{Path, PathBuf};

use super::error::StoreError;
use super::folder;
use super::sheaf::Lay;
use super::sled::{Changes, Disk, Tree};

/// Rows copied at once: some milliseconds, which the next group waits.
const SLICE: usize = 200;
/// Slices between two syncs: sled keeps in memory what the disk has not taken yet.
const SYNC_EVERY: u32 = 16;

pub(super) struct Copy {
    disk: Disk,
    state_dir: PathBuf,
    /// Everything before this place has been copied.
    next: (Tree, Vec<u8>),
    slices: u32,
    lay: Lay,
}

impl Copy {
    /// A directory is not worth copying if it takes less than this for each row that is kept: under steady traffic
    /// it settles at some 2500 bytes for each, and a copy would be for nothing.
    pub(super) const WORTH_PER_ROW: u64 = 4096;

    pub(super) fn begin(state_dir: &Path, lay: Lay) -> Result<Self, StoreError> {
        folder::clear_part(state_dir)?;
        let disk = Disk::open(&folder::part(state_dir))?;
        Ok(Self { disk, state_dir: state_dir.to_owned(), next: (Tree::ALL[0], Vec::new()), slices: 0, lay })
    }

    /// Copies some rows of `from`; whether there are more.
    pub(super) fn some_rows(&mut self, from: &Disk) -> Result<bool, StoreError> {
        let (tree, key) = &self.next;
        let rows = from.walk(*tree, key, SLICE)?;
        match rows.last() {
            Some((last, _)) => {
                // The very next key.
                self.next = (*tree, [last.as_slice(), &[0]].concat());
                let tree = self.next.0;
                let rows = rows.into_iter().map(|(key, value)| ((tree, key), Some(value)));
                self.disk.write(&rows.collect(), self.lay)?;
                self.slices += 1;
                if self.slices.is_multiple_of(SYNC_EVERY) {
                    self.disk.sync()?;
                }
            }
            None => match Tree::ALL.iter().find(|next| **next > *tree) {
                Some(tree) => self.next = (*tree, Vec::new()),
                None => return Ok(false),
            },
        }
        Ok(true)
    }

    /// What was committed to the first directory.
    pub(super) fn follow(&mut self, changes: &Changes) -> Result<(), StoreError> {
        let passed: Changes =
            changes.range(..self.next.clone()).map(|(k, v)| (k.clone(), v.clone())).collect();
        if passed.is_empty() { Ok(()) } else { self.disk.write(&passed, Lay::Apart) }
    }

    /// The copy is whole: makes it outlive a power cut, and lets go of it.
    pub(super) fn finish(self) -> Result<(), StoreError> {
        self.disk.sync()?;
        self.disk.close()?;
        folder::sync_dir(&folder::part(&self.state_dir))
            .map_err(|why| StoreError::io(&folder::part(&self.state_dir), why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sled::Recorded;
    use crate::store::sled::tests::as_it_lies;

    #[test]
    fn a_copy_has_a_journal_of_its_own() {
        let row = |n: u8| Changes::from([((Tree::Meta, vec![n]), Some(vec![n]))]);
        let (dir, found) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let disk = Disk::open(&folder::queue(dir.path())).unwrap();
        for n in 0..5 {
            disk.record(&row(n), Lay::Apart).and_then(Recorded::apply).unwrap();
        }
        disk.sync().unwrap();
        let mut copy = Copy::begin(dir.path(), Lay::Apart).unwrap();
        while copy.some_rows(&disk).unwrap() {}
        copy.finish().unwrap();
        disk.close().unwrap();

        let disk = Disk::open(&folder::part(dir.path())).unwrap();
        disk.record(&row(5), Lay::Apart).and_then(Recorded::apply).unwrap();
        as_it_lies(disk.path(), found.path());
        disk.close().unwrap();
        let disk = Disk::open(found.path()).unwrap();
        for n in 0..=5 {
            assert_eq!(disk.get(Tree::Meta, &[n]).unwrap(), Some(vec![n]));
        }
    }
}
