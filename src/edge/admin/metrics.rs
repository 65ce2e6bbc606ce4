//! What `/metrics` says, in OpenMetrics: the figures that listeners, intake, drains and store keep anyway, read when
//! they are asked for. No telephone number, no call, no reason in words stands in a label; labels are configured names,
//! and words of lists that are fixed here.

mod outbox;

use std::fmt;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::cti::cause::Cause;
use crate::cti::event::Direction;
use crate::edge::backfill::BackfillState;
use crate::edge::clock;
use crate::edge::control::Live;
use crate::edge::drain::DrainState;
use crate::edge::listener::LinkState;
use crate::esl::event::Name;
use crate::queue::breaker::Link;
use crate::store::Store;
use crate::time::UnixMillis;

/// What kind of text [`text`] is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of a post's duration, in seconds. A request is given up after `timeout_s`, 10 s unless configured.
const POST_SECONDS: [f64; 10] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

type Labels = Vec<(&'static str, String)>;

/// How long posts took, by Zammad. Clones share it.
#[derive(Clone, Debug)]
pub struct PostSeconds(Family<Labels, Histogram, fn() -> Histogram>);

impl Default for PostSeconds {
    fn default() -> Self {
        Self(Family::new_with_constructor(|| Histogram::new(POST_SECONDS)))
    }
}

impl PostSeconds {
    /// Where the posts to one Zammad are noted, in seconds.
    #[must_use]
    pub fn of(&self, zammad: &str) -> Histogram {
        self.0.get_or_create(&vec![("zammad", zammad.to_owned())]).clone()
    }
}

/// All of them. Blocks for a moment.
///
/// # Errors
/// None that could be met: the text is written into memory.
pub fn text(store: &Store, live: &Live) -> Result<String, fmt::Error> {
    let mut sheet = Sheet(Registry::with_prefix("freeswitch_zammad"));
    program(&mut sheet, live);
    switches(&mut sheet, live);
    backfills(&mut sheet, live);
    calls(&mut sheet, live);
    queue(&mut sheet, store);
    zammads(&mut sheet, live);
    if let Some(outbox) = &live.outbox {
        outbox::write(&mut sheet, outbox);
    }
    let mut text = String::new();
    encode(&mut text, &sheet.0)?;
    Ok(text)
}

fn program(sheet: &mut Sheet, live: &Live) {
    let build = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    sheet.0.register("build", "The program that runs", Info::new(build));
    sheet.gauge(
        "start_time",
        "When the daemon started, since 1970",
        Some(Unit::Seconds),
        [(vec![], seconds(live.started))],
    );
    let ages = live.pulse.ages(clock::monotonic());
    sheet.gauge(
        "loop_still",
        "How long ago each of the daemon's loops came round; 30 is too long",
        Some(Unit::Seconds),
        ages.into_iter().map(|(name, age)| (vec![("loop", name)], age.as_secs_f64())),
    );
}

fn switches(sheet: &mut Sheet, live: &Live) {
    let all = live.links();
    let each = |of: &dyn Fn(&LinkState) -> u64| by_switch(&all, of);
    let up = each(&|state| u64::from(state.listening)).into_iter().map(|(labels, up)| (labels, float(up)));
    sheet.gauge("switch_link_up", "Whether events of the switch come in (1) or not (0)", None, up);
    sheet.count(
        "switch_link_losses",
        "How often the link to the switch was lost",
        each(&|state| state.losses),
    );
    let heard = all
        .iter()
        .filter_map(|(name, state)| Some((vec![("switch", name.clone())], seconds(state.last_event?))));
    sheet.gauge(
        "switch_last_event_timestamp",
        "When the switch was last heard, since 1970",
        Some(Unit::Seconds),
        heard,
    );
    let kinds = all.iter().flat_map(|(name, state)| {
        let of = |kind: Name| {
            (vec![("switch", name.clone()), ("kind", kind.as_str().to_owned())], state.kinds[kind as usize])
        };
        Name::ALL.map(of)
    });
    sheet.count("switch_events", "Events of the switch that were heard", kinds);
    sheet.count(
        "switch_events_unreadable",
        "Events of the switch that could not be read",
        each(&|state| state.skipped),
    );
    sheet.count(
        "switch_disk_waits",
        "How often reading from the switch had to wait for the disk",
        each(&|state| state.waits),
    );
}

/// A figure of each switch.
fn by_switch<S>(all: &[(String, S)], of: impl Fn(&S) -> u64) -> Vec<(Labels, u64)> {
    all.iter().map(|(name, state)| (vec![("switch", name.clone())], of(state))).collect()
}

/// Of the switches that have a `cdr_dir`.
fn backfills(sheet: &mut Sheet, live: &Live) {
    let all = live.backfills.iter().map(|(name, state)| (name.clone(), state.borrow().clone()));
    let all: Vec<(String, BackfillState)> = all.collect();
    let each = |of: fn(&BackfillState) -> u64| by_switch(&all, of);
    sheet.count("backfill_gaps", "Times without a listener that were told to their end", each(|b| b.gaps));
    sheet.count("backfill_records", "Call detail records that were read", each(|b| b.files));
    sheet.count(
        "backfill_records_unreadable",
        "Call detail records that could not be read",
        each(|b| b.skipped),
    );
    sheet.count(
        "backfill_records_left_out",
        "Call detail records that were not read: there were too many",
        each(|b| b.left_out),
    );
    sheet.count(
        "backfill_folder_failures",
        "How often the folder of the call detail records could not be read",
        each(|b| b.unlisted),
    );
    sheet.count(
        "backfill_calls",
        "Calls that nobody heard and that were taken from call detail records",
        each(|b| b.calls),
    );
    sheet.count(
        "backfill_calls_lost",
        "Calls that nobody heard and that could not be queued",
        each(|b| b.lost),
    );
}

fn calls(sheet: &mut Sheet, live: &Live) {
    let figures = live.figures();
    let one = |value: usize| [(vec![], float(value as u64))];
    sheet.gauge("calls_active", "Calls that are going on", None, one(figures.calls));
    sheet.gauge("legs_remembered", "Legs that are remembered, ended ones included", None, one(figures.legs));
    let ended =
        [Direction::In, Direction::Out].into_iter().zip(figures.ended).flat_map(|(direction, ended)| {
            let of = move |cause: Cause| {
                let labels = [("direction", direction.as_str()), ("cause", cause.as_str())];
                (labels.map(|(key, value)| (key, value.to_owned())).to_vec(), ended[cause as usize])
            };
            Cause::ALL.map(of)
        });
    sheet.count("calls_ended", "Calls that ended, by the cause that Zammad is told", ended);
    sheet.count("events_accepted", "Events that were taken into the queue", [(vec![], figures.accepted)]);
    sheet.count(
        "events_refused",
        "Events that were not queued because they had been before",
        [(vec![], figures.repeated)],
    );
    sheet.count(
        "events_lost",
        "Events that are lost: there was no room for them",
        [(vec![], figures.dropped)],
    );
    sheet.gauge(
        "events_unaccepted",
        "Events in memory only, because the disk is slow or refuses",
        None,
        one(figures.unaccepted),
    );
}

fn queue(sheet: &mut Sheet, store: &Store) {
    let counts = store.counts();
    let one = |value: u64| [(vec![], float(value))];
    let now = clock::now();
    let oldest =
        store.oldest_pending().ok().flatten().map_or(0.0, |(_, p)| now.since(p.happened).as_secs_f64());
    sheet.gauge("queue_events", "Events that wait to be delivered", None, one(counts.pending));
    sheet.gauge(
        "queue_oldest_age",
        "How long the oldest of them has waited",
        Some(Unit::Seconds),
        [(vec![], oldest)],
    );
    sheet.gauge(
        "dead_letters",
        "Events that Zammad refused for good and that are kept",
        None,
        one(counts.dead),
    );
    sheet.gauge("delivered_kept", "Delivered events that are remembered", None, one(counts.delivered));
    let bytes = store.disk_bytes().ok().map(|bytes| (vec![], float(bytes)));
    sheet.gauge("store_size", "What the store takes on disk", Some(Unit::Bytes), bytes);
    sheet.gauge(
        "store_refused",
        "Whether the disk takes nothing now (1)",
        None,
        one(u64::from(store.refused().is_some())),
    );
}

fn zammads(sheet: &mut Sheet, live: &Live) {
    let all = live.zammads.iter().map(|(name, _, state, _)| (name.clone(), state.borrow().clone()));
    let all: Vec<(String, DrainState)> = all.collect();
    let labels =
        |name: &String, key: &'static str, word: &str| vec![("zammad", name.clone()), (key, word.to_owned())];
    let each = |of: &dyn Fn(&DrainState) -> u64| -> Vec<(Labels, u64)> {
        all.iter().map(|(name, state)| (vec![("zammad", name.clone())], of(state))).collect()
    };
    let floats =
        |values: Vec<(Labels, u64)>| values.into_iter().map(|(labels, value)| (labels, float(value)));
    let states = all.iter().flat_map(|(name, state)| {
        let now = match state.link {
            Link::Up => "up",
            Link::Away { .. } => "away",
            Link::Misconfigured { .. } => "misconfigured",
        };
        ["up", "away", "misconfigured"]
            .map(|word| (labels(name, "state", word), float(u64::from(word == now))))
    });
    sheet.gauge("zammad_link", "Which state Zammad is in (1), and which not (0)", None, states);
    sheet.gauge(
        "zammad_paused",
        "Whether an operator has stopped posting (1)",
        None,
        floats(each(&|state| state.paused.into())),
    );
    sheet.gauge(
        "posts_in_flight",
        "Requests on their way to Zammad",
        None,
        floats(each(&|state| state.in_flight as u64)),
    );
    let results = all.iter().flat_map(|(name, state)| {
        let counters = state.counters;
        [
            ("delivered", counters.delivered),
            ("dead", counters.dead),
            ("ambiguous", counters.ambiguous),
            ("dropped", counters.dropped),
        ]
        .map(|(result, count)| (labels(name, "result", result), count))
    });
    sheet.count("deliveries", "Events that need nothing more, by what became of them", results);
    sheet.count(
        "posts_repeated",
        "Posts that failed and are repeated",
        each(&|state| state.counters.repeated),
    );
    sheet.count(
        "calls_healed",
        "Calls told anew because Zammad did not know them",
        each(&|state| state.counters.healed),
    );
    sheet.count(
        "hangups_looked_up",
        "Hangups whose fate was found in Zammad's log",
        each(&|state| state.counters.looked_up),
    );
    let last = all
        .iter()
        .filter_map(|(name, state)| Some((vec![("zammad", name.clone())], seconds(state.last_delivery?))));
    sheet.gauge(
        "last_delivery_timestamp",
        "When Zammad last took an event, since 1970",
        Some(Unit::Seconds),
        last,
    );
    sheet.0.register_with_unit(
        "post_duration",
        "How long posts to Zammad took",
        Unit::Seconds,
        live.posts.0.clone(),
    );
}

/// A registry that is filled, written and dropped.
struct Sheet(Registry);

impl Sheet {
    fn count(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Counter>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).inc_by(value);
        }
        self.0.register(name, help, family);
    }

    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        let family = Family::<Labels, Gauge<f64, AtomicU64>>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).set(value);
        }
        match unit {
            Some(unit) => self.0.register_with_unit(name, help, unit, family),
            None => self.0.register(name, help, family),
        }
    }
}

fn seconds(at: UnixMillis) -> f64 {
    float(at.0) / 1000.0
}

/// Exact up to 2^53, and no figure here is larger.
#[expect(clippy::cast_precision_loss, reason = "no figure here is so large")]
fn float(value: u64) -> f64 {
    value as f64
}
