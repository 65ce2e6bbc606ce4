//! Posts to one Zammad over one pool of kept connections. The only file that names reqwest.
//!
//! Never follows a redirect (the token would travel with it), ignores cookies, asks for JSON answers, and
//! reads no more of an answer than a bound. It says what came back; what that means is [`super::reply`]'s. Servers and
//! proxies like to repeat in an error what was asked of them, so our tokens are taken out of all that comes back.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER};
use rustls::CertificateError;
use rustls::pki_types::UnixTime;

use super::reply::{Looked, Outcome, Reply, find_call};
use super::url::UnfitUrl;

/// Most bytes of an answer that are read.
pub const ANSWER_MAX: usize = 512 * 1024;
/// Body of the probe that changes nothing.
pub const PROBE: &str = r#"{"direction":"probe"}"#;

/// A token that is shorter is not masked in answers. Zammad's have 27 characters.
const TOKEN_MIN: usize = 8;

/// How long a kept connection may idle: shorter than what servers and proxies allow, so that we close first and
/// no request is lost to a connection that the other side has just given up.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// How the server's certificate is checked. Means nothing for a plain http URL.
#[derive(Clone, PartialEq, Eq)]
pub enum Tls {
    /// Against the system's roots.
    System,
    /// Against these roots as well, in PEM.
    Ca(String),
    /// Not at all. Anybody on the way can read and answer.
    AcceptAnything,
}

impl fmt::Debug for Tls {
    /// Without the certificates: they fill pages, and a key may stand beside them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("System"),
            Self::Ca(pem) => write!(f, "Ca({} bytes)", pem.len()),
            Self::AcceptAnything => f.write_str("AcceptAnything"),
        }
    }
}

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is no address of Zammad's CTI.
    #[error(transparent)]
    Url(#[from] UnfitUrl),
    /// No certificate, or a malformed one, where a CA's should be.
    #[error("the CA file holds no certificate that can be used: {0}; name a PEM file with ca_file")]
    Ca(String),
    /// A server's certificate cannot be checked: no authority is known whose certificates could be trusted.
    #[error(
        "the system has no CA certificates ({0}): install them (Debian: apt install ca-certificates), or name Zammad's own CA with ca_file"
    )]
    NoRoots(String),
    /// reqwest refuses the settings.
    #[error("the HTTP client cannot be set up: {0}")]
    Setup(String),
}

/// One Zammad. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: reqwest::Url,
    rest_token: Option<String>,
    timeout: Duration,
}

impl Client {
    /// How long one request takes at most.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// `url` is the whole endpoint with its token, `timeout` covers one request from connect to the last byte.
    pub fn new(url: &str, tls: &Tls, timeout: Duration) -> Result<Self, ClientError> {
        // Fails only if it was installed before, which is what we want.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = reqwest::Url::parse(url).map_err(|why| ClientError::Setup(why.to_string()))?;
        let plain = || {
            reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(timeout)
                // What was given up must not arrive when a network that swallowed it is back.
                .tcp_user_timeout(timeout)
                .timeout(timeout)
                .pool_idle_timeout(IDLE_MAX)
                .user_agent(concat!("freeswitch-zammad/", env!("CARGO_PKG_VERSION")))
        };
        let setup = |why: reqwest::Error| ClientError::Setup(deepest(&why));
        let builder = plain();
        let builder = match tls {
            // reqwest reads the system's roots even for what it never encrypts, and makes no client without any.
            Tls::System => match (builder.build(), url.scheme()) {
                (Ok(http), _) => return Ok(Self { http, url, rest_token: None, timeout }),
                (Err(_), "http") => plain().tls_certs_only([]),
                (Err(why), _) => return Err(ClientError::NoRoots(deepest(&why))),
            },
            Tls::AcceptAnything => builder.tls_danger_accept_invalid_certs(true),
            Tls::Ca(pem) => {
                let roots = reqwest::Certificate::from_pem_bundle(pem.as_bytes())
                    .map_err(|why| ClientError::Ca(why.to_string()))?;
                if roots.is_empty() {
                    return Err(ClientError::Ca(
                        "nothing in it begins with -----BEGIN CERTIFICATE-----".into(),
                    ));
                }
                builder.tls_certs_merge(roots)
            }
        };
        let http = builder.build().map_err(setup)?;
        Ok(Self { http, url, rest_token: None, timeout })
    }

    /// The same client, which may also look into the caller log: a token of a user who may see it.
    #[must_use]
    pub fn with_rest_token(self, token: &str) -> Self {
        Self { rest_token: Some(token.to_owned()), ..self }
    }

    /// Posts one event's JSON body.
    pub async fn post(&self, body: String) -> Outcome {
        self.send(self.http.post(self.url.clone()), Some(body)).await
    }

