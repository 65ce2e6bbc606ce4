//! What is asked of the [writer](super::writer), and what came of it.

use tokio::sync::oneshot;

use super::error::StoreError;
use super::group::{Group, NewEvent, NewState};
use super::{Pending, Seq, Settle};
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
