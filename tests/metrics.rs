//! The metrics are what the alert rules and the dashboard ask for, name by name, and they tell the truth.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/road.rs"]
mod road;
#[path = "common/web.rs"]
mod web;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use freeswitch_zammad::edge::admin::metrics;
use freeswitch_zammad::edge::backfill::BackfillState;
use freeswitch_zammad::edge::clock;
use freeswitch_zammad::edge::control::Live;
use freeswitch_zammad::sim::switch::Disconnect;
use freeswitch_zammad::sim::zammad::{Answer, Fault};
use freeswitch_zammad::store::{Limits, Store};
use tokio::sync::watch;
use web::Web;

const PREFIX: &str = "freeswitch_zammad_";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_and_dashboard_use_exactly_the_names_that_there_are() {
    let web = Web::start("cdr_dir = \"cdr\"", "").await;
    // What has never happened has no time: then its name is not there yet.
    let call = web.begin("in_caller_cancels", "one");
    web.end(&call);
    let last = "last_delivery_timestamp_seconds{zammad=\"main\"}";
    let served = web.until("a delivery", "/metrics", |reply| value(&reply.body, last).is_some()).await;
    assert_eq!(
        served.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    assert!(served.body.ends_with("# EOF\n"));
    let families = families(&served.body);
    assert!(families.len() > 25, "{families:?}");
    let mut asked = BTreeSet::new();
    for file in ["prometheus-alerts.yml", "grafana-dashboard.json"] {
        let names = names_in(&fs::read_to_string(ops(file)).unwrap());
        assert!(names.len() > 10, "{file} names only {names:?}");
        for name in names {
            let family = families.iter().find(|(_, series)| series.contains(&name));
            let (family, _) = family.unwrap_or_else(|| panic!("{file} asks for {name}, which there is not"));
            asked.insert(family.clone());
        }
    }
    let all: BTreeSet<String> = families.into_keys().collect();
    assert_eq!(all.difference(&asked).collect::<Vec<_>>(), Vec::<&String>::new(), "nobody asks for these");
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that did not run must not look as if it had")]
fn prometheus_takes_the_rules() {
    let Ok(said) =
        Command::new("promtool").args(["check", "rules"]).arg(ops("prometheus-alerts.yml")).output()
    else {
        assert!(std::env::var_os("NOTHING_LEFT_OUT").is_none(), "there is no promtool");
        eprintln!("NOT RUN: there is no promtool here; Debian has it in the package prometheus");
        return;
    };
    let out = String::from_utf8_lossy(&said.stdout);
    assert!(
        said.status.success() && out.contains("rules found"),
        "{out}{}",
        String::from_utf8_lossy(&said.stderr)
    );
    let tested =
        Command::new("promtool").args(["test", "rules"]).arg(ops("prometheus-alerts.test.yml")).output();
    let tested = tested.unwrap();
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stdout));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_is_counted() {
    let mut web = Web::start("", "").await;
    let call = web.begin("in_answered_caller_hangs_up", "one");
    web.until("a call goes on", "/metrics", |reply| value(&reply.body, "calls_active") == Some(1.0)).await;
    web.end(&call);
    let delivered = "deliveries_total{zammad=\"main\",result=\"delivered\"}";
    let told = |body: &str| value(body, delivered) == Some(3.0) && value(body, "calls_active") == Some(0.0);
    let all = web.until("it is told", "/metrics", |reply| told(&reply.body)).await.body;
    let is = |name: &str, wanted: f64| assert_eq!(value(&all, name), Some(wanted), "{name} in:\n{all}");
    is("switch_link_up{switch=\"main\"}", 1.0);
    is("switch_link_losses_total{switch=\"main\"}", 0.0);
    let kinds =
        |kind: &str| call.events().iter().filter(|e| common::is_subscribed(e) && e.name() == kind).count();
    for kind in ["CHANNEL_CREATE", "CHANNEL_BRIDGE", "CHANNEL_HANGUP_COMPLETE"] {
        is(&format!("switch_events_total{{switch=\"main\",kind=\"{kind}\"}}"), kinds(kind) as f64);
    }
    is("calls_ended_total{direction=\"in\",cause=\"normalClearing\"}", 1.0);
    is("calls_ended_total{direction=\"out\",cause=\"normalClearing\"}", 0.0);
    is("events_accepted_total", 3.0);
    is("events_refused_total", 0.0);
    is("events_lost_total", 0.0);
    is("queue_events", 0.0);
    is("queue_oldest_age_seconds", 0.0);
    is("delivered_kept", 3.0);
    is("post_duration_seconds_count{zammad=\"main\"}", 3.0);
    is("zammad_link{zammad=\"main\",state=\"up\"}", 1.0);
    assert!(value(&all, "store_size_bytes").unwrap() > 1000.0);
    let sum = value(&all, "post_duration_seconds_sum{zammad=\"main\"}").unwrap();
    assert!(sum > 0.0 && sum < 20.0, "{sum} s");
    let now = web.status().await["now_ms"].as_f64().unwrap() / 1000.0;
    for name in [
        "switch_last_event_timestamp_seconds{switch=\"main\"}",
        "last_delivery_timestamp_seconds{zammad=\"main\"}",
        "start_time_seconds",
    ] {
        let ago = now - value(&all, name).unwrap();
        assert!((0.0..60.0).contains(&ago), "{name} was {ago} s ago");
    }

    // Refused for good, then away, and the link lost.
    web.zammad.set_fault_rule(|seen| match seen.event {
        Some(_) => Fault::answer_instead(Answer::json(422, "{\"error\": \"no\"}")),
        None => Fault::none(),
    });
    let call = web.begin("in_caller_cancels", "two");
    web.end(&call);
    web.until("dead letters", "/metrics", |reply| value(&reply.body, "dead_letters") == Some(2.0)).await;
    web.zammad.stop().await;
    let call = web.begin("in_caller_cancels", "three");
    web.end(&call);
    let away = "zammad_link{zammad=\"main\",state=\"away\"}";
    let waits = |body: &str| value(body, away) == Some(1.0) && value(body, "queue_events") == Some(2.0);
    let all = web.until("Zammad is away", "/metrics", |reply| waits(&reply.body)).await.body;
    assert_eq!(value(&all, "zammad_link{zammad=\"main\",state=\"up\"}"), Some(0.0));
    assert_eq!(value(&all, "deliveries_total{zammad=\"main\",result=\"dead\"}"), Some(2.0));
    assert_eq!(value(&all, "calls_ended_total{direction=\"in\",cause=\"cancel\"}"), Some(2.0));
    web.until("it grows older", "/metrics", |reply| {
        value(&reply.body, "queue_oldest_age_seconds") >= Some(1.0)
    })
    .await;
    web.switch.drop_connections(Disconnect::Eof).await;
    let lost = "switch_link_losses_total{switch=\"main\"}";
    let all =
        web.until("the link is lost", "/metrics", |reply| value(&reply.body, lost) == Some(1.0)).await.body;

    // No number and no call is a label, and every label has few values.
    for line in all.lines().filter(|line| !line.starts_with('#')) {
        let labels =
            line.split_once('{').map(|(_, rest)| rest.split_once('}').unwrap().0).unwrap_or_default();
        let longest = labels.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or_default();
        assert!(longest < 6 || labels.contains("le="), "{line}");
    }
    assert!(all.lines().count() < 300, "{}", all.lines().count());
}

#[tokio::test]
async fn what_was_read_of_unheard_calls_is_counted_for_each_switch() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        delivered_max: 1,
        delivered_age: Duration::from_secs(1),
        dead_max: 1,
        dead_age: Duration::from_secs(1),
        swap_bytes: u64::MAX,
    };
    let store = Store::open(dir.path(), limits).unwrap();
    let mut live = Live::new(clock::now());
    let without = metrics::text(&store, &live).unwrap();
    assert_eq!(without.matches("backfill").count(), 0, "{without}");
    let main = BackfillState {
        gaps: 1,
        files: 2,
        skipped: 3,
        left_out: 4,
        unlisted: 5,
        calls: 6,
        lost: 7,
        ..BackfillState::default()
    };
    let states = [("main", main), ("second", BackfillState::default())];
    let (_kept, shown): (Vec<_>, Vec<_>) = states
        .map(|(name, state)| {
            let (to, shown) = watch::channel(state);
            (to, (name.to_owned(), shown))
        })
        .into_iter()
        .unzip();
    live.backfills = shown;
    let text = metrics::text(&store, &live).unwrap();
    let names = [
        "gaps",
        "records",
        "records_unreadable",
        "records_left_out",
        "folder_failures",
        "calls",
        "calls_lost",
    ];
    for (name, wanted) in names.into_iter().zip(1_u8..) {
        let of = |switch: &str| value(&text, &format!("backfill_{name}_total{{switch=\"{switch}\"}}"));
        assert_eq!((of("main"), of("second")), (Some(wanted.into()), Some(0.0)), "{name} in {text}");
    }
    store.close().await.unwrap();
}

/// A series' value; `name` is without the prefix.
fn value(text: &str, name: &str) -> Option<f64> {
    let wanted = format!("{PREFIX}{name} ");
    text.lines().find_map(|line| line.strip_prefix(&wanted)).map(|value| value.parse().unwrap())
}

/// Each family, and the names that its series may have.
fn families(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let series = |(family, kind): (&str, &str)| {
        let endings: &[&str] = match kind {
            "counter" => &["_total"],
            "gauge" => &[""],
            "info" => &["_info"],
            "histogram" => &["_bucket", "_count", "_sum"],
            other => panic!("{family} is a {other}"),
        };
        (family.to_owned(), endings.iter().map(|ending| format!("{family}{ending}")).collect())
    };
    types.map(series).collect()
}

fn names_in(text: &str) -> BTreeSet<String> {
    let rests = text.match_indices(PREFIX).map(|(at, _)| &text[at..]);
    let word = |rest: &str| rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
    rests.map(word).collect()
}

fn ops(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ops").join(file)
}
