//! A record as a backend keeps it.

use std::fmt;

use bytes::Bytes;

use super::Revision;
use crate::id::SessionId;

/// What a backend keeps beside the content. An encrypted payload is bound to revision and time of creation, so they must come back
/// as they were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Which version this is.
    pub revision: Revision,
    /// When the session was created, in milliseconds since the Unix epoch.
    pub created_at: u64,
    /// Until when the session lives if nobody uses it, in milliseconds since the Unix epoch. A backend does not judge by it: what
    /// makes a record go away is the time to live given with it.
    pub deadline: u64,
}

/// What a record holds.
#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    /// The encoded data of a session, opaque to the backend.
    Payload(Bytes),
    /// A tombstone: the session goes on under another id. It counts as gone, but deleting it must not lose the trail.
    MovedTo(SessionId),
}

/// Without the payload: it is the application's data, and may be private.
impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::Payload(payload) => write!(f, "Payload({} bytes)", payload.len()),
            Content::MovedTo(id) => f.debug_tuple("MovedTo").field(id).finish(),
        }
    }
}

/// A record as a backend keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Revision and times.
    pub meta: Meta,
    /// The data, or where it went.
    pub content: Content,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_does_not_print_its_data() {
        let meta = Meta { revision: Revision::first(), created_at: 0, deadline: 0 };
        let stored =
            Stored { meta, content: Content::Payload(Bytes::from_static(b"\0\0{\"card\":1}")) };
        let text = format!("{stored:?}");
        assert!(text.contains("Payload(12 bytes)") && !text.contains("card"), "{text}");
    }
}
