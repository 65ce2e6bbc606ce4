//! What systemd is told of a running daemon: how things are, in a sentence for `systemctl status`, and that it lives,
//! only as long as its loops move. Without systemd nothing is told.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::control::Live;
use super::pulse::{BOUND, TICK};
use super::{clock, mask};
use crate::queue::breaker::Link;
use crate::store::Store;

/// How often it is looked whether there is something new to say.
const LOOK: Duration = Duration::from_secs(1);
/// While the daemon starts, systemd is asked for so much more time ...
const MORE_TIME: Duration = Duration::from_secs(60);
/// ... this often.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// Longest reason in a sentence, in characters.
const REASON_MAX: usize = 120;

/// Tells systemd, if it wants to be told.
pub fn tell(states: &[NotifyState<'_>]) {
    if let Err(why) = sd_notify::notify(states) {
        warn!(name: "systemd_not_told", reason = %why, "systemd cannot be told");
    }
}

/// Asks for more time, again and again, as long as this is polled: a disk may refuse for long, and reading a large
/// damaged store takes its time. To be cut short then would mean to begin anew, for ever. Never returns; may be dropped.
pub async fn ask_for_time() {
    loop {
        tokio::time::sleep(ASK_AGAIN).await;
        let micros = u32::try_from(MORE_TIME.as_micros()).unwrap_or(u32::MAX);
        tell(&[NotifyState::ExtendTimeoutUsec(micros)]);
    }
}

/// Says that the configuration is being read anew; to be followed by [`reloaded`].
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(why) => warn!(name: "reload_not_told", reason = %why, "systemd cannot be told of a reload"),
    }
}

/// Says that the reload is over.
pub fn reloaded() {
    tell(&[NotifyState::Ready]);
}

/// Keeps systemd told through `tell`. `watchdog` is how soon it wants to hear that we live. Never returns; may be
/// dropped.
pub async fn keep_told(
    live: Live,
    store: Store,
    stopping: CancellationToken,
    watchdog: Option<Duration>,
    tell: impl Fn(&[NotifyState<'_>]),
) {
    let (mut said, mut fed, mut stuck) = (String::new(), None, false);
    // Named as stuck sooner where systemd has less patience, so that it is not systemd's guess.
    let bound = watchdog.map_or(BOUND, |every| (every / 2).clamp(TICK * 2, BOUND));
    let look = watchdog.map_or(LOOK, |every| (every / 4).min(LOOK));
    loop {
        let now = clock::monotonic();
        let still: Vec<String> = live
            .pulse
            .ages(now)
            .into_iter()
            .filter(|(_, age)| *age >= bound)
            .map(|(name, age)| format!("{name} (for {} s)", age.as_secs()))
            .collect();
        if !still.is_empty() && !stuck {
            error!(
                name: "loop_stuck",
                loops = still.join(", "),
                "a loop does not move; systemd is not told any more that we live"
            );
        }
        stuck = !still.is_empty();
        let sentence = sentence(&live, &store, stopping.is_cancelled(), &still);
        if sentence != said {
            tell(&[NotifyState::Status(&sentence)]);
            said = sentence;
        }
        // The next look may be too late.
        let due = |every: Duration| fed.is_none_or(|at| now.saturating_duration_since(at) + look > every / 4);
        if !stuck && watchdog.is_some_and(due) {
            tell(&[NotifyState::Watchdog]);
            fed = Some(now);
        }
        clock::tick(look).await;
    }
}

/// How things are, in one line without numbers of callers. Asks nothing of the disk.
#[must_use]
pub fn sentence(live: &Live, store: &Store, stopping: bool, stuck: &[String]) -> String {
    let mut parts = Vec::new();
    if stopping {
        parts.push("stopping".to_owned());
    }
    if !stuck.is_empty() {
        parts.push(format!("STUCK: {}", stuck.join(", ")));
    }
    for (name, _, link) in &live.switches {
        let link = link.borrow();
        parts.push(match link.listening {
            true => format!("listening to {name}"),
            false => format!("NO LINK to {name} since {}: {}", link.since, short(&link.why)),
        });
    }
    for (name, _, drain, _) in &live.zammads {
        let drain = drain.borrow();
        let paused = if drain.paused { ", PAUSED" } else { "" };
        parts.push(match &drain.link {
            Link::Up => format!("Zammad {name} is up{paused}"),
            Link::Away { why, since } => format!("Zammad {name} AWAY since {since}: {}{paused}", short(why)),
            Link::Misconfigured { why, since } => {
                format!("Zammad {name} NEEDS YOU since {since}: {}{paused}", short(why))
            }
        });
    }
    let figures = live.figures();
    let counts = store.counts();
    parts.push(format!("{} calls, {} events wait", figures.calls, counts.pending));
    if counts.dead > 0 {
        parts.push(format!("{} dead letters", counts.dead));
    }
    if figures.unaccepted > 0
        && let Some(why) = store.refused()
    {
        let why = short(&why.to_string());
        parts.push(format!("THE DISK REFUSES {} events, kept in memory: {why}", figures.unaccepted));
    }
    if figures.dropped > 0 {
        parts.push(format!("{} EVENTS LOST", figures.dropped));
    }
    parts.join("; ")
}

/// What others said, so that it fits in a line: the whole of it is in the log.
fn short(why: &str) -> String {
    let whole = mask::numbers(why);
    let mut short: String = whole.chars().take(REASON_MAX).collect();
    if short.len() < whole.len() {
        short.push('…');
    }
    short
}
