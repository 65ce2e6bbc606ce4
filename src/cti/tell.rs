//! [`CtiClient`]: tells one Zammad what happens to calls, for programs that are not this daemon.
//!
//! One attempt a call, no waiting and no queue: whether to try again is yours, and [`CtiError::is_retryable`] says if it
//! makes sense. Keep one client and share it; its connection stays open between calls.
//!
//! # TLS
//!
//! Certificates are checked unless you say otherwise:
//!
//! ```no_run
//! # use freeswitch_zammad::cti::CtiClient;
//! let url = "https://zammad.example.com/api/v1/cti/TOKEN";
//! let own_authority = std::fs::read_to_string("/etc/ssl/our-ca.pem")?;
//! let client = CtiClient::builder(url).ca(&own_authority).build()?;
//! let to_anybody = CtiClient::builder(url).accept_any_certificate().build()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Errors
//!
//! ```
//! use std::time::Duration;
//! use freeswitch_zammad::cti::{Call, CtiClient, CtiError, NewCall, Numbers};
//! # use freeswitch_zammad::sim::zammad::{Answer, Fault, Settings, Zammad};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let zammad = Zammad::start(Settings::default())?;
//! # let url = zammad.url();
//! # zammad.set_faults([Fault::answer_instead(Answer::nginx(502).with_header("retry-after", "0"))]);
//! let client = CtiClient::builder(&url).timeout(Duration::from_secs(5)).build()?;
//! let call = Call::outbound("dialer-1".parse()?, Numbers { from: "1001", to: "4915112345678" })?;
//! let mut wait = Duration::from_secs(1);
//! let told = loop {
//!     match client.new_call(&call, NewCall::default()).await {
//!         Err(why) if why.is_retryable() && wait < Duration::from_secs(60) => {
//!             tokio::time::sleep(why.retry_after().unwrap_or(wait)).await;
//!             wait *= 2;
//!         }
//!         other => break other?,
//!     }
//! };
//! # assert_eq!(told, freeswitch_zammad::cti::Done::Accepted);
//! # assert_eq!(zammad.requests().len(), 2);
//! # Ok(())
//! # }
//! ```
//!
//! # Without async
//!
//! A runtime of its own, kept as long as the client, makes each call a blocking one:
//!
//! ```
//! use freeswitch_zammad::cti::{Call, Cause, CtiClient, NewCall, Numbers};
//! # use freeswitch_zammad::sim::zammad::{Settings, Zammad};
//!
//! let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # let elsewhere = tokio::runtime::Runtime::new()?;
//! # let zammad = { let _here = elsewhere.enter(); Zammad::start(Settings::default())? };
//! # let url = zammad.url();
//! let client = CtiClient::new(&url)?;
//! let call = Call::inbound("pbx-1".parse()?, Numbers { from: "anonymous", to: "4930555" })?;
//! runtime.block_on(client.new_call(&call, NewCall::default()))?;
//! runtime.block_on(client.hangup(&call, Cause::Cancel))?;
//! # assert!(zammad.log()[0].missed_mark());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt;
use std::time::Duration;

use super::call::{Answer, Call, Hangup, Invalid, NewCall, Way};
use super::client::{Client, ClientError, Tls};
use super::event::Event;
use super::reply::{Done, Verdict, blames_configuration, judge, judge_probe, refused_alike, unknown_words};
use super::url::CtiUrl;

/// How long one request may take unless the [`Builder`] is told otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Tells one Zammad what happens to calls. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct CtiClient {
    client: Client,
}

impl CtiClient {
    /// For the endpoint as Zammad's settings show it, `https://HOST/api/v1/cti/TOKEN`. Certificates are checked against
    /// the system's roots; a request may take [`TIMEOUT`].
    ///
    /// # Errors
    /// It is no such address.
    pub fn new(url: &str) -> Result<Self, ClientError> {
        Self::builder(url).build()
    }

    /// As [`CtiClient::new`], with more to say.
    #[must_use]
    pub fn builder(url: &str) -> Builder {
        Builder { url: url.to_owned(), tls: Tls::System, timeout: TIMEOUT }
    }

    /// A call begins. [`Done`] says whether the caller is blocked or Zammad's routing has a word on it.
    ///
    /// # Errors
    /// See [`CtiError`]. May be repeated after any that is retryable: Zammad recognises a call that it has.
    pub async fn new_call<W: Way>(&self, call: &Call<W>, begins: NewCall) -> Result<Done, CtiError> {
        self.tell(&call.new_call(begins)?, false).await
    }

    /// Somebody is connected to the outside party. Of an outbound call only the first is worth telling.
    ///
    /// # Errors
    /// See [`CtiError`]. A repeat after [`CtiError::Unsure`] may open the agent's screen once more; the same answer
    /// without number and user does not.
    pub async fn answer<W: Way>(&self, call: &Call<W>, answer: Answer<W>) -> Result<Done, CtiError> {
        self.tell(&call.answer(answer)?, false).await
    }

    /// The call ends. Of a call that was answered say so, with [`Hangup::answered`].
    ///
    /// # Errors
    /// See [`CtiError`].
    pub async fn hangup<W: Way>(&self, call: &Call<W>, hangup: impl Into<Hangup>) -> Result<Done, CtiError> {
        let hangup = hangup.into();
        self.tell(&call.hangup(hangup)?, hangup.is_answered()).await
    }

