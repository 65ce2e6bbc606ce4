//! A certificate nobody vouches for is a fault of the configuration, and how it is mended.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::delivery::*;

/// A TLS front for a plain Zammad, as nginx is one: its port and its certificate in PEM.
async fn front(zammad: &Zammad) -> (SocketAddr, String) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let behind = zammad.base_url().trim_start_matches("http://").to_owned();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, behind) = (acceptor.clone(), behind.clone());
            tokio::spawn(async move {
                // A client that does not trust us ends here, as it should.
                let Ok(mut outer) = acceptor.accept(stream).await else { return };
                let Ok(mut inner) = TcpStream::connect(behind).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
            });
        }
    });
    (address, made.cert.pem())
}

#[tokio::test]
async fn an_untrusted_certificate_pauses_until_its_ca_is_named_or_checking_is_off() {
    let bench = Bench::new();
    let (address, pem) = front(&bench.zammad).await;
    let url = format!("https://{address}/api/v1/cti/sim-token");
    let client = |tls: &Tls| Client::new(&url, tls, Duration::from_secs(10)).unwrap();

    let (lines, _guard) = Lines::listen();
    let mut running = Running::start(bench.store(), client(&Tls::System), quick());
    running.accept(missed("c")).await;
    let why = running.misconfigured().await;
    assert!(why.contains("certificate is not trusted") && why.contains("ca_file"), "{why}");
    assert!(!why.contains("sim-token"), "{why}");
    assert_eq!(running.store.counts().pending, 2);
    running.stop().await;
    assert_eq!(lines.with("takes no events"), 1);
    assert!(bench.zammad.requests().is_empty());

    let running = Running::start(bench.store(), client(&Tls::Ca(pem)), quick());
    running.drained().await;
    assert!(bench.row("c").missed_mark());
    running.stop().await;

    let running = Running::start(bench.store(), client(&Tls::AcceptAnything), quick());
    running.deliver(missed("d")).await;
    assert!(bench.row("d").missed_mark());
    running.stop().await;

    // The right authority, but another host's name.
    let (address, pem) = front(&bench.zammad).await;
    let url = format!("https://127.0.0.2:{}/api/v1/cti/sim-token", address.port());
    let wrong = Client::new(&url, &Tls::Ca(pem), Duration::from_secs(10)).unwrap();
    let outcome = wrong.probe().await;
    assert!(!matches!(outcome, freeswitch_zammad::cti::reply::Outcome::Reply(_)), "{outcome:?}");
}
