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
use std::sync::Arc;
use std::time::Duration;

use freeswitch_zammad::edge::admin::metrics;
use freeswitch_zammad::edge::backfill::BackfillState;
use freeswitch_zammad::edge::claims::ShareState;
use freeswitch_zammad::edge::clock;
use freeswitch_zammad::edge::control::{Live, Outbox};
use freeswitch_zammad::edge::desk::Desk;
use freeswitch_zammad::edge::fleet::FleetState;
use freeswitch_zammad::edge::shipper::ShipperState;
use freeswitch_zammad::outbox::{self, Figures, Hand, Node};
use freeswitch_zammad::sim::switch::Disconnect;
use freeswitch_zammad::sim::zammad::{Answer, Fault};
use freeswitch_zammad::store::{Limits, Store};
use freeswitch_zammad::time::UnixMillis;
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
    // Where there is an outbox there is more.
    let (outbox, _kept) = outbox();
    let shared = alone(|live| live.outbox = Some(outbox)).await;
    let families: BTreeMap<_, _> = families(&served.body).into_iter().chain(families(&shared)).collect();
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
    let without = alone(|_| {}).await;
    assert_eq!(without.matches("backfill").count(), 0, "{without}");
    assert_eq!(without.matches("outbox").count(), 0, "{without}");
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
    let text = alone(|live| live.backfills = shown).await;
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
}

#[tokio::test]
async fn what_is_known_of_a_fleet_is_told_while_it_is_true() {
    let (outbox, to) = outbox();
    let text = async || {
        let outbox = outbox.clone();
        alone(|live| live.outbox = Some(outbox)).await
    };
    let all = text().await;
    let is = |name: &str, wanted| assert_eq!(value(&all, name), wanted, "{name} in:\n{all}");
    for (name, wanted) in [
        ("outbox_link_up", 1.0),
        ("outbox_shipped_total", 7.0),
        ("outbox_known_total", 8.0),
        ("outbox_claims_lost_total{zammad=\"main\"}", 2.0),
        ("outbox_node{node=\"a\",state=\"up\"}", 1.0),
        ("outbox_node{node=\"a\",state=\"silent\"}", 0.0),
        ("outbox_node{node=\"b\",state=\"silent\"}", 1.0),
        ("outbox_node{node=\"c\",state=\"stopped\"}", 1.0),
        ("outbox_node{node=\"c\",state=\"silent\"}", 0.0),
        ("outbox_events{zammad=\"main\"}", 12.0),
        ("outbox_dead_letters{zammad=\"main\"}", 3.0),
        ("outbox_delivered_kept{zammad=\"main\"}", 40.0),
        ("outbox_calls_claimed{zammad=\"main\",node=\"a\"}", 4.0),
    ] {
        is(name, Some(wanted));
    }
    let oldest = value(&all, "outbox_oldest_age_seconds{zammad=\"main\"}").unwrap();
    assert!((90.0..150.0).contains(&oldest), "{oldest}");
    let (seen, now) = (value(&all, "outbox_node_seen_timestamp_seconds{node=\"b\"}").unwrap(), clock::now());
    assert!((39.0..100.0).contains(&(now.0 as f64 / 1000.0 - seen)), "{seen}");

    // Long ago: what was then may not be so any more. How long ago is told.
    to.fleet.send_modify(|fleet| {
        let long_ago = Some(UnixMillis(clock::now().0 - 300_000));
        (fleet.seen, fleet.counted) = (long_ago, long_ago);
    });
    to.shipper.send_modify(|state| state.away = Some("it is gone".into()));
    let all = text().await;
    for gone in
        ["outbox_node{", "outbox_node_seen", "outbox_events{", "outbox_oldest", "outbox_calls_claimed"]
    {
        let series = format!("\n{PREFIX}{gone}");
        assert!(!all.contains(&series), "{gone} in:\n{all}");
    }
    assert_eq!(value(&all, "outbox_link_up"), Some(0.0));
    assert!(value(&all, "outbox_figures_age_seconds") >= Some(300.0), "{all}");
}

/// What a daemon says that has nothing but this.
async fn alone(change: impl FnOnce(&mut Live)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        delivered_max: 1,
        delivered_age: Duration::from_secs(1),
        dead_max: 1,
        dead_age: Duration::from_secs(1),
        swap_bytes: u64::MAX,
        together_above: freeswitch_zammad::store::TOGETHER_ABOVE,
    };
    let store = Store::open(dir.path(), limits).unwrap();
    let mut live = Live::new(clock::now());
    change(&mut live);
    let text = metrics::text(&store, &live).unwrap();
    store.close().await.unwrap();
    text
}

/// Where what an outbox shows comes from.
struct Senders {
    fleet: watch::Sender<FleetState>,
    shipper: watch::Sender<ShipperState>,
    _share: watch::Sender<ShareState>,
}

/// An outbox with three nodes, which is not there.
fn outbox() -> (Outbox, Senders) {
    let now = clock::now();
    let node = |name: &str, silence, status: &str| Node {
        name: name.into(),
        silence: Duration::from_secs(silence),
        status: status.into(),
    };
    let main = Figures {
        waiting: 12,
        oldest: Some(UnixMillis(now.0 - 90_000)),
        dead: 3,
        hands: vec![Hand { node: "a".into(), calls: 4, events: 9 }],
    };
    let state = FleetState {
        seen: Some(now),
        counted: Some(now),
        nodes: vec![node("a", 1, "{}"), node("b", 40, "no JSON"), node("c", 90, "{\"stopped\":true}")],
        figures: [("main".to_owned(), main)].into(),
        delivered: [("main".to_owned(), 40)].into(),
        ..FleetState::default()
    };
    let (to_fleet, fleet) = watch::channel(state);
    let shipped = ShipperState { shipped: 7, known: 8, ..ShipperState::default() };
    let (to_shipper, shipper) = watch::channel(shipped);
    let (share, shown) = watch::channel(ShareState { lost: 2, ..ShareState::default() });
    let settings = outbox::Settings {
        server: "host=127.0.0.1 port=1".parse().unwrap(),
        node: "a".into(),
        owner: "a/1".into(),
        lease: Duration::from_secs(9),
        delivered_keep: Duration::from_secs(9),
        dead_keep: Duration::from_secs(9),
    };
    let desk = Desk::new(Arc::new(settings), vec!["main".into()]);
    let shares = vec![("main".to_owned(), shown)];
    let outbox = Outbox { node: "a".into(), shipper, shares, fleet, desk };
    (outbox, Senders { fleet: to_fleet, shipper: to_shipper, _share: share })
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
