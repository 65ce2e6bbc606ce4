//! sled's log file as bytes: its segments, the messages in them, and what a message says of a page.
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
//!
//! Nothing that is read is trusted: what does not bear its checksum is stepped over, and no length is believed.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Bytes in a segment: sled's default, which we leave alone.
pub(super) const SEGMENT: usize = 512 * 1024;
const SEGMENT_HEADER: usize = 20;
/// No message begins in the last bytes of a segment.
const RED_ZONE: usize = 32;

pub(super) const BATCH_MANIFEST: u8 = 3;
const CAP: u8 = 2;
pub(super) const FREE: u8 = 4;
pub(super) const INLINE_NODE: u8 = 8;
pub(super) const INLINE_LINK: u8 = 10;
const KIND_MAX: u8 = 11;

/// Whether sled would find nothing in this log with a snapshot of this lsn, 0 for none. It begins to read where the
/// newest segment's header says that all was stable; if that segment was freed meanwhile, it takes the log for empty,
/// says nothing, and writes over it. A snapshot behind that segment tells it to begin there.
pub(super) fn needs_newer_snapshot(log: &File, lsn: u64) -> io::Result<bool> {
    let first = lsn / SEGMENT as u64;
    let mut numbers = BTreeSet::new();
    let mut stable = 0;
    let mut header = [0; SEGMENT_HEADER];
    for at in (0..(log.metadata()?.len() + 1).saturating_sub(SEGMENT_HEADER as u64)).step_by(SEGMENT) {
        log.read_exact_at(&mut header, at)?;
        if let Some(number) = header_number(&header).filter(|number| *number >= first) {
            numbers.insert(number);
            let lsn = i64::from_le_bytes(header[12..].try_into().expect("eight bytes")) ^ i64::MAX;
            stable = stable.max(u64::try_from(lsn).unwrap_or(0));
        }
    }
    let begins = stable / SEGMENT as u64;
    Ok(!numbers.is_empty() && begins >= first && !numbers.contains(&begins))
}

/// The number that a segment's header tells, if the header is whole.
pub(super) fn header_number(buf: &[u8]) -> Option<u64> {
    let header = buf.get(..SEGMENT_HEADER)?;
    let crc = u32::from_le_bytes(header[..4].try_into().ok()?) ^ u32::MAX;
    let lsn = i64::from_le_bytes(header[4..12].try_into().ok()?) ^ i64::MAX;
    let whole = crc32fast::hash(&header[4..]) == crc;
    u64::try_from(lsn).ok().filter(|_| whole).map(|lsn| lsn / SEGMENT as u64)
}

/// A message in a segment's bytes.
pub(super) struct Message {
    pub(super) kind: u8,
    pub(super) page: u64,
    pub(super) number: u64,
    pub(super) lsn: u64,
    /// Where in the segment it begins, where its body does, and where it ends.
    pub(super) begin: usize,
    pub(super) body: usize,
    pub(super) end: usize,
}

impl Message {
    pub(super) fn body<'b>(&self, buf: &'b [u8]) -> &'b [u8] {
        &buf[self.body..self.end]
    }
}

/// The messages of a segment, of this number if one is given. What is none is stepped over.
pub(super) fn messages(buf: &[u8], number: Option<u64>) -> impl Iterator<Item = Message> {
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

/// The message that begins there. Its lsn is true if the bytes are those of a segment from its beginning on.
pub(super) fn message(buf: &[u8], begin: usize, wanted: Option<u64>) -> Option<Message> {
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

/// A leaf as its message tells it.
pub(super) struct Leaf {
    /// The first key that belongs to it.
    pub(super) lo: Vec<u8>,
    /// The first one behind it that does not; empty: to the end.
    pub(super) hi: Vec<u8>,
    prefix_len: usize,
    /// Its keys, and where in the body their values stand.
    pub(super) places: Vec<(Vec<u8>, Range<usize>)>,
}

impl Leaf {
    /// What its keys begin with in the changes to it.
    pub(super) fn prefix(&self) -> &[u8] {
        &self.lo[..self.prefix_len]
    }

    /// From the body of an `InlineNode`; `None` for an index page.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let mut cursor = Cursor { buf: body, at: 0 };
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
        let mut keys = Vec::with_capacity(count.min(body.len()));
        for _ in 0..count {
            keys.push([prefix, cursor.bytes()?].concat());
        }
        let mut places = Vec::with_capacity(keys.len());
        for key in keys {
            let len = cursor.bytes()?.len();
            places.push((key, cursor.at - len..cursor.at));
        }
        Some(Self { lo, hi, prefix_len, places })
    }
}

/// A change to a leaf.
pub(super) enum Link<'b> {
    /// A key, without the leaf's prefix, and where in the body its value stands.
    Set(&'b [u8], Range<usize>),
    /// A key that is gone, without the leaf's prefix.
    Del(&'b [u8]),
}

impl<'b> Link<'b> {
    /// From the body of an `InlineLink`; `None` for a change to an index page.
    pub(super) fn read(body: &'b [u8]) -> Option<Self> {
        let mut cursor = Cursor { buf: body, at: 0 };
        match cursor.byte()? {
            0 => {
                let key = cursor.bytes()?;
                let len = cursor.bytes()?.len();
                Some(Self::Set(key, cursor.at - len..cursor.at))
            }
            1 => Some(Self::Del(cursor.bytes()?)),
            _ => None,
        }
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

/// So many bytes of a file, fewer at its end. They end where the disk cannot read.
pub(super) fn load(log: &File, at: u64, len: usize, buf: &mut Vec<u8>) -> io::Result<()> {
    buf.resize(len, 0);
    let mut have = 0;
    while have < len {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_sled_would_take_for_empty_is_told() {
        let header = |number: usize, stable: usize| {
            let numbers =
                [number * SEGMENT, stable].map(|lsn| (lsn as i64 ^ i64::MAX).to_le_bytes()).concat();
            let crc = crc32fast::hash(&numbers) ^ u32::MAX;
            [crc.to_le_bytes().to_vec(), numbers].concat()
        };
        let dir = tempfile::tempdir().unwrap();
        let with = |lsn: usize, segments: &[Vec<u8>]| {
            let padded = segments.iter().map(|header| {
                let mut segment = header.clone();
                segment.resize(SEGMENT, 0);
                segment
            });
            let path = dir.path().join("db");
            std::fs::write(&path, padded.collect::<Vec<_>>().concat()).unwrap();
            needs_newer_snapshot(&File::open(path).unwrap(), lsn as u64).unwrap()
        };
        let needs = |segments: &[Vec<u8>]| with(0, segments);
        assert!(!needs(&[]));
        assert!(!needs(&[vec![0; 20]]));
        assert!(!needs(&[header(0, 0)]));
        assert!(!needs(&[header(18, 18 * SEGMENT - 1), vec![0; 20], header(17, 17 * SEGMENT - 1)]));
        // Segment 17 was freed after 18 was begun.
        assert!(needs(&[header(18, 18 * SEGMENT - 1)]));
        let freed = [header(18, 18 * SEGMENT - 1), vec![0; 20], header(3, 3 * SEGMENT - 1)];
        assert!(needs(&freed));
        assert!(with(638, &freed) && with(17 * SEGMENT + 9, &freed));
        assert!(!with(18 * SEGMENT, &freed) && !with(18 * SEGMENT + 9, &freed));
        // Of what is behind the snapshot nothing was stable: it was never told to be there.
        assert!(!with(18 * SEGMENT, &[header(19, 18 * SEGMENT - 1)]));
    }
}
