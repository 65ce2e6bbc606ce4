//! Promise: what could be read of a damaged store comes into the new one while that is in use, all of it, once, whatever
//! happens in between; and nobody who reads the queue in order sees a later event of a call before an earlier one.
//!
//! Which rows of a damaged log can be read is `promise_damaged_store_starts`' business: what is set aside here is sound.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
#[path = "common/pending.rs"]
mod pending;
#[path = "common/road.rs"]
mod road;

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use freeswitch_zammad::cti::cause::Cause;
use freeswitch_zammad::cti::event::What;
use freeswitch_zammad::daemon::Daemon;
use freeswitch_zammad::edge::clock;
use freeswitch_zammad::sim::zammad::Seen;
use freeswitch_zammad::store::{
    Accepting, Counts, Limits, Pending, Rest, Salvaged, Seq, Settle, StateChange, Store, begin_anew,
};
use freeswitch_zammad::time::UnixMillis;
use road::{Road, drained, renamed, within};

/// Of each a newCall, an answer and a hangup, one after the other's.
const CALLS: u64 = 1_500;
/// Every so many events one was delivered, and one was given up.
const DELIVERED: u64 = 50;
const DEAD: u64 = 70;

#[tokio::test]
async fn readers_see_the_beginning_of_the_order_until_all_is_here() {
    let old = Old::new(CALLS).await;
    let (_, rest) = old.begin_anew(1_000);
    let store = Store::open_with(old.dir.path(), limits(), rest).unwrap();
    assert_eq!(store.counts(), old.counts, "what is still to come counts");
    let mut want: Vec<String> = old.pending.values().map(|row| row.id.clone()).collect();
    let (mut seen, mut held_back) = (Vec::new(), 0);
    for round in 0.. {
        let stretch = store.readable_from(Seq(0), usize::MAX, |seq, why| panic!("{seq}: {why}")).unwrap();
        seen = stretch.rows.into_iter().map(|(_, row)| row.id).collect::<Vec<_>>();
        assert!(want.starts_with(&seen), "round {round}: {} of {}", seen.len(), want.len());
        if !stretch.more_to_come {
            break;
        }
        held_back += 1;
        // It may have been the last of it.
        assert!(store.taking_in().is_none_or(|rest| rest.rows == old.rows()));
        // A call that began before goes on, and another begins.
        let goes_on = pending::pending(&format!("goes-on-{round}"), hangup());
        for new in [goes_on, pending::new_call(&format!("new-{round}"))] {
            want.push(new.id.clone());
            let seqs = store.accept(Accepting { events: vec![new], state: vec![] }).await.unwrap();
            assert!(old.pending.keys().all(|old| seqs[0].unwrap() > *old));
        }
    }
    assert_eq!(seen, want);
    assert!(held_back > 0, "all was there at once: nothing was tried");
    within("the rest", store.whole(|_| {})).await;
    let counts = store.counts();
    assert_eq!((counts.dead, counts.delivered), (old.counts.dead, old.counts.delivered));
    old.is_in(&store);
}

#[tokio::test]
async fn no_event_that_is_still_to_come_is_accepted_anew() {
    let old = Old::new(CALLS).await;
    let (_, rest) = old.begin_anew(0);
    let store = Store::open_with(old.dir.path(), limits(), rest).unwrap();
    let last = old.pending.values().next_back().unwrap().clone();
    let delivered = old.event(DELIVERED);
    let dead = old.event(DEAD);
    for known in [&last, &delivered, &dead] {
        assert!(store.knows(&known.id).unwrap());
    }
    let left = store.taking_in().unwrap().left;
    let unknown = pending::new_call("never-heard-of");
    assert!(!store.knows(&unknown.id).unwrap());
    let events = vec![last, delivered, dead, unknown];
    let seqs = store.accept(Accepting { events, state: vec![] }).await.unwrap();
    assert!(matches!(seqs[..], [None, None, None, Some(_)]), "{seqs:?}, {left} were left");
    assert!(left > 3_000, "{left}: nothing was tried");
    within("the rest", store.whole(|_| {})).await;
    old.is_in(&store);
}

