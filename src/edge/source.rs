//! Where a drain's events are, and where what became of them is recorded.

use std::fmt;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::claims::Share;
use crate::store::{Seq, Settle, Store, StoreError, Stretch};
use crate::time::UnixMillis;

/// One or the other; clones are handles to the same.
#[derive(Clone)]
pub enum Source {
    /// This daemon's own store.
    Own(Store),
    /// The part of a shared outbox that this node has claimed.
    Shared(Share),
}

/// Why something is not recorded.
#[derive(Clone, Debug)]
pub enum Unrecorded {
    /// The store.
    Store(StoreError),
    /// Another node has the call now, or may have.
    Lost,
}

impl fmt::Display for Unrecorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(why) => why.fmt(f),
            Self::Lost => f.write_str("another node may have the call now"),
        }
    }
}

impl Source {
    /// Records this, behind whatever was begun before; done when it is durable. The store's own begins when it is first
    /// polled.
    #[must_use]
    pub fn settle(&self, settles: Vec<Settle>) -> BoxFuture<'static, Result<(), Unrecorded>> {
        match self {
            Self::Own(store) => {
                let store = store.clone();
                Box::pin(async move { store.settle(settles).await.map_err(Unrecorded::Store) })
            }
            Self::Shared(share) => Box::pin(share.settle(settles)),
        }
    }

    /// Before a request for an event is begun, which may take so long: an error says that it must not be. That it is begun
    /// is recorded first, with `guard`; and taken back if it is not after all, so that whoever has the event next need not
    /// take it for one that may have arrived.
    ///
    /// # Errors
    /// [`Store`](Unrecorded::Store): it could not be recorded. [`Lost`](Unrecorded::Lost): the event is not this node's to
    /// send, or not for as long.
    pub async fn begin(
        &self,
        seq: Seq,
        guard: Option<UnixMillis>,
        request: Duration,
    ) -> Result<(), Unrecorded> {
        if !self.holds(seq, request) {
            return Err(Unrecorded::Lost);
        }
        let Some(at) = guard else { return Ok(()) };
        self.settle(vec![Settle::Attempt { seq, at }]).await?;
        if !self.holds(seq, request) {
            // Where another node has it now, that is what it finds.
            let _ = self.settle(vec![Settle::Unattempted { seq }]).await;
            return Err(Unrecorded::Lost);
        }
        Ok(())
    }

    /// Whether an event is still this node's to send, by a request that may take so long.
    fn holds(&self, seq: Seq, request: Duration) -> bool {
        match self {
            Self::Own(_) => true,
            Self::Shared(share) => share.holds(seq, request),
        }
    }

    /// Lets go of the call of an event that is not this node's to send; all of its events that it had.
    #[must_use]
    pub fn let_go(&self, seq: Seq) -> Vec<Seq> {
        match self {
            Self::Own(_) => Vec::new(),
            Self::Shared(share) => share.let_go(seq),
        }
    }

    /// Says whether this node can post: it reaches Zammad and is not paused. What it has of a shared outbox is for another
    /// node while it cannot: whether its calls are to be given back.
    #[must_use]
    pub fn yields(&self, posts: bool) -> bool {
        match self {
            Self::Own(_) => false,
            Self::Shared(share) => share.yields(posts),
        }
    }

    /// Gives the calls of these events back, behind whatever was begun before.
    pub fn give_back(&self, seqs: &[Seq]) {
        match self {
            Self::Own(_) => {}
            Self::Shared(share) => share.give_back(seqs),
        }
    }

    /// Waiting rows from this position on, as [`Store::readable_from`] reads them. Blocks. Those of the shared outbox are
    /// handed out as they are claimed, so there are none to ask for.
    ///
    /// # Errors
    /// As the store's.
    pub fn readable_from(
        &self,
        from: Seq,
        limit: usize,
        damaged: impl FnMut(Seq, &StoreError),
    ) -> Result<Stretch, StoreError> {
        match self {
            Self::Own(store) => store.readable_from(from, limit, damaged),
            Self::Shared(_) => Ok(Stretch { rows: vec![], next: from, more_to_come: false }),
        }
    }
}
