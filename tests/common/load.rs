//! A busy switch: recordings played all at once, each at its own speed, with a log of what was sent to whom.
#![allow(dead_code, reason = "each test is a crate of its own, and not every one needs every helper")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use freeswitch_zammad::sim::recording::Recording;
use freeswitch_zammad::sim::switch::Switch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::common;

/// Events that nobody subscribes to and that no leg's state depends on: half of every recording.
const NEEDLESS: [&str; 3] = ["CHANNEL_EXECUTE", "CHANNEL_EXECUTE_COMPLETE", "CHANNEL_STATE"];
/// The headers that the model reads; a fifth of all, and the switch of these tests has as much less to do.
const NEEDED: [&str; 72] = [
    "Action",
    "Answer-State",
    "Bridge-A-Unique-ID",
    "Bridge-B-Unique-ID",
    "Call-Direction",
    "Caller-Caller-ID-Name",
    "Caller-Caller-ID-Number",
    "Caller-Channel-Created-Time",
    "Caller-Context",
    "Caller-Destination-Number",
    "Caller-Orig-Caller-ID-Number",
    "Caller-Privacy-Hide-Number",
    "Channel-Call-State",
    "Channel-Name",
    "Channel-Presence-ID",
    "Channel-State",
    "Conference-Name",
    "Core-UUID",
    "Event-Date-Timestamp",
    "Event-Subclass",
    "Hangup-Cause",
    "Old-Unique-ID",
    "Other-Leg-Caller-ID-Number",
    "Other-Leg-Channel-Created-Time",
    "Other-Leg-Channel-Name",
    "Other-Leg-Context",
    "Other-Leg-Destination-Number",
    "Other-Leg-Direction",
    "Other-Leg-Orig-Caller-ID-Number",
    "Other-Leg-Privacy-Hide-Number",
    "Other-Leg-Unique-ID",
    "Other-Type",
    "Unique-ID",
    "variable_bridge_to",
    "variable_bridge_uuid",
    "variable_cc_member_session_uuid",
    "variable_cc_queue",
    "variable_conference_name",
    "variable_current_application",
    "variable_current_application_data",
    "variable_dialed_domain",
    "variable_dialed_extension",
    "variable_dialed_user",
    "variable_domain_name",
    "variable_effective_caller_id_number",
    "variable_endpoint_disposition",
    "variable_ent_originate_aleg_uuid",
    "variable_fifo_bridge_uuid",
    "variable_loopback_app",
    "variable_originate_disposition",
    "variable_originating_leg_uuid",
    "variable_originator",
    "variable_other_loopback_from_uuid",
    "variable_other_loopback_leg_uuid",
    "variable_outbound_caller_id_number",
    "variable_send_to_voicemail",
    "variable_sip_Privacy",
    "variable_sip_Remote-Party-ID",
    "variable_sip_acl_token",
    "variable_sip_auth_username",
    "variable_sip_from_host",
    "variable_sip_from_user",
    "variable_sip_gateway",
    "variable_sip_gateway_name",
    "variable_sip_h_Privacy",
    "variable_sip_hangup_disposition",
    "variable_sip_profile_name",
    "variable_sip_req_user",
    "variable_sip_to_user",
    "variable_sofia_profile_name",
    "variable_user_name",
    "variable_verto_user",
];
/// How often the switch looks what is due.
const TICK: Duration = Duration::from_millis(1);

/// A recording under its own legs.
pub(crate) struct Scene {
    pub(crate) name: String,
    pub(crate) recording: Recording,
}

/// One event that was sent: which of which scene, and the connection that it went to, if any.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) scene: usize,
    pub(crate) event: usize,
    pub(crate) to: Option<u64>,
}

/// What was sent so far. A place in it is a moment.
pub(crate) type Log = Arc<Mutex<Vec<Sent>>>;

/// A switch at work. It goes on until it is told to end, and then plays what it has begun to its end.
pub(crate) struct Load {
    pub(crate) log: Log,
    ending: Arc<AtomicBool>,
    task: JoinHandle<Vec<Scene>>,
}

