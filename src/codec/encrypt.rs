//! Encryption: AES-256-GCM-SIV (RFC 8452). What is encrypted becomes a nonce of 12 random bytes, the ciphertext, and a tag of 16
//! bytes.
//!
//! Under plain AES-GCM, random nonces wear a key out after 2^32 messages (NIST SP 800-38D, section 8.3), and one that comes twice
//! gives the key of the tag away. Here one that comes twice tells whether the same was encrypted twice for the same associated data
//! (RFC 8452, section 9), and since each version of a record has a revision of its own, that never is.
//!
//! The associated data bind a payload to its place:
//!
//! | bytes | what |
//! |---|---|
//! | 0 | format, 1 |
//! | 1 | flags |
//! | 2 | number of the key |
//! | 3..19 | session id |
//! | 19..35 | revision |
//! | 35..43 | created at, milliseconds since the Unix epoch, big-endian |
//!
//! The deadline is left out: reading a session extends it without writing the record anew. Whoever moves it can keep a session
//! from expiring for want of use, but not make it younger.
//!
//! A key is known by a number of one byte, derived from its secret like the key itself: so it stays the same when the ring is
//! rotated, and all nodes agree on it whatever the order of their rings. One pair of secrets in 256 shares a number; then both keys are
//! tried.

use aes_gcm_siv::{AeadInOut as _, Aes256GcmSiv, KeyInit as _};

use crate::id::SessionId;
use crate::random::random_bytes;
use crate::record::Meta;
use crate::secret::KeyRing;

const KEY: &str = "clustered-sessions/record/v1";
const NUMBER: &str = "clustered-sessions/record-key-number/v1";

const FORMAT: u8 = 1;
pub(super) const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;
/// How much longer than its plaintext a body is.
pub(super) const OVERHEAD: usize = NONCE_LEN + TAG_LEN;
const AAD_LEN: usize = 43;

/// One key per secret of the ring, the one that encrypts first.
pub(super) struct RecordKeys {
    keys: Vec<RecordKey>,
}

struct RecordKey {
    number: u8,
    cipher: Aes256GcmSiv,
    retiring: bool,
}

pub(super) struct Opened {
    pub(super) body: Vec<u8>,
    /// Whether the key is one that no longer encrypts.
    pub(super) retiring: bool,
}

impl RecordKeys {
    pub(super) fn new(ring: &KeyRing) -> Self {
        let numbers = ring.derive(NUMBER).map(|key| key.bytes[0]);
        let keys = ring.derive(KEY).zip(numbers).map(|(key, number)| RecordKey {
            number,
            cipher: Aes256GcmSiv::new(&key.bytes.into()),
            retiring: key.retiring,
        });
        RecordKeys { keys: keys.collect() }
    }

    /// Encrypts a payload in place: flags, a byte for the key's number, room for the nonce, and the body.
    pub(super) fn seal(&self, id: &SessionId, meta: &Meta, payload: &mut Vec<u8>) {
        self.seal_with(random_bytes(), id, meta, payload);
    }

    #[expect(
        clippy::expect_used,
        reason = "AES-GCM-SIV takes up to 64 GiB, and a record has 16 MiB at most"
    )]
    pub(super) fn seal_with(
        &self,
        nonce: [u8; NONCE_LEN],
        id: &SessionId,
        meta: &Meta,
        payload: &mut Vec<u8>,
    ) {
        let key = &self.keys[0];
        let (head, body) = payload.split_at_mut(super::PREFIX_LEN + NONCE_LEN);
        head[1] = key.number;
        head[super::PREFIX_LEN..].copy_from_slice(&nonce);
        let aad = associated_data(head[0], key.number, id, meta);
        let tag = key
            .cipher
            .encrypt_inout_detached(&nonce.into(), &aad, body.into())
            .expect("the body is short enough");
        payload.extend_from_slice(&tag);
    }

    /// Decrypts what was encrypted for this id and meta, with these flags.
    pub(super) fn open(
        &self,
        id: &SessionId,
        meta: &Meta,
        flags: u8,
        number: u8,
        body: &[u8],
    ) -> Result<Opened, &'static str> {
        let (nonce, body) = body.split_first_chunk::<NONCE_LEN>().ok_or(NOT_OURS)?;
        let (ciphertext, tag) = body.split_last_chunk::<TAG_LEN>().ok_or(NOT_OURS)?;
        let aad = associated_data(flags, number, id, meta);
        let mut refusal = UNKNOWN_KEY;
        for key in self.keys.iter().filter(|key| key.number == number) {
            let mut body = ciphertext.to_vec();
            let opened = key.cipher.decrypt_inout_detached(
                nonce.into(),
                &aad,
                body.as_mut_slice().into(),
                tag.into(),
            );
            if opened.is_ok() {
                return Ok(Opened { body, retiring: key.retiring });
            }
            refusal = NOT_OURS;
        }
        Err(refusal)
    }
}

const NOT_OURS: &str = "the encrypted record was changed, or does not belong here";
const UNKNOWN_KEY: &str = "the record is encrypted under a secret that this node does not have";

fn associated_data(flags: u8, number: u8, id: &SessionId, meta: &Meta) -> [u8; AAD_LEN] {
    let mut data = [0; AAD_LEN];
    data[..3].copy_from_slice(&[FORMAT, flags, number]);
    data[3..19].copy_from_slice(id.as_bytes());
    data[19..35].copy_from_slice(meta.revision.as_bytes());
    data[35..].copy_from_slice(&meta.created_at.as_millis().to_be_bytes());
    data
}
