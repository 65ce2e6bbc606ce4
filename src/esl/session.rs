//! One conversation with one switch, from the greeting to the end: a pure state machine.
//!
//! ```text
//! connected ─▶ Greeting ─auth/request▶ LoggingIn ─+OK▶ Subscribing ─+OK▶ Listening ─▶ events …
//!                 │ rude-rejection         │ -ERR          │ -ERR          │ disconnect-notice, silence
//!                 ▼                        ▼               ▼               ▼
//!               Fault                    Fault           Fault           Fault       (over: connect again, or stop)
//! ```
//!
//! Knows no socket and no clock: frames and moments go in, bytes to send and events come out. Once a
//! [`Fault`] has come out the session is over.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::command;
use super::event::{Event, EventError};
use super::frame::{Frame, Kind};
use crate::time::UnixMillis;

/// How long the switch may take for greeting, login and subscription together. Its own limit for a login is 25 s.
pub const LOGIN_MAX: Duration = Duration::from_secs(20);

/// How we log in.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// `USER@DOMAIN` for `userauth`; `None` for `auth`.
    pub user: Option<String>,
    /// The password.
    pub password: String,
}

/// Why a conversation is over. The text is one sentence for the operator.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Fault {
    /// `-ERR invalid` on login.
    #[error(
        "the switch refused the password: set the one from its event_socket.conf.xml (or the user's esl-password)"
    )]
    WrongPassword,
    /// `text/rude-rejection`.
    #[error(
        "the switch does not accept connections from this address: allow it in apply-inbound-acl of its event_socket.conf.xml"
    )]
    RudeRejection,
    /// The subscription was refused: the user's esl-allowed-events are too narrow.
    #[error("the switch refused the subscription ({said}): add {missing} to this user's esl-allowed-events")]
    SubscriptionRefused {
        /// The switch's words.
        said: String,
        /// The events that this user is not allowed; all that we need, if the switch does not say which.
        missing: String,
    },
    /// A password with a line feed or another control character cannot be sent.
    #[error("the password or user for the switch holds a control character: the event socket cannot take it")]
    UnsafePassword,
    /// No login within [`LOGIN_MAX`]: something else listens there, or the switch hangs.
    #[error("no event socket answered within {} s: is this the event socket's port?", LOGIN_MAX.as_secs())]
    LoginTimeout,
    /// Neither an event nor a heartbeat for as long as configured: a half-open link.
    #[error("nothing was heard for {} s, not even a heartbeat: the link is dead", .0.as_secs())]
    Silent(Duration),
    /// `text/disconnect-notice` that does not linger: the switch shuts down or reloads the module.
    #[error("the switch closed the connection (it shuts down, or reloads mod_event_socket)")]
    Disconnected,
    /// A second `auth/request`, or an answer to nothing: this conversation is not what we think it is.
    #[error("the switch said something that fits nothing we asked ({0})")]
    OutOfStep(&'static str),
}

impl Fault {
    /// Whether only a person can mend it: trying again would fail the same way.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        match self {
            Self::WrongPassword
            | Self::RudeRejection
            | Self::SubscriptionRefused { .. }
            | Self::UnsafePassword => true,
            Self::LoginTimeout | Self::Silent(_) | Self::Disconnected | Self::OutOfStep(_) => false,
        }
    }
}

/// What the session wants done.
#[derive(Debug)]
pub enum Output {
    /// Write these bytes.
    Send(Bytes),
    /// Logged in and subscribed: from here on events come.
    Listening,
    /// An event.
    Event(Event),
    /// An event that could not be read; the stream goes on behind it.
    Skipped(EventError),
    /// The answer to an `api` command, with the question.
    Answer {
        /// The command as it was asked.
        asked: String,
        /// What came back.
        body: Bytes,
    },
    /// It is over.
    Fault(Fault),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Greeting,
    LoggingIn,
    Subscribing,
    Listening,
    Over,
}

