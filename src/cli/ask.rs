//! Asks the running daemon or, if none runs, the store itself.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};

use super::store::program;
use super::{Common, Failure, runtime, say};
use crate::config::{Config, Needs};
use crate::daemon::fleet::settings as fleet_settings;
use crate::daemon::limits;
use crate::edge::control::{self, Request, Send};
use crate::edge::desk::{Ask, Desk};
use crate::edge::fleet::{self, FleetState};
use crate::edge::heal::{self, Finding};
use crate::edge::{answers, clock};
use crate::outbox::Settings;
use crate::store::{Store, StoreError, TakingIn};

/// How long a store that nobody has open is read before it is opened here.
const LOOK_FIRST: Duration = Duration::from_millis(200);

/// Asks the running daemon or, if none runs, the store itself.
pub(super) fn question(common: &Common, request: Request) -> Result<Vec<Value>, Failure> {
    let config = common.load(Needs::Calls)?.config;
    runtime()?.block_on(async {
        match (running(&config.state_dir, &request).await?, request) {
            (Some(answer), _) => Ok(answer),
            (None, Request::Outbox { ask }) => from_outbox(common, ask).await,
            (None, Request::Status) => {
                let mut all = from_store(&config, Request::Status).await?;
                for status in &mut all {
                    add_fleet(common, status).await;
                }
                Ok(all)
            }
            (None, request) => from_store(&config, request).await,
        }
    })
}

/// How an outbox is reached by somebody who claims nothing, and the names of the Zammads.
type Reached = (Arc<Settings>, Vec<String>);

/// `None` if none is configured.
fn outbox(common: &Common) -> Result<Option<Reached>, Failure> {
    let config = common.load(Needs::Outbox)?.config;
    let zammads = config.zammads.iter().map(|zammad| zammad.name.to_string()).collect();
    let outbox = config.outbox.as_ref();
    Ok(outbox.map(|outbox| (Arc::new(fleet_settings(&config, outbox, "operator")), zammads)))
}

async fn from_outbox(common: &Common, ask: Ask) -> Result<Vec<Value>, Failure> {
    let Some((settings, zammads)) = outbox(common)? else { return Ok(vec![]) };
    Desk::new(settings, zammads).answer(ask).await.map_err(|why| match why.passes() {
        true => Failure::later(why),
        false => Failure::new(why),
    })
}

/// The others may run all the same.
async fn add_fleet(common: &Common, status: &mut Value) {
    let (node, looked) = match outbox(common) {
        Ok(None) => return,
        Ok(Some((settings, zammads))) => {
            let node = settings.node.clone();
            let looked = fleet::look(settings, &zammads).await;
            (node, looked.map_err(|why| why.to_string()))
        }
        Err(failure) => (String::new(), Err(failure.why)),
    };
    let state = looked.unwrap_or_else(|why| FleetState { away: Some(why), ..FleetState::default() });
    status["outbox"] = json!({ "node": node, "fleet": fleet::shown(&state, &node, clock::now()) });
}

/// As [`question`], where the answer is one object.
pub(super) fn single_answer(common: &Common, request: Request) -> Result<Value, Failure> {
    single(question(common, request)?)
}

/// The one object of an answer.
pub(super) fn single(answer: Vec<Value>) -> Result<Value, Failure> {
    answer.into_iter().next().ok_or_else(|| Failure::new("the daemon gave no answer"))
}

/// Asks the running daemon. `None` if none runs.
pub(super) async fn running(state_dir: &Path, request: &Request) -> Result<Option<Vec<Value>>, Failure> {
    let asked = control::ask(state_dir, request).await;
    let answer = asked.map_err(|why| match why.kind() {
        ErrorKind::PermissionDenied => Failure::new(format!(
            "the daemon's control socket in {}: {why}; ask as the user that it runs as, or as root",
            state_dir.display()
        )),
        _ => Failure::later(format!("the daemon did not answer whole: {why}; ask again")),
    })?;
    let first = answer.as_ref().and_then(|answer| answer.first());
    match first.and_then(|first| Some((first["error"].as_str()?, first["later"] == true))) {
        Some((why, true)) => Err(Failure::later(why)),
        Some((why, false)) => Err(Failure::new(why)),
        None => Ok(answer),
    }
}

