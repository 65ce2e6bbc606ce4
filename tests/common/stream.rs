//! Event streams that nobody recorded: legs in the style of the recordings, with the headers that FreeSWITCH's
//! source sets for them, and what the tracker makes of them, one line per call.
#![allow(clippy::unwrap_used, reason = "the stream is the test's own")]

use std::collections::HashMap;
use std::sync::Arc;

use freeswitch_zammad::call::cause::Table;
use freeswitch_zammad::call::people::{Agent, People};
use freeswitch_zammad::call::rule::Rule;
use freeswitch_zammad::call::tracker::{FAILOVER_MAX, News, Output, Settings, Tracker};
use freeswitch_zammad::cti::event::{Direction, What};
use freeswitch_zammad::esl::event::Event;
use freeswitch_zammad::time::UnixMillis;

/// A leg of a [`Stream`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leg(usize);

/// A switch whose events are written by hand. Each function sends one event.
pub(crate) struct Stream {
    pub(crate) tracker: Tracker,
    pub(crate) now: UnixMillis,
    pub(crate) notes: Vec<String>,
    legs: Vec<Vec<(String, String)>>,
    pub(crate) news: Vec<News>,
}

impl Stream {
    pub(crate) fn new() -> Self {
        Self::with(settings())
    }

    pub(crate) fn with(settings: Settings) -> Self {
        let mut tracker = Tracker::new(Arc::new(settings));
        tracker.explain();
        Self {
            tracker,
            now: UnixMillis(1_700_000_000_000),
            notes: Vec::new(),
            legs: Vec::new(),
            news: Vec::new(),
        }
    }

    /// A leg that comes into being, with these headers and what every leg has.
    pub(crate) fn create(&mut self, headers: &[(&str, &str)]) -> Leg {
        let leg = self.unheard(headers);
        self.event("CHANNEL_CREATE", leg, &[]);
        leg
    }

    /// As [`Stream::create`], before anybody listened.
    pub(crate) fn unheard(&mut self, headers: &[(&str, &str)]) -> Leg {
        let number = self.legs.len();
        let mut all = vec![
            ("Unique-ID".to_owned(), format!("00000000-0000-4000-8000-{number:012}")),
            ("Caller-Channel-Created-Time".to_owned(), format!("{}", self.now.0 * 1000 + 1)),
            ("Answer-State".to_owned(), "ringing".to_owned()),
        ];
        for (name, value) in headers {
            all.retain(|(known, _)| known != name);
            all.push(((*name).to_owned(), (*value).to_owned()));
        }
        self.legs.push(all);
        Leg(number)
    }

    /// A customer calls in over the stock trunk.
    pub(crate) fn caller(&mut self, from: &str, to: &str) -> Leg {
        self.create(&Self::caller_headers(&format!("sofia/external/{from}@provider.example.test"), from, to))
    }

