//! What Zammad's answer to an event means. Pure: the answers table of its Generic CTI, one function per question.
//!
//! | answer | verdict |
//! |---|---|
//! | 200 with a JSON object | [`Verdict::Done`]; it may carry `reject` (block list) or `dial` (routing) |
//! | 500 or 422 "… already exists …" on a newCall | [`Verdict::Done`]: it was delivered before |
//! | another 500 on answer or hangup | [`Verdict::RowUnknown`]: Zammad does not know the call, or failed inside |
//! | 401, 403, 404, 3xx, 422 "Feature is disabled/not configured", a certificate that does not fit | [`Verdict::Misconfigured`] |
//! | 400, 413, another 422 | [`Verdict::Refused`]: the event itself is at fault; unless it is said in [`unknown_words`] |
//! | refused, DNS, nothing sent; 408, 429, 502, 503 | [`Verdict::Away`]: surely not processed |
//! | timeout or reset after sending, 504, any other 5xx, a 200 that is no JSON | [`Verdict::Unsure`]: may have been processed |

use std::time::Duration;

use serde_json::Value;

use super::event::What;

/// What came of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer, whole.
    Reply(Reply),
    /// Nothing of the request reached Zammad: refused, unreachable, unknown host.
    NotSent(String),
    /// The request was sent, at least in part, and no whole answer came.
    NoAnswer(String),
    /// TLS could not be agreed on: an untrusted or wrong certificate.
    Untrusted(String),
}

/// One HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Body, lossily decoded, cut to a bound.
    pub body: String,
    /// `Retry-After`, if it gives seconds.
    pub retry_after: Option<Duration>,
    /// `Location` of a redirect.
    pub location: Option<String>,
}

/// What the sender must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Delivered.
    Done(Done),
    /// Zammad has no row for this call, or failed inside, perhaps after saving.
    RowUnknown(String),
    /// Surely not processed: try again, not before `after`.
    Away {
        /// One sentence.
        why: String,
        /// What Zammad asked for.
        after: Option<Duration>,
    },
    /// May have been processed.
    Unsure(String),
    /// A person must mend the configuration, here or in Zammad. No event is at fault.
    Misconfigured(String),
    /// This event will never be accepted.
    Refused(String),
}

/// How an event was delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// Accepted.
    Accepted,
    /// The newCall had been delivered before; the row is untouched.
    AlreadyKnown,
    /// The caller is on Zammad's block list; the entry stands and still needs its hangup.
    Rejected {
        /// Zammad's word for it, usually `busy`.
        reason: String,
    },
    /// Zammad's routing table names a caller id for this outbound call.
    Dial {
        /// The number to present.
        caller_id: String,
        /// The number to dial.
        number: String,
    },
}

/// What Zammad's log says of a call whose hangup may or may not have been processed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Looked {
    /// It is hung up, and its missed mark is as it should be.
    Processed,
    /// It still rings.
    Unprocessed,
    /// It is not among the newest entries.
    NotListed,
    /// The log could not be read.
    Failed(String),
}

/// A row of Zammad's caller log, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRow {
    /// Zammad's own number for it.
    pub id: u64,
    /// The call has ended.
    pub hung_up: bool,
    /// It is not marked as missed.
    pub done: bool,
}

/// Finds a call in the answer to `GET /api/v1/cti/log`, which shows the newest 60.
///
/// # Errors
/// One sentence, if the answer is not such a log.
pub fn find_call(outcome: &Outcome, call_id: &str) -> Result<Option<LogRow>, String> {
    let reply = match outcome {
        Outcome::Reply(reply) => reply,
        Outcome::NotSent(why) | Outcome::NoAnswer(why) | Outcome::Untrusted(why) => return Err(why.clone()),
    };
    if reply.status != 200 {
        return Err(format!("Zammad's caller log cannot be read with the REST token ({})", said(reply)));
    }
    let log: Value = serde_json::from_str(&reply.body).map_err(|_| "the caller log is no JSON".to_owned())?;
    let rows = log.get("list").and_then(Value::as_array).ok_or("the caller log has no list")?;
    let row = rows.iter().find(|row| row.get("call_id").and_then(Value::as_str) == Some(call_id));
    Ok(row.and_then(|row| {
        let hung_up = row.get("state")?.as_str()? == "hangup";
        Some(LogRow { id: row.get("id")?.as_u64()?, hung_up, done: row.get("done")?.as_bool()? })
    }))
}

