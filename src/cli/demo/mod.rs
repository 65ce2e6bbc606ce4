//! `demo`: the whole road on a bare machine. Recorded real traffic over a real event socket, the real daemon
//! with its real store, real HTTP to a stand-in for Zammad that goes away in the middle and comes back.

mod scenes;

use std::io::IsTerminal;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use self::scenes::{BEFORE, DURING, Scene};
use super::{Failure, print, runtime};
use crate::config::{AdminConfig, Config, Environment, Overrides, Secret};
use crate::daemon::Daemon;
use crate::edge::clock;
use crate::sim::recording::Recording;
use crate::sim::switch::{Pace, Switch};
use crate::sim::{switch, zammad};
use crate::store::Store;
use zammad::{Row, Zammad};

/// A call's pause between two of its scenes' beginnings.
const STEP: Duration = Duration::from_millis(1500);
/// How fast recordings are played.
const PACE: Pace = Pace::Times(1.5);
/// How long the stand-in for Zammad takes to answer.
const ANSWER: Duration = Duration::from_millis(150);
/// How long the queue may take to drain at the end.
const DRAIN_MAX: Duration = Duration::from_secs(15);

#[derive(Args)]
pub(super) struct Demo {
    /// No colours, also on a terminal
    #[arg(long)]
    plain: bool,
}

pub(super) fn run(demo: &Demo) -> Result<ExitCode, Failure> {
    let colours = !demo.plain && std::io::stdout().is_terminal();
    let state_dir = std::env::temp_dir().join(format!("freeswitch-zammad-demo-{}", std::process::id()));
    let shown = runtime()?.block_on(show(&Screen { began: None, colours }, state_dir.clone()));
    // It was made for this run alone; if it cannot be removed the system's own cleaning will.
    let _ = std::fs::remove_dir_all(&state_dir);
    shown
}

async fn show(screen: &Screen, state_dir: PathBuf) -> Result<ExitCode, Failure> {
    let failed =
        |what: &'static str| move |why: std::io::Error| Failure::new(format!("{what} cannot start: {why}"));
    let mut zammad = Zammad::start(zammad::Settings::default()).map_err(failed("the stand-in for Zammad"))?;
    // A real one takes its time too, and so the queue can be watched.
    zammad.set_fault_rule(|_| zammad::Fault::slow(ANSWER, Duration::ZERO));
    let settings =
        switch::Settings { heartbeat: Some(Duration::from_secs(5)), ..switch::Settings::default() };
    let switch = Switch::start(settings).map_err(failed("the stand-in for FreeSWITCH"))?;
    let screen = &Screen { began: Some(Instant::now()), ..*screen };
    screen.introduce(&switch, &zammad);

    let config = config(&switch, &zammad, state_dir)?;
    let daemon = Daemon::start(config).await.map_err(Failure::new)?;
    if let Some(link) = daemon.live().admin.as_ref().and_then(|page| page.link(clock::now()).ok()) {
        print(&format!("  page    the daemon's own status page, while this runs: {link}"));
    }
    switch.wait_subscribed().await;
    let stage = Stage { screen, switch: &switch, store: daemon.store() };

    screen.act("Zammad is there");
    let mut played = watching(screen, &zammad, stage.store, stage.play(&BEFORE, "before")).await;
    screen.act("Zammad goes away (an update, a restart, a cut line). Customers keep calling");
    zammad.stop().await;
    played.extend(watching(screen, &zammad, stage.store, stage.play(&DURING, "during")).await);
    screen.act("Zammad is back");
    zammad.restart().map_err(failed("the stand-in for Zammad"))?;
    let drained = timeout(DRAIN_MAX, watching(screen, &zammad, stage.store, stage.drained())).await;

    let same = screen.compare(&played, &zammad.log());
    daemon.stop().await.map_err(Failure::new)?;
    drop(switch);
    match (drained, same) {
        (Err(_), _) => Err(Failure::new("the queue did not drain in time")),
        (Ok(()), false) => Err(Failure::new("Zammad's log differs from what happened on the switch")),
        (Ok(()), true) => Ok(ExitCode::SUCCESS),
    }
}

