//! What a command needs of a configuration. One that only reads a recording must not ask for a password.

use super::document::Given;
use super::fault::Origin;
use super::raw::{RawConfig, RawOutbox, RawSecret};
use super::secret::Secret;
use crate::call::number::Country;

/// How much of a configuration must be there. What is not needed is not read either: its secret files need not
/// be readable, and its value in the [`Config`](super::Config) leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// All of it.
    Everything,
    /// How the switches are reached.
    Switch,
    /// How the Zammads are reached.
    Zammads,
    /// How calls are told: country, rules, causes, people; and where the store is.
    Calls,
    /// The same, and how the outbox is reached.
    Outbox,
}

/// Puts something harmless where a secret is not needed.
pub(super) fn stand_in(raw: &mut RawConfig, needs: Needs) {
    if needs == Needs::Everything {
        return;
    }
    if needs != Needs::Zammads {
        for (number, zammad) in raw.zammads.iter_mut().enumerate() {
            let nowhere = format!("https://zammad-{number}.invalid/api/v1/cti/not-needed");
            zammad.url = RawSecret { text: Some(given(nowhere)), file: None };
            zammad.rest_token = RawSecret::default();
            zammad.ca_file = None;
            zammad.tls = None;
        }
    }
    if needs != Needs::Outbox {
        raw.outbox = RawOutbox::default();
    }
    if needs == Needs::Zammads && raw.country.is_none() {
        raw.country = Some(Given { value: Country::DEFAULT.to_string(), origin: Origin::Nowhere });
    }
    if needs != Needs::Switch {
        for (number, switch) in raw.switches.iter_mut().enumerate() {
            switch.password = RawSecret { text: Some(given("not-needed".to_owned())), file: None };
            if switch.address.is_none() {
                let nowhere = format!("127.0.0.1:{}", 8021 + number);
                switch.address = Some(Given { value: nowhere, origin: Origin::Nowhere });
            }
        }
    }
}

/// Puts something harmless where a secret stands in a file of its own.
pub(super) fn stand_in_for_files(raw: &mut RawConfig) {
    for (number, zammad) in raw.zammads.iter_mut().enumerate() {
        stand_in_for_file(&mut zammad.url, &format!("https://zammad-{number}.invalid/api/v1/cti/not-read"));
        stand_in_for_file(&mut zammad.rest_token, "not-read");
        zammad.ca_file = None;
    }
    raw.outbox.ca_file = None;
    stand_in_for_file(&mut raw.outbox.url, "postgres://outbox.invalid/not-read");
    for switch in &mut raw.switches {
        stand_in_for_file(&mut switch.password, "not-read");
    }
}

fn stand_in_for_file(secret: &mut RawSecret, text: &str) {
    if let (None, Some(file)) = (&secret.text, &secret.file) {
        let value = Secret::new(text);
        *secret = RawSecret { text: Some(Given { value, origin: file.origin.clone() }), file: None };
    }
}

fn given(text: String) -> Given<Secret> {
    Given { value: Secret::new(text), origin: Origin::Nowhere }
}
