//! The error type of stores and backends.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::id::SessionId;

/// An error of a [`SessionStore`](crate::SessionStore) or of a
/// [`Backend`](crate::backend::Backend).
///
/// It is opaque so that its parts can change: [`kind`](StoreError::kind) tells what to do about it,
/// and [`source`](Error::source) what caused it. It contains neither tokens nor session data.
#[derive(Clone)]
pub struct StoreError {
    kind: StoreErrorKind,
    id: Option<SessionId>,
    attempts: Option<u32>,
    /// `true` if the backend refuses changes for now, and answers reads.
    is_read_only: bool,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// The kind of a [`StoreError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The session does not exist.
    NotFound,
    /// There is a session with this token already. Nothing was changed.
    AlreadyExists,
    /// The session existed when the change began and is gone now. Nothing was written.
    Gone,
    /// Every attempt met a concurrent change of the session. This change was not written;
    /// [`StoreError::attempts`] returns the number of attempts.
    Conflict,
    /// The backend cannot be reached. Nothing was changed.
    Unavailable,
    /// The backend did not answer a read in time, or no time was left for a call. Nothing was
    /// changed, except by an operation on several sessions: it may have deleted some of them.
    Timeout,
    /// The backend was not called, since it has failed too often recently. Nothing was changed.
    CircuitOpen,
    /// The backend was not called, since too many reads are in flight already. Nothing was changed.
    Overloaded,
    /// The backend refused the call, for example because of a wrong password, a missing permission
    /// or a full disk. Nothing was changed.
    Refused,
    /// A write may or may not have been executed.
    OutcomeUnknown,
    /// A record cannot or must not be read: it is not in the expected format, was tampered with, is
    /// encrypted under another secret, or is plain text where encryption is required. It stays
    /// until it expires or is deleted: a logout and the store's deletions do not read it.
    Corrupt,
    /// The data cannot be serialized. Nothing was written. The source of the error says why, but
    /// leaves out the message of a `Serialize` that has failed, which may quote the data.
    Encode,
    /// The data, as encoded, is larger than
    /// [`max_record_size`](crate::SessionConfigBuilder::max_record_size). Nothing was written.
    TooLarge,
    /// The operation needs a setting that is not configured; the source names it. Nothing was
    /// changed.
    NotConfigured,
    /// The owner has as many sessions as
    /// [`max_sessions_of_owner`](crate::SessionConfigBuilder::max_sessions_of_owner) allows. The
    /// session was not given to the owner.
    LimitReached,
    /// The store has been shut down.
    Closed,
}

impl StoreErrorKind {
    /// Returns `true` if the backend cannot be reached for now: for `Unavailable`, `Timeout`,
    /// `CircuitOpen` and `Overloaded`.
    ///
    /// If a request's session cannot be loaded because of such an error, the
    /// [outage policy](crate::OutagePolicy) applies.
    ///
    /// Not an outage are `Refused`, which an operator must fix and should see at once, `Corrupt`,
    /// which concerns one record, and `Closed`, which the application has caused. A Redis that is
    /// loading its data or has no master is `Unavailable`.
    ///
    /// ```
    /// # use clustered_sessions::StoreErrorKind;
    /// assert!(StoreErrorKind::Timeout.is_outage());
    /// assert!(!StoreErrorKind::Refused.is_outage());
    /// ```
    #[must_use]
    pub fn is_outage(self) -> bool {
        matches!(self, Self::Unavailable | Self::Timeout | Self::CircuitOpen | Self::Overloaded)
    }

    /// Returns `true` if the backend was called and did not answer, or cannot be used for now.
    pub(crate) fn is_fault(self) -> bool {
        matches!(self, Self::Unavailable | Self::Timeout | Self::OutcomeUnknown)
    }
}

impl StoreError {
    /// Creates an error of this kind, without a source.
    pub fn new(kind: StoreErrorKind) -> Self {
        StoreError { kind, id: None, attempts: None, is_read_only: false, source: None }
    }

    /// Sets the source of the error.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    /// Creates the error of a write that this error leaves in doubt.
    pub(crate) fn outcome_unknown(cause: StoreError) -> Self {
        StoreError::new(StoreErrorKind::OutcomeUnknown).with_source(cause)
    }

