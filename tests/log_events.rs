//! One event has one meaning: every line that the program can log has a name that stays, and one sentence.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/road.rs"]
mod road;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use program::{PASSWORD, Program, TOKEN, flags, run};
use road::{Road, renamed, until};
use serde_json::Value;

#[test]
fn every_event_has_a_name_and_one_sentence() {
    let mut sentences: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let text = fs::read_to_string(&file).unwrap();
        for call in calls(text.split("#[cfg(test)]").next().unwrap()) {
            let texts: Vec<&str> = call.split('"').skip(1).step_by(2).collect();
            let name = call.trim_start().strip_prefix("name: \"").and_then(|rest| rest.split('"').next());
            let name = name.unwrap_or_else(|| panic!("{}: no name: {call}", file.display()));
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            let sentence = (*texts.last().unwrap()).to_owned();
            sentences.entry(name.to_owned()).or_default().insert(sentence.clone());
            names.entry(sentence).or_default().insert(name.to_owned());
        }
    }
    assert!(sentences.len() > 60, "only {} names: it looks in the wrong place", sentences.len());
    for (name, sentences) in sentences {
        assert_eq!(sentences.len(), 1, "{name} means several things: {sentences:?}");
    }
    for (sentence, names) in names {
        assert_eq!(names.len(), 1, "{sentence:?} has several names: {names:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_of_json_and_a_level_that_is_changed_while_it_runs() {
    let road = Road::guarded(PASSWORD, TOKEN);
    let (url, address) = (road.zammad.url(), road.switch.addr().to_string());
    let (state, file) = (road.dir.path().join("state"), road.dir.path().join("config.toml"));
    fs::write(&file, "[log]\nformat = \"json\"\n").unwrap();
    let args = flags(&url, &address, &state);
    let args = [&["run", "--config", file.to_str().unwrap()], &args[..]].concat();
    let mut program = Program::start(&args, &[]);
    program.wait_for("\"event\":\"link_up\"");
    let log = |level: &[&str]| run(&[&["log"], level, &["--state-dir", state.to_str().unwrap()]].concat());
    assert_eq!(log(&[]).out, "info\n");
    let call =
        |suffix: &str| renamed(&road.switch, &common::recording("captures", "in_caller_cancels"), suffix);
    road.play(&call("quiet")).await;
    road.all_ended(1).await;
    assert!(!program.err().contains("\"level\":\"DEBUG\""), "{}", program.err());

    assert_eq!(log(&["debug"]).out, "debug (before: info)\n");
    assert_eq!(log(&["--json"]).out, "{\"before\":null,\"level\":\"debug\"}\n");
    road.play(&call("loud")).await;
    program.wait_for("\"event\":\"event_delivered\"");
    let bad = log(&["loud"]);
    assert_eq!(bad.code, Some(1), "{bad:?}");
    assert!(bad.err.contains("is no log level"), "{bad:?}");
    assert_eq!(log(&["error"]).out, "error (before: debug)\n");
    program.signal("HUP");
    until("the configured level holds again", || log(&[]).out == "info\n").await;
    program.signal("TERM");
    let said = program.end();
    assert_eq!(said.code, Some(0), "{said:?}");
    for line in said.err.lines() {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"));
        assert!(
            event["time"].is_string() && event["level"].is_string() && event["message"].is_string(),
            "{line}"
        );
    }
    let stopped = log(&["debug"]);
    assert_eq!(stopped.code, Some(1));
    assert!(stopped.err.contains("not running"), "{stopped:?}");
}

/// What stands between the brackets of each call that logs.
fn calls(text: &str) -> Vec<&str> {
    let mut calls = Vec::new();
    for level in ["trace!(", "debug!(", "info!(", "warn!(", "error!("] {
        for (at, _) in text.match_indices(level) {
            if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let rest = &text[at + level.len()..];
            let (mut depth, mut quoted, mut escaped) = (1, false, false);
            let end = rest.find(|c: char| {
                match c {
                    _ if escaped => escaped = false,
                    '\\' if quoted => escaped = true,
                    '"' => quoted = !quoted,
                    '(' if !quoted => depth += 1,
                    ')' if !quoted => depth -= 1,
                    _ => {}
                }
                depth == 0
            });
            calls.push(&rest[..end.unwrap()]);
        }
    }
    calls
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("sim") {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}
