//! The stored shapes: what a row is on disk. The only types here that derive `Serialize` are private to this
//! file, so that a change of the types we think with never changes the disk by accident. Knows nothing of sled.
//!
//! A value is `crc32 ‖ payload`: four bytes, little endian, over the tree's name, a zero byte, the key and the
//! payload; so a torn value, or one that belongs to another row, is found out when it is read. A payload is
//! compact JSON, but for pieces of the tracker's state, which are opaque.
//!
//! Keys of `pending`, `dead` and `delivered` are a [`Seq`], eight bytes, big endian: their order is the queue's.
//! Keys of `state` are the name and a two-byte big-endian piece number, because a value may be larger than a row.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{Place, StoreError};
use super::sled::Tree;
use super::{Counts, Dead, Delivered, Pending, Seq};
use crate::cti::event::{CallId, Direction, Event, TEXT_MAX, What, cut};
use crate::time::UnixMillis;

/// Longest story or note that is kept, in characters. It may quote a web page that Zammad's proxy answered.
pub(super) const STORY_MAX: usize = 500;

/// Longest piece of a state value, in bytes.
pub(super) const PIECE_MAX: usize = 4 * 1024;

/// Something that is stored as one payload.
pub(super) trait Stored: Sized {
    /// The payload.
    fn encode(&self) -> Vec<u8>;
    /// Reads a payload; the error says what is wrong with it.
    fn decode(payload: &[u8]) -> Result<Self, String>;
}

/// What the store counts, kept in its own row so that no start has to scan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    /// The next position to give out.
    pub(super) next_seq: u64,
    pub(super) pending: u64,
    pub(super) dead: u64,
    pub(super) delivered: u64,
}

impl Ledger {
    pub(super) const fn counts(&self) -> Counts {
        Counts { pending: self.pending, dead: self.dead, delivered: self.delivered }
    }
}

/// The ledger's key in the tree `meta`.
pub(super) const LEDGER: &[u8] = b"ledger";

/// Where rows are still to be taken from ([`super::rest`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The directory that was set aside last, then older ones.
    pub(super) sources: Vec<Source>,
    /// The first row that is still to be taken in; `None`: nothing is.
    pub(super) next: Option<(Tree, u64)>,
}

/// A directory that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// Its name below the state directory.
    pub(super) dir: String,
    /// What stands before this place in it is not wanted any more.
    pub(super) from: (Tree, u64),
}

/// The mark's key in the tree `meta`.
pub(super) const REST: &[u8] = b"rest";

/// A value as it stands on disk.
pub(super) fn seal(tree: Tree, key: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(CRC_LEN + payload.len());
    value.extend_from_slice(&checksum(tree, key, payload).to_le_bytes());
    value.extend_from_slice(payload);
    value
}

/// The payload of a value that was read at `key` of `tree`.
pub(super) fn unseal<'v>(tree: Tree, key: &[u8], value: &'v [u8]) -> Result<&'v [u8], StoreError> {
    let (crc, payload) = value
        .split_first_chunk::<CRC_LEN>()
        .ok_or_else(|| damaged(tree, key, format!("{} bytes are no value", value.len())))?;
    if u32::from_le_bytes(*crc) != checksum(tree, key, payload) {
        return Err(damaged(tree, key, "its checksum does not match"));
    }
    Ok(payload)
}

/// Reads a sealed value.
pub(super) fn open<T: Stored>(tree: Tree, key: &[u8], value: &[u8]) -> Result<T, StoreError> {
    T::decode(unseal(tree, key, value)?).map_err(|reason| damaged(tree, key, reason))
}

/// The error for a row that cannot be read.
pub(super) fn damaged(tree: Tree, key: &[u8], reason: impl Into<String>) -> StoreError {
    let seq = match tree {
        Tree::Pending | Tree::Dead | Tree::Delivered => <[u8; 8]>::try_from(key).ok(),
        Tree::Ids | Tree::State | Tree::Meta => None,
    };
    let seq = seq.map(|k| Seq(u64::from_be_bytes(k)));
    let key = seq.map_or_else(|| key.escape_ascii().to_string(), |s| s.to_string());
    StoreError::Damaged { place: Place::Row { tree: tree.name(), key, seq }, reason: reason.into() }
}

