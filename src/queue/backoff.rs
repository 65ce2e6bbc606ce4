//! Exponential waits with jitter, so that many who failed together do not come back together.

use std::time::Duration;

/// Shortest and longest wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first wait, before jitter.
    pub min: Duration,
    /// No wait is longer.
    pub max: Duration,
}

impl Backoff {
    /// The wait after failure number `failures` (from 1): doubled each time, then somewhere between half and all
    /// of it. `dice` is a random number in `0.0..1.0`.
    #[must_use]
    pub fn wait(&self, failures: u32, dice: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let whole = self.min.saturating_mul(1 << doublings).min(self.max);
        whole.mul_f64(0.5 + dice.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_jitter_stays_in_the_upper_half() {
        let backoff = Backoff { min: Duration::from_millis(500), max: Duration::from_secs(60) };
        assert_eq!(backoff.wait(1, 1.0), Duration::from_millis(500));
        assert_eq!(backoff.wait(1, 0.0), Duration::from_millis(250));
        assert_eq!(backoff.wait(3, 1.0), Duration::from_secs(2));
        assert_eq!(backoff.wait(u32::MAX, 1.0), Duration::from_secs(60));
        assert_eq!(backoff.wait(8, 0.0), Duration::from_secs(30));
    }
}
