//! The program is killed (SIGKILL) at random moments, again and again, while a busy switch goes on. In the end
//! Zammad's log is what the switch sent, but for what nobody can know afterwards, and that is named here:
//!
//! - a call that began **and** ended between what was on disk at a kill and the next resync may not be there;
//! - nor may one that was dialled by a leg of which that is true;
//! - what was dialled through a loopback for such a call may be told as one of its own;
//! - an outbound call whose first trunks were missed is known by the trunk that was not;
//! - one whose dialling leg was missed as it began bears the number that its trunk knows of that leg;
//! - of a call of which something was missed, answers may be missing whose moment was missed (who has hung up since
//!   is not known to the switch any more), and its cause may be another;
//! - a missed call's hangup that was on its way at a kill is not repeated: it may ring on, and the store says so;
//! - an answer that was on its way at a kill is repeated without the agent's name, so that no screen opens twice.
//!
//! `KILL_ROUNDS` and `KILL_SEED` set how often, and which moments.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]
#![expect(clippy::print_stderr, reason = "which moments were tried, to try them again")]

mod common;
#[path = "common/load.rs"]
mod load;
#[path = "common/program.rs"]
mod program;
#[path = "common/road.rs"]
mod road;
#[path = "common/truth.rs"]
mod truth;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::env;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use freeswitch_zammad::daemon::limits;
use freeswitch_zammad::edge::control::{self, Request};
use freeswitch_zammad::sim::switch::{Settings, Switch};
use freeswitch_zammad::sim::zammad::{self, Row, Seen, Zammad};
use freeswitch_zammad::store::{Seq, Store};
use load::{Business, Load, Scene, Sent, places};
use program::{PASSWORD, Program, TOKEN, flags};
use road::{config, within};
use serde_json::Value;
use truth::Call;

const ROUNDS: u64 = 200;
const BUSINESS: Business = Business { every_ms: 25, shortest_ms: 5, longest_ms: 1_500 };

/// In the end the whole backlog is delivered, at its pace, on whatever machine.
const QUIET_MAX: Duration = Duration::from_secs(180);

/// A run of the program, as far as it is known from outside.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    /// The number of its connection to the switch.
    connection: u64,
    /// So many of the events that it was sent were on disk, for certain, when it was killed.
    on_disk: u64,
    /// What the switch had sent before the first event went to it.
    subscribed: usize,
    /// What the switch had sent when the resync was on disk, for certain.
    synced: Option<usize>,
    /// What the switch had sent, and the requests that Zammad had seen, when it was dead.
    killed: Option<(usize, usize)>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_is_killed_again_and_again_tells_what_the_switch_sent() {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let rounds = number("KILL_ROUNDS").unwrap_or(ROUNDS);
    let seed = number("KILL_SEED").unwrap_or_else(|| fastrand::u64(..));
    eprintln!("KILL_ROUNDS={rounds} KILL_SEED={seed}");
    let mut rng = Rng::with_seed(seed);

    let switch = Settings { password: PASSWORD.into(), ..Settings::default() };
    let switch = Arc::new(Switch::start(switch).unwrap());
    let zammad = zammad::Settings { token: TOKEN.into(), ..zammad::Settings::default() };
    let zammad = Zammad::start(zammad).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let place = Place { url: zammad.url(), switch: switch.addr().to_string(), dir: dir.path() };

    let load = Load::start(Arc::clone(&switch), BUSINESS, rng.u64(..));
    let mut runs = Vec::new();
    for _ in 0..rounds {
        let program = place.start();

        let mut run = Run { connection: connection(&switch), ..Run::default() };
        live(&place, &switch, &load, &mut run, &mut rng).await;
        program.kill();
        run.killed = Some((load.now(), zammad.requests().len()));
        runs.push(run);
    }
    let mut last = Run { connection: connection(&switch), ..Run::default() };
    let program = place.start();
    within("the last resync", place.synced(&switch, &load, &mut last)).await;
    last.on_disk = u64::MAX;
    runs.push(last);
    let (scenes, log) = load.end().await;
    let heard = log.iter().filter(|s| s.to == Some(last.connection)).count() as u64;
    let mut status = Value::Null;
    let is_quiet = |status: &Value| {
        let waits = status["queue"]["waiting"] != 0 || status["calls"]["going_on"] != 0;
        !waits && status["calls"]["events_handled"].as_u64() >= Some(heard)
    };
    let quiet = tokio::time::timeout(QUIET_MAX, async {
        while !is_quiet(&status) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            status = place.status().await;
        }
    });
    assert!(quiet.await.is_ok(), "KILL_SEED={seed}: something waits, or a call goes on: {status:#}");
    program.signal("TERM");
    assert_eq!(program.end().code, Some(0));

    let unsure = unsure(&place).await;
    let settings = config(&place.url, &place.switch, PASSWORD, place.dir);
    let settings = Arc::new(settings.calls_of(&settings.switches[0]));
    let trial = Trial::new(&runs, &log, zammad.log(), zammad.requests(), unsure);
    let tally = trial.judge(&scenes, &settings);
    eprintln!("{tally:?}");
    let tried = u64::try_from(tally.whole.min(tally.hurt)).unwrap();
    assert!(tried > rounds / 2, "too little was tried: {tally:?}");
    assert!(tally.wrong.is_empty(), "KILL_SEED={seed}:\n{}", tally.wrong.join("\n"));
}

