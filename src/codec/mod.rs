//! Between an application's data and a backend's payload.
//!
//! A payload is two bytes, flags and key number, and then JSON. Both bytes are zero as long as nothing compresses or encrypts;
//! a payload with others was written by a later version, and is refused rather than misread.

mod data;

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::data::SessionData;
use crate::store::{StoreError, StoreErrorKind};

/// Largest payload, in bytes. A session is read as a whole at each miss; what is larger belongs elsewhere.
const MAX_LEN: usize = 1024 * 1024;

/// Plain JSON, no key.
const PREFIX: [u8; 2] = [0, 0];

pub(crate) fn encode<T: Serialize>(data: &T) -> Result<Bytes, StoreError> {
    let mut payload = PREFIX.to_vec();
    serde_json::to_writer(&mut payload, data)
        .map_err(|error| StoreError::from(StoreErrorKind::Encode).caused_by(error))?;
    if payload.len() > MAX_LEN {
        let message = format!("{} bytes, at most {MAX_LEN} are possible", payload.len());
        return Err(StoreError::from(StoreErrorKind::TooLarge).caused_by(message));
    }
    Ok(payload.into())
}

pub(crate) fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<Arc<T>, StoreError> {
    let corrupt = |cause: String| StoreError::from(StoreErrorKind::Corrupt).caused_by(cause);
    if payload.len() > MAX_LEN {
        return Err(corrupt(format!("the record has {} bytes", payload.len())));
    }
    let Some(json) = payload.strip_prefix(&PREFIX) else {
        return Err(corrupt("the payload is not of a form that this version knows".to_owned()));
    };
    // Only the place of the error: serde's message may quote the data.
    serde_json::from_slice(json)
        .map(Arc::new)
        .map_err(|error| corrupt(format!("the JSON does not fit at line {}, column {}", error.line(), error.column())))
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    struct Data {
        name: String,
        visits: u64,
    }

    #[test]
    fn the_payload_is_frozen() {
        let data = Data { name: "Ada".into(), visits: 3 };
        assert_eq!(encode(&data).unwrap(), &b"\0\0{\"name\":\"Ada\",\"visits\":3}"[..]);
    }

    #[test]
    fn nothing_is_accepted_that_was_not_written_like_this() {
        let good = encode(&Data::default()).unwrap();
        let mut flagged = good.to_vec();
        flagged[0] = 1;
        let mut keyed = good.to_vec();
        keyed[1] = 1;
        let mut trailing = good.to_vec();
        trailing.push(b'x');
        for bad in [&b""[..], b"\0", b"\0\0", &good[..good.len() - 1], &flagged, &keyed, &trailing] {
            assert_eq!(decode::<Data>(bad).unwrap_err().kind(), StoreErrorKind::Corrupt, "{bad:?}");
        }
    }

    #[test]
    fn an_error_does_not_quote_the_data() {
        let error = decode::<Data>(b"\0\0{\"name\":\"Ada\",\"visits\":\"secret\"}").unwrap_err();
        let text = format!("{error} {error:?} {}", error.source().unwrap());
        assert!(!text.contains("secret"), "{text}");
    }

    #[test]
    fn data_beyond_the_limit_is_refused_with_numbers() {
        let data = Data { name: "x".repeat(MAX_LEN), visits: 0 };
        let error = encode(&data).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::TooLarge);
        assert!(error.source().unwrap().to_string().contains("1048576"));
    }

    proptest! {
        #[test]
        fn data_round_trips(name: String, visits: u64) {
            let data = Data { name, visits };
            prop_assert_eq!(&*decode::<Data>(&encode(&data).unwrap()).unwrap(), &data);
        }
    }
}
