//! The link to the switch is cut, the daemon is stopped or killed, in the middle of calls: each call that was
//! open still ends in Zammad, and none is there twice.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
#[path = "common/road.rs"]
mod road;
#[path = "common/wire.rs"]
mod wire;

use std::collections::BTreeMap;
use std::time::Duration;

use common::is_subscribed;
use freeswitch_zammad::daemon::Daemon;
use freeswitch_zammad::esl::command::SUBSCRIPTION;
use freeswitch_zammad::sim::recording::Recording;
use freeswitch_zammad::sim::switch::{Disconnect, Settings, Switch, User};
use road::{Road, config, differences, drained, renamed, rows_of, until, within};
use serde_json::Value;

/// A recording under its own legs, played in three pieces, and what a person watching would say of it.
struct Scene {
    name: String,
    whole: Recording,
    before: Recording,
    gap: Recording,
    after: Recording,
    want: Value,
}

const HOWS: [Disconnect; 3] = [Disconnect::Eof, Disconnect::Notice, Disconnect::Reset];
/// Where recordings are cut, in eighths.
const CUTS: [usize; 7] = [1, 2, 3, 4, 5, 6, 7];

/// What must hold whatever is missed.
mod invariants {
    use super::*;

    #[tokio::test]
    async fn a_cut_link_over_which_nothing_was_missed_changes_nothing() {
        let road = Road::new();
        let daemon = road.daemon().await;
        let mut told = 0;
        for (round, eighths) in [1, 2, 3, 4, 5, 6].into_iter().enumerate() {
            let scenes = scenes(&road.switch, "captures", &format!("n{round}"), eighths, 0);
            let heard = daemon.live().switches[0].2.borrow().events;
            begin(&daemon, &road, &scenes, heard).await;
            cut(&road, HOWS[round % 3]).await;
            for scene in &scenes {
                road.play(&scene.after).await;
            }
            told += calls(&scenes);
            road.all_ended(told).await;
            drained(daemon.store()).await;
            compare(&road, &scenes);
        }
        assert_eq!(road.zammad.log().len(), told);
        daemon.stop().await.unwrap();
    }

    #[tokio::test]
    async fn calls_that_go_on_unheard_end_in_zammad_once() {
        let road = Road::new();
        let daemon = road.daemon().await;
        let mut all = Vec::new();
        // Each kind of cut finds calls at every stage.
        for (round, how) in HOWS.into_iter().enumerate() {
            let stage = |eighths| scenes(&road.switch, "captures", &format!("g{round}{eighths}"), eighths, 2);
            let scenes: Vec<Scene> = CUTS.into_iter().skip(round).step_by(3).flat_map(stage).collect();
            for scene in &scenes {
                road.play(&scene.before).await;
            }
            within("the link is cut", road.switch.drop_connections(how)).await;
            for scene in &scenes {
                road.play(&scene.gap).await;
            }
            within("the daemon is back", road.switch.wait_subscribed()).await;
            for scene in &scenes {
                road.play(&scene.after).await;
            }
            all.extend(scenes);
        }
        over(&daemon, &road, &all).await;
        daemon.stop().await.unwrap();
    }

    #[tokio::test]
    async fn a_daemon_that_is_stopped_in_the_middle_of_calls_finishes_them_when_it_is_back() {
        let road = Road::new();
        let mut daemon = road.daemon().await;
        let (mut unmissed, mut all, mut heard) = (Vec::new(), Vec::new(), 0);
        for (eighths, gap) in [(1, 0), (3, 2), (5, 0), (6, 2)] {
            let scenes = scenes(&road.switch, "captures", &format!("s{eighths}"), eighths, gap);
            begin(&daemon, &road, &scenes, heard).await;
            within("a stop", daemon.stop()).await.unwrap();
            for scene in &scenes {
                road.play(&scene.gap).await;
            }
            daemon = road.daemon().await;
            for scene in &scenes {
                road.play(&scene.after).await;
            }
            heard = scenes.iter().map(|s| subscribed(&s.after)).sum();
            if gap == 0 { unmissed.extend(scenes) } else { all.extend(scenes) }
        }
        over(&daemon, &road, &all).await;
        over(&daemon, &road, &unmissed).await;
        compare(&road, &unmissed);
        daemon.stop().await.unwrap();
    }

