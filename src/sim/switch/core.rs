//! The switch behind all its connections: its clock, its legs, what its `api` commands say.
//!
//! Pure but for Tokio's clock.

use jiff::Timestamp;
use tokio::time::Instant;

use super::super::recording::{Event, uuid_from};
use super::Settings;
use super::channels::{Channels, Row};
use super::format;

const VERSION: &str = "1.10.12-release";
const HOSTNAME: &str = "vm";

pub(super) struct Core {
    pub(super) settings: Settings,
    pub(super) channels: Channels,
    pub(super) core_uuid: String,
    since: Instant,
    sequence: u64,
    made: u64,
}

impl Core {
    pub(super) fn new(settings: Settings) -> Self {
        let core_uuid = settings.core_uuid.clone();
        Self {
            settings,
            channels: Channels::default(),
            core_uuid,
            since: Instant::now(),
            sequence: 0,
            made: 0,
        }
    }

    /// Another process: no calls, another Core-UUID, the clock of its up-time at zero.
    pub(super) fn crash(&mut self) {
        self.settings.started = self.settings.started.after(self.since.elapsed());
        self.since = Instant::now();
        self.channels.clear();
        self.core_uuid = self.fresh_uuid();
    }

    pub(super) fn fresh_uuid(&mut self) -> String {
        self.made += 1;
        uuid_from(&format!("{}/{}", self.core_uuid, self.made))
    }

    /// Runs one `api` command line; what it says, and the event it sets off, if any.
    pub(super) fn api(&mut self, line: &str) -> (Vec<u8>, Vec<Event>) {
        let (command, argument) = line.split_once(' ').unwrap_or((line, ""));
        let words: Vec<&str> = argument.split_ascii_whitespace().collect();
        let mut events = vec![self.api_event(command, argument)];
        let said = match (command, words.as_slice()) {
            ("status", _) => self.status().into_bytes(),
            ("uptime", _) => format!("{}\n", self.since.elapsed().as_secs()).into_bytes(),
            ("version", _) => format!("FreeSWITCH Version {VERSION}~64bit ( 64bit)\n").into_bytes(),
            ("hostname", _) => HOSTNAME.into(),
            ("strftime", _) => self.date("%Y-%m-%d %H:%M:%S").into_bytes(),
            ("strepoch", _) => self.timestamp().as_second().to_string().into_bytes(),
            ("global_getvar", ["core_uuid"]) => self.core_uuid.clone().into_bytes(),
            ("reloadxml", _) => {
                events.push(self.event("RELOADXML", ("switch_xml.c", "switch_xml_open_root", 2385), &[], ""));
                b"+OK [Success]\n".to_vec()
            }
            ("show", ["channels", how @ ..]) => {
                shown(&self.channels.rows(Instant::now(), self.settings.list_lag), how)
            }
            ("show", ["calls", how @ ..]) => shown(&self.channels.calls(), how),
            ("uuid_exists", [id]) => self.channels.exists(id).to_string().into_bytes(),
            ("uuid_dump", [id, how @ ..]) => match self.dump(id) {
                None => NO_CHANNEL.to_vec(),
                Some(event) if how.first() == Some(&"json") => format::json(&event),
                Some(event) => event.body().to_vec(),
            },
            ("uuid_getvar", [id, name]) => match self.channels.last(id) {
                None => NO_CHANNEL.to_vec(),
                Some(last) => {
                    last.header(&format!("variable_{name}")).unwrap_or("_undef_".into()).into_bytes()
                }
            },
            ("uuid_kill", [id, cause @ ..]) => {
                match self.hangup(id, cause.first().unwrap_or(&"NORMAL_CLEARING")) {
                    None => NO_CHANNEL.to_vec(),
                    Some(event) => {
                        events.push(event);
                        b"+OK\n".to_vec()
                    }
                }
            }
            _ => format!("-ERR {command} Command not found!\n").into_bytes(),
        };
        (said, events)
    }

    pub(super) fn job_done(&mut self, job: &str, line: &str, said: &[u8]) -> Event {
        let (command, argument) = line.split_once(' ').unwrap_or((line, ""));
        let mut headers = vec![("Job-UUID", job.to_owned()), ("Job-Command", command.to_owned())];
        if !argument.is_empty() {
            headers.push(("Job-Command-Arg", argument.to_owned()));
        }
        let said = String::from_utf8_lossy(said);
        self.event("BACKGROUND_JOB", ("mod_event_socket.c", "api_exec", 1572), &headers, &said)
    }

    pub(super) fn heartbeat(&mut self) -> Event {
        let (up, live) = (self.since.elapsed(), self.channels.count().to_string());
        let zero = || "0".to_owned();
        let headers = [
            ("Event-Info", "System Ready".to_owned()),
            ("Up-Time", self.up_time()),
            ("FreeSWITCH-Version", format!("{VERSION}~64bit")),
            ("Uptime-msec", up.as_millis().to_string()),
            ("Session-Count", live.clone()),
            ("Max-Sessions", "1000".to_owned()),
            ("Session-Per-Sec", "30".to_owned()),
            ("Session-Per-Sec-Last", zero()),
            ("Session-Per-Sec-Max", zero()),
            ("Session-Per-Sec-FiveMin", zero()),
            ("Session-Since-Startup", self.channels.created.to_string()),
            ("Session-Peak-Max", live),
            ("Session-Peak-FiveMin", zero()),
            ("Idle-CPU", "99.200000".to_owned()),
        ];
        self.event("HEARTBEAT", ("switch_core.c", "send_heartbeat", 95), &headers, "")
    }

