//! What was told, held against what a person watching would have said.
#![allow(dead_code, reason = "each test is a crate of its own, and not every one needs every helper")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;

/// How the bodies of all events that were told differ from the calls that are expected; empty if they do not.
pub(crate) fn problems(told: &[Value], want: &[Value]) -> Vec<String> {
    let mut calls: Vec<Vec<&Value>> = Vec::new();
    for event in told {
        match calls.iter_mut().find(|c| c[0]["callId"] == event["callId"]) {
            Some(call) => call.push(event),
            None => calls.push(vec![event]),
        }
    }
    if calls.len() != want.len() {
        return vec![format!("{} calls, expected {}", calls.len(), want.len())];
    }
    let mut left: Vec<&Value> = want.iter().collect();
    let mut problems = Vec::new();
    for call in calls {
        let likeness = |w: &&Value| {
            [("direction", 4), ("to", 2), ("from", 1)]
                .iter()
                .map(|(k, n)| i32::from(fits(&call[0][*k], &w[*k])) * n)
                .sum::<i32>()
        };
        let best = (0..left.len()).max_by_key(|at| likeness(&left[*at])).unwrap();
        problems.extend(differences(&call, left.remove(best)));
    }
    problems
}

fn differences(call: &[&Value], want: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let kinds: Vec<&str> = call.iter().map(|e| e["event"].as_str().unwrap()).collect();
    let count = |kind| kinds.iter().filter(|k| **k == kind).count();
    if kinds[0] != "newCall"
        || count("newCall") != 1
        || *kinds.last().unwrap() != "hangup"
        || count("hangup") != 1
    {
        wrong.push(format!("the order is {kinds:?}"));
    }
    for key in ["direction", "from", "to"] {
        if call.iter().any(|e| e[key] != call[0][key]) {
            wrong.push(format!("{key} changes within the call"));
        }
        if !fits(&call[0][key], &want[key]) {
            wrong.push(format!("{key} is {}, expected {}", call[0][key], want[key]));
        }
    }
    let answers: Vec<&&Value> = call.iter().filter(|e| e["event"] == "answer").collect();
    if want["direction"] == "in" {
        let by = |e: &&&Value| {
            if e["user"] == "voicemail" { "voicemail".into() } else { e["answeringNumber"].clone() }
        };
        let got = Value::Array(answers.iter().map(by).collect());
        let choice = want["answers"].as_array().unwrap();
        let right =
            if choice.iter().any(Value::is_array) { choice.contains(&got) } else { want["answers"] == got };
        if !right {
            wrong.push(format!("answered by {got}, expected {}", want["answers"]));
        }
    } else {
        if answers.len() != usize::from(want["answered"] == true) {
            wrong.push(format!("{} answers, answered is {}", answers.len(), want["answered"]));
        }
        if answers.iter().any(|e| e.get("user").is_some()) {
            wrong.push("a user on an outbound answer".into());
        }
    }
    let cause = &call.last().unwrap()["cause"];
    if !fits(cause, &want["cause"]) {
        wrong.push(format!("cause {cause}, expected {}", want["cause"]));
    }
    wrong
}

/// A list is a choice of right values.
fn fits(got: &Value, want: &Value) -> bool {
    want.as_array().map_or(got == want, |choice| choice.contains(got))
}
