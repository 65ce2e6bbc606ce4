//! `page`: a link to the running daemon's status page.

use std::process::ExitCode;

use serde_json::Value;

use super::ask::question;
use super::{Common, Failure, print};
use crate::edge::control::Request;

pub(super) fn run(common: &Common) -> Result<ExitCode, Failure> {
    let answer = question(common, Request::Page)?;
    let Some(url) = answer.first().and_then(|a| a["url"].as_str()) else {
        return Err(Failure::new("the daemon gave no answer"));
    };
    let json = || Value::from_iter([("url", url)]);
    print(&if common.json { json().to_string() } else { url.to_owned() });
    Ok(ExitCode::SUCCESS)
}
