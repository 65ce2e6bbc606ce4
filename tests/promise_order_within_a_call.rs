//! In order within a call, and no call blocks another.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

#[path = "common/delivery.rs"]
mod delivery;

use delivery::*;

/// What must hold whatever comes.
mod invariants {
    use std::collections::HashMap;

    use freeswitch_zammad::queue::schedule::{ASIDE, WINDOW};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_queue_larger_than_memory_is_delivered_whole_and_in_order() {
        let bench = Bench::new();
        let store = bench.store();
        let calls = (WINDOW + ASIDE) / 2 + 3000;
        // Neighbouring calls overlap, and each has events in more than one stretch of what is read at once.
        let mut events: Vec<Pending> = Vec::new();
        for stretch in (0..calls).collect::<Vec<_>>().chunks(3000) {
            events.extend(stretch.iter().map(|n| new_call(&format!("c{n}"))));
            events.extend(stretch.iter().map(|n| hangup(&format!("c{n}"))));
        }
        for some in events.chunks(2000) {
            accept(&store, some.to_vec()).await;
        }
        let client = Client::new(&bench.zammad.url(), &Tls::System, Duration::from_secs(30)).unwrap();
        let running = Running::start(store, client, Settings { concurrency: 16, ..quick() });
        // Calls that begin meanwhile are not lost between the stretches either.
        for number in 0..50 {
            running.accept(missed(&format!("live{number}"))).await;
        }
        running.drained().await;
        let rows = bench.rows();
        assert_eq!(rows.len(), calls + 50);
        assert!(rows.iter().all(|r| r.state == "hangup" && r.missed_mark()));
        let mut order: HashMap<String, Vec<String>> = HashMap::new();
        for seen in bench.zammad.requests().into_iter().filter(|s| !is_probe(s)) {
            order.entry(seen.call_id.unwrap()).or_default().push(seen.event.unwrap());
        }
        assert!(order.values().all(|events| events[..] == ["newCall", "hangup"]));
        assert_eq!(bench.zammad.max_in_flight_per_call(), 1);
        running.stop().await;
    }

    #[tokio::test]
    async fn a_call_that_begins_now_is_not_behind_the_backlog() {
        let mut bench = Bench::new();
        let gap = Duration::from_millis(20);
        let mut running = bench.drain(Settings { backlog_gap: gap, ..quick() });
        bench.zammad.stop().await;
        // All of it happened just now, so none of it is late; more than is held in memory besides.
        running.accept(missed("first")).await;
        running.away().await;
        for stretch in 0..24 {
            let calls = (0..250).map(|n| format!("old{stretch}-{n}"));
            running.accept(calls.flat_map(|c| missed(&c)).collect()).await;
        }
        bench.zammad.restart().unwrap();
        running.up().await;
        let begun = Instant::now();
        for number in 0..20 {
            let call = format!("live{number}");
            running.accept(vec![new_call(&call)]).await;
            let there = |rows: &[Row], _: &[Seen]| rows.iter().any(|r| r.call_id == call);
            let began = Instant::now();
            within("the live call is shown", bench.zammad.wait_until(there)).await;
            assert!(began.elapsed() < Duration::from_secs(1), "{call} took {:?}", began.elapsed());
            running.accept(vec![answer(&call), hangup_after_answer(&call)]).await;
            let over =
                |rows: &[Row], _: &[Seen]| rows.iter().any(|r| r.call_id == call && r.state == "hangup");
            within("the live call ends", bench.zammad.wait_until(over)).await;
        }
        let old = bench
            .zammad
            .requests()
            .into_iter()
            .filter(|s| s.call_id.as_deref().is_some_and(|c| !c.starts_with("live")));
        let (old, took) = (old.count(), begun.elapsed());
        let paced = took.as_millis() / gap.as_millis();
        assert!(old as u128 <= paced + 5, "{old} of the backlog in {took:?} is not its pace");
        assert!(running.store.counts().pending > 10_000);
        running.stop().await;
    }
}

/// What was seen to hold up others.
mod known_errors {
    use freeswitch_zammad::sim::zammad::Answer;

    use super::*;

    const ERROR_ID: &str = r#"{"error":"Error ID a1B2c3D4: Please contact your administrator."}"#;

    #[tokio::test]
    async fn a_poisoned_call_ends_as_dead_letters_and_blocks_no_other() {
        let bench = Bench::new();
        let running = bench.drain(quick());
        // Whatever is said of it, and its newCall too, fails inside.
        bench.zammad.set_fault_rule(|seen| match seen.call_id.as_deref() {
            Some("bad") => Fault::answer_instead(Answer::json(500, ERROR_ID)),
            Some(_) | None => Fault::none(),
        });
        let mut events = answered("bad");
        for number in 0..20 {
            events.extend(answered(&format!("good{number}")));
        }
        running.accept(events).await;
        let ended = |rows: &[Row], _: &[Seen]| rows.iter().filter(|r| r.state == "hangup").count() == 20;
        within("the others end", bench.zammad.wait_until(ended)).await;
        assert!(running.store.counts().dead < 3, "the others did not wait for its end");
        running.drained().await;
        let dead = running.dead();
        assert_eq!(dead.len(), 3);
        for letter in &dead {
            assert!(letter.story.contains("HTTP 500: Error ID a1B2c3D4"), "{}", letter.story);
        }
        let posts = bench.zammad.requests().iter().filter(|s| s.call_id.as_deref() == Some("bad")).count();
        assert!(posts < 100, "{posts} posts");
        running.stop().await;
    }
}