    #[tokio::test]
    async fn a_call_that_is_answered_unheard_is_not_missed() {
        let road = Road::new();
        let daemon = road.daemon().await;
        let whole = renamed(&road.switch, &common::recording("captures", "in_answered_caller_hangs_up"), "u");
        let ringing = position(&whole, "CHANNEL_ANSWER");
        let talking = position(&whole, "CHANNEL_HANGUP_COMPLETE");
        let (before, rest) = whole.split_at(ringing);
        let (gap, after) = rest.split_at(talking - ringing);
        road.play(&before).await;
        road.zammad.wait_until(|rows, _| rows.len() == 1).await;
        within("the link is cut", road.switch.drop_connections(Disconnect::Eof)).await;
        road.play(&gap).await;
        within("it is known as answered", road.zammad.wait_until(|rows, _| rows[0].state == "answer")).await;
        road.play(&after).await;
        road.all_ended(1).await;
        let row = &road.zammad.log()[0];
        assert_eq!((row.to_comment.as_deref(), row.missed_mark()), (Some("1001"), false), "{row:?}");
        daemon.stop().await.unwrap();
    }

    #[tokio::test]
    async fn a_call_that_began_unheard_is_told() {
        let road = Road::new();
        let whole = renamed(&road.switch, &common::recording("captures", "rg_one_answers"), "b");
        let (before, after) = whole.split_at(position(&whole, "CHANNEL_HANGUP_COMPLETE"));
        road.play(&before).await;
        let daemon = road.daemon().await;
        within("the call is known", road.zammad.wait_until(|rows, _| !rows.is_empty())).await;
        road.play(&after).await;
        road.all_ended(1).await;
        assert_eq!(road.zammad.log().len(), 1);
        daemon.stop().await.unwrap();
    }

    #[tokio::test]
    async fn a_switch_that_dies_ends_its_calls() {
        let mut road = Road::new();
        let daemon = road.daemon().await;
        let scenes = scenes(&road.switch, "captures", "dies", 4, 0);
        begin(&daemon, &road, &scenes, 0).await;
        road.switch.crash().await;
        road.switch.restart().unwrap();
        over(&daemon, &road, &scenes).await;
        daemon.stop().await.unwrap();
    }

    #[tokio::test]
    async fn the_subscription_is_made_anew_on_each_connection_and_asks_for_no_more_than_it_needs() {
        let road = Road::new();
        let daemon = road.daemon().await;
        let said = || -> BTreeMap<u64, Vec<String>> {
            let mut said = BTreeMap::<u64, Vec<String>>::new();
            for (connection, command) in road.switch.commands() {
                said.entry(connection).or_default().push(command);
            }
            said
        };
        for (number, how) in (1..).zip(HOWS) {
            let asked = || said().get(&number).is_some_and(|commands| commands.len() == 4);
            until("the connection asks what it missed, and once more what began just before", asked).await;
            cut(&road, how).await;
        }
        until("the last one does", || said().get(&4).is_some_and(|c| c.len() == 4)).await;
        let said = said();
        assert_eq!(said.len(), 4);
        for commands in said.values() {
            let list = "api show channels as json";
            assert_eq!(commands[..], ["auth ClueCon", SUBSCRIPTION, list, list]);
        }
        assert!(!SUBSCRIPTION.contains("ALL") && !SUBSCRIPTION.contains("CHANNEL_EXECUTE"));
        daemon.stop().await.unwrap();
    }

