//! No wrong "missed" mark: the one event whose repetition does harm is the hangup of an inbound call that nobody
//! answered.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

#[path = "common/delivery.rs"]
mod delivery;

use freeswitch_zammad::sim::zammad::Answer;

use delivery::*;

const ERROR_ID: &str = r#"{"error":"Error ID a1B2c3D4: Please contact your administrator."}"#;

fn looking() -> Settings {
    Settings { can_look: true, ..quick() }
}

/// Every way in which a hangup may or may not have been processed, each processed and not.
fn faults() -> Vec<(Fault, bool)> {
    let error = || Answer::json(500, ERROR_ID);
    vec![
        (Fault::reset_before(), false),
        (Fault::reset_after(), true),
        (Fault::answer_instead(Answer::nginx(504)), false),
        (Fault::answer_after(Answer::nginx(504)), true),
        (Fault::answer_instead(error()), false),
        (Fault::answer_after(error()), true),
        (Fault::answer_instead(Answer::garbage()), false),
        (Fault::answer_after(Answer::garbage()), true),
    ]
}

/// What must hold whenever the answer to such a hangup is lost.
mod invariants {
    use super::*;

    #[tokio::test]
    async fn without_a_credential_it_is_left_alone_counted_and_said() {
        let (lines, _guard) = Lines::listen();
        let bench = Bench::new();
        let running = bench.drain(quick());
        let faults = faults();
        for (number, (fault, processed)) in faults.iter().enumerate() {
            let call = format!("c{number}");
            bench.fault_once(&call, "hangup", fault.clone());
            running.deliver(missed(&call)).await;
            assert_eq!(bench.posts(&call, "hangup").len(), 1, "{fault:?}");
            let row = bench.row(&call);
            assert!(row.missed_mark(), "{fault:?}: a mark is lost");
            assert_eq!(row.state == "hangup", *processed, "{fault:?}");
            let note = running.note(&call, "hangup").unwrap();
            assert!(note.starts_with("may not have arrived: "), "{note}");
        }
        assert_eq!(running.counters().ambiguous, faults.len() as u64);
        assert_eq!(lines.with("may or may not have arrived"), faults.len());
        running.stop().await;
    }

    #[tokio::test]
    async fn with_a_credential_it_is_looked_up_and_repeated_only_if_it_was_lost() {
        let bench = Bench::new();
        let running = bench.drain(looking());
        let faults = faults();
        for (number, (fault, processed)) in faults.iter().enumerate() {
            let call = format!("c{number}");
            bench.fault_once(&call, "hangup", fault.clone());
            running.deliver(missed(&call)).await;
            assert_eq!(bench.posts(&call, "hangup").len(), if *processed { 1 } else { 2 }, "{fault:?}");
            let row = bench.row(&call);
            assert!(row.state == "hangup" && row.missed_mark(), "{fault:?}: {row:?}");
        }
        let counters = running.counters();
        assert_eq!((counters.ambiguous, counters.looked_up), (0, faults.len() as u64));
        running.stop().await;
    }

    #[tokio::test]
    async fn a_hangup_that_was_never_answered_in_time_is_the_same_case() {
        let bench = Bench::new();
        let client = Client::new(&bench.zammad.url(), &Tls::System, Duration::from_millis(200)).unwrap();
        let running = Running::start(bench.store(), client.with_rest_token(REST), looking());
        for (call, fault) in [
            ("before", Fault::slow(Duration::from_secs(60), Duration::ZERO)),
            ("after", Fault::slow(Duration::ZERO, Duration::from_secs(60))),
        ] {
            bench.fault_once(call, "hangup", fault);
            running.deliver(missed(call)).await;
            assert!(bench.row(call).state == "hangup" && bench.row(call).missed_mark(), "{call}");
        }
        assert_eq!((bench.posts("before", "hangup").len(), bench.posts("after", "hangup").len()), (2, 1));
        running.stop().await;
    }

    #[tokio::test]
    async fn a_crash_in_the_middle_of_it_is_the_same_case() {
        for can_look in [false, true] {
            for (fault, processed) in [
                (Fault::slow(Duration::ZERO, Duration::from_secs(600)), true),
                (Fault::slow(Duration::from_secs(600), Duration::ZERO), false),
            ] {
                let bench = Bench::new();
                let settings = Settings { can_look, ..quick() };
                let running = bench.drain(settings.clone());
                bench.fault_once("c", "hangup", fault);
                running.accept(missed("c")).await;
                until("the hangup is on its way", || {
                    let posts = bench.posts("c", "hangup");
                    posts.first().is_some_and(|s| s.processed == processed)
                })
                .await;
                let (_, waiting) = running.store.oldest_pending().unwrap().unwrap();
                assert_eq!(waiting.id, "c/hangup");
                assert!(waiting.attempt.is_some(), "the attempt is on disk before it is sent");
                running.crash().await;

                let running = bench.drain(settings);
                running.drained().await;
                let posts = bench.posts("c", "hangup").len();
                let row = bench.row("c");
                assert!(row.missed_mark(), "a mark is lost");
                match (can_look, processed) {
                    (false, _) => {
                        assert_eq!((posts, running.counters().ambiguous), (1, 1));
                        assert_eq!(row.state == "hangup", processed);
                    }
                    (true, true) => assert_eq!((posts, row.state.as_str()), (1, "hangup")),
                    (true, false) => assert_eq!((posts, row.state.as_str()), (2, "hangup")),
                }
                running.stop().await;
            }
        }
    }
}

/// What was seen of marks and of looking for them.
mod known_errors {
    use super::*;

    #[tokio::test]
    async fn a_mark_that_was_wiped_is_put_back() {
        let bench = Bench::new();
        let running = bench.drain(looking());
        // Something between us and Zammad passes the hangup on twice: the second takes the mark back.
        let again = Arc::new(Mutex::new(None));
        let found = Arc::clone(&again);
        bench.zammad.set_fault_rule(move |seen| {
            if seen.event.as_deref() != Some("hangup") || found.lock().unwrap().is_some() {
                return Fault::none();
            }
            *found.lock().unwrap() = Some(seen.body.clone());
            Fault::reset_after().delayed(Duration::ZERO, Duration::from_millis(300))
        });
        running.accept(missed("c")).await;
        until("the hangup is processed", || bench.zammad.requests().iter().any(is_processed_hangup)).await;
        let body = again.lock().unwrap().clone().unwrap();
        let proxy = Client::new(&bench.zammad.url(), &Tls::System, Duration::from_secs(10)).unwrap();
        proxy.post(body).await;
        assert!(!bench.row("c").missed_mark(), "Zammad takes the mark back");
        running.drained().await;
        assert!(bench.row("c").missed_mark(), "the mark was put back");
        assert_eq!(running.counters().ambiguous, 0);
        running.stop().await;
    }

    #[tokio::test]
    async fn a_look_up_that_is_refused_leaves_it_alone_in_the_end() {
        let bench = Bench::new();
        let client = Client::new(&bench.zammad.url(), &Tls::System, Duration::from_secs(10)).unwrap();
        let running = Running::start(bench.store(), client.with_rest_token("no longer"), looking());
        bench.fault_once("c", "hangup", Fault::reset_after());
        running.deliver(missed("c")).await;
        assert!(bench.row("c").missed_mark());
        assert_eq!((bench.posts("c", "hangup").len(), running.counters().ambiguous), (1, 1));
        running.stop().await;
    }
}

fn is_processed_hangup(seen: &Seen) -> bool {
    seen.processed && seen.event.as_deref() == Some("hangup")
}
