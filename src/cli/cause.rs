//! `cause`: the cause table, or one cause explained.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{Common, Failure, print, say};
use crate::call::cause::{ROWS, Row, UNKNOWN, Weight, find};
use crate::config::Needs;

#[derive(Args)]
pub(super) struct Cause {
    /// A FreeSWITCH hangup cause, by name or number; all of them without one
    name: Option<String>,
}

pub(super) fn run(cause: &Cause, common: &Common) -> Result<ExitCode, Failure> {
    let loaded = common.load(Needs::Calls)?;
    let table = loaded.config.calls_of(&loaded.config.switches[0]).causes;
    let as_json = |row: &Row| {
        let (cti, weight) = table.look_up(row.name);
        json!({
            "code": row.code, "cause": row.name, "zammad": cti.as_str(), "silent": weight == Weight::Silent,
            "meaning": row.gist, "built_in": row.cti.as_str(),
        })
    };
    let Some(name) = &cause.name else {
        if common.json {
            ROWS.iter().for_each(|row| print(&as_json(row).to_string()));
            return Ok(ExitCode::SUCCESS);
        }
        print("CODE  CAUSE                            ZAMMAD          MEANING");
        for row in &ROWS {
            let (cti, weight) = table.look_up(row.name);
            let silent = if weight == Weight::Silent { " (*)" } else { "" };
            print(&format!("{:>4}  {:<31}  {:<14}  {}{silent}", row.code, row.name, cti.as_str(), row.gist));
        }
        print("");
        print(
            "(*) says little about the call: other witnesses are asked first; alone, an unanswered call is noAnswer.",
        );
        return Ok(ExitCode::SUCCESS);
    };
    let upper = name.to_ascii_uppercase();
    let by_number = name.parse().ok().and_then(|code: u16| ROWS.iter().find(|row| row.code == code));
    match find(&upper).or(by_number) {
        Some(row) if common.json => {
            print(&as_json(row).to_string());
            Ok(ExitCode::SUCCESS)
        }
        Some(row) => {
            let (cti, weight) = table.look_up(row.name);
            print(&format!("{} ({}): {}.", row.name, row.code, row.gist));
            print(&format!("An unanswered call that ends with it is reported as {cti}."));
            if weight == Weight::Silent {
                print(
                    "FreeSWITCH says it of legs for many reasons, so others are asked first: who hung up, what the",
                );
                print(
                    "caller's leg remembers of its last attempt, what the phones said. If none of them says",
                );
                print("anything, the call is reported as noAnswer.");
            }
            if cti != row.cti {
                print(&format!("(The configuration says so; built in is {}.)", row.cti));
            }
            print("An answered call is always reported as normalClearing, whatever its legs say.");
            Ok(ExitCode::SUCCESS)
        }
        None => {
            let (cti, weight) = table.look_up(&upper);
            if common.json {
                let zammad = if weight == Weight::Tells { cti } else { UNKNOWN };
                print(&json!({ "code": null, "cause": upper, "zammad": zammad.as_str() }).to_string());
            } else if weight == Weight::Tells {
                print(&format!("{upper}: not one of FreeSWITCH's, but the configuration makes it {cti}."));
            } else {
                say(&format!(
                    "warning: {upper} is no hangup cause of FreeSWITCH; `freeswitch-zammad cause` lists them"
                ));
                print(&format!(
                    "{upper}: an unanswered call that ends with it is reported as {UNKNOWN}, unless something else says why."
                ));
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}
