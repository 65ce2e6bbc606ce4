//! What is done to a store while the shim keeps the journal: by a child, which says what it asks for and what was
//! answered. The words it uses are read by [`history`](super::history).

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use freeswitch_zammad::store::{Accepting, Limits, Seq, Settle, Store, begin_anew};
use freeswitch_zammad::time::UnixMillis;
use tokio::task::JoinSet;

use super::look::{Contents, Place};
use super::{LAST, Told, limits};
use crate::disk::{self, Faults};

const STATE_DIR: &str = "POWER_STATE_DIR";
const MOMENTS: &str = "POWER_MOMENTS";
const SEED: &str = "POWER_SEED";
const FIRST_CALL: &str = "POWER_FIRST_CALL";
const STORY: &str = "POWER_STORY";

/// A directory that is larger is swapped.
const SWAP_BYTES: u64 = 1_000_000;
const SWAP_TRIES: u32 = 20;
const PATIENCE_MS: u32 = 1_000;

/// What the child is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Story {
    /// A few events; on an empty directory the store is created, on an old one upgraded.
    Short,
    /// All there is.
    Long,
}

/// Lets a child live `story` on the store in `root/state`, and keeps the journal. Events of different seeds have
/// nothing in common.
///
/// # Errors
/// What it complained of.
pub(crate) fn live(story: Story, root: &Path, journal: &Path, seed: u64) -> Result<(), String> {
    // Time for the child to hear of what is not synced yet, should it.
    let faults = Faults::new(journal.with_extension("faults"));
    faults.set("slow-sync 1");
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "child_that_works", "--ignored", "--nocapture"]);
    command.env(STATE_DIR, root.join("state")).env(MOMENTS, disk::journal::moments(journal));
    command.env(SEED, seed.to_string()).env(STORY, format!("{story:?}"));
    command.env(FIRST_CALL, (seed % 1_000_000_000 * 1_000).to_string()).env("RUST_BACKTRACE", "0");
    faults.preload(&mut command, root);
    disk::journal::keep(&mut command, root, journal);
    let output = command.output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// The child.
pub(crate) fn run() {
    let Ok(dir) = env::var(STATE_DIR).map(PathBuf::from) else { return };
    let say = File::options().append(true).create(true).open(env::var(MOMENTS).unwrap()).unwrap();
    let random = fastrand::Rng::with_seed(env::var(SEED).unwrap().parse().unwrap());
    let story = env::var(STORY).unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    runtime.block_on(async {
        let say = Arc::new(say);
        tell(&say, "phase creation");
        let store = Store::open(&dir, limits()).unwrap();
        store.whole(|_| {}).await;
        let open_calls = Contents::of(&store).state;
        let next_call = env::var(FIRST_CALL).unwrap().parse().unwrap();
        let mut work = Work { dir, store, say, random, limits: limits(), open_calls, next_call };
        work.tell_state();
        if story == format!("{:?}", Story::Short) {
            work.some(6).await;
        } else {
            work.all().await;
        }
        work.store.close().await.unwrap();
    });
}

struct Work {
    dir: PathBuf,
    store: Store,
    say: Arc<File>,
    random: fastrand::Rng,
    limits: Limits,
    /// The last step of each call that goes on.
    open_calls: BTreeMap<u64, u64>,
    next_call: u64,
}

impl Work {
    async fn all(&mut self) {
        self.phase("accept");
        self.some(40).await;
        self.phase("crowd");
        self.crowd().await;
        self.phase("churn");
        self.some(260).await;
        self.phase("reopen");
        for _ in 0..8 {
            self.some(12).await;
            self.reopen().await;
        }
        self.phase("take-in");
        for _ in 0..3 {
            self.begin_anew().await;
        }
        self.phase("swaps");
        self.limits.swap_bytes = SWAP_BYTES;
        self.reopen().await;
        for _ in 0..4 {
            self.swap().await;
        }
    }

