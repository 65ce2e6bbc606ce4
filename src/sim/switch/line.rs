//! One TCP connection: bytes in, commands to the switch; frames out, as slowly as the client reads them.

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::dialogue::{Commands, GOODBYE};
use super::{Disconnect, Shared};

/// What is put on a connection.
pub(super) enum Out {
    Bytes(Bytes),
    /// Answered once everything before it is on the wire.
    Mark(oneshot::Sender<()>),
    /// Closed by us, in order, after everything before it.
    Close,
}

/// The connection's ends that its task holds.
pub(super) struct Line {
    pub(super) number: u64,
    pub(super) stream: TcpStream,
    pub(super) out: mpsc::UnboundedReceiver<Out>,
    pub(super) end: oneshot::Receiver<Disconnect>,
    pub(super) stalled: watch::Receiver<bool>,
}

enum Woke {
    Read(usize),
    Out(Out),
    TooLate,
    Gone,
    Told(Disconnect),
}

impl Line {
    /// Until either side closes. Dropping it closes the socket.
    pub(super) async fn run(mut self, shared: Arc<Shared>) {
        // Small replies must not wait for the acknowledgement of the ones before.
        _ = self.stream.set_nodelay(true);
        if let Some(how) = self.serve(&shared).await {
            match how {
                Disconnect::Eof => {}
                Disconnect::Notice => _ = self.stream.write_all(GOODBYE).await,
                // Refused only where there is no such option; then it is an ordinary end.
                Disconnect::Reset => _ = self.stream.set_zero_linger(),
            }
            if how != Disconnect::Reset {
                _ = self.stream.shutdown().await;
            }
        }
        drop(self.stream);
        shared.gone(self.number);
    }

    /// How to close; `None` if there is nobody left to close to.
    async fn serve(&mut self, shared: &Arc<Shared>) -> Option<Disconnect> {
        let mut commands = Commands::default();
        let mut chunk = vec![0; 16 * 1024];
        let deadline = Instant::now() + shared.auth_timeout();
        let mut hearing = true;
        loop {
            let waiting = !shared.is_authenticated(self.number);
            tokio::select! {
                biased;
                how = &mut self.end => return Some(how.unwrap_or(Disconnect::Eof)),
                // An error is a switch that is gone; then the end above says so next time round.
                _ = self.stalled.wait_for(|stalled| !stalled) => {}
            }
            let woke = tokio::select! {
                biased;
                how = &mut self.end => Woke::Told(how.unwrap_or(Disconnect::Eof)),
                read = self.stream.read(&mut chunk), if hearing => read.map_or(Woke::Gone, Woke::Read),
                out = self.out.recv() => out.map_or(Woke::Told(Disconnect::Eof), Woke::Out),
                () = tokio::time::sleep_until(deadline), if waiting => Woke::TooLate,
            };
            match woke {
                Woke::Told(how) => return Some(how),
                Woke::Gone => return None,
                Woke::TooLate => return Some(Disconnect::Notice),
                Woke::Read(0) => {
                    // The client will say no more; it still hears what is under way, and the notice.
                    hearing = false;
                    shared.client_finished(self.number);
                }
                Woke::Read(length) => {
                    commands.push(&chunk[..length]);
                    while let Some(command) = commands.next() {
                        shared.handle(self.number, &command);
                    }
                }
                Woke::Out(Out::Close) => return Some(Disconnect::Eof),
                Woke::Out(Out::Mark(reached)) => _ = reached.send(()),
                Woke::Out(Out::Bytes(bytes)) => {
                    let told = tokio::select! {
                        biased;
                        how = &mut self.end => Some(how.unwrap_or(Disconnect::Eof)),
                        written = self.stream.write_all(&bytes) => match written {
                            Ok(()) => None,
                            Err(_) => return None,
                        },
                    };
                    if told.is_some() {
                        return told;
                    }
                }
            }
        }
    }
}
