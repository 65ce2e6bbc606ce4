//! Asks the running daemon or, if none runs, the store itself.

use serde_json::Value;

use super::{Common, Failure, runtime};
use crate::config::{Config, Needs};
use crate::daemon::limits;
use crate::edge::answers;
use crate::edge::control::{self, Request};
use crate::store::Store;

pub(super) fn question(common: &Common, request: Request) -> Result<Vec<Value>, Failure> {
    let config = common.load(Needs::Calls)?.config;
    let answer = runtime()?.block_on(async {
        let asked = control::ask(&config.state_dir, &request).await;
        match asked.map_err(|why| Failure::new(format!("the daemon's control socket fails: {why}")))? {
            Some(answer) => Ok(answer),
            None => from_store(&config, request).await,
        }
    })?;
    match answer.first().and_then(|a| a["error"].as_str()) {
        Some(why) => Err(Failure::new(why)),
        None => Ok(answer),
    }
}

async fn from_store(config: &Config, request: Request) -> Result<Vec<Value>, Failure> {
    // Looking must not create: a mistyped directory would look like an empty queue.
    if !config.state_dir.join("FORMAT").exists() {
        return Err(Failure::new(format!(
            "there is no store in {}; name the daemon's directory with --state-dir",
            config.state_dir.display()
        )));
    }
    let store = Store::open(&config.state_dir, limits(config)).map_err(Failure::new)?;
    let answer = answers::answer(&store, None, request).await.map_err(Failure::new)?;
    store.close().await.map_err(Failure::new)?;
    Ok(answer)
}
