//! Between an application's data and a backend's payload.
//!
//! | bytes | what |
//! |---|---|
//! | 0 | flags: 1 compressed, 2 encrypted |
//! | 1 | number of the key, 0 where nothing is encrypted |
//! | 2.. | JSON; compressed (see `compress.rs`), then encrypted (see `encrypt.rs`), as the flags say |
//!
//! What is not exactly of this form was written by a later version or by nobody's good intentions, and is refused rather than
//! misread.

#[cfg(feature = "compression")]
mod compress;
mod config;
mod encrypt;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use self::config::CodecConfig;
pub use self::config::Encryption;
use self::encrypt::RecordKeys;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;
use crate::record::Meta;
use crate::secret::KeyRing;

const COMPRESSED: u8 = 1;
const ENCRYPTED: u8 = 2;
/// Flags and key number.
const PREFIX_LEN: usize = 2;

/// Reads and writes the payloads of one store.
pub(crate) struct Codec {
    encryption: Encryption,
    keys: RecordKeys,
    /// JSON longer than this is worth a try; `None`: never compress.
    compress_above: Option<usize>,
    /// The longest JSON, in bytes.
    max_len: usize,
}

/// What a payload has brought.
#[derive(Debug)]
pub(crate) struct Decoded<T> {
    pub(crate) data: Arc<T>,
    /// Whether its protection is on its way out: the record should be written anew.
    pub(crate) needs_reencryption: bool,
}

impl Codec {
    pub(crate) fn new(config: &CodecConfig, ring: &KeyRing) -> Self {
        Codec {
            encryption: config.encryption,
            keys: RecordKeys::new(ring),
            compress_above: config.compress.then_some(config.compression_threshold),
            max_len: config.max_record_size,
        }
    }

    /// The payload of the record with this id and meta, and of no other.
    pub(crate) fn encode<T: Serialize>(
        &self,
        id: &SessionId,
        meta: &Meta,
        data: &T,
    ) -> Result<Bytes, StoreError> {
        let encrypts = self.encryption != Encryption::Off;
        let head = if encrypts { PREFIX_LEN + encrypt::NONCE_LEN } else { PREFIX_LEN };
        let mut payload = vec![0; head];
        serde_json::to_writer(&mut payload, data)
            .map_err(|error| StoreError::from(StoreErrorKind::Encode).with_source(error))?;
        let len = payload.len() - head;
        if len > self.max_len {
            let message = format!(
                "{len} bytes of JSON, at most {} are possible (max_record_size)",
                self.max_len
            );
            return Err(StoreError::from(StoreErrorKind::TooLarge).with_source(message));
        }
        if self.compress_above.is_some_and(|threshold| len > threshold)
            && let Some(compressed) = compress::compress(&payload[head..])
        {
            payload.truncate(head);
            payload.extend_from_slice(&compressed);
            payload[0] |= COMPRESSED;
        }
        if encrypts {
            payload[0] |= ENCRYPTED;
            self.keys.seal(id, meta, &mut payload);
        }
        Ok(payload.into())
    }

    /// The payload that somebody who has the secret could make of any body and any flags.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn seal_body(&self, id: &SessionId, meta: &Meta, flags: u8, body: &[u8]) -> Vec<u8> {
        let mut payload = [&[flags | ENCRYPTED, 0], &[0; encrypt::NONCE_LEN][..], body].concat();
        self.keys.seal(id, meta, &mut payload);
        payload
    }

    /// Fails closed, and with nothing in the error that stood in the payload.
    pub(crate) fn decode<T: DeserializeOwned>(
        &self,
        id: &SessionId,
        meta: &Meta,
        payload: &[u8],
    ) -> Result<Decoded<T>, StoreError> {
        let corrupt = |cause: Box<dyn Error + Send + Sync>| {
            StoreError::from(StoreErrorKind::Corrupt).with_source(cause)
        };
        let (json, needs_reencryption) =
            self.open(id, meta, payload).map_err(|cause| corrupt(cause.into()))?;
        // Only the place of the error: serde's message may quote the data.
        let data = serde_json::from_slice(&json).map_err(|error| {
            corrupt(
                format!(
                    "the JSON does not fit at line {}, column {}",
                    error.line(),
                    error.column()
                )
                .into(),
            )
        })?;
        Ok(Decoded { data: Arc::new(data), needs_reencryption })
    }

    /// The JSON, and whether it should be encrypted again.
    fn open<'a>(
        &self,
        id: &SessionId,
        meta: &Meta,
        payload: &'a [u8],
    ) -> Result<(Cow<'a, [u8]>, bool), Cow<'static, str>> {
        let max_payload = PREFIX_LEN + encrypt::OVERHEAD + self.max_len;
        if payload.len() > max_payload {
            return Err(self.too_long(payload.len()));
        }
        let Some((&[flags, number], body)) = payload.split_first_chunk() else {
            return Err(UNKNOWN_FORM.into());
        };
        let encrypted = flags & ENCRYPTED != 0;
        if flags & !(COMPRESSED | ENCRYPTED) != 0 || (!encrypted && number != 0) {
            return Err(UNKNOWN_FORM.into());
        }
        let (body, outdated) = match self.encryption {
            _ if encrypted => {
                let opened = self.keys.open(id, meta, flags, number, body)?;
                (Cow::Owned(opened.body), opened.retiring)
            }
            Encryption::Off => (Cow::Borrowed(body), false),
            Encryption::Migrating => (Cow::Borrowed(body), true),
            Encryption::Required => {
                return Err("the record is not encrypted, and only encrypted ones are read".into());
            }
        };
        let json = if flags & COMPRESSED == 0 {
            body
        } else {
            compress::decompress(&body, self.max_len)?.into()
        };
        if json.len() > self.max_len {
            return Err(self.too_long(json.len()));
        }
        Ok((json, outdated))
    }

    fn too_long(&self, len: usize) -> Cow<'static, str> {
        format!("the record has {len} bytes, at most {} are read (max_record_size)", self.max_len)
            .into()
    }
}

const UNKNOWN_FORM: &str = "the payload is not of a form that this version knows";

/// Without the keys.
impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Codec").field("encryption", &self.encryption).finish_non_exhaustive()
    }
}

#[cfg(not(feature = "compression"))]
mod compress {
    /// Not called: without the feature, nothing can turn compression on.
    pub(super) fn compress(_: &[u8]) -> Option<Vec<u8>> {
        None
    }

    pub(super) fn decompress(_: &[u8], _: usize) -> Result<Vec<u8>, &'static str> {
        Err("the record is compressed, and this node was built without the feature `compression`")
    }
}
