//! `queue`: what waits, what was delivered, what never could be; and putting dead letters back.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use super::{Common, Failure, print, runtime, say};
use crate::config::{Config, Needs};
use crate::daemon::limits;
use crate::edge::control::{self, Kind, Request};
use crate::store::{Store, StoreError};

#[derive(Args)]
pub(super) struct Queue {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Events that wait, oldest first; or dead letters, or delivered ones
    List {
        /// Which
        #[arg(value_enum, default_value_t = Which::Pending)]
        which: Which,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// As JSON lines
        #[arg(long)]
        json: bool,
    },
    /// Everything about one event (by its position) or one call (by its callId)
    Show {
        /// Position or callId
        id: String,
    },
    /// Put dead letters back into the queue
    Replay {
        /// Every dead letter
        #[arg(long, required_unless_present_any = ["call", "seqs"])]
        dead: bool,
        /// Only those of this call
        #[arg(long, value_name = "CALLID")]
        call: Option<String>,
        /// Only those at these positions
        seqs: Vec<u64>,
        /// Only say what would be put back
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Which {
    Pending,
    Dead,
    Delivered,
}

pub(super) fn run(queue: &Queue, common: &Common) -> Result<ExitCode, Failure> {
    match &queue.command {
        Command::List { which, limit, json } => {
            let kind = match which {
                Which::Pending => Kind::Pending,
                Which::Dead => Kind::Dead,
                Which::Delivered => Kind::Delivered,
            };
            let rows = question(common, Request::List { kind, limit: *limit })?;
            if !json && !rows.is_empty() {
                print(&HEADING);
            }
            for row in &rows {
                print(&if *json { row.to_string() } else { line(row) });
            }
            if rows.is_empty() && !json {
                say("none");
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Show { id } => {
            let rows = question(common, Request::Show { id: id.clone() })?;
            for row in &rows {
                print(&serde_json::to_string_pretty(row).unwrap_or_default());
            }
            if rows.is_empty() {
                return Err(Failure::new(format!(
                    "nothing is kept under {id:?}; `freeswitch-zammad queue list` shows what waits, `queue list delivered` what has gone"
                )));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Replay { dead: _, call, seqs, dry_run } => {
            let request = Request::Replay { call: call.clone(), seqs: seqs.clone(), dry_run: *dry_run };
            let rows = question(common, request)?;
            for row in &rows {
                print(&line(row));
            }
            let done = if *dry_run { "would be put back" } else { "put back into the queue" };
            say(&format!("{} dead letters {done}", rows.len()));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Asks the running daemon or, if none runs, the store itself.
pub(super) fn question(common: &Common, request: Request) -> Result<Vec<Value>, Failure> {
    let config = common.load(Needs::Calls)?.config;
    let answer =
        runtime()?.block_on(async {
            let asked = control::ask(&config.state_dir, &request).await;
            match asked.map_err(|why| Failure::new(match why.kind() {
            ErrorKind::PermissionDenied => format!(
                "the daemon's control socket in {}: {why}; ask as the user that it runs as, or as root",
                config.state_dir.display()
            ),
            _ => format!("the daemon did not answer whole: {why}; ask again"),
        }))? {
            Some(answer) => Ok(answer),
            None => from_store(&config, request).await,
        }
        })?;
    match answer.first().and_then(|a| a["error"].as_str()) {
        Some(why) => Err(Failure::new(why)),
        None => Ok(answer),
    }
}

async fn from_store(config: &Config, request: Request) -> Result<Vec<Value>, Failure> {
    // Looking must not create: a mistyped directory would look like an empty queue.
    let dir = &config.state_dir;
    match dir.join("FORMAT").try_exists() {
        Ok(true) => {}
        Ok(false) => {
            return Err(Failure::new(format!(
                "there is no store in {}; name the daemon's directory with --state-dir",
                dir.display()
            )));
        }
        Err(why) => {
            return Err(Failure::new(format!(
                "{}: {why}; ask as the user that the daemon runs as, or as root",
                dir.display()
            )));
        }
    }
    let store = Store::open(dir, limits(config)).map_err(unopened)?;
    let answer = control::answer(&store, None, request).await.map_err(Failure::new)?;
    store.close().await.map_err(Failure::new)?;
    leave_to_owner(dir);
    Ok(answer)
}

fn unopened(why: StoreError) -> Failure {
    if why.is_permanent() { Failure::permanent(why) } else { Failure::new(why) }
}

/// Files that root made while it looked are given to whose directory it is: the daemon must still be able to write
/// them. Not root, this cannot be needed and is refused.
fn leave_to_owner(dir: &Path) {
    let Ok(owner) = fs::metadata(dir) else { return };
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(about) = entry.metadata() else { continue };
            if about.uid() != owner.uid() {
                // Refused, it stays as it is; the daemon says what it cannot write.
                let _ = lchown(entry.path(), Some(owner.uid()), Some(owner.gid()));
            }
            if about.is_dir() {
                folders.push(entry.path());
            }
        }
    }
}

static HEADING: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
    format!(
        "{:>6}  {:<24}  {:<7}  {:<3}  {:<16}  {:<16}  CALL",
        "SEQ", "HAPPENED", "EVENT", "DIR", "FROM", "TO"
    )
});

fn line(row: &Value) -> String {
    let body = &row["body"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let detail =
        ["cause", "user", "answeringNumber"].iter().find_map(|key| body[key].as_str()).unwrap_or_default();
    let after = ["story", "note"].iter().find_map(|key| row[key].as_str()).unwrap_or_default();
    let line = format!(
        "{:>6}  {:<24}  {:<7}  {:<3}  {:<16}  {:<16}  {}  {detail}  {}",
        row["seq"],
        text(&row["happened"]),
        text(&body["event"]),
        text(&body["direction"]),
        text(&body["from"]),
        text(&body["to"]),
        text(&body["callId"]),
        after.lines().last().unwrap_or_default()
    );
    line.trim_end().to_owned()
}
