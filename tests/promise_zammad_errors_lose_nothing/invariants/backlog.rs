//! Late events, what is too old, queues larger than memory, the same event twice, and a Zammad from a backup.

use std::collections::{BTreeMap, HashMap};

use freeswitch_zammad::cti::reply::{Outcome, Reply};
use freeswitch_zammad::queue::line::Item;
use freeswitch_zammad::queue::schedule::{ASIDE, Output, Schedule, WINDOW};
use freeswitch_zammad::store::Settle;
use serde_json::Value;

use crate::delivery::*;

const HOUR: Duration = Duration::from_secs(3600);

fn body(seen: &Seen) -> Value {
    serde_json::from_str(&seen.body).unwrap()
}

fn voicemail(call: &str) -> Vec<Pending> {
    let by = Some("voicemail".to_owned());
    let box_answers = What::Answer { answering_number: None, user: by };
    vec![new_call(call), event(call, Direction::In, box_answers), hangup_after_answer(call)]
}

fn forwarded(call: &str) -> Vec<Pending> {
    let moved = What::Hangup { cause: Cause::Forwarded };
    vec![new_call(call), event(call, Direction::In, moved)]
}

fn outbound(call: &str) -> Vec<Pending> {
    let new = What::NewCall { user: None, queue: None };
    let busy = What::Hangup { cause: Cause::Busy };
    vec![event(call, Direction::Out, new), event(call, Direction::Out, busy)]
}

fn late(policy: LatePolicy) -> Settings {
    let lateness = Lateness { after: Duration::from_secs(60), policy, zone: TimeZone::UTC };
    Settings { lateness, ..quick() }
}

async fn five_late_calls(policy: LatePolicy) -> (Bench, Running) {
    let bench = Bench::new();
    // All of it waits before the first of it is told.
    let store = bench.store();
    let calls =
        [missed("missed"), answered("answered"), voicemail("mailbox"), forwarded("moved"), outbound("out")];
    accept(&store, aged(calls.concat(), 2 * HOUR)).await;
    store.close().await.unwrap();
    let running = bench.drain(late(policy));
    running.drained().await;
    (bench, running)
}

/// An event as it comes to a schedule that is driven without a drain.
fn item(seq: u64, told: Pending, happened: UnixMillis) -> Item {
    Item { seq, event: told.event, happened, answered: false, attempted: false, held: false, restored: false }
}

/// What a schedule asked for, from what the store would hold.
fn load(schedule: &mut Schedule, disk: &BTreeMap<u64, Item>, from: u64, limit: usize, now: UnixMillis) {
    let items: Vec<Item> = disk.range(from..).take(limit).map(|(_, item)| item.clone()).collect();
    let next = items.last().map_or(from, |item| item.seq + 1);
    let end = items.len() < limit;
    schedule.handle_loaded(items, next, end, now);
}

/// Zammad has taken it.
fn taken() -> Outcome {
    Outcome::Reply(Reply { status: 200, body: "{}".into(), retry_after: None, location: None })
}

fn told(bench: &Bench) -> Vec<String> {
    let mut told: Vec<String> = bench.rows().into_iter().map(|r| r.call_id).collect();
    told.sort();
    told
}

#[tokio::test]
async fn late_calls_are_told_without_what_opens_screens_and_say_when_they_were() {
    let (bench, running) = five_late_calls(LatePolicy::Deliver).await;
    assert_eq!(told(&bench), ["answered", "mailbox", "missed", "moved", "out"]);
    let answer = body(&bench.posts("answered", "answer")[0]);
    assert!(answer.get("answeringNumber").is_none() && answer.get("user").is_none(), "{answer}");
    // The mailbox is no person: its name decides the mark.
    assert_eq!(body(&bench.posts("mailbox", "answer")[0])["user"], "voicemail");
    let marks: HashMap<String, bool> =
        bench.rows().into_iter().map(|r| (r.call_id.clone(), r.missed_mark())).collect();
    assert_eq!(marks.values().filter(|m| **m).count(), 2);
    assert!(marks["missed"] && marks["mailbox"]);
    let cause = bench.row("missed").comment.unwrap();
    assert!(cause.starts_with("cancel, ") && cause.ends_with(", reported late"), "{cause}");
    assert_eq!(bench.row("moved").comment.as_deref(), Some("forwarded"));
    running.stop().await;
}

