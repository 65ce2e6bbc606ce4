//! The simulated Zammad says and does what the real one was recorded to say and do.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;

use std::collections::HashMap;
use std::time::Duration;

use freeswitch_zammad::sim::zammad::{Answer, Fault, Routing, Row, Settings, Zammad};
use reqwest::{Client, Response};
use serde_json::{Value, json};

#[tokio::test]
async fn answers_and_logs_as_zammad_did() {
    let exchanges = common::json("zammad/exchanges.json");
    let exchanges = exchanges.as_array().unwrap();
    assert!(exchanges.len() >= 45, "only {} exchanges", exchanges.len());
    let mut steps = 0;
    for exchange in exchanges {
        let name = exchange["name"].as_str().unwrap();
        let zammad = Zammad::start(set_up(exchange)).unwrap();
        let path = exchange["path"].as_str().unwrap_or("/api/v1/cti/TOKEN");
        let url = format!("{}{path}", zammad.base_url());
        for step in exchange["steps"].as_array().unwrap() {
            let at = format!("{name}, step {}", step["request"]);
            let mut post = client().post(&url);
            let accept = exchange["headers"]["Accept"].as_str().unwrap_or("application/json");
            post = post.header("Accept", accept);
            post = match step["request"].as_str().and_then(|text| text.strip_prefix("form: ")) {
                Some(form) => {
                    post.header("Content-Type", "application/x-www-form-urlencoded").body(form.to_owned())
                }
                None => post.header("Content-Type", "application/json").body(step["request"].to_string()),
            };
            let answer = post.send().await.unwrap();
            assert_eq!(answer.status().as_u16(), step["status"], "{at}");
            assert_eq!(answer.headers()["content-type"], "application/json; charset=utf-8", "{at}");
            assert_eq!(masked(&answer.text().await.unwrap()), step["response"], "{at}");
            if let Some(rows) = step["log"].as_array() {
                let log = zammad.log();
                assert_eq!(log.len(), rows.len(), "{at}");
                for (row, expected) in log.iter().zip(rows) {
                    assert_row(row, expected, &at);
                }
            }
            steps += 1;
        }
    }
    assert!(steps >= 80, "only {steps} steps");
}

#[tokio::test]
async fn probe_changes_nothing() {
    let zammad = Zammad::start(Settings::default()).unwrap();
    let answer = post(&zammad, &json!({"direction": "probe"})).await.unwrap();
    assert_eq!(answer.status(), 422);
    assert_eq!(answer.text().await.unwrap(), r#"{"error":"Invalid 'direction'!"}"#);
    assert!(zammad.log().is_empty());
}

#[tokio::test]
async fn of_several_users_in_a_form_the_last_remains() {
    let zammad = Zammad::start(Settings::default()).unwrap();
    let form = "event=newCall&direction=in&from=4915&to=4930&callId=c1&user=Alice+A&user=Bob%20B";
    let kind = "application/x-www-form-urlencoded";
    let answer = client().post(zammad.url()).header("Content-Type", kind).body(form).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(zammad.log()[0].to_comment.as_deref(), Some("Bob B"));
}

#[tokio::test]
async fn who_does_not_ask_for_json_gets_a_page_for_an_inner_fault() {
    let zammad = Zammad::start(Settings::default()).unwrap();
    let body = call("answer", "nobody").to_string();
    let answer = client()
        .post(zammad.url())
        .header("Content-Type", "application/json")
        .header("Accept", "text/html,*/*")
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 500);
    assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8");
}

#[tokio::test]
async fn body_that_is_no_json_is_a_bad_request() {
    let zammad = Zammad::start(Settings::default()).unwrap();
    let post = client().post(zammad.url()).header("Content-Type", "application/json").body("{");
    assert_eq!(post.send().await.unwrap().status(), 400);
}