    /// Creates the error of a change whose session has been deleted or has expired meanwhile.
    pub(crate) fn gone(id: &SessionId) -> Self {
        StoreError::new(StoreErrorKind::Gone).with_session_id(id)
    }

    /// Creates the error of a change that has lost against concurrent changes this many times.
    pub(crate) fn conflict(attempts: u32) -> Self {
        StoreError { attempts: Some(attempts), ..StoreError::new(StoreErrorKind::Conflict) }
    }

    /// Says that the backend refuses changes for now, and answers reads.
    #[cfg(feature = "redis")]
    pub(crate) fn read_only(self) -> Self {
        StoreError { is_read_only: true, ..self }
    }

    /// Returns `true` if the backend was called and did not answer, or cannot be used for now.
    pub(crate) fn is_fault(&self) -> bool {
        self.kind.is_fault() && !self.is_read_only
    }

    /// Returns `true` if a retry may help.
    pub(crate) fn is_transient(&self) -> bool {
        self.is_fault() || self.kind == StoreErrorKind::Overloaded
    }

    pub(crate) fn with_session_id(mut self, id: &SessionId) -> Self {
        self.id = Some(*id);
        self
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// Returns the id of the session that the error is about, if any.
    pub fn session_id(&self) -> Option<SessionId> {
        self.id
    }

    /// Returns the number of attempts before a [`Conflict`](StoreErrorKind::Conflict). `None` for
    /// all other errors.
    pub fn attempts(&self) -> Option<u32> {
        self.attempts
    }
}

impl From<StoreErrorKind> for StoreError {
    fn from(kind: StoreErrorKind) -> Self {
        StoreError::new(kind)
    }
}

/// The message with all sources, since the errors that `main` returns are printed by their `Debug`.
impl fmt::Debug for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut cause = self.source();
        while let Some(source) = cause {
            write!(f, ": {source}")?;
            cause = source.source();
        }
        Ok(())
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            StoreErrorKind::NotFound => f.write_str("no such session")?,
            StoreErrorKind::AlreadyExists => f.write_str("the session exists already")?,
            StoreErrorKind::Gone => f.write_str("the session is gone")?,
            StoreErrorKind::Conflict => {
                f.write_str("concurrent changes were faster at every attempt")?;
                if let Some(attempts) = self.attempts {
                    write!(f, ", {attempts} in total")?;
                }
            }
            StoreErrorKind::Unavailable => f.write_str("the session backend cannot be reached")?,
            StoreErrorKind::Timeout => f.write_str("the session backend did not answer in time")?,
            StoreErrorKind::CircuitOpen => {
                f.write_str("the session backend has failed too often and is not called for now")?;
            }
            StoreErrorKind::Overloaded => {
                f.write_str("too many reads from the session backend are in flight")?;
            }
            StoreErrorKind::Refused => f.write_str("the session backend refused the call")?,
            StoreErrorKind::OutcomeUnknown => {
                f.write_str("a session write may or may not have been executed")?;
            }
            StoreErrorKind::Corrupt => f.write_str("the session record cannot be read")?,
            StoreErrorKind::Encode => f.write_str("the session data cannot be encoded")?,
            StoreErrorKind::TooLarge => f.write_str("the session data is too large")?,
            StoreErrorKind::NotConfigured => {
                f.write_str("the session store is not configured for this")?;
            }
            StoreErrorKind::LimitReached => {
                f.write_str("the owner has as many sessions as are allowed")?;
            }
            StoreErrorKind::Closed => f.write_str("the session store has been shut down")?,
        }
        if let Some(id) = self.id {
            write!(f, " (session {id})")?;
        }
        Ok(())
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_main_returns_is_printed_with_its_causes() {
        let cause = StoreError::from(StoreErrorKind::Timeout).with_source("the disk is full");
        let error = StoreError::from(StoreErrorKind::Unavailable).with_source(cause);
        let expected = "the session backend cannot be reached: \
                        the session backend did not answer in time: the disk is full";
        assert_eq!(format!("{error:?}"), expected);
    }
}
