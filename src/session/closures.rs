//! Detects a closure that changes the session which it is called for. Such a change would make the
//! session run the closure again, without end.

use std::cell::RefCell;

thread_local! {
    /// The addresses of the requests whose closures run on this thread.
    static RUNNING: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Marks the closures of a request as running on this thread, until it is dropped.
pub(super) struct Running;

impl Running {
    pub(super) fn of(request: usize) -> Self {
        RUNNING.with_borrow_mut(|running| running.push(request));
        Running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.with_borrow_mut(|running| running.pop());
    }
}

/// Panics if a closure of the request runs on this thread.
#[track_caller]
pub(super) fn forbid_within(request: usize) {
    let runs = RUNNING.with_borrow(|running| running.contains(&request));
    assert!(
        !runs,
        "a closure must not change the session that it is called for: make one `update` after the \
         other, or make all changes to the data that the closure is given"
    );
}
