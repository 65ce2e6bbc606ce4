//! `[outbox]`: the PostgreSQL that several nodes share, if there is one.

use std::time::Duration;

use super::OutboxConfig;
use super::check::ca;
use super::fault::{Origin, Report};
use super::measure::{bounded, secret};
use super::raw::RawOutbox;
use super::values::is_name;
use crate::outbox::Server;

const DEFAULT_LEASE_S: u64 = 30;
/// Longest name of a node.
const NODE_MAX: usize = 60;

/// `Some(None)` if there is none.
pub(super) fn outbox(raw: RawOutbox, report: &mut Report) -> Option<Option<OutboxConfig>> {
    if !raw.url.is_given() {
        let idle = [
            ("ca_file", raw.ca_file.as_ref().map(|g| &g.origin)),
            ("node", raw.node.as_ref().map(|g| &g.origin)),
            ("lease_s", raw.lease_s.as_ref().map(|g| &g.origin)),
        ];
        for (key, origin) in idle.into_iter().filter_map(|(key, origin)| Some((key, origin?))) {
            let what = "is of no use: without url there is no outbox";
            report.warn(origin, format!("outbox.{key}"), what, "write url_file = \"/path\" beside it");
        }
        return Some(None);
    }
    let place = super::raw::Place { key: "outbox".to_owned(), origin: Origin::Nowhere };
    let lease = bounded(raw.lease_s.as_ref(), "outbox.lease_s", 2..=600, DEFAULT_LEASE_S, report);
    let node = match raw.node {
        Some(given) if is_name(&given.value, NODE_MAX) => Some(given.value),
        Some(given) => {
            let what = format!("{:?} is no name for a node", given.value);
            let remedy = "write up to 60 letters, digits, dots and dashes, for example the machine's name";
            report.fault(&given.origin, "outbox.node", what, remedy);
            None
        }
        None => {
            let what = "this node has no name, and the others must tell it from themselves";
            report.missing(
                &place.origin,
                "outbox.node",
                what,
                "write node = \"pbx1\", another one on each machine",
            );
            None
        }
    };
    let keys = ["url", "url_file"];
    let url = secret(raw.url, &place, keys, "is empty", "write the URL of the PostgreSQL", report)?;
    let ca_origin = raw.ca_file.as_ref().map(|given| given.origin.clone());
    let ca = match raw.ca_file {
        Some(given) => Some(ca(&given, "outbox.ca_file", report)?),
        None => None,
    };
    let server = match Server::new(url.value.expose(), ca) {
        Ok(server) => server,
        Err(why) => {
            let remedy = "write postgres://USER:PASSWORD@HOST/DATABASE";
            report.fault(&url.origin, "outbox.url", format!("it leads to no PostgreSQL: {why}"), remedy);
            return None;
        }
    };
    if let Some(origin) = ca_origin.filter(|_| !server.is_encrypted()) {
        let what = "certificates to check against are given, and the URL asks for no encryption";
        report.fault(
            &origin,
            "outbox.ca_file",
            what,
            "write ?sslmode=require behind the URL, or take this line out",
        );
    }
    if server.is_open_to_others() {
        let what = "numbers and names go to the outbox unencrypted";
        let remedy =
            "write ?sslmode=require behind the URL; where nobody else can read along, ?sslmode=disable";
        report.warn(&url.origin, "outbox.url", what, remedy);
    }
    Some(Some(OutboxConfig { server, node: node?, lease: Duration::from_secs(lease?) }))
}