#[tokio::test]
async fn only_what_asks_for_a_call_back_is_told_late_if_so_configured() {
    let (bench, running) = five_late_calls(LatePolicy::MissedOnly).await;
    assert_eq!(told(&bench), ["mailbox", "missed"]);
    assert!(bench.rows().iter().all(Row::missed_mark));
    assert_eq!(running.counters().dropped, 7);
    let note = running.note("answered", "answer").unwrap();
    assert_eq!(note, "not sent: late, and only missed calls are told late");
    running.stop().await;
}

#[tokio::test]
async fn late_calls_are_not_told_if_so_configured_but_those_that_go_on_are() {
    let (bench, running) = five_late_calls(LatePolicy::Drop).await;
    assert_eq!(told(&bench), [""; 0]);
    assert_eq!(running.counters().dropped, 12);
    // A call that is not over is no story of the past.
    running.deliver(aged(vec![new_call("long")], HOUR)).await;
    running.deliver(vec![answer("long"), hangup_after_answer("long")]).await;
    assert_eq!(bench.row("long").state, "hangup");
    let answer = body(&bench.posts("long", "answer")[0]);
    assert_eq!(answer["answeringNumber"], "1001", "an answer in time opens its screen");
    running.stop().await;
}

#[tokio::test]
async fn what_is_too_old_is_given_up_even_while_zammad_is_away() {
    let mut bench = Bench::new();
    let mut running = bench.drain(Settings { age_max: HOUR, ..quick() });
    bench.zammad.stop().await;
    running.accept(aged(missed("old"), HOUR - Duration::from_millis(500))).await;
    running.away().await;
    assert_eq!(running.store.counts().pending, 2, "they are not too old yet");
    running.drained().await;
    assert!(matches!(running.state.borrow().link, Link::Away { .. }));
    running.accept(missed("young")).await;
    assert_eq!(running.note("old", "hangup").as_deref(), Some("not sent: older than the queue keeps events"));
    assert_eq!(running.counters().dropped, 2);
    bench.zammad.restart().unwrap();
    running.drained().await;
    assert_eq!(told(&bench), ["young"]);
    running.stop().await;
}

#[test]
fn memory_is_bounded_while_zammad_is_away_and_new_calls_still_go_first() {
    let now = clock::now();
    let mut schedule = Schedule::new(Settings { concurrency: 1, ..quick() }, 1);
    let mut disk = BTreeMap::new();
    schedule.set_paused(true);
    let mut seq = 0;
    for number in 0..40_000 {
        for told in missed(&format!("c{number}")) {
            seq += 1;
            let item = item(seq, told, now);
            disk.insert(seq, item.clone());
            schedule.handle_accepted(item, now);
            while let Some(Output::Load { from, limit }) = schedule.poll_output(now) {
                load(&mut schedule, &disk, from, limit, now);
            }
            assert!(schedule.held() <= WINDOW + ASIDE + 1, "{} events in memory", schedule.held());
        }
    }
    schedule.set_paused(false);
    seq += 1;
    schedule.handle_accepted(item(seq, new_call("now"), now), now);
    let mut posted = Vec::new();
    // One at a time: the backlog and the new call take turns.
    while posted.len() < 2 {
        match schedule.poll_output(now) {
            Some(Output::Post { seq, .. }) => {
                posted.push(seq);
                schedule.handle_outcome(seq, &taken(), now);
            }
            Some(_) => {}
            None => panic!("nothing to do after {posted:?}"),
        }
    }
    assert!(posted.contains(&seq), "{posted:?} without {seq}");
}

/// Who put them back is heard after the calls that came then.
#[test]
fn what_was_put_back_just_before_memory_was_full_is_not_left_in_the_store() {
    let now = clock::now();
    let mut schedule = Schedule::new(quick(), 1);
    schedule.set_paused(true);
    schedule.handle_loaded(Vec::new(), 0, true, now);
    let put_back = missed("put back");
    let first = put_back.len() as u64;
    let live = (0..WINDOW).flat_map(|call| missed(&format!("c{call}")));
    let live: Vec<Item> = (first..).zip(live).map(|(seq, told)| item(seq, told, now)).collect();
    let put_back: Vec<Item> =
        (0..).zip(put_back).map(|(seq, told)| Item { restored: true, ..item(seq, told, now) }).collect();
    let mut disk: BTreeMap<u64, Item> =
        put_back.iter().chain(&live).map(|item| (item.seq, item.clone())).collect();
    let all: Vec<u64> = disk.keys().copied().collect();
    let (then, later) = live.split_at(WINDOW + 1);
    for item in then.iter().chain(&put_back).chain(later) {
        schedule.handle_accepted(item.clone(), now);
    }
    schedule.set_paused(false);
    let mut posted = Vec::new();
    while let Some(output) = schedule.poll_output(now) {
        match output {
            Output::Load { from, limit } => load(&mut schedule, &disk, from, limit, now),
            Output::Post { seq, .. } => {
                posted.push(seq);
                schedule.handle_outcome(seq, &taken(), now);
            }
            Output::Settle { seq, .. } => drop(disk.remove(&seq)),
            _ => {}
        }
    }
    let never: Vec<u64> = all.iter().filter(|seq| !posted.contains(seq)).copied().collect();
    assert_eq!((never, posted.len()), (vec![], all.len()));
}

