//! Zammad away and back: one probe decides, nothing storms, live calls are not behind the backlog.

use freeswitch_zammad::sim::zammad::Answer;
use tokio::time::Instant;

use crate::delivery::*;

#[tokio::test]
async fn while_zammad_is_away_only_probes_are_posted_at_growing_waits() {
    let bench = Bench::new();
    let backoff = Backoff { min: Duration::from_millis(40), max: Duration::from_millis(640) };
    let mut running = bench.drain(Settings { backoff, ..quick() });
    let times = Arc::new(Mutex::new(Vec::new()));
    let arrivals = Arc::clone(&times);
    bench.zammad.set_fault_rule(move |seen| {
        if is_probe(seen) {
            arrivals.lock().unwrap().push(Instant::now());
        }
        Fault::answer_instead(Answer::nginx(503))
    });
    running.accept((0..30).flat_map(|n| missed(&format!("c{n}"))).collect()).await;
    running.away().await;
    until("six probes", || times.lock().unwrap().len() >= 6).await;
    // What was on its way when the first 503 came back is all that was posted besides.
    let posts = bench.zammad.requests().iter().filter(|s| !is_probe(s)).count();
    assert!((1..=4).contains(&posts), "{posts} posts to a Zammad that is away");
    let gaps: Vec<Duration> = times.lock().unwrap().windows(2).map(|w| w[1] - w[0]).collect();
    for (number, gap) in (1..).zip(&gaps) {
        // A wait lies between half of what it has grown to and all of it; timers are never early.
        let least = backoff.min * 2_u32.pow(number) / 2;
        assert!(*gap + Duration::from_millis(2) >= least.min(backoff.max / 2), "wait {number}: {gaps:?}");
    }
    assert_eq!(running.store.counts().pending, 60);
    bench.zammad.clear_faults();
    running.drained().await;
    running.up().await;
    assert_eq!(bench.rows().len(), 30);
    running.stop().await;
}

#[tokio::test]
async fn nothing_storms_a_zammad_that_is_back() {
    let bench = Bench::new();
    let mut running = bench.drain(Settings { concurrency: 5, ..quick() });
    // So many go well that as many as may be are posted at once.
    running.deliver((0..10).flat_map(|n| missed(&format!("before{n}"))).collect()).await;
    bench.zammad.set_fault_rule(|_| Fault::answer_instead(Answer::nginx(502)));
    running.accept((0..100).flat_map(|n| missed(&format!("c{n}"))).collect()).await;
    running.away().await;
    // From now on every request takes its time, so that those at the same time can be counted.
    let flying = Arc::new(Mutex::new((0_usize, Vec::new())));
    let board = Arc::clone(&flying);
    let before = bench.zammad.requests().len();
    bench.zammad.set_fault_rule(move |seen| {
        if !is_probe(seen) {
            let mut board = board.lock().unwrap();
            board.0 += 1;
            let number = board.0;
            board.1.push(number);
        }
        Fault::slow(Duration::from_millis(5), Duration::ZERO)
    });
    let mut answered_before = Vec::new();
    let mut most = 0;
    within(
        "all arrives",
        bench.zammad.wait_until(|rows, seen| {
            let posts = seen[before..].iter().filter(|s| !is_probe(s));
            let (under_way, done) =
                posts.fold(
                    (0, 0),
                    |(open, done), s| {
                        if s.status.is_none() { (open + 1, done) } else { (open, done + 1) }
                    },
                );
            most = most.max(under_way);
            answered_before.push((under_way, done));
            rows.iter().filter(|r| r.state == "hangup").count() == 110
        }),
    )
    .await;
    assert!(most <= 5, "{most} at once");
    for (under_way, done) in answered_before {
        assert!(under_way <= done + 1, "{under_way} at once after {done} answers");
    }
    running.stop().await;
}

#[tokio::test]
async fn what_an_operator_paused_goes_on_at_the_pace_of_the_backlog() {
    let bench = Bench::new();
    let gap = Duration::from_millis(30);
    let running = bench.drain(Settings { backlog_gap: gap, ..quick() });
    running.orders.send(Order::Pause(true)).await.unwrap();
    running.accept((0..10).flat_map(|n| missed(&format!("c{n}"))).collect()).await;
    until("it is paused", || running.state.borrow().paused).await;
    until("all is taken", || running.accepted.capacity() == running.accepted.max_capacity()).await;
    assert!(bench.zammad.requests().is_empty());
    let begun = Instant::now();
    running.orders.send(Order::Pause(false)).await.unwrap();
    running.drained().await;
    assert!(begun.elapsed() >= gap * 18, "{:?}", begun.elapsed());
    running.stop().await;
}
