//! `store`: is the store sound, and what can be read of a damaged one.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::ask::{leave_to_owner, question, take_in_rest};
use super::{Common, Failure, print, runtime, say};
use crate::config::Needs;
use crate::daemon::limits;
use crate::edge::control::Request;
use crate::edge::heal::{self, Finding, Health};
use crate::edge::{process, rows};
use crate::store::{self, Relic};

/// Rows handed over at once.
const PAGE: usize = 500;

#[derive(Args)]
pub(super) struct Store {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Read every row of the store of a stopped daemon, and say whether it is sound
    Verify,
    /// Set a damaged store aside and begin anew with what can be read of it; or take what can be read of DIR into the
    /// queue
    Salvage {
        /// A directory that was set aside, queue.damaged-…, or sled's directory of any store that is not in use
        dir: Option<PathBuf>,
        /// Only say what would be taken in from DIR: one JSON object a row, as `queue export` writes them
        #[arg(long, requires = "dir")]
        dry_run: bool,
    },
    /// What `verify` and the daemon's start have done by a process that may be lost
    #[command(hide = true)]
    Probe {
        /// The state directory
        state_dir: PathBuf,
        /// Read no longer than this
        #[arg(long)]
        budget_ms: Option<u64>,
        /// End with this process, which asks
        #[arg(long = "for", value_name = "PID")]
        parent: Option<u32>,
    },
}

pub(super) fn run(store: &Store, common: &Common) -> Result<ExitCode, Failure> {
    match &store.command {
        Command::Verify => verify(common),
        Command::Salvage { dir: None, dry_run: _ } => salvage(common),
        Command::Salvage { dir: Some(dir), dry_run } => take_in(common, dir, *dry_run),
        Command::Probe { state_dir, budget_ms, parent } => {
            parent.map_or(Ok(()), process::end_with).map_err(Failure::new)?;
            let finding = heal::examine(state_dir, budget_ms.map(Duration::from_millis));
            print(&serde_json::to_string(&finding).unwrap_or_default());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn verify(common: &Common) -> Result<ExitCode, Failure> {
    let as_json = common.json;
    let dir = state_dir(common)?;
    let finding = heal::ask_child(&program()?, &dir, None);
    if as_json {
        print(&serde_json::to_string(&finding).unwrap_or_default());
    }
    match finding {
        Finding::Sound { rows, damaged, examples, whole: _ } => {
            if !as_json {
                print(&format!(
                    "the store in {} is sound: {rows} rows, {damaged} of them damaged",
                    dir.display()
                ));
                examples.iter().for_each(|example| print(&format!("  {example}")));
            }
            Ok(if damaged == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Finding::Damaged { why } | Finding::Forbidden { why } => Err(Failure::new(format!(
            "{why}; start the daemon, which sets it aside and goes on with what can be read, or run `store salvage`"
        ))),
        Finding::Refused { why } => Err(Failure::new(why)),
    }
}

fn salvage(common: &Common) -> Result<ExitCode, Failure> {
    let dir = state_dir(common)?;
    say("reading the store …");
    let mut progress = |done, of| say(&format!("{done} of {of} rows written anew …"));
    match heal::make_sound(&program()?, &dir, u64::MAX, &mut progress).map_err(Failure::new)? {
        Health::Salvaged { why, what, rest: _ } if common.json => {
            print(
                &json!({
                    "damaged": why, "aside": what.aside.display().to_string(), "unreadable": what.unreadable,
                    "waiting": what.found.pending, "dead": what.found.dead, "delivered": what.found.delivered,
                    "waiting_counted": what.counted.map(|c| c.pending),
                })
                .to_string(),
            );
            Ok(if what.unreadable.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Health::Salvaged { why, what, rest: _ } => {
            print(&format!("it was damaged: {why}"));
            print(&format!("set aside: {}", what.aside.display()));
            if let Some(why) = what.unreadable {
                return Err(Failure::new(format!("nothing of it can be read: {why}")));
            }
            let waited =
                what.counted.map_or(String::new(), |c| format!(" of {} that it had counted", c.pending));
            print(&format!(
                "begun anew: {} waiting{waited}, {} dead letters, {} delivered",
                what.found.pending, what.found.dead, what.found.delivered
            ));
            Ok(ExitCode::SUCCESS)
        }
        Health::Fine(Some(Finding::Refused { why })) => Err(Failure::new(why)),
        Health::Fine(Some(Finding::Sound { .. })) if finish(common, &dir)? => {
            let said = if common.json { r#"{"damaged":null,"finished":true}"# } else { FINISHED };
            print(said);
            Ok(ExitCode::SUCCESS)
        }
        Health::Fine(_) => {
            print(if common.json { r#"{"damaged":null}"# } else { "it is sound; nothing was done" });
            Ok(ExitCode::SUCCESS)
        }
    }
}

const FINISHED: &str = "what was left of a damaged store that was set aside is taken in";

/// Takes in what a daemon that was stopped had not yet of a damaged store. Whether there was anything.
fn finish(common: &Common, dir: &Path) -> Result<bool, Failure> {
    let config = common.load(Needs::Calls)?.config;
    runtime()?.block_on(async {
        let store = store::Store::open(dir, limits(&config)).map_err(Failure::new)?;
        let there_was = store.taking_in().is_some();
        take_in_rest(&store).await;
        store.close().await.map_err(Failure::new)?;
        leave_to_owner(dir);
        Ok(there_was)
    })
}

/// The rows of a directory that was set aside go the way of an import: what is known already is passed over.
fn take_in(common: &Common, dir: &Path, dry_run: bool) -> Result<ExitCode, Failure> {
    let log = if dir.join("db").exists() { dir.to_owned() } else { dir.join("queue") };
    let mut found: Vec<Value> = Vec::new();
    say(&format!("reading {} …", log.display()));
    let read = store::relics(&log, |relic| {
        found.push(match relic {
            Relic::Pending(seq, row) => rows::pending(seq, &row),
            Relic::Dead(seq, row) => rows::dead(seq, &row),
            Relic::Delivered(seq, row) => rows::delivered(seq, &row),
        });
    });
    read.map_err(|why| {
        Failure::new(format!("{}: {why}; name a directory that was set aside", dir.display()))
    })?;
    if dry_run {
        found.iter().for_each(|row| print(&row.to_string()));
        say(&format!("{} rows can be read; they hold telephone numbers", found.len()));
        return Ok(ExitCode::SUCCESS);
    }
    let (all, mut taken, mut done) = (found.len(), 0, 0);
    while !found.is_empty() {
        let rest = found.split_off(PAGE.min(found.len()));
        let page = std::mem::replace(&mut found, rest);
        done += page.len();
        taken += question(common, Request::Import { rows: page })?.len();
        say(&format!("{done} of {all} rows read, {taken} taken in"));
    }
    print(&json!({ "read": all, "taken_in": taken }).to_string());
    Ok(ExitCode::SUCCESS)
}

fn state_dir(common: &Common) -> Result<PathBuf, Failure> {
    let dir = common.load(Needs::Calls)?.config.state_dir;
    if !store::exists(&dir) {
        return Err(Failure::new(format!(
            "there is no store in {}; name the daemon's directory with --state-dir",
            dir.display()
        )));
    }
    Ok(dir)
}

pub(super) fn program() -> Result<PathBuf, Failure> {
    std::env::current_exe()
        .map_err(|why| Failure::new(format!("this program's own file is not known: {why}")))
}
