//! Rows that lie together: several of ours in one of sled's.
//!
//! sled keeps some 290 bytes of memory for each page, and a leaf holds 8 to 16 rows, however small: a million events that
//! wait would take 60 MB of nothing but places. So where many wait ([`Limits::together_above`](super::Limits)), up to
//! [`ROWS_MAX`] neighbours lie in one value, a sheaf. With few each row is one of sled's: a sheaf is written whole for
//! each of its rows that changes.
//!
//! A sheaf stands under the key of its first row, and what lies in it comes before the next of sled's keys: so a row
//! stands under its own key, or in the sheaf that is next before it. Each row keeps its own checksum. What tells a sheaf
//! from a row is its beginning, which no sealed payload has.
//!
//! ```text
//! 0 0 0 0 ff │ length of the key (2), of the value (2), key, value │ the next …
//! ```

use std::collections::BTreeMap;
use std::ops::Range;

use super::sled::Row;

/// Most rows in a sheaf.
const ROWS_MAX: usize = 8;
/// Most bytes in a sheaf of more than one row: four events. A leaf of them stays well below what sled writes as one, and
/// sled keeps 256 leaves in memory, however large.
const BYTES_MAX: usize = 2 * 1024;

/// What no row begins with: a checksum, and then text.
const MARK: [u8; 5] = [0, 0, 0, 0, 0xff];
const LENGTHS: usize = 4;

/// So many waiting events are no backlog yet: they take less than a megabyte.
pub const TOGETHER_ABOVE: u64 = 10_000;

/// Whether new rows are to lie together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lay {
    Apart,
    Together,
}

impl Lay {
    /// Where so many events wait.
    pub(super) const fn of(waiting: u64, above: u64) -> Self {
        if waiting > above { Self::Together } else { Self::Apart }
    }
}

/// Where the keys and the values stand in a sheaf; `None` if it is none, but a row.
pub(super) fn places(value: &[u8]) -> Option<Vec<(Range<usize>, Range<usize>)>> {
    let mut at = value.starts_with(&MARK).then_some(MARK.len())?;
    let mut places = Vec::new();
    while at < value.len() {
        let lengths = value.get(at..at + LENGTHS)?;
        let length = |at: usize| usize::from(u16::from_le_bytes([lengths[at], lengths[at + 1]]));
        let key = at + LENGTHS..at + LENGTHS + length(0);
        let row = key.end..key.end + length(2);
        at = row.end;
        places.push((key, row));
    }
    (at == value.len()).then_some(places)
}

/// Whether it is a sheaf, and has rows at the key or behind it.
pub(super) fn reaches(value: &[u8], key: &[u8]) -> bool {
    places(value).and_then(|places| places.last().cloned()).is_some_and(|(last, _)| &value[last] >= key)
}

/// Our rows in one of sled's.
pub(super) fn rows<'r>(key: &'r [u8], value: &'r [u8]) -> Vec<(&'r [u8], &'r [u8])> {
    match places(value) {
        Some(places) => places.into_iter().map(|(key, row)| (&value[key], &value[row])).collect(),
        None => vec![(key, value)],
    }
}

/// What of sled's rows is written and removed so that `changes` are made. They are ordered, and all of them lie at or behind
/// the row `stands`, if there is one, and before the one that comes next.
pub(super) fn lay(
    stands: Option<(&[u8], &[u8])>,
    changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    lay: Lay,
) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let owned = |(key, value): (&[u8], &[u8])| (key.to_vec(), value.to_vec());
    let mut together: BTreeMap<Vec<u8>, Vec<u8>> =
        stands.into_iter().flat_map(|(key, value)| rows(key, value)).map(owned).collect();
    let last = together.last_key_value().map(|(key, _)| key.clone());
    let mut written = Vec::new();
    let mut between = false;
    for (key, value) in changes {
        let behind = last.as_ref().is_none_or(|last| key > *last);
        match value {
            Some(_) if behind && lay == Lay::Apart => written.push((key, value)),
            Some(value) => {
                between |= !behind && !together.contains_key(&key);
                together.insert(key, value);
            }
            None => drop(together.remove(&key)),
        }
    }
    // In the order in which they come whole sheaves are made; in between there will be more to come.
    let at_most = if between { even(together.len()) } else { ROWS_MAX };
    let mut before = stands;
    for sheaf in bound(together.into_iter().collect(), at_most) {
        let key = sheaf[0].0.clone();
        let value = value_of(sheaf);
        let in_its_place = before.take_if(|(stands, _)| *stands == key);
        if in_its_place.is_none_or(|(_, before)| before != value) {
            written.push((key, Some(value)));
        }
    }
    written.extend(before.map(|(key, _)| (key.to_vec(), None)));
    written
}

