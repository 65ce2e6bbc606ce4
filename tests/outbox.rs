//! The shared outbox, against a real PostgreSQL: each event once, each call from one node at a time, in order.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

#[path = "common/postgres.rs"]
mod postgres;
#[path = "common/stories.rs"]
mod stories;
#[path = "common/wire_to_postgres.rs"]
mod wire_to_postgres;

use std::sync::Arc;
use std::time::Duration;

use freeswitch_zammad::outbox::{Claimed, Link, OutboxError, Settings, Settled};
use freeswitch_zammad::store::Pending;
use freeswitch_zammad::time::UnixMillis;
use stories::placed;

const AT: UnixMillis = UnixMillis(9);

#[tokio::test]
async fn what_several_nodes_bring_is_there_once_and_all_of_it() {
    let Some(db) = database().await else { return };
    let (mut a, mut b) = (node(&db, "a"), node(&db, "b"));
    // The pair disagrees: each has missed something.
    let whole = story("c1");
    assert_eq!(a.ship(&placed(&[whole[0].clone(), whole[2].clone()])).await, Ok(2));
    assert_eq!(b.ship(&placed(&whole[..2])).await, Ok(1));
    assert_eq!(b.ship(&placed(&whole)).await, Ok(0));
    assert_eq!(a.ship(&placed(&whole)).await, Ok(0));
    let claimed = a.claim("main", &[], 10).await.unwrap();
    assert_eq!(events(&mut a, &claimed).await, whole);

    // At once, and in any order.
    let many: Vec<Pending> = (0..40).flat_map(|n| story(&format!("m{n}"))).collect();
    let mut nodes: Vec<Link> = (0..6).map(|n| node(&db, &format!("n{n}"))).collect();
    let shipping = nodes.iter_mut().enumerate().map(|(n, node)| {
        let mut mine = many.clone();
        fastrand::Rng::with_seed(n as u64).shuffle(&mut mine);
        async move {
            let mut new = 0;
            for some in mine.chunks(7) {
                new += again_and_again(node, some).await;
            }
            new
        }
    });
    let new = futures_util::future::join_all(shipping).await;
    assert_eq!(new.iter().sum::<u64>(), many.len() as u64, "{new:?}");
    let client = postgres::connect(&db).await;
    let waiting: i64 =
        client.query_one("SELECT sum(waiting)::bigint FROM outbox_line", &[]).await.unwrap().get(0);
    assert_eq!(waiting, many.len() as i64 + 3);
}

#[tokio::test]
async fn a_call_is_one_nodes_until_its_lease_is_over_and_then_anothers() {
    let Some(db) = database().await else { return };
    let (mut a, mut b) = (node(&db, "a"), node(&db, "b"));
    let whole = story("c1");
    a.ship(&placed(&whole)).await.unwrap();
    let by_a = a.claim("main", &[], 10).await.unwrap();
    assert_eq!(by_a, [Claimed { call_id: "c1".into(), fence: 1 }]);
    assert_eq!(b.claim("main", &[], 10).await, Ok(vec![]));
    assert_eq!(b.claim("main", &["c1".into()], 10).await, Ok(vec![]));
    assert_eq!(b.claim("other", &[], 10).await, Ok(vec![]), "another Zammad's");
    // What is renewed stays.
    assert_eq!(a.renew("main", &[]).await, Ok(by_a.clone()));
    assert_eq!(b.renew("main", &[]).await, Ok(vec![]));

    let first = [(by_a[0].clone(), whole[0].id.clone(), Settled::Delivered { at: AT, note: None })];
    assert_eq!(a.settle("main", &first).await.unwrap().lost, Vec::<String>::new());
    lapse(&db).await;
    // Nobody took it: it is still a's to renew.
    assert_eq!(a.renew("main", &[]).await, Ok(by_a.clone()));
    lapse(&db).await;
    let by_b = b.claim("main", &[], 10).await.unwrap();
    assert_eq!(by_b, [Claimed { call_id: "c1".into(), fence: 2 }]);
    assert_eq!(events(&mut b, &by_b).await, whole[1..]);
    // What a says of it now counts no more, not even under the new number.
    let late = Settled::Delivered { at: AT, note: None };
    for fence in [1, 2] {
        let said = [(Claimed { call_id: "c1".into(), fence }, whole[1].id.clone(), late.clone())];
        assert_eq!(a.settle("main", &said).await.unwrap().lost, [whole[1].id.clone()]);
    }
    assert_eq!(a.renew("main", &[]).await, Ok(vec![]));
    assert_eq!(events(&mut b, &by_b).await, whole[1..]);
    // Nor what it said before, once it has the call again.
    lapse(&db).await;
    let again = a.claim("main", &[], 10).await.unwrap();
    assert_eq!(again, [Claimed { call_id: "c1".into(), fence: 3 }]);
    let said = [(by_a[0].clone(), whole[1].id.clone(), late.clone())];
    assert_eq!(a.settle("main", &said).await.unwrap().lost, [whole[1].id.clone()]);
    let said = [(again[0].clone(), whole[1].id.clone(), late)];
    assert_eq!(a.settle("main", &said).await.unwrap().lost, Vec::<String>::new());
}

