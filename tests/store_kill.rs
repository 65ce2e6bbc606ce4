//! A process that accepts is really killed, again and again. Alone in its file: another test's child would
//! inherit the store's lock for a moment.

#![expect(clippy::unwrap_used, reason = "helpers of tests, where a panic is the report")]

#[path = "common/pending.rs"]
mod pending;

use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead, BufReader, Write, stdout};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use freeswitch_zammad::store::{Accepting, Limits, Pending, Seq, Settle, StateChange, Store};
use freeswitch_zammad::time::UnixMillis;

const STATE_DIR: &str = "STORE_KILL_STATE_DIR";
const FIRST: &str = "STORE_KILL_FIRST";
const ROUNDS: u64 = 60;
const CALLERS: u64 = 4;

/// What the child has told: by event, its position, and whether an attempt was begun.
type Told = BTreeMap<u64, (Seq, bool)>;

#[test]
fn what_was_accepted_outlives_a_killed_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut told = Told::new();
    for round in 0..ROUNDS {
        let highest = told.values().map(|(seq, _)| *seq).max();
        let mut child = child(dir.path(), round * 1_000_000);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let kill_after = fastrand::usize(0..120);
        let mut heard = 0;
        for line in lines {
            if let Some(fact) = line.split_once("store ") {
                let (n, seq) = hear(&mut told, fact.1);
                assert!(told[&n].1 || highest < Some(seq), "position {seq} was given out before");
                heard += 1;
            }
            // Lines that were written before the blow still count: the loop ends with the pipe.
            if heard == kill_after {
                child.kill().unwrap();
            }
        }
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        assert!(heard >= kill_after, "the child ended by itself in round {round}: {ended}");
    }
    assert!(told.len() > 500, "only {} events were accepted", told.len());

    let store = Store::open(dir.path(), limits()).unwrap();
    let rows: BTreeMap<_, _> = store.pending_from(Seq(0), usize::MAX).unwrap().into_iter().collect();
    for (n, (seq, attempted)) in told {
        let row = rows.get(&seq).unwrap_or_else(|| panic!("event {n} at {seq} is lost"));
        assert_eq!(row.id, event(n).id);
        assert!(row.attempt.is_some() || !attempted, "the attempt of {n} is lost");
    }
    assert_eq!(store.counts().pending, rows.len() as u64);
    // State and event were one transaction: neither is there without the other.
    let state: BTreeMap<_, _> = store.state().unwrap().into_iter().collect();
    assert_eq!(state.len(), rows.len());
    for row in rows.values() {
        assert_eq!(state.get(&row.id).map(Vec::as_slice), Some(row.id.as_bytes()));
    }
}

/// Accepts until it is killed, and tells what was accepted.
#[test]
#[ignore = "the child of the test above"]
fn child_that_accepts() {
    let Ok(dir) = env::var(STATE_DIR).map(PathBuf::from) else { return };
    let next = Arc::new(AtomicU64::new(env::var(FIRST).unwrap().parse().unwrap()));
    let store = Store::open(&dir, limits()).unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    for _ in 0..CALLERS {
        let (store, next) = (store.clone(), Arc::clone(&next));
        runtime.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                let event = event(n);
                let state = vec![StateChange { key: event.id.clone(), value: Some(event.id.clone().into()) }];
                let accepting = Accepting { events: vec![event], state };
                let seqs = if n.is_multiple_of(2) {
                    store.accept(accepting).await.unwrap()
                } else {
                    store.accept_in_place(accepting).await.unwrap()
                };
                let seq = seqs[0].unwrap();
                tell(&format!("accepted {n} {seq}"));
                if n.is_multiple_of(3) {
                    store.settle(vec![Settle::Attempt { seq, at: UnixMillis(n) }]).await.unwrap();
                    tell(&format!("attempted {n} {seq}"));
                }
            }
        });
    }
    loop {
        // What was opened may have left a wake-up for this thread.
        std::thread::park();
    }
}

fn child(state_dir: &Path, first: u64) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "child_that_accepts", "--ignored", "--nocapture"]);
    command.env(STATE_DIR, state_dir).env(FIRST, first.to_string());
    command.stdout(Stdio::piped()).spawn().unwrap()
}

fn tell(fact: &str) {
    let mut out = stdout().lock();
    // Begun on a line of its own: the test harness writes there, too.
    if write!(out, "\nstore {fact}\n").and_then(|()| out.flush()).is_err() {
        std::process::exit(1); // Nobody listens: the test has failed.
    }
}

fn hear(told: &mut Told, fact: &str) -> (u64, Seq) {
    let words: Vec<_> = fact.split(' ').collect();
    let (n, seq) = (words[1].parse().unwrap(), Seq(words[2].parse().unwrap()));
    match words[0] {
        "accepted" => assert_eq!(told.insert(n, (seq, false)), None),
        "attempted" => told.get_mut(&n).unwrap().1 = true,
        other => panic!("the child said {other}"),
    }
    (n, seq)
}

fn limits() -> Limits {
    let day = Duration::from_secs(86_400);
    Limits {
        delivered_max: 100,
        delivered_age: day,
        dead_max: 100,
        dead_age: day,
        swap_bytes: u64::MAX,
        together_above: 2,
    }
}

fn event(n: u64) -> Pending {
    Pending { happened: UnixMillis(n), ..pending::new_call(&format!("call-{n}")) }
}
