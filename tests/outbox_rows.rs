//! What an operator sees of the shared outbox, and orders there, against a real PostgreSQL: figures that are those of the
//! tables, events that are put back, held and forgotten in one piece with their lines.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

#[path = "common/postgres.rs"]
mod postgres;
#[path = "common/stories.rs"]
mod stories;

use std::sync::Arc;
use std::time::Duration;

use freeswitch_zammad::outbox::{
    After, Claimed, Entry, Hand, Link, Named, OutboxError, Settings, Settled, Standing, State,
};
use freeswitch_zammad::store::Pending;
use freeswitch_zammad::time::UnixMillis;
use stories::{placed, story};

const AT: UnixMillis = UnixMillis(9);

#[tokio::test]
async fn what_was_given_up_waits_again_and_keeps_what_must_not_be_repeated_blindly() {
    let Some(db) = database().await else { return };
    let (mut a, mut b) = (node(&db, "a"), node(&db, "b"));
    let whole = story("main", "c1", 10);
    a.ship(&placed(&whole)).await.unwrap();
    let line = claim_all(&mut a, "main").await.remove(0);
    let dead = |n: usize| (line.clone(), whole[n].id.clone(), Settled::Dead { at: AT, story: "no".into() });
    let delivered = (line.clone(), whole[0].id.clone(), Settled::Delivered { at: AT, note: None });
    let attempt = (line.clone(), whole[2].id.clone(), Settled::Attempt { at: UnixMillis(7) });
    a.settle("main", &[delivered, attempt]).await.unwrap();
    a.settle("main", &[dead(1), dead(2)]).await.unwrap();
    assert_eq!(waiting(&db).await, [("c1".into(), 0, 0)]);

    let mut listener = Link::listening(settings(&db, "c"));
    listener.nodes().await.unwrap();
    // A call of the same id at another Zammad is another call.
    let elsewhere = Named { zammads: vec!["other".into()], ..call("c1") };
    assert_eq!(b.revive(&elsewhere).await, Ok(vec![]));
    let back = b.revive(&ids(&[&whole[1].id, &whole[2].id, "c1/nothing"])).await.unwrap();
    let expected = [whole[1].clone(), Pending { attempt: Some(UnixMillis(7)), ..whole[2].clone() }];
    assert_eq!(events(&back), expected);
    assert!(back.iter().all(|entry| entry.state == State::Pending && entry.note.is_none()));
    assert_eq!(waiting(&db).await, [("c1".into(), 2, 2)]);
    let heard = tokio::time::timeout(Duration::from_secs(30), listener.heard()).await.unwrap();
    assert_eq!(heard, [("main".to_owned(), "c1".to_owned())]);
    // Once is enough.
    assert_eq!(b.revive(&ids(&[&whole[1].id, &whole[2].id])).await, Ok(vec![]));
    assert_eq!(waiting(&db).await, [("c1".into(), 2, 2)]);
    // Any node goes on with them; what was delivered comes back as such.
    assert_eq!(claim_all(&mut b, "main").await.len(), 1);
    let all = a.revive(&call("c1")).await.unwrap();
    assert_eq!(events(&all), [Pending { restored: true, ..whole[0].clone() }]);
    let found = b.waiting("main", &["c1".into()], &[]).await.unwrap().events;
    assert_eq!(found, [vec![Pending { restored: true, ..whole[0].clone() }], expected.to_vec()].concat());
    assert_eq!(waiting(&db).await, [("c1".into(), 3, 3)]);
}

#[tokio::test]
async fn what_is_put_back_has_a_line_even_if_that_was_forgotten() {
    let Some(db) = database().await else { return };
    let mut a = node(&db, "a");
    let whole = story("main", "c1", 10);
    a.ship(&placed(&whole[..1])).await.unwrap();
    let line = claim_all(&mut a, "main").await.remove(0);
    let dead = Settled::Dead { at: AT, story: "no".into() };
    a.settle("main", &[(line, whole[0].id.clone(), dead)]).await.unwrap();
    postgres::connect(&db).await.batch_execute("DELETE FROM outbox_line").await.unwrap();
    assert_eq!(a.revive(&call("c1")).await.unwrap().len(), 1);
    assert_eq!(waiting(&db).await, [("c1".into(), 1, 1)]);
}

