//! Another configuration while calls are going on: what it changes holds from then on, and nothing is given up for it.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
#[path = "common/road.rs"]
mod road;

use std::sync::PoisonError;
use std::time::Duration;

use freeswitch_zammad::config::{Config, QueueName, Secret};
use freeswitch_zammad::daemon::Daemon;
use freeswitch_zammad::queue::breaker::Link;
use freeswitch_zammad::sim::switch::{Settings, Switch};
use freeswitch_zammad::sim::zammad::{self, Zammad};
use road::{Road, config, drained, renamed, rows_of, until, within};

const RECORDING: &str = "in_answered_caller_hangs_up";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_going_on_keeps_its_story_and_the_next_one_goes_by_the_new_rules() {
    let road = Road::new();
    let called =
        common::expected("captures").remove(RECORDING).unwrap()[0]["to"].as_str().unwrap().to_owned();
    let named = |name: &str| {
        let mut config = road.config();
        config.queues = vec![QueueName { number: called.parse().unwrap(), name: name.into() }];
        config
    };
    let mut daemon = Daemon::start(named("before")).await.unwrap();
    within("the daemon subscribes", road.switch.wait_subscribed()).await;
    let call = |suffix: &str| renamed(&road.switch, &common::recording("captures", RECORDING), suffix);
    let first = call("first");
    let (begins, goes_on) = first.split_at(first.events().len() / 2);
    road.play(&begins).await;
    within("Zammad knows the call", road.zammad.wait_until(|rows, _| !rows.is_empty())).await;

    assert_eq!(daemon.reload(named("after")).await.unwrap(), Vec::<String>::new());
    let second = call("second");
    road.play(&second).await;
    road.play(&goes_on).await;
    road.all_ended(2).await;
    let log = road.zammad.log();
    for (recording, queue) in [(&first, "before"), (&second, "after")] {
        let rows = rows_of(&log, recording);
        assert_eq!(rows.len(), 1, "{log:#?}");
        assert_eq!(rows[0].queue.as_deref(), Some(queue));
        assert_eq!(rows[0].state, "hangup");
    }
    assert_eq!(daemon.live().switches[0].2.borrow().losses, 0, "the link was given up");
    daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_token_is_tried_at_once_and_what_waited_is_told() {
    let settings = zammad::Settings { token: "the-right-token".into(), ..zammad::Settings::default() };
    let road = Road { zammad: Zammad::start(settings).unwrap(), ..Road::new() };
    let told = |url: &str| {
        let mut config = config(url, &road.switch.addr().to_string(), "ClueCon", road.dir.path());
        // Without a reload it would be asked after half a minute only.
        config.delivery.retry_wait_max = Duration::from_secs(60);
        config
    };
    let wrong = road.zammad.url().replace("the-right-token", "some-other-token");
    let mut daemon = Daemon::start(told(&wrong)).await.unwrap();
    within("the daemon subscribes", road.switch.wait_subscribed()).await;
    let call = renamed(&road.switch, &common::recording("captures", RECORDING), "waits");
    road.play(&call).await;
    let state = daemon.live().zammads[0].2.clone();
    until("Zammad refuses the token", || matches!(state.borrow().link, Link::Misconfigured { .. })).await;
    daemon.reload(told(&road.zammad.url())).await.unwrap();
    drained(daemon.store()).await;
    road.all_ended(1).await;
    assert_eq!(daemon.store().counts().dead, 0);
    daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_address_password_and_patience_are_gone_by() {
    let road = Road::new();
    let elsewhere = Switch::start(Settings { password: "another".into(), ..Settings::default() }).unwrap();
    let mut daemon = road.daemon().await;
    let link = daemon.live().switches[0].2.clone();
    let mut new = road.config();
    new.switches[0].password = Secret::new("another").try_into().unwrap();
    assert_eq!(daemon.reload(new.clone()).await.unwrap(), Vec::<String>::new());
    assert_eq!(link.borrow().losses, 0, "a password is for the next login");

    new.switches[0].address = elsewhere.addr().to_string().parse().unwrap();
    daemon.reload(new.clone()).await.unwrap();
    within("it is at the other switch", elsewhere.wait_subscribed()).await;
    assert_eq!(daemon.live().switches[0].1.to_string(), elsewhere.addr().to_string());
    let call = renamed(&elsewhere, &common::recording("captures", RECORDING), "elsewhere");
    within("it is on the wire", elsewhere.play(&call, freeswitch_zammad::sim::switch::Pace::AtOnce)).await;
    road.all_ended(1).await;

    // Nothing beats there: a shorter patience ends the link that is there.
    let losses = link.borrow().losses;
    new.switches[0].heartbeat_timeout = Duration::from_millis(100);
    daemon.reload(new).await.unwrap();
    until("the silence is noticed", || link.borrow().losses > losses).await;
    daemon.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_smaller_queue_holds_from_the_next_event_on() {
    let mut road = Road::new();
    road.zammad.stop().await;
    let mut daemon = road.daemon().await;
    let mut new = road.config();
    new.delivery.max_events = 1;
    daemon.reload(new).await.unwrap();
    let board = daemon.live().board.clone();
    for call in 0..2 {
        let bytes = common::recording("captures", RECORDING);
        road.play(&renamed(&road.switch, &bytes, &format!("full{call}"))).await;
    }
    until("the queue is full", || board.lock().unwrap_or_else(PoisonError::into_inner).dropped > 0).await;
    daemon.stop().await.unwrap();
}

#[test]
fn what_cannot_be_taken_over_is_named_and_stays() {
    let read = |text: &str| {
        let nothing =
            freeswitch_zammad::config::Environment::from_iter(std::iter::empty::<(String, String)>());
        let path = std::path::Path::new("config.toml");
        let overrides = freeswitch_zammad::config::Overrides::default();
        Config::judge(text, path, &overrides, &nothing).unwrap().config
    };
    let one = "country = \"DE\"\n[[switch]]\nname = \"a\"\naddress = \"192.0.2.1:8021\"\npassword = \"x\"\n[[zammad]]\nname = \"m\"\nurl = \"https://m.example.com/api/v1/cti/tokentoken\"\n";
    let running = read(one);
    let (same, stays) = running.taking_over(read(one));
    assert_eq!((same, stays), (running.clone(), vec![]));

    let two = "country = \"AT\"\nstate_dir = \"/elsewhere\"\n[[switch]]\nname = \"a\"\naddress = \"192.0.2.9:8021\"\npassword = \"y\"\nzammad = \"n\"\ncdr_dir = \"/cdr\"\n[[switch]]\nname = \"b\"\naddress = \"192.0.2.2:8021\"\npassword = \"z\"\nzammad = \"n\"\n[[zammad]]\nname = \"n\"\nurl = \"https://n.example.com/api/v1/cti/tokentoken\"\n[[route]]\nnumber = \"49*\"\nzammad = \"n\"\n[delivery]\nconcurrency = 3\n[admin]\nlisten = \"127.0.0.1:8022\"\n";
    let new = read(two);
    let (taken, stays) = running.taking_over(new.clone());
    let expected = [
        "state_dir stays /var/lib/freeswitch-zammad",
        "[admin]: the status page stays where and as it is",
        "zammad n is new and not used yet",
        "zammad m is not configured any more and goes on as it was",
        "switch b is new and not used yet",
        "switch a: cdr_dir stays as it is",
        "switch a: its calls still go to zammad m",
        "[[route]]: one leads to a Zammad that is not known yet, so all stay as they are",
    ];
    assert_eq!(stays, expected);
    let mut left = new;
    left.state_dir.clone_from(&running.state_dir);
    left.admin.clone_from(&running.admin);
    left.zammads.clone_from(&running.zammads);
    left.routes.clone_from(&running.routes);
    left.switches.truncate(1);
    left.switches[0].cdr_dir = None;
    left.switches[0].zammad = running.switches[0].zammad.clone();
    assert_eq!(taken, left, "all else is taken over");
}
