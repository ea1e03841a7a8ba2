//! A future that several readers wait for, and that any of them carries out.
//!
//! `futures_util::future::Shared` wakes all readers when the future ends, also the one that has
//! just carried it out. Its task then runs once more, for nothing: the next step of what it does is
//! polled before anything has happened. This one wakes only the others.

mod readers;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use self::readers::{FIRST, Readers};
use crate::sync::{Mutex, MutexGuard};

/// A future as it is shared. It must not panic.
pub(super) type Work<R> = Pin<Box<dyn Future<Output = R> + Send>>;

/// A reader of a shared future.
///
/// Whichever reader is woken first goes on with the future, and one that is not polled holds up no
/// other. The future is dropped with its last reader.
pub(super) struct Shared<R> {
    inner: Arc<Inner<R>>,
    /// The reader's place among those to wake, once it has been polled.
    place: Option<usize>,
}

/// Refers to a shared future without keeping it.
pub(super) struct WeakShared<R>(Weak<Inner<R>>);

struct Inner<R> {
    state: Mutex<State<R>>,
    /// Apart from the future, which keeps it as its waker, and so would keep itself.
    readers: Arc<Readers>,
}

struct State<R> {
    progress: Progress<R>,
    /// `true` once there has been a second reader at the same time. Until then, the future wakes
    /// its only reader directly: most loads have one.
    crowded: bool,
}

enum Progress<R> {
    Waiting(Work<R>),
    /// A reader is polling the future. `missed` is `true` if another has tried to meanwhile.
    Polling {
        missed: bool,
    },
    Ended(R),
}

impl<R: Clone> Shared<R> {
    pub(super) fn new(work: Work<R>) -> Self {
        let state = Mutex::new(State { progress: Progress::Waiting(work), crowded: false });
        Shared { inner: Arc::new(Inner { state, readers: Arc::default() }), place: None }
    }

    pub(super) fn downgrade(&self) -> WeakShared<R> {
        WeakShared(Arc::downgrade(&self.inner))
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.inner.state().progress, Progress::Ended(_))
    }
}

impl<R> WeakShared<R> {
    /// Returns a further reader, unless all of them have gone.
    pub(super) fn upgrade(&self) -> Option<Shared<R>> {
        Some(Shared { inner: self.0.upgrade()?, place: None })
    }
}

impl<R: Clone> Future for Shared<R> {
    type Output = R;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<R> {
        // First, so that a reader that ends the future from now on wakes this one.
        let place = self.inner.readers.enter(self.place, cx.waker());
        self.place = Some(place);
        let result = self.inner.poll(place, cx.waker());
        if result.is_ready() {
            self.inner.readers.leave(place);
            self.place = None;
        }
        result
    }
}

impl<R: Clone> Inner<R> {
    /// Polls the future for the reader in this place, unless another reader does.
    fn poll(&self, place: usize, own: &Waker) -> Poll<R> {
        let (mut work, crowded) = {
            let mut state = self.state();
            state.crowded |= place != FIRST;
            match state.progress.replace(Progress::Polling { missed: false }) {
                Progress::Waiting(work) => (work, state.crowded),
                Progress::Polling { .. } => {
                    state.progress = Progress::Polling { missed: true };
                    return Poll::Pending;
                }
                Progress::Ended(result) => {
                    state.progress = Progress::Ended(result.clone());
                    return Poll::Ready(result);
                }
            }
        };
        // A second reader that comes from now on polls the future again, and so replaces the waker.
        let all = crowded.then(|| Waker::from(self.readers.clone()));
        match work.as_mut().poll(&mut Context::from_waker(all.as_ref().unwrap_or(own))) {
            Poll::Pending => {
                let before = self.state().progress.replace(Progress::Waiting(work));
                // The future may have woken the others too early, while it was still being polled.
                if matches!(before, Progress::Polling { missed: true }) {
                    self.readers.wake_all_but(Some(place));
                }
                Poll::Pending
            }
            Poll::Ready(result) => {
                self.state().progress = Progress::Ended(result.clone());
                self.readers.wake_all_but(Some(place));
                Poll::Ready(result)
            }
        }
    }
}

impl<R> Inner<R> {
    fn state(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R> Progress<R> {
    fn replace(&mut self, by: Self) -> Self {
        std::mem::replace(self, by)
    }
}

impl<R> Clone for Shared<R> {
    fn clone(&self) -> Self {
        Shared { inner: self.inner.clone(), place: None }
    }
}

/// No other reader needs to be woken: whatever has woken this one has woken all of them, or was
/// there already when the others polled the future.
impl<R> Drop for Shared<R> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.inner.readers.leave(place);
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A reader, and how often it was woken.
    struct Reader {
        shared: Shared<u32>,
        count: Arc<Count>,
    }

    impl Reader {
        fn of(shared: &Shared<u32>) -> Self {
            Reader { shared: shared.clone(), count: Arc::default() }
        }

        fn poll(&mut self) -> Option<u32> {
            let waker = Waker::from(self.count.clone());
            match Pin::new(&mut self.shared).poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(result) => Some(result),
                Poll::Pending => None,
            }
        }

        fn woken(&self) -> usize {
            self.count.0.load(Ordering::Relaxed)
        }
    }

