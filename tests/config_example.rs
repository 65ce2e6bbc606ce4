//! The example is true: it works as it is, every key in it works when uncommented, and no key is missing from it.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use freeswitch_zammad::config::{Config, Environment, Loaded, Overrides, known_keys};

const EXAMPLE: &str = include_str!("../systemd/config.example.toml");

/// Pairs of which a file may have only one.
const ALTERNATIVES: [(&str, &str); 3] =
    [("password", "password_file"), ("url", "url_file"), ("rest_token", "rest_token_file")];

#[test]
fn the_example_as_it_is_changes_nothing() {
    let with = load(EXAMPLE, &SECRETS);
    let without = load("", &SECRETS);
    assert_eq!(with.config, without.config);
}

#[test]
fn every_commented_key_can_be_uncommented() {
    let defaults = load("", &SECRETS).config;
    for drop in [ALTERNATIVES.map(|(text, _)| text), ALTERNATIVES.map(|(_, file)| file)] {
        let loaded = load(&uncommented(&drop), &[]);
        let config = loaded.config;
        assert_eq!(config.zammads[0].url.expose(), "https://zammad.example.com/api/v1/cti/TOKEN");
        assert_eq!(config.switches[0].password.expose(), "the-password-of-event_socket.conf.xml");
        assert_eq!((config.agents.len(), config.queues.len(), config.causes.len()), (1, 1, 1));
        assert_eq!(config.switches[0].rules.len(), 1);
        assert_eq!(defaults.switches[0].cdr_dir, None);
        assert_eq!(config.switches[0].cdr_dir.as_deref(), Some(Path::new("/var/log/freeswitch/json_cdr")));
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);

        // What the example calls a default is the default.
        assert_eq!(config.state_dir, defaults.state_dir);
        assert_eq!(config.country, defaults.country);
        assert_eq!(config.delivery, defaults.delivery);
        assert_eq!(config.calls.report_internal, defaults.calls.report_internal);
        assert_eq!(config.calls.end_blocked_with, Some("CALL_REJECTED"));
        assert_eq!((config.routes.len(), config.routes[0].zammad.as_str()), (1, "main"));
        assert_eq!(config.log, defaults.log);
        assert_eq!(config.zammads[0].name, defaults.zammads[0].name);
        assert_eq!(config.zammads[0].timeout, defaults.zammads[0].timeout);
        assert_eq!(config.switches[0].name, defaults.switches[0].name);
        assert_eq!(config.switches[0].address, defaults.switches[0].address);
        assert_eq!(config.switches[0].heartbeat_timeout, defaults.switches[0].heartbeat_timeout);
    }
}

#[test]
fn the_example_has_every_key_and_no_other() {
    let mut table = String::new();
    let mut shown = BTreeSet::new();
    for line in uncommented(&[]).lines() {
        if let Some(name) = line.strip_prefix('[') {
            table = name.trim_matches(['[', ']']).to_owned();
            shown.insert(table.clone());
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            let full = if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
            assert!(shown.insert(full.clone()), "{full} stands there twice");
        }
    }
    // The keys of this table are the operator's own.
    shown.retain(|key| !key.starts_with("causes."));
    let known: BTreeSet<String> = known_keys().into_keys().collect();
    assert!(known.len() > 40, "{known:?}");
    assert_eq!(shown, known);
}

#[test]
fn every_key_of_the_example_is_explained() {
    let lines: Vec<&str> = EXAMPLE.lines().collect();
    let mut keys = 0;
    for (i, line) in lines.iter().enumerate() {
        if is_key(line) && line.contains(" = ") {
            keys += 1;
            let above = lines[i - 1];
            assert!(above.starts_with("# ") || above == "[causes]", "nothing explains {line}");
        }
    }
    assert!(keys > 30, "{keys}");
}

const SECRETS: [(&str, &str); 2] = [
    ("FREESWITCH_ZAMMAD_ZAMMAD_URL", "https://zammad.example.com/api/v1/cti/TOKEN"),
    ("FREESWITCH_ZAMMAD_FREESWITCH_PASSWORD", "the-password-of-event_socket.conf.xml"),
];

fn is_key(line: &str) -> bool {
    line.strip_prefix('#').is_some_and(|rest| !rest.is_empty() && !rest.starts_with(' '))
}

/// The example with every commented key in force, except those of `drop`.
fn uncommented(drop: &[&str]) -> String {
    let take = |line: &str| {
        let line = if is_key(line) { &line[1..] } else { line };
        let dropped = drop.iter().any(|key| line.starts_with(&format!("{key} = ")));
        if dropped { String::new() } else { format!("{line}\n") }
    };
    EXAMPLE.lines().map(take).collect()
}

/// Loads `text` with the files that the example names.
fn load(text: &str, variables: &[(&str, &str)]) -> Loaded {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "zammad-url", SECRETS[0].1);
    write(folder.path(), "freeswitch-password", SECRETS[1].1);
    write(folder.path(), "zammad-rest-token", "a-rest-token");
    write(folder.path(), "outbox-url", "postgres://zammad:a-password@127.0.0.1/outbox?sslmode=require");
    write(folder.path(), "outbox-ca.pem", include_str!("docs/authority.pem"));
    write(folder.path(), "zammad-ca.pem", "-----BEGIN CERTIFICATE-----\n");
    let text = text.replace("/etc/freeswitch-zammad/", &format!("{}/", folder.path().display()));
    write(folder.path(), "config.toml", &text);
    let environment: Environment = variables.iter().copied().collect();
    Config::load(&Overrides::default(), &environment, &folder.path().join("config.toml"))
        .unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}