/// The key of a row of the queue.
pub(super) fn seq_key(seq: Seq) -> [u8; 8] {
    seq.0.to_be_bytes()
}

/// Reads the key of a row of the queue.
pub(super) fn seq_of(tree: Tree, key: &[u8]) -> Result<Seq, StoreError> {
    let key = <[u8; 8]>::try_from(key).map_err(|_| damaged(tree, key, "its key is no position"))?;
    Ok(Seq(u64::from_be_bytes(key)))
}

/// The key of one piece of a state value.
pub(super) fn piece_key(name: &str, piece: u16) -> Vec<u8> {
    [name.as_bytes(), &piece.to_be_bytes()].concat()
}

/// Reads the key of a piece: the name and the piece's number.
pub(super) fn piece_of(key: &[u8]) -> Result<(&str, u16), StoreError> {
    let bad = || damaged(Tree::State, key, "its key is no name and piece");
    let (name, piece) = key.split_last_chunk::<2>().ok_or_else(bad)?;
    Ok((std::str::from_utf8(name).map_err(|_| bad())?, u16::from_be_bytes(*piece)))
}

impl Stored for Pending {
    fn encode(&self) -> Vec<u8> {
        json(&PendingRow::from(self))
    }

    fn decode(payload: &[u8]) -> Result<Self, String> {
        parse::<PendingRow>(payload)?.try_into()
    }
}

/// A pending event as one text, the same as in its row.
#[must_use]
pub fn payload(event: &Pending) -> String {
    String::from_utf8(event.encode()).expect("JSON is UTF-8")
}

/// What [`payload`] made.
///
/// # Errors
/// What is wrong with it; no word of what it says.
pub fn read_payload(text: &str) -> Result<Pending, String> {
    Pending::decode(text.as_bytes())
}

impl Stored for Dead {
    fn encode(&self) -> Vec<u8> {
        json(&DeadRow {
            pending: PendingRow::from(&self.pending),
            died: self.died.0,
            story: cut(&self.story, STORY_MAX).into(),
        })
    }

    fn decode(payload: &[u8]) -> Result<Self, String> {
        let DeadRow { pending, died, story } = parse(payload)?;
        Ok(Self { pending: pending.try_into()?, died: UnixMillis(died), story: story.into_owned() })
    }
}

impl Stored for Delivered {
    fn encode(&self) -> Vec<u8> {
        json(&DeliveredRow {
            pending: PendingRow::from(&self.pending),
            delivered: self.delivered.0,
            note: self.note.as_deref().map(|n| cut(n, STORY_MAX).into()),
        })
    }

    fn decode(payload: &[u8]) -> Result<Self, String> {
        let DeliveredRow { pending, delivered, note } = parse(payload)?;
        Ok(Self {
            pending: pending.try_into()?,
            delivered: UnixMillis(delivered),
            note: note.map(Cow::into_owned),
        })
    }
}

/// The identity of the event in a row that was read at `key` of `tree`, if it holds one and can be read.
pub(super) fn id_of(tree: Tree, key: &[u8], value: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Waiting {
        id: String,
    }
    #[derive(Deserialize)]
    struct Settled {
        pending: Waiting,
    }
    let payload = unseal(tree, key, value).ok()?;
    // As `encode` writes it, and an identity that needs no escapes: mostly that is all there is to do.
    let begins: &[u8] = match tree {
        Tree::Pending => br#"{"id":""#,
        Tree::Dead | Tree::Delivered => br#"{"pending":{"id":""#,
        Tree::Ids | Tree::State | Tree::Meta => return None,
    };
    let quick = payload.strip_prefix(begins).and_then(|rest| rest.split(|byte| *byte == b'"').next());
    if let Some(id) = quick.filter(|id| !id.contains(&b'\\')) {
        return String::from_utf8(id.to_vec()).ok();
    }
    match tree {
        Tree::Pending => parse::<Waiting>(payload).ok().map(|row| row.id),
        Tree::Dead | Tree::Delivered => parse::<Settled>(payload).ok().map(|row| row.pending.id),
        Tree::Ids | Tree::State | Tree::Meta => None,
    }
}

