//! The codec: encodes an application's data as a backend's payload, and decodes it.
//!
//! | bytes | content |
//! |---|---|
//! | 0 | flags: 1 compressed, 2 encrypted |
//! | 1 | id of the key, 0 if not encrypted |
//! | 2.. | JSON, compressed (see `compress.rs`) and then encrypted (see `encrypt.rs`) as the flags say |
//!
//! A payload of any other form was written by a later version or by an attacker. It is refused
//! rather than misread.

#[cfg(feature = "compression")]
mod compress;
mod config;
mod encrypt;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::error::Error;
use std::io::{self, Write};

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

/// Flag of a compressed body.
const COMPRESSED: u8 = 1;
/// Flag of an encrypted body.
const ENCRYPTED: u8 = 2;
/// Length of the flags and the id of the key.
const PREFIX_LEN: usize = 2;

const UNKNOWN_FORMAT: &str = "the payload has a format that this version does not know";
const NOT_ENCRYPTED: &str =
    "the record is not encrypted, and this node accepts only encrypted records";

/// Encodes and decodes the payloads of one store.
pub(crate) struct Codec {
    encryption: Encryption,
    /// Present even with encryption off: other nodes may write encrypted records.
    keys: RecordKeys,
    /// Length of JSON, in bytes, above which compression is tried. `None` disables it.
    compress_above: Option<usize>,
    /// Maximum length of JSON, in bytes.
    max_len: usize,
}

/// Data as it is stored, and as every node will read it.
#[derive(Debug)]
pub(crate) struct Encoded<T> {
    json: Vec<u8>,
    data: T,
}

impl<T: Serialize> Encoded<T> {
    /// Returns the data as it is read back. It may differ from what was encoded: a field that is
    /// not serialized has its default value.
    pub(crate) fn data(&self) -> &T {
        &self.data
    }

    /// Returns the data as JSON.
    pub(crate) fn json(&self) -> &[u8] {
        &self.json
    }

    /// Returns the data as JSON, and as it is read back.
    pub(crate) fn into_parts(self) -> (Vec<u8>, T) {
        (self.json, self.data)
    }

    /// Returns the length of the data as JSON.
    pub(crate) fn json_len(&self) -> usize {
        self.json.len()
    }

    /// Returns `true` if the other data is stored in the same way.
    pub(crate) fn is_same_as(&self, other: &T) -> bool {
        let mut left = Expected(&self.json);
        serde_json::to_writer(&mut left, other).is_ok() && left.0.is_empty()
    }
}

/// A writer that accepts only these bytes, so that data which is stored in another way is not
/// serialized beyond the first difference, nor copied.
struct Expected<'a>(&'a [u8]);

impl Write for Expected<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.strip_prefix(bytes).ok_or(io::ErrorKind::InvalidData)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns `true` if both are stored in the same way.
pub(crate) fn is_same<T: Serialize>(one: &T, other: &T) -> bool {
    let json = |data| serde_json::to_vec(data).ok();
    json(one).is_some_and(|one| Some(one) == json(other))
}

/// A decoded payload.
#[derive(Debug)]
pub(crate) struct Decoded<T> {
    pub(crate) data: T,
    /// The length of the data as JSON.
    pub(crate) json_len: usize,
    /// `true` if the record is plain, or encrypted under a previous secret, and should be written
    /// again.
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

    /// Encodes data and decodes it again, so that nothing is stored that cannot be read back, and
    /// the node that writes sees the same data as the others.
    pub(crate) fn encode<T: Serialize + DeserializeOwned>(
        &self,
        data: &T,
    ) -> Result<Encoded<T>, StoreError> {
        let refused = |cause: Box<dyn Error + Send + Sync>| {
            StoreError::from(StoreErrorKind::Encode).with_source(cause)
        };
        let json = serde_json::to_vec(data).map_err(|error| refused(error.into()))?;
        if json.len() > self.max_len {
            let message = format!(
                "the data has {} bytes as JSON, but at most {} can be stored (max_record_size)",
                json.len(),
                self.max_len
            );
            return Err(StoreError::from(StoreErrorKind::TooLarge).with_source(message));
        }
        match serde_json::from_slice(&json) {
            Ok(data) => Ok(Encoded { json, data }),
            Err(error) => Err(refused(
                format!(
                    "the data is serialized to JSON from which it cannot be deserialized: {}",
                    mismatch(&error)
                )
                .into(),
            )),
        }
    }

