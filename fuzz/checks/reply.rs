//! What an answer of Zammad, or of whatever stands before it, means. An input is the kind of event, the kind of
//! outcome, a status, two bits of header, and a body. In body and Location the byte 1 stands for our endpoint, the
//! byte 2 for the same as a parameter of another address, the byte 3 as a web page writes it.

use std::time::Duration;

use freeswitch_zammad::cti::cause::Cause;
use freeswitch_zammad::cti::event::What;
use freeswitch_zammad::cti::reply::{
    Done, Outcome, Reply, Verdict, find_call, judge, judge_probe, unknown_words,
};
use serde_json::Value;

use super::Input;

/// Q stands in no input, so that nothing can put the token together by itself.
const TOKEN: &str = "s3cret-Q0ken";
const CALL: &str = "82ac7419-a888-417e-88d9-a0bd613f105d";

pub(crate) fn check(input: &[u8]) {
    let mut input = Input::new(input);
    let what = match input.byte() % 3 {
        0 => What::NewCall { user: None, queue: None },
        1 => What::Answer { answering_number: None, user: None },
        _ => What::Hangup { cause: Cause::Cancel },
    };
    let kind = input.byte();
    // Mostly what there is.
    let known = [200, 201, 301, 302, 400, 401, 403, 404, 408, 413, 422, 429, 500, 502, 503, 504, 520];
    let status = match input.byte() {
        at if usize::from(at) < known.len() => known[usize::from(at)],
        _ => input.pair(),
    };
    let retry_after = (kind & 16 != 0).then(|| Duration::from_secs(input.byte().into()));
    let location = (kind & 32 != 0).then(|| header(input.short()));
    let outcome = match kind % 8 {
        0 => Outcome::NotSent("refused".into()),
        1 => Outcome::NoAnswer("reset".into()),
        2 => Outcome::Untrusted("Expired".into()),
        _ => Outcome::Reply(Reply { status, body: endpoint_in(input.rest()), retry_after, location }),
    };
    holds(&what, &outcome);
}

/// Every answer is judged, cautiously, in words that fit a log line.
pub(crate) fn holds(what: &What, outcome: &Outcome) {
    let verdict = judge(what, outcome);
    let probed = judge_probe(outcome);
    for verdict in [&verdict, &probed] {
        match verdict {
            Verdict::Done(_) => {}
            Verdict::Away { why, .. }
            | Verdict::RowUnknown(why)
            | Verdict::Unsure(why)
            | Verdict::Misconfigured(why)
            | Verdict::Refused(why) => fits_a_log_line(why, outcome),
        }
    }
    let words = unknown_words(outcome);
    let row = find_call(outcome, CALL);
    for said in words.iter().chain(row.as_ref().err()) {
        fits_a_log_line(said, outcome);
    }
    match outcome {
        Outcome::Reply(reply) => judged_by_its_answer(what, reply, &verdict, &probed),
        Outcome::NotSent(_) => {
            assert!(matches!((&verdict, &probed), (Verdict::Away { .. }, Verdict::Away { .. })));
            assert!(words.is_none() && row.is_err());
        }
        Outcome::NoAnswer(_) => {
            assert!(matches!((&verdict, &probed), (Verdict::Unsure(_), Verdict::Away { .. })));
        }
        Outcome::Untrusted(_) => {
            assert!(matches!((&verdict, &probed), (Verdict::Misconfigured(_), Verdict::Misconfigured(_))));
        }
    }
}

fn judged_by_its_answer(what: &What, reply: &Reply, verdict: &Verdict, probed: &Verdict) {
    let object = matches!(serde_json::from_str(&reply.body), Ok(Value::Object(_)));
    let begins = matches!(what, What::NewCall { .. });
    let success = (200..300).contains(&reply.status);
    match verdict {
        Verdict::Done(Done::AlreadyKnown) => assert!(begins && matches!(reply.status, 422 | 500)),
        Verdict::Done(Done::Accepted | Done::Rejected { .. } | Done::Dial { .. }) => {
            assert!(success && object, "{reply:?}");
        }
        // Whatever may have been processed is not sent again as if it had not been.
        Verdict::Away { .. } => {
            assert!(matches!(reply.status, 408 | 425 | 429 | 502 | 503 | 521..=523), "{reply:?}")
        }
        Verdict::Refused(_) => assert!((400..500).contains(&reply.status), "{reply:?}"),
        Verdict::RowUnknown(_) => assert!(!begins && reply.status == 500),
        Verdict::Misconfigured(_) => assert!((300..500).contains(&reply.status), "{reply:?}"),
        Verdict::Unsure(_) => assert!(!(success && object), "{reply:?}"),
    }
    // The probe creates nothing, so nothing it is told is unsure, unknown or refused.
    match probed {
        Verdict::Done(done) => assert!(*done == Done::Accepted && reply.status == 422),
        Verdict::Away { .. } | Verdict::Misconfigured(_) => {}
        Verdict::Unsure(_) | Verdict::RowUnknown(_) | Verdict::Refused(_) => panic!("{probed:?}"),
    }
}

fn fits_a_log_line(said: &str, outcome: &Outcome) {
    assert!(!said.trim().is_empty() && said.chars().count() <= 500, "{said:?}");
    assert!(!said.chars().any(char::is_control), "{said:?}");
    // Unless the other side says it where no endpoint is, which nobody can know.
    assert!(!said.contains(TOKEN), "the token in {said:?}, of {outcome:?}");
}

/// A header's value has nothing but what can be printed.
fn header(text: &[u8]) -> String {
    endpoint_in(text).chars().filter(|c| (' '..='~').contains(c)).collect()
}

fn endpoint_in(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text).replace('Q', "q");
    text.replace('\u{1}', &format!("/api/v1/cti/{TOKEN}"))
        .replace('\u{2}', &format!("%2Fapi%2Fv1%2Fcti%2F{TOKEN}"))
        .replace('\u{3}', &format!("&#x2F;api&#x2F;v1&#x2F;cti&#x2F;{TOKEN}"))
}
