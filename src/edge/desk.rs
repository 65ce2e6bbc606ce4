//! An operator's questions and orders about the rows of the shared outbox: answered by the running daemon, or, when none
//! runs, by whoever is asked, with the same words as those of a store. Decides nothing: the nodes find what has changed.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Mutex, Notify};

use super::answers::Refusal;
use super::control::{Kind, Selection};
use super::rows;
use crate::outbox::{After, Entry, Link, Named, OutboxError, Settings, State};

/// Most events that are put back in one transaction, which others wait for.
const PAGE: usize = 500;

/// A question or an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// Rows, oldest first: one page.
    List {
        /// Which.
        kind: Kind,
        /// Behind this one.
        after: After,
        /// At most so many.
        limit: usize,
    },
    /// Everything about one event (by its identity) or one call (by its id).
    Show {
        /// Identity or call id.
        id: String,
    },
    /// Puts events back.
    Replay {
        /// These, dead or delivered.
        these: Selection,
        /// Only says what would be done.
        dry_run: bool,
    },
    /// Pending events are to wait, or to go on.
    Hold {
        /// Which.
        these: Selection,
        /// Whether they wait.
        held: bool,
    },
    /// Events are to be forgotten.
    Delete {
        /// Which.
        these: Selection,
    },
    /// How many of these events still wait.
    Waiting {
        /// Their identities.
        ids: Vec<String>,
    },
}

/// Where questions are answered, one after the other. Clones are handles to the same.
#[derive(Clone)]
pub struct Desk {
    link: Arc<Mutex<Link>>,
    zammads: Arc<[String]>,
    /// Somebody has changed something: whoever shows figures looks anew.
    changed: Arc<Notify>,
    keys: RandomState,
}

impl Desk {
    /// `zammads` are the configured names.
    #[must_use]
    pub fn new(settings: Arc<Settings>, zammads: Vec<String>) -> Self {
        let link = Arc::new(Mutex::new(Link::new(settings)));
        Self { link, zammads: zammads.into(), changed: Arc::default(), keys: RandomState::new() }
    }

    /// Notified after each order.
    #[must_use]
    pub fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }

    /// The Zammads by their configured names.
    #[must_use]
    pub fn zammads(&self) -> &[String] {
        &self.zammads
    }

    /// What names an event for those who may see no number, which stands in many a call's id: good until this program ends.
    #[must_use]
    pub fn key(&self, id: &str) -> String {
        format!("{:016x}", self.keys.hash_one(id))
    }

    /// Puts every dead letter back that there is now. Returns how many.
    ///
    /// # Errors
    /// [`Refusal`] if the outbox does not answer; some may have been put back.
    pub async fn replay_dead(&self) -> Result<usize, Refusal> {
        let mut link = self.link.lock().await;
        let (mut ids, mut after) = (Vec::new(), After { ms: i64::MIN, ..After::default() });
        // All of them first: what is refused anew meanwhile is not put back once more.
        loop {
            let page = link.list(State::Dead, &after, PAGE).await.map_err(refused)?;
            let Some(last) = page.last() else { break };
            let ms = i64::try_from(last.settled.unwrap_or_default().0).unwrap_or(i64::MAX);
            after = After { zammad: last.zammad.clone(), ms, id: last.id.clone() };
            ids.extend(page.into_iter().map(|entry| entry.id));
        }
        let mut back = 0;
        for page in ids.chunks(PAGE) {
            let done = self.ordered(link.revive(&self.named(page, None)).await);
            back += done.map_err(refused)?.len();
        }
        Ok(back)
    }

    /// What is answered: rows, as [`rows::in_outbox`] has them.
    ///
    /// # Errors
    /// [`Refusal`] if the outbox does not answer.
    pub async fn answer(&self, ask: Ask) -> Result<Vec<Value>, Refusal> {
        if matches!(&ask, Ask::Waiting { ids } if ids.is_empty()) {
            // Whether there is an outbox at all.
            return Ok(vec![json!({ "waiting": 0 })]);
        }
        let mut link = self.link.lock().await;
        let found = match ask {
            Ask::List { kind, after, limit } => link.list(state(kind), &after, limit).await,
            Ask::Show { id } => link.find(&self.named(std::slice::from_ref(&id), Some(&id))).await,
            Ask::Replay { these, dry_run: true } => {
                let found = link.find(&self.selected(&these)).await;
                found.map(|all| all.into_iter().filter(|it| it.state != State::Pending).collect())
            }
            Ask::Replay { these, dry_run: false } => self.ordered(link.revive(&self.selected(&these)).await),
            Ask::Hold { these, held } => self.ordered(link.hold(&self.selected(&these), held).await),
            Ask::Delete { these } => self.ordered(link.remove(&self.selected(&these)).await),
            Ask::Waiting { ids } => {
                let waiting = link.still_waiting(&ids).await.map_err(refused)?;
                return Ok(vec![json!({ "waiting": waiting })]);
            }
        };
        Ok(found.map_err(refused)?.iter().map(rows::in_outbox).collect())
    }

    fn ordered(&self, done: Result<Vec<Entry>, OutboxError>) -> Result<Vec<Entry>, OutboxError> {
        self.changed.notify_one();
        done
    }

    fn selected(&self, these: &Selection) -> Named {
        self.named(&these.ids, these.call.as_deref())
    }

    fn named(&self, ids: &[String], call: Option<&str>) -> Named {
        Named { ids: ids.to_vec(), call: call.map(str::to_owned), zammads: self.zammads.to_vec() }
    }
}

const fn state(kind: Kind) -> State {
    match kind {
        Kind::Pending => State::Pending,
        Kind::Dead => State::Dead,
        Kind::Delivered => State::Delivered,
    }
}

/// What has been done of it all the same is not known then.
fn refused(why: OutboxError) -> Refusal {
    match why {
        OutboxError::Away(_) => Refusal::Later(why.to_string()),
        OutboxError::Refused(_) | OutboxError::Newer { .. } | OutboxError::Foreign { .. } => {
            Refusal::Senseless(why.to_string())
        }
    }
}
