//! `status`: how the daemon, its links and its queue are.

mod fleet;

use std::process::ExitCode;

use serde_json::Value;

use super::ask::single_answer;
use super::{Common, Failure, print};
use crate::edge::control::Request;

/// Exit code when the daemon is not running: as `systemctl status` has it.
const NOT_RUNNING: u8 = 3;

pub(super) fn run(common: &Common) -> Result<ExitCode, Failure> {
    let all = single_answer(common, Request::Status)?;
    if common.json {
        print(&all.to_string());
    } else {
        for line in lines(&all) {
            print(&line);
        }
    }
    Ok(if all["running"] == true { ExitCode::SUCCESS } else { ExitCode::from(NOT_RUNNING) })
}

fn lines(all: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    let version = text(&all["version"]);
    if all["running"] == true {
        lines.push(format!("freeswitch-zammad {version}, running since {}", text(&all["started"])));
    } else {
        lines.push(format!("freeswitch-zammad {version} is not running; its store says:"));
    }
    for stuck in all["loops"].as_array().into_iter().flatten().filter(|it| it["stuck"] == true) {
        let seconds = stuck["still_ms"].as_u64().unwrap_or_default() / 1000;
        lines.push(format!(
            "STUCK: {} has not moved for {seconds} s; restart the daemon, and report this",
            text(&stuck["name"])
        ));
    }
    for switch in all["switches"].as_array().into_iter().flatten() {
        let name = format!("switch {} ({})", text(&switch["name"]), text(&switch["address"]));
        let since = text(&switch["since"]);
        lines.push(if switch["listening"] == true {
            format!("{name}: listening since {since}, {} events heard", switch["events"])
        } else {
            format!("{name}: NO LINK since {since}: {}", text(&switch["reason"]))
        });
        if switch["losses"] != 0 || switch["skipped"] != 0 || switch["waits_for_disk"] != 0 {
            lines.push(format!(
                "  link lost {} times, {} events skipped as unreadable, {} waits for the disk",
                switch["losses"], switch["skipped"], switch["waits_for_disk"]
            ));
        }
    }
    for backfill in all["backfills"].as_array().into_iter().flatten() {
        lines.push(format!(
            "  unheard calls of {} from {}: {} told for {} gaps, {} files read, {} skipped, {} too many{}",
            text(&backfill["switch"]),
            text(&backfill["dir"]),
            backfill["calls"],
            backfill["gaps"],
            backfill["files"],
            backfill["skipped"],
            backfill["left_out"],
            if backfill["busy"] == true { "; at work" } else { "" }
        ));
        if backfill["lost"] != 0 {
            lines.push(format!("    {} could not be queued and are LOST", backfill["lost"]));
        }
        if let Some(reason) = backfill["reason"].as_str() {
            lines.push(format!("    last in the way: {reason}"));
        }
    }
    lines.extend(outbox(&all["outbox"]));
    lines.extend(fleet::lines(&all["outbox"]));
    for zammad in all["zammads"].as_array().into_iter().flatten() {
        let name = format!("zammad {} ({})", text(&zammad["name"]), text(&zammad["url"]));
        let paused = match (zammad["paused"] == true, all["outbox"].is_object()) {
            (true, true) => ", PAUSED by an operator: here; other nodes go on",
            (true, false) => ", PAUSED by an operator",
            (false, _) => "",
        };
        let since = text(&zammad["since"]);
        lines.push(match zammad["link"].as_str() {
            Some("up") => format!("{name}: answers{paused}"),
            Some("unasked") => format!("{name}: nothing was posted yet; `check --online` asks it{paused}"),
            Some("misconfigured") => {
                format!("{name}: NEEDS YOU since {since}: {}{paused}", text(&zammad["reason"]))
            }
            Some(_) | None => format!("{name}: AWAY since {since}: {}{paused}", text(&zammad["reason"])),
        });
        lines.push(format!(
            "  {} delivered (last {}), {} on the way, {} repeated, {} dead letters, {} hangups of unknown fate",
            zammad["delivered"],
            zammad["last_delivery"].as_str().unwrap_or("never"),
            zammad["in_flight"],
            zammad["repeated"],
            zammad["dead"],
            zammad["ambiguous"]
        ));
    }
    for paused in all["paused"].as_array().into_iter().flatten() {
        lines.push(format!("zammad {}: PAUSED by an operator", text(paused)));
    }
    let queue = &all["queue"];
    let oldest = queue["oldest_age_s"].as_u64().map_or(String::new(), |s| format!(", the oldest for {s} s"));
    lines.push(format!(
        "queue: {} waiting{oldest}; {} dead letters, {} delivered events kept, {} kB on disk",
        queue["waiting"],
        queue["dead"],
        queue["delivered_kept"],
        queue["disk_bytes"].as_u64().unwrap_or_default() / 1000
    ));
    if let Some(why) = queue["disk_refuses"].as_str() {
        lines.push(format!("  NO ROOM FOR EVENTS: {why}; they are kept in memory and tried again"));
    }
    if let Some(directory) = queue["taking_in"]["directory"].as_str() {
        lines.push(format!(
            "  a damaged store was set aside: {directory}; {} of its {} rows are still to be taken in",
            queue["taking_in"]["left"], queue["taking_in"]["rows"]
        ));
    }
    if let Some(calls) = all["calls"].as_object() {
        lines.push(format!(
            "calls: {} going on, {} events accepted",
            calls["going_on"], calls["events_accepted"]
        ));
        if calls["events_unaccepted"] != 0 {
            lines.push(format!("  {} events are not on disk yet", calls["events_unaccepted"]));
        }
        if calls["events_dropped"] != 0 {
            lines.push(format!("  {} EVENTS ARE LOST: there was no room for them", calls["events_dropped"]));
        }
    }
    lines
}

/// A node of a shared outbox, if it is one.
fn outbox(outbox: &Value) -> Vec<String> {
    let (Some(node), Some(_)) = (outbox["node"].as_str(), outbox["shipped"].as_u64()) else { return vec![] };
    let mut lines = vec![match outbox["reason"].as_str() {
        Some(why) => {
            format!("outbox, as node {node}: TAKES NOTHING: {why}; events wait in this node's store")
        }
        None => format!(
            "outbox, as node {node}: {} events brought in (last {}), {} were there already",
            outbox["shipped"],
            outbox["last_shipped"].as_str().unwrap_or("never"),
            outbox["known"]
        ),
    }];
    for share in outbox["shares"].as_array().into_iter().flatten() {
        let zammad = text(&share["zammad"]);
        lines.push(match share["reason"].as_str() {
            Some(why) => format!("  for zammad {zammad}: NOTHING IS TAKEN FROM IT: {why}"),
            None => format!(
                "  for zammad {zammad}: {} events of {} calls are this node's now, {} times some were lost",
                share["events"], share["calls"], share["lost"]
            ),
        });
    }
    lines
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}