#[tokio::test]
async fn the_same_events_again_make_no_second_row() {
    let bench = Bench::new();
    let running = bench.drain(quick());
    let calls = [answered("a"), missed("b")].concat();
    // A second listener hears the same, at the same time and after the end.
    let (one, two) = tokio::join!(running.accept(calls.clone()), running.accept(calls.clone()));
    assert!(one.iter().zip(&two).all(|(a, b)| a.is_some() != b.is_some()));
    running.drained().await;
    assert_eq!(running.accept(calls.clone()).await, [None; 5]);
    running.stop().await;
    // And once more after a restart.
    let running = bench.drain(quick());
    assert_eq!(running.accept(calls).await, [None; 5]);
    running.drained().await;
    let posts = bench.zammad.requests().iter().filter(|s| !is_probe(s)).count();
    assert_eq!((bench.rows().len(), posts), (2, 5));
    running.stop().await;
}

#[tokio::test]
async fn a_restored_call_is_told_whole_where_reading_cuts_it_in_two() {
    let bench = Bench::new();
    let store = bench.store();
    // More begin than are held at once, so that many are told before their ends are read.
    let calls = WINDOW + 100;
    let begun = (0..calls).map(|n| new_call(&format!("c{n}")));
    let ended = (0..calls).map(|n| hangup(&format!("c{n}")));
    let seqs: Vec<Seq> = accept(&store, begun.chain(ended).collect()).await.into_iter().flatten().collect();
    let done = |seq: &Seq| Settle::Delivered { seq: *seq, at: clock::now(), note: None };
    store.settle(seqs.iter().map(done).collect()).await.unwrap();
    assert_eq!(store.revive(seqs).await.unwrap().len(), 2 * calls);
    let client = Client::new(&bench.zammad.url(), &Tls::System, Duration::from_secs(30)).unwrap();
    let running = Running::start(store, client, Settings { concurrency: 16, ..quick() });
    running.drained().await;
    let rows = bench.rows();
    assert_eq!(rows.len(), calls);
    assert_eq!(rows.iter().filter(|r| r.state == "hangup" && r.missed_mark()).count(), calls);
    running.stop().await;
}

#[tokio::test]
async fn a_zammad_from_a_backup_is_told_what_it_lost_and_nothing_else() {
    let mut bench = Bench::new();
    let running = bench.drain(quick());
    for call in ["a", "b"] {
        running.deliver(missed(call)).await;
    }
    running.deliver(answered("c")).await;
    running.stop().await;

    // The backup holds call "a" only.
    bench.zammad = Zammad::start(zammad::Settings::default()).unwrap();
    let client = Client::new(&bench.zammad.url(), &Tls::System, Duration::from_secs(10)).unwrap();
    for event in missed("a") {
        client.post(event.event.body()).await;
    }
    let untouched = bench.row("a");
    let running = bench.drain(quick());
    let seqs = running.store.delivered_from(Seq(0), 100).unwrap().into_iter().map(|(seq, _)| seq).collect();
    let revived = running.store.revive(seqs).await.unwrap();
    assert_eq!(revived.len(), 7);
    running.orders.send(Order::Revived(revived)).await.unwrap();
    running.drained().await;
    assert_eq!(told(&bench), ["a", "b", "c"]);
    assert_eq!(bench.row("a"), untouched, "what Zammad has is left alone");
    assert!(bench.row("b").missed_mark() && bench.row("b").state == "hangup");
    assert!(!bench.row("c").missed_mark() && bench.row("c").start_at.is_some());
    let note = running.note("a", "hangup").unwrap();
    assert_eq!(note, "not sent again: Zammad still has the call");
    running.stop().await;
}
