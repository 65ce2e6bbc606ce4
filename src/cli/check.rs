//! `check`: the configuration, and with `--online` the switch's login and Zammad's token.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

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
    let (switches, zammads) = (loaded.config.switches.len(), loaded.config.zammads.len());
    let state_dir = loaded.config.state_dir.display();
    if common.json {
        print(
            &json!({
                "switches": switches, "zammads": zammads, "state_dir": state_dir.to_string(),
                "warnings": loaded.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
            })
            .to_string(),
        );
    } else {
        print(&format!(
            "The configuration is complete: {switches} switch(es), {zammads} Zammad(s), state in {state_dir}."
        ));
    }
    if check.online && !runtime()?.block_on(online(&loaded.config, common.json)) {
        return Err(Failure::permanent("not everything that is configured works"));
    }
    Ok(ExitCode::SUCCESS)
}

async fn online(config: &Config, as_json: bool) -> bool {
    let mut all = true;
    for switch in &config.switches {
        all &= report(as_json, &format!("switch {} ({})", switch.name, switch.address), log_in(switch).await);
    }
    for zammad in &config.zammads {
        all &= report(as_json, &format!("zammad {} ({})", zammad.name, zammad.url), probe(zammad).await);
    }
    all
}

fn report(as_json: bool, what: &str, result: Result<&str, String>) -> bool {
    match &result {
        result if as_json => {
            let said = match result {
                Ok(fine) => fine,
                Err(why) => why.as_str(),
            };
            print(&json!({ "of": what, "works": result.is_ok(), "said": said }).to_string());
        }
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