#[tokio::test]
async fn a_call_is_free_again_when_nothing_of_it_waits() {
    let Some(db) = database().await else { return };
    let mut a = node(&db, "a");
    let mut b = node(&db, "b");
    let whole = story("c1");
    a.ship(&placed(&whole[..2])).await.unwrap();
    let claimed = a.claim("main", &[], 10).await.unwrap();
    let over =
        |n: usize| (claimed[0].clone(), whole[n].id.clone(), Settled::Delivered { at: AT, note: None });
    assert_eq!(a.settle("main", &[over(0)]).await.unwrap().freed, []);
    assert_eq!(a.settle("main", &[over(1)]).await.unwrap().freed, claimed);
    assert_eq!(a.renew("main", &[]).await, Ok(vec![]));
    b.ship(&placed(&whole)).await.unwrap();
    let by_b = b.claim("main", &["c1".into()], 10).await.unwrap();
    assert_eq!(by_b, [Claimed { call_id: "c1".into(), fence: 2 }]);
    assert_eq!(events(&mut b, &by_b).await, whole[2..]);
    b.let_go("main").await.unwrap();
    assert_eq!(a.claim("main", &[], 10).await, Ok(vec![Claimed { call_id: "c1".into(), fence: 3 }]));
}

#[tokio::test]
async fn what_is_said_of_an_event_is_there_for_whoever_goes_on() {
    let Some(db) = database().await else { return };
    let (mut a, mut b) = (node(&db, "a"), node(&db, "b"));
    let whole = story("c1");
    a.ship(&placed(&whole)).await.unwrap();
    let line = a.claim("main", &[], 10).await.unwrap().remove(0);
    let said = |n: usize, settled| (line.clone(), whole[n].id.clone(), settled);
    let dead = Settled::Dead { at: AT, story: "refused".into() };
    a.settle("main", &[said(0, dead), said(2, Settled::Attempt { at: AT })]).await.unwrap();
    lapse(&db).await;
    let line = b.claim("main", &[], 10).await.unwrap();
    let left = events(&mut b, &line).await;
    assert_eq!(left, [whole[1].clone(), Pending { attempt: Some(AT), ..whole[2].clone() }]);
    let row = "SELECT state, note, settled_by FROM outbox_event WHERE step = 0";
    let row = postgres::connect(&db).await.query_one(row, &[]).await.unwrap();
    let told: (String, String, String) = (row.get(0), row.get(1), row.get(2));
    assert_eq!(told, ("dead".into(), "refused".into(), "a/1".into()));
}

