//! `run`: the daemon in the foreground, as systemd starts it.

use std::process::ExitCode;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::store::program;
use super::{Common, Failure, asked_to_stop, runtime};
use crate::config::{Config, Needs};
use crate::daemon::{self, Daemon, STOP_MAX};
use crate::edge::heal::{self, Health};
use crate::edge::{log, mask, process, systemd};
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
    let said = &loaded.config.log;
    log::start(said.level.as_str(), said.format, secrets).map_err(Failure::permanent)?;
    if let Err(why) = private {
        tracing::warn!(name: "memory_open", reason = %why, "this process's memory is open to others of its user");
    }
    for warning in &loaded.warnings {
        tracing::warn!(name: "config_warning", "{warning}");
    }
    runtime()?.block_on(run_until_stopped(common, loaded.config))
}

async fn run_until_stopped(common: &Common, config: Config) -> Result<ExitCode, Failure> {
    // Watched from the beginning: unwatched it would end the process.
    let mut hangup = signal(SignalKind::hangup()).expect("SIGHUP can always be watched");
    // One for all the while: what is asked during a reload must not be missed either.
    let stop = asked_to_stop();
    tokio::pin!(stop);
    let state_dir = config.state_dir.clone();
    let mut daemon = tokio::select! {
        daemon = start(config) => daemon?,
        () = systemd::ask_for_time() => unreachable!("it never returns"),
        () = &mut stop => return Ok(ExitCode::SUCCESS),
    };
    heal::running(&state_dir);
    tracing::info!(name: "started", version = env!("CARGO_PKG_VERSION"), "started");
    systemd::tell(&[NotifyState::Ready]);
    let stopping = CancellationToken::new();
    let told = systemd::keep_told(
        daemon.live().clone(),
        daemon.store().clone(),
        stopping.clone(),
        sd_notify::watchdog_enabled(),
        systemd::tell,
    );
    let told = tokio::spawn(told);
    let failure = loop {
        let woken = tokio::select! {
            failure = daemon.failed() => Woken::Failed(failure),
            () = &mut stop => Woken::Stop,
            _ = hangup.recv() => Woken::Hangup,
        };
        match woken {
            Woken::Failed(failure) => break Some(failure),
            Woken::Stop => break None,
            Woken::Hangup => {
                systemd::reloading();
                reload(common, &mut daemon).await;
                systemd::reloaded();
            }
        }
    };
    systemd::tell(&[NotifyState::Stopping]);
    stopping.cancel();
    let stopped = tokio::time::timeout(STOP_MAX, daemon.stop()).await;
    told.abort();
    match (failure, stopped) {
        (Some(failure), _) => Err(ended(failure)),
        (None, Ok(Ok(()))) => {
            heal::stopped(&state_dir);
            Ok(ExitCode::SUCCESS)
        }
        (None, Ok(Err(failure))) => Err(ended(failure)),
        (None, Err(_)) => Err(Failure::new("it took too long to stop; what was accepted is on disk")),
    }
}

enum Woken {
    Failed(daemon::Failure),
    Stop,
    Hangup,
}

/// Reads the configuration anew. One that has a fault is not used: each fault is logged, and the daemon goes on as before.
async fn reload(common: &Common, daemon: &mut Daemon) {
    // Files may lie on a slow disk.
    let common = common.clone();
    let read = tokio::task::spawn_blocking(move || common.load(Needs::Everything)).await;
    let loaded = match read {
        Ok(Ok(loaded)) => loaded,
        Ok(Err(why)) => {
            for fault in &why.faults {
                tracing::error!(name: "config_fault", %fault, "the configuration has a fault");
            }
            tracing::error!(
                name: "reload_refused",
                faults = why.faults.len(),
                "not reloaded: the configuration that was read before stays in use"
            );
            return;
        }
        Err(why) => {
            tracing::error!(name: "configuration_unreadable", reason = %why, "not reloaded: the configuration could not be read");
            return;
        }
    };
    // Before anybody can word them.
    log::add_secrets(log::secrets_of(&loaded.config));
    for warning in &loaded.warnings {
        tracing::warn!(name: "config_warning", "{warning}");
    }
    let level = loaded.config.log.level.clone();
    match daemon.reload(loaded.config).await {
        Ok(stays) => {
            for what in &stays {
                tracing::warn!(
                    name: "restart_needed",
                    what,
                    "this part of the configuration needs a restart: systemctl restart freeswitch-zammad"
                );
            }
            if let Err(why) = log::set_level(level.as_str()) {
                tracing::error!(name: "log_level_kept", reason = why, "the log level stays as it was");
            }
            tracing::info!(name: "reloaded", left_out = stays.len(), "reloaded: the configuration is in use");
        }
        Err(why) => {
            tracing::error!(name: "reload_refused", reason = %why, "not reloaded: the configuration that was read before stays in use")
        }
    }
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
        let progress = |done, of| tracing::info!(name: "salvage_goes_on", done, of, "writing the store anew");
        let sound = tokio::task::spawn_blocking(move || {
            heal::make_sound(&program, &dir, heal::AT_ONCE, &mut { progress })
        })
        .await;
        let started = match sound.unwrap_or(Err(StoreError::Closed)) {
            Ok(Health::Salvaged { rest, .. }) => Daemon::start_with(config.clone(), rest).await,
            Ok(Health::Fine(_)) => Daemon::start(config.clone()).await,
            Err(why) => Err(daemon::Failure::Store(why)),
        };
        match started {
            Err(daemon::Failure::Store(why @ StoreError::Io { .. })) => {
                let why = why.to_string();
                if said.as_ref() != Some(&why) {
                    tracing::error!(name: "store_waits", reason = why, "the store cannot be opened yet; it is tried again");
                    systemd::tell(&[NotifyState::Status(&format!(
                        "waiting for the disk: {}",
                        mask::numbers(&why)
                    ))]);
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
