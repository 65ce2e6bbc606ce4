//! What the store promises to those who use it, through its public interface, on a real disk.

#![expect(clippy::unwrap_used, reason = "helpers of tests, where a panic is the report")]

#[path = "common/pending.rs"]
mod pending;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use freeswitch_zammad::cti::cause::Cause;
use freeswitch_zammad::cti::event::What;
use freeswitch_zammad::store::{
    Accepting, Counts, Dead, Delivered, KEY_MAX, Limits, Pending, STATE_MAX, Seq, Settle, StateChange, Store,
    StoreError, Trimmed,
};
use freeswitch_zammad::time::UnixMillis;
use proptest::prelude::*;

#[tokio::test]
async fn accepted_events_survive_in_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let events: Vec<_> = (1..=40).map(event).collect();
    for group in events.chunks(7) {
        accept(&store, group).await;
    }
    let before = store.pending_from(Seq(0), 100).unwrap();
    assert_eq!(before.iter().map(|(_, p)| p.clone()).collect::<Vec<_>>(), events);
    assert!(before.is_sorted_by(|a, b| a.0 < b.0));
    drop(store);

    let store = open(dir.path());
    assert_eq!(store.pending_from(Seq(0), 100).unwrap(), before);
    assert_eq!(store.pending_from(before[10].0, 3).unwrap(), before[10..13]);
    assert_eq!(store.pending(before[10].0).unwrap().as_ref(), Some(&before[10].1));
    assert_eq!(store.oldest_pending().unwrap().as_ref(), Some(&before[0]));
    assert_eq!(store.counts(), Counts { pending: 40, dead: 0, delivered: 0 });
}

#[tokio::test]
async fn a_position_is_never_given_out_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = Seq(0);
    for n in 1..=5 {
        let store = open(dir.path());
        let seq = accept(&store, &[event(n)]).await[0].unwrap();
        assert!(seq > last, "{seq} after {last}");
        store.settle(vec![Settle::Removed { seq }]).await.unwrap();
        assert_eq!(store.counts(), Counts::default());
        store.close().await.unwrap();
        last = seq;
    }
}

#[tokio::test]
async fn an_event_is_queued_once_as_long_as_it_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(accept(&store, &[event(1), event(1), event(2)]).await, [Some(Seq(1)), None, Some(Seq(2))]);
    let twice = Accepting { events: vec![event(1)], state: vec![change("call", Some(b"after"))] };
    assert_eq!(store.accept(twice).await.unwrap(), [None], "pending");
    assert_eq!(
        store.state().unwrap(),
        [("call".to_owned(), b"after".to_vec())],
        "its state counts all the same"
    );

    store.settle(vec![delivered(1, 10), dead(2, 10)]).await.unwrap();
    assert_eq!(accept(&store, &[event(1), event(2)]).await, [None, None], "delivered and dead");
    drop(store);
    let store = open(dir.path());
    assert_eq!(accept(&store, &[event(1), event(2)]).await, [None, None], "after a restart");

    store.settle(vec![Settle::Removed { seq: Seq(1) }, Settle::Removed { seq: Seq(2) }]).await.unwrap();
    assert_eq!(accept(&store, &[event(1), event(2)]).await, [Some(Seq(3)), Some(Seq(4))], "forgotten");
}

#[tokio::test]
async fn callers_at_once_each_get_their_own_answer() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..600 {
        let store = store.clone();
        callers.spawn(async move { (n % 300, accept(&store, &[event(n % 300)]).await[0]) });
    }
    let mut seqs = BTreeMap::new();
    for (n, seq) in callers.join_all().await {
        if let Some(seq) = seq {
            assert_eq!(seqs.insert(n, seq), None, "event {n} was queued twice");
            assert_eq!(store.pending(seq).unwrap(), Some(event(n)));
        }
    }
    assert_eq!(seqs.len(), 300);
    assert_eq!(store.counts().pending, 300);
}

#[tokio::test]
async fn what_cannot_be_written_in_place_is_written_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    // This runtime has no other thread.
    let seqs = store.accept_in_place(Accepting { events: vec![event(1)], state: vec![] }).await;
    assert_eq!(seqs.unwrap(), [Some(Seq(1))]);
}

