//! What the file says is what the layers below are run by.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use freeswitch_zammad::call::cause::Weight;
use freeswitch_zammad::call::leg::{Side, Way};
use freeswitch_zammad::call::people::Agent;
use freeswitch_zammad::call::rule::{Glob, Rule};
use freeswitch_zammad::config::{Config, Environment, Overrides};
use freeswitch_zammad::cti::cause::Cause;

#[test]
fn a_switch_gets_its_own_rules_in_their_order() {
    let config = load(
        r#"
        [[switch]]
        name = "a"
        address = "a.test:8021"
        password = "x"
        [[switch.rule]]
        profile = "ext*"
        context = "public"
        gateway = "gw?"
        channel = "sofia/*"
        user = "1???"
        number = "+49*"
        direction = "outbound"
        side = "plumbing"
        [[switch.rule]]
        direction = "inbound"
        side = "ours"
        [[switch]]
        name = "b"
        address = "b.test:8021"
        password = "x"
        "#,
    );
    let glob = |pattern| Some(Glob::new(pattern));
    let every_key = Rule {
        profile: glob("ext*"),
        context: glob("public"),
        gateway: glob("gw?"),
        channel: glob("sofia/*"),
        user: glob("1???"),
        number: glob("+49*"),
        way: Some(Way::Outbound),
        side: Side::Plumbing,
    };
    let one_key = Rule {
        profile: None,
        context: None,
        gateway: None,
        channel: None,
        user: None,
        number: None,
        way: Some(Way::Inbound),
        side: Side::Ours,
    };
    assert_eq!(config.calls_of(&config.switches[0]).rules, [every_key, one_key]);
    assert_eq!(config.calls_of(&config.switches[1]).rules, []);
}

#[test]
fn people_are_known_by_extension_and_by_domain() {
    let config = load(
        r#"
        [[switch]]
        password = "x"
        [[agent]]
        extension = "1001"
        user = "Anton"
        number = "+49 30 555001"
        [[agent]]
        extension = "1001@b.test"
        user = "Berta"
        "#,
    );
    let people = config.calls_of(&config.switches[0]).people;
    let anton = Agent { user: Some("Anton".into()), number: Some("4930555001".into()) };
    let berta = Agent { user: Some("Berta".into()), number: None };
    assert_eq!(people.agent("1001", None), Some(&anton));
    assert_eq!(people.agent("1001", Some("a.test")), Some(&anton));
    assert_eq!(people.agent("1001", Some("b.test")), Some(&berta));
    assert_eq!(people.agent("1002", Some("b.test")), None);
}

#[test]
fn a_queue_is_found_by_the_number_as_it_is_sent() {
    for (country, written, sent) in [
        ("DE", "+49 30 555100", "4930555100"),
        ("DE", "100", "100"),
        ("US", "12125551234", "12125551234"),
        ("US", "(212) 555-1234", "12125551234"),
        ("ES", "912345678", "34912345678"),
        // Written out, though the country could read its first digits as an area of its own.
        ("US", "6562345678", "6562345678"),
    ] {
        let config = load(&format!(
            "country = \"{country}\"\n[[switch]]\npassword = \"x\"\n[[queue]]\nnumber = \"{written}\"\nname = \"Support\"\n"
        ));
        let settings = config.calls_of(&config.switches[0]);
        assert_eq!(settings.country.to_string(), country);
        assert_eq!(settings.people.queue(sent), Some("Support"), "{country} {written}");
        assert_eq!(settings.people.queue("4930555999"), None);
    }
}

#[test]
fn what_is_written_out_goes_before_what_is_read_into_a_number() {
    for order in [["12125551234", "2125551234"], ["2125551234", "12125551234"]] {
        let queues = order.map(|n| format!("[[queue]]\nnumber = \"{n}\"\nname = \"{n}\"\n")).concat();
        let config = load(&format!("country = \"US\"\n[[switch]]\npassword = \"x\"\n{queues}"));
        let people = config.calls_of(&config.switches[0]).people;
        assert_eq!(people.queue("12125551234"), Some("12125551234"));
    }
}

#[test]
fn the_operators_causes_go_before_the_table() {
    let config =
        load("[[switch]]\npassword = \"x\"\n[causes]\nMANAGER_REQUEST = \"congestion\"\nOURS = \"busy\"\n");
    let causes = config.calls_of(&config.switches[0]).causes;
    assert_eq!(causes.look_up("MANAGER_REQUEST"), (Cause::Congestion, Weight::Tells));
    assert_eq!(causes.look_up("OURS"), (Cause::Busy, Weight::Tells));
    assert_eq!(causes.look_up("USER_BUSY"), (Cause::Busy, Weight::Tells));
    assert_eq!(causes.look_up("NORMAL_CLEARING"), (Cause::NormalClearing, Weight::Silent));
}

#[test]
fn the_schedule_is_run_by_the_delivery_table() {
    let config = load(
        "[[switch]]\npassword = \"x\"\n[delivery]\nconcurrency = 3\nretry_wait_ms_min = 70\nretry_wait_ms_max = 8000\nlate_after_s = 90\n",
    );
    let settings = config.delivery.schedule(jiff::tz::TimeZone::UTC, false);
    assert_eq!(settings.concurrency, 3);
    assert_eq!(settings.backoff.min, Duration::from_millis(70));
    assert_eq!(settings.backoff.max, Duration::from_secs(8));
    assert_eq!(settings.lateness.after, Duration::from_secs(90));
}

fn load(text: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let url = [("FREESWITCH_ZAMMAD_ZAMMAD_URL", "https://z.test/api/v1/cti/t")];
    let environment: Environment = url.into_iter().collect();
    Config::load(&Overrides::default(), &environment, &path).unwrap_or_else(|e| panic!("{e}\n{text}")).config
}
