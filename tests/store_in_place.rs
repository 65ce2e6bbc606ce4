//! A task that asks for little writes it itself. Alone in its file: it looks at the threads of its process.

#![expect(clippy::unwrap_used, reason = "helpers of tests, where a panic is the report")]

#[path = "common/pending.rs"]
mod pending;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use freeswitch_zammad::store::{Accepting, Limits, Seq, Settle, StateChange, Store};
use freeswitch_zammad::time::UnixMillis;
use tokio::task::JoinSet;

const CALLS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_asks_for_little_writes_it_itself_and_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), limits()).unwrap();

    let before = wake_ups();
    let mut seqs = Vec::new();
    for n in 0..CALLS {
        seqs.extend(store.accept_in_place(call(&format!("alone-{n}"))).await.unwrap());
    }
    assert_eq!(seqs, (1..=CALLS as u64).map(|seq| Some(Seq(seq))).collect::<Vec<_>>());
    assert_eq!(store.accept_in_place(call("alone-0")).await.unwrap(), [None], "it is known");
    let woken = wake_ups() - before;
    assert!(woken < CALLS as u64 / 10, "the writer's thread was woken {woken} times");

    // All at once, and beside tasks that do nothing else: each is answered for its own.
    let over = Arc::new(AtomicBool::new(false));
    let mut storm = JoinSet::new();
    for who in 0..2 {
        let (store, over) = (store.clone(), Arc::clone(&over));
        storm.spawn(async move {
            let mut seqs = Vec::new();
            while !over.load(Ordering::Relaxed) {
                seqs.extend(
                    store.accept_in_place(call(&format!("storm-{who}-{}", seqs.len()))).await.unwrap(),
                );
            }
            seqs
        });
    }
    for seq in seqs.into_iter().flatten() {
        store.settle(vec![Settle::Delivered { seq, at: UnixMillis(1), note: None }]).await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    let accepted: Vec<Seq> = storm.join_all().await.into_iter().flatten().map(Option::unwrap).collect();
    let waiting = store.pending_from(Seq(0), usize::MAX).unwrap();
    assert_eq!(accepted.iter().collect::<BTreeSet<_>>(), waiting.iter().map(|(seq, _)| seq).collect());
    assert_eq!(store.counts().pending, accepted.len() as u64);
    assert_eq!(store.counts().delivered, CALLS as u64);

    store.clone().close().await.unwrap();
    assert!(store.accept_in_place(call("late")).await.is_err());
    let store = Store::open(dir.path(), limits()).unwrap();
    assert_eq!(store.pending_from(Seq(0), usize::MAX).unwrap(), waiting);
    assert_eq!(store.state().unwrap().len(), CALLS + accepted.len());
}

/// How often the writer's thread has slept.
fn wake_ups() -> u64 {
    // One that has just ended says nothing any more.
    let read = |task: &Path, what| fs::read_to_string(task.join(what)).unwrap_or_default();
    let mut tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let writer = tasks.find(|task| read(task, "comm").trim() == "store-writer").unwrap();
    let status = read(&writer, "status");
    let sleeps = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    sleeps.trim().parse().unwrap()
}

fn call(name: &str) -> Accepting {
    let state = vec![StateChange { key: name.into(), value: Some(name.into()) }];
    Accepting { events: vec![pending::new_call(name)], state }
}

fn limits() -> Limits {
    Limits {
        delivered_max: 1000,
        delivered_age: Duration::MAX,
        dead_max: 1000,
        dead_age: Duration::MAX,
        swap_bytes: u64::MAX,
        together_above: 10_000,
    }
}