/// Lives until the moment at which it is killed: anywhere in its start, in its resync, or later.
async fn live(place: &Place<'_>, switch: &Switch, load: &Load, run: &mut Run, rng: &mut Rng) {
    let after = |ms: std::ops::Range<u64>, rng: &mut Rng| {
        Duration::from_micros(rng.u64(ms.start * 1000..ms.end * 1000))
    };
    match rng.u32(0..10) {
        0 => tokio::time::sleep(after(0..150, rng)).await,
        1 | 2 => {
            within("it subscribes", subscribed(switch, run)).await;
            tokio::time::sleep(after(0..8, rng)).await;
        }
        _ => {
            within("a resync", place.synced(switch, load, run)).await;
            tokio::time::sleep(after(0..40, rng)).await;
            run.on_disk = place.status().await["calls"]["events_handled"].as_u64().unwrap_or(run.on_disk);
        }
    }
}

/// The latest connection that the switch has had.
fn connection(switch: &Switch) -> u64 {
    switch.commands().last().map(|(number, _)| *number).unwrap_or_default()
}

/// Returns once there is a connection after `run.connection` that hears events; from then on it is the run's.
async fn subscribed(switch: &Switch, run: &mut Run) {
    let last = run.connection;
    let mut found = 0;
    switch
        .wait_until(|open| {
            open.iter().any(|c| {
                c.subscribed && c.number > last && {
                    found = c.number;
                    true
                }
            })
        })
        .await;
    run.connection = found;
}

struct Place<'a> {
    url: String,
    switch: String,
    dir: &'a Path,
}