#[tokio::test]
async fn events_are_held_released_and_forgotten_for_whoever_has_them() {
    let Some(db) = database().await else { return };
    let (mut a, mut b) = (node(&db, "a"), node(&db, "b"));
    let whole = story("main", "c1", 10);
    a.ship(&placed(&whole)).await.unwrap();
    let line = claim_all(&mut a, "main").await.remove(0);
    let known: Vec<String> = whole.iter().map(|event| event.id.clone()).collect();
    let held = b.hold(&ids(&[&whole[1].id]), true).await.unwrap();
    assert_eq!(events(&held), [Pending { held: true, ..whole[1].clone() }]);
    let stands = |n: usize, held| Standing { id: whole[n].id.clone(), held };
    let mut found = a.standing(&known).await.unwrap();
    found.sort_by_key(|it| it.held);
    assert_eq!((found.len(), found[2].clone()), (3, stands(1, true)));
    b.hold(&call("c1"), false).await.unwrap();
    assert!(a.standing(&known).await.unwrap().iter().all(|it| !it.held));

    let delivered = (line.clone(), whole[0].id.clone(), Settled::Delivered { at: AT, note: None });
    a.settle("main", std::slice::from_ref(&delivered)).await.unwrap();
    assert_eq!(b.hold(&ids(&[&whole[0].id]), true).await, Ok(vec![]), "it does not wait any more");
    // Delivered and pending ones go; the line knows.
    let gone = b.remove(&ids(&[&whole[0].id, &whole[1].id])).await.unwrap();
    assert_eq!(gone.iter().map(|entry| entry.state).collect::<Vec<_>>(), [State::Delivered, State::Pending]);
    assert_eq!(waiting(&db).await, [("c1".into(), 1, 1)]);
    assert_eq!(a.standing(&known).await.unwrap(), [stands(2, false)]);
    // What its node says of it later is of no account.
    let late = (line.clone(), whole[1].id.clone(), Settled::Delivered { at: AT, note: None });
    assert_eq!(a.settle("main", &[late]).await.unwrap().lost, Vec::<String>::new());
    assert_eq!(waiting(&db).await, [("c1".into(), 1, 1)]);
    assert_eq!(b.remove(&call("c1")).await.unwrap().len(), 1);
    assert_eq!(waiting(&db).await, [("c1".into(), 0, 0)]);
    assert_eq!(a.renew("main", &[]).await, Ok(vec![]), "nobody has it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_and_outcomes_at_the_same_time_leave_nothing_uncounted_and_wait_for_each_other_in_one_order() {
    let Some(db) = database().await else { return };
    let (mut a, mut b, mut c) = (node(&db, "a"), node(&db, "b"), node(&db, "c"));
    let all: Vec<Pending> = (0..20).flat_map(|n| story("main", &format!("c{n}"), n)).collect();
    a.ship(&placed(&all)).await.unwrap();
    let some = |rng: &mut fastrand::Rng| -> Vec<String> {
        let picked = rng.choose_multiple(&all, 25);
        picked.into_iter().map(|event| event.id.clone()).collect()
    };
    let named = |ids| Named { ids, ..Named::default() };
    let telling = async {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut lines: Vec<Claimed> = Vec::new();
        for round in 0..40 {
            lines.extend(a.claim("main", &[], 100).await.unwrap());
            let ids = some(&mut rng);
            let over = ids.iter().filter_map(|id| {
                let call = id.split('/').next().unwrap();
                let line = lines.iter().rfind(|line| line.call_id == call)?.clone();
                let dead = Settled::Dead { at: AT, story: "no".into() };
                let delivered = Settled::Delivered { at: AT, note: None };
                Some((line, id.clone(), if round % 2 == 0 { dead } else { delivered }))
            });
            a.settle("main", &over.collect::<Vec<_>>()).await.unwrap();
        }
    };
    let ordering = async {
        let mut rng = fastrand::Rng::with_seed(2);
        for round in 0..40 {
            b.revive(&named(some(&mut rng))).await.unwrap();
            b.hold(&named(some(&mut rng)), round % 2 == 0).await.unwrap();
        }
    };
    let deleting = async {
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..40 {
            let mut ids = some(&mut rng);
            ids.truncate(2);
            c.remove(&named(ids)).await.unwrap();
            c.ship(&placed(&all)).await.unwrap();
        }
    };
    tokio::join!(telling, ordering, deleting);
    let lines = waiting(&db).await;
    assert_eq!(lines.len(), 20);
    assert!(lines.iter().all(|(_, said, there)| said == there), "{lines:?}");
}

#[tokio::test]
async fn pages_of_every_kind_have_each_event_once_and_in_order() {
    let Some(db) = database().await else { return };
    let mut a = node(&db, "a");
    // Many at the same moment, at two Zammads.
    let all: Vec<Pending> = (0..20)
        .flat_map(|n| {
            let zammad = if n % 3 == 0 { "other" } else { "main" };
            story(zammad, &format!("c{n}"), 10 * (n / 7))
        })
        .collect();
    a.ship(&placed(&all)).await.unwrap();
    let mut expected: Vec<_> = all.iter().map(|e| (e.zammad.clone(), e.happened, e.id.clone())).collect();
    expected.sort();
    let listed = pages(&mut a, State::Pending).await;
    let keys: Vec<_> = listed.iter().map(|e| (e.zammad.clone(), e.happened, e.id.clone())).collect();
    assert_eq!(keys, expected);
    for zammad in ["main", "other"] {
        let lines = claim_all(&mut a, zammad).await;
        let over = all.iter().filter(|event| event.zammad == zammad).enumerate().map(|(n, event)| {
            let line = lines.iter().find(|line| line.call_id == event.event.call_id.as_str()).unwrap();
            let at = UnixMillis(n as u64 / 5);
            let dead = Settled::Dead { at, story: format!("story {n}") };
            let fate = if n % 4 == 0 { dead } else { Settled::Delivered { at, note: None } };
            (line.clone(), event.id.clone(), fate)
        });
        a.settle(zammad, &over.collect::<Vec<_>>()).await.unwrap();
    }
    assert_eq!(pages(&mut a, State::Pending).await, []);
    let (dead, delivered) = (pages(&mut a, State::Dead).await, pages(&mut a, State::Delivered).await);
    assert_eq!(dead.len() + delivered.len(), all.len());
    for (listed, state) in [(&dead, State::Dead), (&delivered, State::Delivered)] {
        assert!(listed.iter().all(|entry| entry.state == state && entry.settled_by.as_deref() == Some("a")));
        let keys: Vec<_> = listed.iter().map(|e| (e.zammad.clone(), e.settled, e.id.clone())).collect();
        assert!(keys.is_sorted() && !keys.is_empty(), "{keys:?}");
    }
    assert!(dead[0].note.as_deref().unwrap().starts_with("story "));
    let newest = a.newest(&["main".into(), "other".into()], State::Dead, 2).await.unwrap();
    let at: Vec<_> = newest.iter().map(|entry| entry.settled.unwrap()).collect();
    assert!(at.len() == 4 && at.is_sorted_by(|a, b| a >= b), "{at:?}");
    assert_eq!(at[0], dead.iter().map(|entry| entry.settled.unwrap()).max().unwrap());
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_shown_as_such_and_can_be_deleted() {
    let Some(db) = database().await else { return };
    let mut a = node(&db, "a");
    a.ship(&placed(&story("main", "c1", 10))).await.unwrap();
    let client = postgres::connect(&db).await;
    client.batch_execute("UPDATE outbox_event SET payload = '{}' WHERE step = 1").await.unwrap();
    let found = a.find(&call("c1")).await.unwrap();
    assert_eq!(found.iter().filter(|entry| entry.event.is_err()).count(), 1);
    assert_eq!(pages(&mut a, State::Pending).await.len(), 3);
    let bad = found.iter().find(|entry| entry.event.is_err()).unwrap();
    assert_eq!(a.remove(&ids(&[&bad.id])).await.unwrap().len(), 1);
    assert_eq!(waiting(&db).await, [("c1".into(), 2, 2)]);
}

#[tokio::test]
async fn the_figures_are_those_of_the_tables_and_every_node_is_named() {
    let Some(db) = database().await else { return };
    let (mut a, mut b) = (node(&db, "a"), node(&db, "b"));
    let all: Vec<Pending> = (0..9).flat_map(|n| story("main", &format!("c{n}"), 100 + n)).collect();
    a.ship(&placed(&all)).await.unwrap();
    let by_a = a.claim("main", &["c0".into(), "c1".into()], 10).await.unwrap();
    b.claim("main", &["c2".into()], 10).await.unwrap();
    let over = |n: usize, fate| {
        let event = &all[n];
        let line = by_a.iter().find(|line| line.call_id == event.event.call_id.as_str()).unwrap();
        (line.clone(), event.id.clone(), fate)
    };
    let delivered = Settled::Delivered { at: AT, note: None };
    let dead = Settled::Dead { at: AT, story: "no".into() };
    a.settle("main", &[over(0, delivered.clone()), over(1, dead), over(3, delivered)]).await.unwrap();

    let figures = a.figures(&["main".into(), "quiet".into()]).await.unwrap();
    let client = postgres::connect(&db).await;
    let count = |state: &'static str| {
        let client = &client;
        async move { postgres::rows(client, &format!("state = '{state}'")).await as u64 }
    };
    let main = &figures["main"];
    assert_eq!((main.waiting, main.dead), (count("pending").await, count("dead").await));
    assert_eq!((main.waiting, main.dead), (24, 1));
    assert_eq!(b.delivered().await.unwrap(), [("main".to_owned(), count("delivered").await)].into());
    // The first is over, the hangup of its call is not.
    assert_eq!(main.oldest, Some(UnixMillis(102)));
    let hand = |node: &str, calls, events| Hand { node: node.into(), calls, events };
    assert_eq!(main.hands, [hand("a", 2, 3), hand("b", 1, 3)]);
    assert_eq!(figures["quiet"], freeswitch_zammad::outbox::Figures::default());
    // What nobody holds any more is in nobody's hands.
    client.batch_execute("UPDATE outbox_line SET lease_until = now() - interval '1 s'").await.unwrap();
    let figures = a.figures(&[]).await.unwrap();
    assert_eq!((figures["main"].waiting, figures["main"].hands.len()), (24, 0));

    assert_eq!(a.say("{\"n\":1}", Duration::from_secs(60)).await, Ok(None));
    b.say("{}", Duration::from_secs(60)).await.unwrap();
    let before = a.say("{\"n\":2}", Duration::from_secs(60)).await.unwrap().unwrap();
    assert_eq!(before.status, "{\"n\":1}");
    let long_ago = "UPDATE outbox_node SET seen_at = now() - interval '40 s' WHERE node = 'b'";
    client.batch_execute(long_ago).await.unwrap();
    let nodes = a.nodes().await.unwrap();
    let names: Vec<(&str, bool)> =
        nodes.iter().map(|node| (node.name.as_str(), node.silence >= Duration::from_secs(40))).collect();
    assert_eq!(names, [("a", false), ("b", true)]);
    a.say("{}", Duration::from_secs(30)).await.unwrap();
    assert_eq!(a.nodes().await.unwrap().len(), 1, "who has gone for long is forgotten");
}

#[tokio::test]
async fn looking_reads_no_more_than_it_must() {
    let Some(db) = database().await else { return };
    let mut a = node(&db, "a");
    a.nodes().await.unwrap();
    let client = postgres::connect(&db).await;
    // As many as a month of a busy site, most of them delivered.
    let fill = "INSERT INTO outbox_event (event_id, zammad, call_id, step, happened_ms, place, payload, state, held, restored,
                                          shipped_by, settled_ms)
         SELECT 'c' || n || '/newCall', 'main', 'c' || n, 0, n, n, '{}',
                CASE WHEN n % 50 = 0 THEN 'pending' WHEN n % 1000 = 1 THEN 'dead' ELSE 'delivered' END, false, false, 'a',
                CASE WHEN n % 50 = 0 THEN NULL ELSE n END
         FROM generate_series(1, 60000) AS n;
         INSERT INTO outbox_line (zammad, call_id, waiting)
         SELECT 'main', 'c' || n, CASE WHEN n % 50 = 0 THEN 1 ELSE 0 END FROM generate_series(1, 60000) AS n";
    client.batch_execute(fill).await.unwrap();
    client.batch_execute("VACUUM ANALYZE outbox_event; ").await.unwrap();
    client.batch_execute("VACUUM ANALYZE outbox_line").await.unwrap();
    let read = async || {
        let sum = "SELECT pg_stat_force_next_flush(), (SELECT (seq_tup_read)::bigint FROM pg_stat_user_tables
                                                         WHERE relname = 'outbox_event')";
        client.query_one(sum, &[]).await.unwrap().get::<_, i64>(1)
    };
    let before = read().await;
    a.figures(&["main".into()]).await.unwrap();
    a.newest(&["main".into()], State::Dead, 50).await.unwrap();
    a.newest(&["main".into()], State::Delivered, 25).await.unwrap();
    a.find(&call("c70")).await.unwrap();
    a.find(&ids(&["c70/newCall"])).await.unwrap();
    for state in [State::Pending, State::Dead, State::Delivered] {
        let some = After { zammad: "main".into(), ms: 30_000, id: String::new() };
        assert_eq!(a.list(state, &some, 20).await.unwrap().len(), 20);
    }
    drop(a);
    // Its statistics are there once its connection has ended.
    let gone = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'freeswitch-zammad' AND datname = current_database()";
    while client.query_one(gone, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(read().await, before, "the table of events was read from its beginning");
}