/// Rows in each of the fewest sheaves, so that none has much more than another.
fn even(rows: usize) -> usize {
    let sheaves = rows.div_ceil(ROWS_MAX).max(1);
    rows.div_ceil(sheaves)
}

fn bound(rows: Vec<Row>, at_most: usize) -> Vec<Vec<Row>> {
    let mut sheaves: Vec<Vec<Row>> = Vec::new();
    let mut bytes = 0;
    for row in rows {
        let size = LENGTHS + row.0.len() + row.1.len();
        match sheaves.last_mut().filter(|sheaf| sheaf.len() < at_most && bytes + size <= BYTES_MAX) {
            Some(sheaf) => sheaf.push(row),
            None => {
                sheaves.push(vec![row]);
                bytes = 0;
            }
        }
        bytes += size;
    }
    sheaves
}

fn value_of(mut sheaf: Vec<Row>) -> Vec<u8> {
    if sheaf.len() == 1 {
        return sheaf.remove(0).1;
    }
    let mut value = MARK.to_vec();
    for (key, row) in &sheaf {
        let length = |bytes: &[u8]| u16::try_from(bytes.len()).expect("a row is smaller").to_le_bytes();
        value.extend_from_slice(&length(key));
        value.extend_from_slice(&length(row));
        value.extend_from_slice(key);
        value.extend_from_slice(row);
    }
    value
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::sled::tests::as_it_lies;
    use crate::store::sled::{Changes, Disk, Recorded, Tree};

    /// A row's number, the length of its value or that it goes.
    type Change = (u8, Option<u16>);

    /// How changes come to be rows, and what happens to the directory then.
    #[derive(Clone, Copy, Debug)]
    enum Then {
        Written,
        Recorded,
        /// It is closed and opened.
        Reopened,
        /// Its process is killed, perhaps before what was recorded became rows.
        Killed {
            applied: bool,
        },
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn rows_are_what_was_written_however_they_lie(
            groups in prop::collection::vec((prop::collection::vec(change(), 1..30), any::<bool>(), then()), 1..30),
        ) {
            let mut dir = tempfile::tempdir().unwrap();
            let mut disk = Disk::open(dir.path()).unwrap();
            let mut rows = BTreeMap::new();
            for (group, together, then) in groups {
                let changes: Changes = group.into_iter().flat_map(change_of).collect();
                for (place, value) in &changes {
                    match value {
                        Some(value) => drop(rows.insert(place.clone(), value.clone())),
                        None => drop(rows.remove(place)),
                    }
                }
                let lay = if together { Lay::Together } else { Lay::Apart };
                match then {
                    Then::Written => disk.write(&changes, lay).and_then(|()| disk.sync()).unwrap(),
                    Then::Killed { applied: false } => drop(disk.record(&changes, lay).unwrap()),
                    Then::Recorded | Then::Reopened | Then::Killed { applied: true } => {
                        disk.record(&changes, lay).and_then(Recorded::apply).unwrap();
                    }
                }
                match then {
                    Then::Written | Then::Recorded => {}
                    Then::Reopened => {
                        disk.close().unwrap();
                        disk = Disk::open(dir.path()).unwrap();
                    }
                    Then::Killed { .. } => {
                        let found = tempfile::tempdir().unwrap();
                        as_it_lies(dir.path(), found.path());
                        disk.close().unwrap();
                        dir = found;
                        disk = Disk::open(dir.path()).unwrap();
                    }
                }
                shows(&disk, &rows);
            }
            disk.close().unwrap();
        }

        #[test]
        fn what_is_no_sheaf_is_a_row(value in prop::collection::vec(any::<u8>(), 0..60), mark in any::<bool>()) {
            let value = if mark { [&MARK, value.as_slice()].concat() } else { value };
            let read = rows(b"key", &value);
            let bytes: usize = read.iter().map(|(key, row)| LENGTHS + key.len() + row.len()).sum();
            prop_assert!(read == [(&b"key"[..], value.as_slice())] || MARK.len() + bytes == value.len());
        }
    }

    #[test]
    fn a_backlog_lies_eight_to_a_sheaf_and_one_that_is_new_later_stands_behind_it() {
        let row = |n: u8| (vec![n], Some(vec![n; 100]));
        let laid = lay(None, (1..=20).map(row).collect(), Lay::Together);
        let firsts: Vec<u8> = laid.iter().map(|(key, _)| key[0]).collect();
        assert_eq!(firsts, [1, 9, 17]);
        let (key, value) = laid[2].clone();
        let stands = Some((key.as_slice(), value.as_deref().unwrap()));
        assert_eq!(lay(stands, vec![row(21)], Lay::Apart), [row(21)]);
        let joined = lay(stands, vec![row(21)], Lay::Together);
        assert_eq!((joined.len(), &joined[0].0), (1, &key));
        assert_eq!(rows(&key, joined[0].1.as_deref().unwrap()).len(), 5);
    }

    #[test]
    fn a_sheaf_is_no_larger_than_sled_writes_well() {
        let row = |n: u8| (vec![n], Some(vec![n; 3000]));
        let laid = lay(None, (1..=20).map(row).collect(), Lay::Together);
        assert_eq!(laid, (1..=20).map(row).collect::<Vec<_>>());
    }

    fn then() -> impl Strategy<Value = Then> {
        prop_oneof![
            2 => Just(Then::Written),
            6 => Just(Then::Recorded),
            1 => Just(Then::Reopened),
            1 => any::<bool>().prop_map(|applied| Then::Killed { applied }),
        ]
    }

    fn change() -> impl Strategy<Value = Change> {
        let length = prop_oneof![Just(None), (0..200_u16).prop_map(Some), (0..3000_u16).prop_map(Some)];
        (0..60_u8, length)
    }

    /// In a tree whose rows are numbered, and in one of names.
    fn change_of((number, length): Change) -> Changes {
        let value = |tag: u8| length.map(|length| vec![tag; usize::from(length)]);
        let name = format!("{:x}/{number}", u32::from(number).wrapping_mul(0x9E37_79B9));
        Changes::from([
            ((Tree::Pending, u64::from(number).to_be_bytes().to_vec()), value(number)),
            ((Tree::Ids, name.into_bytes()), value(number)),
        ])
    }

    fn shows(disk: &Disk, rows: &BTreeMap<(Tree, Vec<u8>), Vec<u8>>) {
        for tree in [Tree::Pending, Tree::Ids] {
            let of = rows.iter().filter(|((of, _), _)| *of == tree);
            let all: Vec<Row> = of.map(|((_, key), value)| (key.clone(), value.clone())).collect();
            assert_eq!(disk.page(tree, &[], usize::MAX).unwrap(), all);
            for (at, (key, value)) in all.iter().enumerate() {
                assert_eq!(disk.get(tree, key).unwrap().as_ref(), Some(value));
                assert_eq!(disk.page(tree, key, 3).unwrap(), all[at..all.len().min(at + 3)]);
                let behind = [key.as_slice(), &[0]].concat();
                assert_eq!(disk.get(tree, &behind).unwrap(), None);
                assert_eq!(disk.page(tree, &behind, 1).unwrap(), all[at + 1..all.len().min(at + 2)]);
            }
            let backwards: Vec<Row> = all.iter().rev().take(5).cloned().collect();
            assert_eq!(disk.last(tree, 5).unwrap(), backwards);
        }
    }
}
