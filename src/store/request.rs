//! What is asked of the [writer](super::writer), encoded by who asks, and what came of it.

use tokio::sync::oneshot;

use super::error::StoreError;
use super::group::{Group, NewEvent, NewState};
use super::record::{PIECE_MAX, Stored};
use super::{Accepting, EVENT_MAX, KEY_MAX, Pending, STATE_MAX, Seq, Settle, StateChange};
use crate::time::UnixMillis;

/// Where a request's outcome goes.
pub(super) type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the handle asks for. Sizes were checked there.
pub(super) enum Request {
    Accept {
        events: Vec<NewEvent>,
        state: Vec<NewState>,
        answer: Answer<Vec<Option<Seq>>>,
    },
    Settle {
        settles: Vec<Settle>,
        answer: Answer<()>,
    },
    Revive {
        seqs: Vec<Seq>,
        answer: Answer<Vec<(Seq, Pending)>>,
    },
    Trim {
        now: UnixMillis,
        answer: Answer<()>,
    },
    Close {
        answer: Answer<()>,
    },
    /// A task has tried to write, and could not.
    Look,
}

/// What came of a request.
pub(super) enum Outcome {
    Accepted(Result<Vec<Option<Seq>>, StoreError>),
    Settled(Result<(), StoreError>),
    Revived(Result<Vec<(Seq, Pending)>, StoreError>),
    Done,
}

impl Outcome {
    /// Why, if the disk takes nothing now.
    pub(super) fn disk_refuses(&self) -> Option<StoreError> {
        let why = match self {
            Self::Accepted(Err(why)) | Self::Settled(Err(why)) | Self::Revived(Err(why)) => why,
            Self::Accepted(Ok(_)) | Self::Settled(Ok(())) | Self::Revived(Ok(_)) | Self::Done => return None,
        };
        matches!(why, StoreError::Io { .. }).then(|| why.clone())
    }
}

/// Makes changes of a request; `before` is what came of it at the first try, if this is another.
pub(super) fn take_in(group: &mut Group<'_>, request: &Request, before: Option<&Outcome>) -> Outcome {
    match request {
        Request::Accept { events, state, answer: _ } => {
            let before = match before {
                Some(Outcome::Accepted(Ok(seqs))) => Some(seqs.as_slice()),
                _ => None,
            };
            Outcome::Accepted(group.accept(events, state, before))
        }
        Request::Settle { settles, answer: _ } => Outcome::Settled(group.settle(settles)),
        Request::Revive { seqs, answer: _ } => {
            let before = match before {
                Some(Outcome::Revived(Ok(rows))) => rows.as_slice(),
                _ => &[],
            };
            Outcome::Revived(group.revive(seqs, before))
        }
        Request::Trim { now, answer: _ } => {
            group.saw(*now);
            Outcome::Done
        }
        Request::Close { answer: _ } | Request::Look => unreachable!("none of a group"),
    }
}

/// Tells one caller. One that stopped waiting is no fault: what it asked for is written all the same.
pub(super) fn answer(request: Request, outcome: Outcome) {
    match (request, outcome) {
        (Request::Accept { answer, .. }, Outcome::Accepted(outcome)) => drop(answer.send(outcome)),
        (Request::Settle { answer, .. }, Outcome::Settled(outcome)) => drop(answer.send(outcome)),
        (Request::Revive { answer, .. }, Outcome::Revived(outcome)) => drop(answer.send(outcome)),
        (Request::Trim { answer, .. }, Outcome::Done) => drop(answer.send(Ok(()))),
        (request, _) => refuse(request, StoreError::Closed),
    }
}

/// Tells one caller that nothing came of it.
pub(super) fn refuse(request: Request, why: StoreError) {
    match request {
        Request::Accept { answer, .. } => drop(answer.send(Err(why))),
        Request::Revive { answer, .. } => drop(answer.send(Err(why))),
        Request::Settle { answer, .. } | Request::Trim { answer, .. } | Request::Close { answer } => {
            drop(answer.send(Err(why)));
        }
        Request::Look => {}
    }
}

/// What is to be accepted, as it is stored.
///
/// # Errors
/// [`StoreError::TooLarge`].
pub(super) fn encoded(accepting: Accepting) -> Result<(Vec<NewEvent>, Vec<NewState>), StoreError> {
    let events = accepting.events.into_iter().map(new_event).collect::<Result<_, _>>()?;
    let state = accepting.state.into_iter().map(new_state).collect::<Result<_, _>>()?;
    Ok((events, state))
}

pub(super) fn new_event(pending: Pending) -> Result<NewEvent, StoreError> {
    bounded(|| format!("the id {:.40}…", pending.id), pending.id.len(), KEY_MAX)?;
    let payload = pending.encode();
    bounded(|| format!("event {}", pending.id), payload.len(), EVENT_MAX)?;
    Ok(NewEvent { id: pending.id, payload })
}

fn new_state(change: StateChange) -> Result<NewState, StoreError> {
    let StateChange { key: name, value } = change;
    bounded(|| format!("the state key {name:.40}…"), name.len(), KEY_MAX)?;
    let pieces = match value {
        None => Vec::new(),
        Some(value) if value.len() <= PIECE_MAX => vec![value],
        Some(value) => {
            bounded(|| format!("the state of {name}"), value.len(), STATE_MAX)?;
            value.chunks(PIECE_MAX).map(<[u8]>::to_vec).collect()
        }
    };
    Ok(NewState { name, pieces })
}

fn bounded(what: impl FnOnce() -> String, bytes: usize, max: usize) -> Result<(), StoreError> {
    if bytes > max { Err(StoreError::TooLarge { what: what(), bytes, max }) } else { Ok(()) }
}
