//! Events of calls that are on none of the switches, told by a script: into the queue by the way that all events go,
//! and from there to Zammad at least once, in order within a call.
//!
//! The same call of a script is the same event: its identity is made of Zammad, call, kind, and for an answer of who
//! answered. So a script that does not know whether it was heard asks again, and Zammad is told once.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::accept::Sent;
use super::answers::{Refusal, one_meant, say_which};
use super::clock;
use super::control::{Live, Send};
use super::rows;
use crate::cti::event::{CALL_ID_MAX, Event, What};
use crate::store::{self, Accepting, Pending, Seq, Store};

/// How long an event may take to be on disk, well within the time that a client has.
const TAKE_WAIT: Duration = Duration::from_secs(10);

/// What stands where other events have their switch's name.
pub const ELSEWHERE: &str = "send";

/// Takes the event in; returns once it is on disk, with its position, or without one if it was known already.
pub(super) async fn send(store: &Store, live: Option<&Live>, given: &Send) -> Result<Value, Refusal> {
    let event = read(&given.body)?;
    let zammad = one(live, given.zammad.as_deref())?;
    let pending = Pending {
        id: identity(&zammad, &event, given.leg.as_deref()),
        zammad: zammad.clone(),
        switch: ELSEWHERE.to_owned(),
        event,
        happened: clock::now(),
        answered: given.answered,
        attempt: None,
        held: false,
        restored: false,
    };
    // What the store refuses later would be a fault of ours.
    store::fits(&pending).map_err(|why| Refusal::Senseless(why.to_string()))?;
    let seqs = match live.and_then(|live| live.sent.as_ref()) {
        Some(intake) => take(intake, pending).await?,
        // Nobody reads the bound of a queue that nobody drains; the daemon minds it with its first event.
        None => store.accept(Accepting { events: vec![pending], state: vec![] }).await?,
    };
    let seq = seqs.into_iter().flatten().next();
    Ok(json!({ "zammad": zammad, "seq": seq.map(|seq| seq.0), "running": live.is_some() }))
}

/// What is not on disk in time is in memory: who asks again does no harm, and may not hold a thread until then.
async fn take(intake: &mpsc::Sender<Sent>, pending: Pending) -> Result<Vec<Option<Seq>>, Refusal> {
    let (taken, answer) = oneshot::channel();
    let answered = async {
        intake.send(Sent { events: vec![pending], taken }).await.ok()?;
        answer.await.ok()
    };
    match tokio::time::timeout(TAKE_WAIT, answered).await {
        Ok(Some(taken)) => taken.map_err(|full| Refusal::Later(full.to_string())),
        Ok(None) => Err(Refusal::Later("the daemon is stopping; try again".to_owned())),
        Err(_) => Err(Refusal::Later("the disk has not taken it in time; try again".to_owned())),
    }
}

fn read(body: &Value) -> Result<Event, Refusal> {
    let event = rows::event(body, &Value::Null).map_err(Refusal::Senseless)?;
    // It would be cut, and another call's event might be in its place.
    if body["callId"].as_str().is_some_and(|id| id.chars().count() > CALL_ID_MAX) {
        return Err(Refusal::Senseless(format!("callId has more than {CALL_ID_MAX} characters")));
    }
    event.check().map_err(|why| Refusal::Senseless(why.to_string()))?;
    Ok(event)
}

/// Which Zammad is meant. The store knows none: whoever asks it has looked.
fn one(live: Option<&Live>, zammad: Option<&str>) -> Result<String, Refusal> {
    match live {
        Some(live) => one_meant(live.zammads.iter().map(|(name, ..)| name.as_str()), zammad),
        None => zammad.map(str::to_owned).ok_or_else(|| say_which(&[])),
    }
}

/// The same whenever the same is told.
fn identity(zammad: &str, event: &Event, leg: Option<&str>) -> String {
    let call = &event.call_id;
    match &event.what {
        What::NewCall { .. } => format!("{ELSEWHERE}/{zammad}/{call}/newCall"),
        What::Answer { answering_number, user } => {
            let who = [answering_number, user].map(|text| text.as_deref().unwrap_or_default()).join("/");
            format!("{ELSEWHERE}/{zammad}/{call}/answer/{}", leg.unwrap_or(&who))
        }
        What::Hangup { .. } => format!("{ELSEWHERE}/{zammad}/{call}/hangup"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(event: &str) -> Value {
        json!({ "event": event, "callId": "c", "direction": "in", "from": "1", "to": "2", "cause": "busy" })
    }

    #[test]
    fn identity_is_of_the_call_the_kind_and_who_answered() {
        let id = |body: &Value, leg| identity("main", &read(body).unwrap(), leg);
        assert_eq!(id(&body("newCall"), None), "send/main/c/newCall");
        assert_eq!(id(&body("hangup"), Some("x")), "send/main/c/hangup");
        let mut answer = body("answer");
        answer["user"] = "Bob".into();
        assert_eq!(id(&answer, None), "send/main/c/answer//Bob");
        assert_eq!(id(&answer, Some("leg-2")), "send/main/c/answer/leg-2");
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_takes_its_time_holds_nobody_up_for_ever() {
        let event = read(&body("newCall")).unwrap();
        let pending = Pending {
            id: identity("main", &event, None),
            zammad: "main".into(),
            switch: ELSEWHERE.into(),
            event,
            happened: clock::now(),
            answered: false,
            attempt: None,
            held: false,
            restored: false,
        };
        // Room for one, and nobody who takes it.
        let (intake, held) = mpsc::channel(1);
        for _ in 0..2 {
            let why = take(&intake, pending.clone()).await.unwrap_err();
            assert!(why.passes() && why.to_string().contains("in time"), "{why}");
        }
        drop(held);
        let why = take(&intake, pending).await.unwrap_err();
        assert!(why.passes() && why.to_string().contains("stopping"), "{why}");
    }

    #[test]
    fn what_zammad_would_misread_is_refused_here_too() {
        let why = |body: &Value| read(body).unwrap_err().to_string();
        let mut given = body("newCall");
        given["callId"] = "x".repeat(251).into();
        assert!(why(&given).contains("more than 250"), "{}", why(&given));
        given = body("newCall");
        given["from"] = "".into();
        assert!(why(&given).contains("from is empty"));
        given = body("answer");
        given["direction"] = "out".into();
        given["user"] = "Bob".into();
        assert!(why(&given).contains("user does not go with"));
        assert!(why(&body("ring")).contains("no event"));
    }
}
