//! `[admin]`: where the daemon shows itself over HTTP. Beyond loopback only if that is said in so many words.

use std::net::SocketAddr;

use super::AdminConfig;
use super::fault::Report;
use super::raw::RawAdmin;

/// `Some(None)` if there is to be none.
pub(super) fn admin(raw: &RawAdmin, report: &mut Report) -> Option<Option<AdminConfig>> {
    let Some(given) = &raw.listen else {
        let idle = raw
            .allow_remote
            .as_ref()
            .filter(|given| given.value)
            .map(|given| ("allow_remote", &given.origin));
        for (key, origin) in idle.into_iter().chain(raw.host.as_ref().map(|given| ("host", &given.origin))) {
            let what = "is of no use: without listen there is no status page";
            report.warn(origin, format!("admin.{key}"), what, "write listen = \"127.0.0.1:8022\" beside it");
        }
        return Some(None);
    };
    let Ok(listen) = given.value.parse::<SocketAddr>() else {
        let what = format!("{:?} is no ADDRESS:PORT", given.value);
        let remedy = "write an IP address and a port, for example 127.0.0.1:8022 or [::1]:8022";
        report.fault(&given.origin, "admin.listen", what, remedy);
        return None;
    };
    let may_be_remote = raw.allow_remote.as_ref().is_some_and(|given| given.value);
    if !listen.ip().is_loopback() && !may_be_remote {
        let what = format!("{listen} can be reached from other machines, and nothing there is encrypted");
        let remedy = "write 127.0.0.1 and go there by ssh -L; or, behind a proxy or firewall of yours, allow_remote = true";
        report.fault(&given.origin, "admin.listen", what, remedy);
        return None;
    }
    let host = match &raw.host {
        Some(given) if !is_name(&given.value) => {
            let what = format!("{:?} is no host name", given.value);
            report.fault(
                &given.origin,
                "admin.host",
                what,
                "write the name alone, for example status.example.com",
            );
            return None;
        }
        Some(given) => Some(given.value.clone()),
        None => None,
    };
    Some(Some(AdminConfig { listen, host }))
}

fn is_name(text: &str) -> bool {
    text.len() <= 253 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}
