//! Reads the rows out of sled's log file without sled: whatever of it is readable, however damaged the rest is.
//!
//! sled 0.34 opens a damaged directory by guessing: it stops at the first hole and zeroes what lies behind it, or
//! hangs, or panics. Here nothing is written, nothing is trusted and nothing can hang: the file is walked once,
//! segment by segment, and what does not bear its checksum is stepped over. That a row belongs to its tree and key
//! is proved by our own checksum ([`record::unseal`]), so sled's index pages, snapshot and `conf` are not needed.
//!
//! # sled's log, as far as it is read here
//!
//! The file `db` is a row of segments of [`SEGMENT`] bytes. A segment begins with a header of 20 bytes (crc32, its
//! lsn, a stable lsn; each xored) and holds messages:
//!
//! ```text
//! crc32 (4) │ kind (1) │ length, segment's number, page (varints) │ body
//! ```
//!
//! A message's lsn is its segment's number times [`SEGMENT`] plus its place in it; later ones win. Of a *page*, a
//! leaf of one of the trees, there are the whole (`InlineNode`) and changes to it (`InlineLink`: a key set or
//! deleted). A batch's first message names the lsn of its last: a batch that is not all there is none. Segments
//! are used again once their pages have been written elsewhere, so old messages may lie about; their lsn is lower.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::record;
use super::sled::{Changes, Tree};

/// Bytes in a segment: sled's default, which we leave alone.
pub(super) const SEGMENT: usize = 512 * 1024;
const SEGMENT_HEADER: usize = 20;
/// No message begins in the last bytes of a segment.
const RED_ZONE: usize = 32;

const BATCH_MANIFEST: u8 = 3;
const CAP: u8 = 2;
const FREE: u8 = 4;
const INLINE_NODE: u8 = 8;
const INLINE_LINK: u8 = 10;
const KIND_MAX: u8 = 11;

/// Where a value stands in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spot {
    lsn: u64,
    at: u64,
    len: u32,
}

/// The rows that a log holds.
#[derive(Debug, Default)]
pub(super) struct Carved {
    rows: BTreeMap<(Tree, Vec<u8>), Spot>,
}

impl Carved {
    /// Reads `log`, sled's file `db`.
    pub(super) fn read(log: &File) -> io::Result<Self> {
        let survey = Survey::of(log)?;
        let mut pages = HashMap::new();
        let mut buf = Vec::new();
        for segment in survey.segments {
            load(log, segment.at, &mut buf)?;
            for message in messages(&buf, Some(segment.number)) {
                if message.lsn < survey.end {
                    apply(&mut pages, &message, segment.at, &buf);
                }
            }
        }
        Self::of_pages(log, pages)
    }

    /// Whether a row is there.
    pub(super) fn has(&self, tree: Tree, key: &[u8]) -> bool {
        self.rows.contains_key(&(tree, key.to_vec()))
    }

    /// The keys, in their order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &(Tree, Vec<u8>)> {
        self.rows.keys()
    }

    /// A sealed value.
    pub(super) fn value(&self, log: &File, tree: Tree, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let spot = self.rows.get(&(tree, key.to_vec()));
        spot.map(|spot| value_at(log, spot)).transpose()
    }

    /// Keeps of each page what no newer page contradicts, and of that what bears our checksum.
    fn of_pages(log: &File, pages: HashMap<u64, Page>) -> io::Result<Self> {
        let mut by_tree: BTreeMap<Tree, Vec<Page>> = BTreeMap::new();
        for page in pages.into_values() {
            let (tree, page) = page.proved(log)?;
            if let Some(tree) = tree {
                by_tree.entry(tree).or_default().push(page);
            }
        }
        let mut rows = BTreeMap::new();
        for (tree, mut pages) in by_tree {
            pages.sort_unstable_by(|a, b| a.lo.cmp(&b.lo));
            for (at, page) in pages.iter().enumerate() {
                // Pages of a sound tree do not overlap. Where they do, the older one was not heard of for long.
                let newer: Vec<&Page> = overlapping(&pages, at).filter(|p| p.lsn > page.lsn).collect();
                for (key, spot) in &page.rows {
                    if !newer.iter().any(|p| p.lsn > spot.lsn && p.covers(key)) {
                        rows.insert((tree, key.clone()), *spot);
                    }
                }
            }
        }
        Ok(Self { rows })
    }
}