/// The state machine.
pub struct Session {
    login: Login,
    silence_max: Duration,
    stage: Stage,
    /// What the switch said at login that this user may hear, as its directory has it.
    allowed: String,
    began: UnixMillis,
    heard: UnixMillis,
    asked: VecDeque<String>,
    outputs: VecDeque<Output>,
}

impl Session {
    /// How long it may be silent from now on.
    pub const fn set_silence_max(&mut self, silence_max: Duration) {
        self.silence_max = silence_max;
    }

    /// A connection was just made at `now`; `silence_max` is how long it may be silent once it listens.
    #[must_use]
    pub const fn new(login: Login, silence_max: Duration, now: UnixMillis) -> Self {
        Self {
            login,
            silence_max,
            stage: Stage::Greeting,
            allowed: String::new(),
            began: now,
            heard: now,
            asked: VecDeque::new(),
            outputs: VecDeque::new(),
        }
    }

    /// A frame has come.
    pub fn handle_frame(&mut self, frame: Frame, now: UnixMillis) {
        self.heard = now;
        match (frame.kind, self.stage) {
            (_, Stage::Over) | (Kind::Other, _) => {}
            (Kind::RudeRejection, _) => self.fault(Fault::RudeRejection),
            // Only the leg that a socket was for is gone; what is still to be said comes before the end.
            (Kind::DisconnectNotice, _) if frame.lingers() => {}
            (Kind::DisconnectNotice, _) => self.fault(Fault::Disconnected),
            (Kind::AuthRequest, Stage::Greeting) => self.log_in(),
            (Kind::AuthRequest, _) => self.fault(Fault::OutOfStep("a second auth/request")),
            (Kind::CommandReply, Stage::LoggingIn) => self.logged_in(&frame),
            (Kind::CommandReply, Stage::Subscribing) => self.subscribed(&frame),
            (Kind::CommandReply | Kind::ApiResponse, Stage::Listening) => self.answer(frame),
            (Kind::CommandReply | Kind::ApiResponse, _) => {
                self.fault(Fault::OutOfStep("a reply before anything was asked"));
            }
            (Kind::EventPlain, _) => self.outputs.push_back(match Event::parse(&frame.body) {
                Ok(event) => Output::Event(event),
                Err(why) => Output::Skipped(why),
            }),
        }
    }

    /// Asks an `api` command once the session listens; its answer comes as [`Output::Answer`].
    ///
    /// The switch runs it before it sends further events of this connection, so only short ones belong here.
    pub fn ask(&mut self, api: &str) -> Result<(), command::UnsafeCommand> {
        let bytes = command::line(&format!("api {api}"))?;
        self.asked.push_back(api.to_owned());
        self.outputs.push_back(Output::Send(bytes));
        Ok(())
    }

