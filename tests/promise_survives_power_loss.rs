//! Promise: an accepted event survives a power cut, and so does the call state that was accepted with it.
//!
//! A child lives the life of a store while a preloaded library keeps a journal of what it does to its disk and of
//! what it believes. From the journal the disk is made as it may be found after a power cut at any point
//! ([`disk::model`] says what may be lost), opened by another process, and held against what the first one had
//! been told ([`power::history`]). Journals differ from run to run, so a seed alone does not bring a failure back:
//! the disks that failed are kept.
//!
//! Where names survive in order, as every journalling file system keeps them, each store must open as it is. Where
//! any of them may be lost it may also be found damaged and be salvaged, but nothing that was accepted may be
//! missing, nothing be there twice.
//!
//! By hand: `POWER_CUTS=20000` for more cuts, `POWER_SEED` for the same choices.

#![expect(clippy::unwrap_used, reason = "helpers of tests, where a panic is the report")]
#![expect(clippy::print_stdout, reason = "the seed and the numbers are told")]

mod disk;
mod power;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use disk::journal::{self, Op};
use disk::model::{Bytes, Disk, Names};
use power::history::History;
use power::look::{self, How, Looker};
use power::work::{self, Story};

/// Where in its life a store is cut, how often at least, and how many of a thousand cuts go there.
const LABELS: [(&str, usize, usize); 12] = [
    // The store is created, and takes its first events.
    ("creation", 60, 120),
    // A store of an older format is opened.
    ("upgrade", 30, 60),
    // One request after the other.
    ("accept", 40, 70),
    // Requests at once.
    ("crowd", 40, 70),
    // Many requests, so that sled's segments fill.
    ("churn", 30, 60),
    // A segment is used again.
    ("reuse", 60, 120),
    // The store is closed and opened.
    ("reopen", 30, 60),
    // Opening writes sled's snapshot.
    ("snapshot", 60, 120),
    // The store is set aside as a damaged one is, and its rows come into another while that is used.
    ("take-in", 60, 100),
    // Another directory takes the place of a large one.
    ("swap", 60, 120),
    // A store is opened that the power had failed.
    ("recovery", 60, 100),
    // A store is opened whose process was killed, with all that had not been synced.
    ("restart", 60, 100),
];

/// Cuts in all, unless `POWER_CUTS` says otherwise.
const CUTS: usize = 650;

/// How many processes look into disks at once.
const LOOKERS: usize = 2;

/// How many stores are opened once more, after a cut or a kill, and cut then.
const AGAIN: usize = 20;

/// sled's default: its log is written in pieces of this size, which are used again when they are empty.
const SEGMENT: usize = 512 * 1024;

/// A journal, and the disk and the history that were there before it.
struct Life {
    base: Disk,
    before: History,
    ops: Vec<Arc<Op>>,
    /// Where in its life the store is before each entry.
    labels: Vec<&'static str>,
}

/// One power cut.
#[derive(Clone, Copy, Debug)]
struct Cut {
    life: usize,
    /// So many entries of the journal had happened.
    at: usize,
    names: Names,
    bytes: Bytes,
    /// Of what is lost.
    seed: u64,
}

