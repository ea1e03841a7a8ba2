//! Waiting until a condition holds.

use std::time::Duration;

/// The longest time that a test waits for anything that does not say otherwise.
pub const DEADLINE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);

/// A result that [`eventually`] can wait for: `true`, or `Some`.
pub trait Condition {
    type Value;

    fn met(self) -> Option<Self::Value>;
}

impl Condition for bool {
    type Value = ();

    fn met(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Condition for Option<T> {
    type Value = T;

    fn met(self) -> Option<T> {
        self
    }
}

/// Polls `probe` until its condition is met. Panics with `what` after [`DEADLINE`].
pub async fn eventually<C: Condition>(probe: impl AsyncFnMut() -> C, what: &str) -> C::Value {
    eventually_within(DEADLINE, probe, what).await
}

/// Polls `probe` until its condition is met. Panics with `what` after `limit`.
pub async fn eventually_within<C: Condition>(
    limit: Duration,
    mut probe: impl AsyncFnMut() -> C,
    what: &str,
) -> C::Value {
    let polling = async {
        loop {
            if let Some(value) = probe().await.met() {
                return value;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    match tokio::time::timeout(limit, polling).await {
        Ok(value) => value,
        Err(_) => panic!("within {limit:?} it did not happen that {what}"),
    }
}
