//! `queue`, `pause`, `resume`: what waits, what was delivered, what never could be; and an operator's orders.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::ask::{question, single_answer};
use super::{Common, Failure, print, say};
use crate::edge::clock;
use crate::edge::control::{Kind, Request, Selection};

/// Rows asked for, or given, at once.
const PAGE: usize = 500;
/// Events put back at once.
const PUT_BACK: usize = 5_000;
/// How often `replay --wait` looks.
const WAIT_LOOK: Duration = Duration::from_millis(500);

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
    /// Everything about one event (by its position) or one call (by its callId)
    Show {
        /// Position or callId
        id: String,
    },
    /// Put events back into the queue: dead letters, or delivered ones for a Zammad that has lost them
    Replay {
        /// Every dead letter
        #[arg(long, required_unless_present_any = ["call", "since", "seqs"])]
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
    /// Events at these positions
    seqs: Vec<u64>,
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
        Command::Hold(these) => told(
            common,
            &question(common, Request::Hold { these: these.some()?, held: true })?,
            "wait until released",
        ),
        Command::Release(these) => {
            told(common, &question(common, Request::Hold { these: these.some()?, held: false })?, "go on")
        }
        Command::Delete(these) => {
            told(common, &question(common, Request::Delete { these: these.some()? })?, "forgotten")
        }
        Command::Export { file } => export(common, file.as_ref()),
        Command::Import { file } => import(common, file),
    }
}

pub(super) fn explain(explain: &Explain, common: &Common) -> Result<ExitCode, Failure> {
    let answer = question(common, Request::Explain { call: explain.call.clone() })?;
    let (notes, rows): (Vec<&Value>, Vec<&Value>) = answer.iter().partition(|row| row["body"].is_null());
    if common.json {
        answer.iter().for_each(|line| print(&line.to_string()));
        if !answer.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
    }
    if answer.is_empty() {
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
    Ok(ExitCode::SUCCESS)
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
        if answer["lasts"] == false {
            say("the disk does not take it yet: until it does, a restart forgets it");
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl These {
    fn selection(&self) -> Selection {
        Selection { seqs: self.seqs.clone(), call: self.call.clone() }
    }

    fn some(&self) -> Result<Selection, Failure> {
        if self.seqs.is_empty() && self.call.is_none() {
            return Err(Failure::usage(
                "name events by position, or a call with --call; `queue list` shows both",
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
    let rows = question(common, Request::Show { id: id.to_owned() })?;
    for row in &rows {
        print(&if common.json {
            row.to_string()
        } else {
            serde_json::to_string_pretty(row).unwrap_or_default()
        });
    }
    if rows.is_empty() {
        return Err(Failure::new(format!(
            "nothing is kept under {id:?}; `freeswitch-zammad queue list` shows what waits, `queue list delivered` what has gone"
        )));
    }
    Ok(ExitCode::SUCCESS)
}

fn told(common: &Common, rows: &[Value], verb: &str) -> Result<ExitCode, Failure> {
    for row in rows {
        print(&if common.json { row.to_string() } else { line(row) });
    }
    let events = if rows.len() == 1 { "event" } else { "events" };
    say(&format!("{} {events} {verb}", rows.len()));
    Ok(ExitCode::SUCCESS)
}

/// Page by page where there can be many: it is seen how far it has come, and the daemon does other things in between. The
/// positions are asked for first, so what is refused anew meanwhile is not put back once more.
fn replay(
    common: &Common,
    dead: bool,
    since: Option<u64>,
    these: &Selection,
    dry_run: bool,
) -> Result<Vec<Value>, Failure> {
    let put_back = |these: Selection| question(common, Request::Replay { dead: false, these, dry_run });
    let mut done = if *these == Selection::default() { vec![] } else { put_back(these.clone())? };
    let happened = |row: &Value| {
        let at = row["happened"].as_str()?.parse::<jiff::Timestamp>().ok()?;
        u64::try_from(at.as_millisecond()).ok()
    };
    for (kind, from) in [(Kind::Dead, dead.then_some(0)), (Kind::Delivered, since)] {
        let Some(from) = from else { continue };
        let mut seqs = Vec::new();
        pages(common, kind, usize::MAX, |row| {
            if kind == Kind::Dead || happened(row).is_some_and(|at| at >= from) {
                seqs.extend(row["seq"].as_u64());
            }
            Ok(())
        })?;
        let all = seqs.len();
        for (nth, page) in (1..).zip(seqs.chunks(PUT_BACK)) {
            done.extend(put_back(Selection { seqs: page.to_vec(), call: None })?);
            progress(
                (nth * PUT_BACK).min(all) as u64,
                &format!("of {all} {}", if dry_run { "looked at" } else { "put back" }),
            );
        }
    }
    Ok(done)
}

/// Until none of these events waits any more; says how many do, whenever that has changed.
fn wait_for(rows: &[Value], common: &Common) -> Result<(), Failure> {
    let seqs = || rows.iter().filter_map(|row| row["seq"].as_u64());
    let (Some(first), Some(last)) = (seqs().min(), seqs().max()) else { return Ok(()) };
    let mut shown = None;
    loop {
        let answer = single_answer(common, Request::Waiting { first, last })?;
        let waiting = answer["waiting"].as_u64().unwrap_or_default();
        if shown != Some(waiting) {
            say(&format!("{waiting} of {} still waiting", rows.len()));
            shown = Some(waiting);
        }
        if waiting == 0 {
            return Ok(());
        }
        std::thread::sleep(WAIT_LOOK);
    }
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

/// Every row of a kind, up to `limit`, page by page: neither side holds more than a page.
fn pages(
    common: &Common,
    kind: Kind,
    limit: usize,
    mut take: impl FnMut(&Value) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (mut from, mut left) = (0, limit);
    while left > 0 {
        let wanted = left.min(PAGE);
        let rows = question(common, Request::List { kind, from, limit: wanted })?;
        for row in &rows {
            take(row)?;
        }
        // A page that is not full is the last one.
        let last = rows.last().filter(|_| rows.len() == wanted);
        let Some(last) = last.and_then(|row| row["seq"].as_u64()) else { return Ok(()) };
        from = last + 1;
        left -= rows.len();
    }
    Ok(())
}

fn progress(count: u64, verb: &str) {
    if count.is_multiple_of(10_000) {
        say(&format!("{count} rows {verb} …"));
    }
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
        row["seq"].to_string(),
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