/// What the outcome of posting `what` means.
#[must_use]
pub fn judge(what: &What, outcome: &Outcome) -> Verdict {
    let reply = match outcome {
        Outcome::Reply(reply) => reply,
        Outcome::NotSent(why) => return Verdict::Away { why: why.clone(), after: None },
        Outcome::NoAnswer(why) => return Verdict::Unsure(why.clone()),
        Outcome::Untrusted(why) => return untrusted(why),
    };
    let error = error_text(&reply.body);
    match reply.status {
        200..=299 => success(reply),
        500 | 422 if matches!(what, What::NewCall { .. }) && says_known(&error) => {
            Verdict::Done(Done::AlreadyKnown)
        }
        500 if !matches!(what, What::NewCall { .. }) => Verdict::RowUnknown(said(reply)),
        _ => faulty(reply),
    }
}

/// What the outcome of the probe (`{"direction":"probe"}`) means: [`Verdict::Done`] if events would be accepted.
///
/// Zammad checks enabled, configured, token and then the direction, so it answers 422 about the direction
/// exactly when everything a person must set is right; and nothing is created.
#[must_use]
pub fn judge_probe(outcome: &Outcome) -> Verdict {
    let reply = match outcome {
        Outcome::Reply(reply) => reply,
        Outcome::NotSent(why) | Outcome::NoAnswer(why) => {
            return Verdict::Away { why: why.clone(), after: None };
        }
        Outcome::Untrusted(why) => return untrusted(why),
    };
    if reply.status == 422 && error_text(&reply.body).contains("direction") {
        return Verdict::Done(Done::Accepted);
    }
    match faulty(reply) {
        Verdict::Unsure(why) => Verdict::Away { why, after: reply.retry_after },
        Verdict::Refused(why) => Verdict::Misconfigured(format!("this is not Zammad's CTI: {why}")),
        verdict @ (Verdict::Done(_)
        | Verdict::RowUnknown(_)
        | Verdict::Away { .. }
        | Verdict::Misconfigured(_)) => verdict,
    }
}

/// What was said, if Zammad refused a request in words that are not known here: translated ones, or those of a
/// version to come. The configuration may be at fault or the event. If an event and the probe are refused in
/// the very same words, both failed at the same check, and that is one the event's content has no part in.
#[must_use]
pub fn unknown_words(outcome: &Outcome) -> Option<String> {
    const EVENT: [&str; 4] = ["direction", "cti_logs", "required", "Error ID"];
    const CONFIGURATION: [&str; 2] = ["disabled", "not configured"];
    let Outcome::Reply(reply) = outcome else { return None };
    let error = error_text(&reply.body);
    let known = EVENT.iter().chain(&CONFIGURATION).any(|words| error.contains(words)) || says_known(&error);
    (reply.status == 422 && !known).then(|| said(reply))
}

/// Whether the probe's answer shows that the configuration was to blame for an event refused with `said`, which is what
/// [`unknown_words`] found.
#[must_use]
pub fn blames_configuration(said: &str, probe: &Outcome) -> bool {
    match unknown_words(probe) {
        Some(words) => words == said,
        None => matches!(judge_probe(probe), Verdict::Misconfigured(_)),
    }
}

/// What is said of a Zammad that refuses events and the probe in the same words.
#[must_use]
pub fn refused_alike(words: &str) -> String {
    format!(
        "Zammad refuses events and the probe alike: look at its settings, System > Integrations > CTI ({words})"
    )
}

fn success(reply: &Reply) -> Verdict {
    let Ok(Value::Object(object)) = serde_json::from_str(&reply.body) else {
        return Verdict::Unsure(format!("an answer that is not Zammad's: {}", said(reply)));
    };
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    Verdict::Done(match object.get("action").and_then(Value::as_str) {
        Some("reject") => Done::Rejected { reason: text("reason") },
        Some("dial") => Done::Dial { caller_id: text("caller_id"), number: text("number") },
        Some(_) | None => Done::Accepted,
    })
}

