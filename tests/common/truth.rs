//! What an undisturbed daemon would have told of a recording, and when: the model's own words on each of its events.
//! That they are right is for `captures.rs` to say.
#![allow(dead_code, reason = "each test is a crate of its own, and not every one needs every helper")]

use std::collections::BTreeMap;
use std::sync::Arc;

use freeswitch_zammad::call::tracker::{FAILOVER_MAX, News, Output, Settings, Tracker};
use freeswitch_zammad::cti::event::What;
use freeswitch_zammad::esl::event::Event;
use freeswitch_zammad::sim::recording::Recording;
use freeswitch_zammad::sim::zammad::{Log, Routing, Row};
use freeswitch_zammad::time::UnixMillis;

use crate::common;

/// A call, as it would have been told.
pub(crate) struct Call {
    pub(crate) id: String,
    /// The row it would have made in Zammad.
    pub(crate) row: Row,
    /// Each event, with the place in the recording of the one that it came of.
    pub(crate) told: Vec<(usize, News)>,
}

impl Call {
    /// Where it begins and where it is over.
    pub(crate) fn span(&self) -> (usize, usize) {
        (self.told[0].0, self.told[self.told.len() - 1].0)
    }

    /// Who answered, in order, as Zammad would have shown them; nobody is named where we called out.
    pub(crate) fn answers(&self) -> Vec<String> {
        let user = |(_, news): &(usize, News)| match &news.event.what {
            What::Answer { user, .. } => Some(user.clone().unwrap_or_default()),
            What::NewCall { .. } | What::Hangup { .. } => None,
        };
        self.told.iter().filter_map(user).collect()
    }
}

/// The calls of a recording.
pub(crate) fn calls(recording: &Recording, settings: &Arc<Settings>) -> Vec<Call> {
    let mut tracker = Tracker::new(Arc::clone(settings));
    let mut told: BTreeMap<String, Vec<(usize, News)>> = BTreeMap::new();
    let mut take = |tracker: &mut Tracker, at: usize| {
        while let Some(output) = tracker.poll_output() {
            match output {
                Output::News(news) => {
                    told.entry(news.event.call_id.to_string()).or_default().push((at, news));
                }
                Output::UnknownCause(_) | Output::Note { .. } => {}
            }
        }
    };
    let now = UnixMillis(1_700_000_000_000);
    for (at, event) in recording.events().iter().enumerate() {
        if common::is_subscribed(event) {
            let event = Event::parse(&event.body().to_vec().into()).unwrap();
            tracker.handle_event(&event, now);
            take(&mut tracker, at);
        }
    }
    tracker.handle_timeout(now.after(FAILOVER_MAX));
    take(&mut tracker, recording.events().len());
    let call = |(id, told): (String, Vec<(usize, News)>)| {
        let mut log = Log::default();
        for (_, news) in &told {
            let body = serde_json::from_str(&news.event.body()).unwrap();
            log.post(&body, &Routing::default(), now);
        }
        let row = log.rows()[0].clone();
        Call { id, row, told }
    };
    told.into_iter().map(call).collect()
}