#[tokio::test]
async fn an_answer_that_comes_after_its_calls_hangup_was_told_is_not_told() {
    let Some(db) = database().await else { return };
    let (mut a, mut b) = (node(&db, "a"), node(&db, "b"));
    let whole = story("c1");
    a.ship(&placed(&[whole[0].clone(), whole[2].clone()])).await.unwrap();
    let claimed = a.claim("main", &[], 10).await.unwrap();
    for n in [0, 2] {
        let over = (claimed[0].clone(), whole[n].id.clone(), Settled::Delivered { at: AT, note: None });
        a.settle("main", &[over]).await.unwrap();
    }
    assert_eq!(b.ship(&placed(&whole)).await, Ok(1));
    assert_eq!(b.claim("main", &[], 10).await, Ok(vec![]));
    let row = "SELECT state, note FROM outbox_event WHERE step = 1";
    let row = postgres::connect(&db).await.query_one(row, &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "delivered");
    assert!(row.get::<_, &str>(1).contains("after the call's hangup"));
}

#[tokio::test]
async fn what_is_over_for_long_is_deleted_and_nothing_that_waits() {
    let Some(db) = database().await else { return };
    let mut a = node(&db, "a");
    let whole = story("c1");
    a.ship(&placed(&whole)).await.unwrap();
    let line = a.claim("main", &[], 10).await.unwrap().remove(0);
    let delivered = Settled::Delivered { at: AT, note: None };
    let dead = Settled::Dead { at: AT, story: "refused".into() };
    let over = [(line.clone(), whole[0].id.clone(), delivered), (line.clone(), whole[1].id.clone(), dead)];
    a.settle("main", &over).await.unwrap();
    assert_eq!(a.trim("main", UnixMillis(AT.0 + 100)).await, Ok(0));
    assert_eq!(a.trim("other", UnixMillis(AT.0 + 500)).await, Ok(0));
    assert_eq!(a.trim("main", UnixMillis(AT.0 + 101)).await, Ok(1));
    assert_eq!(a.trim("main", UnixMillis(AT.0 + 500)).await, Ok(1));
    assert_eq!(events(&mut a, std::slice::from_ref(&line)).await, whole[2..]);
    let over = [(line, whole[2].id.clone(), Settled::Delivered { at: AT, note: None })];
    a.settle("main", &over).await.unwrap();
    let client = postgres::connect(&db).await;
    client.batch_execute("UPDATE outbox_line SET began = now() - interval '2 days'").await.unwrap();
    assert_eq!(a.trim("main", UnixMillis(AT.0 + 500)).await, Ok(1));
    let left: i64 = client.query_one("SELECT count(*) FROM outbox_line", &[]).await.unwrap().get(0);
    assert_eq!(left, 0);
}

#[tokio::test]
async fn the_tables_of_an_earlier_step_are_brought_up_to_date() {
    let Some(db) = database().await else { return };
    let first = include_str!("../migrations/postgres/0001_outbox.sql");
    let client = postgres::connect(&db).await;
    client.batch_execute(first).await.unwrap();
    let schema = "CREATE TABLE outbox_schema (step integer NOT NULL PRIMARY KEY, name text NOT NULL, digest text NOT NULL,
                                              applied_at timestamptz NOT NULL DEFAULT now())";
    client.batch_execute(schema).await.unwrap();
    let note = "INSERT INTO outbox_schema (step, name, digest) VALUES (1, 'outbox', $1)";
    client.execute(note, &[&format!("{:08x}", crc32fast::hash(first.as_bytes()))]).await.unwrap();
    assert_eq!(node(&db, "a").ship(&placed(&story("c1"))).await, Ok(3));
    let steps = client.query("SELECT step, name FROM outbox_schema WHERE step > 0 ORDER BY step", &[]).await;
    let steps: Vec<(i32, String)> = steps.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(steps, [(1, "outbox".to_owned()), (2, "looking".to_owned())]);
}

