//! One connection's side of the conversation: commands in, replies out, word for word as recorded.
//!
//! Pure. Knows no socket; time and legs are the [`Core`]'s.

use super::super::recording::Event;
use super::core::Core;
use super::format::Format;
use super::subscription::{Subscription, Wanted};

/// What is said before the socket is closed.
pub(super) const GOODBYE: &[u8] = b"Content-Type: text/disconnect-notice\nContent-Length: 67\n\n\
    Disconnected, goodbye.\nSee you at ClueCon! http://www.cluecon.com/\n";
/// What a connection hears first.
pub(super) const GREETING: &[u8] = b"Content-Type: auth/request\n\n";
/// What a connection that the access list forbids hears instead.
pub(super) const REJECTION: &[u8] =
    b"Content-Type: text/rude-rejection\nContent-Length: 24\n\nAccess Denied, go away.\n";

/// One command with its header lines, line ends removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) line: String,
    pub(super) headers: Vec<String>,
}

/// What follows from a command, in this order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Said to this connection.
    Say(Vec<u8>),
    /// Sent to every connection that wants it.
    Emit(Event),
    /// This connection is closed.
    Close,
}

/// Who the connection is and what it wants.
#[derive(Debug, Default)]
pub(super) struct Dialogue {
    pub(super) authenticated: bool,
    pub(super) subscription: Subscription,
    pub(super) format: Format,
    /// What a `userauth` user may do: event names and api commands. `None` may do all.
    allowed: Option<(Vec<String>, Vec<String>)>,
    listening: bool,
    logging: bool,
}

impl Dialogue {
    pub(super) fn handle(&mut self, command: &Command, core: &mut Core) -> Vec<Act> {
        let line = command.line.as_str();
        let (verb, rest) = line.split_once(' ').map_or((line, None), |(verb, rest)| (verb, Some(rest)));
        if verb == "exit" {
            return vec![reply("+OK bye"), Act::Say(GOODBYE.to_vec()), Act::Close];
        }
        if !self.authenticated {
            return self.authenticate(verb, rest.unwrap_or_default(), core);
        }
        let words: Vec<&str> = rest.unwrap_or_default().split_ascii_whitespace().collect();
        match (verb, rest) {
            ("api", Some(line)) => self.api(line, core),
            ("bgapi", Some(line)) => self.bgapi(line, command, core),
            ("event", _) => vec![reply(&self.event(&words))],
            ("noevents", _) if !self.listening => vec![reply("-ERR not listening for events")],
            ("noevents", _) => {
                self.listening = false;
                self.subscription = Subscription::default();
                vec![reply("+OK no longer listening for events")]
            }
            ("nixevent", _) => {
                let wanted = Wanted::read(words.into_iter());
                if wanted.is_empty() {
                    return vec![reply("-ERR no keywords supplied")];
                }
                self.subscription.remove(&wanted);
                vec![reply("+OK events nixed")]
            }
            ("myevents", Some(leg)) => {
                self.listening = true;
                self.subscription.follow(leg.trim());
                vec![reply("+OK Events Enabled")]
            }
            ("filter", Some(_)) => vec![reply(&self.filter(&words))],
            ("log", _) => vec![reply(&self.log(words.first().copied().unwrap_or_default()))],
            ("nolog", _) => {
                let was = std::mem::replace(&mut self.logging, false);
                vec![reply(if was { "+OK no longer logging" } else { "-ERR not loging" })]
            }
            ("linger" | "nolinger", _) => vec![reply("-ERR not controlling a session")],
            ("divert_events", _) => vec![reply("-ERR not controlling a session.")],
            ("sendmsg", Some(leg)) => vec![reply(&format!("-ERR invalid session id [{}]", leg.trim()))],
            ("sendevent", Some(_)) => vec![reply(&format!("+OK {}", core.fresh_uuid()))],
            _ => vec![reply("-ERR command not found")],
        }
    }

    fn authenticate(&mut self, verb: &str, secret: &str, core: &Core) -> Vec<Act> {
        match verb {
            "auth" if secret == core.settings.password => {
                self.authenticated = true;
                vec![reply("+OK accepted")]
            }
            "userauth" => {
                match core.settings.users.iter().find(|u| format!("{}:{}", u.name, u.password) == secret) {
                    Some(user) => {
                        self.authenticated = true;
                        self.allowed = Some((user.events.clone(), user.apis.clone()));
                        let (events, apis) = (user.events.join(","), user.apis.join(","));
                        let rights = format!(
                            "+OK accepted\nAllowed-Events: {events}\nAllowed-API: {apis}\nAllowed-LOG: true"
                        );
                        vec![reply(&rights)]
                    }
                    None => refused(),
                }
            }
            "auth" => refused(),
            _ => vec![reply("-ERR command not found")],
        }
    }

    fn api(&self, line: &str, core: &mut Core) -> Vec<Act> {
        if !self.may_call(line) {
            return vec![reply("-ERR permission denied")];
        }
        let (said, events) = core.api(line);
        let mut frame =
            format!("Content-Type: api/response\nContent-Length: {}\n\n", said.len()).into_bytes();
        frame.extend_from_slice(&said);
        std::iter::once(Act::Say(frame)).chain(events.into_iter().map(Act::Emit)).collect()
    }

