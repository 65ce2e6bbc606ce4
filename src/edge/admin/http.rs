//! Requests in, answers out.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tracing::info;

use super::stream::{Viewer, ticks};
use super::{Admin, gate, health, metrics};
use crate::edge::answers::{self, Refusal};
use crate::edge::clock;
use crate::edge::control::{self, Live, Outbox, Selection};
use crate::edge::desk::Ask;
use crate::edge::status::{self, Seen};
use crate::store::Store;
use crate::time::UnixMillis;

/// Most viewers of the live view.
const VIEWERS_MAX: usize = 16;
/// Largest body of a request, in bytes.
const BODY_MAX: usize = 64 * 1024;
/// How long a request may take, its body included. Streams go on beyond it.
const REQUEST_MAX: Duration = Duration::from_secs(30);

/// Nothing from anywhere else, no code but our own files, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

/// On every answer.
const HEADERS: [(&str, &str); 6] = [
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
];

#[derive(Clone)]
struct Site {
    store: Store,
    live: Arc<Live>,
    admin: Arc<Admin>,
    places: Arc<Semaphore>,
}

pub(super) fn router(store: Store, live: Live, admin: Arc<Admin>) -> Router {
    let site = Site { store, live: Arc::new(live), admin, places: Arc::new(Semaphore::new(VIEWERS_MAX)) };
    let file =
        |kind: &'static str, text: &'static str| get(move || async move { ([(CONTENT_TYPE, kind)], text) });
    let script = |text| file("text/javascript; charset=utf-8", text);
    Router::new()
        .route("/", file("text/html; charset=utf-8", include_str!("page/index.html")))
        .route("/page.css", file("text/css; charset=utf-8", include_str!("page/page.css")))
        .route("/page.js", script(include_str!("page/page.js")))
        .route("/parts.js", script(include_str!("page/parts.js")))
        .route("/plot.js", script(include_str!("page/plot.js")))
        .route("/words.js", script(include_str!("page/words.js")))
        .route("/icon.svg", file("image/svg+xml", include_str!("page/icon.svg")))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(show_metrics))
        .route("/api/status", get(show_status))
        .route("/api/live", get(show_live))
        .route("/api/session", post(begin_session))
        .route("/api/session/end", post(end_session))
        .route("/api/replay", post(replay))
        .fallback(|| async { refused(StatusCode::NOT_FOUND, "there is nothing here") })
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::from_fn_with_state(site.clone(), guard))
        .with_state(site)
}

/// Before and after everything.
async fn guard(State(site): State<Site>, request: Request, next: Next) -> Response {
    let ordered = request.method() != Method::GET && request.method() != Method::HEAD;
    let mut response = if !gate::is_for_us(request.uri(), request.headers(), site.admin.host.as_deref()) {
        refused(
            StatusCode::MISDIRECTED_REQUEST,
            "ask for this by its address, or by the host that [admin] names",
        )
    } else if ordered && !gate::is_same_origin(request.headers()) {
        refused(StatusCode::FORBIDDEN, "orders come from this page alone")
    } else {
        match tokio::time::timeout(REQUEST_MAX, next.run(request)).await {
            Ok(response) => response,
            Err(_) => refused(StatusCode::REQUEST_TIMEOUT, "that took too long"),
        }
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

async fn livez(State(site): State<Site>) -> Response {
    probe(&health::not_live(&site.live))
}

async fn readyz(State(site): State<Site>) -> Response {
    probe(&health::not_ready(&site.live.links(), clock::now()))
}

fn probe(faults: &[String]) -> Response {
    if faults.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", faults.join("\n"))).into_response()
}

async fn show_metrics(State(site): State<Site>) -> Response {
    let read = move || metrics::text(&site.store, &site.live);
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(text)) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Ok(Err(_)) | Err(_) => refused(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written"),
    }
}

impl Site {
    /// The session that the request names, if it names any, and what it may see; or one sentence on why it may not.
    fn admit(&self, headers: &HeaderMap, uri: &Uri) -> Result<(Option<String>, Seen), &'static str> {
        let session = gate::session(headers);
        let known = session.is_none_or(|session| self.admin.keys.admits(session, clock::now()));
        match (known, session, uri.query() == Some("reveal=1")) {
            (false, _, _) => Err("this session is over"),
            (true, None, true) => Err("numbers are shown in a session only"),
            (true, session, false) => Ok((session.map(str::to_owned), Seen::Masked)),
            (true, session, true) => Ok((session.map(str::to_owned), Seen::Whole)),
        }
    }
}

