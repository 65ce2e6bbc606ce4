//! Rows of the queue as they stand on disk, for who damages them on purpose: tests and fuzzers have no other way to
//! the stored shapes. Nothing of the program uses it.

use super::record::{self, Stored};
use super::sled::Tree;
use super::{Dead, Delivered, Pending, Seq, StoreError};

/// Where a row of the queue stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shelf {
    /// To be delivered.
    Pending,
    /// Given up.
    Dead,
    /// Zammad has it.
    Delivered,
}

impl Shelf {
    const fn tree(self) -> Tree {
        match self {
            Self::Pending => Tree::Pending,
            Self::Dead => Tree::Dead,
            Self::Delivered => Tree::Delivered,
        }
    }
}

/// A row that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    /// To be delivered.
    Pending(Pending),
    /// Given up.
    Dead(Dead),
    /// Zammad has it.
    Delivered(Delivered),
}

impl Row {
    /// The value on disk, checksum and all.
    #[must_use]
    pub fn sealed(&self, seq: Seq) -> Vec<u8> {
        match self {
            Self::Pending(row) => seal(Shelf::Pending, seq, &row.encode()),
            Self::Dead(row) => seal(Shelf::Dead, seq, &row.encode()),
            Self::Delivered(row) => seal(Shelf::Delivered, seq, &row.encode()),
        }
    }
}

/// Any payload, with the checksum that says it was written so.
#[must_use]
pub fn seal(shelf: Shelf, seq: Seq, payload: &[u8]) -> Vec<u8> {
    record::seal(shelf.tree(), &record::seq_key(seq), payload)
}

/// Reads what stands at a position.
///
/// # Errors
/// [`Damaged`](StoreError::Damaged), with the place.
pub fn open(shelf: Shelf, seq: Seq, value: &[u8]) -> Result<Row, StoreError> {
    let (tree, key) = (shelf.tree(), record::seq_key(seq));
    match shelf {
        Shelf::Pending => record::open(tree, &key, value).map(Row::Pending),
        Shelf::Dead => record::open(tree, &key, value).map(Row::Dead),
        Shelf::Delivered => record::open(tree, &key, value).map(Row::Delivered),
    }
}
