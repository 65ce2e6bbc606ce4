//! What happens in the demonstration: recorded real calls, each with what a person watching would say.

use crate::sim::recording::Recording;

/// One recorded call and what is true of it.
pub(super) struct Scene {
    /// What happens, for somebody who has never heard of any of this.
    pub(super) story: &'static str,
    /// Trimmed to what the call model reads; a test holds that.
    bytes: &'static [u8],
    /// `in` or `out`.
    pub(super) direction: &'static str,
    /// Who called.
    pub(super) from: &'static str,
    /// Whom.
    pub(super) to: &'static str,
    /// Who was connected to the customer last; the mailbox is `voicemail`.
    pub(super) answered_by: Option<&'static str>,
    /// Whether somebody must call back.
    pub(super) missed: bool,
    /// How it ended.
    pub(super) cause: &'static str,
}

impl Scene {
    /// The events, under ids of their own.
    pub(super) fn recording(&self, suffix: &str) -> Recording {
        Recording::parse(self.bytes).expect("the embedded recordings are whole").renamed(suffix)
    }
}

const CUSTOMER: &str = "4915112345678";

/// Played while Zammad is there.
pub(super) const BEFORE: [Scene; 3] = [
    Scene {
        story: "A customer calls. The phone of agent 1001 rings, 1001 answers, the customer hangs up.",
        bytes: include_bytes!("in_answered_caller_hangs_up.esl"),
        direction: "in",
        from: CUSTOMER,
        to: "49305552101",
        answered_by: Some("1001"),
        missed: false,
        cause: "normalClearing",
    },
    Scene {
        story: "A customer calls the menu. The menu picks up at once, but that is no answer: agent 1001 is.",
        bytes: include_bytes!("ivr_transfer_to_agent.esl"),
        direction: "in",
        from: CUSTOMER,
        to: "49305555000",
        answered_by: Some("1001"),
        missed: false,
        cause: "normalClearing",
    },
    Scene {
        story: "Agent 1001 calls a customer's mobile, who answers.",
        bytes: include_bytes!("out_answered_agent_hangs_up.esl"),
        direction: "out",
        from: "1001",
        to: "4917099988877",
        answered_by: None,
        missed: false,
        cause: "normalClearing",
    },
];

/// Played while Zammad is away.
pub(super) const DURING: [Scene; 5] = [
    Scene {
        story: "A customer calls the team. Three phones ring; 1002 is the quickest.",
        bytes: include_bytes!("rg_one_answers.esl"),
        direction: "in",
        from: CUSTOMER,
        to: "49305553000",
        answered_by: Some("1002"),
        missed: false,
        cause: "normalClearing",
    },
    Scene {
        story: "A customer calls, waits, and gives up.",
        bytes: include_bytes!("in_caller_cancels.esl"),
        direction: "in",
        from: CUSTOMER,
        to: "49305552101",
        answered_by: None,
        missed: true,
        cause: "cancel",
    },
    Scene {
        story: "A customer calls; 1001 is busy, so the mailbox takes a message.",
        bytes: include_bytes!("in_vanilla_busy_to_voicemail.esl"),
        direction: "in",
        from: CUSTOMER,
        to: "49305551001",
        answered_by: Some("voicemail"),
        missed: true,
        cause: "normalClearing",
    },
    Scene {
        story: "A customer calls 1001, who answers and puts the call through to 1002.",
        bytes: include_bytes!("xfer_blind_refer.esl"),
        direction: "in",
        from: CUSTOMER,
        to: "49305552101",
        answered_by: Some("1002"),
        missed: false,
        cause: "normalClearing",
    },
    Scene {
        story: "Agent 1001 calls a customer's mobile, which is busy.",
        bytes: include_bytes!("out_busy.esl"),
        direction: "out",
        from: "1001",
        to: "4917099988877",
        answered_by: None,
        missed: false,
        cause: "busy",
    },
];