    /// What has become of the hangup of an inbound call that nobody answered. If it was processed more than
    /// once, so that the call is no longer marked as missed, the mark is put back.
    pub async fn look(&self, call_id: &str) -> Looked {
        let Some(token) = &self.rest_token else {
            return Looked::Failed("no REST token is configured".into());
        };
        let rest =
            |request: reqwest::RequestBuilder| request.header(AUTHORIZATION, format!("Token token={token}"));
        let log = self.send(rest(self.http.get(self.beside("log"))), None).await;
        let row = match find_call(&log, call_id) {
            Ok(Some(row)) => row,
            Ok(None) => return Looked::NotListed,
            Err(why) => return Looked::Failed(why),
        };
        match (row.hung_up, row.done) {
            (false, _) => Looked::Unprocessed,
            (true, false) => Looked::Processed,
            (true, true) => {
                let mark = rest(self.http.post(self.beside(&format!("done/{}", row.id))));
                match self.send(mark, Some(r#"{"done":false}"#.to_owned())).await {
                    Outcome::Reply(Reply { status: 200..=299, .. }) => Looked::Processed,
                    other => Looked::Failed(format!("the missed mark could not be put back: {other:?}")),
                }
            }
        }
    }

    /// An address beside the endpoint's: the token is its last part.
    fn beside(&self, path: &str) -> reqwest::Url {
        self.url.join(path).unwrap_or_else(|_| self.url.clone())
    }

    async fn send(&self, request: reqwest::RequestBuilder, body: Option<String>) -> Outcome {
        match self.exchange(request, body).await {
            Outcome::Reply(reply) => Outcome::Reply(Reply {
                body: self.without_tokens(reply.body),
                location: reply.location.map(|to| self.without_tokens(to)),
                ..reply
            }),
            Outcome::NotSent(why) => Outcome::NotSent(self.without_tokens(why)),
            Outcome::NoAnswer(why) => Outcome::NoAnswer(self.without_tokens(why)),
            Outcome::Untrusted(why) => Outcome::Untrusted(self.without_tokens(why)),
        }
    }

    fn without_tokens(&self, text: String) -> String {
        let token = self.url.path().rsplit('/').next();
        let mut text = text;
        for token in token.into_iter().chain(self.rest_token.as_deref()) {
            // A shorter one is no secret, and might be a word of the answer.
            if token.len() >= TOKEN_MIN && text.contains(token) {
                text = text.replace(token, "****");
            }
        }
        text
    }

    async fn exchange(&self, request: reqwest::RequestBuilder, body: Option<String>) -> Outcome {
        let request = request.header(ACCEPT, "application/json");
        let request = match body {
            Some(body) => request.header(CONTENT_TYPE, "application/json").body(body),
            None => request,
        };
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(why) => return failed(&why),
        };
        let status = response.status().as_u16();
        let retry_after = retry_after(response.headers());
        let location = text(response.headers(), LOCATION.as_str());
        let mut body = Vec::new();
        while body.len() < ANSWER_MAX {
            match response.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk[..chunk.len().min(ANSWER_MAX - body.len())]),
                Ok(None) => break,
                Err(why) => return Outcome::NoAnswer(format!("the answer broke off: {}", deepest(&why))),
            }
        }
        Outcome::Reply(Reply {
            status,
            body: String::from_utf8_lossy(&body).into_owned(),
            retry_after,
            location,
        })
    }

    /// Asks whether events would be accepted, leaving no trace.
    pub async fn probe(&self) -> Outcome {
        self.post(PROBE.to_owned()).await
    }
}

fn failed(why: &reqwest::Error) -> Outcome {
    if let Some(tls) = tls_error(why) {
        return Outcome::Untrusted(tls);
    }
    let reason = deepest(why);
    if why.is_connect() {
        Outcome::NotSent(if why.is_timeout() { "no connection in time".into() } else { reason })
    } else if why.is_builder() {
        Outcome::NotSent(reason)
    } else if why.is_timeout() {
        Outcome::NoAnswer("no answer in time".into())
    } else {
        Outcome::NoAnswer(reason)
    }
}

/// What rustls says, if it was rustls that refused the other side's certificate.
fn tls_error(why: &reqwest::Error) -> Option<String> {
    let mut at: Option<&(dyn std::error::Error + 'static)> = why.source();
    while let Some(error) = at {
        if let Some(rustls::Error::InvalidCertificate(why)) = error.downcast_ref() {
            return Some(certificate_words(why));
        }
        // An I/O error does not name what it wraps as its source, only the source of that.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        at = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

fn certificate_words(why: &CertificateError) -> String {
    let day = |at: UnixTime| {
        let at = i64::try_from(at.as_secs()).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
        at.map_or_else(|| "another time".to_owned(), |at| at.to_string())
    };
    match why {
        CertificateError::ExpiredContext { not_after, .. } => format!("it expired at {}", day(*not_after)),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("it is not valid before {}", day(*not_before))
        }
        other => other.to_string(),
    }
}

/// The innermost reason: what reqwest wraps around it repeats the URL, and with it the token.
fn deepest(why: &reqwest::Error) -> String {
    let mut reason: Option<&(dyn std::error::Error + 'static)> = why.source();
    while let Some(inner) = reason.and_then(std::error::Error::source) {
        reason = Some(inner);
    }
    reason.map_or_else(|| "the request failed".to_owned(), ToString::to_string)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    const LONGEST: u64 = 3600;
    text(headers, RETRY_AFTER.as_str())?.parse().ok().map(|s: u64| Duration::from_secs(s.min(LONGEST)))
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}
