//! `page`: a link to the running daemon's status page.

use std::process::ExitCode;

use super::ask::single_answer;
use super::{Common, Failure, print};
use crate::edge::control::Request;

pub(super) fn run(common: &Common) -> Result<ExitCode, Failure> {
    let link = single_answer(common, Request::Page)?;
    print(&if common.json { link.to_string() } else { link["url"].as_str().unwrap_or_default().to_owned() });
    Ok(ExitCode::SUCCESS)
}