impl Stored for Seq {
    fn encode(&self) -> Vec<u8> {
        json(&self.0)
    }

    fn decode(payload: &[u8]) -> Result<Self, String> {
        parse(payload).map(Self)
    }
}

impl Stored for Ledger {
    fn encode(&self) -> Vec<u8> {
        let Self { next_seq, pending, dead, delivered } = *self;
        json(&LedgerRow { next_seq, pending, dead, delivered })
    }

    fn decode(payload: &[u8]) -> Result<Self, String> {
        let LedgerRow { next_seq, pending, dead, delivered } = parse(payload)?;
        Ok(Self { next_seq, pending, dead, delivered })
    }
}

impl Stored for Mark {
    fn encode(&self) -> Vec<u8> {
        let place = |(tree, seq): (Tree, u64)| PlaceRow { tree: tree.name().to_owned(), seq };
        let source = |source: &Source| SourceRow { dir: source.dir.clone(), from: place(source.from) };
        json(&MarkRow { sources: self.sources.iter().map(source).collect(), next: self.next.map(place) })
    }

    fn decode(payload: &[u8]) -> Result<Self, String> {
        let place = |PlaceRow { tree, seq }: PlaceRow| {
            let tree = Tree::ALL.into_iter().find(|known| known.name() == tree);
            tree.map(|tree| (tree, seq)).ok_or_else(|| "it names no tree".to_owned())
        };
        let MarkRow { sources, next } = parse(payload)?;
        let source = |SourceRow { dir, from }: SourceRow| Ok(Source { dir, from: place(from)? });
        Ok(Self {
            sources: sources.into_iter().map(source).collect::<Result<_, String>>()?,
            next: next.map(place).transpose()?,
        })
    }
}

const CRC_LEN: usize = 4;

fn checksum(tree: Tree, key: &[u8], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(tree.name().as_bytes());
    crc.update(&[0]);
    crc.update(key);
    crc.update(payload);
    crc.finalize()
}

#[derive(Serialize, Deserialize)]
struct PendingRow<'a> {
    id: Cow<'a, str>,
    zammad: Cow<'a, str>,
    switch: Cow<'a, str>,
    call: Cow<'a, str>,
    direction: DirectionRow,
    from: Cow<'a, str>,
    to: Cow<'a, str>,
    what: WhatRow<'a>,
    happened: u64,
    answered: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attempt: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    held: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    restored: bool,
}

#[derive(Serialize, Deserialize)]
struct DeadRow<'a> {
    pending: PendingRow<'a>,
    died: u64,
    story: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
struct DeliveredRow<'a> {
    pending: PendingRow<'a>,
    delivered: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
struct LedgerRow {
    next_seq: u64,
    pending: u64,
    dead: u64,
    delivered: u64,
}

#[derive(Serialize, Deserialize)]
struct MarkRow {
    sources: Vec<SourceRow>,
    next: Option<PlaceRow>,
}

#[derive(Serialize, Deserialize)]
struct SourceRow {
    dir: String,
    from: PlaceRow,
}

#[derive(Serialize, Deserialize)]
struct PlaceRow {
    tree: String,
    seq: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DirectionRow {
    In,
    Out,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WhatRow<'a> {
    NewCall {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<Cow<'a, str>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        queue: Option<Cow<'a, str>>,
    },
    Answer {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answering_number: Option<Cow<'a, str>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<Cow<'a, str>>,
    },
    Hangup {
        cause: Cow<'a, str>,
    },
}

impl<'a> From<&'a Pending> for PendingRow<'a> {
    fn from(pending: &'a Pending) -> Self {
        let Pending { id, zammad, switch, event, happened, answered, attempt, held, restored } = pending;
        // Longer text would not be sent either: Zammad holds no more.
        let text = |t: &'a String| Cow::from(cut(t, TEXT_MAX));
        Self {
            id: id.into(),
            zammad: zammad.into(),
            switch: switch.into(),
            call: event.call_id.as_str().into(),
            direction: match event.direction {
                Direction::In => DirectionRow::In,
                Direction::Out => DirectionRow::Out,
            },
            from: text(&event.from),
            to: text(&event.to),
            what: match &event.what {
                What::NewCall { user, queue } => {
                    WhatRow::NewCall { user: user.as_ref().map(text), queue: queue.as_ref().map(text) }
                }
                What::Answer { answering_number, user } => WhatRow::Answer {
                    answering_number: answering_number.as_ref().map(text),
                    user: user.as_ref().map(text),
                },
                What::Hangup { cause } => WhatRow::Hangup { cause: cause.as_str().into() },
            },
            happened: happened.0,
            answered: *answered,
            attempt: attempt.map(|at| at.0),
            held: *held,
            restored: *restored,
        }
    }
}

