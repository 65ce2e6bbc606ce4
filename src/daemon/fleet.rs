//! The parts of a daemon that is a node of a shared outbox.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, OutboxConfig};
use crate::edge::accept::Accepted;
use crate::edge::claims::{self, Claims, ShareState};
use crate::edge::control::{Live, Outbox};
use crate::edge::drain::{self, Order};
use crate::edge::shipper::{self, Shipper, ShipperState};
use crate::edge::source::Source;
use crate::outbox::Settings;
use crate::store::{Store, StoreError};

/// What the drains of a node have in common.
pub(super) struct Fleet {
    settings: Arc<Settings>,
    /// Where word of newly accepted events goes.
    to_ship: mpsc::Sender<Accepted>,
}

/// Begins to ship what is in the store, if there is an outbox.
pub(super) fn join(
    config: &Config,
    store: &Store,
    live: &mut Live,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> Result<Option<Fleet>, StoreError> {
    let Some(OutboxConfig { server, node, lease }) = &config.outbox else { return Ok(None) };
    let delivery = &config.delivery;
    let settings = Arc::new(Settings {
        server: server.clone(),
        node: node.clone(),
        owner: format!("{node}/{}", claims::node_id(&config.state_dir)?),
        lease: *lease,
        // No node brings one that is older than what it keeps for Zammad.
        delivered_keep: delivery.delivered_keep.max(delivery.max_age),
        dead_keep: delivery.dead_keep.max(delivery.max_age),
    });
    let (to_ship, accepted) = mpsc::channel(drain::QUEUE);
    let (state, shown) = watch::channel(ShipperState::default());
    live.outbox = Some(Outbox { node: node.clone(), shipper: shown, shares: vec![] });
    let (settings_of, beat) = (Arc::clone(&settings), live.pulse.join("shipper"));
    let shipper = Shipper { store: store.clone(), settings: settings_of, accepted, state, beat };
    tasks.spawn(shipper.run(stop.clone()));
    Ok(Some(Fleet { settings, to_ship }))
}

impl Fleet {
    /// Begins to claim for a Zammad's drain. Where that drain's events are, where word of accepted ones goes instead of to
    /// it, and where orders go instead of to it.
    pub(super) fn share(
        &self,
        zammad: &str,
        accepted: mpsc::Sender<Accepted>,
        orders: mpsc::Sender<Order>,
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
