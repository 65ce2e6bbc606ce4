//! A certificate nobody vouches for is a fault of the configuration, and how it is mended.

use crate::delivery::*;
use crate::tls::Front;

#[tokio::test]
async fn an_untrusted_certificate_pauses_until_its_ca_is_named_or_checking_is_off() {
    let bench = Bench::new();
    let front = Front::of(&bench.zammad).await;
    let url = front.url("sim-token");
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

    let running = Running::start(bench.store(), client(&Tls::Ca(front.pem)), quick());
    running.drained().await;
    assert!(bench.row("c").missed_mark());
    running.stop().await;

    let running = Running::start(bench.store(), client(&Tls::AcceptAnything), quick());
    running.deliver(missed("d")).await;
    assert!(bench.row("d").missed_mark());
    running.stop().await;

    // The right authority, but another host's name.
    let front = Front::of(&bench.zammad).await;
    let url = format!("https://127.0.0.2:{}/api/v1/cti/sim-token", front.address.port());
    let wrong = Client::new(&url, &Tls::Ca(front.pem), Duration::from_secs(10)).unwrap();
    let outcome = wrong.probe().await;
    assert!(!matches!(outcome, freeswitch_zammad::cti::reply::Outcome::Reply(_)), "{outcome:?}");
}
