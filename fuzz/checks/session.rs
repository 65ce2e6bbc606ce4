//! A conversation with a switch that says anything at any time. An input is the login, then moves: what the
//! switch says, how time passes, what is asked of it.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::BytesMut;
use freeswitch_zammad::esl::command::SUBSCRIPTION;
use freeswitch_zammad::esl::frame::{Frame, FrameDecoder};
use freeswitch_zammad::esl::session::{Fault, LOGIN_MAX, Login, Output, Session};
use freeswitch_zammad::time::UnixMillis;
use tokio_util::codec::Decoder;

use super::Input;

const SILENCE_MAX: Duration = Duration::from_secs(65);

pub(crate) fn check(input: &[u8]) {
    let mut input = Input::new(input);
    let user = text(input.short());
    // Long enough that it stands nowhere by chance.
    let password = format!("fuzz-password-{}", text(input.short()));
    let login = Login { user: Some(user.clone()).filter(|u| !u.is_empty()), password: password.clone() };
    let mut now = UnixMillis(1_000_000);
    let mut watched = Watched {
        session: Session::new(login, SILENCE_MAX, now),
        password,
        sent: 0,
        listening: false,
        over: false,
        asked: VecDeque::new(),
        heard: now,
        began: now,
    };
    while !input.is_empty() {
        match input.byte() % 14 {
            0 => watched.hears("Content-Type: auth/request\n\n", now),
            1 => watched.hears("Content-Type: command/reply\nReply-Text: +OK accepted\n\n", now),
            2 => watched.hears("Content-Type: command/reply\nReply-Text: -ERR invalid\n\n", now),
            3 => {
                let said = format!("Content-Type: command/reply\nReply-Text: {}\n\n", line(input.short()));
                watched.hears(&said, now);
            }
            4 => {
                let allowed = line(input.short());
                let said =
                    format!("Content-Type: command/reply\nReply-Text: +OK\nAllowed-Events: {allowed}\n\n");
                watched.hears(&said, now);
            }
            5 => watched.hears_body("api/response", input.short(), now),
            6 => watched.hears_body("text/event-plain", input.short(), now),
            7 => watched.hears_body("text/event-plain", b"Event-Name: HEARTBEAT\n\n", now),
            8 => watched.hears_body("text/disconnect-notice", input.short(), now),
            9 => watched.hears_body("text/rude-rejection", input.short(), now),
            10 => watched.hears_body(&line(input.short()), input.short(), now),
            11 => watched.asks(&text(input.short())),
            12 => {
                // Time is the machine's, and may jump either way.
                let (by, back) = (u64::from(input.pair()) * 10, input.byte().is_multiple_of(8));
                now = UnixMillis(if back { now.0.saturating_sub(by) } else { now.0.saturating_add(by) });
                watched.waits(now);
            }
            _ => {
                if let Some(due) = watched.session.poll_timeout() {
                    now = now.max(due);
                    watched.waits(now);
                }
            }
        }
    }
}

/// A session, and what is known of it from outside.
struct Watched {
    session: Session,
    password: String,
    sent: usize,
    listening: bool,
    over: bool,
    asked: VecDeque<String>,
    heard: UnixMillis,
    began: UnixMillis,
}

impl Watched {
    fn hears_body(&mut self, content_type: &str, body: &[u8], now: UnixMillis) {
        let head = format!("Content-Length: {}\nContent-Type: {content_type}\n\n", body.len());
        self.handles(&[head.as_bytes(), body].concat(), now);
    }

    fn hears(&mut self, said: &str, now: UnixMillis) {
        self.handles(said.as_bytes(), now);
    }

    fn handles(&mut self, said: &[u8], now: UnixMillis) {
        let mut buffer = BytesMut::from(said);
        let frame: Frame =
            FrameDecoder::default().decode(&mut buffer).ok().flatten().expect("a frame was made");
        self.session.handle_frame(frame, now);
        self.heard = now;
        self.takes();
    }

    fn asks(&mut self, command: &str) {
        if !self.session.is_listening() {
            return;
        }
        let one_line = !command.contains(char::is_control);
        assert_eq!(self.session.ask(command).is_ok(), one_line, "{command:?}");
        if one_line {
            self.asked.push_back(command.to_owned());
        }
        self.takes();
    }

    fn waits(&mut self, now: UnixMillis) {
        let due = self.session.poll_timeout().is_some_and(|due| due <= now);
        let was_over = self.over;
        self.session.handle_timeout(now);
        self.takes();
        assert_eq!(self.over, was_over || due, "it ends by itself exactly when it said it would");
    }

    fn takes(&mut self) {
        while let Some(output) = self.session.poll_output() {
            assert!(!self.over, "{output:?} after the end");
            match output {
                Output::Send(bytes) => self.sends(&String::from_utf8_lossy(&bytes)),
                Output::Listening => {
                    assert!(
                        !self.listening && self.sent == 2,
                        "it listens once, after login and subscription"
                    );
                    self.listening = true;
                }
                Output::Answer { asked, .. } => {
                    assert!(self.listening);
                    assert_eq!(
                        Some(asked),
                        self.asked.pop_front(),
                        "answers come in the order of the questions"
                    );
                }
                Output::Event(_) => {}
                Output::Skipped(why) => assert!(!why.to_string().contains('\n')),
                Output::Fault(fault) => {
                    self.over = true;
                    self.ends(&fault);
                }
            }
        }
        assert_eq!(self.session.is_listening(), self.listening && !self.over);
        let due = match (self.over, self.listening) {
            (true, _) => None,
            (false, true) => Some(self.heard.after(SILENCE_MAX)),
            (false, false) => Some(self.began.after(LOGIN_MAX)),
        };
        assert_eq!(self.session.poll_timeout(), due);
    }

    fn sends(&mut self, said: &str) {
        let one = said.strip_suffix("\n\n").expect("a command ends with an empty line");
        assert!(!one.contains(['\n', '\r', '\0']), "one command is one line: {said:?}");
        match self.sent {
            0 => assert!(one.starts_with("auth ") || one.starts_with("userauth "), "{one:?}"),
            1 => assert_eq!(one, SUBSCRIPTION),
            _ => assert_eq!(one.strip_prefix("api "), self.asked.back().map(String::as_str)),
        }
        self.sent += 1;
    }

    fn ends(&self, fault: &Fault) {
        let said = fault.to_string();
        assert!(!said.is_empty() && !said.contains('\n'), "one sentence for the operator: {said:?}");
        match fault {
            Fault::WrongPassword => assert_eq!(self.sent, 1),
            Fault::SubscriptionRefused { missing, .. } => assert!(self.sent == 2 && !missing.is_empty()),
            Fault::UnsafePassword => assert_eq!(self.sent, 0),
            Fault::LoginTimeout => assert!(!self.listening),
            Fault::Silent(_) => assert!(self.listening),
            Fault::RudeRejection | Fault::Disconnected | Fault::OutOfStep(_) => {}
        }
        // Nobody but the switch could have said it back.
        assert!(said.len() < 2000 && (!said.contains(&self.password) || said.contains("esl-allowed-events")));
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A header's value: without what would end it.
fn line(bytes: &[u8]) -> String {
    text(bytes).replace('\n', " ")
}