    /// Whether it has logged in and subscribed, and is not over.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.stage == Stage::Listening
    }

    /// The moment of [`Session::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: UnixMillis) {
        match self.stage {
            Stage::Over => {}
            Stage::Listening if now.since(self.heard) >= self.silence_max => {
                self.fault(Fault::Silent(self.silence_max));
            }
            Stage::Listening => {}
            Stage::Greeting | Stage::LoggingIn | Stage::Subscribing => {
                if now.since(self.began) >= LOGIN_MAX {
                    self.fault(Fault::LoginTimeout);
                }
            }
        }
    }

    /// The next thing to do, oldest first.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Session::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<UnixMillis> {
        match self.stage {
            Stage::Over => None,
            Stage::Listening => Some(self.heard.after(self.silence_max)),
            Stage::Greeting | Stage::LoggingIn | Stage::Subscribing => Some(self.began.after(LOGIN_MAX)),
        }
    }

    fn log_in(&mut self) {
        let said = match &self.login.user {
            Some(user) => command::userauth(user, &self.login.password),
            None => command::auth(&self.login.password),
        };
        match said {
            Ok(bytes) => {
                self.stage = Stage::LoggingIn;
                self.outputs.push_back(Output::Send(bytes));
            }
            Err(command::UnsafeCommand) => self.fault(Fault::UnsafePassword),
        }
    }

    fn logged_in(&mut self, frame: &Frame) {
        if !frame.reply_text().starts_with("+OK") {
            return self.fault(Fault::WrongPassword);
        }
        self.allowed = frame.header("Allowed-Events").unwrap_or_default();
        let subscribe = command::line(command::SUBSCRIPTION).expect("the subscription is one line");
        self.stage = Stage::Subscribing;
        self.outputs.push_back(Output::Send(subscribe));
    }

    fn subscribed(&mut self, frame: &Frame) {
        let reply = frame.reply_text();
        if !reply.starts_with("+OK") {
            let missing = not_allowed(&self.allowed);
            return self.fault(Fault::SubscriptionRefused { said: reply, missing });
        }
        self.stage = Stage::Listening;
        self.outputs.push_back(Output::Listening);
    }

    fn answer(&mut self, frame: Frame) {
        match self.asked.pop_front() {
            Some(asked) => {
                // A refused api command is answered in the reply line instead of a body.
                let body =
                    if frame.kind == Kind::CommandReply { frame.reply_text().into() } else { frame.body };
                self.outputs.push_back(Output::Answer { asked, body });
            }
            None => self.fault(Fault::OutOfStep("an answer to no question")),
        }
    }

    fn fault(&mut self, fault: Fault) {
        self.stage = Stage::Over;
        self.outputs.push_back(Output::Fault(fault));
    }
}