    pub(crate) fn caller_headers<'a>(
        channel: &'a str,
        from: &'a str,
        to: &'a str,
    ) -> Vec<(&'a str, &'a str)> {
        vec![
            ("Call-Direction", "inbound"),
            ("Channel-Name", channel),
            ("Caller-Context", "public"),
            ("Caller-Caller-ID-Number", from),
            ("Caller-Destination-Number", to),
            ("variable_sip_from_user", from),
            ("variable_sip_req_user", to),
            ("variable_sip_to_user", to),
        ]
    }

    /// One of our phones dials.
    pub(crate) fn phone(&mut self, extension: &str, dials: &str) -> Leg {
        let channel = format!("sofia/internal/{extension}@pbx.example.test");
        self.create(&[
            ("Call-Direction", "inbound"),
            ("Channel-Name", &channel),
            ("Caller-Context", "default"),
            ("Caller-Caller-ID-Number", extension),
            ("Caller-Destination-Number", dials),
            ("variable_sip_auth_username", extension),
            ("variable_sip_from_user", extension),
            ("variable_user_name", extension),
            ("variable_domain_name", "pbx.example.test"),
            ("variable_sip_req_user", dials),
            ("variable_sip_to_user", dials),
        ])
    }

    /// A phone of ours is called (`user/…`), at the wish of `cause` if any.
    pub(crate) fn rings(&mut self, cause: Option<Leg>, extension: &str) -> Leg {
        let channel = format!("sofia/internal/{extension}@10.0.0.5:5060");
        let presence = format!("{extension}@pbx.example.test");
        self.outbound(
            cause,
            &[
                ("Channel-Name", &channel),
                ("Channel-Presence-ID", &presence),
                ("Caller-Destination-Number", extension),
                ("variable_dialed_user", extension),
                ("variable_dialed_domain", "pbx.example.test"),
            ],
        )
    }

    /// A number outside is called over the gateway.
    pub(crate) fn dials_out(&mut self, cause: Option<Leg>, number: &str) -> Leg {
        let channel = format!("sofia/external/{number}");
        self.outbound(
            cause,
            &[
                ("Channel-Name", &channel),
                ("Caller-Caller-ID-Number", "+4930555000"),
                ("Caller-Destination-Number", number),
                ("variable_sip_gateway_name", "trunk"),
            ],
        )
    }

    /// An outbound leg, tied to the leg that caused it.
    pub(crate) fn outbound(&mut self, cause: Option<Leg>, headers: &[(&str, &str)]) -> Leg {
        let tied = cause.map(|cause| self.seen_from(cause));
        let mut all = vec![("Call-Direction", "outbound")];
        if let Some(tied) = &tied {
            all.push(("Other-Type", "originator"));
            all.push(("variable_originator", &tied[0].1));
            all.extend(tied.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        }
        all.extend_from_slice(headers);
        self.create(&all)
    }

    /// `Other-Leg-…` as another leg's events describe this one.
    fn seen_from(&self, leg: Leg) -> Vec<(String, String)> {
        [
            ("Other-Leg-Unique-ID", "Unique-ID"),
            ("Other-Leg-Channel-Name", "Channel-Name"),
            ("Other-Leg-Direction", "Call-Direction"),
            ("Other-Leg-Context", "Caller-Context"),
            ("Other-Leg-Caller-ID-Number", "Caller-Caller-ID-Number"),
            ("Other-Leg-Destination-Number", "Caller-Destination-Number"),
            ("Other-Leg-Channel-Created-Time", "Caller-Channel-Created-Time"),
        ]
        .into_iter()
        .filter_map(|(theirs, own)| self.header(leg, own).map(|value| (theirs.to_owned(), value.to_owned())))
        .collect()
    }

    fn header(&self, leg: Leg, name: &str) -> Option<&str> {
        self.legs[leg.0].iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn id(&self, leg: Leg) -> String {
        self.header(leg, "Unique-ID").unwrap().to_owned()
    }

    /// From now on the leg's events say so.
    pub(crate) fn set(&mut self, leg: Leg, name: &str, value: &str) {
        let headers = &mut self.legs[leg.0];
        headers.retain(|(known, _)| known != name);
        headers.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn event(&mut self, name: &str, leg: Leg, more: &[(&str, &str)]) {
        let own = self.legs[leg.0].clone();
        let mut headers = vec![("Event-Name", name)];
        headers.extend_from_slice(more);
        headers.extend(own.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        self.send(&headers);
    }

    /// An event of this switch, whatever it is about.
    pub(crate) fn send(&mut self, headers: &[(&str, &str)]) {
        let core = [("Core-UUID", "run-1")];
        let core = if headers.iter().any(|(name, _)| *name == "Core-UUID") { &core[..0] } else { &core[..] };
        let escape = |value: &str| value.replace('%', "%25").replace('+', "%2B");
        let text: String =
            headers.iter().chain(core).map(|(name, value)| format!("{name}: {}\n", escape(value))).collect();
        self.now = UnixMillis(self.now.0 + 20);
        self.tracker.handle_event(&Event::parse(&text.into()).unwrap(), self.now);
        self.take();
    }

    pub(crate) fn answer(&mut self, leg: Leg) {
        self.set(leg, "Answer-State", "answered");
        self.event("CHANNEL_ANSWER", leg, &[]);
    }

    pub(crate) fn bridge(&mut self, a: Leg, b: Leg) {
        self.joined("CHANNEL_BRIDGE", a, b);
    }

    pub(crate) fn unbridge(&mut self, a: Leg, b: Leg) {
        self.joined("CHANNEL_UNBRIDGE", a, b);
    }

    /// Both answer and talk.
    pub(crate) fn talk(&mut self, a: Leg, b: Leg) {
        self.answer(b);
        self.answer(a);
        self.bridge(a, b);
    }

    fn joined(&mut self, name: &str, a: Leg, b: Leg) {
        let (one, two) = (self.id(a), self.id(b));
        let other = self.seen_from(b);
        let mut more = vec![("Bridge-A-Unique-ID", one.as_str()), ("Bridge-B-Unique-ID", two.as_str())];
        more.extend(other.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        self.event(name, a, &more);
    }

    /// That side hung up.
    pub(crate) fn bye(&mut self, leg: Leg) {
        self.ends(leg, "NORMAL_CLEARING", "recv_bye");
    }

    /// The switch ended it.
    pub(crate) fn end(&mut self, leg: Leg, cause: &str) {
        self.ends(leg, cause, "send_bye");
    }

    pub(crate) fn ends(&mut self, leg: Leg, cause: &str, disposition: &str) {
        self.set(leg, "Answer-State", "hangup");
        let more = [("Hangup-Cause", cause), ("variable_sip_hangup_disposition", disposition)];
        self.event("CHANNEL_HANGUP_COMPLETE", leg, &more);
    }

    pub(crate) fn rename(&mut self, leg: Leg, new: &str) {
        let old = self.id(leg);
        self.set(leg, "Unique-ID", new);
        self.event("CHANNEL_UUID", leg, &[("Old-Unique-ID", &old)]);
    }

    pub(crate) fn conference(&mut self, leg: Leg, action: &str) {
        self.event(
            "CUSTOM",
            leg,
            &[
                ("Event-Subclass", "conference::maintenance"),
                ("Action", action),
                ("Conference-Name", "3000-pbx.example.test"),
            ],
        );
    }

    /// Time passes.
    pub(crate) fn wait(&mut self, ms: u64) {
        self.now = UnixMillis(self.now.0 + ms);
        self.tracker.handle_timeout(self.now);
        self.take();
    }

    fn take(&mut self) {
        while let Some(output) = self.tracker.poll_output() {
            match output {
                Output::UnknownCause(_) => {}
                Output::News(news) => self.news.push(news),
                Output::Note { leg, text } => self.notes.push(format!("{leg} {text}")),
            }
        }
    }

    /// Every event's body, as posted.
    pub(crate) fn bodies(&self) -> Vec<String> {
        self.news.iter().map(|news| news.event.body()).collect()
    }

    /// The calls in the order in which they began, as one would tell them:
    /// `in FROM -> TO: who, answered | how it ended`.
    pub(crate) fn told(&mut self) -> Vec<String> {
        self.wait(u64::try_from(FAILOVER_MAX.as_millis()).unwrap());
        let mut order = Vec::new();
        let mut calls: HashMap<String, (String, Vec<String>, String)> = HashMap::new();
        for News { event, .. } in &self.news {
            let id = event.call_id.to_string();
            let direction = event.direction.as_str();
            match &event.what {
                What::NewCall { user, queue } => {
                    let extra = |word: &str, text: &Option<String>| {
                        text.as_ref().map(|text| format!(" {word} {text}")).unwrap_or_default()
                    };
                    let (user, queue) = (extra("user", user), extra("queue", queue));
                    let head = format!("{direction} {} -> {}{user}{queue}", event.from, event.to);
                    order.push(id.clone());
                    assert!(calls.insert(id, (head, Vec::new(), "open".to_owned())).is_none());
                }
                What::Answer { answering_number, user } => {
                    let answers = &mut calls.get_mut(&id).unwrap().1;
                    match event.direction {
                        Direction::In => {
                            let shown = answering_number.as_deref().or(user.as_deref()).unwrap();
                            answers.push(shown.to_owned());
                        }
                        Direction::Out => answers.push("answered".to_owned()),
                    }
                }
                What::Hangup { cause } => calls.get_mut(&id).unwrap().2 = cause.to_string(),
            }
        }
        order
            .iter()
            .map(|id| {
                let (head, answers, end) = &calls[id];
                format!(
                    "{head}: {} | {end}",
                    if answers.is_empty() { "-".to_owned() } else { answers.join(", ") }
                )
            })
            .collect()
    }
}

/// Germany, nobody known, no rules.
pub(crate) fn settings() -> Settings {
    Settings {
        country: "DE".parse().unwrap(),
        rules: vec![],
        causes: Table::default(),
        people: People::default(),
        routes: vec![],
        internal: false,
    }
}

/// As [`settings`], with a few agents and a queue.
pub(crate) fn settings_with_people() -> Settings {
    let agent = |user: Option<&str>, number: Option<&str>| Agent {
        user: user.map(str::to_owned),
        number: number.map(str::to_owned),
    };
    let agents = [
        ("1001".to_owned(), agent(Some("Anton"), Some("49305551001"))),
        ("1002".to_owned(), agent(Some("Berta"), None)),
        ("1001@globex.example.test".to_owned(), agent(Some("Gerd"), Some("49305559001"))),
    ];
    let queues = [("49305552000".to_owned(), "Support".to_owned())];
    Settings { people: People::new(agents.into(), queues.into()), ..settings() }
}

/// As [`settings`], with rules.
pub(crate) fn settings_with(rules: Vec<Rule>) -> Settings {
    Settings { rules, ..settings() }
}
