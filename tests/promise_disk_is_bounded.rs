//! The disk does not grow for ever: what a backlog took is given back when it is delivered, while the store is in
//! use, and nothing that is kept is lost over it.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

#[path = "common/pending.rs"]
mod pending;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use freeswitch_zammad::store::{Accepting, Limits, Pending, Seq, Settle, StateChange, Store};
use freeswitch_zammad::time::UnixMillis;

const MB: u64 = 1024 * 1024;
const SWAP: u64 = 3 * MB;
const KEPT: usize = 100;

/// What must hold whatever comes.
mod invariants {
    use super::*;

    #[tokio::test]
    async fn a_backlog_that_is_delivered_gives_its_space_back_again_and_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), limits()).unwrap();
        let mut sizes = Vec::new();
        for day in 0..3 {
            let ids = day * 10_000..day * 10_000 + 6_000;
            let seqs = accept(&store, ids.clone()).await;
            let large = size(dir.path());
            assert!(large > SWAP * 3 / 2, "a backlog of {large} bytes is not worth the test");
            deliver(&store, &seqs).await;
            shrunk(&store, dir.path()).await;
            sizes.push(size(dir.path()));

            // What is kept is there, in its order, and is still known.
            let kept = store.delivered_from(Seq(0), usize::MAX).unwrap();
            assert_eq!(kept.len(), KEPT);
            assert!(kept.is_sorted_by_key(|(seq, _)| *seq));
            let last = ids.end - 1;
            assert_eq!(accept(&store, last..last + 1).await, [], "a delivered event is new again");
            assert_eq!(store.state_value("calls").unwrap(), Some(b"going on".to_vec()));
        }
        assert!(sizes.iter().all(|size| *size < SWAP), "{sizes:?}");
        let before = store.delivered_from(Seq(0), usize::MAX).unwrap();
        store.close().await.unwrap();
        let store = Store::open(dir.path(), limits()).unwrap();
        assert_eq!(store.delivered_from(Seq(0), usize::MAX).unwrap(), before);
        assert_eq!(leftovers(dir.path()), BTreeSet::new());
    }

    #[tokio::test]
    async fn events_that_come_while_the_directory_is_made_anew_are_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), limits()).unwrap();
        // So that there is something to copy for a while.
        let family =
            |n: u64| StateChange { key: format!("family-{n}"), value: Some(n.to_be_bytes().to_vec()) };
        let families: Vec<StateChange> = (0..4_000).map(family).collect();
        store.accept(Accepting { events: vec![], state: families.clone() }).await.unwrap();
        let backlog = accept(&store, 0..6_000).await;
        deliver(&store, &backlog).await;
        // Trimmed until a copy is worth it.
        while store.counts().delivered > 1_000 {
            store.trim(UnixMillis(1)).await.unwrap();
        }
        assert!(store.disk_bytes().unwrap() > 2 * SWAP);
        // From here on it is copied, a slice after each of these.
        let (mut waiting, mut settled) = (Vec::new(), Vec::new());
        for n in 10_000.. {
            let seq = accept(&store, n..n + 1).await[0];
            match n % 3 {
                0 => waiting.push(seq),
                1 => {
                    deliver(&store, &[seq]).await;
                    settled.push(seq);
                }
                _ => store.settle(vec![Settle::Removed { seq }]).await.unwrap(),
            }
            // sled's file grows by half megabytes: a fresh one is about as large as may be, a third of what was there.
            if n > 10_100 && store.disk_bytes().unwrap() < 2 * SWAP {
                break;
            }
            assert!(n < 20_000, "it is never made anew while events come");
        }
        let pending = |store: &Store| {
            store
                .pending_from(Seq(0), usize::MAX)
                .unwrap()
                .into_iter()
                .map(|(seq, _)| seq)
                .collect::<Vec<_>>()
        };
        assert_eq!(pending(&store), waiting);
        let delivered = store.delivered_from(Seq(0), usize::MAX).unwrap();
        let delivered: BTreeSet<Seq> = delivered.into_iter().map(|(seq, _)| seq).collect();
        let lately = settled.iter().rev().take(KEPT / 2).copied().collect::<Vec<_>>();
        assert!(lately.iter().all(|seq| delivered.contains(seq)));
        assert_eq!(store.counts().pending, waiting.len() as u64);
        assert_eq!(store.state().unwrap().len(), families.len() + 1);
        let met = settled.len() + waiting.len();
        assert!(met > 10, "only {met} events came meanwhile");
        store.close().await.unwrap();
        let store = Store::open(dir.path(), limits()).unwrap();
        assert_eq!(pending(&store), waiting);
    }
}