fn faulty(reply: &Reply) -> Verdict {
    let said = said(reply);
    let error = error_text(&reply.body);
    match reply.status {
        300..=399 => {
            let to = reply.location.as_deref().unwrap_or("elsewhere");
            Verdict::Misconfigured(format!(
                "Zammad redirects to {}: set the URL it really has",
                without_token(to).chars().take(200).collect::<String>()
            ))
        }
        401 => Verdict::Misconfigured(format!(
            "Zammad does not know this token: copy the URL again from its settings, System > Integrations > CTI ({said})"
        )),
        403 | 404 | 405 | 407 => {
            Verdict::Misconfigured(format!("nothing accepts events at this URL ({said})"))
        }
        422 if error.contains("disabled") || error.contains("not configured") => {
            Verdict::Misconfigured(format!(
                "Zammad's CTI integration is off: switch it on under System > Integrations > CTI ({said})"
            ))
        }
        // nginx, when http is spoken to its https port
        400 if error.contains("HTTPS port") => {
            Verdict::Misconfigured(format!("the URL must begin with https:// ({said})"))
        }
        400..=499 if !matches!(reply.status, 408 | 425 | 429) => Verdict::Refused(said),
        408 | 425 | 429 | 502 | 503 | 521..=523 => Verdict::Away { why: said, after: reply.retry_after },
        _ => Verdict::Unsure(said),
    }
}

/// Zammad's words for a newCall it has: of 3.4 and before, of today, and as its users' languages put them.
fn says_known(error: &str) -> bool {
    const WORDS: [&str; 6] =
        ["already exists", "existiert bereits", "existe déjà", "ya existe", "esiste già", "bestaat al"];
    let error = error.to_lowercase();
    WORDS.iter().any(|words| error.contains(words))
}

fn untrusted(why: &str) -> Verdict {
    Verdict::Misconfigured(format!(
        "Zammad's certificate is not trusted ({why}): name its CA with ca_file, or correct the host in the URL"
    ))
}

/// The text of Zammad's `error`, or the whole body where it is no JSON.
fn error_text(body: &str) -> String {
    match serde_json::from_str::<Value>(body) {
        Ok(Value::Object(object)) => match object.get("error") {
            Some(Value::String(text)) => text.clone(),
            Some(_) | None => body.to_owned(),
        },
        Ok(_) | Err(_) => body.to_owned(),
    }
}

/// Status and what was said, short enough for a log line, without markup, and once: the pages of web servers say in
/// their title what their heading says, and both begin with the status.
fn said(reply: &Reply) -> String {
    let page = error_text(&reply.body);
    let (all, title) = (shown(&page), shown(title(&page)));
    let text = match all.strip_prefix(&*title) {
        Some(rest) if rest.contains(&*title) => rest.trim_start(),
        Some(_) | None => &*all,
    };
    let status = reply.status.to_string();
    let text = match text.strip_prefix(&*status) {
        Some(rest) if rest.starts_with([':', ' ']) => rest.trim_start_matches([':', ' ']),
        Some(_) | None => text,
    };
    if text.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {text}") }
}

/// A page's title, or nothing.
fn title(page: &str) -> &str {
    const BEGINS: &str = "<title>";
    let lower = page.to_ascii_lowercase();
    let title = lower.find(BEGINS).map(|at| at + BEGINS.len());
    let ends = title.and_then(|at| Some(at + lower[at..].find("</title>")?));
    title.zip(ends).map_or("", |(from, to)| &page[from..to])
}

/// A text without markup and line breaks, with what it has of our token masked, cut to a bound.
fn shown(text: &str) -> String {
    const SHOWN: usize = 160;
    let mut shown = String::new();
    let mut in_tag = false;
    for c in text.chars() {
        match c {
            '<' => in_tag = true,
            '>' => in_tag = false,
            _ if in_tag => {}
            c if c.is_whitespace() || c.is_control() => {
                if !shown.is_empty() && !shown.ends_with(' ') {
                    shown.push(' ');
                }
            }
            c => shown.push(c),
        }
        if shown.chars().count() >= SHOWN {
            shown.push('…');
            break;
        }
    }
    without_token(shown.trim_end())
}

