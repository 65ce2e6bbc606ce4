//! Waiting for what must come, and saying what did not.
#![allow(dead_code, reason = "each test is a crate of its own, and not every one needs every helper")]

use std::time::Duration;

/// No condition that tests wait for takes nearly as long, on whatever machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Fails the test, naming what was waited for, if `future` takes longer than [`PATIENCE`].
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(done) => done,
        Err(_) => panic!("waited in vain: {what}"),
    }
}

/// Looks again and again until `true_of` holds. For what has no signal to wait for.
pub(crate) async fn until(what: &str, mut true_of: impl FnMut() -> bool) {
    within(what, async {
        while !true_of() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}