async fn database() -> Option<String> {
    if postgres::is_there() { Some(postgres::database().await) } else { None }
}

fn settings(db: &str, name: &str) -> Arc<Settings> {
    let owner = format!("{name}/1");
    let (lease, keep) = (Duration::from_mins(10), Duration::from_mins(10));
    let server = db.parse().unwrap();
    Arc::new(Settings { server, node: name.into(), owner, lease, delivered_keep: keep, dead_keep: keep })
}

fn node(db: &str, name: &str) -> Link {
    Link::new(settings(db, name))
}

async fn claim_all(node: &mut Link, zammad: &str) -> Vec<Claimed> {
    node.claim(zammad, &[], 1000).await.unwrap()
}

async fn pages(node: &mut Link, state: State) -> Vec<Entry> {
    let mut after = After { ms: i64::MIN, ..After::default() };
    let mut all = Vec::new();
    loop {
        let page: Result<Vec<Entry>, OutboxError> = node.list(state, &after, 7).await;
        let page = page.unwrap();
        let Some(last) = page.last() else { return all };
        let ms = last.settled.unwrap_or(last.happened).0 as i64;
        after = After { zammad: last.zammad.clone(), ms, id: last.id.clone() };
        all.extend(page);
    }
}

/// Each line: how many events it says wait, and how many do.
async fn waiting(db: &str) -> Vec<(String, i64, i64)> {
    let lines = "SELECT l.call_id, l.waiting, (SELECT count(*) FROM outbox_event e
             WHERE e.zammad = l.zammad AND e.call_id = l.call_id AND e.state = 'pending') FROM outbox_line l ORDER BY 1";
    let rows = postgres::connect(db).await.query(lines, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

fn events(entries: &[Entry]) -> Vec<Pending> {
    entries.iter().map(|entry| entry.event.clone().unwrap()).collect()
}

fn ids(ids: &[&str]) -> Named {
    Named { ids: ids.iter().map(|id| (*id).to_owned()).collect(), ..Named::default() }
}

fn call(call: &str) -> Named {
    Named { ids: vec![], call: Some(call.to_owned()), zammads: vec!["main".into()] }
}
