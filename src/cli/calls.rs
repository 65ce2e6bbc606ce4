//! `calls`: what is going on, newest first.

use std::process::ExitCode;

use serde_json::Value;

use super::ask::single_answer;
use super::{Common, Failure, print, say};
use crate::edge::clock;
use crate::edge::control::Request;

pub(super) fn run(common: &Common) -> Result<ExitCode, Failure> {
    let all = single_answer(common, Request::Snapshot { reveal: true })?;
    let calls = all["calls_now"].as_array().map(Vec::as_slice).unwrap_or_default();
    if common.json {
        calls.iter().for_each(|call| print(&call.to_string()));
        return Ok(ExitCode::SUCCESS);
    }
    if all["running"] != true && !calls.is_empty() {
        say("the daemon is not running; when it stopped there were:");
    }
    match calls {
        [] => say("no calls are going on"),
        calls => {
            print(HEADING);
            let now = clock::now().0;
            calls.iter().for_each(|call| print(&line(call, now)));
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) const HEADING: &str =
    "   SINCE  DIR  FROM              TO                STATE     BY                SWITCH    CALL";

/// One call, as far as it goes into a line of the [`HEADING`]'s columns.
pub(super) fn line(call: &Value, now_ms: u64) -> String {
    let text = |key: &str| call[key].as_str().unwrap_or_default();
    let line = format!(
        "{:>8}  {:<3}  {:<16}  {:<16}  {:<8}  {:<16}  {:<8}  {}",
        lasted(call, now_ms),
        text("direction"),
        text("from"),
        text("to"),
        text("state"),
        text("answered_by"),
        text("switch"),
        text("id"),
    );
    line.trim_end().to_owned()
}

/// How long a call has been going on: `4:05`, `1:02:03`.
fn lasted(call: &Value, now_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(call["since_ms"].as_u64().unwrap_or(now_ms)) / 1000;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, minutes, seconds) => format!("{minutes}:{seconds:02}"),
        (hours, minutes, seconds) => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}