#[tokio::test]
async fn however_often_it_is_stopped_it_goes_on_where_it_was() {
    let old = Old::new(CALLS).await;
    let (salvaged, rest) = old.begin_anew(100);
    assert_eq!(salvaged.found, old.counts);
    drop(rest);
    let (mut before, mut stops) = (old.rows(), 0);
    loop {
        let store = Store::open(old.dir.path(), limits()).unwrap();
        let Some(rest) = store.taking_in() else {
            old.is_in(&store);
            break;
        };
        assert_eq!(rest.directories, std::slice::from_ref(&salvaged.aside));
        assert!(rest.left <= before);
        (before, stops) = (rest.left, stops + 1);
        // It takes in some rows before it sees that it is to close, or none.
        let seq = store.accept(Accepting { events: vec![], state: vec![] }).await.unwrap();
        assert_eq!(seq, []);
        store.close().await.unwrap();
        assert!(stops < 1_000, "it comes no further than {before}");
    }
    assert!(stops > 1, "it was never stopped in the middle");
}

#[tokio::test]
async fn one_that_is_damaged_while_it_takes_in_goes_on_with_both() {
    let old = Old::new(CALLS).await;
    let (first, rest) = old.begin_anew(500);
    drop(rest);
    // New events, and one of the old ones was delivered meanwhile.
    let store = Store::open(old.dir.path(), limits()).unwrap();
    let new = pending::new_call("meanwhile");
    store.accept(Accepting { events: vec![new.clone()], state: vec![] }).await.unwrap();
    let (seq, row) = store.oldest_pending().unwrap().unwrap();
    store.settle(vec![Settle::Delivered { seq, at: UnixMillis(9), note: None }]).await.unwrap();
    store.close().await.unwrap();

    let (second, rest) = old.begin_anew(0);
    assert_ne!(first.aside, second.aside);
    let store = Store::open_with(old.dir.path(), limits(), rest).unwrap();
    assert_eq!(store.taking_in().unwrap().directories, [second.aside.clone(), first.aside.clone()]);
    within("the rest", store.whole(|_| {})).await;
    let Counts { pending, dead, delivered } = old.counts;
    assert_eq!(store.counts(), Counts { pending, dead, delivered: delivered + 1 });
    let mut want: Vec<Pending> = old.pending.values().filter(|old| old.id != row.id).cloned().collect();
    want.push(new);
    let rows = store.pending_from(Seq(0), usize::MAX).unwrap();
    assert!(rows.into_iter().map(|(_, row)| row).eq(want));
}