    /// An event that was made elsewhere. `answered` says of a hangup that somebody is known to have answered.
    ///
    /// # Errors
    /// See [`CtiError`].
    pub async fn tell(&self, event: &Event, answered: bool) -> Result<Done, CtiError> {
        event.check()?;
        let outcome = self.client.post(event.body()).await;
        if let Some(words) = unknown_words(&outcome) {
            return Err(self.refused(words).await);
        }
        CtiError::read(judge(&event.what, &outcome), !event.is_unrepeatable(answered))
    }

    /// Whether Zammad would take events: it is there, the integration is on, the token is right. Leaves no trace.
    ///
    /// # Errors
    /// [`CtiError::Away`] or [`CtiError::Misconfigured`].
    pub async fn check(&self) -> Result<(), CtiError> {
        CtiError::read(judge_probe(&self.client.probe().await), true).map(drop)
    }

    /// In words that are not known here: the probe shows whether the event was to blame.
    async fn refused(&self, words: String) -> CtiError {
        let probe = self.client.probe().await;
        match judge_probe(&probe) {
            Verdict::Away { why, after } => CtiError::Away { why, after },
            Verdict::Done(_)
            | Verdict::RowUnknown(_)
            | Verdict::Unsure(_)
            | Verdict::Misconfigured(_)
            | Verdict::Refused(_) => {
                if !blames_configuration(&words, &probe) {
                    CtiError::Refused(words)
                } else if unknown_words(&probe).is_some() {
                    CtiError::Misconfigured(refused_alike(&words))
                } else {
                    CtiError::Misconfigured(words)
                }
            }
        }
    }
}

/// How a [`CtiClient`] is made.
#[derive(Clone)]
pub struct Builder {
    url: String,
    tls: Tls,
    timeout: Duration,
}

impl Builder {
    /// From the start of a request to the end of its answer; [`TIMEOUT`] unless it is set.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Trusts these authorities, in PEM, besides the system's.
    #[must_use]
    pub fn ca(self, pem: &str) -> Self {
        self.tls(Tls::Ca(pem.to_owned()))
    }

    /// Checks no certificate: whoever is on the way can read the token and every number, and answer in Zammad's place.
    #[must_use]
    pub fn accept_any_certificate(self) -> Self {
        self.tls(Tls::AcceptAnything)
    }

    /// How the other end must prove itself.
    #[must_use]
    pub fn tls(self, tls: Tls) -> Self {
        Self { tls, ..self }
    }

    /// Connects to nothing yet.
    ///
    /// # Errors
    /// The address is none of Zammad's CTI, or the authorities cannot be read.
    pub fn build(self) -> Result<CtiClient, ClientError> {
        let url: CtiUrl = self.url.parse()?;
        Ok(CtiClient { client: Client::new(url.expose(), &self.tls, self.timeout)? })
    }
}

impl fmt::Debug for Builder {
    /// Without the address, which holds the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("tls", &self.tls)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for CtiClient {
    /// Without the address, which holds the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CtiClient").finish_non_exhaustive()
    }
}

/// Why an event was not told. Zammad's own words are repeated where they help, without the token; they may hold what
/// the event said, telephone numbers too.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CtiError {
    /// Refused here; nothing was sent.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Zammad does not know the call of this answer or hangup (or failed inside): tell its newCall first, then this
    /// again. An answer of [`Done::AlreadyKnown`] to that says that the call was there.
    #[error("Zammad does not know the call ({0}): tell its newCall first, then this again")]
    CallUnknown(String),
    /// Surely not processed.
    #[error("Zammad is away: {why}")]
    Away {
        /// One sentence.
        why: String,
        /// What Zammad asked for.
        after: Option<Duration>,
    },
    /// It was sent, and no answer came that says what became of it.
    #[error("it may have arrived or not: {why}{}", if *.repeatable { "" } else { "; do not repeat it: a second hangup of a missed call takes back the missed mark" })]
    Unsure {
        /// One sentence.
        why: String,
        /// Whether repeating it does no harm.
        repeatable: bool,
    },
    /// A person must mend the configuration, here or in Zammad. No event is at fault.
    #[error("{0}")]
    Misconfigured(String),
    /// Zammad will never take this event.
    #[error("Zammad refuses it: {0}")]
    Refused(String),
}

impl CtiError {
    /// Whether the same event should be told again, after a while.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Away { .. } => true,
            Self::Unsure { repeatable, .. } => *repeatable,
            Self::Invalid(_) | Self::CallUnknown(_) | Self::Misconfigured(_) | Self::Refused(_) => false,
        }
    }

    /// How long Zammad, or what stands before it, asks to be left alone.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Away { after, .. } => *after,
            Self::Invalid(_)
            | Self::CallUnknown(_)
            | Self::Unsure { .. }
            | Self::Misconfigured(_)
            | Self::Refused(_) => None,
        }
    }

    fn read(verdict: Verdict, repeatable: bool) -> Result<Done, Self> {
        match verdict {
            Verdict::Done(done) => Ok(done),
            Verdict::RowUnknown(why) => Err(Self::CallUnknown(why)),
            Verdict::Away { why, after } => Err(Self::Away { why, after }),
            Verdict::Unsure(why) => Err(Self::Unsure { why, repeatable }),
            Verdict::Misconfigured(why) => Err(Self::Misconfigured(why)),
            Verdict::Refused(why) => Err(Self::Refused(why)),
        }
    }
}
