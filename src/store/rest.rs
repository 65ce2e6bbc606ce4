//! What a damaged directory that was set aside holds and the store does not yet: taken in some rows at a time, while
//! the store is in use, until nothing is left.
//!
//! The events that wait come first, in their order; then the dead letters, then what was delivered. Each transaction
//! that brings some rows also notes how far that is, in the row `rest` of the tree `meta`: after a crash it goes on
//! there, or does the last ones again, and no row comes twice. Until all is here the store knows the identities of
//! what is to come, so that none of those events is accepted anew, and what reads the queue in order ends where the
//! events are that are not here yet ([`super::Store::readable_from`]).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::carve::Carved;
use super::error::StoreError;
use super::group::Row;
use super::record::{self, Ledger, Mark, REST, Source, Stored, seal};
use super::sled::{Changes, ROW_TREES, Tree};
use super::{Counts, Dead, Delivered, Pending, Seq};

/// What is still to be taken in. Opaque: [`begin_anew`](super::begin_anew) makes it, and
/// [`Store::open_with`](super::Store::open_with) goes on with it.
#[derive(Debug)]
pub struct Rest {
    carved: Arc<Carved>,
    mark: Mark,
    all: u64,
}

/// Some rows, to be written in one transaction.
pub(super) struct Slice {
    pub(super) changes: Changes,
    /// The ledger after it.
    pub(super) ledger: Ledger,
    next: Option<(Tree, u64)>,
    /// Rows that could be read when it was begun, and no more.
    pub(super) lost: u64,
}

impl Rest {
    /// Of a directory that is about to be set aside, and of those that it was itself still to take rows from.
    pub(super) fn begin(state_dir: &Path, aside: &Path, carved: Carved) -> Self {
        let mut mark = Mark { sources: vec![Source { dir: name(aside), from: START }], next: Some(START) };
        let before = mark_of(carved.other(Tree::Meta, REST).cloned()).unwrap_or_else(|why| {
            tracing::error!(
                name: "salvage_source_forgotten",
                reason = %why,
                "it is not known any more what was still to be taken in of an earlier damaged store; `store salvage` with its directory does so"
            );
            None
        });
        let mut carved = carved;
        if let Some(Mark { sources, next: Some(next) }) = before {
            let sources = sources.into_iter().map(|source| Source { from: source.from.max(next), ..source });
            for source in sources.filter(|source| add(state_dir, source, &mut carved)) {
                mark.sources.push(source);
            }
        }
        Self::new(carved, mark)
    }

    /// Of directories that were set aside before.
    pub(super) fn read(state_dir: &Path, mark: Mark) -> Self {
        let mut carved = Carved::default();
        for source in &mark.sources {
            add(state_dir, source, &mut carved);
        }
        Self::new(carved, mark)
    }

    fn new(carved: Carved, mark: Mark) -> Self {
        let all = ROW_TREES.iter().map(|tree| carved.events(*tree).len() as u64).sum();
        let mut rest = Self { carved: Arc::new(carved), mark, all };
        rest.mark.next = rest.mark.next.and_then(|next| rest.place_from(next));
        rest
    }

    /// Whether it is what a store's row says.
    pub(super) fn is_of(&self, mark: &Mark) -> bool {
        self.mark == *mark
    }

    /// Goes on where a store's row says.
    pub(super) fn back_to(&mut self, mark: Option<Mark>) {
        self.mark.next = mark.and_then(|mark| mark.next).and_then(|next| self.place_from(next));
    }

    /// Whether nothing is left.
    pub(super) fn is_done(&self) -> bool {
        self.mark.next.is_none()
    }

    /// Rows that there were to take in.
    pub(super) fn all(&self) -> u64 {
        self.all
    }

    /// What is not taken in yet.
    pub(super) fn left(&self) -> Counts {
        let of = |tree| match self.mark.next {
            Some((at, _)) if tree < at => 0,
            Some((at, from)) if tree == at => self.behind(tree, from).len() as u64,
            Some(_) => self.carved.events(tree).len() as u64,
            None => 0,
        };
        Counts { pending: of(Tree::Pending), dead: of(Tree::Dead), delivered: of(Tree::Delivered) }
    }

    /// The first waiting event that is not taken in yet; `None` if all are.
    pub(super) fn first_waiting(&self) -> Option<Seq> {
        self.mark.next.filter(|(tree, _)| *tree == Tree::Pending).map(|(_, seq)| Seq(seq))
    }

    /// The highest position of an event.
    pub(super) fn highest(&self) -> u64 {
        ROW_TREES
            .iter()
            .filter_map(|tree| self.carved.events(*tree).last())
            .map(|(seq, _)| *seq)
            .max()
            .unwrap_or(0)
    }

