//! The page's live view: a snapshot each second, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::Event;
use futures_util::{Stream, stream};
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

use super::Admin;
use crate::edge::clock;
use crate::edge::control::Live;
use crate::edge::status::{self, Seen};
use crate::store::Store;
use crate::time::UnixMillis;

/// How often it is told how things are.
const TICK: Duration = Duration::from_secs(1);

/// What one viewer sees.
pub(super) struct Viewer {
    pub(super) store: Store,
    pub(super) live: Arc<Live>,
    pub(super) admin: Arc<Admin>,
    pub(super) session: Option<String>,
    pub(super) seen: Seen,
    pub(super) place: OwnedSemaphorePermit,
}

/// Ends when the session does, so that nobody looks on who may not any more.
pub(super) fn ticks(viewer: Viewer) -> impl Stream<Item = Result<Event, Infallible>> {
    // The whole history first, then what is new, the sample that still grows included.
    stream::unfold((viewer, None), |(viewer, shown): (Viewer, Option<UnixMillis>)| async move {
        if shown.is_some() {
            tokio::time::sleep(TICK).await;
        }
        let now = clock::now();
        if viewer.session.as_deref().is_some_and(|session| !viewer.admin.keys.admits(session, now)) {
            return None;
        }
        let all = snapshot(&viewer, shown.unwrap_or_default()).await?;
        let newest = all["history"]["samples"].as_array().and_then(|all| all.last()?[0].as_u64());
        let event = Event::default().event("snapshot").data(all.to_string());
        Some((Ok(event), (viewer, Some(newest.map_or(shown.unwrap_or_default(), UnixMillis)))))
    })
}

/// `None` only if the program ends.
async fn snapshot(viewer: &Viewer, from: UnixMillis) -> Option<Value> {
    let (store, live, seen) = (viewer.store.clone(), Arc::clone(&viewer.live), viewer.seen);
    let read = move || status::snapshot(&store, Some(&live), seen, from);
    let mut all = tokio::task::spawn_blocking(read).await.ok()?;
    all["session"] = viewer.session.is_some().into();
    // Held as long as the viewer looks.
    let _ = &viewer.place;
    Some(all)
}
