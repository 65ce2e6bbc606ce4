//! `trace`: a recorded event stream in, or a switch's call detail records, what would be posted for it out.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use bytes::BytesMut;
use clap::Args;
use tokio_util::codec::Decoder;

use super::{Common, Failure, print, say};
use crate::call::cdr;
use crate::call::tracker::{FAILOVER_MAX, Output, Settings, Tracker};
use crate::config::Needs;
use crate::edge::backfill;
use crate::esl::event::Event;
use crate::esl::frame::{FrameDecoder, Kind};
use crate::time::UnixMillis;

/// Bytes read at once.
const CHUNK: usize = 256 * 1024;

#[derive(Args)]
pub(super) struct Trace {
    /// The recording: bytes as they came from the socket, plain format; `-` reads standard input. Or call detail
    /// records as mod_json_cdr and mod_xml_cdr write them (`*.cdr.json`, `*.cdr.xml`), and folders of them
    #[arg(required = true)]
    file: Vec<PathBuf>,
    /// Also say, on standard error, what every leg was taken for and why, and of every event why it is sent or not
    #[arg(long)]
    explain: bool,
}

pub(super) fn run(trace: &Trace, common: &Common) -> Result<ExitCode, Failure> {
    let loaded = common.load(Needs::Calls)?;
    let settings = loaded.config.calls_of(&loaded.config.switches[0]);
    if let Some(records) = records(&trace.file)? {
        return from_records(settings, &records, trace.explain);
    }
    let [file] = &*trace.file else {
        return Err(Failure::new(
            "give one recording, or several call detail records (*.cdr.json, *.cdr.xml)",
        ));
    };
    let named = file.display();
    let mut input: Box<dyn Read> = if file.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        let opened = std::fs::File::open(file);
        Box::new(
            opened
                .map_err(|why| Failure::new(format!("{named}: {why}; name a recording that can be read")))?,
        )
    };
    let mut story = Story::new(settings, trace.explain);
    let read = story.read_all(&mut *input);
    story.finish();
    match read {
        Err(why) if story.events == 0 => Err(Failure::new(format!(
            "{named}: it is no recording of an event socket ({why}); give one as `freeswitch-zammad record` writes it"
        ))),
        Err(why) => {
            Err(Failure::new(format!("{named}: {why}; the {} events before that were traced", story.events)))
        }
        Ok(()) if story.events == 0 && story.other_format => Err(Failure::new(format!(
            "{named}: it holds events in json or xml; record in plain format (event plain …)"
        ))),
        Ok(()) if story.events == 0 => Err(Failure::new(format!(
            "{named}: it holds no events; give the bytes of an event socket, as `freeswitch-zammad record` writes them"
        ))),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

/// The records among these files and in these folders; `None` if one of them is something else.
fn records(named: &[PathBuf]) -> Result<Option<Vec<PathBuf>>, Failure> {
    let mut records = Vec::new();
    for path in named {
        if path.is_dir() {
            let found = backfill::records_in(path);
            records.extend(found.map_err(|why| Failure::new(format!("{}: {why}", path.display())))?);
        } else if backfill::is_record(path) {
            records.push(path.clone());
        } else {
            return Ok(None);
        }
    }
    Ok(Some(records))
}

fn from_records(settings: Settings, records: &[PathBuf], explain: bool) -> Result<ExitCode, Failure> {
    let mut cdrs = Vec::new();
    for path in records {
        match backfill::read_file(path) {
            Ok(cdr) => cdrs.push(cdr),
            Err(why) => say(&format!("{}: {why}; it was skipped", path.display())),
        }
    }
    if cdrs.is_empty() {
        return Err(Failure::new(
            "no call detail record there can be read; name files as mod_json_cdr and mod_xml_cdr write them",
        ));
    }
    for run in cdr::runs(&cdrs) {
        let mut story = Story::new(settings.clone(), explain);
        for (at, event) in cdr::replay(run) {
            story.now = at;
            story.tracker.handle_event(&event, at);
            story.tell();
        }
        story.finish();
    }
    Ok(ExitCode::SUCCESS)
}

struct Story {
    decoder: FrameDecoder,
    tracker: Tracker,
    now: UnixMillis,
    events: u64,
    other_format: bool,
}

impl Story {
    fn new(settings: Settings, explain: bool) -> Self {
        let mut tracker = Tracker::new(Arc::new(settings));
        if explain {
            tracker.explain();
        }
        Self { decoder: FrameDecoder::default(), tracker, now: UnixMillis(0), events: 0, other_format: false }
    }

    fn read_all(&mut self, input: &mut dyn Read) -> Result<(), String> {
        let mut buffer = BytesMut::new();
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = input.read(&mut chunk).map_err(|why| why.to_string())?;
            buffer.extend_from_slice(&chunk[..count]);
            loop {
                let decode = if count == 0 { FrameDecoder::decode_eof } else { FrameDecoder::decode };
                match decode(&mut self.decoder, &mut buffer).map_err(|why| why.to_string())? {
                    Some(frame) if frame.kind == Kind::EventPlain => self.event(&Event::parse(&frame.body)),
                    Some(frame) => {
                        let format = frame.header("Content-Type").unwrap_or_default();
                        self.other_format |= format.starts_with("text/event-");
                    }
                    None => break,
                }
            }
            if count == 0 {
                return Ok(());
            }
        }
    }

    fn event(&mut self, event: &Result<Event, crate::esl::event::EventError>) {
        match event {
            Ok(event) => {
                self.events += 1;
                // Heard when it was sent: that is what the recording knows of time.
                self.now = event.timestamp_ms().map_or(self.now, UnixMillis).max(self.now);
                self.tracker.handle_event(event, self.now);
                self.tell();
            }
            Err(why) => say(&format!("an event was skipped: {why}")),
        }
    }

    /// The stream is over; what only waited for time to pass happens now.
    fn finish(&mut self) {
        self.tracker.handle_timeout(self.now.after(FAILOVER_MAX));
        self.tell();
    }

    fn tell(&mut self) {
        while let Some(output) = self.tracker.poll_output() {
            match output {
                Output::News(news) => print(&news.event.body()),
                Output::UnknownCause(cause) => say(&format!(
                    "warning: {cause} is no hangup cause of FreeSWITCH; unanswered, it is taken for noAnswer"
                )),
                Output::Note { leg, text } => say(&format!("# {leg} {text}")),
            }
        }
    }
}