fn config(switch: &Switch, zammad: &Zammad, state_dir: PathBuf) -> Result<Config, Failure> {
    let overrides = Overrides {
        zammad_url: Some(Secret::new(zammad.url())),
        freeswitch: Some(switch.addr().to_string()),
        freeswitch_password: Some(Secret::new("ClueCon")),
        state_dir: Some(state_dir),
        country: Some("DE".into()),
        ..Overrides::default()
    };
    // Nothing of this machine's configuration is used: not its file, not its environment.
    let nothing = Environment::from_iter(std::iter::empty::<(String, String)>());
    let nowhere = std::path::Path::new("/nonexistent/freeswitch-zammad.toml");
    let mut config = Config::load(&overrides, &nothing, nowhere)?.config;
    config.admin = Some(AdminConfig { listen: (Ipv4Addr::LOCALHOST, 0).into(), host: None });
    config.delivery.concurrency = std::num::NonZeroUsize::new(2).expect("two is not zero");
    config.delivery.retry_wait_min = Duration::from_millis(250);
    config.delivery.retry_wait_max = Duration::from_secs(1);
    Ok(config)
}

/// Shows what Zammad learns and how the queue moves while `act` runs.
async fn watching<T>(screen: &Screen, zammad: &Zammad, store: &Store, act: impl Future<Output = T>) -> T {
    let mut told = processed(zammad).len();
    let mut waiting = store.counts().pending;
    let mut look = tokio::time::interval(Duration::from_millis(40));
    tokio::pin!(act);
    loop {
        let done = tokio::select! {
            done = &mut act => Some(done),
            _ = look.tick() => None,
        };
        let events = processed(zammad);
        for event in &events[told..] {
            screen.line("zammad", &screen.sentence(event, &zammad.log()));
        }
        told = events.len();
        let now = store.counts().pending;
        if now != waiting {
            screen.queue(now);
        }
        waiting = now;
        if let Some(done) = done {
            return done;
        }
    }
}

/// The bodies of the events that Zammad has taken, in their order.
fn processed(zammad: &Zammad) -> Vec<Value> {
    let taken = zammad.requests().into_iter().filter(|r| r.processed && r.event.is_some());
    taken.filter_map(|r| serde_json::from_str(&r.body).ok()).collect()
}

/// A scene that was played, and the legs it had.
struct Played {
    scene: &'static Scene,
    legs: Vec<String>,
}

struct Stage<'a> {
    screen: &'a Screen,
    switch: &'a Switch,
    store: &'a Store,
}

