//! `log`: how much the running daemon logs.

use std::process::ExitCode;

use clap::Args;

use super::ask::single_answer;
use super::{Common, Failure, print};
use crate::edge::control::Request;

#[derive(Args)]
pub(super) struct Log {
    /// off, error, warn, info, debug or trace, or as in "info,freeswitch_zammad::esl=debug"; holds until the daemon is
    /// started or reloaded. Callers' numbers show from debug on
    level: Option<String>,
}

pub(super) fn run(log: &Log, common: &Common) -> Result<ExitCode, Failure> {
    let said = single_answer(common, Request::Log { level: log.level.clone() })?;
    let level = said["level"].as_str().unwrap_or("-");
    if common.json {
        print(&said.to_string());
    } else if let Some(before) = said["before"].as_str() {
        print(&format!("{level} (before: {before})"));
    } else {
        print(level);
    }
    Ok(ExitCode::SUCCESS)
}
