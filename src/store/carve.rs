//! Reads the rows out of sled's log file and the journal without sled: whatever of it is readable, however damaged the
//! rest is.
//!
//! sled 0.34 opens a damaged directory by guessing: it stops at the first hole and zeroes what lies behind it, or
//! hangs, or panics. Here nothing is written, nothing is trusted and nothing can hang: the file is walked segment by
//! segment ([`super::segments`] knows the bytes), and what does not bear its checksum is stepped over. That a row
//! belongs to its tree and key is proved by our own checksum ([`record::unseal`]), so sled's index pages, snapshot
//! and `conf` are not needed.
//!
//! A start waits for this, so it is quick: several threads walk the file once, note of each page only where its
//! newest whole and the changes since stand, and then read those.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::journal;
use super::record;
use super::segments::{
    BATCH_MANIFEST, FREE, INLINE_LINK, INLINE_NODE, Leaf, Link, Message, SEGMENT, header_number, load,
    messages,
};
use super::sheaf;
use super::sled::{self, JOURNALED, ROW_TREES, Tree};

/// Most threads that read at once: beyond it the disk is what is waited for.
const THREADS_MAX: usize = 4;

/// Where a value stands: in which log, and where there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    log: u32,
    len: u32,
    at: u64,
}

/// The rows that a log holds, or several: an event stands in one tree only, where it was last.
#[derive(Debug, Default)]
pub(super) struct Carved {
    logs: Vec<File>,
    /// Positions and where the values stand, in the trees' order, ordered.
    events: [Vec<(u64, Spot)>; ROW_TREES.len()],
    /// Sealed values of the other trees, but for [`Tree::Ids`]: the events tell their own.
    others: BTreeMap<(Tree, Vec<u8>), Vec<u8>>,
    /// Of the identities of the events.
    ids: HashSet<u64>,
}

impl Carved {
    /// Reads a sled directory that nobody has open.
    ///
    /// # Errors
    /// If its log cannot be read at all.
    pub(super) fn read(dir: &Path) -> io::Result<Self> {
        let (logs, rows) = rows_in(dir, false)?;
        let mut carved = Self { logs, ..Self::default() };
        for row in rows {
            match ROW_TREES.iter().position(|tree| *tree == row.tree) {
                Some(at) => {
                    let Ok(seq) = record::seq_of(row.tree, &row.key) else { continue };
                    carved.events[at].push((seq.0, row.spot));
                    carved.ids.extend(row.id);
                }
                None => {
                    let value = carved.value(row.spot)?;
                    carved.others.insert((row.tree, row.key), value);
                }
            }
        }
        carved.settle();
        Ok(carved)
    }

    /// Takes in what an older log holds from a place on, as far as it is not here.
    pub(super) fn add_older(&mut self, older: Self, from: (Tree, u64)) {
        let first = u32::try_from(self.logs.len()).expect("a handful of logs");
        self.logs.extend(older.logs);
        let here: HashSet<u64> = self.events.iter().flatten().map(|(seq, _)| *seq).collect();
        for (at, rows) in older.events.into_iter().enumerate() {
            let wanted = |seq: &u64| (ROW_TREES[at], *seq) >= from && !here.contains(seq);
            let moved = rows.into_iter().filter(|(seq, _)| wanted(seq));
            self.events[at].extend(moved.map(|(seq, spot)| (seq, Spot { log: spot.log + first, ..spot })));
        }
        self.ids.extend(older.ids);
        self.settle();
    }

    /// Of an event that is in several trees the last move counts: what was settled never waits again.
    fn settle(&mut self) {
        for rows in &mut self.events {
            rows.sort_unstable_by_key(|(seq, _)| *seq);
            rows.dedup_by_key(|(seq, _)| *seq);
        }
        for at in 0..ROW_TREES.len() {
            let (before, later) = self.events.split_at_mut(at + 1);
            let moved = |seq: &u64| later.iter().any(|rows| rows.binary_search_by_key(seq, |r| r.0).is_ok());
            before[at].retain(|(seq, _)| !moved(seq));
        }
    }

    /// The events of a tree, in their order.
    pub(super) fn events(&self, tree: Tree) -> &[(u64, Spot)] {
        ROW_TREES.iter().position(|of| *of == tree).map_or(&[], |at| &self.events[at])
    }

