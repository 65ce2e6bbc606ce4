//! `page`: a link to the running daemon's status page.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::ask::question;
use super::{Common, Failure, print};
use crate::edge::control::Request;

#[derive(Args)]
pub(super) struct Page {
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(page: &Page, common: &Common) -> Result<ExitCode, Failure> {
    let answer = question(common, Request::Page)?;
    let Some(url) = answer.first().and_then(|a| a["url"].as_str()) else {
        return Err(Failure::new("the daemon gave no answer"));
    };
    let json = || Value::from_iter([("url", url)]);
    print(&if page.json { json().to_string() } else { url.to_owned() });
    Ok(ExitCode::SUCCESS)
}
