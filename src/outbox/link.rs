//! One connection to the server: made when it is needed, made anew after whatever went wrong.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls, Statement};

use super::{OutboxError, Settings, schema};

/// The channel on which nodes tell each other of new events.
pub(super) const CHANNEL: &str = "freeswitch_zammad_outbox";
/// How long anything may take. A network that swallows everything says nothing.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a session of a node that was cut off must not do: hold rows that others wait for, or a place among the connections.
/// An engine that knows one of these not has others, and its own.
const SESSION: [&str; 5] = [
    "SET idle_in_transaction_session_timeout = 10000",
    "SET statement_timeout = 10000",
    "SET tcp_keepalives_idle = 10",
    "SET tcp_keepalives_interval = 5",
    "SET tcp_keepalives_count = 3",
];
/// Words of new events that may wait to be heard. More make one look everywhere, which is right as well.
const WORDS: usize = 256;

/// A connection that comes back by itself.
pub struct Link {
    settings: Arc<Settings>,
    open: Option<Open>,
    listens: bool,
}

struct Open {
    session: Session,
    words: mpsc::Receiver<String>,
    driver: AbortHandle,
}

/// What a connection is asked through.
pub(super) struct Session {
    /// The connection.
    pub(super) client: Client,
    /// Whether this engine can tell others of something new.
    pub(super) tells: bool,
    prepared: HashMap<&'static str, Statement>,
}

impl Session {
    /// A statement that the server has been told of once.
    pub(super) async fn prepare(&mut self, sql: &'static str) -> Result<Statement, tokio_postgres::Error> {
        if let Some(known) = self.prepared.get(sql) {
            return Ok(known.clone());
        }
        let statement = self.client.prepare(sql).await?;
        self.prepared.insert(sql, statement.clone());
        Ok(statement)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Link {
    /// Not connected yet.
    #[must_use]
    pub const fn new(settings: Arc<Settings>) -> Self {
        Self { settings, open: None, listens: false }
    }

    /// One that also hears of new events: see [`Link::heard`].
    #[must_use]
    pub const fn listening(settings: Arc<Settings>) -> Self {
        Self { settings, open: None, listens: true }
    }

    /// Returns with the calls, each with its Zammad, of which there is something new; empty if that may be any. Never
    /// without a connection. May be dropped.
    pub async fn heard(&mut self) -> Vec<(String, String)> {
        let Some(open) = &mut self.open else { return std::future::pending().await };
        let mut word = open.words.recv().await;
        if word.is_none() {
            // The connection has ended: whoever asks next makes another.
            self.open = None;
            return Vec::new();
        }
        let mut calls = Vec::new();
        while let Some(said) = word {
            match serde_json::from_str::<Vec<(String, String)>>(&said) {
                Ok(more) => calls.extend(more),
                Err(_) => return Vec::new(),
            }
            word = open.words.try_recv().ok();
        }
        calls
    }

    /// What `job` makes of the connection, which is made if there is none, within [`PATIENCE`]. After a failure the
    /// connection is not trusted any more.
    pub(super) async fn ask<T>(
        &mut self,
        job: impl AsyncFnOnce(&mut Session, &Settings) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, OutboxError> {
        let settings = Arc::clone(&self.settings);
        let kept = self.open.take().filter(|open| !open.session.client.is_closed());
        let listens = self.listens;
        let asked = async {
            let mut open = match kept {
                Some(open) => open,
                None => connect(&settings, listens).await?,
            };
            let said = job(&mut open.session, &settings).await.map_err(fault)?;
            Ok((open, said))
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok((open, said))) => {
                self.open = Some(open);
                Ok(said)
            }
            Ok(Err(why)) => Err(why),
            Err(_) => Err(OutboxError::Away(format!("no answer within {PATIENCE:?}"))),
        }
    }
}

async fn connect(settings: &Settings, listens: bool) -> Result<Open, OutboxError> {
    let (tell, words) = mpsc::channel(WORDS);
    let (client, driver) = match &settings.server.tls {
        None => {
            let (client, connection) = settings.server.config.connect(NoTls).await.map_err(fault)?;
            (client, drive(connection, tell))
        }
        Some(tls) => {
            let (client, connection) = settings.server.config.connect(tls.clone()).await.map_err(fault)?;
            (client, drive(connection, tell))
        }
    };
    let session = Session { client, tells: false, prepared: HashMap::new() };
    let mut open = Open { session, words, driver };
    let Session { client, tells, .. } = &mut open.session;
    for setting in SESSION {
        try_out(client, setting).await?;
    }
    schema::bring_up(client).await?;
    // An engine that has no such thing is looked into now and then all the same.
    *tells = try_out(client, &format!("SELECT pg_notify('{CHANNEL}_tried', '')")).await?;
    if listens {
        try_out(client, &format!("LISTEN {CHANNEL}")).await?;
    }
    Ok(open)
}

/// Does what a connection has to do, and passes on what it hears.
fn drive<S, T>(mut connection: Connection<S, T>, tell: mpsc::Sender<String>) -> AbortHandle
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let driver = tokio::spawn(async move {
        let mut messages = futures_util::stream::poll_fn(move |cx| connection.poll_message(cx));
        while let Some(message) = messages.next().await {
            match message {
                Ok(AsyncMessage::Notification(word)) => {
                    // Full: the words that wait already wake whoever listens, who then looks everywhere in time.
                    let _ = tell.try_send(word.payload().to_owned());
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
    });
    driver.abort_handle()
}

/// Does what not every engine knows; whether this one does.
async fn try_out(client: &Client, statement: &str) -> Result<bool, OutboxError> {
    match client.batch_execute(statement).await {
        Ok(()) => Ok(true),
        Err(why) if why.as_db_error().is_none() => Err(fault(why)),
        Err(_) => Ok(false),
    }
}

/// In words, without what a statement held.
pub(super) fn fault(why: tokio_postgres::Error) -> OutboxError {
    let Some(told) = why.as_db_error() else {
        let source = std::error::Error::source(&why).map(ToString::to_string);
        return OutboxError::Away(
            source.map_or_else(|| why.to_string(), |source| format!("{why}: {source}")),
        );
    };
    let passes = [
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::TOO_MANY_CONNECTIONS,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::UNIQUE_VIOLATION,
        SqlState::READ_ONLY_SQL_TRANSACTION,
    ];
    let words = format!("{} ({})", told.message(), told.code().code());
    if passes.contains(told.code()) { OutboxError::Away(words) } else { OutboxError::Refused(words) }
}