    #[tokio::test]
    async fn an_idle_switch_that_was_restarted_ends_what_the_old_one_had() {
        // Nothing but the empty list tells of it; where that may not be asked for, the next heartbeat does.
        for apis in [&["show", "uuid_dump"][..], &[]] {
            let mut road = Road::with(narrow(apis));
            let daemon = as_user(&road).await;
            let scenes = scenes(&road.switch, "captures", "idle", 4, 0);
            begin(&daemon, &road, &scenes, 0).await;
            road.switch.crash().await;
            road.switch.restart().unwrap();
            within("the daemon is back", road.switch.wait_subscribed()).await;
            if apis.is_empty() {
                road.switch.heartbeat();
            }
            over(&daemon, &road, &scenes).await;
            daemon.stop().await.unwrap();
        }
    }

    #[tokio::test]
    async fn the_switch_may_be_another_when_a_stopped_daemon_comes_back() {
        let mut road = Road::new();
        let daemon = road.daemon().await;
        let old = scenes(&road.switch, "captures", "old", 4, 0);
        begin(&daemon, &road, &old, 0).await;
        within("a stop", daemon.stop()).await.unwrap();
        road.switch.crash().await;
        road.switch.restart().unwrap();
        let new = scenes(&road.switch, "captures", "new", 4, 0);
        for scene in &new {
            road.play(&scene.before).await;
        }
        let daemon = road.daemon().await;
        // What was going on before is still remembered; a call of the new run is told only once all its legs are known.
        let told = || new.iter().any(|scene| !rows_of(&road.zammad.log(), &scene.whole).is_empty());
        until("the resync is through", told).await;
        for scene in &new {
            road.play(&scene.after).await;
        }
        over(&daemon, &road, &old).await;
        over(&daemon, &road, &new).await;
        assert!(
            new.iter()
                .all(|scene| !rows_of(&road.zammad.log(), &scene.whole).is_empty() || calls_of(scene) == 0)
        );
        daemon.stop().await.unwrap();
    }

    #[tokio::test]
    async fn what_befalls_one_switch_ends_no_call_of_another() {
        let mut road = Road::new();
        let other =
            Switch::start(Settings { core_uuid: "another-core".into(), ..Settings::default() }).unwrap();
        let mut config = road.config();
        let mut second = config.switches[0].clone();
        second.name = "second".parse().unwrap();
        second.address = other.addr().to_string().parse().unwrap();
        config.switches.push(second);
        let daemon = Daemon::start(config).await.unwrap();
        within("it listens to both", async {
            road.switch.wait_subscribed().await;
            other.wait_subscribed().await;
        })
        .await;
        let (begun, over) =
            at_event(&other, "in_answered_caller_hangs_up", "CHANNEL_HANGUP_COMPLETE", "other");
        within("it is on the wire", other.play(&begun, freeswitch_zammad::sim::switch::Pace::AtOnce)).await;
        within(
            "the call is known",
            road.zammad.wait_until(|rows, _| rows.len() == 1 && rows[0].state == "answer"),
        )
        .await;
        let scenes = scenes(&road.switch, "captures", "one", 4, 0);
        for scene in &scenes {
            road.play(&scene.before).await;
        }
        let known = scenes.iter().filter(|scene| calls_of(scene) > 0).count() / 2;
        within("calls of the first are known", road.zammad.wait_until(|rows, _| rows.len() > known)).await;
        road.switch.crash().await;
        road.switch.restart().unwrap();
        let board = daemon.live().board.clone();
        let figures = || *board.lock().unwrap();
        until("only the other's call goes on", || figures().calls == 1 && figures().unaccepted == 0).await;
        drained(daemon.store()).await;
        let open = || road.zammad.log().into_iter().filter(|row| row.state != "hangup").collect::<Vec<_>>();
        assert_eq!(open().len(), 1, "{:#?}", open());
        within("it is on the wire", other.play(&over, freeswitch_zammad::sim::switch::Pace::AtOnce)).await;
        within("it ends", road.zammad.wait_until(|rows, _| rows[0].state == "hangup")).await;
        assert_eq!(road.zammad.log()[0].comment.as_deref(), Some("normalClearing"));
        daemon.stop().await.unwrap();
    }
}

/// What was seen of switches, their lists and their links.
mod known_errors {
    use super::*;

