//! The answers table, line by line; the healing of lost rows; configuration faults.

use freeswitch_zammad::sim::zammad::{Answer, Routing};

use crate::delivery::*;

const ERROR_ID: &str = r#"{"error":"Error ID a1B2c3D4: Please contact your administrator."}"#;

fn json_error(status: u16, text: &str) -> Answer {
    Answer::json(status, &serde_json::json!({ "error": text, "error_human": text }).to_string())
}

#[tokio::test]
async fn a_blocked_caller_is_told_and_still_hung_up() {
    let bench = Bench::new();
    let block = vec!["4915112345678".to_owned()];
    bench.zammad.change(|s| s.routing = Some(Routing { block, ..Routing::default() }));
    let running = bench.drain(quick());
    running.deliver(missed("c")).await;
    assert_eq!(running.note("c", "newCall").as_deref(), Some("on Zammad's block list (busy)"));
    assert_eq!(bench.row("c").state, "hangup");
    running.stop().await;
}

#[tokio::test]
async fn a_known_call_is_a_success_in_every_wording() {
    let bench = Bench::new();
    let running = bench.drain(quick());
    let html = |status: u16| Answer {
        headers: vec![("content-type".into(), "text/html".into())],
        ..json_error(status, "")
    };
    let page = "<html><h1>500: This object already exists.</h1></html>".to_owned();
    let answers = [
        json_error(500, "This object already exists."),
        json_error(422, "This object already exists."),
        json_error(500, "Object already exists!"),
        json_error(422, "Object already exists!"),
        json_error(422, "Dieses Objekt existiert bereits."),
        Answer { body: page, ..html(500) },
    ];
    for (number, answer) in answers.into_iter().enumerate() {
        let call = format!("c{number}");
        // It was saved; the answer is to its repeat.
        bench.fault_once(&call, "newCall", Fault::answer_after(answer));
        running.deliver(missed(&call)).await;
        assert_eq!(running.note(&call, "newCall").as_deref(), Some("Zammad knew the call already"));
        assert_eq!(bench.posts(&call, "newCall").len(), 1);
        assert!(bench.row(&call).missed_mark());
    }
    running.stop().await;
}

#[tokio::test]
async fn our_own_bugs_become_dead_letters_with_the_answer_and_hold_up_nothing() {
    let bench = Bench::new();
    let running = bench.drain(quick());
    let answers = [
        (json_error(422, "Invalid 'direction'!"), "HTTP 422: Invalid 'direction'!"),
        (json_error(422, "Attribute 'from\" of relation \"cti_logs' required!"), "required!"),
        (Answer::json(422, ERROR_ID), "HTTP 422: Error ID a1B2c3D4"),
        (json_error(400, "Bad Request"), "HTTP 400: Bad Request"),
        (Answer::nginx(413), "HTTP 413: Request Entity Too Large nginx"),
    ];
    for (number, (answer, story)) in answers.into_iter().enumerate() {
        let call = format!("c{number}");
        bench.fault_once(&call, "newCall", Fault::answer_instead(answer));
        running.deliver(missed(&call)).await;
        let dead = running.dead().pop().unwrap();
        assert_eq!(dead.pending.id, format!("{call}/newCall"));
        assert!(dead.story.contains(story), "{}", dead.story);
        // The hangup healed the row and ended it.
        assert!(bench.row(&call).missed_mark() && bench.row(&call).state == "hangup");
    }
    assert_eq!(running.dead().len(), 5);
    running.stop().await;
}

#[tokio::test]
async fn what_surely_was_not_processed_is_repeated_even_the_hangup_of_a_missed_call() {
    let bench = Bench::new();
    let mut running = bench.drain(quick());
    let faults = [
        Answer::nginx(502),
        Answer::nginx(503),
        Answer::nginx(429),
        Answer::nginx(503).with_header("retry-after", "0"),
        json_error(401, "Invalid token, please contact your admin!"),
        Answer::redirect(302, "https://elsewhere.example.test/login"),
    ];
    for (number, answer) in faults.into_iter().enumerate() {
        let call = format!("c{number}");
        bench.fault_once(&call, "hangup", Fault::answer_instead(answer));
        running.deliver(missed(&call)).await;
        assert_eq!(bench.posts(&call, "hangup").len(), 2, "{call}");
        assert!(bench.row(&call).missed_mark(), "{call}");
        running.up().await;
    }
    assert_eq!(running.counters().ambiguous, 0);
    running.stop().await;
}

#[tokio::test]
async fn what_may_have_been_processed_is_repeated_where_that_does_no_harm() {
    let bench = Bench::new();
    let running = bench.drain(quick());
    let faults = [
        Fault::answer_after(Answer::nginx(504)),
        Fault::reset_after(),
        Fault::answer_instead(Answer::garbage()),
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        let call = format!("c{number}");
        let first = Mutex::new(std::collections::HashSet::new());
        bench.zammad.set_fault_rule(move |seen| match &seen.event {
            Some(event) if first.lock().unwrap().insert(event.clone()) => fault.clone(),
            Some(_) | None => Fault::none(),
        });
        running.deliver(answered(&call)).await;
        for event in ["newCall", "answer", "hangup"] {
            assert_eq!(bench.posts(&call, event).len(), 2, "{call} {event}");
        }
        let answers = bench.posts(&call, "answer");
        assert!(answers[0].body.contains("answeringNumber") && answers[0].body.contains("user"));
        assert!(!answers[1].body.contains("answeringNumber") && !answers[1].body.contains("user"));
        let row = bench.row(&call);
        assert!(row.state == "hangup" && !row.missed_mark());
    }
    assert_eq!(running.store.counts().dead, 0);
    running.stop().await;
}

