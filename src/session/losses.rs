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

impl Losses {
    /// Records that changes were dropped.
    pub(super) fn record(&mut self, error: SessionError) {
        let (times, told) = self.0.as_ref().map_or((0, 0), |lost| (lost.times, lost.told));
        self.0 = Some(Box::new(Lost { times: times + 1, told, error }));
    }

    /// Records that the handler has been told of all losses.
    pub(super) fn tell(&mut self) {
        if let Some(lost) = &mut self.0 {
            lost.told = lost.times;
        }
    }

    pub(super) fn told(&self) -> Told {
        Told(self.0.as_ref().map_or(0, |lost| lost.told))
    }

    /// Returns the reason of the last loss if there is one that the handler had not been told of.
    pub(super) fn unknown_to(&self, Told(told): Told) -> Option<&SessionError> {
        self.0.as_ref().filter(|lost| lost.times > told).map(|lost| &lost.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_known_to_those_who_come_after_it_was_told() {
        let mut losses = Losses::default();
        let before = losses.told();
        losses.tell();
        assert!(losses.unknown_to(before).is_none(), "there is none");
        losses.record(SessionError::Gone);
        assert!(matches!(losses.unknown_to(losses.told()), Some(SessionError::Gone)));
        losses.tell();
        assert!(losses.unknown_to(before).is_some(), "this caller came before");
        let after = losses.told();
        assert!(losses.unknown_to(after).is_none());
        losses.record(SessionError::HeadSent);
        assert!(matches!(losses.unknown_to(after), Some(SessionError::HeadSent)));
    }
}
