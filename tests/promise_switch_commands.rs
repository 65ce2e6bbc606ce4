//! What goes to the switch is what we mean to say, whatever a leg is named: one command, with its own arguments. And
//! the call of a leg that cannot be asked for still ends.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
#[path = "common/road.rs"]
mod road;

use freeswitch_zammad::daemon::Daemon;
use freeswitch_zammad::sim::recording::Recording;
use freeswitch_zammad::sim::switch::Disconnect;
use freeswitch_zammad::sim::zammad::Routing;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use road::{Road, renamed, until, within};

/// Names that an application or a caller's Call-ID may give, and whether the switch can be asked for such a leg.
const NAMES: [(&str, bool); 9] = [
    ("a84b4c76e66710@192.0.2.17", true),
    ("c2c_1001.7%7B}{$", true),
    ("x USER_BUSY", false),
    ("x\n\napi shutdown", false),
    ("x\r\nexit", false),
    ("x\0y", false),
    ("'x y'", false),
    ("x\\s", false),
    ("x\u{2028}api\u{a0}shutdown", false),
];
const CALLER: &str = "4915112345678";

mod invariants {
    use super::*;

    #[tokio::test]
    async fn a_legs_name_is_one_argument_or_is_not_sent_and_its_call_ends() {
        let road = Road::new();
        let daemon = road.daemon().await;
        for (number, (name, _)) in NAMES.into_iter().enumerate() {
            let call = named(&road, "in_caller_cancels", name);
            let (begins, ends) = call.split_at(call.events().len() / 2);
            road.play(&begins).await;
            until("it is told", || road.zammad.log().len() == number + 1).await;
            within("the link is cut", road.switch.drop_connections(Disconnect::Eof)).await;
            road.play(&ends).await;
            within("the daemon is back", road.switch.wait_subscribed()).await;
            road.all_ended(number + 1).await;
            assert!(road.zammad.log()[number].call_id.contains(name), "{name:?}");
        }
        daemon.stop().await.unwrap();
        let dumped = sound(&road, "uuid_dump");
        for (name, can_be_asked) in NAMES {
            assert_eq!(dumped.iter().any(|leg| leg == name), can_be_asked, "{name:?}: {dumped:?}");
        }
    }

    #[tokio::test]
    async fn a_blocked_callers_leg_is_ended_by_one_command_or_not_at_all() {
        let road = Road::new();
        let routing = Routing { block: vec![CALLER.into()], ..Routing::default() };
        road.zammad.change(|settings| settings.routing = Some(routing));
        let mut config = road.config();
        config.calls.end_blocked_with = Some("CALL_REJECTED");
        let daemon = Daemon::start(config).await.unwrap();
        within("the subscription", road.switch.wait_subscribed()).await;
        for (number, (name, can_be_asked)) in NAMES.into_iter().enumerate() {
            let (rings, rest) = named(&road, "in_answered_caller_hangs_up", name).split_at(2);
            road.play(&rings).await;
            until("it is told", || road.zammad.log().len() == number + 1).await;
            if can_be_asked {
                // The leg is ended by the name that it has now.
                let ended = || sound(&road, "uuid_kill").iter().any(|leg| leg == name);
                until("it is ended", ended).await;
            }
            road.play(&rest).await;
            road.all_ended(number + 1).await;
        }
        daemon.stop().await.unwrap();
        let killed = sound(&road, "uuid_kill");
        for (name, can_be_asked) in NAMES {
            assert_eq!(killed.iter().any(|leg| leg == name), can_be_asked, "{name:?}: {killed:?}");
        }
    }
}

/// A recorded call of a customer whose leg is called so.
fn named(road: &Road, recording: &str, name: &str) -> Recording {
    let name = utf8_percent_encode(name, NON_ALPHANUMERIC).to_string();
    // Our phone's leg is another one each time.
    let call = renamed(&road.switch, &common::recording("captures", recording), &name);
    let begun = call.events().iter().find(|event| event.name() == "CHANNEL_CREATE");
    let leg = begun.unwrap().header("Unique-ID").unwrap();
    let mut bytes = Vec::new();
    for event in call.events() {
        let body = String::from_utf8(event.body().to_vec()).unwrap().replace(&leg, &name);
        let head = format!("Content-Length: {}\nContent-Type: text/event-plain\n\n", body.len());
        bytes.extend_from_slice(head.as_bytes());
        bytes.extend_from_slice(body.as_bytes());
    }
    Recording::parse(&bytes).unwrap()
}

/// The legs that one api command was about. Fails on any command that is none of ours.
fn sound(road: &Road, api: &str) -> Vec<String> {
    let mut legs = Vec::new();
    let commands = road.switch.commands();
    assert!(!commands.is_empty());
    for (_, said) in commands {
        let words: Vec<&str> = said.split(' ').collect();
        match words.as_slice() {
            ["auth", "ClueCon"] | ["event", "plain", ..] | ["api", "show", "channels", "as", "json"] => {}
            ["api", "uuid_dump", leg] | ["api", "uuid_kill", leg, "CALL_REJECTED"] => {
                if words[1] == api {
                    legs.push((*leg).to_owned());
                }
            }
            _ => panic!("{said:?} was said to the switch"),
        }
    }
    legs
}