    /// The calls' state, sealed.
    pub(super) fn state(&self) -> impl Iterator<Item = (&Vec<u8>, &Vec<u8>)> {
        self.carved.others(Tree::State)
    }

    /// What the rows are read from.
    pub(super) fn carved(&self) -> &Arc<Carved> {
        &self.carved
    }

    /// Where that stands.
    pub(super) fn directories(&self, state_dir: &Path) -> Vec<PathBuf> {
        self.mark.sources.iter().map(|source| state_dir.join(&source.dir)).collect()
    }

    /// The row that notes how far this is.
    pub(super) fn mark_change(&self) -> Changes {
        noted(&self.mark)
    }

    /// The next rows, behind what `ledger` counts.
    pub(super) fn slice(&self, mut ledger: Ledger, at_most: usize) -> Slice {
        let (mut changes, mut next, mut lost) = (Changes::new(), None, 0);
        if let Some((tree, from)) = self.mark.next {
            let rows = self.behind(tree, from);
            let rows = &rows[..at_most.min(rows.len())];
            next = rows.last().and_then(|(last, _)| self.place_from((tree, last + 1)));
            for (seq, spot) in rows {
                let key = record::seq_key(Seq(*seq));
                let value = self.carved.value(*spot).ok();
                let Some(value) = value.filter(|value| record::unseal(tree, &key, value).is_ok()) else {
                    lost += 1;
                    continue;
                };
                let id = match tree {
                    Tree::Pending => counted_in::<Pending>(&mut ledger, &key, &value),
                    Tree::Dead => counted_in::<Dead>(&mut ledger, &key, &value),
                    Tree::Delivered => counted_in::<Delivered>(&mut ledger, &key, &value),
                    Tree::Ids | Tree::State | Tree::Meta => None,
                };
                if let Some(id) = id {
                    let sealed = seal(Tree::Ids, &id, &Seq(*seq).encode());
                    changes.insert((Tree::Ids, id), Some(sealed));
                }
                changes.insert((tree, key.to_vec()), Some(value));
            }
        }
        changes.extend(noted(&Mark { sources: self.mark.sources.clone(), next }));
        changes.insert(
            (Tree::Meta, record::LEDGER.to_vec()),
            Some(seal(Tree::Meta, record::LEDGER, &ledger.encode())),
        );
        Slice { changes, ledger, next, lost }
    }

    /// The slice is in the store.
    pub(super) fn took(&mut self, slice: &Slice) {
        self.mark.next = slice.next;
    }

    fn behind(&self, tree: Tree, from: u64) -> &[(u64, super::carve::Spot)] {
        let rows = self.carved.events(tree);
        &rows[rows.partition_point(|(seq, _)| *seq < from)..]
    }

    /// The place of the first row at or behind a place.
    fn place_from(&self, (tree, from): (Tree, u64)) -> Option<(Tree, u64)> {
        let trees = ROW_TREES.into_iter().filter(|of| *of >= tree);
        let mut firsts = trees.filter_map(|of| {
            let rows = self.behind(of, if of == tree { from } else { 0 });
            rows.first().map(|(seq, _)| (of, *seq))
        });
        firsts.next()
    }
}

/// Before every row.
const START: (Tree, u64) = (Tree::Pending, 0);

fn name(dir: &Path) -> String {
    dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Reads a directory that was set aside, as far as it is wanted. Whether that could be done.
fn add(state_dir: &Path, source: &Source, carved: &mut Carved) -> bool {
    let dir = state_dir.join(&source.dir);
    match Carved::read(&dir) {
        Ok(older) => carved.add_older(older, source.from),
        Err(why) => {
            tracing::error!(
                name: "salvage_source_lost",
                directory = %dir.display(), reason = %why,
                "the rest of a damaged store cannot be taken in; `store salvage` with its directory does so later, if it can be read then"
            );
            return false;
        }
    }
    true
}

/// The row that says how far this is; once nothing is left there is none.
fn noted(mark: &Mark) -> Changes {
    let value = mark.next.map(|_| seal(Tree::Meta, REST, &mark.encode()));
    Changes::from([((Tree::Meta, REST.to_vec()), value)])
}

/// Counts a row; its identity.
fn counted_in<T: Row>(ledger: &mut Ledger, key: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    *T::count(ledger) += 1;
    // A row of an older format may read otherwise; then a repeat of its event is not recognised.
    let row = record::open::<T>(T::TREE, key, value).ok()?;
    Some(row.id().as_bytes().to_vec())
}

/// What a store's row says of the rest, if there is one.
pub(super) fn mark_of(value: Option<Vec<u8>>) -> Result<Option<Mark>, StoreError> {
    value.map(|value| record::open::<Mark>(Tree::Meta, REST, &value)).transpose()
}