impl Place<'_> {
    fn start(&self) -> Program {
        Program::start(&[&["run"], &flags(&self.url, &self.switch, self.dir)[..]].concat(), &[])
    }

    /// Null while it cannot be asked.
    async fn status(&self) -> Value {
        let said = control::ask(self.dir, &Request::Status).await;
        said.ok().flatten().and_then(|mut said| said.pop()).unwrap_or_default()
    }

    /// Returns once what came of the resync is on disk: events wait for it.
    async fn synced(&self, switch: &Switch, load: &Load, run: &mut Run) {
        subscribed(switch, run).await;
        loop {
            let handled = self.status().await["calls"]["events_handled"].as_u64().unwrap_or_default();
            if handled > 0 {
                run.synced = Some(load.now());
                run.on_disk = handled;
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// The calls whose hangup was left alone, because it may have arrived before a kill.
async fn unsure(place: &Place<'_>) -> BTreeSet<String> {
    let config = config(&place.url, &place.switch, PASSWORD, place.dir);
    let store = Store::open(place.dir, limits(&config)).unwrap();
    let delivered = store.delivered_from(Seq(0), usize::MAX).unwrap();
    assert_eq!((store.counts().dead, store.counts().pending), (0, 0));
    store.close().await.unwrap();
    let is_unsure = |note: &Option<String>| note.as_ref().is_some_and(|n| n.contains("may not have arrived"));
    let unsure = delivered.into_iter().filter(|(_, done)| is_unsure(&done.note));
    unsure.map(|(_, done)| done.pending.event.call_id.to_string()).collect()
}

/// Everything that is known in the end.
struct Trial {
    runs: Vec<Run>,
    /// Where in the log each event of each scene stands.
    places: HashMap<(usize, usize), usize>,
    /// Events that were on disk for certain at the next kill.
    on_disk: BTreeSet<(usize, usize)>,
    rows: BTreeMap<String, Row>,
    /// For each call its posts that took effect: number of the request, event, and who answered.
    posts: BTreeMap<String, Vec<(usize, String, Option<String>)>>,
    unsure: BTreeSet<String>,
}

/// What came of it.
#[derive(Debug, Default)]
struct Tally {
    /// Calls of which nothing was missed.
    whole: usize,
    /// Calls that lost something to a kill, and were told.
    hurt: usize,
    /// Of those, calls whose row is as if nothing had been missed.
    hurt_but_right: usize,
    /// Calls that fell between a kill and a resync, and were not told.
    unknown: usize,
    /// Missed calls whose hangup may not have arrived, and those of them that ring on.
    unsure: usize,
    ringing: usize,
    /// Answers that were repeated without a name.
    nameless: usize,
    wrong: Vec<String>,
}

impl Trial {
    fn new(runs: &[Run], log: &[Sent], rows: Vec<Row>, seen: Vec<Seen>, unsure: BTreeSet<String>) -> Self {
        let sure: HashMap<u64, u64> = runs.iter().map(|run| (run.connection, run.on_disk)).collect();
        let mut sent: HashMap<u64, u64> = HashMap::new();
        let mut first: HashMap<u64, usize> = HashMap::new();
        let mut on_disk = BTreeSet::new();
        for (at, event) in log.iter().enumerate() {
            let Some(to) = event.to else { continue };
            let number = sent.entry(to).or_default();
            *number += 1;
            first.entry(to).or_insert(at);
            if sure.get(&to).is_some_and(|sure| *number <= *sure) {
                on_disk.insert((event.scene, event.event));
            }
        }
        let mut posts: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (number, seen) in seen.into_iter().enumerate().filter(|(_, seen)| seen.processed) {
            let body: Value = serde_json::from_str(&seen.body).unwrap();
            let user = body["user"].as_str().map(str::to_owned);
            if let (Some(call), Some(event)) = (seen.call_id, seen.event) {
                posts.entry(call).or_default().push((number, event, user));
            }
        }
        let rows = rows.into_iter().map(|row| (row.call_id.clone(), row)).collect();
        let subscribed = |run: &Run| first.get(&run.connection).copied().unwrap_or_default();
        let runs = runs.iter().map(|run| Run { subscribed: subscribed(run), ..*run }).collect();
        Self { runs, places: places(log), on_disk, rows, posts, unsure }
    }

    fn judge(
        mut self,
        scenes: &[Scene],
        settings: &Arc<freeswitch_zammad::call::tracker::Settings>,
    ) -> Tally {
        let mut tally = Tally::default();
        for (number, scene) in scenes.iter().enumerate() {
            let subscribed =
                scene.recording.events().iter().enumerate().filter(|(_, e)| common::is_subscribed(e));
            let whole = subscribed.clone().all(|(event, _)| self.on_disk.contains(&(number, event)));
            for call in truth::calls(&scene.recording, settings) {
                let row = self.rows.remove(&call.id).or_else(|| self.under_another_id(scene, &call));
                let wrong = match &row {
                    None if self.must_be_known(number, scene, &call) => vec!["it is not there".to_owned()],
                    None => {
                        tally.unknown += 1;
                        vec![]
                    }
                    Some(row) => self.compare((number, scene), whole, &call, row, &mut tally),
                };
                let kind = if whole { "whole" } else { "hurt" };
                let about = |what| {
                    let story = self.story(number, scene);
                    format!("{} {number} ({kind}), call {}: {what}\n{story}", scene.name, call.id)
                };
                tally.wrong.extend(wrong.into_iter().map(about));
            }
        }
        // Whatever is left is no call that there was.
        let strange =
            |id: &String| !scenes.iter().enumerate().any(|(at, s)| self.is_of_unknown_caller(at, s, id));
        let left: Vec<&Row> = self.rows.iter().filter(|(id, _)| strange(id)).map(|(_, row)| row).collect();
        tally.wrong.extend(left.iter().map(|row| format!("there was no such call: {row:?}")));
        tally
    }

    /// Its leg's beginning was on disk, or it was found by a resync; the leg that dialled it, if any, likewise.
    fn must_be_known(&self, number: usize, scene: &Scene, call: &Call) -> bool {
        let (begins, _) = call.span();
        let first =
            scene.recording.events().iter().position(|e| e.name() == "CHANNEL_CREATE").unwrap_or(begins);
        let dialled = call.row.direction == "out";
        self.is_known(number, scene, begins) && (!dialled || self.is_known(number, scene, first))
    }

    /// Dialled through a loopback for a caller who was not heard of, and gone before he could be asked for.
    fn is_of_unknown_caller(&self, number: usize, scene: &Scene, id: &str) -> bool {
        let events = scene.recording.events();
        let has = |name: &str, wanted: &dyn Fn(&str) -> bool| {
            events.iter().any(|e| e.header(name).is_some_and(|value| wanted(&value)))
        };
        has("Unique-ID", &|leg| leg == id)
            && has("Channel-Name", &|name| name.starts_with("loopback/"))
            && !self.is_known(number, scene, 0)
    }

    /// The leg that begins with this event was heard of, or had begun before a resync and went on when that was through.
    fn is_known(&self, number: usize, scene: &Scene, begins: usize) -> bool {
        if self.on_disk.contains(&(number, begins)) {
            return true;
        }
        let leg = scene.recording.events()[begins].header("Unique-ID");
        let ends = scene.recording.events().iter().position(|e| {
            e.header("Unique-ID") == leg && e.header("Answer-State").as_deref() == Some("hangup")
        });
        let (from, to) = (self.places[&(number, begins)], ends.map(|ends| self.places[&(number, ends)]));
        self.runs.iter().any(|run| from < run.subscribed && run.synced.is_some() && run.synced < to)
    }

    /// What the switch sent of a scene, and when; `+` was on disk for certain at the next kill. And the resyncs.
    fn story(&self, number: usize, scene: &Scene) -> String {
        let events = scene.recording.events().iter().enumerate();
        let lines = events.filter(|(_, event)| common::is_subscribed(event)).map(|(at, event)| {
            let sure = if self.on_disk.contains(&(number, at)) { '+' } else { '-' };
            let (leg, place) = (event.header("Unique-ID").unwrap_or_default(), self.places[&(number, at)]);
            format!("  {sure} {place} {} {leg}\n", event.name())
        });
        let (begins, ends) =
            (self.places[&(number, 0)], self.places[&(number, scene.recording.events().len() - 1)]);
        let runs =
            self.runs.iter().filter(|run| run.subscribed <= ends && run.synced.is_none_or(|at| at >= begins));
        let near = runs.filter(|run| run.killed.is_none_or(|(at, _)| at >= begins));
        lines.collect::<String>() + &format!("{:?}", near.collect::<Vec<_>>())
    }

    /// The row of an outbound call whose first trunks were not heard of: it is known by the one that was.
    fn under_another_id(&mut self, scene: &Scene, call: &Call) -> Option<Row> {
        let events = scene.recording.events();
        let dialled = events[call.span().0].header("Caller-Destination-Number");
        let trunks = events.iter().filter(|e| e.name() == "CHANNEL_CREATE" && call.row.direction == "out");
        // What comes back in from the provider under the number that was dialled is another call.
        let trunks = trunks.filter(|e| e.header("Call-Direction").as_deref() == Some("outbound"));
        let trunks = trunks.filter(|e| e.header("Caller-Destination-Number") == dialled);
        trunks.filter_map(|e| self.rows.remove(&e.header("Unique-ID")?)).next()
    }

    fn compare(
        &self,
        (number, scene): (usize, &Scene),
        whole: bool,
        call: &Call,
        row: &Row,
        tally: &mut Tally,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut claim = |right: bool, what: &str| {
            if !right {
                wrong.push(format!("{what}: {row:?}, expected {:?}", call.row));
            }
        };
        let posts = self.posts.get(&row.call_id).map(Vec::as_slice).unwrap_or_default();
        let unsure = self.unsure.contains(&row.call_id);
        let ended = posts.iter().any(|(_, event, _)| event == "hangup");
        tally.unsure += usize::from(unsure);
        if !ended {
            tally.ringing += 1;
            claim(unsure && row.state == "newCall", "it does not end");
            return wrong;
        }
        claim(row.state == "hangup", "it does not end");
        claim(row.direction == call.row.direction, "direction");
        let told: Vec<&(usize, String, Option<String>)> =
            posts.iter().filter(|(_, e, _)| e == "answer").collect();
        let nameless = told.iter().any(|(_, _, user)| user.is_none()) && row.direction == "in";
        tally.nameless += usize::from(nameless);
        let as_expected = like(row, &call.row);
        if whole {
            tally.whole += 1;
            let was_on_its_way = |request: usize| {
                let answers = call.told.iter().filter(|(_, news)| news.event.what.name() == "answer");
                answers.clone().any(|(event, _)| {
                    let sent = self.places[&(number, *event)];
                    self.runs
                        .iter()
                        .filter_map(|run| run.killed)
                        .any(|(at, seen)| sent < at && seen <= request)
                })
            };
            if nameless {
                let repeated = told.iter().filter(|(_, _, user)| user.is_none());
                claim(
                    repeated.clone().all(|(request, ..)| was_on_its_way(*request)),
                    "an answer lost its name",
                );
                claim(row.done == call.row.done && row.comment == call.row.comment, "it ends otherwise");
            } else {
                claim(as_expected, "nothing was missed, but it differs");
                let users: Vec<String> =
                    told.iter().map(|(_, _, user)| user.clone().unwrap_or_default()).collect();
                claim(once(users.clone()) == once(call.answers()), &format!("answered by {users:?}"));
            }
            return wrong;
        }
        tally.hurt += 1;
        tally.hurt_but_right += usize::from(as_expected);
        let (begins, _) = call.span();
        if self.on_disk.contains(&(number, begins)) {
            let dialler = scene.recording.events().iter().position(|e| e.name() == "CHANNEL_CREATE");
            let heard = dialler.is_none_or(|first| self.on_disk.contains(&(number, first)));
            let from = row.from == call.row.from || call.row.direction == "out" && !heard;
            claim(from && row.to == call.row.to, "numbers");
        }
        // Nobody may have answered who did not.
        let mut right = call.answers().into_iter();
        let users = once(told.iter().filter_map(|(_, _, user)| user.clone()).collect());
        let known = users.iter().all(|user| right.any(|who| who == *user));
        claim(known, &format!("answered by {users:?}, expected {:?}", call.answers()));
        claim(told.is_empty() || !call.answers().is_empty(), "nobody answered it");
        wrong
    }
}

/// What was on its way at a kill is told again; the last of it stands.
fn once(users: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    users.into_iter().filter(|user| seen.insert(user.clone())).collect()
}

/// The same to whoever looks at Zammad's log.
fn like(row: &Row, other: &Row) -> bool {
    let shown = |row: &Row| {
        let Row { direction, state, from, to, to_comment, queue, comment, done, .. } = row.clone();
        (direction, state, from, to, to_comment, queue, comment, done, row.start_at.is_some())
    };
    shown(row) == shown(other)
}