#[tokio::test]
async fn settled_events_move() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    accept(&store, &[event(1), event(2), event(3), event(4)]).await;
    let noted = Settle::Delivered { seq: Seq(1), at: UnixMillis(50), note: Some("late".into()) };
    store.settle(vec![noted, dead(2, 51), Settle::Removed { seq: Seq(3) }]).await.unwrap();
    // What is no longer pending, or never was, is left alone.
    store.settle(vec![dead(1, 60), delivered(2, 60), delivered(3, 60), delivered(99, 60)]).await.unwrap();
    drop(store);

    let store = open(dir.path());
    assert_eq!(store.counts(), Counts { pending: 1, dead: 1, delivered: 1 });
    assert_eq!(store.oldest_pending().unwrap(), Some((Seq(4), event(4))));
    let kept = Delivered { pending: event(1), delivered: UnixMillis(50), note: Some("late".into()) };
    assert_eq!(store.delivered_from(Seq(0), 9).unwrap(), [(Seq(1), kept)]);
    let kept = Dead { pending: event(2), died: UnixMillis(51), story: "refused".into() };
    assert_eq!(store.dead_from(Seq(0), 9).unwrap(), [(Seq(2), kept)]);
}

#[tokio::test]
async fn an_attempt_is_remembered_and_survives_revival() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    accept(&store, &[event(1)]).await;
    store.settle(vec![Settle::Attempt { seq: Seq(1), at: UnixMillis(70) }]).await.unwrap();
    drop(store);
    let store = open(dir.path());
    let begun = Pending { attempt: Some(UnixMillis(70)), ..event(1) };
    assert_eq!(store.pending(Seq(1)).unwrap(), Some(begun.clone()));
    store.settle(vec![dead(1, 80)]).await.unwrap();
    assert_eq!(store.revive(vec![Seq(1)]).await.unwrap(), [(Seq(2), begun)]);
}

#[tokio::test]
async fn the_revived_go_to_the_end_in_their_old_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    accept(&store, &[event(1), event(2), event(3), event(4)]).await;
    store.settle(vec![dead(3, 5), delivered(2, 5), dead(1, 5)]).await.unwrap();
    let asked = [3, 1, 2, 3, 4, 77].map(Seq).to_vec();
    let revived = store.revive(asked).await.unwrap();
    // What had been delivered says so: Zammad may still have it.
    let restored = Pending { restored: true, ..event(2) };
    assert_eq!(revived, [(Seq(5), event(1)), (Seq(6), restored), (Seq(7), event(3))]);
    assert_eq!(store.counts(), Counts { pending: 4, dead: 0, delivered: 0 });
    assert_eq!(accept(&store, &[event(1), event(2), event(3)]).await, [None; 3], "still the same events");
    drop(store);
    let store = open(dir.path());
    let order: Vec<_> = store.pending_from(Seq(0), 9).unwrap().into_iter().map(|(seq, _)| seq.0).collect();
    assert_eq!(order, [4, 5, 6, 7]);
}

#[tokio::test]
async fn state_is_kept_replaced_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let large: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
    // Keys that begin another, and one that looks like another's second piece.
    let names = ["a", "a\0", "a\0\0", "a\0\u{1}", "ab", "", "b"];
    let put = names.map(|name| change(name, Some(&large)));
    store.accept(Accepting { events: vec![], state: put.to_vec() }).await.unwrap();
    let mut expected: BTreeMap<String, Vec<u8>> = names.map(|n| (n.to_owned(), large.clone())).into();
    assert_eq!(store.state().unwrap(), expected.clone().into_iter().collect::<Vec<_>>());

    let then =
        vec![change("a", Some(b"short")), change("ab", None), change("b", Some(b"")), change("no", None)];
    store.accept(Accepting { events: vec![], state: then }).await.unwrap();
    expected.insert("a".into(), b"short".to_vec());
    expected.remove("ab");
    expected.insert("b".into(), vec![]);
    drop(store);
    assert_eq!(open(dir.path()).state().unwrap(), expected.into_iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn of_two_values_given_at_once_the_last_counts() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let large = vec![7; 30_000];
    let twice = vec![
        change("a", Some(&large)),
        change("a", Some(b"short")),
        change("b", Some(&large)),
        change("b", None),
        change("c", None),
        change("c", Some(&large)),
    ];
    store.accept(Accepting { events: vec![], state: twice }).await.unwrap();
    assert_eq!(store.state().unwrap(), [("a".to_owned(), b"short".to_vec()), ("c".to_owned(), large)]);
}

