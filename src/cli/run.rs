//! `run`: the daemon in the foreground, as systemd starts it.

use std::process::ExitCode;

use super::{Common, Failure, asked_to_stop, runtime};
use crate::config::Needs;
use crate::daemon::{Daemon, STOP_MAX};
use crate::edge::{log, process};

pub(super) fn run(common: &Common) -> Result<ExitCode, Failure> {
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
        let mut daemon = Daemon::start(loaded.config).await.map_err(ended)?;
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
            (None, Ok(Ok(()))) => Ok(ExitCode::SUCCESS),
            (None, Ok(Err(failure))) => Err(ended(failure)),
            (None, Err(_)) => Err(Failure::new("it took too long to stop; what was accepted is on disk")),
        }
    })
}

fn ended(failure: crate::daemon::Failure) -> Failure {
    if failure.is_permanent() { Failure::permanent(failure) } else { Failure::new(failure) }
}

fn tell_systemd(state: sd_notify::NotifyState<'_>) {
    if let Err(why) = sd_notify::notify(&[state]) {
        tracing::warn!(reason = %why, "systemd cannot be told");
    }
}