impl Stage<'_> {
    /// Plays scenes one after the other, each beginning while the one before still goes on.
    async fn play(&self, scenes: &'static [Scene], suffix: &str) -> Vec<Played> {
        let one = |(number, scene): (usize, &'static Scene)| async move {
            let recording = scene.recording(&format!("{suffix}{number}"));
            let recording = recording.with_core_uuid(&self.switch.core_uuid());
            tokio::time::sleep(STEP * u32::try_from(number).unwrap_or_default()).await;
            self.screen.line("switch", scene.story);
            self.switch.play(&recording, PACE).await;
            Played { scene, legs: legs(&recording) }
        };
        let played = futures_util::future::join_all(scenes.iter().enumerate().map(one)).await;
        tokio::time::sleep(STEP).await;
        played
    }

    async fn drained(&self) {
        while self.store.counts().pending > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn legs(recording: &Recording) -> Vec<String> {
    let created = recording.events().iter().filter(|e| e.name() == "CHANNEL_CREATE");
    created.filter_map(|e| e.header("Unique-ID")).collect()
}

/// The terminal.
struct Screen {
    began: Option<Instant>,
    colours: bool,
}

impl Screen {
    fn introduce(&self, switch: &Switch, zammad: &Zammad) {
        print(&self.bold(
            "freeswitch-zammad tells the helpdesk Zammad about calls on a FreeSWITCH telephone system.",
        ));
        print(
            "You will see recorded calls of a real FreeSWITCH go by, and what the people who work in Zammad get to see.",
        );
        print("");
        print(&format!("  switch  a stand-in that replays what a FreeSWITCH sent, on {}", switch.addr()));
        print("  queue   the daemon's own: what Zammad must still learn, safe on disk");
        print(&format!(
            "  zammad  a stand-in that keeps a caller log as Zammad does, on {}",
            zammad.base_url()
        ));
    }

    fn act(&self, title: &str) {
        print("");
        print(&self.bold(&format!("── {title} ──")));
    }

    fn line(&self, who: &str, what: &str) {
        let colour = match who {
            "switch" => "36",
            "queue" => "33",
            _ => "32",
        };
        let at = self.began.map(|b| b.elapsed().as_secs_f64()).unwrap_or_default();
        print(&format!("{at:5.1}s  {}  {what}", self.paint(&format!("{who:<6}"), colour)));
    }

    fn queue(&self, waiting: u64) {
        let bar = "▇".repeat(usize::try_from(waiting.min(40)).unwrap_or_default());
        self.line("queue", format!("{waiting:>2} waiting {bar}").trim_end());
    }

    /// An event that Zammad has taken, as the people there see it.
    fn sentence(&self, event: &Value, log: &[Row]) -> String {
        let text = |key: &str| event[key].as_str().unwrap_or_default();
        let who = who(text("from"), text("to"));
        let row = log.iter().find(|row| row.call_id == text("callId"));
        match text("event") {
            "newCall" if text("direction") == "in" => format!("{who}  rings: who is calling pops up"),
            "newCall" => format!("{who}  is being dialled"),
            "answer" => match text("user") {
                "" => format!("{who}  answered"),
                by => format!("{who}  answered by {by}"),
            },
            _ if row.is_some_and(Row::missed_mark) => {
                let missed = self.paint("MISSED: to be called back", "31");
                format!("{who}  ended ({}), {missed}", text("cause"))
            }
            _ => format!("{who}  ended ({})", text("cause")),
        }
    }

    /// What happened beside what Zammad holds; whether they are the same.
    fn compare(&self, played: &[Played], log: &[Row]) -> bool {
        self.act("What happened on the switch, and what Zammad's caller log now holds");
        let mut same = log.len() == played.len();
        for Played { scene, legs } in played {
            let rows: Vec<&Row> = log.iter().filter(|r| legs.contains(&r.call_id)).collect();
            let truth =
                told(scene.direction, scene.from, scene.to, scene.answered_by, scene.missed, scene.cause);
            let [row] = rows[..] else {
                same = false;
                print(&format!(
                    "{}  {truth}\n   Zammad has {} entries for it",
                    self.paint("✗", "31"),
                    rows.len()
                ));
                continue;
            };
            let by = row.to_comment.as_deref();
            let cause = row.comment.as_deref().unwrap_or_default();
            let held = told(&row.direction, &row.from, &row.to, by, row.missed_mark(), cause);
            if held == truth && row.state == "hangup" {
                print(&format!("{}  {truth}", self.paint("✓", "32")));
            } else {
                same = false;
                print(&format!("{}  {truth}\n   Zammad: {held} ({})", self.paint("✗", "31"), row.state));
            }
        }
        print("");
        let missed = log.iter().filter(|r| r.missed_mark()).count();
        print(&if same {
            format!(
                "{} calls, each in Zammad once and as it happened; {missed} to be called back. Nothing was lost.",
                log.len()
            )
        } else {
            format!("{} calls were played, Zammad holds {}: they differ.", played.len(), log.len())
        });
        same
    }

    fn bold(&self, text: &str) -> String {
        self.paint(text, "1")
    }

    fn paint(&self, text: &str, code: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn who(from: &str, to: &str) -> String {
    format!("{from:>13} → {to:<13}")
}

fn told(direction: &str, from: &str, to: &str, by: Option<&str>, missed: bool, cause: &str) -> String {
    let by = by.map_or_else(|| "-".to_owned(), |by| format!("by {by}"));
    let missed = if missed { "missed" } else { "" };
    format!("{direction:<3}  {from:>13} → {to:<13}  {by:<12}  {cause:<14}  {missed}").trim_end().to_owned()
}
