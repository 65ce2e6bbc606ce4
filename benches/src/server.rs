//! The other ends, as lean as they can be so that they are not what is measured: a switch that says what it is given,
//! and a Zammad that takes everything.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use freeswitch_zammad::edge::clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

/// A switch that lets everybody in and sends `stream`, `times` over, to who subscribes; then it hangs up.
pub(crate) fn switch(stream: Bytes, times: usize) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("it has one");
    std::thread::spawn(move || {
        for peer in listener.incoming().flatten() {
            // A peer that goes away is its own affair.
            let _ = serve(peer, &stream, times);
        }
    });
    address
}

fn serve(mut peer: TcpStream, stream: &[u8], times: usize) -> std::io::Result<()> {
    peer.write_all(b"Content-Type: auth/request\n\n")?;
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = peer.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        heard.extend_from_slice(&buffer[..read]);
        while let Some(end) = heard.windows(2).position(|two| two == b"\n\n") {
            let command: Vec<u8> = heard.drain(..end + 2).collect();
            peer.write_all(b"Content-Type: command/reply\nReply-Text: +OK accepted\n\n")?;
            if command.starts_with(b"event ") {
                for _ in 0..times {
                    peer.write_all(stream)?;
                }
                return peer.shutdown(std::net::Shutdown::Write);
            }
        }
    }
}

/// What a Zammad has seen.
#[derive(Default)]
struct Seen {
    /// Events taken, probes not counted.
    events: AtomicU64,
    /// When each post began to arrive; kept only if asked for.
    begun: Mutex<Vec<Instant>>,
    keeps: bool,
    delay: Duration,
}

/// A Zammad that takes every event after a while, on a thread of its own.
pub(crate) struct Zammad {
    seen: Arc<Seen>,
    pub(crate) address: SocketAddr,
}

impl Zammad {
    /// Answers `delay` after a request; `keeps` the moments of their beginnings if asked to.
    pub(crate) fn start(delay: Duration, keeps: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("it has one");
        listener.set_nonblocking(true).expect("a socket of ours");
        let seen = Arc::new(Seen { keeps, delay, ..Seen::default() });
        std::thread::spawn({
            let seen = Arc::clone(&seen);
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(async move {
                    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket of ours");
                    while let Ok((peer, _)) = listener.accept().await {
                        let _ = peer.set_nodelay(true);
                        tokio::spawn(answer(peer, Arc::clone(&seen)));
                    }
                });
            }
        });
        Self { seen, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/api/v1/cti/bench-token-bench-token", self.address)
    }

    /// Events taken so far.
    pub(crate) fn events(&self) -> u64 {
        self.seen.events.load(Ordering::Acquire)
    }

    /// The moments since the last time.
    pub(crate) fn take_begun(&self) -> Vec<Instant> {
        std::mem::take(&mut *self.seen.begun.lock().expect("nobody panics with it"))
    }

    /// Waits, at most `patience`, until so many events were taken in all.
    pub(crate) fn wait(&self, events: u64, patience: Duration) -> bool {
        let begun = clock::monotonic();
        while self.events() < events {
            if begun.elapsed() > patience {
                return false;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        true
    }
}

async fn answer(mut peer: tokio::net::TcpStream, seen: Arc<Seen>) {
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    const PROBED: &[u8] = b"HTTP/1.1 422 Unprocessable Entity
Content-Type: application/json
Content-Length: 32

{\"error\":\"Invalid 'direction'!\"}";
    let mut heard = Vec::with_capacity(4096);
    let mut begun = None;
    loop {
        match peer.read_buf(&mut heard).await {
            Ok(0) | Err(_) => return,
            Ok(_) => begun = begun.or_else(|| Some(clock::monotonic())),
        }
        let Some(end) = whole(&heard) else { continue };
        let is_event = heard[..end].windows(5).any(|five| five == b"event");
        heard.drain(..end);
        if is_event {
            if seen.keeps {
                seen.begun.lock().expect("nobody panics with it").extend(begun);
            }
            if !seen.delay.is_zero() {
                tokio::time::sleep(seen.delay).await;
            }
            seen.events.fetch_add(1, Ordering::Release);
        }
        begun = None;
        if peer.write_all(if is_event { OK } else { PROBED }).await.is_err() {
            return;
        }
    }
}

/// Where the first request ends, if all of it is there.
fn whole(heard: &[u8]) -> Option<usize> {
    let head = heard.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&heard[..head]).ok()?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let end = head + length.unwrap_or(0);
    (heard.len() >= end).then_some(end)
}
