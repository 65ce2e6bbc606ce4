//! `queue`, `pause`, `resume`: what waits, what was delivered, what never could be; and an operator's orders.
//!
//! Where there is a shared outbox its rows stand behind those of this node's store, with the same words: nobody has to know
//! beforehand where an event is. They have no position; their id names them, at every node.

mod places;

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::ask::{question, single_answer};
use super::{Common, Failure, print, say};
use crate::edge::clock;
use crate::edge::control::{Kind, Request, Selection};
use crate::edge::desk::Ask;
use places::{ordered, pages, progress, replay, shown, wait_for};

/// Rows asked for, or given, at once.
const PAGE: usize = 500;

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
    },
    /// Everything about one event (by its position or id) or one call (by its callId)
    Show {
        /// Position, id or callId
        id: String,
    },
    /// Put events back into the queue: dead letters, or delivered ones for a Zammad that has lost them
    Replay {
        /// Every dead letter
        #[arg(long, required_unless_present_any = ["call", "since", "events"])]
        dead: bool,
        /// Delivered events since then, for a Zammad restored from a backup: `2026-11-23 08:00`, `2h`, or RFC 3339.
        /// Calls that Zammad still has are left alone.
        #[arg(long, value_name = "T")]
        since: Option<String>,
        #[command(flatten)]
        these: These,
        /// Only say what would be put back
        #[arg(long)]
        dry_run: bool,
        /// Stay until none of them waits any more, and say how many still do
        #[arg(long, conflicts_with = "dry_run")]
        wait: bool,
    },
    /// Make events wait
    Hold(These),
    /// Let held events go on
    Release(These),
    /// Forget events, whatever became of them
    Delete(These),
    /// Every row as JSON lines, whole: to standard output, or to a file
    Export {
        /// Where to; standard output without one
        file: Option<PathBuf>,
    },
    /// Take exported rows in; those that are known already are passed over
    Import {
        /// The file; `-` reads standard input
        file: PathBuf,
    },
}

#[derive(Args)]
struct These {
    /// Events of this call
    #[arg(long, value_name = "CALLID")]
    call: Option<String>,
    /// Events at these positions, or with these ids, as `queue show` shows them
    #[arg(value_name = "SEQ|ID")]
    events: Vec<String>,
}

#[derive(Args)]
pub(super) struct Explain {
    /// The call's callId, as `queue list delivered` shows it
    call: String,
}