#[tokio::test]
async fn what_is_too_large_is_refused_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let id = Pending { id: "i".repeat(KEY_MAX + 1), ..event(1) };
    let name = Pending { zammad: "z".repeat(5000), ..event(1) };
    for events in [vec![event(2), id], vec![event(2), name]] {
        let refused = store.accept(Accepting { events, state: vec![] }).await;
        assert!(matches!(refused, Err(StoreError::TooLarge { .. })), "{refused:?}");
    }
    let state = vec![change("call", Some(&vec![0; STATE_MAX + 1]))];
    let refused = store.accept(Accepting { events: vec![event(2)], state }).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })), "{refused:?}");
    assert_eq!(store.counts(), Counts::default());
    let state = vec![change(&"k".repeat(KEY_MAX), Some(&vec![0; STATE_MAX]))];
    store.accept(Accepting { events: vec![], state }).await.unwrap();
}

#[tokio::test]
async fn a_group_larger_than_sleds_segments_is_accepted_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let events: Vec<_> = (0..5000).map(event).collect();
    accept(&store, &events).await;
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.pending_from(Seq(0), 9999).unwrap().len(), 5000);
    assert!(store.disk_bytes().unwrap() > 512 * 1024);
}

#[tokio::test]
async fn the_past_is_trimmed_by_number_and_by_age_oldest_first() {
    let dir = tempfile::tempdir().unwrap();
    let minute = Duration::from_secs(60);
    let limits = Limits {
        delivered_max: 3,
        delivered_age: minute,
        dead_max: 2,
        dead_age: minute,
        swap_bytes: u64::MAX,
        together_above: 2,
    };
    let store = Store::open(dir.path(), limits).unwrap();
    accept(&store, &(1..=8).map(event).collect::<Vec<_>>()).await;
    for n in 1..=4 {
        store.settle(vec![delivered(n, n)]).await.unwrap();
        store.settle(vec![dead(n + 4, n)]).await.unwrap();
    }
    store.trim(UnixMillis(4)).await.unwrap();
    assert_eq!(store.counts(), Counts { pending: 0, dead: 2, delivered: 3 });
    assert_eq!(store.trimmed(), Trimmed { delivered: 1, dead: 2 });
    assert_eq!(store.delivered_from(Seq(0), 9).unwrap()[0].0, Seq(2));
    assert_eq!(store.dead_from(Seq(0), 9).unwrap()[0].0, Seq(7));

    store.trim(UnixMillis(3).after(minute)).await.unwrap();
    assert_eq!(
        store.counts(),
        Counts { pending: 0, dead: 2, delivered: 2 },
        "exactly a minute is not over it"
    );
    store.trim(UnixMillis(5).after(minute)).await.unwrap();
    assert_eq!(store.counts(), Counts::default());
    assert_eq!(store.trimmed(), Trimmed { delivered: 4, dead: 4 });
    assert_eq!(accept(&store, &[event(1)]).await, [Some(Seq(9))], "its identity went with it");
}

#[tokio::test]
async fn the_directory_is_free_when_close_returns() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..30 {
        let store = open(dir.path());
        let other = store.clone();
        accept(&store, &(n * 50..(n + 1) * 50).map(event).collect::<Vec<_>>()).await;
        store.close().await.unwrap();
        assert!(matches!(other.pending_from(Seq(0), 1), Err(StoreError::Closed)));
        assert!(matches!(other.accept(Accepting::default()).await, Err(StoreError::Closed)));
        assert!(matches!(other.close().await, Err(StoreError::Closed)));
    }
}

#[tokio::test]
async fn a_second_opener_is_told_who_holds_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(dir.path());
    let refused = Store::open(dir.path(), limits()).unwrap_err();
    assert!(matches!(refused, StoreError::Locked { .. }), "{refused}");
    assert!(!refused.is_permanent());
    assert!(refused.to_string().contains("in use by another process"), "{refused}");
}