    fn bgapi(&self, line: &str, command: &Command, core: &mut Core) -> Vec<Act> {
        if !self.may_call(line) {
            return vec![reply("-ERR permission denied")];
        }
        let given = command.headers.iter().find_map(|h| h.strip_prefix("Job-UUID: ")).map(str::to_owned);
        let job = given.unwrap_or_else(|| core.fresh_uuid());
        let (said, events) = core.api(line);
        let done = core.job_done(&job, line, &said);
        let accepted = reply(&format!("+OK Job-UUID: {job}\nJob-UUID: {job}"));
        std::iter::once(accepted).chain(events.into_iter().chain([done]).map(Act::Emit)).collect()
    }

    fn may_call(&self, line: &str) -> bool {
        let command = line.split(' ').next().unwrap_or_default();
        self.allowed.as_ref().is_none_or(|(_, apis)| apis.iter().any(|a| a == command))
    }

    fn event(&mut self, words: &[&str]) -> String {
        let (format, names) = match words {
            ["plain", names @ ..] => (Format::Plain, names),
            ["json", names @ ..] => (Format::Json, names),
            ["xml", names @ ..] => (Format::Xml, names),
            names => (self.format, names),
        };
        let wanted = Wanted::read(names.iter().copied());
        if wanted.is_empty() {
            return "-ERR no keywords supplied".to_owned();
        }
        if self.allowed.as_ref().is_some_and(|(events, _)| wanted.names.iter().any(|n| !events.contains(n))) {
            return "-ERR permission denied".to_owned();
        }
        self.format = format;
        self.listening = true;
        self.subscription.add(wanted);
        format!("+OK event listener enabled {}", format.as_str())
    }

    fn filter(&mut self, words: &[&str]) -> String {
        let filters = &mut self.subscription.filters;
        match words {
            ["delete", "all"] => {
                filters.clear();
                "+OK filter deleted. [all][]".to_owned()
            }
            ["delete", name, value @ ..] => {
                let value = value.join(" ");
                filters.retain(|(n, v)| n != name || !(value.is_empty() || *v == value));
                format!("+OK filter deleted. [{name}][{value}]")
            }
            [name, value @ ..] if !value.is_empty() => {
                let value = value.join(" ");
                filters.push(((*name).to_owned(), value.clone()));
                format!("+OK filter added. [{name}]=[{value}]")
            }
            _ => "-ERR invalid syntax".to_owned(),
        }
    }

    fn log(&mut self, level: &str) -> String {
        const LEVELS: [&str; 8] = ["console", "alert", "crit", "err", "warning", "notice", "info", "debug"];
        let named = LEVELS.iter().position(|name| name.eq_ignore_ascii_case(level));
        let number = if level.is_empty() { Some(7) } else { named.or_else(|| level.parse().ok()) };
        match number {
            None => "-ERR invalid log level".to_owned(),
            Some(number) => {
                self.logging = true;
                format!("+OK log level {level} [{number}]")
            }
        }
    }
}

fn reply(text: &str) -> Act {
    Act::Say(format!("Content-Type: command/reply\nReply-Text: {text}\n\n").into_bytes())
}

fn refused() -> Vec<Act> {
    vec![reply("-ERR invalid"), Act::Say(GOODBYE.to_vec()), Act::Close]
}

/// Cuts what a client sends into commands, however it is split. A body that a Content-Length announces is
/// read and forgotten: no command here needs one.
#[derive(Debug, Default)]
pub(super) struct Commands {
    pending: Vec<u8>,
    body: usize,
}

impl Commands {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.pending.extend(bytes.iter().filter(|b| **b != b'\r'));
    }

    pub(super) fn next(&mut self) -> Option<Command> {
        let skipped = self.body.min(self.pending.len());
        self.pending.drain(..skipped);
        self.body -= skipped;
        // Blank lines between commands mean nothing.
        let blank = self.pending.iter().take_while(|b| **b == b'\n').count();
        self.pending.drain(..blank);
        let end = memchr::memmem::find(&self.pending, b"\n\n")?;
        let text = String::from_utf8_lossy(&self.pending[..end]).into_owned();
        self.pending.drain(..end + 2);
        let mut lines = text.lines().map(str::to_owned);
        let line = lines.next().unwrap_or_default();
        let headers: Vec<String> = lines.collect();
        let length = headers
            .iter()
            .find_map(|h| h.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        self.body = length.unwrap_or_default();
        Some(Command { line, headers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_the_same_however_they_are_split() {
        let stream = b"\n\nauth x\r\n\r\nsendmsg 1\nContent-Length: 3\n\na\nbapi status\n\n";
        for size in 1..stream.len() {
            let (mut commands, mut got) = (Commands::default(), Vec::new());
            for chunk in stream.chunks(size) {
                commands.push(chunk);
                while let Some(command) = commands.next() {
                    got.push(command.line);
                }
            }
            assert_eq!(got, ["auth x", "sendmsg 1", "api status"], "chunks of {size}");
        }
    }
}