#[derive(Args)]
pub(super) struct Pause {
    /// Which Zammad; all without one
    zammad: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Which {
    Pending,
    Dead,
    Delivered,
}

pub(super) fn run(queue: &Queue, common: &Common) -> Result<ExitCode, Failure> {
    match &queue.command {
        Command::List { which, limit } => list(common, kind(*which), *limit),
        Command::Show { id } => show(common, id),
        Command::Replay { dead, since, these, dry_run, wait } => {
            if *wait && single_answer(common, Request::Status)?["running"] != true {
                return Err(Failure::new(
                    "the daemon is not running, so --wait would never end; start it, or leave --wait out",
                ));
            }
            let since = since.as_deref().map(moment).transpose()?;
            let rows = replay(common, *dead, since, &these.selection(), *dry_run)?;
            let verb = if *dry_run { "would be put back" } else { "put back into the queue" };
            let code = told(common, &rows, verb)?;
            if *wait {
                wait_for(&rows, common)?;
            }
            Ok(code)
        }
        Command::Hold(these) => told(common, &hold(common, these, true)?, "wait until released"),
        Command::Release(these) => told(common, &hold(common, these, false)?, "go on"),
        Command::Delete(these) => {
            let these = these.some()?;
            let ask = Ask::Delete { these: these.clone() };
            told(
                common,
                &ordered(common, &these, ask, Request::Delete { these: these.clone() })?,
                "forgotten",
            )
        }
        Command::Export { file } => export(common, file.as_ref()),
        Command::Import { file } => import(common, file),
    }
}

pub(super) fn explain(explain: &Explain, common: &Common) -> Result<ExitCode, Failure> {
    let mut answer = question(common, Request::Explain { call: explain.call.clone() })?;
    let shared = shown(common, &mut answer, &explain.call);
    let (notes, rows): (Vec<&Value>, Vec<&Value>) = answer.iter().partition(|row| row["body"].is_null());
    if common.json {
        answer.iter().for_each(|line| print(&line.to_string()));
        if !answer.is_empty() {
            return shared.map(|()| ExitCode::SUCCESS);
        }
    }
    if answer.is_empty() {
        shared?;
        return Err(Failure::new(format!(
            "nothing is known of call {:?}; `queue list delivered` shows calls that were told lately",
            explain.call
        )));
    }
    for note in notes {
        print(note["note"].as_str().unwrap_or_default());
    }
    if !rows.is_empty() {
        print("");
        print(&format!("{:<10} {}", "STATE", *HEADING));
    }
    for row in rows {
        print(&format!("{:<10} {}", row["state"].as_str().unwrap_or_default(), line(row)));
    }
    shared.map(|()| ExitCode::SUCCESS)
}

fn hold(common: &Common, these: &These, held: bool) -> Result<Vec<Value>, Failure> {
    let these = these.some()?;
    let ask = Ask::Hold { these: these.clone(), held };
    ordered(common, &these, ask, Request::Hold { these: these.clone(), held })
}

pub(super) fn pause(pause: &Pause, paused: bool, common: &Common) -> Result<ExitCode, Failure> {
    for answer in question(common, Request::Pause { zammad: pause.zammad.clone(), paused })? {
        let name = answer["zammad"].as_str().unwrap_or_default();
        print(&if common.json {
            answer.to_string()
        } else if paused {
            format!("zammad {name}: paused; events wait until `resume`")
        } else {
            format!("zammad {name}: goes on")
        });
        if answer["others_go_on"] == true {
            say(
                "this holds for this node: other nodes go on with what is in the outbox; pause them too to stop all posting",
            );
        }
        if answer["lasts"] == false {
            say("the disk does not take it yet: until it does, a restart forgets it");
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl These {
    fn selection(&self) -> Selection {
        let (mut seqs, mut ids) = (Vec::new(), Vec::new());
        for event in &self.events {
            match event.parse() {
                Ok(seq) => seqs.push(seq),
                Err(_) => ids.push(event.clone()),
            }
        }
        Selection { seqs, ids, call: self.call.clone() }
    }

    fn some(&self) -> Result<Selection, Failure> {
        if self.events.is_empty() && self.call.is_none() {
            return Err(Failure::usage(
                "name events by position or id, or a call with --call; `queue list` and `queue show` show them",
            ));
        }
        Ok(self.selection())
    }
}

const fn kind(which: Which) -> Kind {
    match which {
        Which::Pending => Kind::Pending,
        Which::Dead => Kind::Dead,
        Which::Delivered => Kind::Delivered,
    }
}

fn list(common: &Common, kind: Kind, limit: usize) -> Result<ExitCode, Failure> {
    let json = common.json;
    let mut count = 0;
    pages(common, kind, limit, |row| {
        if count == 0 && !json {
            print(&HEADING);
        }
        count += 1;
        print(&if json { row.to_string() } else { line(row) });
        Ok(())
    })?;
    if count == 0 && !json {
        say("none");
    }
    Ok(ExitCode::SUCCESS)
}

fn show(common: &Common, id: &str) -> Result<ExitCode, Failure> {
    let mut rows = question(common, Request::Show { id: id.to_owned() })?;
    let shared = shown(common, &mut rows, id);
    for row in &rows {
        print(&if common.json {
            row.to_string()
        } else {
            serde_json::to_string_pretty(row).unwrap_or_default()
        });
    }
    if rows.is_empty() {
        shared?;
        return Err(Failure::new(format!(
            "nothing is kept under {id:?}; `freeswitch-zammad queue list` shows what waits, `queue list delivered` what has gone"
        )));
    }
    shared.map(|()| ExitCode::SUCCESS)
}

fn told(common: &Common, rows: &[Value], verb: &str) -> Result<ExitCode, Failure> {
    for row in rows {
        print(&if common.json { row.to_string() } else { line(row) });
    }
    let events = if rows.len() == 1 { "event" } else { "events" };
    say(&format!("{} {events} {verb}", rows.len()));
    Ok(ExitCode::SUCCESS)
}

fn export(common: &Common, file: Option<&PathBuf>) -> Result<ExitCode, Failure> {
    let mut out: Box<dyn Write> = match file {
        None => Box::new(std::io::stdout().lock()),
        Some(path) => Box::new(std::fs::File::create_new(path).map_err(|why| {
            Failure::new(format!("{}: {why}; name a file that does not exist yet", path.display()))
        })?),
    };
    let mut count = 0_u64;
    for kind in [Kind::Delivered, Kind::Dead, Kind::Pending] {
        pages(common, kind, usize::MAX, |row| {
            count += 1;
            progress(count, "exported");
            writeln!(out, "{row}").map_err(|why| Failure::new(format!("the export cannot be written: {why}")))
        })?;
    }
    out.flush().map_err(|why| Failure::new(format!("the export cannot be written: {why}")))?;
    say(&format!("{count} rows exported; they hold telephone numbers"));
    Ok(ExitCode::SUCCESS)
}

fn import(common: &Common, file: &PathBuf) -> Result<ExitCode, Failure> {
    let input: Box<dyn BufRead> = if file.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        let opened = std::fs::File::open(file);
        let opened =
            opened.map_err(|why| Failure::new(format!("{}: {why}; name an export", file.display())))?;
        Box::new(std::io::BufReader::new(opened))
    };
    let (mut rows, mut given, mut taken) = (Vec::new(), 0_u64, 0);
    for (number, text) in (1_u64..).zip(input.lines()) {
        let bad = |why: &dyn std::fmt::Display| {
            Failure::new(format!(
                "{}, line {number}: {why}; {taken} rows were taken in before it",
                file.display()
            ))
        };
        let text = text.map_err(|why| bad(&why))?;
        if text.trim().is_empty() {
            continue;
        }
        rows.push(serde_json::from_str(&text).map_err(|why| bad(&format!("no JSON ({why})")))?);
        given += 1;
        if rows.len() == PAGE {
            taken += question(common, Request::Import { rows: std::mem::take(&mut rows) })?.len();
            progress(given, "read");
        }
    }
    taken += question(common, Request::Import { rows })?.len();
    if common.json {
        print(&json!({ "read": given, "taken_in": taken }).to_string());
    }
    say(&format!("{taken} of {given} rows taken in; the others were known"));
    Ok(ExitCode::SUCCESS)
}

/// `2h` (ago), `2026-11-23 08:00` (here), or RFC 3339, in ms since 1970.
fn moment(text: &str) -> Result<u64, Failure> {
    let ago = text.parse::<jiff::Span>().ok().and_then(|span| {
        let now = jiff::Timestamp::from_millisecond(i64::try_from(clock::now().0).ok()?).ok()?;
        let here = now.to_zoned_datetime(jiff::tz::TimeZone::system());
        here.checked_sub(span.abs()).ok().map(|then| then.timestamp())
    });
    let exact = || text.parse::<jiff::Timestamp>().ok();
    let here = || {
        let civil = text.parse::<jiff::civil::DateTime>().ok()?;
        civil.to_zoned_datetime(jiff::tz::TimeZone::system()).ok().map(|then| then.timestamp())
    };
    let then = ago.or_else(exact).or_else(here);
    then.and_then(|t| u64::try_from(t.as_millisecond()).ok()).ok_or_else(|| {
        Failure::usage(format!(
            "{text:?} is no moment; write 2h, 3d, \"2026-11-23 08:00\" or 2026-11-23T08:00:00Z"
        ))
    })
}

static HEADING: LazyLock<String> = LazyLock::new(|| {
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
    let held = if row["held"] == true { "HELD" } else { "" };
    let after = ["story", "note"].iter().find_map(|key| row[key].as_str()).unwrap_or(held);
    let line = format!(
        "{:>6}  {:<24}  {:<7}  {:<3}  {:<16}  {:<16}  {}  {detail}  {}",
        row["seq"].as_u64().map_or_else(|| text(&row["in"]), |seq| seq.to_string()),
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