/// The pages that overlap the one at `at`, in a list ordered by where they begin.
fn overlapping(pages: &[Page], at: usize) -> impl Iterator<Item = &Page> {
    /// How far back a page is looked for that reaches over its successors: more than a damaged log leaves behind.
    const REACH: usize = 64;
    let page = &pages[at];
    let before = pages[at.saturating_sub(REACH)..at].iter().filter(|p| p.reaches(&page.lo));
    before.chain(pages[at + 1..].iter().take_while(|p| page.reaches(&p.lo)))
}

/// One leaf: a stretch of a tree.
#[derive(Debug)]
struct Page {
    /// Of the whole; a change to it has its own.
    lsn: u64,
    lo: Vec<u8>,
    /// Empty: to the end.
    hi: Vec<u8>,
    prefix_len: usize,
    rows: BTreeMap<Vec<u8>, Spot>,
}

impl Page {
    fn covers(&self, key: &[u8]) -> bool {
        self.lo.as_slice() <= key && self.reaches(key)
    }

    fn reaches(&self, key: &[u8]) -> bool {
        self.hi.is_empty() || key < self.hi.as_slice()
    }

    fn prefix(&self) -> &[u8] {
        &self.lo[..self.prefix_len]
    }

    /// The tree to which the rows bear witness, and those of the rows that do.
    fn proved(mut self, log: &File) -> io::Result<(Option<Tree>, Self)> {
        let mut tree = None;
        let mut proved = BTreeMap::new();
        for (key, spot) in std::mem::take(&mut self.rows) {
            let value = value_at(log, &spot)?;
            let trees = tree.into_iter().chain(Tree::ALL);
            if let Some(of) = trees.into_iter().find(|of| record::unseal(*of, &key, &value).is_ok()) {
                tree = Some(of);
                proved.insert(key, spot);
            }
        }
        self.rows = proved;
        Ok((tree, self))
    }
}

/// Which segments there are, in the order in which they were written, and where the log ends.
struct Survey {
    segments: Vec<Segment>,
    /// Messages from this lsn on belong to a batch that is not all there.
    end: u64,
}

struct Segment {
    number: u64,
    at: u64,
}

impl Survey {
    fn of(log: &File) -> io::Result<Self> {
        let mut segments = Vec::new();
        let (mut tip, mut batches) = (0, Vec::new());
        let mut buf = Vec::new();
        let len = log.metadata()?.len();
        for at in (0..len).step_by(SEGMENT) {
            load(log, at, &mut buf)?;
            // Without its header it is the newest of the messages that say what it was.
            let number = header_number(&buf).or_else(|| messages(&buf, None).map(|m| m.number).max());
            let Some(number) = number else { continue };
            for message in messages(&buf, Some(number)) {
                tip = tip.max(message.lsn + (message.end - message.begin) as u64 - 1);
                if message.kind == BATCH_MANIFEST
                    && let Ok(last) = <[u8; 8]>::try_from(message.body(&buf))
                {
                    batches.push((message.lsn, u64::from_le_bytes(last)));
                }
            }
            segments.push(Segment { number, at });
        }
        segments.sort_unstable_by_key(|s| s.number);
        let torn = batches.into_iter().filter(|(_, last)| *last > tip).map(|(lsn, _)| lsn).min();
        Ok(Self { segments, end: torn.unwrap_or(u64::MAX) })
    }
}

/// Whether sled would find nothing in this log without its snapshot. It begins to read where the newest segment's
/// header says that all was stable; if that segment was freed meanwhile, it takes the log for empty, says nothing,
/// and writes over it.
pub(super) fn needs_snapshot(log: &File) -> io::Result<bool> {
    let mut numbers = BTreeSet::new();
    let mut stable = 0;
    let mut header = [0; SEGMENT_HEADER];
    for at in (0..(log.metadata()?.len() + 1).saturating_sub(SEGMENT_HEADER as u64)).step_by(SEGMENT) {
        log.read_exact_at(&mut header, at)?;
        if let Some(number) = header_number(&header) {
            numbers.insert(number);
            let lsn = i64::from_le_bytes(header[12..].try_into().expect("eight bytes")) ^ i64::MAX;
            stable = stable.max(u64::try_from(lsn).unwrap_or(0));
        }
    }
    Ok(!numbers.is_empty() && !numbers.contains(&(stable / SEGMENT as u64)))
}

