//! What the two health questions are answered with.
//!
//! *Live* is asked by whoever would start the program anew: do its loops move? *Ready* is asked by whoever wants to know
//! whether calls are heard: has every switch said something lately, and be it a heartbeat? A Zammad that is away fails
//! neither: starting the program anew would not bring it back, and calls are kept meanwhile.

use crate::edge::control::Live;
use crate::edge::listener::LinkState;
use crate::edge::{clock, pulse};
use crate::time::UnixMillis;

/// The loops that do not move, a line for each; none if all do.
#[must_use]
pub fn not_live(live: &Live) -> Vec<String> {
    let stalled = live.pulse.stalled(clock::monotonic()).into_iter();
    let bound = pulse::BOUND.as_secs();
    stalled
        .map(|(name, age)| {
            format!("{name}: has not moved for {} s, where {bound} is too long", age.as_secs())
        })
        .collect()
}

/// What keeps this from being ready, a line for each switch; none if it is.
#[must_use]
pub fn not_ready(switches: &[(String, LinkState)], now: UnixMillis) -> Vec<String> {
    let word = |(name, state): &(String, LinkState)| {
        if !state.listening {
            return Some(format!("switch {name}: no link: {}", state.why));
        }
        // That it let us in was a word, too.
        let heard = state.last_event.unwrap_or_default().max(state.since);
        let silence = now.since(heard);
        (silence > state.silence_max).then(|| {
            format!("switch {name}: nothing was heard for {} s, not even a heartbeat", silence.as_secs())
        })
    };
    switches.iter().filter_map(word).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_switch_must_have_said_something_lately() {
        let at = |s: u64| UnixMillis(s * 1000);
        let state = |listening, since, last_event| LinkState {
            listening,
            since: at(since),
            last_event,
            silence_max: Duration::from_secs(65),
            why: "refused".into(),
            ..LinkState::new(at(0))
        };
        for (state, now, said) in [
            (state(false, 0, None), 1, "switch a: no link: refused"),
            (state(true, 10, None), 75, ""),
            (state(true, 10, None), 76, "switch a: nothing was heard for 66 s, not even a heartbeat"),
            (state(true, 10, Some(at(100))), 165, ""),
            (
                state(true, 10, Some(at(100))),
                166,
                "switch a: nothing was heard for 66 s, not even a heartbeat",
            ),
            // Heard on an earlier connection.
            (state(true, 300, Some(at(100))), 310, ""),
        ] {
            let well = ("b".to_owned(), LinkState { listening: true, since: at(now), ..state.clone() });
            assert_eq!(not_ready(&[("a".into(), state), well], at(now)).join("\n"), said);
        }
    }
}
