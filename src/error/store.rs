//! What can go wrong in a store.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::id::SessionId;

/// An error of a [`SessionStore`](crate::SessionStore) or of a [`Backend`](crate::backend::Backend).
///
/// It is opaque so that its parts can change: [`kind`](StoreError::kind) says what to do about it, [`source`](Error::source)
/// what caused it. It contains neither tokens nor session data.
#[derive(Clone, Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    id: Option<SessionId>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// What kind of error a [`StoreError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// There is no such session.
    NotFound,
    /// The session was there when the change began and is gone. Nothing was written.
    Gone,
    /// Others changed the session each time this change was tried. Nothing was written.
    Conflict {
        /// How often it was tried.
        attempts: u32,
    },
    /// The backend cannot be reached. Nothing was done.
    Unavailable,
    /// The backend did not answer in time to a request that changes nothing, or there was no time left to make one. Nothing was
    /// done.
    Timeout,
    /// The backend was not asked, since it has failed too often of late. Nothing was done.
    CircuitOpen,
    /// The backend refused: wrong password, missing permission, a full disk. Nothing was done.
    Refused,
    /// A write may or may not have been carried out.
    OutcomeUnknown,
    /// A record cannot be read, or must not be: it was not written like this, was changed, is encrypted under another secret, or is
    /// plain where encryption is required. Only a logout removes it.
    Corrupt,
    /// The data cannot be written as JSON. Nothing was written.
    Encode,
    /// The data is larger than
    /// [`max_record_size`](crate::SessionConfigBuilder::max_record_size) as JSON. Nothing was written.
    TooLarge,
    /// The store has not been told what it needs for this; the source says what. Nothing was done.
    NotConfigured,
    /// The store has been shut down.
    Closed,
}

impl StoreErrorKind {
    /// Whether it says that the backend is out of reach for now, so that the
    /// [outage policy](crate::OutagePolicy) decides what a request gets whose session cannot be loaded: `Unavailable`, `Timeout` and
    /// `CircuitOpen`.
    ///
    /// Not `Refused`, which is for people to mend and should be seen at once; not `Corrupt`, which is one record's trouble; not
    /// `Closed`, which the application has asked for. A Redis that is loading its data or has no master is `Unavailable`.
    ///
    /// ```
    /// # use clustered_sessions::StoreErrorKind;
    /// assert!(StoreErrorKind::Timeout.is_outage());
    /// assert!(!StoreErrorKind::Refused.is_outage());
    /// ```
    #[must_use]
    pub fn is_outage(self) -> bool {
        matches!(self, Self::Unavailable | Self::Timeout | Self::CircuitOpen)
    }

    /// Whether it says that the backend did not answer, so that another time it may.
    pub(crate) fn is_fault(self) -> bool {
        matches!(self, Self::Unavailable | Self::Timeout | Self::OutcomeUnknown)
    }
}

impl StoreError {
    /// An error of this kind without a cause.
    pub fn new(kind: StoreErrorKind) -> Self {
        StoreError { kind, id: None, source: None }
    }

    /// The same error, caused by this.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    pub(crate) fn with_session_id(mut self, id: &SessionId) -> Self {
        self.id = Some(*id);
        self
    }

    /// What kind of error this is.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// The session that the error is about, if it is about one.
    pub fn session_id(&self) -> Option<SessionId> {
        self.id
    }
}

impl From<StoreErrorKind> for StoreError {
    fn from(kind: StoreErrorKind) -> Self {
        StoreError::new(kind)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            StoreErrorKind::NotFound => f.write_str("no such session")?,
            StoreErrorKind::Gone => f.write_str("the session is gone")?,
            StoreErrorKind::Conflict { attempts } => {
                write!(f, "the session was changed by others during each of {attempts} attempts")?;
            }
            StoreErrorKind::Unavailable => f.write_str("the session backend cannot be reached")?,
            StoreErrorKind::Timeout => f.write_str("the session backend did not answer in time")?,
            StoreErrorKind::CircuitOpen => {
                f.write_str("the session backend has failed too often and is not asked now")?;
            }
            StoreErrorKind::Refused => f.write_str("the session backend refused")?,
            StoreErrorKind::OutcomeUnknown => {
                f.write_str("a session write may or may not have been carried out")?;
            }
            StoreErrorKind::Corrupt => f.write_str("the session record cannot be read")?,
            StoreErrorKind::Encode => f.write_str("the session data cannot be encoded")?,
            StoreErrorKind::TooLarge => f.write_str("the session data is too large")?,
            StoreErrorKind::NotConfigured => {
                f.write_str("the session store is not configured for this")?;
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
