//! A record as Redis keeps it: a header of fixed offsets, so that scripts can look at it, and the content.
//!
//! | bytes | what |
//! |---|---|
//! | 0 | format, 1 |
//! | 1 | kind: 0 a payload follows, 1 the 16 bytes of the id to which the session has moved |
//! | 2..18 | revision |
//! | 18..26 | created at, milliseconds since the Unix epoch, big-endian |
//! | 26..34 | deadline, likewise |
//! | 34.. | content |
//!
//! Flags and key number of the payload are the payload's own first bytes: whatever backend keeps it, the codec can tell.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;
use crate::record::{Content, Meta, Revision, Stored};

const FORMAT: u8 = 1;
const PAYLOAD: u8 = 0;
const MOVED: u8 = 1;
const HEADER_LEN: usize = 34;

pub(crate) fn encode(stored: &Stored) -> Bytes {
    let (kind, content) = match &stored.content {
        Content::Payload(payload) => (PAYLOAD, &payload[..]),
        Content::MovedTo(id) => (MOVED, &id.as_bytes()[..]),
    };
    let mut value = BytesMut::with_capacity(HEADER_LEN + content.len());
    value.put_u8(FORMAT);
    value.put_u8(kind);
    value.put_slice(stored.meta.revision.as_bytes());
    value.put_u64(stored.meta.created_at);
    value.put_u64(stored.meta.deadline);
    value.put_slice(content);
    value.freeze()
}

/// Fails closed: what is not exactly of this format is not a record.
pub(crate) fn decode(value: &Bytes) -> Result<Stored, StoreError> {
    parse(value).ok_or_else(|| {
        StoreError::from(StoreErrorKind::Corrupt)
            .with_source("the value is not a record of this format")
    })
}

fn parse(value: &Bytes) -> Option<Stored> {
    let (&format, rest) = value.split_first()?;
    let (&kind, rest) = rest.split_first()?;
    let (revision, rest) = rest.split_first_chunk()?;
    let (created_at, rest) = rest.split_first_chunk()?;
    let (deadline, _) = rest.split_first_chunk()?;
    let content = match (format, kind) {
        (FORMAT, PAYLOAD) => Content::Payload(value.slice(HEADER_LEN..)),
        (FORMAT, MOVED) => Content::MovedTo(parse_id(&value[HEADER_LEN..])?),
        _ => return None,
    };
    let meta = Meta {
        revision: Revision::from_bytes(*revision),
        created_at: u64::from_be_bytes(*created_at),
        deadline: u64::from_be_bytes(*deadline),
    };
    Some(Stored { meta, content })
}

/// The id in a tombstone's content.
pub(super) fn parse_id(content: &[u8]) -> Option<SessionId> {
    content.try_into().ok().map(SessionId::from_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stored(content: Content) -> Stored {
        let revision = Revision::from_bytes(*b"RRRRRRRRRRRRRRRR");
        Stored {
            meta: Meta {
                revision,
                created_at: 0x0102_0304_0506_0708,
                deadline: 0x1112_1314_1516_1718,
            },
            content,
        }
    }

    #[test]
    fn the_envelope_is_frozen() {
        let header = |kind: u8| {
            [
                &[1, kind][..],
                b"RRRRRRRRRRRRRRRR",
                &[1, 2, 3, 4, 5, 6, 7, 8],
                &[17, 18, 19, 20, 21, 22, 23, 24],
            ]
            .concat()
        };
        let payload = stored(Content::Payload(Bytes::from_static(b"payload")));
        assert_eq!(encode(&payload), [&header(0), &b"payload"[..]].concat());
        let moved = stored(Content::MovedTo(SessionId::from_bytes(*b"IIIIIIIIIIIIIIII")));
        assert_eq!(encode(&moved), [&header(1), &b"IIIIIIIIIIIIIIII"[..]].concat());
    }

    #[test]
    fn what_is_not_of_this_format_is_refused() {
        let good = encode(&stored(Content::Payload(Bytes::from_static(b"payload"))));
        let changed = |at: usize, byte: u8| {
            let mut value = good.to_vec();
            value[at] = byte;
            Bytes::from(value)
        };
        for bad in [
            Bytes::new(),
            good.slice(..HEADER_LEN - 1),
            changed(0, 2),
            changed(1, 2),
            changed(1, MOVED),
        ] {
            assert_eq!(decode(&bad).unwrap_err().kind(), StoreErrorKind::Corrupt, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn records_round_trip(revision: [u8; 16], created_at: u64, deadline: u64, payload: Vec<u8>, moved: Option<[u8; 16]>) {
            let content = moved.map_or_else(|| Content::Payload(payload.into()), |id| Content::MovedTo(SessionId::from_bytes(id)));
            let stored = Stored { meta: Meta { revision: Revision::from_bytes(revision), created_at, deadline }, content };
            prop_assert_eq!(decode(&encode(&stored)).unwrap(), stored);
        }
    }
}
