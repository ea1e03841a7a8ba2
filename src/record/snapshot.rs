//! A session's data as a request sees it.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::Record;

/// The data of a session at one moment. Later changes do not appear in it.
///
/// It dereferences to the data, and a clone shares the data.
///
/// ```
/// # use clustered_sessions::{Session, Snapshot};
/// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
/// # struct UserSession { visits: u64 }
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// # let session = Session::detached(UserSession { visits: 1 });
/// let before: Snapshot<UserSession> = session.data();
/// session.update(|s| s.visits += 1);
/// assert_eq!((before.visits, session.data().visits), (1, 2));
/// # }
/// ```
pub struct Snapshot<T>(Source<T>);

enum Source<T> {
    /// Unchanged since it was read. The data is in the same allocation as the metadata.
    Record(Record<T>),
    Changed(Arc<T>),
}

impl<T> Snapshot<T> {
    pub(crate) fn new(data: T) -> Self {
        Snapshot(Source::Changed(Arc::new(data)))
    }

    pub(crate) fn of(record: &Record<T>) -> Self {
        Snapshot(Source::Record(record.clone()))
    }
}

impl<T> Deref for Snapshot<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0 {
            Source::Record(record) => record.data(),
            Source::Changed(data) => data,
        }
    }
}

impl<T> AsRef<T> for Snapshot<T> {
    fn as_ref(&self) -> &T {
        self
    }
}

impl<T> Clone for Snapshot<T> {
    fn clone(&self) -> Self {
        Snapshot(match &self.0 {
            Source::Record(record) => Source::Record(record.clone()),
            Source::Changed(data) => Source::Changed(data.clone()),
        })
    }
}

impl<T: Default> Default for Snapshot<T> {
    fn default() -> Self {
        Snapshot::new(T::default())
    }
}

impl<T: fmt::Debug> fmt::Debug for Snapshot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: PartialEq> PartialEq for Snapshot<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Eq> Eq for Snapshot<T> {}