/// The number that a segment's header tells, if the header is whole.
fn header_number(buf: &[u8]) -> Option<u64> {
    let header = buf.get(..SEGMENT_HEADER)?;
    let crc = u32::from_le_bytes(header[..4].try_into().ok()?) ^ u32::MAX;
    let lsn = i64::from_le_bytes(header[4..12].try_into().ok()?) ^ i64::MAX;
    let whole = crc32fast::hash(&header[4..]) == crc;
    u64::try_from(lsn).ok().filter(|_| whole).map(|lsn| lsn / SEGMENT as u64)
}

/// A message in a segment's bytes.
struct Message {
    kind: u8,
    page: u64,
    number: u64,
    lsn: u64,
    begin: usize,
    body: usize,
    end: usize,
}

impl Message {
    fn body<'b>(&self, buf: &'b [u8]) -> &'b [u8] {
        &buf[self.body..self.end]
    }
}

/// The messages of a segment, of this number if one is given. What is none is stepped over.
fn messages(buf: &[u8], number: Option<u64>) -> impl Iterator<Item = Message> {
    let mut at = SEGMENT_HEADER;
    std::iter::from_fn(move || {
        while at + RED_ZONE <= SEGMENT.min(buf.len() + RED_ZONE) && at < buf.len() {
            match message(buf, at, number) {
                Some(message) => {
                    // A cap fills the rest.
                    at = if message.kind == CAP { buf.len() } else { message.end };
                    return Some(message);
                }
                None => at += 1,
            }
        }
        None
    })
}

fn message(buf: &[u8], begin: usize, wanted: Option<u64>) -> Option<Message> {
    let kind = *buf.get(begin + 4)?;
    if !(1..=KIND_MAX).contains(&kind) {
        return None;
    }
    let mut cursor = Cursor { buf, at: begin + 5 };
    let len = cursor.length()?;
    let number = cursor.varint()?;
    if wanted.is_some_and(|wanted| wanted != number) {
        return None;
    }
    let page = cursor.varint()?;
    let body = cursor.at;
    let end = body.checked_add(len).filter(|end| *end <= buf.len())?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&buf[body..end]);
    crc.update(&buf[begin + 4..body]);
    let stands = u32::from_le_bytes(buf[begin..begin + 4].try_into().ok()?);
    if crc.finalize() ^ u32::MAX != stands {
        return None;
    }
    let lsn = number.checked_mul(SEGMENT as u64)?.checked_add(begin as u64)?;
    Some(Message { kind, page, number, lsn, begin, body, end })
}

/// What a message does to the pages. `at` is where its segment begins in the file.
fn apply(pages: &mut HashMap<u64, Page>, message: &Message, at: u64, buf: &[u8]) {
    let spot = |(from, to): (usize, usize)| Spot {
        lsn: message.lsn,
        at: at + from as u64,
        len: u32::try_from(to - from).expect("a segment is smaller"),
    };
    match message.kind {
        FREE => {
            pages.remove(&message.page);
        }
        INLINE_NODE => {
            pages.remove(&message.page);
            if let Some((page, places)) = leaf(buf, message) {
                let rows = places.into_iter().map(|(key, place)| (key, spot(place))).collect();
                pages.insert(message.page, Page { rows, ..page });
            }
        }
        INLINE_LINK => {
            let Some(page) = pages.get_mut(&message.page) else { return };
            match link(buf, message) {
                Some(Link::Set(key, place)) => {
                    page.rows.insert([page.prefix(), key].concat(), spot(place));
                }
                Some(Link::Del(key)) => {
                    page.rows.remove(&[page.prefix(), key].concat());
                }
                None => {}
            }
        }
        _ => {}
    }
}

type Places = Vec<(Vec<u8>, (usize, usize))>;