#[tokio::test]
async fn what_is_kept_stays_within_bounds_however_quickly_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), Limits { delivered_max: 4, ..limits() }).unwrap();
    let events: Vec<_> = (0..1500).map(event).collect();
    let seqs: Vec<Seq> = accept(&store, &events).await.into_iter().flatten().collect();
    for some in seqs.chunks(500) {
        store.settle(some.iter().map(|seq| delivered(seq.0, 1)).collect()).await.unwrap();
        // Those that were just settled stay for the next.
        assert!(store.counts().delivered <= 504, "{:?}", store.counts());
    }
    assert_eq!(store.delivered_from(Seq(0), 9999).unwrap().len() as u64, store.counts().delivered);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_newer_format_is_refused_and_nothing_touched() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    accept(&store, &[event(1)]).await;
    store.close().await.unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("FORMAT")).unwrap(), "3\n");
    fs::write(dir.path().join("FORMAT"), "7\n").unwrap();
    let before = everything_below(dir.path());
    assert!(before.len() >= 5, "{before:?}");
    let refused = Store::open(dir.path(), limits()).unwrap_err();
    assert!(matches!(refused, StoreError::NewerFormat { found: 7, known: 3, .. }), "{refused}");
    assert!(refused.is_permanent());
    assert_eq!(everything_below(dir.path()), before);
}

#[tokio::test]
async fn a_format_file_that_is_lost_or_garbled_is_made_anew_from_the_rows() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("FORMAT");
    let store = open(dir.path());
    accept(&store, &[event(1)]).await;
    store.close().await.unwrap();
    for garbled in ["", "one", "0", "-1", "1.5"] {
        fs::write(&file, garbled).unwrap();
        let store = open(dir.path());
        assert_eq!(store.counts().pending, 1, "{garbled:?}");
        store.close().await.unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "3\n");
    }
    fs::remove_file(&file).unwrap();
    open(dir.path()).close().await.unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "3\n");
}

#[test]
fn a_place_that_cannot_hold_a_store_is_not_writable() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let queue_is_file = dir.path().join("other");
    fs::create_dir(&queue_is_file).unwrap();
    fs::write(queue_is_file.join("queue"), "").unwrap();
    let (nowhere, too_long) = (Path::new("/proc/x/y"), dir.path().join("x".repeat(300)));
    for place in [&file, &file.join("below"), &queue_is_file, nowhere, &too_long] {
        let refused = Store::open(place, limits()).unwrap_err();
        assert!(matches!(refused, StoreError::NotWritable { .. }), "{}: {refused:?}", place.display());
        assert!(refused.is_permanent());
    }
}

#[test]
fn a_log_that_is_no_log_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    fs::write(dir.path().join("queue/conf"), "segment_size: 8\nuse_compression: false\nversion: 9.9\nvQÁ")
        .unwrap();
    let refused = Store::open(dir.path(), limits()).unwrap_err();
    assert!(matches!(refused, StoreError::Damaged { .. }), "{refused:?}");
}

#[cfg(unix)]
#[test]
fn a_new_directory_is_nobody_elses_business() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let state_dir = dir.path().join("var/lib/calls");
    drop(open(&state_dir));
    assert_eq!(fs::metadata(state_dir).unwrap().permissions().mode() & 0o777, 0o700);
}

