//! `check`: the configuration, and with `--online` the switch's login and Zammad's token.

use std::process::ExitCode;

use clap::Args;

use super::{Common, Failure, print, runtime, say};
use crate::config::{Config, Needs, SwitchConfig, ZammadConfig};
use crate::cti::client::Client;
use crate::cti::reply::{Verdict, judge_probe};
use crate::daemon::link;
use crate::edge::listener;

#[derive(Args)]
pub(super) struct Check {
    /// Also log in to each switch, and ask each Zammad whether it would take events; leaves no trace in either
    #[arg(long)]
    online: bool,
}

pub(super) fn run(check: &Check, common: &Common) -> Result<ExitCode, Failure> {
    let loaded = common.load(Needs::Everything)?;
    for warning in &loaded.warnings {
        say(&format!("warning: {warning}"));
    }
    print(&format!(
        "The configuration is complete: {} switch(es), {} Zammad(s), state in {}.",
        loaded.config.switches.len(),
        loaded.config.zammads.len(),
        loaded.config.state_dir.display()
    ));
    if check.online && !runtime()?.block_on(online(&loaded.config)) {
        return Err(Failure::permanent("not everything that is configured works"));
    }
    Ok(ExitCode::SUCCESS)
}

async fn online(config: &Config) -> bool {
    let mut all = true;
    for switch in &config.switches {
        all &= report(&format!("switch {} ({})", switch.name, switch.address), log_in(switch).await);
    }
    for zammad in &config.zammads {
        all &= report(&format!("zammad {} ({})", zammad.name, zammad.url), probe(zammad).await);
    }
    all
}

fn report(what: &str, result: Result<&str, String>) -> bool {
    match &result {
        Ok(fine) => print(&format!("{what}: {fine}")),
        Err(why) => print(&format!("{what}: FAILS: {why}")),
    }
    result.is_ok()
}

async fn log_in(switch: &SwitchConfig) -> Result<&'static str, String> {
    listener::try_login(&link(switch))
        .await
        .map(|()| "logged in; its events and its list of calls may be had")
}

async fn probe(zammad: &ZammadConfig) -> Result<&'static str, String> {
    let client =
        Client::new(zammad.url.expose(), &zammad.tls, zammad.timeout).map_err(|why| why.to_string())?;
    match judge_probe(&client.probe().await) {
        Verdict::Done(_) => Ok("takes events: the integration is on and the token is right"),
        Verdict::Away { why, .. } => Err(format!(
            "nothing there answers as Zammad does ({why}): is Zammad running there? If it is elsewhere, correct the host or the port of the URL ({})",
            zammad.url.host()
        )),
        Verdict::Misconfigured(why)
        | Verdict::Unsure(why)
        | Verdict::RowUnknown(why)
        | Verdict::Refused(why) => Err(why),
    }
}
