//! A switch whose every word is written by the test: what a real one says only by accident, or at one moment.
#![allow(dead_code, reason = "each test is a crate of its own, and not every one needs every helper")]

use std::net::SocketAddr;

use freeswitch_zammad::esl::command::SUBSCRIPTION;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

pub(crate) const PROMPT: &str = "Content-Type: auth/request\n\n";
pub(crate) const ACCEPTED: &str = "Content-Type: command/reply\nReply-Text: +OK accepted\n\n";
pub(crate) const ENABLED: &str =
    "Content-Type: command/reply\nReply-Text: +OK event listener enabled plain\n\n";
pub(crate) const IDLE: &str = "{\"row_count\": 0}\n";
pub(crate) const NO_CHANNEL: &str = "-ERR No such channel!\n";

/// Where it listens.
pub(crate) struct Wire {
    listener: Option<TcpListener>,
    addr: SocketAddr,
}

impl Wire {
    pub(crate) fn listen() -> Self {
        Self::with_buffers(None)
    }

    /// With this much room for what is under way, either way.
    pub(crate) fn with_buffers(size: Option<u32>) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(size) = size {
            socket.set_recv_buffer_size(size).unwrap();
            socket.set_send_buffer_size(size).unwrap();
        }
        socket.bind((std::net::Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(16).unwrap();
        Self { addr: listener.local_addr().unwrap(), listener: Some(listener) }
    }

    pub(crate) fn addr(&self) -> String {
        self.addr.to_string()
    }

    /// Refuses connections from now on.
    pub(crate) fn away(&mut self) {
        self.listener = None;
    }

    /// The next connection, nothing said yet.
    pub(crate) async fn accept(&self) -> Talk {
        let (stream, _) = self.listener.as_ref().unwrap().accept().await.unwrap();
        Talk { stream, read: Vec::new() }
    }

    /// The next connection, logged in and subscribed.
    pub(crate) async fn subscribed(&self) -> Talk {
        let mut talk = self.accept().await;
        talk.say(PROMPT).await;
        assert!(talk.command().await.unwrap().starts_with("auth "));
        talk.say(ACCEPTED).await;
        assert_eq!(talk.command().await.unwrap(), SUBSCRIPTION);
        talk.say(ENABLED).await;
        talk
    }
}

/// One connection.
pub(crate) struct Talk {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Talk {
    /// Says it, if there is still somebody to say it to.
    pub(crate) async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    pub(crate) async fn answer(&mut self, body: &str) {
        self.say(format!("Content-Type: api/response\nContent-Length: {}\n\n{body}", body.len())).await;
    }

    /// The next command; `None` if the connection is over.
    pub(crate) async fn command(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.windows(2).position(|two| two == b"\n\n") {
                let command = String::from_utf8(self.read.drain(..end + 2).collect()).unwrap();
                return Some(command.trim_end().to_owned());
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk).await {
                Ok(0) | Err(_) => return None,
                Ok(length) => self.read.extend_from_slice(&chunk[..length]),
            }
        }
    }

    /// Ends it; the other side reads what was said, then the end.
    pub(crate) async fn close(mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// As an idle switch: answers whatever is asked until the connection is over.
    pub(crate) async fn idle(mut self) {
        while let Some(command) = self.command().await {
            let body = if command.starts_with("api show") { IDLE } else { NO_CHANNEL };
            self.answer(body).await;
        }
    }
}

/// The list of these legs, as far as anybody reads it.
pub(crate) fn list<'a>(legs: impl IntoIterator<Item = &'a str>) -> String {
    let rows: Vec<String> = legs.into_iter().map(|leg| format!("{{\"uuid\":\"{leg}\"}}")).collect();
    format!("{{\"row_count\":{},\"rows\":[{}]}}", rows.len(), rows.join(","))
}