    /// Until the directory was large and nothing was pending, so that another has taken its place.
    async fn swap(&mut self) {
        let log = self.dir.join("queue/db");
        let large = fs::metadata(&log).unwrap().ino();
        for _ in 0..SWAP_TRIES {
            while self.store.disk_bytes().unwrap() < SWAP_BYTES {
                self.some(10).await;
            }
            // It may shrink below the bound again while it is emptied: then another try is needed.
            while self.store.counts().pending > 0 {
                self.settle().await;
            }
            // Rows are copied between these.
            self.some(6).await;
            for _ in 0..PATIENCE_MS {
                if fs::metadata(&log).is_ok_and(|about| about.ino() != large) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        panic!("no other directory took the place of a large one");
    }

    /// The store is set aside as a damaged one is, and its rows come into another while that is used.
    async fn begin_anew(&mut self) {
        self.store.clone().close().await.unwrap();
        let at_once = self.random.u64(..2);
        let (_, rest) = begin_anew(&self.dir, UnixMillis(1), at_once, &mut |_, _| {}).unwrap();
        self.store = Store::open_with(&self.dir, self.limits.clone(), rest).unwrap();
        // What the store holds meanwhile is not known: whoever opens it after a cut waits for all of it.
        tell(&self.say, "crowd");
        for _ in 0..4 {
            let told = Told { call: self.fresh_call(), step: 0 };
            self.open_calls.insert(told.call, told.step);
            accept(&self.store, &self.say, &[told]).await;
        }
        self.store.whole(|_| {}).await;
        self.tell_state();
    }

    /// Closes and opens the store, at once.
    async fn reopen(&mut self) {
        self.store.clone().close().await.unwrap();
        self.store = Store::open(&self.dir, self.limits.clone()).unwrap();
    }

    /// One request after the other. So what is on disk is always what it was after one of them.
    async fn some(&mut self, requests: usize) {
        for _ in 0..requests {
            match self.random.u8(0..20) {
                0..10 => self.accept().await,
                10..15 => self.settle().await,
                15..17 => self.attempt().await,
                17..19 => self.revive().await,
                _ => {
                    self.store.trim(UnixMillis(0)).await.unwrap();
                    self.tell_state();
                }
            }
        }
    }

    async fn accept(&mut self) {
        let mut events = Vec::new();
        for _ in 0..self.random.usize(1..5) {
            let goes_on = self.random.u8(0..3) > 0 || self.open_calls.len() > 30;
            let told = match self.random.choice(self.open_calls.iter()) {
                Some((&call, &step)) if goes_on => Told { call, step: step + 1 },
                _ => Told { call: self.fresh_call(), step: 0 },
            };
            if told.step == LAST {
                self.open_calls.remove(&told.call);
            } else {
                self.open_calls.insert(told.call, told.step);
            }
            events.push(told);
        }
        accept(&self.store, &self.say, &events).await;
        self.tell_state();
    }

    fn fresh_call(&mut self) -> u64 {
        self.next_call += 1;
        self.next_call - 1
    }

    /// Up to so many pending positions, from the front.
    fn pending(&mut self, most: usize) -> Vec<Seq> {
        let most = self.random.usize(1..=most);
        self.store.pending_from(Seq(0), most).unwrap().into_iter().map(|(seq, _)| seq).collect()
    }

    async fn settle(&mut self) {
        let seqs = self.pending(8);
        tell(&self.say, &format!("settling {}", spell(&seqs)));
        let at = UnixMillis(1);
        let mut settles = Vec::new();
        for seq in seqs {
            settles.push(match self.random.u8(0..5) {
                0 => Settle::Dead { seq, at, story: "refused: ".repeat(self.random.usize(1..40)) },
                1 => Settle::Held { seq, held: self.random.bool() },
                _ => Settle::Delivered { seq, at, note: None },
            });
        }
        self.store.settle(settles).await.unwrap();
        tell(&self.say, "settled");
        self.tell_state();
    }

    async fn attempt(&mut self) {
        let Some(seq) = self.pending(3).pop() else { return };
        self.store.settle(vec![Settle::Attempt { seq, at: UnixMillis(2) }]).await.unwrap();
        tell(&self.say, &format!("begun {seq}"));
        self.tell_state();
    }

    async fn revive(&mut self) {
        let contents = Contents::of(&self.store);
        let over = contents.rows.iter().filter(|row| !matches!(row.2, Place::Pending { .. }));
        let mut over: Vec<_> = over.map(|row| (Seq(row.0), row.1.word())).collect();
        self.random.shuffle(&mut over);
        over.truncate(2);
        let (seqs, words): (Vec<_>, Vec<_>) = over.into_iter().unzip();
        tell(&self.say, &format!("reviving {}", words.join(" ")));
        let revived = self.store.revive(seqs).await.unwrap();
        let words: Vec<_> = revived.iter().map(|(seq, row)| format!("{}@{seq}", row.id)).collect();
        tell(&self.say, &format!("revived {}", words.join(" ")));
        self.tell_state();
    }

    /// Several callers at once, so that requests are written in groups.
    async fn crowd(&mut self) {
        tell(&self.say, "crowd");
        let mut callers = JoinSet::new();
        for _ in 0..5 {
            let (store, say) = (self.store.clone(), Arc::clone(&self.say));
            let calls: Vec<_> = (0..6).map(|_| self.fresh_call()).collect();
            callers.spawn(async move {
                for call in calls {
                    for step in 0..=LAST {
                        let seq = accept(&store, &say, &[Told { call, step }]).await;
                        if step == 1 {
                            let attempt = Settle::Attempt { seq, at: UnixMillis(3) };
                            store.settle(vec![attempt]).await.unwrap();
                            tell(&say, &format!("begun {seq}"));
                        }
                        if step > 1 {
                            tell(&say, &format!("settling {seq}"));
                            let done = Settle::Delivered { seq, at: UnixMillis(3), note: None };
                            store.settle(vec![done]).await.unwrap();
                            tell(&say, &format!("done {seq}"));
                        }
                    }
                }
            });
        }
        callers.join_all().await;
        self.tell_state();
    }

    fn phase(&self, name: &str) {
        tell(&self.say, &format!("phase {name}"));
    }

    fn tell_state(&self) {
        tell(&self.say, &format!("state {}", Contents::of(&self.store).digest));
    }
}

async fn accept(store: &Store, say: &File, told: &[Told]) -> Seq {
    let words: Vec<_> = told.iter().map(|told| told.word()).collect();
    tell(say, &format!("asking {}", words.join(" ")));
    let events = told.iter().map(|told| told.event()).collect();
    let state = told.iter().map(|told| told.state()).collect();
    let accepting = Accepting { events, state };
    let seqs = if told[0].call.is_multiple_of(2) {
        store.accept(accepting).await.unwrap()
    } else {
        store.accept_in_place(accepting).await.unwrap()
    };
    let words: Vec<_> =
        words.iter().zip(&seqs).map(|(word, seq)| format!("{word}@{}", seq.unwrap())).collect();
    tell(say, &format!("accepted {}", words.join(" ")));
    seqs[0].unwrap()
}

fn spell(seqs: &[Seq]) -> String {
    seqs.iter().map(Seq::to_string).collect::<Vec<_>>().join(" ")
}

/// With one call to the system: it becomes one moment of the journal.
fn tell(mut say: &File, what: &str) {
    say.write_all(what.as_bytes()).unwrap();
}