impl TryFrom<PendingRow<'_>> for Pending {
    type Error = String;

    fn try_from(row: PendingRow<'_>) -> Result<Self, String> {
        let owned = |text: Option<Cow<'_, str>>| text.map(Cow::into_owned);
        let what = match row.what {
            WhatRow::NewCall { user, queue } => What::NewCall { user: owned(user), queue: owned(queue) },
            WhatRow::Answer { answering_number, user } => {
                What::Answer { answering_number: owned(answering_number), user: owned(user) }
            }
            WhatRow::Hangup { cause } => {
                What::Hangup { cause: cause.parse().map_err(|_| "its cause is no CTI cause".to_owned())? }
            }
        };
        let direction = match row.direction {
            DirectionRow::In => Direction::In,
            DirectionRow::Out => Direction::Out,
        };
        Ok(Self {
            id: row.id.into_owned(),
            zammad: row.zammad.into_owned(),
            switch: row.switch.into_owned(),
            event: Event {
                call_id: CallId::new(&row.call),
                direction,
                from: row.from.into_owned(),
                to: row.to.into_owned(),
                what,
            },
            happened: UnixMillis(row.happened),
            answered: row.answered,
            attempt: row.attempt.map(UnixMillis),
            held: row.held,
            restored: row.restored,
        })
    }
}

fn json<T: Serialize>(row: &T) -> Vec<u8> {
    serde_json::to_vec(row).expect("rows of strings and numbers always serialize")
}