#[tokio::test]
async fn a_lost_row_is_told_again_and_the_call_goes_on() {
    let bench = Bench::new();
    let running = bench.drain(quick());
    // Zammad has never heard of these calls.
    running.deliver(vec![answer("a"), hangup_after_answer("a")]).await;
    running.deliver(vec![hangup("b")]).await;
    assert_eq!((bench.row("a").state.as_str(), bench.row("a").missed_mark()), ("hangup", false));
    assert_eq!((bench.row("b").state.as_str(), bench.row("b").missed_mark()), ("hangup", true));
    assert_eq!(running.counters().healed, 2);

    // The row is there: what failed was the answer itself, once.
    bench.fault_once("c", "answer", Fault::answer_instead(Answer::json(500, ERROR_ID)));
    running.deliver(answered("c")).await;
    assert_eq!((bench.posts("c", "newCall").len(), bench.posts("c", "answer").len()), (2, 2));
    assert_eq!(bench.rows().len(), 3);
    assert_eq!(running.store.counts().dead, 0);
    running.stop().await;
}

#[tokio::test]
async fn a_configuration_fault_pauses_everything_is_said_once_and_mends_itself() {
    type Change = fn(&mut zammad::Settings);
    let other = Zammad::start(zammad::Settings::default()).unwrap();
    let target = other.url();
    let redirect = |status| Fault::answer_instead(Answer::redirect(status, &target));
    let nothing: Change = |_| {};
    let cases: Vec<(&str, Change, Change, Option<Fault>)> = vec![
        ("token", |s| s.token = "other".into(), |s| s.token = "sim-token".into(), None),
        ("is off", |s| s.enabled = false, |s| s.enabled = true, None),
        ("not configured", |s| s.routing = None, |s| s.routing = Some(Routing::default()), None),
        ("HTTP 404", nothing, nothing, Some(Fault::answer_instead(Answer::rails(404)))),
        ("HTTP 403", nothing, nothing, Some(Fault::answer_instead(Answer::nginx(403)))),
        ("redirects to http", nothing, nothing, Some(redirect(301))),
        ("redirects to http", nothing, nothing, Some(redirect(302))),
        ("redirects to http", nothing, nothing, Some(redirect(307))),
        (
            "Funktion ist deaktiviert",
            nothing,
            nothing,
            Some(Fault::answer_instead(json_error(422, "Funktion ist deaktiviert!"))),
        ),
    ];
    let (lines, _guard) = Lines::listen();
    let bench = Bench::new();
    let url = bench.zammad.url();
    for (number, (said, break_it, mend_it, fault)) in cases.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let client = Client::new(&url, &Tls::System, Duration::from_secs(10)).unwrap();
        let mut running = Running::start(open(dir.path()), client, quick());
        bench.zammad.change(break_it);
        if let Some(fault) = fault {
            bench.zammad.set_fault_rule(move |_| fault.clone());
        }
        let before = (bench.probes(), lines.with("takes no events"));
        let calls: Vec<String> = (0..5).map(|n| format!("c{number}-{n}")).collect();
        running.accept(calls.iter().flat_map(|c| missed(c)).collect()).await;
        let why = running.misconfigured().await;
        assert!(why.contains(said), "{why}");
        assert!(!why.contains("sim-token"), "the token is told: {why}");
        until("it probes again and again", || bench.probes() >= before.0 + 4).await;
        assert_eq!(running.store.counts().pending, 10, "{said}: nothing is discarded");
        assert_eq!(lines.with("takes no events"), before.1 + 1, "{said}: said once");
        bench.zammad.change(mend_it);
        bench.zammad.clear_faults();
        running.drained().await;
        assert_eq!(running.store.counts().dead, 0, "{said}");
        for call in &calls {
            assert!(bench.row(call).missed_mark() && bench.row(call).state == "hangup", "{said}");
        }
        running.stop().await;
    }
    assert!(other.requests().is_empty(), "a redirect was followed");
}

#[tokio::test]
async fn an_event_refused_in_unknown_words_is_at_fault_if_the_probe_is_not_refused_so() {
    let bench = Bench::new();
    let mut running = bench.drain(quick());
    bench.zammad.set_fault_rule(|seen| match seen.event.as_deref() {
        Some("hangup") => Fault::answer_instead(json_error(422, "Das kenne ich nicht!")),
        Some(_) | None => Fault::none(),
    });
    running.deliver(missed("c")).await;
    running.up().await;
    assert_eq!(running.dead().len(), 1);
    assert_eq!(running.dead()[0].story, "HTTP 422: Das kenne ich nicht!");
    assert_eq!(bench.posts("c", "hangup").len(), 1);
    // Nothing was done to the call, so the letter may be replayed like any other event.
    assert_eq!(running.dead()[0].pending.attempt, None);

    // A Zammad that says even "Invalid 'direction'!" in another language takes events all the same.
    bench.zammad.set_fault_rule(|seen| match seen.event {
        None => Fault::answer_instead(json_error(422, "Ungültige Richtung!")),
        Some(_) => Fault::none(),
    });
    bench.zammad.set_faults([Fault::answer_instead(Answer::nginx(503))]);
    running.deliver(missed("d")).await;
    assert!(bench.row("d").missed_mark());
    bench.zammad.set_fault_rule(|seen| match seen.event.as_deref() {
        None => Fault::answer_instead(json_error(422, "Ungültige Richtung!")),
        Some("answer") => Fault::answer_instead(json_error(422, "Das kenne ich nicht!")),
        Some(_) => Fault::none(),
    });
    running.deliver(answered("e")).await;
    assert_eq!(running.dead().len(), 2);
    running.stop().await;
}