#[tokio::test]
async fn the_tables_are_made_once_whoever_comes_first_and_others_are_refused() {
    let Some(db) = database().await else { return };
    let mut nodes: Vec<Link> = (0..8).map(|n| node(&db, &format!("n{n}"))).collect();
    let event = story("c1");
    let shipping = nodes.iter_mut().map(|node| again_and_again(node, &event));
    let new = futures_util::future::join_all(shipping).await;
    assert_eq!(new.iter().sum::<u64>(), 3);

    let client = postgres::connect(&db).await;
    client.batch_execute("UPDATE outbox_schema SET digest = 'other' WHERE step = 1").await.unwrap();
    assert_eq!(node(&db, "late").ship(&placed(&event)).await, Err(OutboxError::Foreign { step: 1 }));
    let next =
        "INSERT INTO outbox_schema SELECT max(step) + 1, 'next', 'x' FROM outbox_schema RETURNING step";
    let found: i32 = client.query_one(next, &[]).await.unwrap().get(0);
    let refused = node(&db, "old").ship(&placed(&event)).await.unwrap_err();
    assert_eq!(refused, OutboxError::Newer { found, known: found - 1 });
    assert!(refused.to_string().contains("bring it up to date"));
}

#[tokio::test]
async fn tables_of_every_older_format_are_brought_up_to_date_where_they_stand() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/postgres");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut steps: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "sql")).collect();
    steps.sort();
    assert!(!steps.is_empty());
    for format in 0..=steps.len() {
        let Some(db) = database().await else { return };
        let client = postgres::connect(&db).await;
        let table = "CREATE TABLE outbox_schema (step integer NOT NULL PRIMARY KEY, name text NOT NULL,
                         digest text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())";
        client.batch_execute(table).await.unwrap();
        for (number, step) in (1_i32..).zip(&steps[..format]) {
            let sql = std::fs::read_to_string(step).unwrap();
            client.batch_execute(&sql).await.unwrap();
            let digest = format!("{:08x}", crc32fast::hash(sql.as_bytes()));
            let note = "INSERT INTO outbox_schema (step, name, digest) VALUES ($1, '', $2)";
            client.execute(note, &[&number, &digest]).await.unwrap();
        }
        assert_eq!(node(&db, "a").ship(&placed(&story("c1"))).await, Ok(3), "format {format}");
        let last = client.query_one("SELECT max(step) FROM outbox_schema", &[]).await.unwrap();
        assert_eq!(last.get::<_, i32>(0), i32::try_from(steps.len()).unwrap());
    }
}