/// What the subscription needs beyond `allowed`; all of it if that names everything or nothing.
fn not_allowed(allowed: &str) -> String {
    let needed = || command::SUBSCRIPTION.split_ascii_whitespace().skip(2);
    let allowed: Vec<&str> = allowed.split([',', ' ']).collect();
    let missing = needed().filter(|event| !allowed.iter().any(|a| a.eq_ignore_ascii_case(event)));
    let missing: Vec<&str> = missing.collect();
    if missing.is_empty() { needed().collect::<Vec<_>>().join(" ") } else { missing.join(" ") }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use tokio_util::codec::Decoder;

    use super::*;
    use crate::esl::frame::FrameDecoder;

    const T0: UnixMillis = UnixMillis(1_000_000);

    #[test]
    fn logs_in_subscribes_and_listens() {
        let mut s = session();
        assert_eq!(feed(&mut s, "Content-Type: auth/request\n\n"), ["send auth ClueCon"]);
        assert_eq!(
            feed(&mut s, "Content-Type: command/reply\nReply-Text: +OK accepted\n\n"),
            [format!("send {}", command::SUBSCRIPTION)]
        );
        assert_eq!(feed(&mut s, OK), ["listening"]);
        s.ask("show channels as json").unwrap();
        assert_eq!(feed(&mut s, ""), ["send api show channels as json"]);
        let answer = "Content-Type: api/response\nContent-Length: 17\n\n{\"row_count\": 0}\n";
        assert_eq!(feed(&mut s, answer), ["show channels as json -> {\"row_count\": 0}\n"]);
        let event = "Content-Length: 23\nContent-Type: text/event-plain\n\nEvent-Name: HEARTBEAT\n\n";
        assert_eq!(feed(&mut s, event), ["event Heartbeat"]);
    }

    #[test]
    fn a_wrong_password_and_a_rude_rejection_are_permanent() {
        let mut s = session();
        feed(&mut s, "Content-Type: auth/request\n\n");
        let said = feed(&mut s, "Content-Type: command/reply\nReply-Text: -ERR invalid\n\n");
        assert_eq!(said, [format!("permanent: {}", Fault::WrongPassword)]);
        let mut s = session();
        let said = feed(
            &mut s,
            "Content-Type: text/rude-rejection\nContent-Length: 24\n\nAccess Denied, go away.\n",
        );
        assert_eq!(said, [format!("permanent: {}", Fault::RudeRejection)]);
    }

    #[test]
    fn silence_ends_a_link_and_any_frame_keeps_it() {
        let mut s = listening();
        assert_eq!(s.poll_timeout(), Some(T0.after(Duration::from_secs(65))));
        s.handle_timeout(T0.after(Duration::from_secs(64)));
        assert!(s.poll_output().is_none());
        s.handle_timeout(T0.after(Duration::from_secs(65)));
        assert!(matches!(s.poll_output(), Some(Output::Fault(Fault::Silent(_)))));
        assert_eq!(s.poll_timeout(), None);
    }

    #[test]
    fn a_greeting_that_never_comes_is_named() {
        let mut s = session();
        s.handle_timeout(T0.after(LOGIN_MAX));
        assert!(matches!(s.poll_output(), Some(Output::Fault(Fault::LoginTimeout))));
    }

    #[test]
    fn a_conversation_out_of_step_is_given_up() {
        for odd in ["Content-Type: auth/request\n\n", OK, "Content-Type: api/response\n\n"] {
            let said = feed(&mut listening(), odd);
            assert!(said[0].starts_with("fault: the switch said something that fits nothing"), "{said:?}");
        }
        let notice = "Content-Type: text/disconnect-notice\nContent-Length: 2\n\nx\n";
        assert_eq!(feed(&mut listening(), notice), [format!("fault: {}", Fault::Disconnected)]);
    }

    #[test]
    fn a_notice_that_lingers_is_not_the_end_of_what_is_said() {
        let mut s = listening();
        // As mod_event_socket words it, to a socket that was opened for one leg.
        let notice = "Content-Type: text/disconnect-notice\nControlled-Session-UUID: x\nContent-Disposition: linger\nChannel-Name: y\nLinger-Time: 5\nContent-Length: 0\n\n";
        assert!(feed(&mut s, notice).is_empty());
        let event = "Content-Length: 23\nContent-Type: text/event-plain\n\nEvent-Name: HEARTBEAT\n\n";
        assert_eq!(feed(&mut s, event), ["event Heartbeat"]);
        let notice = "Content-Type: text/disconnect-notice\nContent-Length: 2\n\nx\n";
        assert_eq!(feed(&mut s, notice), [format!("fault: {}", Fault::Disconnected)]);
    }

    const OK: &str = "Content-Type: command/reply\nReply-Text: +OK event listener enabled plain\n\n";

    fn session() -> Session {
        let login = Login { user: None, password: "ClueCon".into() };
        Session::new(login, Duration::from_secs(65), T0)
    }

    fn listening() -> Session {
        let mut s = session();
        feed(&mut s, "Content-Type: auth/request\n\n");
        feed(&mut s, "Content-Type: command/reply\nReply-Text: +OK accepted\n\n");
        feed(&mut s, OK);
        s
    }

    fn feed(session: &mut Session, text: &str) -> Vec<String> {
        let mut buf = BytesMut::from(text);
        let mut decoder = FrameDecoder::default();
        while let Some(frame) = decoder.decode(&mut buf).unwrap() {
            session.handle_frame(frame, T0);
        }
        let mut said = Vec::new();
        while let Some(output) = session.poll_output() {
            said.push(match output {
                Output::Send(bytes) => format!("send {}", String::from_utf8_lossy(&bytes).trim_end()),
                Output::Listening => "listening".into(),
                Output::Event(e) => format!("event {:?}", e.name()),
                Output::Skipped(why) => format!("skipped {why}"),
                Output::Answer { asked, body } => format!("{asked} -> {}", String::from_utf8_lossy(&body)),
                Output::Fault(f) if f.is_permanent() => format!("permanent: {f}"),
                Output::Fault(f) => format!("fault: {f}"),
            });
        }
        said
    }
}
