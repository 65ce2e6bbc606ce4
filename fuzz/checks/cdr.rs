//! Files of call detail records. An input is one file, or several with a NUL between them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use freeswitch_zammad::call::cdr::{self, Cdr};
use freeswitch_zammad::call::tracker::News;
use freeswitch_zammad::cti::event::What;

use super::{holds_number, settings};

pub(crate) fn check(input: &[u8]) {
    let mut cdrs = Vec::new();
    for file in input.split(|byte| *byte == 0) {
        match cdr::read(file) {
            Ok(cdr) => {
                is_sound(&cdr);
                cdrs.push(cdr);
            }
            Err(why) => {
                let why = why.to_string();
                assert!(!why.contains('\n') && !holds_number(&why), "{why}");
            }
        }
    }
    replays(&cdrs);
    let calls = cdr::tell(Arc::new(settings()), &cdrs);
    for call in &calls {
        is_whole(call);
    }
    // Of two files of one leg the last counts; else it is all one in which order they are found.
    let each: BTreeMap<&str, &Cdr> = cdrs.iter().map(|cdr| (cdr.id(), cdr)).collect();
    let reversed: Vec<Cdr> = each.into_values().rev().cloned().collect();
    assert_eq!(told(&cdr::tell(Arc::new(settings()), &reversed)), told(&calls));
}

fn is_sound(cdr: &Cdr) {
    assert!(!cdr.id().is_empty());
    assert!(cdr.begun() <= cdr.ended());
    assert!(cdr.ties().all(|tie| !tie.is_empty() && tie != cdr.id()), "no leg is its own cause");
}

/// Events are in the order of their moments; a leg begins once and ends once.
fn replays(cdrs: &[Cdr]) {
    let events = cdr::replay(cdrs);
    assert!(events.is_sorted_by_key(|(at, _)| *at));
    let mut begun = HashSet::new();
    let mut ended = HashSet::new();
    for (_, event) in &events {
        let leg = event.get("Unique-ID").map(|id| id.into_owned());
        let seen = match event.get("Event-Name").as_deref() {
            Some("CHANNEL_CREATE") => &mut begun,
            Some("CHANNEL_HANGUP_COMPLETE") => &mut ended,
            _ => continue,
        };
        assert!(seen.insert(leg.clone()), "{leg:?} twice");
    }
    assert_eq!(begun, ended);
}

/// From its newCall to its hangup, each once, and all of it about the same.
fn is_whole(call: &[News]) {
    let ids: HashSet<&str> = call.iter().map(|news| news.id.as_str()).collect();
    assert_eq!(ids.len(), call.len(), "an event twice");
    let last = call.len() - 1;
    for (at, news) in call.iter().enumerate() {
        let (new, hangup) = match &news.event.what {
            What::NewCall { .. } => (true, false),
            What::Answer { .. } => (false, false),
            What::Hangup { .. } => (false, true),
        };
        assert_eq!((new, hangup), (at == 0, at == last), "{news:?}");
        let about =
            |news: &News| (news.event.call_id.clone(), news.event.from.clone(), news.event.to.clone());
        assert_eq!(about(news), about(&call[0]));
    }
}

fn told(calls: &[Vec<News>]) -> Vec<(&str, String)> {
    calls.iter().flatten().map(|news| (news.id.as_str(), news.event.body())).collect()
}
