//! The parts of a daemon that is a node of a shared outbox.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, OutboxConfig};
use crate::edge::accept::Accepted;
use crate::edge::claims::{self, Claims, ShareState};
use crate::edge::control::{Live, Outbox};
use crate::edge::desk::Desk;
use crate::edge::doubts::Doubts;
use crate::edge::drain::{self, Order};
use crate::edge::fleet::{FleetState, Lookout};
use crate::edge::shipper::{self, Shipper, ShipperState};
use crate::edge::source::Source;
use crate::outbox::Settings;
use crate::store::{Store, StoreError};

/// What the drains of a node have in common.
pub(super) struct Fleet {
    settings: Arc<Settings>,
    /// Where word of newly accepted events goes.
    to_ship: mpsc::Sender<Accepted>,
    told: watch::Sender<FleetState>,
    doubts: Doubts,
}

/// How this node reaches the outbox; `id` tells it from others of its name.
#[must_use]
pub fn settings(config: &Config, outbox: &OutboxConfig, id: &str) -> Settings {
    let (delivery, OutboxConfig { server, node, lease }) = (&config.delivery, outbox);
    Settings {
        server: server.clone(),
        node: node.clone(),
        owner: format!("{node}/{id}"),
        lease: *lease,
        // No node brings one that is older than what it keeps for Zammad.
        delivered_keep: delivery.delivered_keep.max(delivery.max_age),
        dead_keep: delivery.dead_keep.max(delivery.max_age),
    }
}

/// Begins to ship what is in the store, if there is an outbox.
pub(super) fn join(
    config: &Config,
    store: &Store,
    live: &mut Live,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> Result<Option<Fleet>, StoreError> {
    let Some(outbox) = &config.outbox else { return Ok(None) };
    let settings = Arc::new(settings(config, outbox, &claims::node_id(&config.state_dir)?));
    let (to_ship, accepted) = mpsc::channel(drain::QUEUE);
    let (state, shown) = watch::channel(ShipperState::default());
    let (told, fleet) = watch::channel(FleetState::default());
    let desk = Desk::new(Arc::clone(&settings), config.zammads.iter().map(|z| z.name.to_string()).collect());
    let node = outbox.node.clone();
    live.outbox = Some(Outbox { node, shipper: shown, shares: vec![], fleet, desk });
    let (settings_of, beat) = (Arc::clone(&settings), live.pulse.join("shipper"));
    let doubts = Doubts::default();
    let shipper = Shipper {
        store: store.clone(),
        settings: settings_of,
        accepted,
        doubts: doubts.clone(),
        state,
        beat,
    };
    tasks.spawn(shipper.run(stop.clone()));
    Ok(Some(Fleet { settings, to_ship, told, doubts }))
}

impl Fleet {
    /// Where endings are noted that another node may know better.
    pub(super) fn doubts(&self) -> Doubts {
        self.doubts.clone()
    }

    /// Begins to look over the fleet, once all of this node is there to be told of.
    pub(super) fn watch(self, store: &Store, live: &Live, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
        let Some(Outbox { desk, .. }) = &live.outbox else { return };
        let lookout = Lookout {
            settings: self.settings,
            store: store.clone(),
            live: live.clone(),
            state: self.told,
            changed: desk.changed(),
            beat: live.pulse.join("fleet"),
        };
        tasks.spawn(lookout.run(stop.clone()));
    }

    /// Begins to claim for a Zammad's drain. Where that drain's events are, where word of accepted ones goes instead of to
    /// it, and where orders go instead of to it.
    pub(super) fn share(
        &self,
        zammad: &str,
        (accepted, orders): (mpsc::Sender<Accepted>, mpsc::Sender<Order>),
        live: &mut Live,
        tasks: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) -> (Source, mpsc::Sender<Accepted>, mpsc::Sender<Order>) {
        let (state, shown) = watch::channel(ShareState::default());
        if let Some(outbox) = &mut live.outbox {
            outbox.shares.push((zammad.to_owned(), shown));
        }
        let claims = Claims {
            zammad: zammad.to_owned(),
            settings: Arc::clone(&self.settings),
            accepted,
            orders: orders.clone(),
            state,
            beat: live.pulse.join(format!("outbox {zammad}")),
        };
        let (share, claiming, recording) = claims.begin(stop.clone());
        tasks.spawn(claiming);
        tasks.spawn(recording);
        // What is said of this node's rows is nothing to the drain.
        let (of_rows, given) = mpsc::channel(drain::ORDERS);
        tasks.spawn(shipper::pass_on(given, orders, stop.clone()));
        (Source::Shared(share), self.to_ship.clone(), of_rows)
    }
}