#[tokio::test]
async fn a_node_that_is_cut_off_in_a_transaction_does_not_hold_up_the_others_for_long() {
    if database().await.is_none() {
        return;
    }
    let server = postgres::Server::start();
    let wire = wire_to_postgres::Wire::to(server.dir(), &[]).await;
    let (mut a, mut b) = (node(&wire.url("postgres"), "a"), node(&server.url(), "b"));
    let whole = story("c1");
    a.ship(&placed(&whole)).await.unwrap();
    let line = a.claim("main", &[], 10).await.unwrap().remove(0);
    wire.cut_in_next_transaction();
    let said = [(line, whole[0].id.clone(), Settled::Delivered { at: AT, note: None })];
    let taking = async {
        lapse(&server.url()).await;
        loop {
            // Passed over as long as the row is held.
            let taken = b.claim("main", &[], 10).await.unwrap();
            if !taken.is_empty() {
                return taken;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let (cut, taken) = {
        let settling = a.settle("main", &said);
        tokio::pin!(settling);
        // It has the row before anybody asks for it.
        let held = async {
            while !wire.is_cut() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            done = &mut settling => panic!("{done:?}"),
            () = held => {}
        }
        let taken = tokio::time::timeout(Duration::from_secs(40), taking).await.unwrap();
        (settling.await, taken)
    };
    assert!(matches!(cut, Err(OutboxError::Away(_))), "{cut:?}");
    assert_eq!(taken, [Claimed { call_id: "c1".into(), fence: 2 }]);
    assert_eq!(events(&mut b, &taken).await, whole);
}

#[tokio::test]
async fn lines_that_are_given_back_are_anothers_at_once() {
    let Some(db) = database().await else { return };
    let (mut a, mut b) = (node(&db, "a"), node(&db, "b"));
    for call in ["c1", "c2"] {
        a.ship(&placed(&story(call))).await.unwrap();
    }
    let lines = a.claim("main", &[], 10).await.unwrap();
    let (back, kept) = lines.split_at(1);
    // What is not to be kept is not.
    assert_eq!(a.renew("main", &[back[0].call_id.clone()]).await, Ok(kept.to_vec()));
    let stale = Claimed { fence: kept[0].fence + 1, ..kept[0].clone() };
    a.free("main", &[back[0].clone(), stale]).await.unwrap();
    let again = Claimed { fence: back[0].fence + 1, ..back[0].clone() };
    assert_eq!(b.claim("main", &[], 10).await, Ok(vec![again]));
    assert_eq!(a.renew("main", &[]).await, Ok(kept.to_vec()));
}

#[tokio::test]
async fn a_listener_hears_of_new_events_and_of_which_calls() {
    let Some(db) = database().await else { return };
    let mut listener = Link::listening(settings(&db, "a"));
    listener.renew("main", &[]).await.unwrap();
    node(&db, "b").ship(&placed(&story("c1"))).await.unwrap();
    let heard = tokio::time::timeout(Duration::from_secs(30), listener.heard()).await.unwrap();
    assert_eq!(heard, [("main".to_owned(), "c1".to_owned())]);
    // Too many to be named.
    let many: Vec<Pending> =
        (0..400).flat_map(|n| story(&format!("a-rather-long-name-of-a-call-{n}"))).collect();
    node(&db, "b").ship(&placed(&many)).await.unwrap();
    assert_eq!(tokio::time::timeout(Duration::from_secs(30), listener.heard()).await.unwrap(), []);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_and_no_password_is() {
    let mut nowhere = node("postgres://user:very-secret@127.0.0.1:1/none", "a");
    let why = nowhere.ship(&placed(&story("c1"))).await.unwrap_err();
    assert!(matches!(why, OutboxError::Away(_)) && !why.to_string().contains("very-secret"), "{why}");
    let settings = settings("postgres://user:very-secret@127.0.0.1:1/none", "a");
    assert!(!format!("{settings:?} {:?}", settings.server).contains("very-secret"));
}

async fn database() -> Option<String> {
    if postgres::is_there() { Some(postgres::database().await) } else { None }
}

fn settings(db: &str, name: &str) -> Arc<Settings> {
    let owner = format!("{name}/1");
    let lease = Duration::from_mins(10);
    let (delivered_keep, dead_keep) = (Duration::from_millis(100), Duration::from_millis(200));
    let server = db.parse().unwrap();
    Arc::new(Settings { server, node: name.into(), owner, lease, delivered_keep, dead_keep })
}

fn node(db: &str, name: &str) -> Link {
    Link::new(settings(db, name))
}

/// As the shipper does it: what failed is given again.
async fn again_and_again(node: &mut Link, events: &[Pending]) -> u64 {
    for _ in 0..50 {
        match node.ship(&placed(events)).await {
            Ok(new) => return new,
            Err(why) => assert!(matches!(why, OutboxError::Away(_)), "{why}"),
        }
    }
    panic!("shipped in vain");
}

async fn events(node: &mut Link, lines: &[Claimed]) -> Vec<Pending> {
    let calls: Vec<String> = lines.iter().map(|line| line.call_id.clone()).collect();
    let found = node.waiting("main", &calls, &[]).await.unwrap();
    assert_eq!(found.unreadable, []);
    found.events
}

/// All leases are over.
async fn lapse(db: &str) {
    let over = "UPDATE outbox_line SET lease_until = now() - interval '1 second'";
    postgres::connect(db).await.batch_execute(over).await.unwrap();
}

fn story(call: &str) -> Vec<Pending> {
    stories::story("main", call, 0)
}
