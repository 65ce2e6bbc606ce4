//! Who our people and queues are, as the configuration names them.

use std::collections::HashMap;

/// One of our people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Shown as the one who answered or called; Zammad also tries it as a login.
    pub user: Option<String>,
    /// The number Zammad knows them by.
    pub number: Option<String>,
}

/// Extensions and called numbers with a meaning.
#[derive(Clone, Debug, Default)]
pub struct People {
    agents: HashMap<String, Agent>,
    queues: HashMap<String, String>,
}

impl People {
    /// `agents` by extension, or by `extension@domain` where extensions repeat; `queues` by called number in
    /// the form in which it is sent.
    #[must_use]
    pub const fn new(agents: HashMap<String, Agent>, queues: HashMap<String, String>) -> Self {
        Self { agents, queues }
    }

    /// The agent at an extension; the one of the domain goes before the one of all domains.
    #[must_use]
    pub fn agent(&self, extension: &str, domain: Option<&str>) -> Option<&Agent> {
        domain
            .and_then(|domain| self.agents.get(&format!("{extension}@{domain}")))
            .or_else(|| self.agents.get(extension))
    }

    /// The queue behind a called number.
    #[must_use]
    pub fn queue(&self, number: &str) -> Option<&str> {
        self.queues.get(number).map(String::as_str)
    }
}
