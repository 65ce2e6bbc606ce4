//! `run`: the daemon in the foreground, as systemd starts it.

use std::process::ExitCode;
use std::time::Duration;

use super::store::program;
use super::{Common, Failure, asked_to_stop, runtime};
use crate::config::{Config, Needs};
use crate::daemon::{self, Daemon, STOP_MAX};
use crate::edge::{heal, log, process};
use crate::store::StoreError;

/// How often a store is tried again that its disk does not let us open.
const OPEN_AGAIN: Duration = Duration::from_secs(2);
/// How often, and how long after each other, a store is tried that somebody else holds.
const LOCKED_LOOKS: u32 = 10;
const LOCKED_AGAIN: Duration = Duration::from_millis(100);

pub(super) fn run(common: &Common) -> Result<ExitCode, Failure> {
    end_with_any_task();
    // Before there is a secret in it.
    let private = process::keep_memory_private();
    let loaded = common.load(Needs::Everything)?;
    let secrets = log::secrets_of(&loaded.config);
    log::start(loaded.config.log.level.as_str(), secrets).map_err(Failure::permanent)?;
    if let Err(why) = private {
        tracing::warn!(reason = %why, "this process's memory is open to others of its user");
    }
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    runtime()?.block_on(async {
        let state_dir = loaded.config.state_dir.clone();
        let mut daemon = tokio::select! {
            daemon = start(loaded.config) => daemon?,
            () = asked_to_stop() => return Ok(ExitCode::SUCCESS),
        };
        heal::running(&state_dir);
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "started");
        tell_systemd(sd_notify::NotifyState::Ready);
        let failure = tokio::select! {
            failure = daemon.failed() => Some(failure),
            () = asked_to_stop() => None,
        };
        tell_systemd(sd_notify::NotifyState::Stopping);
        let stopped = tokio::time::timeout(STOP_MAX, daemon.stop()).await;
        match (failure, stopped) {
            (Some(failure), _) => Err(ended(failure)),
            (None, Ok(Ok(()))) => {
                heal::stopped(&state_dir);
                Ok(ExitCode::SUCCESS)
            }
            (None, Ok(Err(failure))) => Err(ended(failure)),
            (None, Err(_)) => Err(Failure::new("it took too long to stop; what was accepted is on disk")),
        }
    })
}

/// A task that died must not leave the daemon half alive: whoever started it starts it again, whole. In a release build
/// every panic ends the process; this holds it in any.
fn end_with_any_task() {
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        say(panic);
        std::process::abort();
    }));
}

/// Starts the daemon on a store that was seen to open. A disk that is full or read-only is waited for: whoever waits
/// beside the switch hears of its calls the sooner.
async fn start(config: Config) -> Result<Daemon, Failure> {
    let mut said = None;
    let mut locked = 0;
    loop {
        let (program, dir) = (program()?, config.state_dir.clone());
        let sound = tokio::task::spawn_blocking(move || heal::make_sound(&program, &dir)).await;
        let sound = sound.unwrap_or(Err(StoreError::Closed)).map(drop);
        let started = match sound {
            Ok(()) => Daemon::start(config.clone()).await,
            Err(why) => Err(daemon::Failure::Store(why)),
        };
        match started {
            Err(daemon::Failure::Store(why @ StoreError::Io { .. })) => {
                let why = why.to_string();
                if said.as_ref() != Some(&why) {
                    tracing::error!(reason = why, "the store cannot be opened yet; it is tried again");
                    said = Some(why);
                }
                tokio::time::sleep(OPEN_AGAIN).await;
            }
            // Whoever held it may be about to end: a daemon that was killed this moment, or a look into its queue.
            Err(daemon::Failure::Store(StoreError::Locked { .. })) if locked < LOCKED_LOOKS => {
                locked += 1;
                tokio::time::sleep(LOCKED_AGAIN).await;
            }
            started => return started.map_err(ended),
        }
    }
}

fn ended(failure: crate::daemon::Failure) -> Failure {
    if failure.is_permanent() { Failure::permanent(failure) } else { Failure::new(failure) }
}

fn tell_systemd(state: sd_notify::NotifyState<'_>) {
    if let Err(why) = sd_notify::notify(&[state]) {
        tracing::warn!(reason = %why, "systemd cannot be told");
    }
}