    fn shared() -> (oneshot::Sender<u32>, Shared<u32>) {
        let (sender, receiver) = oneshot::channel();
        (sender, Shared::new(Box::pin(receiver.map(|sent| sent.unwrap_or(0)))))
    }

    #[test]
    fn the_reader_that_carries_it_out_is_not_woken_by_its_end() {
        let (sender, shared) = shared();
        let [mut first, mut second] = [Reader::of(&shared), Reader::of(&shared)];
        assert_eq!((first.poll(), second.poll()), (None, None));
        sender.send(7).unwrap();
        assert_eq!((first.woken(), second.woken()), (1, 1));
        assert!(!shared.has_ended());
        assert_eq!(second.poll(), Some(7));
        assert!(shared.has_ended());
        assert_eq!((first.woken(), second.woken()), (2, 1));
        assert_eq!((first.poll(), Reader::of(&shared).poll()), (Some(7), Some(7)));
    }

    #[test]
    fn a_reader_that_is_not_polled_or_goes_away_holds_up_no_other() {
        let (sender, shared) = shared();
        let [mut first, mut second, mut third] = [(); 3].map(|()| Reader::of(&shared));
        assert_eq!((first.poll(), second.poll(), third.poll()), (None, None, None));
        sender.send(7).unwrap();
        // The first has been woken, and goes away instead of going on.
        drop(first);
        assert_eq!((second.woken(), third.woken()), (1, 1));
        assert_eq!(third.poll(), Some(7), "although the second has not been polled");
    }

    #[test]
    fn a_reader_that_comes_while_another_polls_is_woken_after_it() {
        let slot = Arc::new(Mutex::new(None::<Reader>));
        let within = slot.clone();
        let mut polls = 0;
        let shared = Shared::new(Box::pin(poll_fn(move |_| {
            polls += 1;
            if let Some(other) = within.lock().unwrap().as_mut() {
                assert_eq!(other.poll(), None, "the future is being polled");
            }
            if polls == 1 { Poll::Pending } else { Poll::Ready(polls) }
        })));
        let mut reader = Reader::of(&shared);
        *slot.lock().unwrap() = Some(Reader::of(&shared));
        assert_eq!((reader.poll(), reader.woken()), (None, 0));
        let mut other = slot.lock().unwrap().take().unwrap();
        assert_eq!((other.woken(), other.poll()), (1, Some(2)));
    }

    #[test]
    fn the_only_reader_is_woken_directly_until_there_is_a_second() {
        let (sender, shared) = shared();
        let mut first = Reader::of(&shared);
        assert_eq!((first.poll(), Arc::strong_count(&shared.inner.readers)), (None, 1));
        let mut second = Reader::of(&shared);
        assert_eq!((second.poll(), Arc::strong_count(&shared.inner.readers)), (None, 2));
        // Polled again, it may not take the second's place.
        assert_eq!(first.poll(), None);
        sender.send(7).unwrap();
        assert_eq!((first.woken(), second.woken()), (1, 1));
        drop(first);
        assert_eq!(second.poll(), Some(7));
    }

    #[test]
    fn the_place_of_the_first_reader_is_free_for_another() {
        let (sender, shared) = shared();
        let [mut first, mut second, mut third] = [(); 3].map(|()| Reader::of(&shared));
        assert_eq!((first.poll(), second.poll()), (None, None));
        drop(first);
        assert_eq!(third.poll(), None);
        sender.send(7).unwrap();
        assert_eq!((second.woken(), third.woken()), (1, 1));
    }

    #[test]
    fn readers_that_come_and_go_leave_nothing_behind() {
        let (_sender, shared) = shared();
        let mut stays = Reader::of(&shared);
        assert_eq!(stays.poll(), None);
        for _ in 0..100 {
            assert_eq!(Reader::of(&shared).poll(), None);
        }
        assert_eq!(shared.inner.readers.wakers().len(), 1);
    }

    /// The waker of a task that nothing else keeps, and that waits for the same future.
    struct LastOfTask(#[expect(dead_code, reason = "it is only dropped")] Reader);

    impl Wake for LastOfTask {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn a_task_that_is_dropped_with_its_waker_may_hold_another_reader() {
        let (_sender, shared) = shared();
        let mut reader = shared.clone();
        for _ in 0..2 {
            let mut other = Reader::of(&shared);
            assert_eq!(other.poll(), None);
            let waker = Waker::from(Arc::new(LastOfTask(other)));
            assert!(Pin::new(&mut reader).poll(&mut Context::from_waker(&waker)).is_pending());
        }
        drop(reader);
        assert_eq!(shared.inner.readers.wakers().len(), 0);
    }

    #[test]
    fn the_future_is_dropped_with_its_last_reader() {
        let (sender, shared) = shared();
        let weak = shared.downgrade();
        let mut reader = weak.upgrade().map(|shared| Reader::of(&shared)).unwrap();
        assert_eq!(reader.poll(), None);
        drop(shared);
        assert!(!sender.is_closed());
        drop(reader);
        assert!(sender.is_closed() && weak.upgrade().is_none());
    }
}

#[cfg(all(test, shuttle))]
mod interleavings;
