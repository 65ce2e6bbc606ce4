//! Several Zammads on one switch: each call goes to its own, and one tenant's outage does not touch another's.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod common;
#[path = "common/road.rs"]
mod road;

use freeswitch_zammad::config::{Config, Environment, Overrides};
use freeswitch_zammad::daemon::Daemon;
use freeswitch_zammad::sim::switch::{self, Pace, Switch};
use freeswitch_zammad::sim::zammad::{self, Zammad};
use road::{renamed, until, within};

#[tokio::test]
async fn each_tenants_calls_go_to_its_own_zammad_whatever_happens_to_the_others() {
    let switch = Switch::start(switch::Settings::default()).unwrap();
    let mut acme = Zammad::start(zammad::Settings::default()).unwrap();
    let globex = Zammad::start(zammad::Settings::default()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(config(&switch, &acme, &globex, dir.path())).await.unwrap();
    within("the subscription", switch.wait_subscribed()).await;

    // Acme's 1001 calls a number of Globex's over the provider: one outbound call of the one, one inbound of the
    // other. Acme's Zammad is away.
    acme.stop().await;
    let call = renamed(&switch, &common::recording("captures-fusionpbx", "fp_tenants_via_provider"), "a");
    switch.play(&call, Pace::AtOnce).await;
    until("Globex's call", || globex.log().iter().any(|row| row.state == "hangup")).await;
    let [theirs] = &globex.log()[..] else { panic!("{:?}", globex.log()) };
    assert_eq!((theirs.direction.as_str(), theirs.to.as_str()), ("in", "4930666601001"));
    assert!(acme.log().is_empty());

    acme.restart().unwrap();
    until("Acme's call", || acme.log().iter().any(|row| row.state == "hangup")).await;
    let [ours] = &acme.log()[..] else { panic!("{:?}", acme.log()) };
    assert_eq!((ours.direction.as_str(), ours.from.as_str()), ("out", "1001"));
    until("the queue is empty", || daemon.store().counts().pending == 0).await;
    assert_eq!(globex.log().len(), 1);
    daemon.stop().await.unwrap();
}

fn config(switch: &Switch, acme: &Zammad, globex: &Zammad, dir: &std::path::Path) -> Config {
    let file = dir.join("config.toml");
    let text = format!(
        r#"
state_dir = "{}"
country = "DE"
[[switch]]
address = "{}"
password = "ClueCon"
zammad = "acme"
[[zammad]]
name = "acme"
url = "{}"
[[zammad]]
name = "globex"
url = "{}"
[[route]]
domain = "acme.*"
zammad = "acme"
[[route]]
number = "4930666*"
zammad = "globex"
[delivery]
retry_wait_ms_min = 50
retry_wait_ms_max = 1000
"#,
        dir.join("state").display(),
        switch.addr(),
        acme.url(),
        globex.url()
    );
    std::fs::write(&file, text).unwrap();
    Config::load(&Overrides::default(), &Environment::from_iter([("", ""); 0]), &file).unwrap().config
}
