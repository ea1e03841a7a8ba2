//! A record as a backend keeps it.

use std::fmt;

use bytes::Bytes;

use super::{Lifespan, Revision};
use crate::clock::Timestamp;
use crate::id::SessionId;

/// The metadata of a record.
///
/// A backend changes the deadline and the time of the last use, in [`Backend::touch`]. It must
/// return all else exactly as it was given: an encrypted payload is bound to it.
///
/// [`Backend::touch`]: crate::backend::Backend::touch
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Meta {
    /// The version of the record.
    pub revision: Revision,
    /// The time at which the session was created or last regenerated.
    pub created_at: Timestamp,
    /// The time at which the session began to belong to its present owner.
    pub logged_in_at: Timestamp,
    /// The time at which the session was last used, as far as it was recorded.
    pub used_at: Timestamp,
    /// The time at which the session ends if it is not used until then. A backend does not act on
    /// it: it removes a record at the end of the time to live that was given with it.
    pub deadline: Timestamp,
    /// The id under which the session was first created. A regeneration changes the session's id
    /// and keeps its origin.
    pub origin: SessionId,
    /// The timeouts that apply to the session.
    pub lifespan: Lifespan,
}

impl Meta {
    /// Creates the metadata of a session that begins at `created_at`, with the ordinary timeouts.
    pub fn new(
        revision: Revision,
        created_at: Timestamp,
        deadline: Timestamp,
        origin: SessionId,
    ) -> Self {
        Meta {
            revision,
            created_at,
            logged_in_at: created_at,
            used_at: created_at,
            deadline,
            origin,
            lifespan: Lifespan::Ordinary,
        }
    }
}

/// The content of a record.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Content {
    /// The encoded data of a session, opaque to the backend.
    Payload(Bytes),
    /// A tombstone: the session has moved to this id. It counts as gone, but a deletion must be
    /// able to follow it.
    MovedTo(SessionId),
}

/// Omits the payload: it is the application's data, and may be private.
impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::Payload(payload) => write!(f, "Payload({} bytes)", payload.len()),
            Content::MovedTo(id) => f.debug_tuple("MovedTo").field(id).finish(),
        }
    }
}

/// A record as a backend keeps it.
///
/// A backend that keeps bytes stores [`to_bytes`](Stored::to_bytes) and reads them with
/// [`from_bytes`](Stored::from_bytes). Then it need not change when a record gets a new field.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stored {
    /// The revision and the times.
    pub meta: Meta,
    /// The session's data, or the id to which it has moved.
    pub content: Content,
}

impl Stored {
    /// Creates a record.
    pub fn new(meta: Meta, content: Content) -> Self {
        Stored { meta, content }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_does_not_print_its_data() {
        let start = Timestamp::from_millis(0);
        let meta = Meta::new(Revision::first(), start, start, SessionId::from_bytes([0; 16]));
        let stored =
            Stored { meta, content: Content::Payload(Bytes::from_static(b"\0\0{\"card\":1}")) };
        let text = format!("{stored:?}");
        assert!(text.contains("Payload(12 bytes)") && !text.contains("card"), "{text}");
    }
}