/// One thing that is done to the store.
#[derive(Clone, Debug)]
enum Step {
    Accept(Vec<u64>),
    Deliver(u64),
    Bury(u64),
    Remove(u64),
    Revive(Vec<u64>),
    Reopen,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// The counts are kept, never counted: they must agree with the rows whatever was done.
    #[test]
    fn invariant_counts_and_identities_agree_with_the_rows(steps in prop::collection::vec(step(), 1..40)) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let few = Limits { delivered_max: 4, dead_max: 4, ..limits() };
            let mut store = Store::open(dir.path(), few.clone()).unwrap();
            let mut highest = Seq(0);
            for step in steps {
                let shown = format!("{step:?}");
                match step {
                    Step::Accept(ids) => {
                        let events: Vec<_> = ids.into_iter().map(event).collect();
                        let seqs = if events.len().is_multiple_of(2) {
                            accept(&store, &events).await
                        } else {
                            store.accept_in_place(Accepting { events, state: vec![] }).await.unwrap()
                        };
                        for seq in seqs {
                            assert!(seq.is_none_or(|seq| seq > highest), "{shown}");
                            highest = highest.max(seq.unwrap_or(highest));
                        }
                    }
                    Step::Deliver(seq) => store.settle(vec![delivered(seq, 1)]).await.unwrap(),
                    Step::Bury(seq) => store.settle(vec![dead(seq, 1)]).await.unwrap(),
                    Step::Remove(seq) => store.settle(vec![Settle::Removed { seq: Seq(seq) }]).await.unwrap(),
                    Step::Revive(seqs) => {
                        for (seq, _) in store.revive(seqs.into_iter().map(Seq).collect()).await.unwrap() {
                            assert!(seq > highest, "{shown}");
                            highest = seq;
                        }
                    }
                    Step::Reopen => {
                        store.close().await.unwrap();
                        store = Store::open(dir.path(), few.clone()).unwrap();
                    }
                }
                let pending = store.pending_from(Seq(0), 999).unwrap();
                let dead = store.dead_from(Seq(0), 999).unwrap();
                let delivered = store.delivered_from(Seq(0), 999).unwrap();
                let rows = [pending.len(), dead.len(), delivered.len()].map(|n| n as u64);
                let Counts { pending: p, dead: d, delivered: s } = store.counts();
                assert_eq!([p, d, s], rows, "{shown}");
                let mut ids: Vec<_> = pending.iter().map(|(_, p)| &p.id).collect();
                ids.extend(dead.iter().map(|(_, d)| &d.pending.id));
                ids.extend(delivered.iter().map(|(_, d)| &d.pending.id));
                ids.sort();
                assert!(ids.is_sorted_by(|a, b| a < b), "an event is there once: {shown}");
            }
        });
    }
}

fn step() -> impl Strategy<Value = Step> {
    let seq = || 1..30_u64;
    prop_oneof![
        3 => prop::collection::vec(0..20_u64, 0..5).prop_map(Step::Accept),
        2 => seq().prop_map(Step::Deliver),
        2 => seq().prop_map(Step::Bury),
        1 => seq().prop_map(Step::Remove),
        1 => prop::collection::vec(seq(), 0..6).prop_map(Step::Revive),
        1 => Just(Step::Reopen),
    ]
}

fn open(state_dir: &Path) -> Store {
    Store::open(state_dir, limits()).unwrap()
}

fn limits() -> Limits {
    let year = Duration::from_secs(365 * 86_400);
    Limits {
        delivered_max: 10_000,
        delivered_age: year,
        dead_max: 10_000,
        dead_age: year,
        swap_bytes: u64::MAX,
        together_above: 2,
    }
}

async fn accept(store: &Store, events: &[Pending]) -> Vec<Option<Seq>> {
    store.accept(Accepting { events: events.to_vec(), state: vec![] }).await.unwrap()
}

fn event(n: u64) -> Pending {
    let hangup = pending::pending(&format!("call-{n}"), What::Hangup { cause: Cause::NoAnswer });
    Pending { happened: UnixMillis(1_000 + n), answered: n.is_multiple_of(2), ..hangup }
}

fn delivered(seq: u64, at: u64) -> Settle {
    Settle::Delivered { seq: Seq(seq), at: UnixMillis(at), note: None }
}

fn dead(seq: u64, at: u64) -> Settle {
    Settle::Dead { seq: Seq(seq), at: UnixMillis(at), story: "refused".into() }
}

fn change(key: &str, value: Option<&[u8]>) -> StateChange {
    StateChange { key: key.into(), value: value.map(<[u8]>::to_vec) }
}

/// Each path below `dir` with its last change and, of files, what they hold.
fn everything_below(dir: &Path) -> BTreeMap<String, (SystemTime, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let holds = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
        for path in holds.chain([dir.clone()]) {
            let metadata = fs::metadata(&path).unwrap();
            let bytes = if metadata.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            if metadata.is_dir() && path != dir {
                dirs.push(path.clone());
            }
            found.insert(path.display().to_string(), (metadata.modified().unwrap(), bytes));
        }
    }
    found
}
