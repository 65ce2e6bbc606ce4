//! From the switch's socket to Zammad's caller log: every recorded call arrives once, and as it happened.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
#[path = "common/road.rs"]
mod road;
#[path = "common/scenes.rs"]
mod scenes;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use freeswitch_zammad::sim::switch::Pace;
use freeswitch_zammad::sim::zammad::{Answer, Fault};
use futures_util::future::join_all;
use road::{Road, drained};
use scenes::{Scene, calls, compare, scenes};

#[tokio::test]
async fn every_recorded_call_is_one_row_as_a_person_would_tell_it() {
    for folder in ["captures", "captures-fusionpbx"] {
        let road = Road::new();
        let daemon = road.daemon().await;
        let scenes = scenes(&road, folder);
        for scene in &scenes {
            road.play(&scene.recording).await;
        }
        road.all_ended(calls(&scenes)).await;
        drained(daemon.store()).await;
        compare(&road, &scenes);
        assert_eq!(daemon.store().counts().dead, 0);
        assert_eq!(road.zammad.max_in_flight_per_call(), 1);
        daemon.stop().await.unwrap();
    }
}

#[tokio::test]
async fn calls_at_the_same_time_do_not_mix_while_zammad_is_slow() {
    let road = Road::new();
    road.zammad.set_fault_rule(|seen| {
        let wait = Duration::from_millis(seen.body.len() as u64 % 30);
        Fault::slow(wait, wait)
    });
    let daemon = road.daemon().await;
    let scenes = scenes(&road, "captures");
    // As fast as they come, each event of one call between the events of all others.
    join_all(scenes.iter().map(|s| road.switch.play(&s.recording, Pace::Times(40.0)))).await;
    road.all_ended(calls(&scenes)).await;
    drained(daemon.store()).await;
    compare(&road, &scenes);
    assert_eq!(road.zammad.max_in_flight_per_call(), 1);
    daemon.stop().await.unwrap();
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_while_zammad_goes_down_and_up() {
    let mut road = Road::new();
    let daemon = road.daemon().await;
    let scenes = scenes(&road, "captures");
    for (number, scene) in scenes.iter().enumerate() {
        match number % 12 {
            4 => {
                // Nothing is on its way then: whether a reset request was processed nobody could know.
                road.all_ended(calls(&scenes[..number])).await;
                drained(daemon.store()).await;
                road.zammad.stop().await;
            }
            10 => road.zammad.restart().unwrap(),
            _ => {}
        }
        road.play(&scene.recording).await;
    }
    road.zammad.restart().unwrap();
    road.all_ended(calls(&scenes)).await;
    drained(daemon.store()).await;
    compare(&road, &scenes);
    assert_eq!(daemon.store().counts().dead, 0);
    daemon.stop().await.unwrap();
}

#[tokio::test]
async fn faults_at_every_first_attempt_leave_the_same_rows() {
    let road = Road::new();
    let tried = Mutex::new(BTreeSet::new());
    road.zammad.set_fault_rule(move |seen| {
        let Some(kind) = seen.event.clone() else { return Fault::none() };
        let mut tried = tried.lock().unwrap();
        if !tried.insert((seen.call_id.clone(), kind.clone())) {
            return Fault::none();
        }
        match (kind.as_str(), tried.len() % 3) {
            (_, 0) => Fault::answer_instead(Answer::nginx(502)),
            // What may have been processed is repeated only where that does no harm.
            ("newCall", 1) => Fault::reset_before(),
            ("newCall" | "answer", _) => Fault::reset_after(),
            _ => Fault::answer_instead(Answer::nginx(429)),
        }
    });
    let daemon = road.daemon().await;
    let scenes: Vec<Scene> = scenes(&road, "captures").into_iter().step_by(4).collect();
    for scene in &scenes {
        road.play(&scene.recording).await;
    }
    road.all_ended(calls(&scenes)).await;
    drained(daemon.store()).await;
    compare(&road, &scenes);
    assert_eq!(daemon.store().counts().dead, 0);
    daemon.stop().await.unwrap();
}

#[tokio::test]
async fn events_that_are_heard_twice_change_nothing() {
    let road = Road::new();
    let daemon = road.daemon().await;
    let scenes: Vec<Scene> = scenes(&road, "captures")
        .into_iter()
        .filter(|s| ["in_caller_cancels", "xfer_blind_refer"].contains(&s.name.as_str()))
        .collect();
    assert_eq!(scenes.len(), 2);
    for scene in &scenes {
        for at in 0..scene.recording.events().len() {
            let (_, rest) = scene.recording.split_at(at);
            let (event, _) = rest.split_at(1);
            road.play(&event).await;
            road.play(&event).await;
        }
        // And once more the whole of it, after the end.
        road.play(&scene.recording).await;
    }
    road.all_ended(calls(&scenes)).await;
    drained(daemon.store()).await;
    compare(&road, &scenes);
    let posts = road.zammad.requests();
    let of = |kind: &str| posts.iter().filter(|s| s.event.as_deref() == Some(kind)).count();
    assert_eq!((of("newCall"), of("hangup")), (calls(&scenes), calls(&scenes)));
    daemon.stop().await.unwrap();
}

#[tokio::test]
async fn a_road_without_calls_is_quiet() {
    let road = Road::new();
    let daemon = road.daemon().await;
    // Well before requests on their way would be given up.
    tokio::time::timeout(Duration::from_secs(5), daemon.stop()).await.unwrap().unwrap();
    assert!(road.zammad.requests().is_empty());
}
