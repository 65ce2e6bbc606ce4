//! What the configuration orders along the road: blocked callers, full queues.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
#[path = "common/road.rs"]
mod road;

use freeswitch_zammad::config::WhenFull;
use freeswitch_zammad::daemon::Daemon;
use freeswitch_zammad::edge::answers;
use freeswitch_zammad::edge::control::{Live, Request};
use freeswitch_zammad::sim::zammad::Routing;
use freeswitch_zammad::store::Store;
use road::{Road, renamed, until, within};

const CALLER: &str = "4915112345678";

#[tokio::test]
async fn a_blocked_callers_live_call_is_ended_if_that_is_configured() {
    for cause in [Some("CALL_REJECTED"), None] {
        let road = Road::new();
        let routing = Routing { block: vec![CALLER.into()], ..Routing::default() };
        road.zammad.change(|settings| settings.routing = Some(routing));
        let mut config = road.config();
        config.calls.end_blocked_with = cause;
        let daemon = Daemon::start(config).await.unwrap();
        within("the subscription", road.switch.wait_subscribed()).await;

        let call =
            renamed(&road.switch, &common::recording("captures", "in_answered_caller_hangs_up"), "blocked");
        let (rings, rest) = call.split_at(2);
        road.play(&rings).await;
        until("the entry", || road.zammad.log().len() == 1).await;
        if cause.is_some() {
            // The stand-in ends the leg, and its hangup is reported as always.
            road.all_ended(1).await;
        } else {
            road.play(&rest).await;
            road.all_ended(1).await;
        }
        let killed = road.switch.commands().iter().any(|(_, said)| said.contains("uuid_kill"));
        assert_eq!(killed, cause.is_some());
        let row = &road.zammad.log()[0];
        assert_eq!(row.missed_mark(), cause.is_some(), "{row:?}");
        daemon.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_blocked_callers_call_that_is_told_late_is_never_ended() {
    let mut road = Road::new();
    let routing = Routing { block: vec![CALLER.into()], ..Routing::default() };
    road.zammad.change(|settings| settings.routing = Some(routing));
    let mut config = road.config();
    config.calls.end_blocked_with = Some("CALL_REJECTED");
    config.delivery.late_after = std::time::Duration::from_millis(1);
    road.zammad.stop().await;
    let daemon = Daemon::start(config).await.unwrap();
    within("the subscription", road.switch.wait_subscribed()).await;
    let call = renamed(&road.switch, &common::recording("captures", "in_answered_caller_hangs_up"), "late");
    let (rings, rest) = call.split_at(2);
    road.play(&rings).await;
    until("the event", || daemon.store().counts().pending == 1).await;
    road.zammad.restart().unwrap();
    until("the entry", || road.zammad.log().len() == 1).await;
    road.play(&rest).await;
    road.all_ended(1).await;
    assert!(road.switch.commands().iter().all(|(_, said)| !said.contains("uuid_kill")));
    daemon.stop().await.unwrap();
}

#[tokio::test]
async fn a_full_queue_keeps_to_its_bound_by_the_named_policy() {
    for policy in [WhenFull::DropNew, WhenFull::DropOld] {
        let mut road = Road::new();
        let mut config = road.config();
        config.delivery.max_events = 6;
        config.delivery.when_full = policy;
        road.zammad.stop().await;
        let daemon = Daemon::start(config).await.unwrap();
        within("the subscription", road.switch.wait_subscribed()).await;
        let missed = common::recording("captures", "in_busy_486");
        for number in 0..10 {
            road.play(&renamed(&road.switch, &missed, &format!("n{number}"))).await;
            let figures = || *daemon.live().board.lock().unwrap();
            let want = 2 * (number + 1);
            let taken = || match policy {
                WhenFull::DropNew => figures().accepted + figures().dropped,
                WhenFull::DropOld => figures().accepted,
            };
            until("the calls", || figures().calls == 0 && taken() >= want).await;
            assert!(daemon.store().counts().pending <= 6, "{policy:?}");
        }
        let dropped = daemon.live().board.lock().unwrap().dropped;
        assert!(dropped >= 14, "{policy:?}: {dropped}");
        let oldest = daemon.store().oldest_pending().unwrap().unwrap().0.0;
        assert_eq!(oldest == 1, policy == WhenFull::DropNew, "{policy:?}: {oldest}");
        road.zammad.restart().unwrap();
        until("the queue is empty", || daemon.store().counts().pending == 0).await;
        assert!(road.zammad.log().iter().all(|row| row.state == "hangup" && row.missed_mark()));
        daemon.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_call_is_explained_while_it_goes_on_and_after_it_and_over_a_restart() {
    let road = Road::new();
    let daemon = road.daemon().await;
    let call =
        renamed(&road.switch, &common::recording("captures", "in_answered_caller_hangs_up"), "explained");
    let id = call.events()[0].header("Unique-ID").unwrap();
    let (rings, rest) = call.split_at(2);
    road.play(&rings).await;
    until("the entry", || road.zammad.log().len() == 1).await;
    let said = explain(daemon.store(), Some(daemon.live()), &id).await;
    assert!(said.contains("an inbound call begins") && said.contains("dialled as user 1001"), "{said}");
    assert!(!said.contains("the call is over"), "{said}");
    road.play(&rest).await;
    road.all_ended(1).await;
    until("the queue is empty", || daemon.store().counts().pending == 0).await;
    let said = explain(daemon.store(), Some(daemon.live()), &id).await;
    assert!(said.contains("the call is over") && said.contains("\"state\":\"delivered\""), "{said}");
    daemon.stop().await.unwrap();

    let daemon = road.daemon().await;
    assert_eq!(explain(daemon.store(), None, &id).await, said);
    daemon.stop().await.unwrap();
}

async fn explain(store: &Store, live: Option<&Live>, call: &str) -> String {
    let answer = answers::answer(store, live, Request::Explain { call: call.to_owned() }).await.unwrap();
    answer.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
