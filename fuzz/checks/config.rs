//! A configuration file's text, with environment and flags over it, into a configuration or faults. An input is
//! the text, then after each zero byte a variable `NAME=value` or a flag `--name=value`.

use std::collections::BTreeSet;
use std::path::Path;

use freeswitch_zammad::config::{Config, CtiUrl, Environment, Number, Overrides, Secret};

/// Shorter texts stand in messages by chance.
const SECRET_MIN: usize = 8;

pub(crate) fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut parts = text.split('\0');
    let file = parts.next().unwrap_or_default();
    let (flags, variables): (Vec<&str>, Vec<&str>) = parts.partition(|part| part.starts_with("--"));
    let pair = |part: &'_ str| part.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let variables: Vec<(String, String)> = variables.into_iter().filter_map(pair).collect();
    let mut overrides = Overrides::default();
    let mut secrets: BTreeSet<String> = secrets_of(file);
    for (name, value) in flags.into_iter().filter_map(pair) {
        match &*name {
            "--zammad-url" => {
                secrets.extend(token_of(&value));
                overrides.zammad_url = Some(Secret::new(value));
            }
            "--zammad-verify-ssl" => overrides.zammad_verify_ssl = Some(value == "true"),
            "--freeswitch" => overrides.freeswitch = Some(value),
            "--freeswitch-user" => overrides.freeswitch_user = Some(value),
            "--freeswitch-password" => {
                secrets.insert(value.clone());
                overrides.freeswitch_password = Some(Secret::new(value));
            }
            "--freeswitch-password-file" => overrides.freeswitch_password_file = Some(value.into()),
            "--state-dir" => overrides.state_dir = Some(value.into()),
            "--country" => overrides.country = Some(value),
            _ => {}
        }
    }
    for (name, value) in &variables {
        match &**name {
            "FREESWITCH_ZAMMAD_FREESWITCH_PASSWORD" => drop(secrets.insert(value.clone())),
            "FREESWITCH_ZAMMAD_ZAMMAD_URL" | "ZammadCTI_URL" => secrets.extend(token_of(value)),
            _ => {}
        }
    }
    // One that stands twice stands somewhere that is not secret.
    secrets.retain(|secret| secret.len() >= SECRET_MIN && text.matches(&**secret).count() == 1);
    let environment: Environment = variables.into_iter().collect();
    let path = Path::new("/etc/freeswitch-zammad/config.toml");
    let judged = Config::judge(file, path, &overrides, &environment);
    match &judged {
        Ok(loaded) => {
            is_sound(&loaded.config);
            shows_no_secret(&format!("{loaded:?}"), &secrets);
            for warning in &loaded.warnings {
                is_one_line(&warning.to_string());
                shows_no_secret(&warning.to_string(), &secrets);
            }
        }
        Err(error) => {
            assert!(!error.faults.is_empty());
            for fault in &error.faults {
                assert!(!fault.what.is_empty() && !fault.remedy.is_empty());
                is_one_line(&fault.to_string());
                shows_no_secret(&fault.to_string(), &secrets);
            }
            shows_no_secret(&format!("{error:?}"), &secrets);
        }
    }
    assert_eq!(judged, Config::judge(file, path, &overrides, &environment), "the same each time");
}

/// What a checked configuration promises.
fn is_sound(config: &Config) {
    assert!(!config.switches.is_empty() && !config.zammads.is_empty());
    for switch in &config.switches {
        assert_eq!(config.zammad_of(switch).name, switch.zammad);
        assert_eq!(switch.address.to_string().parse().as_ref(), Ok(&switch.address));
        assert!(switch.address.port() > 0);
        assert!(
            !switch.password.expose().is_empty() && !switch.password.expose().contains(['\n', '\r', '\0'])
        );
        assert!(!switch.name.as_str().contains('/'), "names are parts of keys");
        drop(config.calls_of(switch));
    }
    for zammad in &config.zammads {
        let url = &zammad.url;
        assert_eq!(url.expose().parse::<CtiUrl>().as_ref(), Ok(url));
        assert!(!url.expose_token().is_empty() && url.expose().ends_with(url.expose_token()));
        assert!(!url.expose_token().contains('/') && !url.host().is_empty());
        assert!(zammad.timeout.as_secs() > 0);
    }
    let numbers =
        config.agents.iter().filter_map(|a| a.number.as_ref()).chain(config.queues.iter().map(|q| &q.number));
    for number in numbers {
        assert_eq!(number.as_str().parse::<Number>().as_ref(), Ok(number));
        assert!(number.as_str().bytes().all(|b| b.is_ascii_digit()));
    }
    for route in config.routes.iter().map(|route| &route.zammad) {
        assert!(config.zammads.iter().any(|zammad| zammad.name.as_str() == route), "{route} leads nowhere");
    }
    let distinct = |names: Vec<String>| names.iter().collect::<BTreeSet<_>>().len() == names.len();
    assert!(distinct(config.switches.iter().map(|s| s.name.to_string()).collect()));
    assert!(distinct(config.switches.iter().map(|s| s.address.to_string()).collect()));
    assert!(distinct(config.zammads.iter().map(|z| z.name.to_string()).collect()));
    assert!(distinct(config.zammads.iter().map(|z| z.url.expose().to_owned()).collect()));
    assert!(config.delivery.retry_wait_min <= config.delivery.retry_wait_max);
}

fn is_one_line(said: &str) {
    assert!(!said.contains(['\n', '\r']), "{said:?}");
}

fn shows_no_secret(said: &str, secrets: &BTreeSet<String>) {
    for secret in secrets {
        // Debug escapes; what it makes of a quote or a line feed is shown just as little.
        let escaped = format!("{secret:?}");
        let escaped = escaped.trim_matches('"');
        assert!(!said.contains(&**secret) && !said.contains(escaped), "{secret:?} in {said}");
    }
}

/// The secrets of a file, by a reader of its own: what stands under a secret's key, in TOML or in what nearly is.
fn secrets_of(file: &str) -> BTreeSet<String> {
    let mut secrets = BTreeSet::new();
    if let Ok(table) = file.parse::<toml::Table>() {
        for (list, keys) in [("switch", &["password"][..]), ("zammad", &["url", "rest_token"][..])] {
            for entry in table.get(list).and_then(toml::Value::as_array).into_iter().flatten() {
                for key in keys {
                    let value = entry.get(key).and_then(toml::Value::as_str).unwrap_or_default();
                    secrets.extend(if *key == "url" { token_of(value) } else { Some(value.to_owned()) });
                }
            }
        }
        return secrets;
    }
    for line in file.lines() {
        let Some((key, value)) = line.split_once('=') else { continue };
        let value = value.trim().trim_matches(|c: char| !c.is_alphanumeric());
        match key.trim() {
            "password" | "rest_token" if value.chars().all(|c| c.is_ascii_alphanumeric()) => {
                secrets.insert(value.to_owned());
            }
            "url" => secrets.extend(token_of(value)),
            _ => {}
        }
    }
    secrets
}

/// What stands behind the path of the CTI in what should be its URL.
fn token_of(url: &str) -> Option<String> {
    let (_, token) = url.trim().trim_end_matches('/').rsplit_once("/api/v1/cti/")?;
    token.chars().all(|c| c.is_ascii_alphanumeric()).then(|| token.to_owned())
}