#[tokio::test]
async fn restored_mark_is_seen_again() {
    let settings = Settings { rest_token: Some("rest".into()), ..Settings::default() };
    let zammad = Zammad::start(settings).unwrap();
    for event in ["newCall", "hangup", "hangup"] {
        assert_eq!(post(&zammad, &call(event, "c1")).await.unwrap().status(), 200);
    }
    assert!(!zammad.log()[0].missed_mark());

    let log = format!("{}/api/v1/cti/log", zammad.base_url());
    assert_eq!(client().get(&log).send().await.unwrap().status(), 403);
    let wrong = client().get(&log).header("Authorization", "Token token=wrong");
    assert_eq!(wrong.send().await.unwrap().status(), 401);
    let right = client().get(&log).header("Authorization", "Token token=rest");
    let list: Value = serde_json::from_str(&right.send().await.unwrap().text().await.unwrap()).unwrap();
    let row = &list["list"][0];
    assert_eq!((&row["call_id"], &row["done"]), (&json!("c1"), &json!(true)));

    let done = format!("{}/api/v1/cti/done/{}", zammad.base_url(), row["id"]);
    let restore = client()
        .post(&done)
        .header("Authorization", "Token token=rest")
        .header("Content-Type", "application/json")
        .body(r#"{"done":false}"#);
    assert_eq!(restore.send().await.unwrap().status(), 200);
    assert!(zammad.log()[0].missed_mark());
}

#[tokio::test]
async fn reset_before_leaves_no_trace_and_reset_after_leaves_the_row() {
    let zammad = Zammad::start(Settings::default()).unwrap();
    zammad.set_faults([Fault::reset_before(), Fault::reset_after()]);
    for (id, rows) in [("c1", 0), ("c2", 1)] {
        let why = post(&zammad, &call("newCall", id)).await.unwrap_err();
        assert!(is_reset(&why), "{why:?}");
        assert_eq!(zammad.log().len(), rows, "{id}");
    }
    let processed: Vec<bool> = zammad.requests().iter().map(|r| r.processed).collect();
    assert_eq!(processed, [false, true]);
    assert_eq!(post(&zammad, &call("newCall", "c1")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn scripted_answers_hide_what_happened() {
    let zammad = Zammad::start(Settings::default()).unwrap();
    zammad.set_faults([
        Fault::answer_instead(Answer::nginx(503).with_header("retry-after", "7")),
        Fault::answer_after(Answer::nginx(504)),
        Fault::answer_instead(Answer::garbage()),
        Fault::none(),
    ]);
    let first = post(&zammad, &call("newCall", "c1")).await.unwrap();
    assert_eq!((first.status().as_u16(), &first.headers()["retry-after"]), (503, &"7".parse().unwrap()));
    assert_eq!(zammad.log().len(), 0);
    let second = post(&zammad, &call("newCall", "c1")).await.unwrap();
    assert_eq!(second.status(), 504);
    assert!(second.text().await.unwrap().contains("504 Gateway Time-out"));
    assert_eq!(zammad.log().len(), 1);
    let third = post(&zammad, &call("hangup", "c1")).await.unwrap();
    assert_eq!(third.status(), 200);
    assert_eq!(zammad.log()[0].state, "newCall");
    assert_eq!(post(&zammad, &call("hangup", "c1")).await.unwrap().status(), 200);
    let statuses: Vec<Option<u16>> = zammad.requests().iter().map(|r| r.status).collect();
    assert_eq!(statuses, [Some(503), Some(504), Some(200), Some(200)]);
}

#[tokio::test]
async fn rule_decides_by_the_request() {
    let zammad = Zammad::start(Settings::default()).unwrap();
    zammad.set_fault_rule(|seen| match seen.event.as_deref() {
        Some("hangup") => Fault::answer_instead(Answer::rails(500)),
        _ => Fault::none(),
    });
    assert_eq!(post(&zammad, &call("newCall", "c1")).await.unwrap().status(), 200);
    assert_eq!(post(&zammad, &call("hangup", "c1")).await.unwrap().status(), 500);
    zammad.clear_faults();
    assert_eq!(post(&zammad, &call("hangup", "c1")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn delay_before_processing_loses_the_event_of_a_client_that_gave_up() {
    let zammad = Zammad::start(Settings::default()).unwrap();
    zammad.set_faults([Fault::slow(Duration::from_secs(3600), Duration::ZERO)]);
    let patient = client_with(|c| c.timeout(Duration::from_millis(100)));
    let body = call("newCall", "c1").to_string();
    let send = patient.post(zammad.url()).header("Content-Type", "application/json").body(body).send();
    assert!(send.await.unwrap_err().is_timeout());
    assert_eq!(zammad.requests().len(), 1);
    assert!(zammad.log().is_empty());
}

#[tokio::test]
async fn delay_after_processing_keeps_the_event_of_a_client_that_gave_up() {
    let zammad = Zammad::start(Settings::default()).unwrap();
    zammad.set_faults([Fault::slow(Duration::ZERO, Duration::from_secs(3600))]);
    let (url, body) = (zammad.url(), call("newCall", "c1").to_string());
    let client = client();
    let send = client.post(url).header("Content-Type", "application/json").body(body).send();
    tokio::select! {
        answer = send => panic!("answered {answer:?}"),
        () = zammad.wait_until(|rows, _| rows.len() == 1) => {}
    }
}

#[tokio::test]
async fn it_keeps_no_more_than_it_is_told_and_counts_all() {
    let zammad = Zammad::start(Settings { keeps: Some(4), ..Settings::default() }).unwrap();
    for number in 1..=20 {
        let id = format!("c{number}");
        for event in ["newCall", "hangup"] {
            assert_eq!(post(&zammad, &call(event, &id)).await.unwrap().status(), 200);
        }
        let (rows, requests) = (zammad.log(), zammad.requests());
        assert!(rows.len() <= 8 && requests.len() <= 8, "{} rows, {} requests", rows.len(), requests.len());
        assert_eq!(rows.last().unwrap().call_id, id);
        let last = requests.last().unwrap();
        assert_eq!((last.call_id.as_deref(), last.processed, last.status), (Some(&*id), true, Some(200)));
    }
    assert_eq!(zammad.tally()["newCall in"], 20);
}

#[tokio::test]
async fn stopped_it_refuses_and_back_on_its_port_it_knows_its_log() {
    let mut zammad = Zammad::start(Settings::default()).unwrap();
    let client = client();
    let send = |id: &'static str, url: String| {
        let body = call("newCall", id).to_string();
        client.post(url).header("Content-Type", "application/json").body(body).send()
    };
    let url = zammad.url();
    assert_eq!(send("c1", url.clone()).await.unwrap().status(), 200);
    for round in 0..5 {
        zammad.stop().await;
        let why = send("c2", url.clone()).await.unwrap_err();
        assert!(why.is_connect(), "round {round}: {why:?}");
        zammad.restart().unwrap();
        assert_eq!(zammad.url(), url);
        assert_eq!(send("c1", url.clone()).await.unwrap().status(), 500);
    }
    assert_eq!(zammad.log().len(), 1);
}

#[tokio::test]
async fn stop_resets_what_is_under_way() {
    let mut zammad = Zammad::start(Settings::default()).unwrap();
    zammad.set_faults([Fault::slow(Duration::from_secs(3600), Duration::ZERO)]);
    let (url, body) = (zammad.url(), call("newCall", "c1").to_string());
    let post = client_with(|c| c.timeout(Duration::from_secs(20))).post(url);
    let sent = tokio::spawn(post.header("Content-Type", "application/json").body(body).send());
    zammad.wait_until(|_, requests| requests.len() == 1).await;
    zammad.stop().await;
    let why = sent.await.unwrap().unwrap_err();
    assert!(is_reset(&why), "{why:?}");
    assert!(zammad.log().is_empty());
}

#[tokio::test]
async fn counts_requests_under_way_for_one_call() {
    let zammad = Zammad::start(Settings::default()).unwrap();
    for id in ["c1", "c2"] {
        post(&zammad, &call("newCall", id)).await.unwrap();
    }
    let (c1, c2) = (call("hangup", "c1"), call("hangup", "c2"));
    let slow = || Fault::slow(Duration::from_millis(50), Duration::ZERO);
    zammad.set_fault_rule(move |_| slow());
    let (one, two) = tokio::join!(post(&zammad, &c1), post(&zammad, &c2));
    assert!(one.is_ok() && two.is_ok());
    assert_eq!(zammad.max_in_flight_per_call(), 1, "two calls do not count against each other");
    let (one, two) = tokio::join!(post(&zammad, &c1), post(&zammad, &c1));
    assert!(one.is_ok() && two.is_ok());
    assert_eq!(zammad.max_in_flight_per_call(), 2);
}

#[tokio::test]
async fn changed_token_is_asked_for_at_once() {
    let zammad = Zammad::start(Settings::default()).unwrap();
    let old = zammad.url();
    zammad.change(|settings| settings.token = "another".into());
    let answer = client().post(old).header("Content-Type", "application/json").body("{}").send();
    assert_eq!(answer.await.unwrap().status(), 401);
    assert_eq!(post(&zammad, &call("newCall", "c1")).await.unwrap().status(), 200);
}

fn call(event: &str, id: &str) -> Value {
    json!({"event": event, "direction": "in", "from": "4915112345678", "to": "49305551001", "callId": id})
}

async fn post(zammad: &Zammad, body: &Value) -> reqwest::Result<Response> {
    let post = client().post(zammad.url()).header("Accept", "application/json");
    post.header("Content-Type", "application/json").body(body.to_string()).send().await
}

fn client() -> Client {
    client_with(|c| c)
}

/// A fresh one each time: nothing is pooled, so that no request is quietly sent twice.
fn client_with(options: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder) -> Client {
    // Fails when another test has installed it already, which is as good.
    _ = rustls::crypto::ring::default_provider().install_default();
    options(Client::builder().no_proxy()).build().unwrap()
}

fn is_reset(why: &reqwest::Error) -> bool {
    let mut source: Option<&dyn std::error::Error> = Some(why);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.kind() == std::io::ErrorKind::ConnectionReset;
        }
        source = error.source();
    }
    false
}

fn set_up(exchange: &Value) -> Settings {
    let mut settings = Settings { token: "TOKEN".into(), ..Settings::default() };
    for step in exchange["setup"].as_array().into_iter().flatten() {
        let (kind, with) = (step[0].as_str().unwrap(), &step[1]);
        match (kind, with["name"].as_str()) {
            ("/_setting", Some("cti_integration")) => settings.enabled = with["value"].as_bool().unwrap(),
            ("/_setting", Some("cti_config")) => settings.routing = None,
            ("/_reset", None) => settings.routing = Some(routing(&with["config"])),
            other => panic!("unknown set-up {other:?}"),
        }
    }
    settings
}

fn routing(config: &Value) -> Routing {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let list = |value: &Value| value.as_array().unwrap().clone();
    Routing {
        block: list(&config["inbound"]["block_caller_ids"]).iter().map(|b| text(&b["caller_id"])).collect(),
        table: list(&config["outbound"]["routing_table"])
            .iter()
            .map(|row| (text(&row["dest"]), text(&row["caller_id"])))
            .collect(),
        default_caller_id: config["outbound"]["default_caller_id"].as_str().map(str::to_owned),
    }
}

/// The answer with its error id, which differs each time, replaced as in the record.
fn masked(body: &str) -> Value {
    let mut body: Value = serde_json::from_str(body).unwrap();
    if let Some(rest) = body["error"].as_str().and_then(|e| e.strip_prefix("Error ID ")) {
        let (id, rest) = rest.split_at(8);
        assert!(id.bytes().all(|b| b.is_ascii_alphanumeric()), "{id}");
        body["error"] = format!("Error ID xxxxxxxx{rest}").into();
    }
    body
}

/// Every column the record gives must be as it says, and must be one we know.
fn assert_row(row: &Row, expected: &Value, at: &str) {
    let mut got: HashMap<String, Value> = row.to_json().as_object().unwrap().clone().into_iter().collect();
    got.insert("started".into(), row.start_at.is_some().into());
    got.insert("ended".into(), row.end_at.is_some().into());
    got.insert("missed_mark".into(), row.missed_mark().into());
    got.insert("ringing".into(), row.ringing().into());
    for (column, value) in expected.as_object().unwrap() {
        assert_eq!(got.get(column), Some(value), "{at}: {column}");
    }
}
