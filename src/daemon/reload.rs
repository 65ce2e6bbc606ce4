//! Takes over another configuration while the daemon runs: no link, no call and no event is given up for it.

use std::sync::Arc;

use jiff::tz::TimeZone;
use tokio::sync::watch;

use super::{Daemon, Failure, client, limits, link};
use crate::config::Config;
use crate::edge::accept::Bound;
use crate::edge::drain::{Order, Reload};
use crate::edge::intake::Rules;
use crate::edge::listener;

/// Where the running tasks learn of another configuration.
pub(super) struct Levers {
    pub(super) rules: watch::Sender<Arc<Rules>>,
    /// One for each switch, in their order.
    pub(super) links: Vec<watch::Sender<listener::Settings>>,
}

/// What the calls are told by.
pub(super) fn rules(config: &Config) -> Rules {
    let of = |switch| Arc::new(config.calls_of(switch));
    Rules {
        switches: config.switches.iter().map(|s| (of(s), s.zammad.to_string())).collect(),
        bound: Bound { max_events: config.delivery.max_events, when_full: config.delivery.when_full },
        end_blocked_with: config.calls.end_blocked_with,
    }
}

impl Daemon {
    /// Goes by another configuration from now on. Returns what of it stays as it is until the daemon is started again,
    /// a sentence for each.
    ///
    /// # Errors
    /// If a Zammad's client cannot be made; then nothing has changed.
    pub async fn reload(&mut self, new: Config) -> Result<Vec<String>, Failure> {
        let (new, stays) = self.config.taking_over(new);
        let mut clients = Vec::new();
        for (zammad, running) in new.zammads.iter().zip(&self.config.zammads) {
            clients.push(if zammad == running { None } else { Some(client(zammad)?) });
        }
        self.store.set_limits(limits(&new));
        self.levers.rules.send_replace(Arc::new(rules(&new)));
        for ((switch, to), (_, address, _)) in
            new.switches.iter().zip(&self.levers.links).zip(&self.live.switches)
        {
            address.set(switch.address.to_string());
            to.send_if_modified(|settings| {
                let now = link(switch);
                let changed = *settings != now;
                *settings = now;
                changed
            });
        }
        for ((zammad, client), (_, url, _, orders)) in new.zammads.iter().zip(clients).zip(&self.live.zammads)
        {
            url.set(zammad.url.to_string());
            let settings = new.delivery.schedule(TimeZone::system(), zammad.rest_token.is_some());
            // A drain that is stopping needs no settings.
            let _ = orders.send(Order::Reload(Box::new(Reload { settings, client }))).await;
        }
        self.config = new;
        Ok(stays)
    }
}