/// A leaf, and where its values stand in the segment; `None` for an index page.
fn leaf(buf: &[u8], message: &Message) -> Option<(Page, Places)> {
    let mut cursor = Cursor { buf: &buf[..message.end], at: message.body };
    cursor.varint()?; // the next page
    cursor.varint()?; // a page that is being merged in
    cursor.byte()?; // whether it is being merged away
    let prefix_len = usize::from(cursor.byte()?);
    let lo = cursor.bytes()?.to_vec();
    let hi = cursor.bytes()?.to_vec();
    let prefix = lo.get(..prefix_len)?;
    if cursor.byte()? != 0 {
        return None;
    }
    let count = cursor.length()?;
    // Each key takes a byte at least: a count that is a lie allocates nothing.
    let mut keys = Vec::with_capacity(count.min(buf.len()));
    for _ in 0..count {
        keys.push([prefix, cursor.bytes()?].concat());
    }
    let mut places = Vec::with_capacity(keys.len());
    for key in keys {
        let len = cursor.bytes()?.len();
        places.push((key, (cursor.at - len, cursor.at)));
    }
    Some((Page { lsn: message.lsn, prefix_len, lo, hi, rows: BTreeMap::new() }, places))
}

enum Link<'b> {
    Set(&'b [u8], (usize, usize)),
    Del(&'b [u8]),
}

/// A change to a leaf; `None` for one to an index page.
fn link<'b>(buf: &'b [u8], message: &Message) -> Option<Link<'b>> {
    let mut cursor = Cursor { buf: &buf[..message.end], at: message.body };
    match cursor.byte()? {
        0 => {
            let key = cursor.bytes()?;
            let len = cursor.bytes()?.len();
            Some(Link::Set(key, (cursor.at - len, cursor.at)))
        }
        1 => Some(Link::Del(cursor.bytes()?)),
        _ => None,
    }
}

/// Reads sled's numbers and byte strings.
struct Cursor<'b> {
    buf: &'b [u8],
    at: usize,
}

impl<'b> Cursor<'b> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.buf.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn take(&mut self, len: usize) -> Option<&'b [u8]> {
        let taken = self.buf.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(taken)
    }

    /// One byte up to 240, then two to nine.
    fn varint(&mut self) -> Option<u64> {
        let first = self.byte()?;
        match first {
            0..=240 => Some(u64::from(first)),
            241..=248 => Some(240 + 256 * (u64::from(first) - 241) + u64::from(self.byte()?)),
            249 => Some(2288 + 256 * u64::from(self.byte()?) + u64::from(self.byte()?)),
            250..=255 => {
                let mut wide = [0; 8];
                let len = usize::from(first) - 247;
                wide[..len].copy_from_slice(self.take(len)?);
                Some(u64::from_le_bytes(wide))
            }
        }
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(self.varint()?).ok()
    }

    fn bytes(&mut self) -> Option<&'b [u8]> {
        let len = self.length()?;
        self.take(len)
    }
}

/// A segment's bytes, fewer at the end of the file. What the disk cannot read is empty.
fn load(log: &File, at: u64, buf: &mut Vec<u8>) -> io::Result<()> {
    buf.resize(SEGMENT, 0);
    let mut have = 0;
    while have < SEGMENT {
        match log.read_at(&mut buf[have..], at + have as u64) {
            Ok(0) => break,
            Ok(read) => have += read,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) if why.kind() == io::ErrorKind::PermissionDenied => return Err(why),
            Err(why) => {
                tracing::warn!(name: "salvage_stretch_unreadable", reason = %why, at, "a stretch of the damaged store cannot be read");
                break;
            }
        }
    }
    buf.truncate(have);
    Ok(())
}

fn value_at(log: &File, spot: &Spot) -> io::Result<Vec<u8>> {
    let mut value = vec![0; spot.len as usize];
    log.read_exact_at(&mut value, spot.at)?;
    Ok(value)
}

