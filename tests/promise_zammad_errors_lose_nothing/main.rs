//! Zammad's own errors never lose or poison a call: what each answer leads to, over HTTP.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

#[path = "../common/delivery.rs"]
mod delivery;
mod invariants;
mod known_errors;
#[path = "../common/tls.rs"]
mod tls;
