//! What can go wrong between a client and Zammad, as a script for the requests to come.

use std::time::Duration;

/// What happens to one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// Waited after the request was read, before it is processed.
    pub before: Duration,
    /// What becomes of it.
    pub outcome: Outcome,
    /// Waited after it was processed, before the answer (or the reset).
    pub after: Duration,
}

/// What becomes of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// Processed and answered.
    #[default]
    Usual,
    /// Not processed; the connection is reset once the whole request was read.
    ResetBefore,
    /// Processed; then the connection is reset without an answer.
    ResetAfter,
    /// Not processed; answered with this.
    AnswerInstead(Answer),
    /// Processed; answered with this in place of what Zammad said.
    AnswerAfter(Answer),
}

impl Fault {
    /// No fault at all: a place holder in a script.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// See [`Outcome::ResetBefore`].
    #[must_use]
    pub fn reset_before() -> Self {
        Outcome::ResetBefore.into()
    }

    /// See [`Outcome::ResetAfter`].
    #[must_use]
    pub fn reset_after() -> Self {
        Outcome::ResetAfter.into()
    }

    /// See [`Outcome::AnswerInstead`].
    #[must_use]
    pub fn answer_instead(answer: Answer) -> Self {
        Outcome::AnswerInstead(answer).into()
    }

    /// See [`Outcome::AnswerAfter`].
    #[must_use]
    pub fn answer_after(answer: Answer) -> Self {
        Outcome::AnswerAfter(answer).into()
    }

    /// Processed and answered, but slowly.
    #[must_use]
    pub fn slow(before: Duration, after: Duration) -> Self {
        Self::none().delayed(before, after)
    }

    /// The same fault with waits around the processing.
    #[must_use]
    pub fn delayed(self, before: Duration, after: Duration) -> Self {
        Self { before, after, ..self }
    }
}

impl From<Outcome> for Fault {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, ..Self::default() }
    }
}

/// A whole HTTP answer that Zammad did not give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status, 100 to 999.
    pub status: u16,
    /// Further headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body as it is sent.
    pub body: String,
}

impl Answer {
    /// A JSON answer.
    #[must_use]
    pub fn json(status: u16, body: &str) -> Self {
        Self::new(status, "application/json; charset=utf-8", body)
    }

    /// The page nginx shows in front of Zammad: 502 while it restarts, 504 after 300 s, 503, 413, 429.
    #[must_use]
    pub fn nginx(status: u16) -> Self {
        let title = match status {
            413 => "Request Entity Too Large",
            429 => "Too Many Requests",
            502 => "Bad Gateway",
            503 => "Service Temporarily Unavailable",
            504 => "Gateway Time-out",
            _ => "Error",
        };
        let page = format!(
            "<html>\r\n<head><title>{status} {title}</title></head>\r\n<body>\r\n<center><h1>{status} {title}</h1>\
             </center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
        );
        Self::new(status, "text/html", &page)
    }

    /// The page Zammad itself shows for an inner fault to a client that did not ask for JSON.
    #[must_use]
    pub fn rails(status: u16) -> Self {
        let page = format!(
            "<!DOCTYPE html>\n<html>\n<head>\n  <title>{status}: An unknown error occurred.</title>\n</head>\n\
             <body>\n  <h1>{status}: An unknown error occurred.</h1>\n  <p>Please contact your \
             administrator.</p>\n</body>\n</html>\n"
        );
        Self::new(status, "text/html; charset=utf-8", &page)
    }

    /// A success that is none: something between us and Zammad answers 200 with a page of its own.
    #[must_use]
    pub fn garbage() -> Self {
        Self::new(200, "text/html", "<html><body>Please sign in to the network.</body></html>")
    }

    /// Sent elsewhere, as an `http` address is that should be `https`.
    #[must_use]
    pub fn redirect(status: u16, location: &str) -> Self {
        Self::nginx(status).with_header("location", location)
    }

    /// The same answer with one more header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn new(status: u16, content_type: &str, body: &str) -> Self {
        let headers = vec![("content-type".to_owned(), content_type.to_owned())];
        Self { status, headers, body: body.to_owned() }
    }
}
