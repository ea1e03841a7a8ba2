//! Changes that were dropped although the handler did not discard them. Pure.
//!
//! A commit takes all uncommitted changes, also those that its caller did not make. If it drops
//! them, a later commit of the request finds nothing to do. It must not report success.

use super::SessionError;

/// The losses of one request. Nearly all requests have none, which takes one word.
#[derive(Default)]
pub(super) struct Losses(Option<Box<Lost>>);

struct Lost {
    /// The number of times that changes were dropped.
    times: u64,
    /// The number of these times that the handler has been told of.
    told: u64,
    /// The reason of the last one.
    error: SessionError,
}

/// The losses that the handler had been told of at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told(u64);

/// How often everything uncommitted was dropped. What a commit has taken until then is not
/// committed either, unless it succeeds.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Drops {
    /// By the handler.
    pub(super) discarded: u32,
    /// Since the request was cut off, or its response has failed.
    pub(super) lost: u32,
}

impl Losses {
    /// Records that changes were dropped. Returns what a handler has been told of that gets the
    /// error.
    pub(super) fn record(&mut self, error: SessionError) -> Told {
        let (times, told) = self.0.as_ref().map_or((0, 0), |lost| (lost.times, lost.told));
        self.0 = Some(Box::new(Lost { times: times + 1, told, error }));
        Told(times + 1)
    }

    /// Records what the handler has been told of.
    pub(super) fn tell(&mut self, Told(told): Told) {
        if let Some(lost) = &mut self.0 {
            lost.told = lost.told.max(told);
        }
    }

    pub(super) fn told(&self) -> Told {
        Told(self.0.as_ref().map_or(0, |lost| lost.told))
    }

    /// Returns the reason of the last loss if there is one that the handler had not been told of,
    /// and what it has been told of once it gets this.
    pub(super) fn unknown_to(&self, Told(told): Told) -> Option<(&SessionError, Told)> {
        let lost = self.0.as_ref().filter(|lost| lost.times > told)?;
        Some((&lost.error, Told(lost.times)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_known_to_those_who_come_after_it_was_told() {
        let mut losses = Losses::default();
        let before = losses.told();
        assert!(losses.unknown_to(before).is_none(), "there is none");
        let first = losses.record(SessionError::Gone);
        assert!(
            matches!(losses.unknown_to(before), Some((SessionError::Gone, told)) if told == first)
        );
        losses.tell(first);
        assert!(losses.unknown_to(before).is_some(), "this caller came before");
        assert_eq!(losses.told(), first);
        assert!(losses.unknown_to(first).is_none());
        let second = losses.record(SessionError::HeadSent);
        assert!(
            matches!(losses.unknown_to(first), Some((SessionError::HeadSent, told)) if told == second)
        );
        losses.tell(second);
        losses.tell(first);
        assert_eq!(losses.told(), second, "who is told late has been told of more");
    }
}