    #[tokio::test]
    async fn a_half_open_link_is_noticed_by_missing_heartbeats() {
        let heartbeat = Some(Duration::from_millis(50));
        let road = Road::with(Settings { heartbeat, ..Settings::default() });
        let mut config = road.config();
        config.switches[0].heartbeat_timeout = Duration::from_millis(600);
        let daemon = Daemon::start(config).await.unwrap();
        within("it subscribes", road.switch.wait_subscribed()).await;
        let link = daemon.live().switches[0].2.clone();
        // As long as it beats, the link stays, for longer than the silence that would end it.
        until("it has beaten for a while", || link.borrow().events > 20).await;
        assert_eq!(link.borrow().losses, 0);
        road.switch.set_silent(true);
        until("the silence is noticed", || link.borrow().losses == 1).await;
        assert!(link.borrow().why.contains("not even a heartbeat"), "{}", link.borrow().why);
        road.switch.set_silent(false);
        until("it listens again", || link.borrow().listening).await;
        daemon.stop().await.unwrap();
    }

    #[tokio::test]
    async fn a_stream_that_is_out_of_step_is_begun_anew() {
        let road = Road::new();
        let daemon = road.daemon().await;
        let link = daemon.live().switches[0].2.clone();
        road.switch.send_raw(b"4915112345678 is no header\n\n");
        until("the link is given up", || link.borrow().losses == 1).await;
        assert!(!link.borrow().why.contains("4915112345678"), "{}", link.borrow().why);
        until("it listens again", || link.borrow().listening).await;
        daemon.stop().await.unwrap();
    }

    #[tokio::test]
    async fn a_call_that_began_before_the_list_knew_it_is_told() {
        let (zammad, dir) = (Road::new().zammad, tempfile::tempdir().unwrap());
        let wire = wire::Wire::listen();
        let daemon = Daemon::start(config(&zammad.url(), &wire.addr(), "ClueCon", dir.path())).await.unwrap();
        let (leg, begun, _) = missed("lags");
        let mut talk = wire.subscribed().await;
        for body in [wire::IDLE, &wire::list([leg.as_str()])] {
            let asked =
                within("the list is asked for, and again when it has caught up", talk.command()).await;
            assert_eq!(asked.unwrap(), "api show channels as json");
            talk.answer(body).await;
        }
        assert_eq!(talk.command().await.unwrap(), format!("api uuid_dump {leg}"));
        let now = String::from_utf8(begun.events()[0].body().to_vec()).unwrap();
        talk.answer(&now.replacen("CHANNEL_CREATE", "CHANNEL_DATA", 1)).await;
        within("the call is known", zammad.wait_until(|rows, _| rows.len() == 1)).await;
        daemon.stop().await.unwrap();
    }

    #[tokio::test]
    async fn a_leg_that_ends_between_the_list_and_its_dump_ends() {
        let (zammad, dir) = (Road::new().zammad, tempfile::tempdir().unwrap());
        let mut wire = wire::Wire::listen();
        let daemon = Daemon::start(config(&zammad.url(), &wire.addr(), "ClueCon", dir.path())).await.unwrap();
        let (leg, begun, _) = missed("first");
        let mut talk = wire.subscribed().await;
        talk.say(begun.to_bytes()).await;
        talk.command().await.unwrap();
        talk.answer(wire::IDLE).await;
        // Both hear of it: the list had nothing, and the event stands.
        within("the call is known", zammad.wait_until(|rows, _| rows.len() == 1)).await;
        talk.close().await;
        let mut talk = within("the daemon is back", wire.subscribed()).await;
        assert_eq!(talk.command().await.unwrap(), "api show channels as json");
        talk.answer(&wire::list([leg.as_str()])).await;
        assert_eq!(talk.command().await.unwrap(), format!("api uuid_dump {leg}"));
        talk.answer(wire::NO_CHANNEL).await;
        within("it ends", zammad.wait_until(|rows, _| rows[0].state == "hangup")).await;
        // A resync that is broken off keeps back nothing that was heard, though the switch stays away.
        let (leg, begun, ended) = missed("second");
        talk.say(begun.to_bytes()).await;
        within("the next one is known", zammad.wait_until(|rows, _| rows.len() == 2)).await;
        drop(talk);
        let mut talk = within("the daemon is back", wire.subscribed()).await;
        talk.command().await.unwrap();
        talk.answer(&wire::list([leg.as_str()])).await;
        talk.command().await.unwrap();
        talk.say(ended.to_bytes()).await;
        wire.away();
        talk.close().await;
        within("it ends", zammad.wait_until(|rows, _| rows[1].state == "hangup")).await;
        assert_eq!(zammad.log()[1].comment.as_deref(), Some("cancel"));
        daemon.stop().await.unwrap();
    }