/// How busy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Business {
    /// A recording is begun this often.
    pub(crate) every_ms: u64,
    /// The quickest recording takes this long.
    pub(crate) shortest_ms: u64,
    /// And the slowest.
    pub(crate) longest_ms: u64,
}

impl Load {
    pub(crate) fn start(switch: Arc<Switch>, business: Business, seed: u64) -> Self {
        let (log, ending) = (Log::default(), Arc::new(AtomicBool::new(false)));
        let templates = templates();
        let task =
            tokio::spawn(work(switch, templates, business, seed, Arc::clone(&log), Arc::clone(&ending)));
        Self { log, ending, task }
    }

    /// How much was sent until now.
    pub(crate) fn now(&self) -> usize {
        self.log.lock().unwrap().len()
    }

    /// No further call begins; returns all that were played once they are over.
    pub(crate) async fn end(self) -> (Vec<Scene>, Vec<Sent>) {
        self.ending.store(true, Ordering::Relaxed);
        let scenes = self.task.await.unwrap();
        let log = std::mem::take(&mut *self.log.lock().unwrap());
        (scenes, log)
    }
}

struct Playing {
    scene: usize,
    recording: Recording,
    next: usize,
    begun: Instant,
    lasts: Duration,
}

impl Playing {
    fn due(&self) -> Instant {
        let count = u32::try_from(self.recording.events().len()).unwrap();
        self.begun + self.lasts * u32::try_from(self.next).unwrap() / count
    }
}

async fn work(
    switch: Arc<Switch>,
    templates: Vec<(String, Recording)>,
    business: Business,
    seed: u64,
    log: Log,
    ending: Arc<AtomicBool>,
) -> Vec<Scene> {
    let mut rng = Rng::with_seed(seed);
    let (mut scenes, mut playing): (Vec<Scene>, Vec<Playing>) = (Vec::new(), Vec::new());
    let mut born = Instant::now();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let over = ending.load(Ordering::Relaxed);
        if born.elapsed() >= Duration::from_millis(business.every_ms) && !over {
            born = Instant::now();
            let (name, template) = &templates[rng.usize(..templates.len())];
            let recording = template.renamed(&format!("n{}", scenes.len()));
            let recording = recording.with_core_uuid(&switch.core_uuid());
            scenes.push(Scene { name: name.clone(), recording: recording.clone() });
            // As many quick ones as slow ones.
            let span = (business.longest_ms as f64 / business.shortest_ms as f64).powf(rng.f64());
            let lasts = Duration::from_millis(business.shortest_ms).mul_f64(span);
            let scene = scenes.len() - 1;
            playing.push(Playing { scene, recording, next: 0, begun: Instant::now(), lasts });
        }
        let now = Instant::now();
        for one in &mut playing {
            while one.next < one.recording.events().len() && (one.due() <= now || over) {
                let mut log = log.lock().unwrap();
                let to = switch.send(&one.recording.events()[one.next]).last().copied();
                log.push(Sent { scene: one.scene, event: one.next, to });
                one.next += 1;
            }
        }
        playing.retain(|one| one.next < one.recording.events().len());
        if over && playing.is_empty() {
            return scenes;
        }
    }
}

/// Every recording whose calls are known, without what nobody needs.
fn templates() -> Vec<(String, Recording)> {
    let mut all = Vec::new();
    for folder in ["captures", "captures-fusionpbx"] {
        let expected = common::expected(folder);
        for (name, bytes) in common::recordings(folder) {
            if !expected.contains_key(&name) {
                continue;
            }
            let whole = Recording::parse(&bytes).unwrap();
            let mut names: Vec<&str> = whole.events().iter().map(|e| e.name()).collect();
            names.sort_unstable();
            names.dedup();
            names.retain(|name| name.starts_with("CHANNEL_") || *name == "CUSTOM" || *name == "CALL_UPDATE");
            names.retain(|name| !NEEDLESS.contains(name));
            all.push((name.clone(), whole.only(&names).trimmed(&NEEDED)));
        }
    }
    all
}

/// Where in the log each event of each scene stands.
pub(crate) fn places(log: &[Sent]) -> HashMap<(usize, usize), usize> {
    log.iter().enumerate().map(|(at, sent)| ((sent.scene, sent.event), at)).collect()
}