/// What writes `rows` into an empty store, `at_most` of them: the first at or behind `from`.
pub(super) fn writes(
    log: &File,
    rows: &Carved,
    from: &(Tree, Vec<u8>),
    at_most: usize,
) -> io::Result<Changes> {
    let chosen = rows.rows.range(from.clone()..).take(at_most);
    chosen.map(|(place, spot)| Ok((place.clone(), Some(value_at(log, spot)?)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sled::Disk;

    #[test]
    fn a_sound_log_holds_exactly_the_rows_that_sled_shows() {
        for seed in 0..6 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("queue");
            work(&path, seed);
            let shown = shown(&path);
            assert!(shown.len() > 50, "seed {seed}: only {} rows", shown.len());
            assert_eq!(carved(&path), shown, "seed {seed}");
        }
    }

    #[test]
    fn a_log_that_sled_would_take_for_empty_is_told() {
        let header = |number: usize, stable: usize| {
            let numbers =
                [number * SEGMENT, stable].map(|lsn| (lsn as i64 ^ i64::MAX).to_le_bytes()).concat();
            let crc = crc32fast::hash(&numbers) ^ u32::MAX;
            [crc.to_le_bytes().to_vec(), numbers].concat()
        };
        let dir = tempfile::tempdir().unwrap();
        let needs = |segments: &[Vec<u8>]| {
            let padded = segments.iter().map(|header| {
                let mut segment = header.clone();
                segment.resize(SEGMENT, 0);
                segment
            });
            let path = dir.path().join("db");
            std::fs::write(&path, padded.collect::<Vec<_>>().concat()).unwrap();
            needs_snapshot(&File::open(path).unwrap()).unwrap()
        };
        assert!(!needs(&[]));
        assert!(!needs(&[vec![0; 20]]));
        assert!(!needs(&[header(0, 0)]));
        assert!(!needs(&[header(18, 18 * SEGMENT - 1), vec![0; 20], header(17, 17 * SEGMENT - 1)]));
        // Segment 17 was freed after 18 was begun.
        assert!(needs(&[header(18, 18 * SEGMENT - 1)]));
        assert!(needs(&[header(18, 18 * SEGMENT - 1), vec![0; 20], header(3, 3 * SEGMENT - 1)]));
    }

    #[test]
    fn whatever_is_overwritten_the_rest_is_read_and_nothing_is_made_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("queue");
        work(&path, 1);
        let (shown, ever) = (shown(&path), carved(&path));
        let whole = std::fs::read(path.join("db")).unwrap();
        let mut dice = fastrand::Rng::with_seed(7);
        let mut kept = 0;
        for round in 0..30 {
            let mut torn = whole.clone();
            let at = dice.usize(..torn.len());
            let len = dice.usize(1..SEGMENT / 2).min(torn.len() - at);
            match round % 3 {
                0 => torn[at..at + len].fill(0),
                1 => torn[at..at + len].fill_with(|| dice.u8(..)),
                _ => torn.truncate(at),
            }
            std::fs::write(path.join("db"), &torn).unwrap();
            let found = carved(&path);
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
            disk.commit(&(0..ROWS).map(row).collect()).unwrap();
            disk.sync().unwrap();
        }
        disk.close().unwrap();
        let whole = std::fs::read(path.join("db")).unwrap();
        let end = whole.iter().rposition(|byte| *byte != 0).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for cut in (end / 2..end).step_by(1009) {
            std::fs::write(path.join("db"), &whole[..cut]).unwrap();
            let mut of_batch = BTreeMap::<u64, u64>::new();
            for (_, key) in carved(&path).keys() {
                let n = u64::from_be_bytes(key.as_slice().try_into().unwrap());
                *of_batch.entry(n % 1000).or_default() += 1;
            }
            assert!(of_batch.values().all(|rows| *rows == ROWS), "cut at {cut}: {of_batch:?}");
            seen.insert(of_batch.len());
        }
        assert!(seen.len() > 5, "{seen:?}");
    }

    type Rows = BTreeMap<(Tree, Vec<u8>), Vec<u8>>;

    /// Rows come, change and go, for some megabytes, over several restarts.
    fn work(path: &std::path::Path, seed: u64) {
        let mut dice = fastrand::Rng::with_seed(seed);
        for _ in 0..3 {
            let disk = Disk::open(path).unwrap();
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
                disk.commit(&changes).unwrap();
            }
            disk.sync().unwrap();
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
        rows
    }

    fn carved(path: &std::path::Path) -> Rows {
        let log = File::open(path.join("db")).unwrap();
        let carved = Carved::read(&log).unwrap();
        writes(&log, &carved, &(Tree::Pending, vec![]), usize::MAX)
            .unwrap()
            .into_iter()
            .map(|(place, value)| (place, value.unwrap()))
            .collect()
    }
}
