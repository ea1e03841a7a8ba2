//! The binary form of a record: a header with fixed offsets, so that scripts on a server can read
//! it, and the content.
//!
//! [`Stored::to_bytes`] has the table of offsets. The flags and the key id of a payload are the
//! payload's own first bytes, so the codec does not depend on this form.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::{Content, Lifespan, Meta, Revision, Stored};
use crate::clock::Timestamp;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;

const FORMAT: u8 = 2;
const PAYLOAD: u8 = 0;
const MOVED: u8 = 1;
const HEADER_LEN: usize = 67;

impl Stored {
    /// Returns the binary form of the record, as Redis keeps it.
    ///
    /// | bytes | content |
    /// |---|---|
    /// | 0 | format, 2 |
    /// | 1 | kind: 0 if a payload follows, 1 if the 16 bytes of the id follow to which the session has moved |
    /// | 2..18 | revision |
    /// | 18..26 | creation time, in milliseconds since the Unix epoch, big-endian |
    /// | 26..34 | deadline, likewise |
    /// | 34..42 | time of the last use, likewise |
    /// | 42..50 | time of the login, likewise |
    /// | 50..66 | id under which the session was first created |
    /// | 66 | timeouts: 0 the ordinary ones, 1 those of "remember me", 2 the deadline alone; others are refused |
    /// | 67.. | payload or id |
    ///
    /// The offsets of a format never change, so a script may compare the revision or replace the
    /// deadline and the time of the last use in place.
    ///
    /// ```
    /// # use clustered_sessions::SessionId;
    /// # use clustered_sessions::backend::{Content, Meta, Revision, Stored, Timestamp};
    /// let (created_at, deadline) = (Timestamp::from_millis(1_000), Timestamp::from_millis(2_000));
    /// let origin = SessionId::from_bytes([9; 16]);
    /// let meta = Meta::new(Revision::from_bytes([7; 16]), created_at, deadline, origin);
    /// let stored = Stored::new(meta, Content::Payload(b"payload"[..].into()));
    ///
    /// let bytes = stored.to_bytes();
    /// assert_eq!(bytes[2..18], [7; 16]);
    /// assert_eq!(Stored::from_bytes(bytes)?, stored);
    /// # Ok::<(), clustered_sessions::StoreError>(())
    /// ```
    pub fn to_bytes(&self) -> Bytes {
        let (kind, content) = match &self.content {
            Content::Payload(payload) => (PAYLOAD, &payload[..]),
            Content::MovedTo(id) => (MOVED, &id.as_bytes()[..]),
        };
        let mut value = BytesMut::with_capacity(HEADER_LEN + content.len());
        value.put_u8(FORMAT);
        value.put_u8(kind);
        value.put_slice(self.meta.revision.as_bytes());
        value.put_u64(self.meta.created_at.as_millis());
        value.put_u64(self.meta.deadline.as_millis());
        value.put_u64(self.meta.used_at.as_millis());
        value.put_u64(self.meta.logged_in_at.as_millis());
        value.put_slice(self.meta.origin.as_bytes());
        value.put_u8(self.meta.lifespan.code());
        value.put_slice(content);
        value.freeze()
    }

    /// Reads the binary form of a record. Given [`Bytes`], it does not copy the payload.
    ///
    /// # Errors
    ///
    /// [`Corrupt`](StoreErrorKind::Corrupt) if the bytes are not exactly of this form.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Self, StoreError> {
        parse(bytes.into()).ok_or_else(|| {
            StoreError::from(StoreErrorKind::Corrupt)
                .with_source("the value is not a record of this format")
        })
    }
}