    /// Returns JSON as the payload of the record with this id and metadata. If it is encrypted, it
    /// is valid for no other record.
    pub(crate) fn payload(&self, id: &SessionId, meta: &Meta, json: &[u8]) -> Bytes {
        let compressed = match self.compress_above {
            Some(threshold) if json.len() > threshold => compress::compress(json),
            _ => None,
        };
        let flags = if compressed.is_some() { COMPRESSED } else { 0 };
        let body = compressed.as_deref().unwrap_or(json);
        if self.encryption == Encryption::Off {
            return [&[flags, 0], body].concat().into();
        }
        let head = PREFIX_LEN + encrypt::NONCE_LEN;
        let mut payload = Vec::with_capacity(head + body.len() + encrypt::OVERHEAD);
        payload.resize(head, 0);
        payload[0] = flags | ENCRYPTED;
        payload.extend_from_slice(body);
        self.keys.seal(id, meta, &mut payload);
        payload.into()
    }

    /// Encrypts any body under any flags, as an attacker who has the secret could.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn seal_body(&self, id: &SessionId, meta: &Meta, flags: u8, body: &[u8]) -> Vec<u8> {
        let mut payload = [&[flags | ENCRYPTED, 0], &[0; encrypt::NONCE_LEN][..], body].concat();
        self.keys.seal(id, meta, &mut payload);
        payload
    }

    /// Decodes a payload. An error never quotes the payload.
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
        let data =
            serde_json::from_slice(&json).map_err(|error| corrupt(mismatch(&error).into()))?;
        Ok(Decoded { data, json_len: json.len(), needs_reencryption })
    }

    /// Returns the JSON of a payload, and whether the record needs to be encrypted again.
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
        let Some((&[flags, key_id], body)) = payload.split_first_chunk() else {
            return Err(UNKNOWN_FORMAT.into());
        };
        let encrypted = flags & ENCRYPTED != 0;
        if flags & !(COMPRESSED | ENCRYPTED) != 0 || (!encrypted && key_id != 0) {
            return Err(UNKNOWN_FORMAT.into());
        }
        let (body, needs_reencryption) = match self.encryption {
            _ if encrypted => {
                let opened = self.keys.open(id, meta, flags, key_id, body)?;
                (Cow::Owned(opened.body), opened.retiring)
            }
            Encryption::Off => (Cow::Borrowed(body), false),
            Encryption::Migrating => (Cow::Borrowed(body), true),
            Encryption::Required => {
                return Err(NOT_ENCRYPTED.into());
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
        Ok((json, needs_reencryption))
    }

    /// The error for a record that exceeds `max_record_size`.
    fn too_long(&self, len: usize) -> Cow<'static, str> {
        format!(
            "the record has {len} bytes, but at most {} are read (max_record_size)",
            self.max_len
        )
        .into()
    }
}

/// Describes why JSON was not deserialized. Only the position is kept, because serde's message may
/// quote the data.
fn mismatch(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    format!("the JSON does not match the session type at line {line}, column {column}")
}

/// Omits the keys.
impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Codec").field("encryption", &self.encryption).finish_non_exhaustive()
    }
}

#[cfg(not(feature = "compression"))]
mod compress {
    /// Never called: without the feature, compression cannot be enabled.
    pub(super) fn compress(_: &[u8]) -> Option<Vec<u8>> {
        None
    }

    pub(super) fn decompress(_: &[u8], _: usize) -> Result<Vec<u8>, &'static str> {
        Err("the record is compressed, and this node was built without the feature `compression`")
    }
}
