//! The codec: encodes an application's data as a backend's payload, and decodes it.
//!
//! | bytes | content |
//! |---|---|
//! | 0 | flags: 1 compressed, 2 encrypted, 4 MessagePack |
//! | 1 | id of the key, 0 if not encrypted |
//! | 2.. | JSON or MessagePack (see `format.rs`), compressed (see `compress.rs`) and then encrypted (see `encrypt.rs`) as the flags say |
//!
//! A payload of any other form was written by a later version or by an attacker. It is refused
//! rather than misread.

#[cfg(feature = "compression")]
mod compress;
mod config;
mod encrypt;
mod format;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::error::Error;
use std::io::{self, BufWriter, Write};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use self::config::CodecConfig;
pub use self::config::Encryption;
use self::config::LONGEST;
use self::encrypt::RecordKeys;
#[cfg_attr(
    not(feature = "messagepack"),
    allow(unreachable_pub, reason = "the feature exports it")
)]
pub use self::format::DataFormat;
use self::format::MESSAGE_PACK;
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
    /// What is written. All formats are read.
    format: DataFormat,
    /// Present even with encryption off: other nodes may write encrypted records.
    keys: RecordKeys,
    /// Length of data, in bytes, above which compression is tried. `None` disables it.
    compress_above: Option<usize>,
    /// Maximum length of data that is written, in bytes. Other nodes may have another one, so all
    /// that any of them may write is read.
    max_len: usize,
}

/// Data as it is stored, and as every node will read it.
#[derive(Debug)]
pub(crate) struct Encoded<T> {
    format: DataFormat,
    bytes: Vec<u8>,
    data: T,
}

impl<T: Serialize> Encoded<T> {
    /// Returns the data as it is read back. It may differ from what was encoded: a field that is
    /// not serialized has its default value.
    pub(crate) fn data(&self) -> &T {
        &self.data
    }

    /// Returns the data as bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the data as bytes, and as it is read back.
    pub(crate) fn into_parts(self) -> (Vec<u8>, T) {
        (self.bytes, self.data)
    }

    /// Returns the length of the data as bytes.
    pub(crate) fn data_len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns `true` if the other data is stored in the same way.
    pub(crate) fn is_same_as(&self, other: &T) -> bool {
        let mut left = Expected(&self.bytes);
        // In chunks: serializers write each name, value and comma on its own.
        let mut chunks = BufWriter::with_capacity(CHUNK, &mut left);
        let is_same = self.format.write(&mut chunks, other).is_ok() && chunks.flush().is_ok();
        drop(chunks);
        is_same && left.0.is_empty()
    }
}

/// The number of bytes that are compared at once.
const CHUNK: usize = 512;

/// A writer that accepts only these bytes, so that data which is stored in another way is not
/// serialized far beyond the first difference.
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

/// A decoded payload.
#[derive(Debug)]
pub(crate) struct Decoded<T> {
    pub(crate) data: T,
    /// The length of the data as bytes.
    pub(crate) data_len: usize,
    /// `true` if the record is plain, or encrypted under a previous secret, and should be written
    /// again.
    pub(crate) needs_reencryption: bool,
}

/// A payload that was decrypted and decompressed.
struct Opened<'a> {
    format: DataFormat,
    bytes: Cow<'a, [u8]>,
    needs_reencryption: bool,
}

impl Codec {
    pub(crate) fn new(config: &CodecConfig, ring: &KeyRing) -> Self {
        Codec {
            encryption: config.encryption,
            format: config.format,
            keys: RecordKeys::new(ring),
            compress_above: config.compress.then_some(config.compression_threshold),
            max_len: config.max_record_size,
        }
    }

    /// Returns `true` if both are stored in the same way.
    pub(crate) fn is_same<T: Serialize>(&self, one: &T, other: &T) -> bool {
        let bytes = |data| self.format.to_bytes(data).ok();
        bytes(one).is_some_and(|one| Some(one) == bytes(other))
    }

    /// Encodes data and decodes it again, so that nothing is stored that cannot be read back, and
    /// the node that writes sees the same data as the others. An error never quotes the data.
    pub(crate) fn encode<T: Serialize + DeserializeOwned>(
        &self,
        data: &T,
    ) -> Result<Encoded<T>, StoreError> {
        let refused = |cause: String| StoreError::from(StoreErrorKind::Encode).with_source(cause);
        let format = self.format;
        let bytes = format.to_bytes(data).map_err(|cause| {
            refused(format!("the data cannot be serialized to {}: {cause}", format.name()))
        })?;
        if bytes.len() > self.max_len {
            let message = format!(
                "the data has {} bytes as {}, but at most {} can be stored (max_record_size)",
                bytes.len(),
                format.name(),
                self.max_len
            );
            return Err(StoreError::from(StoreErrorKind::TooLarge).with_source(message));
        }
        match format.read(&bytes) {
            Ok(data) => Ok(Encoded { format, bytes, data }),
            Err(mismatch) => Err(refused(format!(
                "the data is serialized to {} from which it cannot be deserialized: {mismatch}",
                format.name()
            ))),
        }
    }

    /// Returns encoded data as the payload of the record with this id and metadata. If it is
    /// encrypted, it is valid for no other record.
    pub(crate) fn payload(&self, id: &SessionId, meta: &Meta, bytes: &[u8]) -> Bytes {
        let compressed = match self.compress_above {
            Some(threshold) if bytes.len() > threshold => compress::compress(bytes),
            _ => None,
        };
        let flags = self.format.flag() | if compressed.is_some() { COMPRESSED } else { 0 };
        let body = compressed.as_deref().unwrap_or(bytes);
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
        let Opened { format, bytes, needs_reencryption } =
            self.open(id, meta, payload).map_err(|cause| corrupt(cause.into()))?;
        let data = format.read(&bytes).map_err(|mismatch| corrupt(mismatch.into()))?;
        Ok(Decoded { data, data_len: bytes.len(), needs_reencryption })
    }

    /// Decrypts and decompresses a payload.
    fn open<'a>(
        &self,
        id: &SessionId,
        meta: &Meta,
        payload: &'a [u8],
    ) -> Result<Opened<'a>, Cow<'static, str>> {
        let max_payload = PREFIX_LEN + encrypt::OVERHEAD + LONGEST;
        if payload.len() > max_payload {
            return Err(too_long(payload.len()));
        }
        let Some((&[flags, key_id], body)) = payload.split_first_chunk() else {
            return Err(UNKNOWN_FORMAT.into());
        };
        let encrypted = flags & ENCRYPTED != 0;
        if flags & !(COMPRESSED | ENCRYPTED | MESSAGE_PACK) != 0 || (!encrypted && key_id != 0) {
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
        let bytes = if flags & COMPRESSED == 0 {
            body
        } else {
            compress::decompress(&body, LONGEST)?.into()
        };
        if bytes.len() > LONGEST {
            return Err(too_long(bytes.len()));
        }
        Ok(Opened { format: DataFormat::of(flags)?, bytes, needs_reencryption })
    }
}

/// The error for a record that is longer than any node may write.
fn too_long(len: usize) -> Cow<'static, str> {
    format!("the record has {len} bytes, but at most {LONGEST} are read").into()
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