    /// A sealed value of another tree.
    pub(super) fn other(&self, tree: Tree, key: &[u8]) -> Option<&Vec<u8>> {
        self.others.get(&(tree, key.to_vec()))
    }

    /// The sealed values of another tree.
    pub(super) fn others(&self, tree: Tree) -> impl Iterator<Item = (&Vec<u8>, &Vec<u8>)> {
        self.others.iter().filter(move |((of, _), _)| *of == tree).map(|((_, key), value)| (key, value))
    }

    /// Whether an event of this identity is here, by a fingerprint of 64 bits: of a million events one in some ten
    /// million million others is taken for one of them.
    pub(super) fn knows(&self, id: &str) -> bool {
        self.ids.contains(&fingerprint(id))
    }

    /// A sealed value.
    pub(super) fn value(&self, spot: Spot) -> io::Result<Vec<u8>> {
        value_at(&self.logs[spot.log as usize], spot)
    }
}

fn value_at(log: &File, spot: Spot) -> io::Result<Vec<u8>> {
    let mut value = vec![0; spot.len as usize];
    log.read_exact_at(&mut value, spot.at)?;
    Ok(value)
}

fn fingerprint(id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

/// A row that bears our checksum.
struct Found {
    tree: Tree,
    key: Vec<u8>,
    /// The key of the sheaf that it lies in.
    sheaf: Option<Box<[u8]>>,
    spot: Spot,
    lsn: u64,
    /// The fingerprint of the event's identity.
    id: Option<u64>,
}

impl Found {
    /// The key under which sled has it.
    fn stands(&self) -> &[u8] {
        self.sheaf.as_deref().unwrap_or(&self.key)
    }

    /// The rows of ours that stand in one of sled's, whose value begins at a place of a log. `tree_of` tells the tree of a
    /// key and its value, if they are wanted.
    fn each(
        (key, value): (&[u8], &[u8]),
        (log, at, lsn): (u32, u64, u64),
        mut tree_of: impl FnMut(&[u8], &[u8]) -> Option<Tree>,
        rows: &mut Vec<Self>,
    ) {
        let mut take = |key: &[u8], sheaf: Option<&[u8]>, behind: usize, value: &[u8]| {
            let Some(tree) = tree_of(key, value) else { return };
            let id = record::id_of(tree, key, value).map(|id| fingerprint(&id));
            let len = u32::try_from(value.len()).expect("a segment is smaller");
            let spot = Spot { log, len, at: at + behind as u64 };
            rows.push(Self { tree, key: key.to_vec(), sheaf: sheaf.map(Into::into), spot, lsn, id });
        };
        match sheaf::places(value) {
            Some(places) => places
                .into_iter()
                .for_each(|(of, row)| take(&value[of], Some(key), row.start, &value[row.clone()])),
            None => take(key, None, 0, value),
        }
    }
}

/// All rows of a directory, and the files that hold their values; those of [`Tree::Ids`] only if they are wanted.
fn rows_in(dir: &Path, with_ids: bool) -> io::Result<(Vec<File>, Vec<Found>)> {
    let log = File::open(dir.join("db"))?;
    let mut rows = rows_of(&log, with_ids)?;
    let journal = match File::open(journal::path(dir)) {
        Ok(journal) => journal,
        // There was none in older ones.
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok((vec![log], newest_of_each(rows))),
        Err(why) => return Err(why),
    };
    let noted = rows.iter().filter(|row| (row.tree, row.key.as_slice()) == JOURNALED);
    let noted = noted.max_by_key(|row| row.lsn);
    let noted = noted.map(|row| value_at(&log, row.spot)).transpose()?;
    let done = noted.and_then(|value| sled::journaled(&value).ok()).unwrap_or(0);
    // What is recorded behind that is later than anything in the log, or the same.
    let mut bytes = Vec::new();
    load(&journal, 0, journal::SIZE, &mut bytes)?;
    let mut records: Vec<_> = journal::records(&bytes, 0).filter(|record| record.serial > done).collect();
    records.sort_by_key(|record| record.serial);
    let changed: BTreeMap<_, _> = records.iter().flat_map(|record| record.places(&bytes)).collect();
    rows.retain(|row| !changed.contains_key(&(row.tree, row.stands())));
    for ((tree, key), place) in changed {
        let Some(place) = place.filter(|_| tree != Tree::Ids || with_ids) else { continue };
        let tree_of = |key: &[u8], value: &[u8]| record::unseal(tree, key, value).is_ok().then_some(tree);
        let at = (1, place.start as u64, u64::MAX);
        Found::each((key, &bytes[place]), at, tree_of, &mut rows);
    }
    Ok((vec![log, journal], newest_of_each(rows)))
}

/// All rows of a log of sled's; those of [`Tree::Ids`] only if they are wanted.
fn rows_of(log: &File, with_ids: bool) -> io::Result<Vec<Found>> {
    let mut harvest = Harvest::of(log, u64::MAX)?;
    // Messages from there on belong to a batch that is not all there.
    let torn = harvest.batches.iter().filter(|(_, last)| *last > harvest.tip).map(|(lsn, _)| *lsn).min();
    if let Some(end) = torn {
        harvest = Harvest::of(log, end)?;
    }
    let pages: Vec<Refs> = harvest.pages.into_values().collect();
    let read = in_threads(|thread, threads| {
        let mine = pages.iter().skip(thread).step_by(threads);
        mine.filter_map(|refs| Page::read(log, refs, with_ids)).collect::<Vec<_>>()
    });
    let mut by_tree: BTreeMap<Tree, Vec<Page>> = BTreeMap::new();
    for (tree, page) in read.into_iter().flatten() {
        by_tree.entry(tree).or_default().push(page);
    }
    Ok(by_tree.into_values().flat_map(uncontradicted).collect())
}

/// A row that is found in two sheaves was in the newer one last.
fn newest_of_each(mut rows: Vec<Found>) -> Vec<Found> {
    rows.sort_unstable_by(|a, b| (a.tree, &a.key, b.lsn).cmp(&(b.tree, &b.key, a.lsn)));
    rows.dedup_by(|older, newer| (older.tree, &older.key) == (newer.tree, &newer.key));
    rows
}

/// What each of some threads makes of its share.
fn in_threads<T: Send>(work: impl Fn(usize, usize) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    std::thread::scope(|scope| {
        let work = &work;
        let others: Vec<_> = (1..threads).map(|at| scope.spawn(move || work(at, threads))).collect();
        let mut done = vec![work(0, threads)];
        done.extend(others.into_iter().map(|other| other.join().expect("reading does not panic")));
        done
    })
}

/// Keeps of each page of a tree what no newer page contradicts.
fn uncontradicted(mut pages: Vec<Page>) -> Vec<Found> {
    pages.sort_unstable_by(|a, b| a.lo.cmp(&b.lo));
    let mut kept = Vec::new();
    for at in 0..pages.len() {
        let rows = std::mem::take(&mut pages[at].rows);
        let page = &pages[at];
        // Pages of a sound tree do not overlap. Where they do, the older one was not heard of for long.
        let newer: Vec<&Page> = overlapping(&pages, at).filter(|p| p.lsn > page.lsn).collect();
        kept.extend(
            rows.into_iter().filter(|row| !newer.iter().any(|p| p.lsn > row.lsn && p.covers(row.stands()))),
        );
    }
    kept
}

/// The pages that overlap the one at `at`, in a list ordered by where they begin.
fn overlapping(pages: &[Page], at: usize) -> impl Iterator<Item = &Page> {
    /// How far back a page is looked for that reaches over its successors: more than a damaged log leaves behind.
    const REACH: usize = 64;
    let page = &pages[at];
    let before = pages[at.saturating_sub(REACH)..at].iter().filter(|p| p.reaches(&page.lo));
    before.chain(pages[at + 1..].iter().take_while(|p| page.reaches(&p.lo)))
}

/// Where the newest whole of each page and the changes to it stand, and where the log ends.
#[derive(Default)]
struct Harvest {
    pages: HashMap<u64, Refs>,
    /// The last byte of the last message.
    tip: u64,
    /// Where batches begin and end.
    batches: Vec<(u64, u64)>,
}

#[derive(Default)]
struct Refs {
    /// The newest whole, or that it is free.
    whole: Option<Ref>,
    links: Vec<Ref>,
}

#[derive(Clone, Copy)]
struct Ref {
    lsn: u64,
    at: u64,
    len: u32,
    free: bool,
}

impl Harvest {
    /// Walks the log; what was written from the lsn `end` on is left out.
    fn of(log: &File, end: u64) -> io::Result<Self> {
        let len = log.metadata()?.len();
        let shares = in_threads(|thread, threads| {
            let mut share = Self::default();
            let mut buf = Vec::new();
            for at in (0..len).step_by(SEGMENT).skip(thread).step_by(threads) {
                load(log, at, SEGMENT, &mut buf)?;
                share.take_segment(at, &buf, end);
            }
            Ok::<_, io::Error>(share)
        });
        shares.into_iter().try_fold(Self::default(), |all, share| Ok(all.and(share?)))
    }

    fn take_segment(&mut self, at: u64, buf: &[u8], end: u64) {
        // Without its header it is the newest of the messages that say what it was.
        let number = header_number(buf).or_else(|| messages(buf, None).map(|m| m.number).max());
        for message in number.into_iter().flat_map(|number| messages(buf, Some(number))) {
            self.tip = self.tip.max(message.lsn + (message.end - message.begin) as u64 - 1);
            if message.kind == BATCH_MANIFEST
                && let Ok(last) = <[u8; 8]>::try_from(message.body(buf))
            {
                self.batches.push((message.lsn, u64::from_le_bytes(last)));
            }
            if message.lsn < end {
                self.take(&message, at);
            }
        }
    }

    /// `at` is where the message's segment begins in the file.
    fn take(&mut self, message: &Message, at: u64) {
        let found = Ref {
            lsn: message.lsn,
            at: at + message.body as u64,
            len: u32::try_from(message.end - message.body).expect("a segment is smaller"),
            free: message.kind == FREE,
        };
        match message.kind {
            FREE | INLINE_NODE => self.pages.entry(message.page).or_default().put_whole(found),
            INLINE_LINK => self.pages.entry(message.page).or_default().put_link(found),
            _ => {}
        }
    }

    fn and(mut self, other: Self) -> Self {
        for (page, refs) in other.pages {
            let here = self.pages.entry(page).or_default();
            refs.whole.into_iter().for_each(|whole| here.put_whole(whole));
            refs.links.into_iter().for_each(|link| here.put_link(link));
        }
        self.tip = self.tip.max(other.tip);
        self.batches.extend(other.batches);
        self
    }
}

impl Refs {
    fn put_whole(&mut self, whole: Ref) {
        if self.whole.is_none_or(|before| before.lsn < whole.lsn) {
            self.links.retain(|link| link.lsn > whole.lsn);
            self.whole = Some(whole);
        }
    }

    fn put_link(&mut self, link: Ref) {
        if self.whole.is_none_or(|whole| whole.lsn < link.lsn) {
            self.links.push(link);
        }
    }
}

/// One leaf: a stretch of a tree.
struct Page {
    /// Of the whole; a change to it has its own.
    lsn: u64,
    lo: Vec<u8>,
    /// Empty: to the end.
    hi: Vec<u8>,
    rows: Vec<Found>,
}

impl Page {
    fn covers(&self, key: &[u8]) -> bool {
        self.lo.as_slice() <= key && self.reaches(key)
    }

    fn reaches(&self, key: &[u8]) -> bool {
        self.hi.is_empty() || key < self.hi.as_slice()
    }

    /// The rows of a leaf that bear witness to a tree, and that tree. What the disk does not read is left out.
    fn read(log: &File, refs: &Refs, with_ids: bool) -> Option<(Tree, Self)> {
        /// Where a value stands among the bytes that were read, and in the file.
        struct Value {
            lsn: u64,
            here: Range<usize>,
            at: u64,
        }
        let whole = refs.whole.filter(|whole| !whole.free)?;
        let mut bytes = Vec::new();
        append(log, whole, &mut bytes)?;
        let mut leaf = Leaf::read(&bytes)?;
        if !with_ids && is_of(Tree::Ids, &leaf, &bytes) {
            return None;
        }
        let mut values = BTreeMap::new();
        for (key, here) in std::mem::take(&mut leaf.places) {
            let at = whole.at + here.start as u64;
            values.insert(key, Value { lsn: whole.lsn, here, at });
        }
        let mut links = refs.links.clone();
        links.sort_unstable_by_key(|link| link.lsn);
        for link in links {
            let begin = bytes.len();
            let Some(()) = append(log, link, &mut bytes) else { continue };
            match Link::read(&bytes[begin..]) {
                Some(Link::Set(key, here)) => {
                    let at = link.at + here.start as u64;
                    let here = begin + here.start..begin + here.end;
                    values.insert([leaf.prefix(), key].concat(), Value { lsn: link.lsn, here, at });
                }
                Some(Link::Del(key)) => {
                    values.remove([leaf.prefix(), key].concat().as_slice());
                }
                None => {}
            }
        }
        let mut tree = None;
        let mut rows = Vec::with_capacity(values.len());
        let mut tree_of = |key: &[u8], value: &[u8]| {
            let proves = |of: &Tree| record::unseal(*of, key, value).is_ok();
            let of = tree.into_iter().chain(Tree::ALL).find(proves)?;
            tree = Some(of);
            (of != Tree::Ids || with_ids).then_some(of)
        };
        for (key, Value { lsn, here, at }) in values {
            Found::each((&key, &bytes[here]), (0, at, lsn), &mut tree_of, &mut rows);
        }
        let Leaf { lo, hi, .. } = leaf;
        tree.map(|tree| (tree, Self { lsn: whole.lsn, lo, hi, rows }))
    }
}

/// Whether a leaf's first row bears witness to a tree.
fn is_of(tree: Tree, leaf: &Leaf, bytes: &[u8]) -> bool {
    leaf.places.first().is_some_and(|(key, place)| {
        let rows = sheaf::rows(key, &bytes[place.clone()]);
        rows.first().is_some_and(|(key, value)| record::unseal(tree, key, value).is_ok())
    })
}

/// Reads a message's body, behind what is there already.
fn append(log: &File, message: Ref, bytes: &mut Vec<u8>) -> Option<()> {
    let begin = bytes.len();
    bytes.resize(begin + message.len as usize, 0);
    let read = log.read_exact_at(&mut bytes[begin..], message.at);
    if read.is_err() {
        // It could be read a moment ago.
        bytes.truncate(begin);
    }
    read.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sheaf::Lay;
    use crate::store::sled::tests::as_it_lies;
    use crate::store::sled::{Changes, Disk, Recorded};

    #[test]
    fn a_sound_log_holds_exactly_the_rows_that_sled_shows() {
        for seed in 0..6 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("queue");
            work(&path, seed);
            let carved = carved(&path);
            assert!(carved.len() > 50, "seed {seed}: only {} rows", carved.len());
            assert_eq!(carved, shown(&path), "seed {seed}");
        }
    }

    #[test]
    fn whatever_is_overwritten_the_rest_is_read_and_nothing_is_made_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("queue");
        work(&path, 1);
        let other = dir.path().join("other");
        as_it_lies(&path, &other);
        let (shown, ever) = (shown(&other), carved(&path));
        let files = ["db", "journal"].map(|name| path.join(name));
        let mut dice = fastrand::Rng::with_seed(7);
        let mut kept = 0;
        for round in 0..30 {
            let file = &files[round % 2];
            let whole = std::fs::read(file).unwrap();
            let mut torn = whole.clone();
            let at = dice.usize(..torn.len());
            let len = dice.usize(1..SEGMENT / 2).min(torn.len() - at);
            match round % 3 {
                0 => torn[at..at + len].fill(0),
                1 => torn[at..at + len].fill_with(|| dice.u8(..)),
                _ => torn.truncate(at),
            }
            std::fs::write(file, &torn).unwrap();
            let found = carved(&path);
            std::fs::write(file, &whole).unwrap();
            for (place, value) in &found {
                // An older value of the row may come to light, never one that was not written there.
                assert!(record::unseal(place.0, &place.1, value).is_ok());
            }
            kept += shown.iter().filter(|(place, value)| found.get(*place) == Some(*value)).count();
        }
        assert!(kept * 2 > shown.len() * 30, "{kept} of {} rows", shown.len() * 30);
        assert_eq!(ever, shown);
    }

    #[test]
    fn a_log_that_ends_too_soon_holds_each_transaction_whole_or_not_at_all() {
        const ROWS: u64 = 40;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("queue");
        let disk = Disk::open(&path).unwrap();
        for batch in 0..30_u64 {
            let row = |n: u64| {
                let (tree, key) = (Tree::Pending, (n * 1000 + batch).to_be_bytes().to_vec());
                let value = record::seal(tree, &key, &batch.to_be_bytes().repeat(12));
                ((tree, key), Some(value))
            };
            disk.transact(&(0..ROWS).map(row).collect()).unwrap();
            disk.sync().unwrap();
        }
        disk.close().unwrap();
        let whole = std::fs::read(path.join("db")).unwrap();
        let end = whole.iter().rposition(|byte| *byte != 0).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for cut in (end / 2..end).step_by(1009) {
            std::fs::write(path.join("db"), &whole[..cut]).unwrap();
            let mut of_batch = BTreeMap::<u64, u64>::new();
            for (_, key) in carved(&path).keys().filter(|(tree, _)| *tree == Tree::Pending) {
                let n = u64::from_be_bytes(key.as_slice().try_into().unwrap());
                *of_batch.entry(n % 1000).or_default() += 1;
            }
            assert!(of_batch.values().all(|rows| *rows == ROWS), "cut at {cut}: {of_batch:?}");
            seen.insert(of_batch.len());
        }
        assert!(seen.len() > 5, "{seen:?}");
    }

    #[test]
    fn of_a_row_that_is_found_twice_the_newest_counts() {
        let found = |key: u8, lsn| {
            let spot = Spot { log: 0, len: 1, at: lsn };
            Found { tree: Tree::Pending, key: vec![key], sheaf: None, spot, lsn, id: None }
        };
        let kept = newest_of_each(vec![found(2, 7), found(1, 5), found(2, 9), found(1, 3), found(2, 8)]);
        let kept: Vec<(u8, u64)> = kept.iter().map(|row| (row.key[0], row.lsn)).collect();
        assert_eq!(kept, [(1, 5), (2, 9)]);
    }

    fn lay(dice: u64) -> Lay {
        if dice.is_multiple_of(2) { Lay::Together } else { Lay::Apart }
    }

    type Rows = BTreeMap<(Tree, Vec<u8>), Vec<u8>>;

    /// Rows come, change and go, for some megabytes, over several restarts; then the process is killed.
    fn work(path: &std::path::Path, seed: u64) {
        let mut dice = fastrand::Rng::with_seed(seed);
        let used = path.with_extension("used");
        for _ in 0..3 {
            let disk = Disk::open(&used).unwrap();
            for _ in 0..dice.usize(20..120) {
                let mut changes = Changes::new();
                for _ in 0..dice.usize(1..60) {
                    let tree = Tree::ALL[dice.usize(..Tree::ALL.len())];
                    let key = match tree {
                        Tree::Ids | Tree::State | Tree::Meta => {
                            format!("some-key-{}", dice.u64(..300)).into_bytes()
                        }
                        Tree::Pending | Tree::Dead | Tree::Delivered => {
                            dice.u64(..300).to_be_bytes().to_vec()
                        }
                    };
                    let value = (dice.u8(..) < 150).then(|| {
                        let payload: Vec<u8> = (0..dice.usize(..900)).map(|_| dice.u8(..)).collect();
                        record::seal(tree, &key, &payload)
                    });
                    changes.insert((tree, key), value);
                }
                match dice.u8(..4) {
                    0 => disk.write(&changes, lay(dice.u64(..))).and_then(|()| disk.sync()).unwrap(),
                    _ => disk.record(&changes, lay(dice.u64(..))).and_then(Recorded::apply).unwrap(),
                }
            }
            let _ = std::fs::remove_dir_all(path);
            as_it_lies(&used, path);
            disk.close().unwrap();
        }
    }

    fn shown(path: &std::path::Path) -> Rows {
        let disk = Disk::open(path).unwrap();
        let mut rows = Rows::new();
        for tree in Tree::ALL {
            let page = disk.page(tree, &[], usize::MAX).unwrap();
            rows.extend(page.into_iter().map(|(key, value)| ((tree, key), value)));
        }
        disk.close().unwrap();
        rows.remove(&(JOURNALED.0, JOURNALED.1.to_vec()));
        rows
    }

    fn carved(path: &std::path::Path) -> Rows {
        let (logs, found) = rows_in(path, true).unwrap();
        let value = |spot: Spot| value_at(&logs[spot.log as usize], spot).unwrap();
        let mut rows: Rows = found.into_iter().map(|row| ((row.tree, row.key), value(row.spot))).collect();
        rows.remove(&(JOURNALED.0, JOURNALED.1.to_vec()));
        rows
    }
}
