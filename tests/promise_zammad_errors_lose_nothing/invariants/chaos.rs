//! Random faults of every kind over HTTP, and Zammad stopped and started in between: the rows are the truth.

use fastrand::Rng;
use freeswitch_zammad::sim::zammad::Answer;

use crate::delivery::*;

const CALLS: usize = 50;

/// What becomes of one request. Faults of the third kind come after it was processed.
fn fault(rng: &mut Rng) -> Fault {
    let error = || Answer::json(500, r#"{"error":"Error ID a1B2c3D4: Please contact your administrator."}"#);
    let pause = Duration::from_millis(rng.u64(0..8));
    let fault = match rng.u32(0..36) {
        0 => Fault::reset_before(),
        1 => Fault::answer_instead(Answer::nginx(502)),
        2 => Fault::answer_instead(Answer::nginx(503)),
        3 => Fault::answer_instead(Answer::nginx(504)),
        4 => Fault::answer_instead(Answer::nginx(429)),
        5 => Fault::answer_instead(error()),
        6 => Fault::answer_instead(Answer::rails(500)),
        7 => Fault::answer_instead(Answer::garbage()),
        8 => Fault::reset_after(),
        9 => Fault::answer_after(Answer::nginx(504)),
        10 => Fault::answer_after(error()),
        11 => Fault::answer_after(Answer::garbage()),
        12 => Fault::answer_instead(Answer::json(
            401,
            r#"{"error":"Invalid token, please contact your admin!"}"#,
        )),
        13 => Fault::answer_instead(Answer::redirect(301, "https://elsewhere.example.test/")),
        _ => Fault::none(),
    };
    fault.delayed(pause, pause)
}

async fn live(seed: u64, can_look: bool) {
    let mut rng = Rng::with_seed(seed);
    let mut bench = Bench::new();
    let dice = Mutex::new(Rng::with_seed(seed));
    bench.zammad.set_fault_rule(move |_| fault(&mut dice.lock().unwrap()));
    let running = bench.drain(Settings { can_look, ..quick() });

    let mut calls: Vec<std::vec::IntoIter<Pending>> = (0..CALLS)
        .map(|n| if n % 2 == 0 { missed(&format!("c{n}")) } else { answered(&format!("c{n}")) }.into_iter())
        .collect();
    let mut accepted = 0;
    while !calls.is_empty() {
        let at = rng.usize(..calls.len());
        match calls[at].next() {
            Some(event) => {
                running.accept(vec![event]).await;
                accepted += 1;
            }
            None => drop(calls.swap_remove(at)),
        }
        if accepted % 40 == 20 {
            bench.zammad.stop().await;
        } else if accepted % 40 == 30 {
            bench.zammad.restart().unwrap();
        }
    }
    bench.zammad.restart().unwrap();
    running.drained().await;

    let rows = bench.rows();
    assert_eq!(rows.len(), CALLS, "seed {seed}: one row for each call");
    let mut unknown = 0;
    for row in rows {
        let number: usize = row.call_id[1..].parse().unwrap();
        let rings = row.state == "newCall";
        if number.is_multiple_of(2) && !can_look && rings {
            unknown += 1;
            continue;
        }
        assert_eq!(row.state, "hangup", "seed {seed}: {row:?}");
        assert_eq!(row.missed_mark(), number.is_multiple_of(2), "seed {seed}: {row:?}");
    }
    let counters = running.counters();
    assert_eq!(running.store.counts().dead, 0, "seed {seed}: {:?}", running.dead());
    assert!(unknown <= counters.ambiguous, "seed {seed}");
    if can_look {
        assert_eq!(counters.ambiguous, 0, "seed {seed}");
    }
    assert!(counters.repeated > 0, "seed {seed}: nothing failed");
    assert_eq!(bench.zammad.max_in_flight_per_call(), 1, "seed {seed}");
    running.stop().await;
}

#[tokio::test]
async fn with_a_credential_every_row_is_the_truth() {
    for seed in 0..4 {
        live(seed, true).await;
    }
}

#[tokio::test]
async fn without_a_credential_no_mark_is_wrong_and_the_unknown_is_counted() {
    for seed in 4..8 {
        live(seed, false).await;
    }
}