fn parse(mut value: Bytes) -> Option<Stored> {
    let (&format, rest) = value.split_first()?;
    let (&kind, rest) = rest.split_first()?;
    let (revision, rest) = rest.split_first_chunk()?;
    let (created_at, rest) = rest.split_first_chunk()?;
    let (deadline, rest) = rest.split_first_chunk()?;
    let (used_at, rest) = rest.split_first_chunk()?;
    let (logged_in_at, rest) = rest.split_first_chunk()?;
    let (origin, rest) = rest.split_first_chunk()?;
    let (&lifespan, content) = rest.split_first()?;
    let millis = |bytes: &[u8; 8]| Timestamp::from_millis(u64::from_be_bytes(*bytes));
    let meta = Meta {
        revision: Revision::from_bytes(*revision),
        created_at: millis(created_at),
        logged_in_at: millis(logged_in_at),
        used_at: millis(used_at),
        deadline: millis(deadline),
        origin: SessionId::from_bytes(*origin),
        lifespan: Lifespan::from_code(lifespan)?,
    };
    let content = match (format, kind) {
        (FORMAT, PAYLOAD) => {
            // Unlike `slice`, this allocates nothing.
            value.advance(HEADER_LEN);
            Content::Payload(value)
        }
        (FORMAT, MOVED) => Content::MovedTo(SessionId::from_bytes(content.try_into().ok()?)),
        _ => return None,
    };
    Some(Stored { meta, content })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stored(content: Content) -> Stored {
        let revision = Revision::from_bytes(*b"RRRRRRRRRRRRRRRR");
        let created_at = Timestamp::from_millis(0x0102_0304_0506_0708);
        let deadline = Timestamp::from_millis(0x1112_1314_1516_1718);
        let origin = SessionId::from_bytes(*b"OOOOOOOOOOOOOOOO");
        let mut meta = Meta::new(revision, created_at, deadline, origin);
        meta.used_at = Timestamp::from_millis(0x2122_2324_2526_2728);
        meta.logged_in_at = Timestamp::from_millis(0x3132_3334_3536_3738);
        Stored::new(meta, content)
    }

    #[test]
    fn the_binary_form_is_frozen() {
        let header = |kind: u8| {
            [
                &[2, kind][..],
                b"RRRRRRRRRRRRRRRR",
                &[1, 2, 3, 4, 5, 6, 7, 8],
                &[17, 18, 19, 20, 21, 22, 23, 24],
                &[33, 34, 35, 36, 37, 38, 39, 40],
                &[49, 50, 51, 52, 53, 54, 55, 56],
                b"OOOOOOOOOOOOOOOO",
                &[0],
            ]
            .concat()
        };
        let payload = stored(Content::Payload(Bytes::from_static(b"payload")));
        assert_eq!(payload.to_bytes(), [&header(0), &b"payload"[..]].concat());
        let moved = stored(Content::MovedTo(SessionId::from_bytes(*b"IIIIIIIIIIIIIIII")));
        assert_eq!(moved.to_bytes(), [&header(1), &b"IIIIIIIIIIIIIIII"[..]].concat());
    }

    #[test]
    fn a_value_in_another_format_is_refused() {
        let good = stored(Content::Payload(Bytes::from_static(b"payload"))).to_bytes();
        let changed = |at: usize, byte: u8| {
            let mut value = good.to_vec();
            value[at] = byte;
            Bytes::from(value)
        };
        for bad in [
            Bytes::new(),
            good.slice(..HEADER_LEN - 1),
            changed(0, 1),
            changed(0, 3),
            changed(66, 3),
            changed(66, 128),
            changed(1, 2),
            changed(1, MOVED),
        ] {
            let error = Stored::from_bytes(bad.clone()).unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn records_round_trip(
            revision: [u8; 16],
            created_at: u64,
            deadline: u64,
            used_at: u64,
            logged_in_at: u64,
            origin: [u8; 16],
            lifespan in 0..3u8,
            payload: Vec<u8>,
            moved: Option<[u8; 16]>,
        ) {
            let moved = moved.map(|id| Content::MovedTo(SessionId::from_bytes(id)));
            let content = moved.unwrap_or_else(|| Content::Payload(payload.into()));
            let [created_at, deadline] = [created_at, deadline].map(Timestamp::from_millis);
            let origin = SessionId::from_bytes(origin);
            let mut meta = Meta::new(Revision::from_bytes(revision), created_at, deadline, origin);
            meta.lifespan = Lifespan::from_code(lifespan).unwrap();
            [meta.used_at, meta.logged_in_at] = [used_at, logged_in_at].map(Timestamp::from_millis);
            let stored = Stored::new(meta, content);
            prop_assert_eq!(Stored::from_bytes(stored.to_bytes()).unwrap(), stored);
        }
    }
}
