//! A way to a PostgreSQL on which statements are answered as another engine would, or on which everything is lost from some
//! moment on.
#![allow(dead_code, reason = "each test is a crate of its own, and not every one needs every helper")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::unix::{OwnedReadHalf as NearReadHalf, OwnedWriteHalf as NearWriteHalf};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// Asked instead of what is refused: a syntax error (42601), as CockroachDB makes of LISTEN.
const REFUSED: &[u8] = b"Q\0\0\0\x0crefused\0";

/// What a client says, and its answers as they come. Each statement that has one of these words is refused.
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    refuses: &'static [&'static str],
    refused: AtomicUsize,
    /// A transaction that begins from now on is cut off behind its first statement.
    armed: AtomicBool,
    cut: AtomicBool,
}

impl Wire {
    /// To the server with its socket in this directory.
    pub(crate) async fn to(dir: &Path, refuses: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State { refuses, ..State::default() });
        let (shared, socket): (_, PathBuf) = (Arc::clone(&state), dir.join(".s.PGSQL.5432"));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = UnixStream::connect(&socket).await.unwrap();
                tokio::spawn(serve(client, server, Arc::clone(&shared)));
            }
        });
        Self { address, state }
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@{}/{database}", self.address)
    }

    /// How many statements were refused.
    pub(crate) fn refused(&self) -> usize {
        self.state.refused.load(Ordering::Relaxed)
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.state.cut.load(Ordering::Relaxed)
    }

    /// In the next transaction nothing more is heard of either side once its first statement is done.
    pub(crate) fn cut_in_next_transaction(&self) {
        self.state.armed.store(true, Ordering::Relaxed);
    }
}

async fn serve(client: TcpStream, server: UnixStream, state: Arc<State>) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let back = tokio::spawn(answers(from_server, to_client, Arc::clone(&state)));
    // A side that is gone ends it.
    let _ = questions(from_client, to_server, &state).await;
    back.abort();
}

async fn questions(
    mut client: OwnedReadHalf,
    mut server: NearWriteHalf,
    state: &State,
) -> std::io::Result<()> {
    // The first has no kind.
    let begins = message(&mut client, false).await?;
    server.write_all(&begins).await?;
    let mut begun = false;
    loop {
        let said = message(&mut client, true).await?;
        if state.cut.load(Ordering::Relaxed) {
            continue;
        }
        let text = String::from_utf8_lossy(&said[5..]);
        let unknown = state.refuses.iter().any(|word| text.contains(word));
        assert!(!(unknown && said[0] == b'P'), "asked although it was refused: {text}");
        if unknown && said[0] == b'Q' {
            state.refused.fetch_add(1, Ordering::Relaxed);
            server.write_all(REFUSED).await?;
            continue;
        }
        server.write_all(&said).await?;
        if begun && said[0] == b'S' {
            // Done when it is answered, which nobody hears.
            state.cut.store(true, Ordering::Relaxed);
        }
        begun |= said[0] == b'Q' && text.contains("BEGIN") && state.armed.load(Ordering::Relaxed);
        begun |= said[0] == b'Q' && text.contains("START TRANSACTION") && state.armed.load(Ordering::Relaxed);
    }
}

async fn answers(mut server: NearReadHalf, mut client: OwnedWriteHalf, state: Arc<State>) {
    let mut buffer = [0; 8192];
    while let Ok(read @ 1..) = server.read(&mut buffer).await {
        if !state.cut.load(Ordering::Relaxed) && client.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

async fn message(from: &mut (impl AsyncRead + Unpin), has_kind: bool) -> std::io::Result<Vec<u8>> {
    let mut head = vec![0; if has_kind { 5 } else { 4 }];
    from.read_exact(&mut head).await?;
    let length: [u8; 4] = head[head.len() - 4..].try_into().unwrap();
    let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
    from.read_exact(&mut body).await?;
    head.append(&mut body);
    Ok(head)
}
