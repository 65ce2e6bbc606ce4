//! A damaged store never keeps the daemon down: it is up within ten seconds, goes on with all that can be read, and
//! says where the damaged store is.
#![allow(clippy::print_stdout, reason = "a large store shows how long it took")]
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
#[path = "common/pending.rs"]
mod pending;
#[path = "common/program.rs"]
mod program;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use freeswitch_zammad::cti::cause::Cause;
use freeswitch_zammad::cti::event::What;
use freeswitch_zammad::sim::recording::Recording;
use freeswitch_zammad::sim::switch::{Pace, Settings, Switch};
use freeswitch_zammad::sim::zammad::{self, Seen, Zammad};
use freeswitch_zammad::store::{Accepting, Limits, Pending, Relic, Seq, Settle, StateChange, Store, relics};
use freeswitch_zammad::time::UnixMillis;
use program::{PASSWORD, Program, TOKEN, flags, run};
use serde_json::Value;
use tokio::runtime::Runtime;

/// How long a start may take, whatever became of the store.
const UP_WITHIN: Duration = Duration::from_secs(10);
const CALLS: u64 = 900;

/// Nothing that was accepted is missing, and nothing is there that was not.
mod invariants {
    use super::*;

    #[test]
    fn whatever_is_damaged_the_daemon_listens_within_ten_seconds_and_goes_on_with_the_rest() {
        let made = Made::new();
        let switch = switch();
        let work = Mutex::new(known_errors::all().into_iter());
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while let Some(damage) = { work.lock().unwrap().next() } {
                        check(&made, &switch, &damage);
                    }
                });
            }
        });
    }

    #[test]
    fn damage_that_comes_to_light_later_ends_the_daemon_and_the_next_start_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        // More than the drain holds in memory.
        let store_here = Store::open(dir.path(), limits()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        for group in (0..12_000_u64).collect::<Vec<_>>().chunks(400) {
            let long = |n: &u64| {
                let mut event = event(*n);
                event.event.to = "4930555100".repeat(25);
                event
            };
            let events = group.iter().map(long).collect();
            runtime.block_on(store_here.accept(Accepting { events, state: vec![] })).unwrap();
        }
        runtime.block_on(store_here.close()).unwrap();
        let switch = switch();
        let url = format!("http://127.0.0.1:9/api/v1/cti/{TOKEN}");
        let address = switch.addr().to_string();
        let args = [&["run"], &flags(&url, &address, dir.path())[..]].concat();
        let mut program = Program::start(&args, &[]);
        program.wait_for("listening to the switch");
        program.wait_for("Zammad is away");
        // In place, as a disk does it.
        let log = fs::File::options().write(true).open(dir.path().join("queue/db")).unwrap();
        for at in (0..log.metadata().unwrap().len() - 500).step_by(20_000) {
            std::os::unix::fs::FileExt::write_all_at(&log, &[0x5a; 500], at).unwrap();
        }
        assert_eq!(queue(&dir, &["export"]).code, Some(1));
        let said = program.end_dead_or_alive();
        assert_ne!(said.code, Some(0), "{said:?}");
        assert_ne!(said.code, Some(78), "starting again helps: {said:?}");

        let began = now();
        let mut program = Program::start(&args, &[]);
        program.wait_for("listening to the switch");
        assert!(now() - began < UP_WITHIN);
        let rows = exported(&dir).len();
        assert!(rows > 1_000 && rows < 12_000, "{rows}");
        assert_eq!(aside(&dir).len(), 1);
        program.signal("TERM");
        assert_eq!(program.end().code, Some(0));
    }

    /// By hand with more: `DAMAGED_ROWS=1000000 cargo test --release --test promise_damaged_store_starts large --
    /// --nocapture`.
    #[test]
    fn a_large_store_is_up_in_time_and_takes_the_rest_in_while_it_runs() {
        let rows: u64 = std::env::var("DAMAGED_ROWS").map_or(45_000, |given| given.parse().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let bytes = large_and_damaged(dir.path(), rows);
        let (switch, zammad) = (switch(), zammad());
        let (url, address) = (zammad.url(), switch.addr().to_string());
        let args = [&["run"], &flags(&url, &address, dir.path())[..]].concat();
        let began = now();
        let mut program = Program::start(&args, &[]);
        program.wait_for("listening to the switch");
        let took = now() - began;
        assert!(took < UP_WITHIN, "up after {took:?}");
        let first = status(&dir);
        let said = run(&["status", "--state-dir", dir.path().to_str().unwrap()]).out;
        assert!(said.contains("rows are still to be taken in"), "{said}");
        // A call that begins now is told now.
        let call = tell_of_a_call(&switch, "meanwhile");
        assert!(program::wait(|| told(&zammad, &call) == ["newCall", "hangup"]), "{:?}", program.err());
        let (told_after, then) = (now() - began, status(&dir));
        assert!(told_after < UP_WITHIN, "told after {told_after:?}");
        for seen in [&first, &then] {
            assert!(seen["queue"]["taking_in"]["left"].as_u64().is_some_and(|left| left > 0), "{seen}");
        }
        assert_eq!(first["queue"]["taking_in"]["directory"], aside(&dir)[0].to_str().unwrap());
        program.kill();

        let began = now();
        let mut program = Program::start(&args, &[]);
        program.wait_for("listening to the switch");
        let again = now() - began;
        assert!(again < UP_WITHIN, "up again after {again:?}");
        let call = tell_of_a_call(&switch, "afterwards");
        assert!(program::wait(|| told(&zammad, &call) == ["newCall", "hangup"]), "{:?}", program.err());
        let left = || status(&dir)["queue"]["taking_in"]["left"].as_u64();
        let mut before = left();
        println!(
            "{rows} rows in {bytes} bytes: listening after {took:.1?}, a call told after {told_after:.1?}; killed, and \
             listening after {again:.1?}, with {before:?} rows left"
        );
        // As long as it gets on.
        while before.is_some() {
            let some_more = program::wait(|| left().is_none_or(|left| Some(left) < before));
            assert!(some_more, "no more rows are taken in: {before:?} are left");
            before = left();
        }
        program.signal("TERM");
        let said = program.end();
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.err.contains("all that could be read of the damaged store is taken in"), "{said:?}");

        // Every row that can be read of what was set aside is there, once, in its place; and the two calls.
        let (mut there, mut readable) = (BTreeMap::new(), BTreeMap::new());
        let store = Store::open(dir.path(), limits()).unwrap();
        there.extend(
            store.pending_from(Seq(0), usize::MAX).unwrap().into_iter().map(|(seq, row)| (seq, row.id)),
        );
        let pending = there.len();
        let delivered = store.delivered_from(Seq(0), usize::MAX).unwrap().into_iter();
        there.extend(delivered.map(|(seq, row)| (seq, row.pending.id)));
        assert_eq!(there.len() as u64, store.counts().pending + store.counts().delivered);
        relics(&aside(&dir)[0], |relic| match relic {
            Relic::Pending(seq, row) => drop(readable.insert(seq, row.id)),
            Relic::Dead(..) | Relic::Delivered(..) => panic!("there were none: {relic:?}"),
        })
        .unwrap();
        let count = readable.len() as u64;
        assert!(count > rows / 2 && count < rows, "{count} of {rows}");
        assert!(pending > readable.len() / 2, "{pending}");
        let new = there.split_off(&Seq(rows + 1));
        assert!(there == readable, "{} rows, not {count}", there.len());
        assert_eq!(new.len(), 4, "two calls more: {new:?}");
        println!("{count} rows are there");
    }

    #[test]
    fn a_sound_store_is_left_alone() {
        let made = Made::new();
        let dir = made.copy();
        let said = store(&dir, &["verify"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.out.contains("is sound"), "{said:?}");
        let said = store(&dir, &["salvage"]);
        assert_eq!((said.code, said.out.trim()), (Some(0), "it is sound; nothing was done"), "{said:?}");
        assert_eq!(exported(&dir), made.rows);
        assert_eq!(aside(&dir), Vec::<PathBuf>::new());
    }

    #[test]
    fn what_was_set_aside_can_be_taken_in_later_and_nothing_twice() {
        let made = Made::new();
        let (dir, other) = (made.copy(), made.copy());
        known_errors::overwrite(&other.path().join("queue/db"), known_errors::SEGMENT + 20_000, 80_000);
        let said = store(&other, &["verify"]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.sentence().contains("store salvage"), "{said:?}");
        let listed = queue(&other, &["list"]);
        assert_eq!(listed.code, Some(1), "{listed:?}");
        assert!(listed.sentence().contains("store salvage"), "{listed:?}");

        let said = store(&other, &["salvage"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        let aside = aside(&other).remove(0);
        let rows = exported(&other);
        assert!(rows.len() > made.rows.len() / 2 && rows.len() < made.rows.len(), "{}", rows.len());
        // All of it is known there already.
        let before = exported(&dir);
        let said = store(&dir, &["salvage", aside.to_str().unwrap()]);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.out.contains("\"taken_in\":0"), "{said:?}");
        assert_eq!(exported(&dir), before);
        // And into an empty one all of it goes.
        let empty = tempfile::tempdir().unwrap();
        drop(Store::open(empty.path(), limits()).unwrap());
        let said = store(&empty, &["salvage", aside.to_str().unwrap()]);
        assert_eq!(said.code, Some(0), "{said:?}");
        let ids = |rows: &Rows| rows.values().map(|r| r["id"].to_string()).collect::<Vec<_>>();
        let (mut got, mut want) = (ids(&exported(&empty)), ids(&rows));
        got.sort();
        want.sort();
        assert_eq!(got, want);
    }
}

/// Damage that was seen, or that a disk, a person or a power cut does.
mod known_errors {
    use super::*;

    /// What sled writes its log in. The first one is free again in the store that is damaged here.
    pub(crate) const SEGMENT: usize = 512 * 1024;

    /// What is damaged, and what must come of it.
    pub(crate) struct Damage {
        pub(crate) name: &'static str,
        pub(crate) apply: Box<dyn Fn(&Path) + Send>,
        /// The least part of the rows, in percent, that must be there afterwards.
        pub(crate) kept: usize,
        /// Not to be read by the daemon's user.
        pub(crate) forbidden: bool,
    }

    pub(crate) fn all() -> Vec<Damage> {
        let mut all = Vec::new();
        let mut add = |name, kept, apply: Box<dyn Fn(&Path) + Send>| {
            all.push(Damage { name, apply, kept, forbidden: false });
        };
        // The log is whole: nothing may be missing.
        add("snapshot emptied", 100, Box::new(|dir| fs::write(snapshot(dir), "").unwrap()));
        add("snapshot missing", 100, Box::new(|dir| fs::remove_file(snapshot(dir)).unwrap()));
        add("snapshot zeroed", 100, Box::new(|dir| zero(&snapshot(dir), 0, usize::MAX)));
        add("snapshot cut short", 100, Box::new(|dir| cut(&snapshot(dir), 0.5)));
        add("snapshot overwritten", 100, Box::new(|dir| overwrite(&snapshot(dir), 20, 60)));
        add(
            "snapshot half written beside it",
            100,
            Box::new(|dir| {
                fs::write(dir.join("queue/snap.FFFFFFFFFFFFFFFF.generating"), "torn").unwrap();
            }),
        );
        add(
            "a newer snapshot that is none",
            100,
            Box::new(|dir| {
                fs::write(dir.join("queue/snap.7FFFFFFFFFFFFFFF"), [7; 300]).unwrap();
            }),
        );
        add("conf emptied", 100, Box::new(|dir| fs::write(dir.join("queue/conf"), "").unwrap()));
        add("conf missing", 100, Box::new(|dir| fs::remove_file(dir.join("queue/conf")).unwrap()));
        add("conf overwritten", 100, Box::new(|dir| overwrite(&dir.join("queue/conf"), 0, 60)));
        add("conf zeroed", 100, Box::new(|dir| zero(&dir.join("queue/conf"), 0, usize::MAX)));
        add("blobs missing", 100, Box::new(|dir| fs::remove_dir_all(dir.join("queue/blobs")).unwrap()));
        add(
            "foreign files",
            100,
            Box::new(|dir| {
                fs::write(dir.join("queue/README"), "who put me here").unwrap();
                fs::write(dir.join("queue/blobs/notes.txt"), "and me").unwrap();
                fs::create_dir(dir.join("queue/lost+found")).unwrap();
                fs::create_dir(dir.join("queue.part")).unwrap();
                fs::write(dir.join("queue.old"), "a file").unwrap();
            }),
        );
        // sled has had all of it since the store was closed.
        add("journal missing", 100, Box::new(|dir| fs::remove_file(dir.join("queue/journal")).unwrap()));
        add("journal emptied", 100, Box::new(|dir| fs::write(dir.join("queue/journal"), "").unwrap()));
        add("journal zeroed", 100, Box::new(|dir| zero(&dir.join("queue/journal"), 0, usize::MAX)));
        add("journal cut short", 100, Box::new(|dir| cut(&dir.join("queue/journal"), 0.5)));
        add("journal overwritten", 100, Box::new(|dir| overwrite(&dir.join("queue/journal"), 0, 50_000)));
        add(
            "journal is a directory",
            100,
            Box::new(|dir| {
                fs::remove_file(dir.join("queue/journal")).unwrap();
                fs::create_dir(dir.join("queue/journal")).unwrap();
            }),
        );
        add("FORMAT missing", 100, Box::new(|dir| fs::remove_file(dir.join("FORMAT")).unwrap()));
        add("FORMAT garbled", 100, Box::new(|dir| fs::write(dir.join("FORMAT"), [0xff, 0, 9]).unwrap()));
        // The log itself: what was not hit must be there.
        add("log cut short", 60, Box::new(|dir| cut(&dir.join("queue/db"), 0.8)));
        add("log cut short by half", 20, Box::new(|dir| cut(&dir.join("queue/db"), 0.6)));
        add("a segment begins with zeroes", 60, Box::new(|dir| zero(&dir.join("queue/db"), SEGMENT, 4096)));
        add("log zeroed in the middle", 50, Box::new(|dir| zero(&dir.join("queue/db"), 700_000, 70_000)));
        add(
            "log overwritten in the middle",
            50,
            Box::new(|dir| {
                overwrite(&dir.join("queue/db"), SEGMENT + 300_123, 9_000);
            }),
        );
        add(
            "log overwritten at its end",
            50,
            Box::new(|dir| {
                overwrite(&dir.join("queue/db"), 2 * SEGMENT + 250_000, 80_000);
            }),
        );
        add(
            "a bit in every 4 kB turned",
            30,
            Box::new(|dir| {
                let log = dir.join("queue/db");
                let mut bytes = fs::read(&log).unwrap();
                bytes.iter_mut().step_by(16_384).for_each(|byte| *byte ^= 4);
                fs::write(&log, bytes).unwrap();
            }),
        );
        // Nothing can be read: begun anew.
        add("log zeroed", 0, Box::new(|dir| zero(&dir.join("queue/db"), 0, usize::MAX)));
        add("log emptied", 0, Box::new(|dir| fs::write(dir.join("queue/db"), "").unwrap()));
        add("log missing", 0, Box::new(|dir| fs::remove_file(dir.join("queue/db")).unwrap()));
        add(
            "log is a directory",
            0,
            Box::new(|dir| {
                fs::remove_file(dir.join("queue/db")).unwrap();
                fs::create_dir(dir.join("queue/db")).unwrap();
            }),
        );
        add(
            "queue is a file",
            0,
            Box::new(|dir| {
                fs::remove_dir_all(dir.join("queue")).unwrap();
                fs::write(dir.join("queue"), "").unwrap();
            }),
        );
        for (name, file) in [("log of another user", "db"), ("conf of another user", "conf")] {
            all.push(Damage {
                name,
                apply: Box::new(move |dir| {
                    let file = dir.join("queue").join(file);
                    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
                }),
                kept: if file == "db" { 0 } else { 100 },
                forbidden: true,
            });
        }
        all
    }

    fn snapshot(dir: &Path) -> PathBuf {
        let found = fs::read_dir(dir.join("queue")).unwrap().map(|e| e.unwrap().path());
        let is_one = |p: &PathBuf| p.file_name().unwrap().to_str().unwrap().starts_with("snap.");
        found.filter(is_one).max().unwrap()
    }

    fn zero(file: &Path, at: usize, len: usize) {
        let mut bytes = fs::read(file).unwrap();
        let end = at.saturating_add(len).min(bytes.len());
        bytes[at..end].fill(0);
        fs::write(file, bytes).unwrap();
    }

    pub(crate) fn overwrite(file: &Path, at: usize, len: usize) {
        let mut bytes = fs::read(file).unwrap();
        let mut dice = fastrand::Rng::with_seed(at as u64);
        let end = (at + len).min(bytes.len());
        bytes[at..end].fill_with(|| dice.u8(..));
        fs::write(file, bytes).unwrap();
    }

    fn cut(file: &Path, part: f64) {
        let bytes = fs::read(file).unwrap();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let len = (bytes.len() as f64 * part) as usize;
        fs::write(file, &bytes[..len]).unwrap();
    }
}

fn check(made: &Made, switch: &Switch, damage: &known_errors::Damage) {
    let name = damage.name;
    let dir = made.copy();
    (damage.apply)(dir.path());
    let user = (damage.forbidden && is_root()).then_some(NOBODY);
    if let Some(user) = user {
        give_away(dir.path(), user);
    }
    // Nobody takes events: what was in the queue must still be in it.
    let url = format!("http://127.0.0.1:9/api/v1/cti/{TOKEN}");
    let address = switch.addr().to_string();
    let args = [&["run"], &flags(&url, &address, dir.path())[..]].concat();
    let began = now();
    let mut program = Program::start_as(&args, user);
    program.wait_for("listening to the switch");
    let took = now() - began;
    assert!(took < UP_WITHIN, "{name}: up after {took:?}: {}", program.err());
    let rows = exported(&dir);
    program.signal("TERM");
    let said = program.end();
    assert_eq!(said.code, Some(0), "{name}: {said:?}");

    let right = rows.iter().filter(|(seq, row)| made.rows.get(*seq) == Some(*row)).count();
    let same =
        rows.iter().filter(|(seq, row)| made.rows.get(*seq).is_some_and(|m| m["id"] == row["id"])).count();
    assert_eq!(same, rows.len(), "{name}: rows that were never accepted");
    assert!(
        right * 100 >= made.rows.len() * damage.kept,
        "{name}: {right} of {} rows are right: {}",
        made.rows.len(),
        said.err
    );
    // What was set aside is named.
    for aside in aside(&dir) {
        assert!(
            said.err.contains(aside.to_str().unwrap()),
            "{name}: {} not in {}",
            aside.display(),
            said.err
        );
    }
    if right < made.rows.len() {
        assert_eq!(aside(&dir).len(), 1, "{name}: the damaged store is gone: {}", said.err);
    }
}

/// A store of so many rows that wait, damaged in several places: at one of them there may be nothing that is still
/// needed. How large its log is.
fn large_and_damaged(dir: &Path, rows: u64) -> u64 {
    let store = Store::open(dir, limits()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    for group in (0..rows).collect::<Vec<_>>().chunks(1_000) {
        let events = group.iter().map(|n| event(*n)).collect();
        runtime.block_on(store.accept(Accepting { events, state: vec![] })).unwrap();
    }
    runtime.block_on(store.close()).unwrap();
    let log = fs::File::options().write(true).open(dir.join("queue/db")).unwrap();
    let bytes = log.metadata().unwrap().len();
    let mut dice = fastrand::Rng::with_seed(bytes);
    for at in (known_errors::SEGMENT as u64..bytes.saturating_sub(101_000)).step_by(5 * known_errors::SEGMENT)
    {
        let mut noise = vec![0; 100_000];
        dice.fill(&mut noise);
        std::os::unix::fs::FileExt::write_all_at(&log, &noise, at + 1_000).unwrap();
    }
    bytes
}

type Rows = BTreeMap<u64, Value>;

/// A store with a past: events that wait, that were delivered and given up, calls that are remembered.
struct Made {
    dir: tempfile::TempDir,
    rows: Rows,
}

impl Made {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        for round in 0..3 {
            let store = Store::open(dir.path(), limits()).unwrap();
            runtime.block_on(async {
                let calls = round * CALLS / 3..(round + 1) * CALLS / 3;
                for group in calls.collect::<Vec<_>>().chunks(20) {
                    let events = group.iter().map(|n| event(*n)).collect();
                    let remembered = |n: &u64| StateChange {
                        key: format!("main/{n:016x}"),
                        value: (!n.is_multiple_of(3)).then(|| br#"{"legs":[],"calls":[]}"#.to_vec()),
                    };
                    let state = group.iter().map(remembered).collect();
                    let seqs = store.accept(Accepting { events, state }).await.unwrap();
                    let settled = seqs.into_iter().flatten().filter_map(|seq| match seq.0 % 3 {
                        0 => Some(Settle::Delivered { seq, at: UnixMillis(WHEN), note: None }),
                        1 if seq.0 % 7 == 0 => {
                            Some(Settle::Dead { seq, at: UnixMillis(WHEN), story: "refused".into() })
                        }
                        _ => None,
                    });
                    store.settle(settled.collect()).await.unwrap();
                }
                store.close().await.unwrap();
            });
        }
        let rows = exported(&dir);
        assert_eq!(rows.len() as u64, CALLS);
        assert!(fs::metadata(dir.path().join("queue/db")).unwrap().len() > 1_000_000);
        Self { dir, rows }
    }

    fn copy(&self) -> tempfile::TempDir {
        let to = tempfile::tempdir().unwrap();
        copy(self.dir.path(), to.path());
        to
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Every row, by its position.
fn exported(dir: &tempfile::TempDir) -> Rows {
    // A daemon that was started this moment holds the store, but cannot be asked yet.
    let mut said = queue(dir, &["export"]);
    program::wait(|| {
        let answered = !said.err.contains("in use by another process");
        if !answered {
            said = queue(dir, &["export"]);
        }
        answered
    });
    assert_eq!(said.code, Some(0), "{said:?}");
    by_position(&said.out)
}

fn by_position(exported: &str) -> Rows {
    let rows = exported.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.map(|row| (row["seq"].as_u64().unwrap(), row)).collect()
}

/// A caller who gives up, on the switch; its leg.
fn tell_of_a_call(switch: &Switch, name: &str) -> String {
    let recording = common::recording("captures", "in_caller_cancels");
    let recording = Recording::parse(&recording).unwrap().renamed(name).with_core_uuid(&switch.core_uuid());
    RUNTIME.block_on(async {
        switch.wait_subscribed().await;
        switch.play(&recording, Pace::AtOnce).await;
    });
    recording.events().iter().find_map(|event| event.header("Unique-ID")).unwrap()
}

/// What Zammad has been told of that call, in this order.
fn told(zammad: &Zammad, call: &str) -> Vec<String> {
    let about = |seen: &Seen| seen.processed && seen.call_id.as_deref() == Some(call);
    zammad.requests().into_iter().filter(about).filter_map(|seen| seen.event).collect()
}

fn zammad() -> Zammad {
    let _entered = RUNTIME.enter();
    Zammad::start(zammad::Settings { token: TOKEN.into(), ..zammad::Settings::default() }).unwrap()
}

fn status(dir: &tempfile::TempDir) -> Value {
    let said = run(&["status", "--json", "--state-dir", dir.path().to_str().unwrap()]);
    serde_json::from_str(&said.out).unwrap()
}

fn queue(dir: &tempfile::TempDir, args: &[&str]) -> program::Said {
    run(&[&["queue"], args, &["--state-dir", dir.path().to_str().unwrap()]].concat())
}

fn store(dir: &tempfile::TempDir, args: &[&str]) -> program::Said {
    run(&[&["store"], args, &["--state-dir", dir.path().to_str().unwrap()]].concat())
}

/// Directories that were set aside.
fn aside(dir: &tempfile::TempDir) -> Vec<PathBuf> {
    let found = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path());
    found.filter(|p| p.file_name().unwrap().to_str().unwrap().starts_with("queue.damaged-")).collect()
}

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

fn switch() -> Switch {
    let _entered = RUNTIME.enter();
    Switch::start(Settings { password: PASSWORD.into(), ..Settings::default() }).unwrap()
}

const NOBODY: u32 = 65_534;

fn is_root() -> bool {
    let said = Command::new("id").arg("-u").output().unwrap();
    String::from_utf8_lossy(&said.stdout).trim() == "0"
}

/// The directories to that user, the files in them to nobody else than before.
fn give_away(dir: &Path, user: u32) {
    chown(dir, Some(user), Some(user)).unwrap();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            give_away(&entry.path(), user);
        } else if fs::metadata(entry.path()).unwrap().permissions().mode() & 0o777 != 0 {
            chown(entry.path(), Some(user), Some(user)).unwrap();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "how long a start takes is what is tried")]
fn now() -> std::time::Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap()
}

const WHEN: u64 = 1_795_444_000_000;

fn limits() -> Limits {
    let day = Duration::from_secs(86_400);
    Limits {
        delivered_max: 10_000,
        delivered_age: day,
        dead_max: 10_000,
        dead_age: day,
        swap_bytes: u64::MAX,
        together_above: freeswitch_zammad::store::TOGETHER_ABOVE,
    }
}

fn event(n: u64) -> Pending {
    let what = match n % 3 {
        0 => What::NewCall { user: None, queue: Some("Support".into()) },
        1 => What::Answer { answering_number: Some("1001".into()), user: Some("Anton".into()) },
        _ => What::Hangup { cause: Cause::NormalClearing },
    };
    let event = pending::pending(&format!("5c0e3d8e-0000-4000-8000-{n:012}"), what);
    Pending {
        id: format!("call-{n}/event"),
        switch: "main".into(),
        happened: UnixMillis(WHEN + n),
        answered: n % 3 == 2,
        ..event
    }
}
