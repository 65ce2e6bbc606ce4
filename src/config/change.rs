//! What of a new configuration a running daemon takes over, and what needs a restart. Pure.

use super::{Config, SwitchConfig, ZammadConfig};

impl Config {
    /// What a daemon that runs with this configuration goes by once it is given `new`; and what stays as it is until it
    /// is started again, a sentence for each. Switches and Zammads are the same ones, in the same order, as before.
    #[must_use]
    pub fn taking_over(&self, new: Self) -> (Self, Vec<String>) {
        let mut stays = Vec::new();
        // Taken apart, so that a key which is added makes somebody decide here.
        let Self {
            state_dir,
            country,
            switches,
            zammads,
            routes,
            delivery,
            calls,
            causes,
            agents,
            queues,
            mut log,
            admin,
            outbox,
        } = new;
        if log.format != self.log.format {
            stays.push("log.format stays as it is".to_owned());
            log.format = self.log.format;
        }
        if state_dir != self.state_dir {
            stays.push(format!("state_dir stays {}", self.state_dir.display()));
        }
        if admin != self.admin {
            stays.push("[admin]: the status page stays where and as it is".into());
        }
        if outbox != self.outbox {
            stays.push("[outbox]: it stays where and as it is".into());
        }
        let zammads = the_same(&self.zammads, zammads, "zammad", |z| z.name.as_str(), &mut stays);
        let mut switches = the_same(&self.switches, switches, "switch", |s| s.name.as_str(), &mut stays);
        for (switch, running) in switches.iter_mut().zip(&self.switches) {
            keep(switch, running, &zammads, &mut stays);
        }
        let is_there = |name: &str| zammads.iter().any(|z| z.name.as_str() == name);
        let routes = if routes.iter().all(|route| is_there(&route.zammad)) {
            routes
        } else {
            stays.push(
                "[[route]]: one leads to a Zammad that is not known yet, so all stay as they are".into(),
            );
            self.routes.clone()
        };
        let state_dir = self.state_dir.clone();
        let config = Self {
            state_dir,
            country,
            switches,
            zammads,
            routes,
            delivery,
            calls,
            causes,
            agents,
            queues,
            log,
            admin: self.admin.clone(),
            outbox: self.outbox.clone(),
        };
        (config, stays)
    }
}

/// Of a switch's keys, those that its tasks are built around.
fn keep(
    switch: &mut SwitchConfig,
    running: &SwitchConfig,
    zammads: &[ZammadConfig],
    stays: &mut Vec<String>,
) {
    let name = running.name.as_str();
    if switch.cdr_dir != running.cdr_dir {
        stays.push(format!("switch {name}: cdr_dir stays as it is"));
        switch.cdr_dir.clone_from(&running.cdr_dir);
    }
    if !zammads.iter().any(|z| z.name == switch.zammad) {
        stays.push(format!("switch {name}: its calls still go to zammad {}", running.zammad));
        switch.zammad = running.zammad.clone();
    }
}

/// Those that are running, as they are to be now: whoever is gone goes on, whoever is new is left out.
fn the_same<T: Clone>(
    running: &[T],
    new: Vec<T>,
    kind: &str,
    name: fn(&T) -> &str,
    stays: &mut Vec<String>,
) -> Vec<T> {
    for one in new.iter().filter(|one| running.iter().all(|it| name(it) != name(one))) {
        stays.push(format!("{kind} {} is new and not used yet", name(one)));
    }
    let now = |it: &T| {
        new.iter().find(|one| name(one) == name(it)).cloned().unwrap_or_else(|| {
            stays.push(format!("{kind} {} is not configured any more and goes on as it was", name(it)));
            it.clone()
        })
    };
    running.iter().map(now).collect()
}
