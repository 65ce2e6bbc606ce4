//! `queue`: what waits, what was delivered, what never could be; and putting dead letters back.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use super::{Common, Failure, print, runtime, say};
use crate::config::{Config, Needs};
use crate::daemon::limits;
use crate::edge::control::{self, Kind, Request};
use crate::store::Store;

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
    let answer = runtime()?.block_on(async {
        let asked = control::ask(&config.state_dir, &request).await;
        match asked.map_err(|why| Failure::new(format!("the daemon's control socket fails: {why}")))? {
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
    if !config.state_dir.join("FORMAT").exists() {
        return Err(Failure::new(format!(
            "there is no store in {}; name the daemon's directory with --state-dir",
            config.state_dir.display()
        )));
    }
    let store = Store::open(&config.state_dir, limits(config)).map_err(Failure::new)?;
    let answer = control::answer(&store, None, request).await.map_err(Failure::new)?;
    store.close().await.map_err(Failure::new)?;
    Ok(answer)
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
