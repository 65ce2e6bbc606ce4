//! What `status` says of the nodes that share an outbox, and of what is in it.

use serde_json::Value;

use super::text;

/// Nothing where there is no outbox.
pub(super) fn lines(outbox: &Value) -> Vec<String> {
    let fleet = &outbox["fleet"];
    if !fleet.is_object() {
        return vec![];
    }
    let mut lines = Vec::new();
    let age = fleet["figures_age_s"].as_u64();
    match (fleet["reason"].as_str(), age) {
        (Some(why), None) => lines.push(format!("fleet: NOTHING IS KNOWN OF IT: {why}")),
        (Some(why), Some(age)) => {
            lines.push(format!("fleet, as it was {age} s ago: THE OUTBOX IS AWAY: {why}"))
        }
        (None, Some(age)) => lines.push(format!("fleet, {age} s ago:")),
        (None, None) => lines.push("fleet: not looked at yet".to_owned()),
    }
    lines.extend(each(&fleet["zammads"]).map(zammad));
    if fleet["same_name"] == true {
        let name = text(&outbox["node"]);
        lines.push(format!("  ANOTHER NODE IS CALLED {name} TOO: give each its own name in [outbox] node"));
    }
    for one in each(&fleet["nodes"]) {
        lines.push(node(one));
        lines.extend(troubles(one));
    }
    lines
}

fn zammad(one: &Value) -> String {
    let oldest = one["oldest_age_s"].as_u64().map_or(String::new(), |s| format!(", the oldest for {s} s"));
    let kept = one["delivered_kept"].as_u64().map_or("some".to_owned(), |kept| kept.to_string());
    let hand = |hand: &Value| {
        let calls = if hand["calls"] == 1 { "call" } else { "calls" };
        format!("{} has {} {calls}", text(&hand["node"]), hand["calls"])
    };
    let hands: Vec<String> = each(&one["hands"]).map(hand).collect();
    let hands = if hands.is_empty() { "nobody has any now".to_owned() } else { hands.join(", ") };
    format!(
        "  outbox for zammad {}: {} waiting{oldest} ({hands}); {} dead letters, {kept} delivered events kept",
        text(&one["zammad"]),
        one["waiting"],
        one["dead"],
    )
}

fn node(one: &Value) -> String {
    let this = if one["this"] == true { " (this one)" } else { "" };
    let name = format!("  node {}{this}", text(&one["node"]));
    match one["state"].as_str() {
        Some("up") => format!(
            "{name}: up, version {}, {} calls going on, {} events to bring in",
            text(&one["version"]),
            one["calls"].as_u64().unwrap_or_default(),
            one["to_ship"].as_u64().unwrap_or_default()
        ),
        Some("stopped") => format!("{name}: stopped since {}", text(&one["seen"])),
        Some(_) | None => {
            format!("{name}: SILENT since {}; the others go on with what it had", text(&one["seen"]))
        }
    }
}

/// What a node that is up has trouble with.
fn troubles(one: &Value) -> Vec<String> {
    if one["state"] != "up" {
        return vec![];
    }
    let mut lines = Vec::new();
    for switch in each(&one["switches"]).filter(|switch| switch["listening"] != true) {
        lines.push(format!("    switch {}: NO LINK: {}", text(&switch["name"]), text(&switch["reason"])));
    }
    for zammad in each(&one["zammads"]) {
        let name = text(&zammad["name"]);
        if zammad["paused"] == true {
            lines.push(format!("    zammad {name}: PAUSED by an operator, at this node alone"));
        }
        match zammad["link"].as_str() {
            Some("up" | "unasked") | None => {}
            Some("misconfigured") => {
                lines.push(format!("    zammad {name}: NEEDS YOU: {}", text(&zammad["reason"])));
            }
            Some(_) => lines.push(format!("    zammad {name}: AWAY: {}", text(&zammad["reason"]))),
        }
    }
    if one["disk_refuses"] == true {
        lines.push("    its disk takes no events".to_owned());
    }
    lines
}

fn each(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}
