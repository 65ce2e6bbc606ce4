//! The shared outbox, if there is one: what this node does with it, and what it knows of the fleet. Of the fleet every
//! node says the same; what it has not been able to read for long it does not say.

use prometheus_client::registry::Unit;

use super::{Labels, Sheet, float, seconds};
use crate::edge::claims::ShareState;
use crate::edge::clock;
use crate::edge::control::Outbox;
use crate::edge::fleet::{self, FleetState, NodeState};
use crate::outbox::Figures;
use crate::time::UnixMillis;

pub(super) fn write(sheet: &mut Sheet, outbox: &Outbox) {
    own(sheet, outbox);
    fleet(sheet, &outbox.fleet.borrow().clone());
}

fn own(sheet: &mut Sheet, outbox: &Outbox) {
    let shipper = outbox.shipper.borrow().clone();
    let shares = outbox.shares.iter().map(|(zammad, state)| (zammad.clone(), state.borrow().clone()));
    let shares: Vec<(String, ShareState)> = shares.collect();
    let away = shipper.away.is_some() || shares.iter().any(|(_, share)| share.away.is_some());
    sheet.gauge(
        "outbox_link_up",
        "Whether this node reaches the shared outbox (1) or not (0)",
        None,
        [(vec![], float(u64::from(!away)))],
    );
    sheet.count(
        "outbox_shipped",
        "Events that this node brought into the outbox, and that were not there yet",
        [(vec![], shipper.shipped)],
    );
    sheet.count(
        "outbox_known",
        "Events of this node that were in the outbox already",
        [(vec![], shipper.known)],
    );
    sheet.count(
        "outbox_claims_lost",
        "How often this node could not keep calls that it had claimed",
        shares.iter().map(|(zammad, share)| (of(zammad), share.lost)),
    );
}

fn fleet(sheet: &mut Sheet, state: &FleetState) {
    let now = clock::now();
    let fresh = |at: Option<UnixMillis>| at.is_some_and(|at| now.since(at) < fleet::STALE);
    let nodes = if fresh(state.seen) { state.nodes.as_slice() } else { &[] };
    let node = |name: &str| vec![("node", name.to_owned())];
    sheet.gauge(
        "outbox_node",
        "Which state a node of the outbox is in (1), and which not (0)",
        None,
        nodes.iter().flat_map(|one| {
            let is = NodeState::of(one);
            NodeState::ALL.map(|state| {
                let labels = vec![("node", one.name.clone()), ("state", state.as_str().to_owned())];
                (labels, float(u64::from(state == is)))
            })
        }),
    );
    sheet.gauge(
        "outbox_node_seen_timestamp",
        "When a node of the outbox last said how it is, since 1970",
        Some(Unit::Seconds),
        nodes.iter().map(|one| (node(&one.name), seconds(fleet::seen(state, one)))),
    );
    let age = state.counted.map(|at| (vec![], now.since(at).as_secs_f64()));
    sheet.gauge(
        "outbox_figures_age",
        "How old this node's figures of the outbox are",
        Some(Unit::Seconds),
        age,
    );
    let all: Vec<(&String, &Figures)> =
        if fresh(state.counted) { state.figures.iter().collect() } else { vec![] };
    let each = |of_one: &dyn Fn(&Figures) -> f64| -> Vec<(Labels, f64)> {
        all.iter().map(|(zammad, figures)| (of(zammad), of_one(figures))).collect()
    };
    let oldest = |figures: &Figures| figures.oldest.map_or(0.0, |at| now.since(at).as_secs_f64());
    sheet.gauge("outbox_events", "Events that wait in the outbox", None, each(&|it| float(it.waiting)));
    sheet.gauge(
        "outbox_oldest_age",
        "How long ago the oldest of them happened",
        Some(Unit::Seconds),
        each(&oldest),
    );
    sheet.gauge(
        "outbox_dead_letters",
        "Events in the outbox that Zammad refused for good",
        None,
        each(&|it| float(it.dead)),
    );
    let kept = all.iter().filter_map(|(zammad, _)| Some((of(zammad), float(*state.delivered.get(*zammad)?))));
    sheet.gauge(
        "outbox_delivered_kept",
        "Delivered events that are remembered in the outbox",
        None,
        kept.collect::<Vec<_>>(),
    );
    let hands = all.iter().flat_map(|(zammad, figures)| {
        let has = |hand: &crate::outbox::Hand| {
            let labels = vec![("zammad", (*zammad).clone()), ("node", hand.node.clone())];
            (labels, float(hand.calls))
        };
        figures.hands.iter().map(has).collect::<Vec<_>>()
    });
    sheet.gauge(
        "outbox_calls_claimed",
        "Calls of the outbox that a node has now",
        None,
        hands.collect::<Vec<_>>(),
    );
}

fn of(zammad: &str) -> Labels {
    vec![("zammad", zammad.to_owned())]
}