    #[tokio::test]
    async fn a_user_who_may_ask_for_only_one_of_list_and_legs_still_ends_calls() {
        for apis in [&["show"][..], &["uuid_dump"]] {
            let road = Road::with(narrow(apis));
            let daemon = as_user(&road).await;
            let scenes = scenes(&road.switch, "captures", "narrow", 4, 2);
            begin(&daemon, &road, &scenes, 0).await;
            within("the link is cut", road.switch.drop_connections(Disconnect::Eof)).await;
            for scene in &scenes {
                road.play(&scene.gap).await;
                road.play(&scene.after).await;
            }
            over(&daemon, &road, &scenes).await;
            daemon.stop().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_resync_that_is_broken_off_again_and_again_ends_each_call_once() {
        let road = Road::new();
        let daemon = road.daemon().await;
        let scenes = scenes(&road.switch, "captures", "again", 4, 3);
        begin(&daemon, &road, &scenes, 0).await;
        for how in HOWS {
            within("the link is cut", road.switch.drop_connections(how)).await;
            for scene in &scenes {
                road.play(&scene.gap).await;
            }
            let asked = road.switch.commands().len();
            // In the middle of the answers.
            let is_asking = || road.switch.commands().len() > asked + 8;
            until("the daemon asks for legs", is_asking).await;
        }
        for scene in &scenes {
            road.play(&scene.after).await;
        }
        over(&daemon, &road, &scenes).await;
        daemon.stop().await.unwrap();
    }
}

/// A switch on which our user may ask for these only.
fn narrow(apis: &[&str]) -> Settings {
    let user = User {
        name: USER.into(),
        password: "secret".into(),
        events: SUBSCRIPTION.split_ascii_whitespace().skip(2).map(str::to_owned).collect(),
        apis: apis.iter().map(|api| (*api).to_owned()).collect(),
    };
    Settings { users: vec![user], ..Settings::default() }
}

/// A daemon that logs in as that user.
async fn as_user(road: &Road) -> Daemon {
    let mut config = config(&road.zammad.url(), &road.switch.addr().to_string(), "secret", road.dir.path());
    config.switches[0].user = Some(USER.parse().unwrap());
    let daemon = Daemon::start(config).await.unwrap();
    within("the daemon subscribes", road.switch.wait_subscribed()).await;
    daemon
}

const USER: &str = "zammad@pbx.example.test";

/// A recording under its own legs, up to the first event of this name, and the rest.
fn at_event(switch: &Switch, recording: &str, name: &str, suffix: &str) -> (Recording, Recording) {
    let whole = renamed(switch, &common::recording("captures", recording), suffix);
    whole.split_at(position(&whole, name))
}

/// A call that nobody answers: its outside leg, that leg's beginning and its end.
fn missed(suffix: &str) -> (String, Recording, Recording) {
    let whole =
        Recording::parse(&common::recording("captures", "in_caller_cancels")).unwrap().renamed(suffix);
    let leg = whole.events()[position(&whole, "CHANNEL_CREATE")].header("Unique-ID").unwrap();
    let of = |name| {
        let of_leg = whole.only(&[name]);
        let at = of_leg.events().iter().position(|e| e.header("Unique-ID").as_ref() == Some(&leg)).unwrap();
        of_leg.split_at(at).1.split_at(1).0
    };
    (leg.clone(), of("CHANNEL_CREATE"), of("CHANNEL_HANGUP_COMPLETE"))
}

fn calls_of(scene: &Scene) -> usize {
    scene.want.as_array().unwrap().len()
}

/// Ends the connection, and returns when the daemon has come back.
async fn cut(road: &Road, how: Disconnect) {
    within("the link is cut", road.switch.drop_connections(how)).await;
    within("the daemon is back", road.switch.wait_subscribed()).await;
}

/// Plays the first piece of each scene, and returns when the daemon has read it. `heard` is what it has been sent
/// since it began.
async fn begin(daemon: &Daemon, road: &Road, scenes: &[Scene], heard: u64) {
    let link = daemon.live().switches[0].2.clone();
    until("it listens", || link.borrow().listening).await;
    for scene in scenes {
        road.play(&scene.before).await;
    }
    let events = heard + scenes.iter().map(|s| subscribed(&s.before)).sum::<u64>();
    until("all was heard", || link.borrow().events >= events).await;
}

fn subscribed(recording: &Recording) -> u64 {
    recording.events().iter().filter(|e| is_subscribed(e)).count() as u64
}

/// Each call of these scenes that Zammad knows of has ended, once, and the daemon holds none as going on.
async fn over(daemon: &Daemon, road: &Road, scenes: &[Scene]) {
    let board = daemon.live().board.clone();
    let quiet = || board.lock().unwrap().calls == 0 && daemon.store().counts().pending == 0;
    let rows = || road.zammad.log();
    let ended = || rows().iter().all(|row| row.state == "hangup");
    let patience = tokio::time::timeout(road::PATIENCE, async {
        while !(quiet() && ended()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let open = || rows().into_iter().filter(|r| r.state != "hangup").collect::<Vec<_>>();
    assert!(patience.await.is_ok(), "left open: {:?}, {:#?}", board.lock().unwrap(), open());
    let rows = rows();
    for scene in scenes {
        let of = rows_of(&rows, &scene.whole);
        let want = scene.want.as_array().unwrap().len();
        assert!(of.len() <= want, "{}: {} rows for {want} calls: {of:#?}", scene.name, of.len());
        // What was heard to begin is there.
        let heard = scene.before.events().iter().any(|e| e.name() == "CHANNEL_BRIDGE");
        assert!(!heard || want == 0 || !of.is_empty(), "{}: no row", scene.name);
    }
}

fn compare(road: &Road, scenes: &[Scene]) {
    let (rows, seen) = (road.zammad.log(), road.zammad.requests());
    let mut wrong = Vec::new();
    for scene in scenes {
        let at = scene.before.events().len();
        let differences = differences(&rows_of(&rows, &scene.whole), &seen, &scene.want);
        wrong.extend(differences.into_iter().map(|d| format!("{} cut at {at}: {d}", scene.name)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every other recording, so that two rounds have each; cut after so many eighths, with a gap of so many.
fn scenes(switch: &Switch, folder: &str, suffix: &str, eighths: usize, gap: usize) -> Vec<Scene> {
    let mut expected = common::expected(folder);
    let scene = |(name, bytes): (String, Vec<u8>)| {
        let want = expected.remove(&name)?;
        let whole = renamed(switch, &bytes, &format!("{name}{suffix}"));
        let count = whole.events().len();
        let (before, rest) = whole.split_at(count * eighths / 8);
        let (gap, after) = rest.split_at(count * gap / 8);
        Some(Scene { name, whole, before, gap, after, want })
    };
    common::recordings(folder).into_iter().skip(eighths % 2).step_by(2).filter_map(scene).collect()
}

fn calls(scenes: &[Scene]) -> usize {
    scenes.iter().map(|s| s.want.as_array().unwrap().len()).sum()
}

fn position(recording: &Recording, name: &str) -> usize {
    recording.events().iter().position(|e| e.name() == name).unwrap()
}
