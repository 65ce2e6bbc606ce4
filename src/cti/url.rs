//! The address of one Zammad's CTI: `https://HOST/api/v1/cti/TOKEN`.
//!
//! The token in its path is the only key to the interface, so the type is a secret: it shows everything but
//! the token. Knows nothing of HTTP clients.

use std::fmt;
use std::str::FromStr;

use url::{Host, Url};

/// What stands in place of the token.
const MASK: &str = "****";

/// Why a text is no such address, and what to do; repeats nothing in which the token may stand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {remedy}")]
pub struct UnfitUrl {
    /// What is wrong with it.
    pub what: String,
    /// What to do.
    pub remedy: &'static str,
}

impl UnfitUrl {
    fn new(what: impl Into<String>, remedy: &'static str) -> Self {
        Self { what: what.into(), remedy }
    }
}

/// A checked CTI address: http or https, a host, a path that ends in `/api/v1/cti/` and a token, nothing
/// after it.
#[derive(Clone, PartialEq, Eq)]
pub struct CtiUrl {
    /// Without a slash at its end.
    url: Url,
}

impl CtiUrl {
    /// The whole address, token included. Never log it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.url.as_str()
    }

    /// The token alone. Never log it; useful to prove that a text does not hold it.
    #[must_use]
    pub fn expose_token(&self) -> &str {
        self.url.path().rsplit('/').next().unwrap_or_default()
    }

    /// The host, as a name, an IPv4 address or a bracketed IPv6 address: safe to log.
    #[must_use]
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// True if the way to Zammad is encrypted.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// True if Zammad is on this machine, so that nobody else hears what is sent.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self.url.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            None => false,
        }
    }
}

impl FromStr for CtiUrl {
    type Err = UnfitUrl;

    /// Refuses without repeating any part in which a secret may stand: only scheme and host are named.
    fn from_str(text: &str) -> Result<Self, UnfitUrl> {
        let text = text.trim();
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(UnfitUrl::new("the URL holds a space or a line break", RIGHT_ONE));
        }
        let mut url = Url::parse(text).map_err(|e| {
            let scheme_missing = e == url::ParseError::RelativeUrlWithoutBase;
            let what = if scheme_missing { "the URL has no https:// in front".into() } else { e.to_string() };
            UnfitUrl::new(what, RIGHT_ONE)
        })?;
        if !matches!(url.scheme(), "http" | "https") {
            // The scheme is not repeated: in `TOKEN:...` it would be what should not show.
            return Err(UnfitUrl::new("the URL is neither https nor http", RIGHT_ONE));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(UnfitUrl::new(
                "the URL holds a user or a password before the host",
                "remove them: the token in the path is all that Zammad's CTI asks for",
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(UnfitUrl::new(
                "the URL goes on after the token, with ? or #",
                "end it with the token, as Zammad shows it",
            ));
        }
        let path = url.path().trim_end_matches('/').to_owned();
        let host = url.host_str().unwrap_or_default();
        let Some((_, token)) = path.rsplit_once('/').filter(|(before, _)| before.ends_with(CTI_PATH)) else {
            let what = if path.ends_with(CTI_PATH) {
                format!("the URL of {host} has no token after {CTI_PATH}/")
            } else if path.is_empty() {
                format!("the URL names only the host {host}, not the CTI")
            } else {
                format!("the path of the URL of {host} does not end in {CTI_PATH}/ and a token")
            };
            return Err(UnfitUrl::new(what, RIGHT_ONE));
        };
        if !token.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~')) {
            return Err(UnfitUrl::new(
                format!("what stands after {CTI_PATH}/ in the URL of {host} is no token"),
                RIGHT_ONE,
            ));
        }
        url.set_path(&path);
        Ok(Self { url })
    }
}

impl fmt::Display for CtiUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.url.as_str();
        let shown = whole.rsplit_once('/').map_or("", |(before, _)| before);
        write!(f, "{shown}/{MASK}")
    }
}

impl fmt::Debug for CtiUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

const CTI_PATH: &str = "/api/v1/cti";
const RIGHT_ONE: &str = "copy it whole from Zammad, Admin > System > Integrations > CTI (generic): \
                         https://zammad.example.com/api/v1/cti/ and a token of letters and digits";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_urls_are_kept_and_masked() {
        for (text, exposed, shown) in [
            (
                "https://h.test/api/v1/cti/tOk-e_n",
                "https://h.test/api/v1/cti/tOk-e_n",
                "https://h.test/api/v1/cti/****",
            ),
            (
                "https://h.test/api/v1/cti/tOk/",
                "https://h.test/api/v1/cti/tOk",
                "https://h.test/api/v1/cti/****",
            ),
            (
                " http://[::1]:3000/api/v1/cti/tOk\n",
                "http://[::1]:3000/api/v1/cti/tOk",
                "http://[::1]:3000/api/v1/cti/****",
            ),
            (
                "https://h.test/desk/api/v1/cti/tOk",
                "https://h.test/desk/api/v1/cti/tOk",
                "https://h.test/desk/api/v1/cti/****",
            ),
        ] {
            let url: CtiUrl = text.parse().unwrap();
            assert_eq!(url.expose(), exposed);
            assert_eq!(format!("{url}"), shown);
            assert_eq!(format!("{url:?}"), shown);
            assert!(exposed.ends_with(url.expose_token()) && !url.expose_token().contains('/'));
        }
    }

    #[test]
    fn wrong_urls_are_refused_without_showing_them() {
        for (text, what) in [
            ("https://h.test", "names only the host h.test"),
            ("https://h.test/", "names only the host h.test"),
            ("https://h.test/api/v1/cti", "no token after"),
            ("https://h.test/api/v1/cti///", "no token after"),
            ("https://h.test/s3cret", "does not end in"),
            ("https://h.test/api/v1/cti/s3cret/more", "does not end in"),
            ("https://h.test/xapi/v1/cti/", "does not end in"),
            ("https://h.test/api/v1/cti/<s3cret>", "is no token"),
            ("https://h.test/api/v1/cti/****", "is no token"),
            ("https://h.test/api/v1/cti/s3cret?a=b", "after the token"),
            ("https://h.test/api/v1/cti/s3cret#x", "after the token"),
            ("https://u:s3cret@h.test/api/v1/cti/t", "a user or a password"),
            ("h.test/api/v1/cti/s3cret", "has no https://"),
            ("s3cret:h.test/api/v1/cti/", "neither https nor http"),
            ("ftp://h.test/api/v1/cti/s3cret", "neither https nor http"),
            ("https:///api/v1/cti/s3cret", "does not end in"),
            ("https://h.test/api/v1/cti/s3\ncret", "a space or a line break"),
            ("https://", "empty host"),
            ("", "has no https://"),
        ] {
            let unfit = text.parse::<CtiUrl>().unwrap_err();
            assert!(unfit.what.contains(what), "{text:?}: {unfit}");
            assert!(!unfit.to_string().contains("s3cret"), "{text:?}: {unfit}");
        }
    }

    #[test]
    fn loopback_is_told_from_the_world() {
        for (host, expected) in [
            ("localhost", true),
            ("127.8.8.8", true),
            ("[::1]", true),
            ("10.0.0.1", false),
            ("localhost.test", false),
        ] {
            let url: CtiUrl = format!("http://{host}/api/v1/cti/t").parse().unwrap();
            assert_eq!(url.is_loopback(), expected, "{host}");
        }
    }
}