/// Where a crash has left the directories.
mod known_errors {
    use super::*;

    #[tokio::test]
    async fn a_swap_that_was_interrupted_anywhere_is_finished_or_taken_back() {
        let rename = |dir: &Path, from: &str, to: &str| fs::rename(dir.join(from), dir.join(to)).unwrap();
        for left in ["part", "new", "old moved away", "new moved in", "new alone"] {
            let dir = tempfile::tempdir().unwrap();
            let dir = dir.path();
            let store = Store::open(dir, limits()).unwrap();
            accept(&store, 0..3).await;
            store.close().await.unwrap();
            copy(&dir.join("queue"), &dir.join("copy"));
            match left {
                // Not whole: it must not be taken in.
                "part" => {
                    rename(dir, "copy", "queue.part");
                    fs::write(dir.join("queue.part/db"), "half").unwrap();
                }
                "new" => rename(dir, "copy", "queue.new"),
                "old moved away" => {
                    rename(dir, "queue", "queue.old");
                    rename(dir, "copy", "queue.new");
                }
                "new moved in" => rename(dir, "copy", "queue.old"),
                _ => {
                    rename(dir, "copy", "queue.new");
                    fs::remove_dir_all(dir.join("queue")).unwrap();
                }
            }
            let store = Store::open(dir, limits()).unwrap();
            assert_eq!(store.counts().pending, 3, "{left}");
            assert_eq!(leftovers(dir), BTreeSet::new(), "{left}");
            drop(store);
        }
    }

    fn copy(from: &Path, to: &Path) {
        fs::create_dir(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                copy(&entry.path(), &to.join(entry.file_name()));
            } else {
                fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
    }
}

/// Directories of a swap that is over.
fn leftovers(dir: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("queue.")).collect()
}

async fn accept(store: &Store, ids: std::ops::Range<u64>) -> Vec<Seq> {
    let mut seqs = Vec::new();
    let ids: Vec<u64> = ids.collect();
    for group in ids.chunks(500) {
        let events = group.iter().map(|n| event(*n)).collect();
        let state = vec![StateChange { key: "calls".into(), value: Some(b"going on".to_vec()) }];
        seqs.extend(store.accept(Accepting { events, state }).await.unwrap().into_iter().flatten());
    }
    seqs
}

async fn deliver(store: &Store, seqs: &[Seq]) {
    for group in seqs.chunks(500) {
        let done = |seq: &Seq| Settle::Delivered { seq: *seq, at: UnixMillis(seq.0), note: None };
        store.settle(group.iter().map(done).collect()).await.unwrap();
    }
}

/// Returns when the directory has been made anew; it is trimmed as the daemon does.
async fn shrunk(store: &Store, dir: &Path) {
    let patience = tokio::time::timeout(Duration::from_secs(30), async {
        while size(dir) > SWAP || !leftovers(dir).is_empty() || store.counts().delivered > KEPT as u64 {
            store.trim(UnixMillis(1)).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    assert!(patience.await.is_ok(), "it stays at {} bytes", size(dir));
}

fn size(dir: &Path) -> u64 {
    fs::metadata(dir.join("queue/db")).map_or(u64::MAX, |about| about.len())
}

fn limits() -> Limits {
    let year = Duration::from_secs(365 * 86_400);
    Limits {
        delivered_max: KEPT,
        delivered_age: year,
        dead_max: 10,
        dead_age: year,
        swap_bytes: SWAP,
        together_above: freeswitch_zammad::store::TOGETHER_ABOVE,
    }
}

fn event(n: u64) -> Pending {
    let mut event = pending::new_call(&format!("call-{n}"));
    event.event.from = "4930123".repeat(100);
    event.event.to = "4940456".repeat(100);
    Pending { happened: UnixMillis(n), ..event }
}