async fn from_store(config: &Config, request: Request) -> Result<Vec<Value>, Failure> {
    // Looking must not create: a mistyped directory would look like an empty queue.
    let dir = &config.state_dir;
    match dir.join("FORMAT").try_exists() {
        Ok(true) => {}
        Ok(false) => {
            return Err(Failure::new(format!(
                "there is no store in {}; name the daemon's directory with --state-dir",
                dir.display()
            )));
        }
        Err(why) => {
            return Err(Failure::new(format!(
                "{}: {why}; ask as the user that the daemon runs as, or as root",
                dir.display()
            )));
        }
    }
    // What sled may hang or die over is not opened here.
    static EXAMINED: OnceLock<Finding> = OnceLock::new();
    let finding = EXAMINED
        .get_or_init(|| program().map_or_else(not_asked, |p| heal::ask_child(&p, dir, Some(LOOK_FIRST))));
    if let Finding::Damaged { why } | Finding::Forbidden { why } = finding {
        return Err(Failure::new(format!(
            "{why}; start the daemon, which goes on with what can be read of it, or run `freeswitch-zammad store salvage`"
        )));
    }
    let requests = by_zammad(config, request)?;
    let store = Store::open(dir, limits(config)).map_err(unopened)?;
    // The figures know of it; whoever looks at the rows, or changes some, is to have all of them.
    if !requests.iter().all(|request| matches!(request, Request::Status | Request::Snapshot { .. })) {
        take_in_rest(&store).await;
    }
    let mut answer = Vec::new();
    for request in requests {
        answer.extend(answers::answer(&store, None, request).await.map_err(Failure::new)?);
    }
    store.close().await.map_err(Failure::new)?;
    leave_to_owner(dir);
    Ok(answer)
}

/// What a start that was cut short had not taken in of a damaged store.
pub(super) async fn take_in_rest(store: &Store) {
    /// So many rows more between two lines.
    const SAY_EVERY: u64 = 100_000;
    /// How often it is looked whether the disk takes it.
    const LOOK_AT_DISK: Duration = Duration::from_secs(1);
    let mut said = None;
    let mut told = |rest: &TakingIn| {
        if said.is_none_or(|said: u64| said.saturating_sub(rest.left) >= SAY_EVERY) {
            said = Some(rest.left);
            say(&format!("the last {} of {} rows of a damaged store are taken in …", rest.left, rest.rows));
        }
    };
    loop {
        tokio::select! {
            () = store.whole(&mut told) => return,
            () = tokio::time::sleep(LOOK_AT_DISK) => {}
        }
        // Then the answer says so.
        if store.refused().is_some() {
            return;
        }
    }
}

/// The running daemon knows its Zammads; the store does not.
fn by_zammad(config: &Config, request: Request) -> Result<Vec<Request>, Failure> {
    let there = config.zammads.iter().map(|z| z.name.as_str());
    match request {
        Request::Pause { zammad, paused } => {
            let pause = |name| Request::Pause { zammad: Some(name), paused };
            let names = answers::meant(there, zammad.as_deref()).map_err(Failure::new)?;
            Ok(names.into_iter().map(pause).collect())
        }
        Request::Send(send) => {
            let name = answers::one_meant(there, send.zammad.as_deref()).map_err(Failure::new)?;
            Ok(vec![Request::Send(Send { zammad: Some(name), ..send })])
        }
        other => Ok(vec![other]),
    }
}

fn not_asked(why: Failure) -> Finding {
    Finding::Refused { why: why.why }
}

fn unopened(why: StoreError) -> Failure {
    if why.is_permanent() { Failure::permanent(why) } else { Failure::later(why) }
}

/// Files that root made while it looked are given to whose directory it is: the daemon must still be able to write
/// them. Not root, this cannot be needed and is refused.
pub(super) fn leave_to_owner(dir: &Path) {
    let Ok(owner) = fs::metadata(dir) else { return };
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(about) = entry.metadata() else { continue };
            if about.uid() != owner.uid() {
                // Refused, it stays as it is; the daemon says what it cannot write.
                let _ = lchown(entry.path(), Some(owner.uid()), Some(owner.gid()));
            }
            if about.is_dir() {
                folders.push(entry.path());
            }
        }
    }
}