/// serde's message can quote what it read, and rows hold phone numbers: only the place is told.
fn parse<T: DeserializeOwned>(payload: &[u8]) -> Result<T, String> {
    serde_json::from_slice(payload).map_err(|e| format!("not the expected shape at byte {}", e.column()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cti::cause::Cause;

    proptest! {
        #[test]
        fn what_is_decoded_is_what_was_encoded(
            pending in pending(), at in any::<u64>(), story in text(STORY_MAX), note in text(STORY_MAX),
        ) {
            let at = UnixMillis(at);
            prop_assert_eq!(Pending::decode(&pending.encode()), Ok(pending.clone()));
            let dead = Dead { pending: pending.clone(), died: at, story };
            prop_assert_eq!(Dead::decode(&dead.encode()), Ok(dead));
            for note in [None, Some(note)] {
                let delivered = Delivered { pending: pending.clone(), delivered: at, note };
                prop_assert_eq!(Delivered::decode(&delivered.encode()), Ok(delivered));
            }
        }

        #[test]
        fn one_wrong_byte_or_another_place_is_found_out(
            payload in prop::collection::vec(any::<u8>(), 0..300), at in any::<prop::sample::Index>(),
            flip in 1..=u8::MAX,
        ) {
            let sealed = seal(Tree::Pending, b"here", &payload);
            prop_assert_eq!(unseal(Tree::Pending, b"here", &sealed).unwrap(), &payload);
            prop_assert!(unseal(Tree::Pending, b"there", &sealed).is_err());
            prop_assert!(unseal(Tree::Dead, b"here", &sealed).is_err());
            let mut torn = sealed.clone();
            *at.get_mut(&mut torn) ^= flip;
            prop_assert!(unseal(Tree::Pending, b"here", &torn).is_err());
            prop_assert!(unseal(Tree::Pending, b"here", &sealed[..at.index(sealed.len())]).is_err());
        }
    }

    #[test]
    fn a_pending_row_reads_as_it_did_in_format_1() {
        let stored = br#"{"id":"c1/newCall","zammad":"main","switch":"pbx","call":"c1","direction":"in","from":"4930123","to":"4940456","what":{"new_call":{"queue":"sales"}},"happened":17,"answered":false}"#;
        let event = Event {
            call_id: CallId::new("c1"),
            direction: Direction::In,
            from: "4930123".into(),
            to: "4940456".into(),
            what: What::NewCall { user: None, queue: Some("sales".into()) },
        };
        let pending = Pending {
            id: "c1/newCall".into(),
            zammad: "main".into(),
            switch: "pbx".into(),
            event,
            happened: UnixMillis(17),
            answered: false,
            attempt: None,
            held: false,
            restored: false,
        };
        assert_eq!(Pending::decode(stored), Ok(pending.clone()));
        assert_eq!(pending.encode(), stored);
    }

    #[test]
    fn an_error_tells_tree_and_key_and_quotes_no_number() {
        let key = seq_key(Seq(7));
        let value = seal(Tree::Pending, &key, br#"{"id":"a","happened":"4930123456"}"#);
        let error = open::<Pending>(Tree::Pending, &key, &value).unwrap_err().to_string();
        assert_eq!(error, "the store is damaged: row 7 of tree pending: not the expected shape at byte 33");
        let mut row = String::from_utf8(sample().encode()).unwrap();
        row = row.replace("\"busy\"", "\"4930123456\"");
        let value = seal(Tree::Pending, &key, row.as_bytes());
        let error = open::<Pending>(Tree::Pending, &key, &value).unwrap_err().to_string();
        assert_eq!(error, "the store is damaged: row 7 of tree pending: its cause is no CTI cause");
    }

    #[test]
    fn overlong_text_is_cut_to_what_is_sent() {
        let long = "ä".repeat(5000);
        let mut pending = sample();
        pending.event.from.clone_from(&long);
        let dead = Dead { pending, died: UnixMillis(1), story: long };
        let dead = Dead::decode(&dead.encode()).unwrap();
        assert_eq!(dead.pending.event.from.chars().count(), TEXT_MAX);
        assert_eq!(dead.story.chars().count(), STORY_MAX);
    }

    fn sample() -> Pending {
        let event = Event {
            call_id: CallId::new("c"),
            direction: Direction::Out,
            from: "12".into(),
            to: "4930123".into(),
            what: What::Hangup { cause: Cause::Busy },
        };
        Pending {
            id: "c/hangup".into(),
            zammad: "z".into(),
            switch: "s".into(),
            event,
            happened: UnixMillis(1),
            answered: true,
            attempt: Some(UnixMillis(2)),
            held: false,
            restored: false,
        }
    }

    fn text(max: usize) -> impl Strategy<Value = String> {
        prop::collection::vec(any::<char>(), 0..=max).prop_map(String::from_iter)
    }

    fn pending() -> impl Strategy<Value = Pending> {
        let short = || text(TEXT_MAX);
        let maybe = || prop::option::of(text(TEXT_MAX));
        let what = prop_oneof![
            (maybe(), maybe()).prop_map(|(user, queue)| What::NewCall { user, queue }),
            (maybe(), maybe()).prop_map(|(answering_number, user)| What::Answer { answering_number, user }),
            prop::sample::select(Cause::ALL.to_vec()).prop_map(|cause| What::Hangup { cause }),
        ];
        let direction = prop::sample::select(vec![Direction::In, Direction::Out]);
        let event =
            (short(), direction, short(), short(), what).prop_map(|(call, direction, from, to, what)| {
                Event { call_id: CallId::new(&call), direction, from, to, what }
            });
        (short(), short(), short(), event, any::<u64>(), any::<[bool; 3]>(), any::<Option<u64>>()).prop_map(
            |(id, zammad, switch, event, happened, [answered, held, restored], attempt)| Pending {
                id,
                zammad,
                switch,
                event,
                happened: UnixMillis(happened),
                answered,
                attempt: attempt.map(UnixMillis),
                held,
                restored,
            },
        )
    }
}