    fn api_event(&mut self, command: &str, argument: &str) -> Event {
        let mut headers = vec![("API-Command", command.to_owned())];
        if !argument.is_empty() {
            headers.push(("API-Command-Argument", argument.to_owned()));
        }
        self.event("API", ("switch_loadable_module.c", "switch_api_execute", 2954), &headers, "")
    }

    fn dump(&mut self, id: &str) -> Option<Event> {
        let last = self.channels.last(id)?.clone();
        let head = self.event("CHANNEL_DATA", ("mod_commands.c", "uuid_dump_function", 6468), &[], "");
        let leg = of_the_leg(&last).filter(|(name, _)| *name != b"Hangup-Cause");
        Some(Event::build_raw(head.raw_headers().chain(leg), ""))
    }

    /// The leg is gone; its other events, if a recording still has some, say what they say.
    fn hangup(&mut self, id: &str, cause: &str) -> Option<Event> {
        let last = self.channels.last(id)?.clone();
        let place = ("switch_core_state_machine.c", "switch_core_session_reporting_state", 943);
        let head = self.event("CHANNEL_HANGUP_COMPLETE", place, &[], "");
        let hangup: [(&[u8], &[u8]); 1] = [(b"Hangup-Cause", cause.as_bytes())];
        let leg = of_the_leg(&last).map(|(name, value)| match name {
            b"Channel-State" => (name, &b"CS_REPORTING"[..]),
            b"Channel-Call-State" => (name, &b"HANGUP"[..]),
            b"Answer-State" => (name, &b"hangup"[..]),
            _ => (name, value),
        });
        Some(Event::build_raw(head.raw_headers().chain(hangup).chain(leg), ""))
    }

    fn event(
        &mut self,
        name: &str,
        (file, function, line): (&str, &str, u32),
        more: &[(&str, String)],
        inner: &str,
    ) -> Event {
        self.sequence += 1;
        let mut headers = vec![
            ("Event-Name", name.to_owned()),
            ("Core-UUID", self.core_uuid.clone()),
            ("FreeSWITCH-Hostname", HOSTNAME.to_owned()),
            ("FreeSWITCH-Switchname", HOSTNAME.to_owned()),
            ("FreeSWITCH-IPv4", "192.0.2.2".to_owned()),
            ("FreeSWITCH-IPv6", "fd00::2".to_owned()),
            ("Event-Date-Local", self.date("%Y-%m-%d %H:%M:%S")),
            ("Event-Date-GMT", self.date("%a, %d %b %Y %H:%M:%S GMT")),
            ("Event-Date-Timestamp", self.timestamp().as_microsecond().to_string()),
            ("Event-Calling-File", file.to_owned()),
            ("Event-Calling-Function", function.to_owned()),
            ("Event-Calling-Line-Number", line.to_string()),
            ("Event-Sequence", self.sequence.to_string()),
        ];
        headers.extend_from_slice(more);
        Event::build(&headers, inner)
    }

    fn status(&self) -> String {
        let (up, live, all) = (self.up_time(), self.channels.count(), self.channels.created);
        format!(
            "UP {up}\nFreeSWITCH (Version {VERSION}  64bit) is ready\n{all} session(s) since startup\n\
             {live} session(s) - peak {live}, last 5min {live} \n\
             0 session(s) per Sec out of max 30, peak 0, last 5min 0 \n1000 session(s) max\n\
             min idle cpu 0.00/99.20\nCurrent Stack Size/Max 240K/8192K\n"
        )
    }

    fn up_time(&self) -> String {
        let up = self.since.elapsed();
        let seconds = up.as_secs();
        let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
        let (millis, micros) = (up.subsec_millis(), up.subsec_micros() % 1000);
        format!(
            "0 years, {days} days, {hours} hours, {minutes} minutes, {} seconds, {millis} milliseconds, \
             {micros} microseconds",
            seconds % 60
        )
    }

    fn date(&self, format: &str) -> String {
        self.timestamp().strftime(format).to_string()
    }

    fn timestamp(&self) -> Timestamp {
        let now = self.settings.started.after(self.since.elapsed());
        i64::try_from(now.0).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or_default()
    }
}

const NO_CHANNEL: &[u8] = b"-ERR No such channel!\n";

/// What an event says of its leg, without what it says of itself.
fn of_the_leg(event: &Event) -> impl Iterator<Item = (&[u8], &[u8])> {
    event.raw_headers().skip_while(|(name, _)| *name != b"Channel-State")
}

/// The four ways of `show`; the real one's answers to nothing at all differ from those to something.
fn shown(rows: &[Row], how: &[&str]) -> Vec<u8> {
    let count = rows.len();
    match (how, rows) {
        (["as", "json"], []) => b"{\"row_count\": 0}\n".to_vec(),
        (["as", "json"], _) => table(rows),
        (["count", "as", "json"], _) => format!("{{\"row_count\":{count},\"rows\":[]}}").into_bytes(),
        (["count", ..], _) | (_, []) => format!("\n{count} total.\n").into_bytes(),
        (_, [first, ..]) => {
            let names: Vec<&str> = first.iter().map(|(name, _)| name.as_ref()).collect();
            let mut csv = names.join(",") + "\n";
            for row in rows {
                csv += &row.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>().join(",");
                csv.push('\n');
            }
            (csv + &format!("\n{count} total.\n")).into_bytes()
        }
    }
}

fn table(rows: &[Row]) -> Vec<u8> {
    let mut out = format!("{{\"row_count\":{},\"rows\":[", rows.len()).into_bytes();
    for (i, row) in rows.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        let pairs = row.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        format::object(pairs, &mut out);
    }
    out.extend_from_slice(b"]}");
    out
}