#[tokio::test]
async fn a_directory_that_is_gone_keeps_nobody_waiting() {
    let old = Old::new(CALLS).await;
    let (salvaged, rest) = old.begin_anew(500);
    drop(rest);
    fs::remove_dir_all(salvaged.aside).unwrap();
    let store = Store::open(old.dir.path(), limits()).unwrap();
    within("nothing", store.whole(|_| {})).await;
    assert_eq!(store.counts().pending, 500);
    store.accept(Accepting { events: vec![pending::new_call("new")], state: vec![] }).await.unwrap();
    let stretch = store.readable_from(Seq(0), usize::MAX, |_, _| {}).unwrap();
    assert_eq!((stretch.rows.len(), stretch.more_to_come), (501, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_call_is_told_once_and_in_order_while_the_rest_comes_in() {
    let road = Road::new();
    let calls = 300;
    let old = Old::in_dir(road.dir.path(), calls).await;
    let (_, rest) = old.begin_anew(30);
    let mut config = road.config();
    config.delivery.backlog_per_s = NonZeroU32::new(5_000).unwrap();
    let daemon = Daemon::start_with(config, rest).await.unwrap();
    within("the daemon subscribes", road.switch.wait_subscribed()).await;
    let fresh = renamed(&road.switch, &common::recording("captures", "in_caller_cancels"), "fresh");
    road.play(&fresh).await;
    drained(daemon.store()).await;
    within("the rest", daemon.store().whole(|_| {})).await;

    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for Seen { call_id, event, processed, .. } in road.zammad.requests() {
        if let (Some(call), Some(event), true) = (call_id, event, processed) {
            told.entry(call).or_default().push(event);
        }
    }
    let mut others = 0;
    for (call, events) in told {
        if let Some(number) = call.strip_prefix("call-") {
            let want = old.told_of(number.parse().unwrap());
            // One whose newCall had been delivered this Zammad has never heard of: it is told anew when it says so.
            if want.first() == Some(&"newCall") {
                assert_eq!(events, want, "{call}");
            } else {
                assert_eq!(events.last().map(String::as_str), want.last().copied(), "{call}: {events:?}");
            }
        } else {
            assert_eq!(events, ["newCall", "hangup"], "{call}");
            others += 1;
        }
    }
    assert_eq!(others, 1);
    let counts = daemon.store().counts();
    assert_eq!(counts.pending + counts.dead + counts.delivered, calls * 3 + 2);
    daemon.stop().await.unwrap();
}

/// A store with a past, closed.
struct Old {
    dir: Place,
    calls: u64,
    pending: BTreeMap<Seq, Pending>,
    counts: Counts,
}

/// A directory of its own, or somebody else's.
enum Place {
    Own(tempfile::TempDir),
    Of(std::path::PathBuf),
}

impl Place {
    fn path(&self) -> &Path {
        match self {
            Self::Own(dir) => dir.path(),
            Self::Of(path) => path,
        }
    }
}

impl Old {
    async fn new(calls: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        Self { dir: Place::Own(dir), ..Self::in_dir(&path, calls).await }
    }

    async fn in_dir(dir: &Path, calls: u64) -> Self {
        let store = Store::open(dir, limits()).unwrap();
        for group in (0..calls * 3).collect::<Vec<_>>().chunks(500) {
            let events = group.iter().map(|n| event(*n)).collect();
            let state = StateChange { key: format!("call {}", group[0]), value: Some(vec![7; 9]) };
            let seqs = store.accept(Accepting { events, state: vec![state] }).await.unwrap();
            let settled = group.iter().zip(seqs).filter_map(|(n, seq)| match (seq.unwrap(), n) {
                (seq, n) if n % DELIVERED == 0 => {
                    Some(Settle::Delivered { seq, at: clock::now(), note: None })
                }
                (seq, n) if n % DEAD == 0 => Some(Settle::Dead { seq, at: clock::now(), story: "no".into() }),
                _ => None,
            });
            store.settle(settled.collect()).await.unwrap();
        }
        let (pending, counts) = (store.pending_from(Seq(0), usize::MAX).unwrap(), store.counts());
        store.close().await.unwrap();
        Self { dir: Place::Of(dir.to_owned()), calls, pending: pending.into_iter().collect(), counts }
    }

    fn begin_anew(&self, at_once: u64) -> (Salvaged, Option<Rest>) {
        begin_anew(self.dir.path(), UnixMillis(1), at_once, &mut |_, _| {}).unwrap()
    }

    fn rows(&self) -> u64 {
        self.calls * 3
    }

    fn event(&self, n: u64) -> Pending {
        assert!(n < self.rows());
        event(n)
    }

    /// What Zammad is to be told of a call from here on.
    fn told_of(&self, call: u64) -> Vec<&'static str> {
        let left = (0..3).filter(|at| self.pending.values().any(|row| row.id == event(call * 3 + at).id));
        left.map(|at| ["newCall", "answer", "hangup"][usize::try_from(at).unwrap()]).collect()
    }

    /// Every row is in the store, in its place, and the calls' state.
    fn is_in(&self, store: &Store) {
        let rows = store.pending_from(Seq(0), self.pending.len()).unwrap();
        assert!(rows.into_iter().eq(self.pending.clone()));
        let ids =
            store.delivered_from(Seq(0), usize::MAX).unwrap().into_iter().map(|(_, row)| row.pending.id);
        assert!(ids.eq((0..self.rows()).filter(|n| n % DELIVERED == 0).map(|n| event(n).id)));
        let dead = store.dead_from(Seq(0), usize::MAX).unwrap();
        assert_eq!(dead.len() as u64, self.counts.dead);
        assert_eq!(store.state().unwrap().len() as u64, self.rows().div_ceil(500));
    }
}

fn event(n: u64) -> Pending {
    let what = match n % 3 {
        0 => What::NewCall { user: None, queue: None },
        1 => What::Answer { answering_number: Some("1001".into()), user: Some("Anton".into()) },
        _ => hangup(),
    };
    let row = pending::pending(&format!("call-{}", n / 3), what);
    Pending { switch: "main".into(), answered: n % 3 == 2, happened: clock::now(), ..row }
}

fn hangup() -> What {
    What::Hangup { cause: Cause::NormalClearing }
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
