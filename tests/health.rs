//! Live while the loops move, ready while every switch is heard; a Zammad that is away is neither's business.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/road.rs"]
mod road;
#[path = "common/web.rs"]
mod web;

use freeswitch_zammad::edge::admin::health;
use freeswitch_zammad::edge::clock;
use freeswitch_zammad::edge::control::Live;
use freeswitch_zammad::edge::pulse::BOUND;
use freeswitch_zammad::sim::switch::Disconnect;
use web::Web;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_that_stops_speaking_is_not_ready_and_the_daemon_lives() {
    // The shortest silence that the configuration allows.
    let mut web = Web::start("heartbeat_timeout_s = 5", "").await;
    web.switch.heartbeat();
    ready(&web).await;
    web.switch.set_silent(true);
    let said = web.until("it is not ready", "/readyz", |reply| reply.status == 503).await.body;
    assert!(said.starts_with("switch main: no") && said.lines().count() == 1, "{said}");
    live(&web).await;
    web.switch.set_silent(false);
    web.until("it is ready again", "/readyz", |reply| reply.status == 200).await;

    web.switch.stop(Disconnect::Eof).await;
    let said = web.until("the switch is gone", "/readyz", |reply| reply.status == 503).await.body;
    assert!(said.starts_with("switch main: no link: "), "{said}");
    live(&web).await;
    web.switch.restart().unwrap();
    web.until("it is ready again", "/readyz", |reply| reply.status == 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_zammad_fails_neither() {
    let mut web = Web::start("", "").await;
    web.zammad.stop().await;
    let call = web.begin("in_answered_caller_hangs_up", "one");
    web.end(&call);
    let away = |reply: &web::Reply| {
        let all = reply.json();
        all["zammads"][0]["link"] == "away" && all["queue"]["waiting"] == 3
    };
    web.until("Zammad is away and events wait", "/api/status", away).await;
    live(&web).await;
    ready(&web).await;
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_does_not_move_is_not_live() {
    let all = Live::new(clock::now());
    let (stuck, _well) = (all.pulse.join("intake"), all.pulse.join("switch main"));
    tokio::time::sleep(BOUND).await;
    stuck.moved();
    assert_eq!(health::not_live(&all), ["switch main: has not moved for 30 s, where 30 is too long"]);
}

async fn live(web: &Web) {
    let reply = web.get("/livez").await;
    assert_eq!((reply.status, reply.body.as_str()), (200, "ok\n"));
}

async fn ready(web: &Web) {
    let reply = web.get("/readyz").await;
    assert_eq!((reply.status, reply.body.as_str()), (200, "ok\n"));
}
