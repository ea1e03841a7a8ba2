//! The readers that wait for a shared future, by their wakers.

use std::sync::{Arc, PoisonError};
use std::task::{Wake, Waker};

use crate::sync::{Mutex, MutexGuard};

/// The wakers of the readers that wait.
#[derive(Default)]
pub(super) struct Readers(Mutex<Wakers>);

/// The wakers of readers by their places, of which the first costs no allocation.
#[derive(Default)]
pub(super) struct Wakers {
    first: Option<Waker>,
    others: Vec<Option<Waker>>,
}

/// The place of a reader that is the only one.
pub(super) const FIRST: usize = 0;

impl Readers {
    /// Enters the waker of a reader, which has this place if it has waited before. Returns its
    /// place.
    pub(super) fn enter(&self, place: Option<usize>, waker: &Waker) -> usize {
        let mut wakers = self.wakers();
        let place = place.unwrap_or_else(|| wakers.add_place());
        let before = match wakers.at(place) {
            Some(known) if known.will_wake(waker) => None,
            other => other.replace(waker.clone()),
        };
        drop(wakers);
        // Not under the lock: the task of a waker may be dropped with it, and other readers with
        // the task.
        drop(before);
        place
    }

    pub(super) fn leave(&self, place: usize) {
        let mut wakers = self.wakers();
        let waker = wakers.at(place).take();
        while let Some(None) = wakers.others.last() {
            wakers.others.pop();
        }
        drop(wakers);
        // Not under the lock, as in `enter`.
        drop(waker);
    }

    pub(super) fn wake_all_but(&self, place: Option<usize>) {
        let (first, others) = {
            let wakers = self.wakers();
            let others = wakers.iter().filter(|(other, _)| Some(*other) != place);
            let mut others = others.filter_map(|(_, waker)| waker.clone());
            // Most loads have one reader, for which nothing is allocated.
            (others.next(), others.collect::<Vec<_>>())
        };
        // Not under the lock: a waker may poll its reader at once.
        first.into_iter().chain(others).for_each(Waker::wake);
    }

    pub(super) fn wakers(&self) -> MutexGuard<'_, Wakers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wakers {
    /// Returns a free place, the first one if it is free.
    fn add_place(&mut self) -> usize {
        if self.first.is_none() {
            return FIRST;
        }
        self.others.push(None);
        self.others.len()
    }

    fn at(&mut self, place: usize) -> &mut Option<Waker> {
        if place == FIRST { &mut self.first } else { &mut self.others[place - 1] }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.others.len()
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &Option<Waker>)> {
        std::iter::once(&self.first).chain(&self.others).enumerate()
    }
}

impl Wake for Readers {
    fn wake(self: Arc<Self>) {
        self.wake_all_but(None);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_all_but(None);
    }
}
