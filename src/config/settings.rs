//! What the layers below are run by, put together from a checked configuration. Decides nothing that it does not say.

use std::collections::HashMap;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::{Config, Delivery, SwitchConfig};
use crate::call::cause::Table;
use crate::call::people::{Agent, People};
use crate::call::tracker;
use crate::queue::backoff::Backoff;
use crate::queue::line::Lateness;
use crate::queue::schedule;

impl Config {
    /// What the calls of `switch` are told by: its own rules, and what holds for every switch.
    #[must_use]
    pub fn calls_of(&self, switch: &SwitchConfig) -> tracker::Settings {
        let causes = self.causes.iter().map(|(name, cause)| (name.to_string(), *cause));
        tracker::Settings {
            country: self.country,
            rules: switch.rules.clone(),
            causes: Table::new(causes.collect()),
            people: People::new(self.people(), self.queue_names()),
            routes: self.routes.clone(),
            internal: self.calls.report_internal,
        }
    }

    fn people(&self) -> HashMap<String, Agent> {
        let known = |agent: &super::Agent| {
            let number = agent.number.as_ref().map(ToString::to_string);
            (agent.extension.to_string(), Agent { user: agent.user.clone(), number })
        };
        self.agents.iter().map(known).collect()
    }

    /// By the number as Zammad gets it. One that was written as people in the country dial it is known in its full
    /// form as well, but what somebody wrote out goes before what is read into another's number.
    fn queue_names(&self) -> HashMap<String, String> {
        let read = self.queues.iter().map(|q| (self.country.normalise(q.number.as_str()), q.name.clone()));
        let written = self.queues.iter().map(|q| (q.number.to_string(), q.name.clone()));
        read.chain(written).collect()
    }
}

impl Delivery {
    /// What a Zammad's schedule is run by: late hangups say when they happened in this time zone; `can_look`
    /// says whether there is a credential for Zammad's caller log.
    #[must_use]
    pub fn schedule(&self, zone: TimeZone, can_look: bool) -> schedule::Settings {
        schedule::Settings {
            concurrency: self.concurrency.get(),
            backoff: Backoff { min: self.retry_wait_min, max: self.retry_wait_max },
            lateness: Lateness { after: self.late_after, policy: self.late_policy, zone },
            backlog_gap: Duration::from_secs(1) / self.backlog_per_s.get(),
            age_max: self.max_age,
            can_look,
        }
    }
}
