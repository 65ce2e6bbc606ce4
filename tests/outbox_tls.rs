//! The way to the outbox is encrypted where that is asked for, and then only with the server that was meant.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

#[path = "common/postgres.rs"]
mod postgres;

use std::sync::Arc;
use std::time::Duration;

use freeswitch_zammad::outbox::{Link, OutboxError, Server, Settings};

/// A loopback address that no other test process has, with PostgreSQL's usual port.
fn address() -> String {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    format!("127.77.{high}.{low}")
}

#[tokio::test]
async fn with_sslmode_require_nobody_reads_along_and_nobody_else_is_taken_for_the_server() {
    // Its certificate is made here.
    if std::env::var_os("TEST_POSTGRES_URL").is_some() || !postgres::is_there() {
        return;
    }
    let address = address();
    let made = rcgen::generate_simple_self_signed([address.clone(), "outbox.test".to_owned()]).unwrap();
    let (ours, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let server = postgres::Server::start_encrypted(&address, &ours, &key);
    let url = |mode: &str| format!("postgres://postgres@{address}/postgres?sslmode={mode}");
    let other = rcgen::generate_simple_self_signed([address.clone()]).unwrap().cert.pem();
    let client = postgres::connect(&server.url()).await;
    let encrypted = async || -> Vec<bool> {
        let ours = "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
             WHERE application_name = 'freeswitch-zammad'";
        client.query(ours, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    };

    for mode in ["require", "verify-full"] {
        let mut link = link(&url(mode), Some(&ours)).unwrap();
        assert_eq!(link.renew("main", &[]).await, Ok(vec![]));
        assert_eq!(encrypted().await, [true], "{mode}");
        drop(link);
        gone(&client).await;
    }
    for mode in ["disable", "prefer"] {
        let mut link = link(&url(mode), None).unwrap();
        assert_eq!(link.renew("main", &[]).await, Ok(vec![]));
        assert_eq!(encrypted().await, [false], "{mode}");
        drop(link);
        gone(&client).await;
    }

    let named =
        |name: &str| format!("host={name} hostaddr={address} user=postgres dbname=postgres sslmode=require");
    assert_eq!(link(&named("outbox.test"), Some(&ours)).unwrap().renew("main", &[]).await, Ok(vec![]));
    for (who, url, ca) in [
        ("signed by nobody we know", url("require"), None),
        ("signed by another", url("require"), Some(&other)),
        ("another name", named("elsewhere.test"), Some(&ours)),
    ] {
        let refused = link(&url, ca.map(String::as_str)).unwrap().renew("main", &[]).await;
        let Err(OutboxError::Away(why)) = refused else { panic!("{who}: {refused:?}") };
        assert!(why.contains("certificate"), "{who}: {why}");
    }
    let malformed = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
    assert!(link(&url("require"), Some(malformed)).is_err_and(|why| why.contains("CA file")));
}

#[tokio::test]
async fn a_server_without_encryption_is_not_talked_to_in_the_open() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = listener.local_addr().unwrap();
    // Answers as a PostgreSQL without TLS: no.
    let server = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = [0; 8];
        stream.read_exact(&mut asked).await.unwrap();
        stream.write_all(b"N").await.unwrap();
        let mut more = Vec::new();
        stream.read_to_end(&mut more).await.unwrap();
        more
    });
    let url = format!("postgres://u:secret@{here}/postgres?sslmode=require");
    let refused = link(&url, None).unwrap().renew("main", &[]).await;
    assert!(matches!(refused, Err(OutboxError::Away(_))), "{refused:?}");
    assert_eq!(server.await.unwrap(), b"", "nothing is said to it");
}

fn link(url: &str, ca: Option<&str>) -> Result<Link, String> {
    Ok(Link::new(Arc::new(Settings {
        server: Server::new(url, ca.map(str::to_owned))?,
        node: "a".into(),
        owner: "a".into(),
        lease: Duration::from_secs(30),
        delivered_keep: Duration::from_secs(3600),
        dead_keep: Duration::from_secs(3600),
    })))
}

/// Returns once no node is connected.
async fn gone(client: &tokio_postgres::Client) {
    let ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'freeswitch-zammad'";
    while client.query_one(ours, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