async fn show_status(State(site): State<Site>, uri: Uri, headers: HeaderMap) -> Response {
    let seen = match site.admit(&headers, &uri) {
        Ok((_, seen)) => seen,
        Err(why) => return refused(StatusCode::UNAUTHORIZED, why),
    };
    let read = move || status::snapshot(&site.store, Some(&site.live), seen, UnixMillis(0));
    match tokio::task::spawn_blocking(read).await {
        Ok(all) => Json(all).into_response(),
        Err(_) => refused(StatusCode::INTERNAL_SERVER_ERROR, "the daemon is stopping"),
    }
}

async fn show_live(State(site): State<Site>, uri: Uri, headers: HeaderMap) -> Response {
    let (session, seen) = match site.admit(&headers, &uri) {
        Ok(admitted) => admitted,
        Err(why) => return refused(StatusCode::UNAUTHORIZED, why),
    };
    let Ok(place) = Arc::clone(&site.places).try_acquire_owned() else {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "too many are looking already; close another tab");
    };
    let Site { store, live, admin, .. } = site;
    let viewer = Viewer { store, live, admin, session, seen, place };
    Sse::new(ticks(viewer)).keep_alive(KeepAlive::default()).into_response()
}

#[derive(Deserialize)]
struct Begin {
    key: String,
}

async fn begin_session(State(site): State<Site>, begin: Result<Json<Begin>, JsonRejection>) -> Response {
    let Json(Begin { key }) = match begin {
        Ok(begin) => begin,
        Err(why) => return refused(why.status(), &why.body_text()),
    };
    match site.admin.keys.redeem(&key, clock::now()) {
        Ok(Some(session)) => {
            info!(name: "page_session_opened", "a session of the status page was opened");
            Json(json!({ "session": session })).into_response()
        }
        Ok(None) => refused(
            StatusCode::UNAUTHORIZED,
            "this link was used already, or its five minutes are over; make another",
        ),
        Err(_) => refused(StatusCode::INTERNAL_SERVER_ERROR, "the system has no randomness to give"),
    }
}

async fn end_session(State(site): State<Site>, headers: HeaderMap) -> Response {
    if let Some(session) = gate::session(&headers) {
        site.admin.keys.end(session);
    }
    Json(json!({})).into_response()
}

/// Which dead letters: these, or all of them.
#[derive(Deserialize)]
struct Replay {
    #[serde(default)]
    seqs: Vec<u64>,
    /// Of the shared outbox.
    #[serde(default)]
    keys: Vec<String>,
    #[serde(default)]
    all: bool,
}

async fn replay(
    State(site): State<Site>,
    headers: HeaderMap,
    order: Result<Json<Replay>, JsonRejection>,
) -> Response {
    if !gate::session(&headers).is_some_and(|session| site.admin.keys.admits(session, clock::now())) {
        return refused(StatusCode::UNAUTHORIZED, "events are put back in a session only");
    }
    let order = match order {
        Ok(Json(order)) => order,
        Err(why) => return refused(why.status(), &why.body_text()),
    };
    match put_back(site, order).await {
        Ok(events) => {
            info!(name: "page_replayed", events, "events were put back into the queue from the status page");
            Json(json!({ "replayed": events })).into_response()
        }
        Err(why) => refused(StatusCode::SERVICE_UNAVAILABLE, &why.to_string()),
    }
}

/// In the outbox first: if it does not answer, nothing is done.
async fn put_back(site: Site, Replay { seqs, keys, all }: Replay) -> Result<usize, Refusal> {
    let mut events = 0;
    if let Some(Outbox { desk, fleet, .. }) = &site.live.outbox {
        if all {
            events += desk.replay_dead().await?;
        } else if !keys.is_empty() {
            let shown = fleet.borrow().newest_dead.clone();
            let meant = shown.into_iter().map(|entry| entry.id).filter(|id| keys.contains(&desk.key(id)));
            let these = Selection { ids: meant.collect(), ..Selection::default() };
            events += desk.answer(Ask::Replay { these, dry_run: false }).await?.len();
        }
    }
    let these = Selection { seqs, ..Selection::default() };
    let request = control::Request::Replay { dead: all, these, dry_run: false };
    Ok(events + answers::aside(site.store, site.live, request).await?.len())
}

fn refused(status: StatusCode, why: &str) -> Response<Body> {
    let answer: Value = json!({ "error": why });
    (status, Json(answer)).into_response()
}