/// Redirects and the pages of web servers repeat the path that was asked for, and with it our token: as it is, as
/// a parameter of another address, as HTML or JSON write it.
fn without_token(text: &str) -> String {
    const SLASHES: [&str; 7] = ["/", "%2f", "%252f", "&#x2f;", "&#47;", "&sol;", "\\/"];
    let lower = text.to_ascii_lowercase();
    let (mut masked, mut copied) = (String::with_capacity(text.len()), 0);
    for (found, word) in lower.match_indices("cti") {
        let behind = found + word.len();
        let Some(slash) = SLASHES.iter().find(|slash| lower[behind..].starts_with(**slash)) else { continue };
        let start = behind + slash.len();
        let length = text[start..]
            .find(|c: char| !c.is_ascii_alphanumeric() && !"-_.~".contains(c))
            .unwrap_or(text.len() - start);
        if length > 0 && start >= copied {
            masked.push_str(&text[copied..start]);
            masked.push_str("****");
            copied = start + length;
        }
    }
    masked.push_str(&text[copied..]);
    masked
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cti::cause::Cause;

    const NEW_CALL: What = What::NewCall { user: None, queue: None };
    const ANSWER: What = What::Answer { answering_number: None, user: None };
    const HANGUP: What = What::Hangup { cause: Cause::Cancel };

    #[test]
    fn the_answers_table_holds_line_by_line() {
        let done = |done| Verdict::Done(done);
        assert_eq!(judge(&NEW_CALL, &reply(200, "{}")), done(Done::Accepted));
        assert_eq!(
            judge(&NEW_CALL, &reply(200, r#"{"action":"reject","reason":"busy"}"#)),
            done(Done::Rejected { reason: "busy".into() })
        );
        assert_eq!(
            judge(&NEW_CALL, &reply(200, r#"{"action":"dial","caller_id":"41","number":"42"}"#)),
            done(Done::Dial { caller_id: "41".into(), number: "42".into() })
        );
        for known in ["This object already exists.", "Object already exists!"] {
            for status in [500, 422] {
                let body = format!(r#"{{"error":"{known}","error_human":"{known}"}}"#);
                assert_eq!(judge(&NEW_CALL, &reply(status, &body)), done(Done::AlreadyKnown));
            }
        }
        let error_id = r#"{"error":"Error ID 6b5dD7-x: Please contact your administrator."}"#;
        assert!(matches!(judge(&ANSWER, &reply(500, error_id)), Verdict::RowUnknown(_)));
        assert!(matches!(judge(&HANGUP, &reply(500, "<html>We're sorry</html>")), Verdict::RowUnknown(_)));
        assert!(matches!(judge(&NEW_CALL, &reply(500, error_id)), Verdict::Unsure(_)));
        for (status, body) in [
            (401, r#"{"error":"Invalid token, please contact your admin!"}"#),
            (422, r#"{"error":"Feature is disabled, please contact your administrator!"}"#),
            (422, r#"{"error":"Feature not configured, please contact your admin!"}"#),
            (403, ""),
            (404, "<h1>404: Not Found</h1>"),
            (301, ""),
            (302, ""),
            (307, ""),
            (400, "<center>The plain HTTP request was sent to HTTPS port</center>"),
        ] {
            assert!(
                matches!(judge(&HANGUP, &reply(status, body)), Verdict::Misconfigured(_)),
                "{status} {body}"
            );
        }
        for (status, body) in [
            (422, r#"{"error":"Invalid 'direction'!"}"#),
            (422, error_id),
            (422, r#"{"error":"Attribute 'from\" of relation \"cti_logs' required!"}"#),
            (400, ""),
            (413, "<h1>413 Request Entity Too Large</h1>"),
        ] {
            assert!(matches!(judge(&NEW_CALL, &reply(status, body)), Verdict::Refused(_)), "{status} {body}");
        }
        for status in [408, 429, 502, 503] {
            assert!(matches!(judge(&HANGUP, &reply(status, "<html>")), Verdict::Away { .. }), "{status}");
        }
        for outcome in [reply(504, "<html>"), reply(520, ""), reply(200, "<html>hello"), reply(200, "")] {
            assert!(matches!(judge(&HANGUP, &outcome), Verdict::Unsure(_)), "{outcome:?}");
        }
        assert!(matches!(judge(&HANGUP, &Outcome::NotSent("refused".into())), Verdict::Away { .. }));
        assert!(matches!(judge(&HANGUP, &Outcome::NoAnswer("reset".into())), Verdict::Unsure(_)));
        assert!(matches!(judge(&HANGUP, &Outcome::Untrusted("expired".into())), Verdict::Misconfigured(_)));
    }

    #[test]
    fn the_page_of_a_web_server_is_said_once() {
        let nginx = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad \
                     Gateway</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n";
        let rails = "<title>We're sorry (500)</title><h1>500: An unknown error occurred.</h1>";
        for (status, body, words) in [
            (502, nginx, "HTTP 502: Bad Gateway nginx"),
            (500, rails, "HTTP 500: We're sorry (500)500: An unknown error occurred."),
            (503, "<TITLE>Down</TITLE>", "HTTP 503: Down"),
            (503, "<title>never ends", "HTTP 503: never ends"),
            (503, "5030 calls are too many", "HTTP 503: 5030 calls are too many"),
            (503, "503", "HTTP 503: 503"),
            (503, "<title></title>", "HTTP 503"),
        ] {
            let Outcome::Reply(reply) = reply(status, body) else { panic!("a reply is one") };
            assert_eq!(said(&reply), words);
        }
    }

    #[test]
    fn a_refusal_in_unknown_words_is_left_to_the_probe() {
        let disabled =
            reply(422, r#"{"error":"Funktion ist deaktiviert, bitte Administrator kontaktieren!"}"#);
        let why = "HTTP 422: Funktion ist deaktiviert, bitte Administrator kontaktieren!";
        assert_eq!(unknown_words(&disabled).as_deref(), Some(why));
        for known in
            ["Invalid 'direction'!", "Feature is disabled, …", "Error ID 4711: …", "Object already exists!"]
        {
            assert_eq!(unknown_words(&reply(422, &format!(r#"{{"error":"{known}"}}"#))), None);
        }
        assert_eq!(unknown_words(&reply(500, r#"{"error":"Fehler"}"#)), None);
        let known = reply(500, r#"{"error":"Dieses Objekt existiert bereits."}"#);
        assert_eq!(judge(&NEW_CALL, &known), Verdict::Done(Done::AlreadyKnown));
    }

    #[test]
    fn the_probe_knows_a_healthy_zammad() {
        let direction = reply(422, r#"{"error":"Invalid 'direction'!"}"#);
        assert_eq!(judge_probe(&direction), Verdict::Done(Done::Accepted));
        assert!(matches!(
            judge_probe(&reply(401, r#"{"error":"Invalid token"}"#)),
            Verdict::Misconfigured(_)
        ));
        assert!(matches!(judge_probe(&reply(200, "<html>welcome")), Verdict::Away { .. }));
        assert!(matches!(judge_probe(&reply(502, "")), Verdict::Away { .. }));
        assert!(matches!(judge_probe(&reply(500, "{}")), Verdict::Away { .. }));
        assert!(matches!(judge_probe(&reply(400, "")), Verdict::Misconfigured(_)));
        assert!(matches!(judge_probe(&Outcome::NoAnswer("timeout".into())), Verdict::Away { .. }));
    }

    #[test]
    fn a_token_in_a_redirect_is_not_repeated() {
        let outcome = Outcome::Reply(Reply {
            status: 301,
            body: String::new(),
            retry_after: None,
            location: Some("https://new.example.test/api/v1/cti/s3cret".into()),
        });
        let Verdict::Misconfigured(why) = judge(&HANGUP, &outcome) else { panic!("{outcome:?}") };
        assert!(why.contains("https://new.example.test/api/v1/cti/****:") && !why.contains("s3cret"));
        for (text, masked) in [
            (
                "https://sso.test/?rd=https%3A%2F%2Fz%2Fapi%2Fv1%2Fcti%2Fs3cret&x=1",
                "https%3A%2F%2Fz%2Fapi%2Fv1%2Fcti%2F****&x=1",
            ),
            ("/login?to=%252fapi%252Fv1%252Fcti%252fs3cret", "v1%252Fcti%252f****"),
            ("https://z.test/", "https://z.test/"),
        ] {
            assert!(without_token(text).ends_with(masked), "{}", without_token(text));
        }
    }

    #[test]
    fn a_token_on_an_error_page_is_not_repeated() {
        for page in [
            "<h1>Not Found</h1><p>The requested URL /api/v1/cti/s3cret was not found on this server.</p>",
            "<pre>Cannot POST &#x2F;api&#x2F;v1&#x2F;cti&#x2F;s3cret</pre>",
            r#"{"error":"No route matches [POST] \/api\/v1\/cti\/s3cret"}"#,
            r#"["POST \/api\/v1\/cti\/s3cret"]"#,
            "no /cti/ here, but at /CTI/s3cret/cti/s3cret",
            "<title>no /api/v1/cti/s3cret</title><h1>no /api/v1/cti/<b>s3cret</b></h1>",
            "/api/v1/cti/<title>s3cret</title>",
        ] {
            for status in [200, 400, 404, 422, 500, 502] {
                for what in [NEW_CALL, HANGUP] {
                    let verdict = format!("{:?}", judge(&what, &reply(status, page)));
                    assert!(!verdict.contains("s3cret"), "{status}: {verdict}");
                    assert!(status != 404 || verdict.contains("****"), "{verdict}");
                }
                let asked = find_call(&reply(status, page), "c").unwrap_err();
                let words = unknown_words(&reply(status, page)).unwrap_or_default();
                assert!(!asked.contains("s3cret") && !words.contains("s3cret"), "{asked} {words}");
            }
        }
    }

    fn reply(status: u16, body: &str) -> Outcome {
        Outcome::Reply(Reply { status, body: body.into(), retry_after: None, location: None })
    }
}
