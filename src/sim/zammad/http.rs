//! One request in, one answer out: the checks Zammad makes before the log is asked, and the shape of answers.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, State};
use axum::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, Method, Response, Uri};
use serde_json::{Map, Value, json};

use super::door::Cut;
use super::fault::{Answer, Outcome};
use super::log::Verdict;
use super::{Inner, Shared};

pub(super) const CTI: &str = "/api/v1/cti/";

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new().fallback(handle).with_state(shared)
}

async fn handle(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(Cut(connection)): ConnectInfo<Cut>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let request = Request { method, path: uri.path().to_owned(), headers, body };
    // Dropped with this future: a client that goes away no longer counts as in flight.
    let visit = shared.arrived(&request);
    let fault = visit.fault.clone();
    tokio::time::sleep(fault.before).await;
    let said = match fault.outcome {
        Outcome::ResetBefore => None,
        Outcome::AnswerInstead(answer) => Some(answer),
        Outcome::Usual => Some(visit.process(&request)),
        Outcome::AnswerAfter(answer) => {
            visit.process(&request);
            Some(answer)
        }
        Outcome::ResetAfter => {
            visit.process(&request);
            None
        }
    };
    tokio::time::sleep(fault.after).await;
    match said {
        Some(answer) => {
            visit.answered(answer.status);
            respond(answer)
        }
        None => {
            connection.cancel();
            Response::new(Body::empty())
        }
    }
}

fn respond(answer: Answer) -> Response<Body> {
    let mut response = Response::builder().status(answer.status);
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    response.body(Body::from(answer.body)).expect("a scripted answer has a valid status and headers")
}

pub(super) struct Request {
    pub(super) method: Method,
    pub(super) path: String,
    headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Request {
    /// Whether it is posted to the CTI, with whatever token.
    pub(super) fn is_cti(&self) -> bool {
        self.method == Method::POST && self.cti_token().is_some()
    }

    fn cti_token(&self) -> Option<&str> {
        self.path.strip_prefix(CTI).filter(|rest| !rest.contains('/'))
    }

    /// The posted fields; `None` if the body is not what its Content-Type says.
    pub(super) fn params(&self) -> Option<Map<String, Value>> {
        let content_type = self.header(CONTENT_TYPE.as_str()).unwrap_or_default();
        if content_type.starts_with("application/x-www-form-urlencoded") {
            return Some(form(&self.body));
        }
        if !content_type.starts_with("application/json") || self.body.is_empty() {
            return Some(Map::new());
        }
        match serde_json::from_slice(&self.body).ok()? {
            Value::Object(params) => Some(params),
            _ => Some(Map::new()),
        }
    }

    /// Rails serves exceptions as JSON only to who asks for it; a browser's Accept, or none, gets a page.
    fn wants_json(&self) -> bool {
        self.header(ACCEPT.as_str()).is_some_and(|accept| accept.contains("json") || accept.trim() == "*/*")
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn rest_token(&self) -> Option<&str> {
        let value = self.header(AUTHORIZATION.as_str())?.strip_prefix("Token ")?.trim();
        Some(value.strip_prefix("token=")?.trim_matches('"'))
    }
}

impl Inner {
    /// What Zammad does and says, faults aside.
    pub(super) fn process(&mut self, request: &Request) -> Answer {
        if let ("GET", "/api/v1/cti/log") = (request.method.as_str(), request.path.as_str()) {
            return self.refuse_rest(request).unwrap_or_else(|| self.list());
        }
        if let (&Method::POST, Some(id)) = (&request.method, request.path.strip_prefix("/api/v1/cti/done/")) {
            return self.refuse_rest(request).unwrap_or_else(|| self.set_done(id, request));
        }
        match request.cti_token().filter(|_| request.is_cti()) {
            Some(token) => self.cti(token, request),
            None => {
                let text = format!("No route matches [{}] {}", request.method, request.path);
                said(404, &json!({ "error": text }))
            }
        }
    }

    fn cti(&mut self, token: &str, request: &Request) -> Answer {
        let Some(params) = request.params() else {
            return said(400, &json!({"status": 400, "error": "Bad Request"}));
        };
        let now = self.now();
        let verdict = if !self.settings.enabled {
            Verdict::Said(422, "Feature is disabled, please contact your administrator!")
        } else if let Some(routing) = &self.settings.routing {
            if token == self.settings.token {
                self.log.post(&params, routing, now)
            } else {
                Verdict::Said(401, "Invalid token, please contact your admin!")
            }
        } else {
            Verdict::Said(422, "Feature not configured, please contact your admin!")
        };
        match verdict {
            Verdict::Ok(body) => said(200, &body),
            Verdict::Said(status, text) => said(status, &json!({ "error": text })),
            Verdict::Raised(status, _) | Verdict::Fault(status) if !request.wants_json() => {
                Answer::rails(status)
            }
            Verdict::Raised(status, text) => said(status, &json!({"error": text, "error_human": text})),
            Verdict::Fault(status) => said(status, &json!({ "error": error_id() })),
        }
    }

    fn refuse_rest(&self, request: &Request) -> Option<Answer> {
        let (status, text) = match (request.rest_token(), &self.settings.rest_token) {
            (Some(got), Some(right)) if got == right => return None,
            (Some(_), _) => (401, "Can't find User for Token"),
            (None, _) => (403, "Authentication required"),
        };
        Some(said(status, &json!({"error": text, "error_human": text})))
    }

    fn list(&self) -> Answer {
        let list: Vec<Value> = self.log.newest().into_iter().map(super::Row::to_json).collect();
        said(200, &json!({"list": list, "assets": {}}))
    }

    fn set_done(&mut self, id: &str, request: &Request) -> Answer {
        let done = request.params().and_then(|p| p.get("done").and_then(Value::as_bool)).unwrap_or(true);
        if id.parse().is_ok_and(|id| self.log.set_done(id, done)) {
            return said(200, &json!({}));
        }
        said(404, &json!({ "error": format!("Couldn't find Cti::Log with 'id'={id}") }))
    }
}

/// Zammad sets a session cookie on every answer; a client has no use for it.
fn said(status: u16, body: &Value) -> Answer {
    Answer::json(status, &body.to_string()).with_header("set-cookie", "_zammad_session=0; path=/; HttpOnly")
}

fn error_id() -> String {
    let id: String = (0..8).map(|_| fastrand::alphanumeric()).collect();
    format!("Error ID {id}: Please contact your administrator.")
}

/// Of a repeated key the last counts; `key[]` collects an array, as Rails reads it.
fn form(body: &[u8]) -> Map<String, Value> {
    let mut params = Map::new();
    for pair in body.split(|b| *b == b'&').filter(|pair| !pair.is_empty()) {
        let end = pair.iter().position(|b| *b == b'=').unwrap_or(pair.len());
        let (key, value) = (unescape(&pair[..end]), unescape(pair.get(end + 1..).unwrap_or_default()));
        match key.strip_suffix("[]") {
            None => _ = params.insert(key, value.into()),
            Some(key) => match params.entry(key).or_insert_with(|| json!([])) {
                Value::Array(all) => all.push(value.into()),
                other => *other = value.into(),
            },
        }
    }
    params
}

fn unescape(text: &[u8]) -> String {
    let spaced: Vec<u8> = text.iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect();
    percent_encoding::percent_decode(&spaced).decode_utf8_lossy().into_owned()
}
