//! Who is let in: what a request's head must say before anything else is looked at. Pure.

use std::net::IpAddr;

use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::{HeaderMap, Uri};

/// Whether the request is for us under a name that cannot be made to lead here: an address, `localhost`, or `own`.
/// Any other name may belong to a page that wants to be taken for us (DNS rebinding).
pub(super) fn is_for_us(uri: &Uri, headers: &HeaderMap, own: Option<&str>) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Ok(host) = host.to_str() else { return false };
    let name = without_port(host);
    // A request for another server, as proxies get them, names that one in its first line.
    uri.authority().is_none_or(|authority| authority.as_str() == host)
        && (is_address(name)
            || name.eq_ignore_ascii_case("localhost")
            || own.is_some_and(|own| name.eq_ignore_ascii_case(own)))
}

/// Whether a page of ours may have sent this, and no other. Who is no browser says neither.
pub(super) fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |value: Option<&axum::http::HeaderValue>| value.map(|v| v.to_str().unwrap_or("?").to_owned());
    let site = text(headers.get("sec-fetch-site"));
    let origin = text(headers.get(ORIGIN));
    match (site.as_deref(), origin.as_deref()) {
        // The browser's own word; a proxy in between may have changed the host.
        (Some(site), _) => site == "same-origin",
        (None, Some(origin)) => {
            let host = text(headers.get(HOST)).unwrap_or_default();
            origin == format!("http://{host}") || origin == format!("https://{host}")
        }
        (None, None) => true,
    }
}

/// The session that the request names.
pub(super) fn session(headers: &HeaderMap) -> Option<&str> {
    headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        Some(_) | None => host,
    }
}

fn is_address(name: &str) -> bool {
    name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_asks_for_an_address_or_our_name_is_let_in() {
        for (host, right) in [
            ("127.0.0.1:8022", true),
            ("127.0.0.1", true),
            ("[::1]:8022", true),
            ("192.0.2.7:80", true),
            ("LocalHost:8022", true),
            ("status.example.com", true),
            ("status.example.com:443", true),
            ("evil.example", false),
            ("127.0.0.1.evil.example:8022", false),
            ("localhost.evil.example", false),
            ("status.example.com.evil.example", false),
            ("", false),
            (":8022", false),
        ] {
            let headers = headers(&[("host", host)]);
            let uri = Uri::from_static("/");
            assert_eq!(is_for_us(&uri, &headers, Some("status.example.com")), right, "{host:?}");
        }
        let (root, proxied) = (Uri::from_static("/"), Uri::from_static("http://evil.example/"));
        assert!(!is_for_us(&root, &headers(&[]), None));
        assert!(!is_for_us(&root, &headers(&[("host", "127.0.0.1"), ("host", "127.0.0.1")]), None));
        assert!(!is_for_us(&proxied, &headers(&[("host", "127.0.0.1")]), None));
        assert!(!is_for_us(&root, &headers(&[("host", "status.example.com")]), None));
    }

    #[test]
    fn another_site_orders_nothing() {
        for (site, origin, right) in [
            ("same-origin", "http://127.0.0.1:8022", true),
            ("same-origin", "https://status.example.com", true),
            ("same-site", "http://127.0.0.1:9000", false),
            ("cross-site", "https://evil.example", false),
            ("none", "", false),
            ("", "http://127.0.0.1:8022", true),
            ("", "http://127.0.0.1:9000", false),
            ("", "https://evil.example", false),
            ("", "null", false),
            ("", "", true),
        ] {
            let all = [("host", "127.0.0.1:8022"), ("sec-fetch-site", site), ("origin", origin)];
            let said: Vec<_> = all.into_iter().filter(|(_, value)| !value.is_empty()).collect();
            assert_eq!(is_same_origin(&headers(&said)), right, "{site:?}, {origin:?}");
        }
    }

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in all {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }
}