#[test]
fn whatever_was_accepted_outlives_a_power_cut() {
    let seed = env::var("POWER_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    let cuts: usize = env::var("POWER_CUTS").map_or(CUTS, |cuts| cuts.parse().unwrap());
    println!("POWER_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir().unwrap();

    let mut lives = vec![
        lived(Story::Short, &dir.path().join("new"), None, &mut random),
        lived(Story::Long, &dir.path().join("long"), None, &mut random),
        lived(Story::Short, &dir.path().join("old"), Some("upgrade"), &mut random),
    ];
    let failures = Mutex::new(Vec::new());
    let mut more: Vec<(Cut, bool)> = Vec::new();
    // Wherever the creation had changed a name and nobody had synced it yet.
    let created =
        lives[0].ops.iter().position(|op| matches!(&**op, Op::Moment(said) if said.starts_with("state")));
    for (at, op) in lives[0].ops[..created.unwrap()].iter().enumerate() {
        if matches!(**op, Op::Create { .. } | Op::Mkdir { .. } | Op::Unlink { .. } | Op::Rename { .. }) {
            more.push((draw(0, at + 1, &mut random), false));
        }
    }
    for n in 0..AGAIN {
        let life = n % 2;
        more.push((draw(life, random.usize(0..lives[life].ops.len()), &mut random), n % 4 > 1));
    }
    for (n, (cut, power)) in more.into_iter().enumerate() {
        let root = dir.path().join(format!("again-{n}"));
        match again(&lives[cut.life], cut, power, &root, &mut random) {
            Ok(life) => lives.push(life),
            Err(why) => failures.lock().unwrap().push(format!("after {cut:?} it could not go on: {why}")),
        }
    }
    let half_synced =
        lives.iter().flat_map(|life| &life.ops).filter(|op| matches!(&***op, Op::Written { .. }));
    assert_eq!(half_synced.count(), 0, "sled has the C library's sync_file_range, not ours");
    let owed: Vec<_> = lives.iter().filter_map(builds_on_what_may_go).collect();
    assert!(owed.is_empty(), "written while what an earlier process left was not synced: {owed:?}");
    let reused = lives[1].labels.iter().zip(lives[1].labels.iter().skip(1));
    let reused = reused.filter(|(a, b)| **a != "reuse" && **b == "reuse").count();
    assert!(reused >= 3, "segments were used again {reused} times only");

    let mut places: BTreeMap<&str, Vec<(usize, usize)>> = BTreeMap::new();
    for (n, life) in lives.iter().enumerate() {
        for (at, label) in life.labels.iter().enumerate() {
            places.entry(label).or_default().push((n, at));
        }
    }
    let mut drawn: Vec<Cut> = Vec::new();
    for (label, least, share) in LABELS {
        let places = places.get(label).unwrap_or_else(|| panic!("no store was ever in {label}"));
        for _ in 0..least.max(cuts * share / 1000) {
            let (life, at) = *random.choice(places).unwrap();
            drawn.push(draw(life, at, &mut random));
        }
    }
    assert!(drawn.len() >= 500, "{} cuts", drawn.len());
    drawn.sort_by_key(|cut| (cut.life, cut.at));

    std::thread::scope(|scope| {
        for (n, cuts) in drawn.chunks(drawn.len().div_ceil(LOOKERS)).enumerate() {
            let dir = dir.path().join(format!("looker-{n}"));
            fs::create_dir(&dir).unwrap();
            let (lives, failures) = (&lives, &failures);
            scope.spawn(move || look_after(lives, cuts, &dir, failures));
        }
    });
    let failures = failures.into_inner().unwrap();
    println!("{} cuts, {} failed", drawn.len(), failures.len());
    println!("{}", failures.join("\n"));
    assert!(failures.is_empty(), "{} of {} cuts, seed {seed}", failures.len(), drawn.len());
}

#[test]
#[ignore = "a child of the test above"]
fn child_that_works() {
    work::run();
}

#[test]
#[ignore = "a child of the test above"]
fn child_that_looks() {
    look::run();
}

fn draw(life: usize, at: usize, random: &mut fastrand::Rng) -> Cut {
    let names = if random.bool() { Names::InOrder } else { Names::Any };
    Cut { life, at, names, bytes: *random.choice(&Bytes::ALL).unwrap(), seed: random.u64(..) }
}

/// A store's life from its creation, or, of an `old` one, from what the creation of a store left behind that was
/// interrupted before the first step of its format was made.
fn lived(story: Story, root: &Path, old: Option<&'static str>, random: &mut fastrand::Rng) -> Life {
    fs::create_dir(root).unwrap();
    if old.is_some() {
        let state_dir = root.join("state");
        fs::create_dir(&state_dir).unwrap();
        fs::write(state_dir.join("FORMAT"), "2\n").unwrap();
        let sled = sled::Config::new().path(state_dir.join("queue")).flush_every_ms(None);
        drop(sled.open().unwrap());
        // A thread of sled's pool may hold it a moment longer.
        fs::File::open(state_dir.join("queue/db")).unwrap().lock().unwrap();
    }
    run(story, root, Disk::of(root), History::new(), old, random).unwrap()
}

/// The life of a store that is opened after `cut`, or, if only its process was killed then, with all that it had
/// written and nobody had synced.
fn again(
    life: &Life,
    cut: Cut,
    power: bool,
    root: &Path,
    random: &mut fastrand::Rng,
) -> Result<Life, String> {
    let mut disk = life.base.clone();
    let mut history = life.before.clone();
    for op in &life.ops[..cut.at] {
        disk.apply(op);
        if let Op::Moment(moment) = &**op {
            history.hear(moment);
        }
    }
    if power {
        disk.cut(cut.names, cut.bytes, &mut fastrand::Rng::with_seed(cut.seed), root);
        run(Story::Short, root, Disk::of(root), history, Some("recovery"), random)
    } else {
        disk.move_to(root);
        run(Story::Short, root, disk, history, Some("restart"), random)
    }
}

fn run(
    story: Story,
    root: &Path,
    base: Disk,
    before: History,
    label: Option<&'static str>,
    random: &mut fastrand::Rng,
) -> Result<Life, String> {
    let file = root.with_extension("journal");
    work::live(story, root, &file, random.u64(..))?;
    let ops: Vec<_> = journal::read(&file, root).into_iter().map(Arc::new).collect();
    let labels = labels(&ops, label);
    Ok(Life { base, before, ops, labels })
}

/// Which entry, if any, writes in the queue while what an earlier process has written there is not synced: what it read
/// of that may be gone when what it made of it is there.
fn builds_on_what_may_go(life: &Life) -> Option<usize> {
    let (mut disk, queue) = (life.base.clone(), Path::new("state/queue"));
    let before = disk.age();
    life.ops.iter().position(|op| {
        let owed = matches!(&**op, Op::Write { ino, .. } if disk.is_owed(queue, *ino, before));
        disk.apply(op);
        owed
    })
}

/// Where in its life the store is before each entry, and after the last.
fn labels(ops: &[Arc<Op>], whole: Option<&'static str>) -> Vec<&'static str> {
    let mut labels = Vec::new();
    let mut phase = "";
    let mut within: Option<&str> = None;
    let mut swaps = false;
    let mut segments = BTreeSet::new();
    for op in ops {
        labels.push(whole.or(swaps.then_some("swap")).or(within).unwrap_or(phase));
        match &**op {
            Op::Moment(moment) => {
                within = None;
                phase = match moment.strip_prefix("phase ") {
                    Some("swaps") => "churn",
                    Some(name) => LABELS.iter().map(|label| label.0).find(|label| *label == name).unwrap(),
                    None => phase,
                };
            }
            Op::Mkdir { path, .. } if phase == "churn" && path.ends_with("queue.part") => swaps = true,
            Op::Unlink { path } if path.ends_with("queue.old") => swaps = false,
            // From here to the next moment a store is opened.
            Op::Create { path, .. } if path.extension().is_some_and(|e| e == "generating") => {
                within = Some("snapshot");
            }
            Op::Write { ino, at, bytes } if at % SEGMENT == 0 && bytes.len() > 16 => {
                if !segments.insert((*ino, *at)) && within.is_none() {
                    within = Some("reuse");
                }
            }
            Op::Create { .. }
            | Op::Mkdir { .. }
            | Op::Unlink { .. }
            | Op::Rename { .. }
            | Op::Write { .. }
            | Op::Resize { .. }
            | Op::SyncBegins { .. }
            | Op::Sync { .. }
            | Op::Written { .. } => {}
        }
    }
    labels.push(whole.unwrap_or(phase));
    labels
}

/// Makes the disks after `cuts`, which are in order, and looks into them.
fn look_after(lives: &[Life], cuts: &[Cut], below: &Path, failures: &Mutex<Vec<String>>) {
    let mut looker = Looker::new(below);
    let mut salvaged = 0;
    for cuts in cuts.chunk_by(|a, b| a.life == b.life) {
        let life = &lives[cuts[0].life];
        let mut disk = life.base.clone();
        let mut history = life.before.clone();
        let mut done = 0;
        for cut in cuts {
            for op in &life.ops[done..cut.at] {
                disk.apply(op);
                if let Op::Moment(moment) = &**op {
                    history.hear(moment);
                }
            }
            done = cut.at;
            let root = below.join("disk");
            let make = |root: &Path| {
                disk.cut(cut.names, cut.bytes, &mut fastrand::Rng::with_seed(cut.seed), root);
            };
            make(&root);
            let how = match cut.names {
                Names::Any => How::Mend,
                Names::InOrder if cut.seed.is_multiple_of(2) => How::Again,
                Names::InOrder => How::Once,
            };
            let mut looked = looker.look(&root.join("state"), how);
            if looked.is_err() && cut.names == Names::Any {
                // No file system of today forgets names so; even then nothing may be lost.
                looker = Looker::new(below);
                looked = looker.look(&root.join("state"), How::Salvage);
            }
            salvaged += looked.iter().filter(|found| found.salvaged).count();
            let next = life.ops[cut.at..].iter().filter_map(|op| match &**op {
                Op::Moment(moment) => Some(moment.as_str()),
                _ => None,
            });
            let hung = looked.is_err();
            let judged = looked.and_then(|found| history.judge(&found, found.salvaged, next));
            if let Err(wrong) = judged {
                let mut failures = failures.lock().unwrap();
                let kept = keep(failures.len());
                if let Some(kept) = &kept {
                    make(kept);
                }
                let label = life.labels[cut.at];
                failures.push(format!("{label}, {cut:?}: {wrong} (disk: {kept:?})"));
            }
            if hung {
                looker = Looker::new(below);
            }
            fs::remove_dir_all(&root).unwrap();
        }
    }
    println!("{} looked at, {salvaged} salvaged", cuts.len());
}

/// Where a disk that failed is kept: of the first few.
fn keep(number: usize) -> Option<PathBuf> {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("power-loss-{number}"));
    drop(fs::remove_dir_all(&place));
    (number < 8).then_some(place)
}
