//! `record`: what a live switch sends, byte for byte, into a file that `trace` can read.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bytes::BytesMut;
use clap::Args;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::codec::Decoder;

use super::{Common, Failure, asked_to_stop, runtime, say};
use crate::config::{Needs, SwitchConfig};
use crate::daemon::link;
use crate::edge::clock;
use crate::esl::frame::FrameDecoder;
use crate::esl::session::{Output, Session};

#[derive(Args)]
pub(super) struct Record {
    /// Where to write; must not exist yet. It will hold telephone numbers and names.
    file: PathBuf,
    /// Stop after so many seconds; without it, on Ctrl-C
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Which switch, where several are configured
    #[arg(long, value_name = "NAME")]
    switch: Option<String>,
}

pub(super) fn run(record: &Record, common: &Common) -> Result<ExitCode, Failure> {
    let config = common.load(Needs::Switch)?.config;
    let switch = match &record.switch {
        None => &config.switches[0],
        Some(name) => config.switches.iter().find(|s| s.name.as_str() == name).ok_or_else(|| {
            let known: Vec<_> = config.switches.iter().map(|s| s.name.as_str()).collect();
            Failure::new(format!("no switch is called {name:?}; configured are {}", known.join(", ")))
        })?,
    };
    runtime()?.block_on(async {
        let limit = Duration::from_secs(record.seconds.unwrap_or(FOR_EVER));
        let stop = async {
            tokio::select! {
                () = tokio::time::sleep(limit) => {}
                () = asked_to_stop() => {}
            }
        };
        let mut tape = Tape::start(switch, &record.file).await?;
        let end = tape.roll(stop).await;
        if tape.events == 0 && end.is_err() {
            // Nothing worth keeping, and the next attempt wants the name.
            drop(std::fs::remove_file(&record.file));
            return end.map(|()| ExitCode::SUCCESS);
        }
        tape.finish().await?;
        say(&format!("{} events, {} bytes in {}", tape.events, tape.bytes, record.file.display()));
        end.map(|()| ExitCode::SUCCESS)
    })
}

/// In seconds; longer than any switch runs.
const FOR_EVER: u64 = 100 * 365 * 24 * 3600;
/// How long a TCP connect may take.
const CONNECT_MAX: Duration = Duration::from_secs(10);

enum Woken {
    Stop,
    Read(std::io::Result<usize>),
    Timeout,
}

struct Tape {
    stream: TcpStream,
    session: Session,
    decoder: FrameDecoder,
    /// What was read and not yet written: cut at frames, so that the file ends with a whole one.
    unwritten: BytesMut,
    file: File,
    events: u64,
    bytes: u64,
}

impl Tape {
    async fn start(switch: &SwitchConfig, path: &PathBuf) -> Result<Self, Failure> {
        let link = link(switch);
        let no = |why: &dyn std::fmt::Display| {
            Failure::new(format!(
                "no connection to {}: {why}; is mod_event_socket loaded and listening there?",
                link.address
            ))
        };
        let stream = match tokio::time::timeout(CONNECT_MAX, TcpStream::connect(&link.address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(why)) => return Err(no(&why)),
            Err(_) => return Err(no(&"nothing answered")),
        };
        let file = File::create_new(path).await.map_err(|why| {
            Failure::new(format!(
                "{}: {why}; name a file that does not exist, where you may write",
                path.display()
            ))
        })?;
        let session = Session::new(link.login, link.heartbeat_timeout, clock::now());
        let decoder = FrameDecoder::default();
        Ok(Self { stream, session, decoder, unwritten: BytesMut::new(), file, events: 0, bytes: 0 })
    }

    /// Reads, writes and keeps the conversation going until `stop`, or until the connection ends. What was read is
    /// written whole in either case.
    async fn roll(&mut self, stop: impl Future<Output = ()>) -> Result<(), Failure> {
        let mut frames = BytesMut::new();
        tokio::pin!(stop);
        loop {
            let woken = tokio::select! {
                () = &mut stop => Woken::Stop,
                read = self.stream.read_buf(&mut frames) => Woken::Read(read),
                () = clock::wait_until(self.session.poll_timeout()) => Woken::Timeout,
            };
            match woken {
                Woken::Stop => return Ok(()),
                Woken::Timeout => self.session.handle_timeout(clock::now()),
                Woken::Read(Err(why)) => {
                    return Err(Failure::new(format!(
                        "the connection broke: {why}; what came before is kept"
                    )));
                }
                Woken::Read(Ok(0)) => {
                    return Err(Failure::new("the switch ended the connection; what came before is kept"));
                }
                Woken::Read(Ok(count)) => {
                    let new = frames.len() - count;
                    self.unwritten.extend_from_slice(&frames[new..]);
                    self.take_frames(&mut frames).await?;
                }
            }
            self.act().await?;
        }
    }

    async fn take_frames(&mut self, frames: &mut BytesMut) -> Result<(), Failure> {
        while let Some(frame) = self.decoder.decode(frames).map_err(Failure::new)? {
            self.session.handle_frame(frame, clock::now());
        }
        // What is left in `frames`, and the head the decoder holds, belongs to a frame that is not whole yet.
        let whole = self.unwritten.len() - frames.len() - self.decoder.held();
        let done = self.unwritten.split_to(whole);
        self.bytes += u64::try_from(done.len()).unwrap_or_default();
        self.file
            .write_all(&done)
            .await
            .map_err(|why| Failure::new(format!("the file cannot be written: {why}")))
    }

    async fn act(&mut self) -> Result<(), Failure> {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Send(bytes) => {
                    let sent = self.stream.write_all(&bytes).await;
                    sent.map_err(|why| Failure::new(format!("the connection broke: {why}")))?;
                }
                Output::Listening => say("recording; make the calls in question, then press Ctrl-C"),
                Output::Event(_) | Output::Skipped(_) => self.events += 1,
                Output::Answer { .. } => {}
                Output::Fault(fault) if fault.is_permanent() => return Err(Failure::permanent(fault)),
                Output::Fault(fault) => return Err(Failure::new(fault)),
            }
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), Failure> {
        self.file.sync_all().await.map_err(|why| Failure::new(format!("the file cannot be written: {why}")))
    }
}
