//! Encryption with AES-256-GCM-SIV (RFC 8452). An encrypted body is a nonce of 12 random bytes, the
//! ciphertext, and a tag of 16 bytes.
//!
//! Under plain AES-GCM, random nonces exhaust a key after 2^32 messages (NIST SP 800-38D, section
//! 8.3), and a repeated nonce reveals the authentication key. Under AES-GCM-SIV, a repeated nonce
//! reveals only whether the same plaintext was encrypted twice with the same associated data (RFC
//! 8452, section 9). That never happens here, because each version of a record has its own
//! revision.
//!
//! The associated data bind a payload to its place:
//!
//! | bytes | content |
//! |---|---|
//! | 0 | format, 2 |
//! | 1 | flags |
//! | 2 | id of the key |
//! | 3..19 | session id |
//! | 19..35 | revision |
//! | 35..43 | time of creation, milliseconds since the Unix epoch, big-endian |
//! | 43..51 | time of the login, likewise |
//! | 51..67 | id under which the session was first created |
//! | 67 | lifespan: 0 ordinary, 1 "remember me", 2 a deadline of its own |
//!
//! The deadline and the time of the last use are left out, because reading a session changes them
//! without writing the record again. An attacker who changes the deadline can keep an idle session
//! from expiring, also one with a deadline of its own, but cannot extend its absolute timeout.
//!
//! A key has an id of one byte, derived from its secret like the key itself. It therefore stays the
//! same when the ring is rotated, and all nodes agree on it whatever the order of their rings. Two
//! secrets share an id with a probability of 1 in 256; then both keys are tried.

use aes_gcm_siv::{AeadInOut as _, Aes256GcmSiv, KeyInit as _};

use crate::id::SessionId;
use crate::random::random_bytes;
use crate::record::Meta;
use crate::secret::KeyRing;

/// Purpose for which the keys are derived from the secrets.
const KEY_PURPOSE: &str = "clustered-sessions/record/v2";
/// Purpose for which the ids of the keys are derived.
const KEY_ID_PURPOSE: &str = "clustered-sessions/record-key-number/v2";

/// Version of the format, as bound by the associated data.
const FORMAT: u8 = 2;
pub(super) const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;
/// Difference in length between an encrypted body and its plaintext.
pub(super) const OVERHEAD: usize = NONCE_LEN + TAG_LEN;
/// Length of the associated data; see the table above.
const AAD_LEN: usize = 68;

const NOT_AUTHENTIC: &str =
    "the encrypted record was altered, or was written for another session or revision";
const UNKNOWN_KEY: &str = "the record is encrypted under a secret that this node does not have";

/// The keys for records: one per secret of the ring, the one that encrypts first.
pub(super) struct RecordKeys {
    keys: Vec<RecordKey>,
}

/// A key derived from one secret of the ring.
struct RecordKey {
    id: u8,
    cipher: Aes256GcmSiv,
    retiring: bool,
}

/// A decrypted body.
pub(super) struct Opened {
    pub(super) body: Vec<u8>,
    /// `true` if the key no longer encrypts, so that the record should be encrypted again.
    pub(super) retiring: bool,
}

impl RecordKeys {
    pub(super) fn new(ring: &KeyRing) -> Self {
        let ids = ring.derive(KEY_ID_PURPOSE).map(|key| key.bytes[0]);
        let keys = ring.derive(KEY_PURPOSE).zip(ids).map(|(key, id)| RecordKey {
            id,
            cipher: Aes256GcmSiv::new(&key.bytes.into()),
            retiring: key.retiring,
        });
        RecordKeys { keys: keys.collect() }
    }

    /// Encrypts a payload in place. It holds the flags, a byte for the id of the key, room for the
    /// nonce, and the body.
    pub(super) fn seal(&self, id: &SessionId, meta: &Meta, payload: &mut Vec<u8>) {
        self.seal_with(random_bytes(), id, meta, payload);
    }

    /// Encrypts with a given nonce, for tests against frozen vectors.
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
        head[1] = key.id;
        head[super::PREFIX_LEN..].copy_from_slice(&nonce);
        let aad = associated_data(head[0], key.id, id, meta);
        let tag = key
            .cipher
            .encrypt_inout_detached(&nonce.into(), &aad, body.into())
            .expect("the body is short enough");
        payload.extend_from_slice(&tag);
    }

    /// Decrypts a body that was encrypted for this session id and metadata, with these flags.
    pub(super) fn open(
        &self,
        id: &SessionId,
        meta: &Meta,
        flags: u8,
        key_id: u8,
        body: &[u8],
    ) -> Result<Opened, &'static str> {
        let (nonce, body) = body.split_first_chunk::<NONCE_LEN>().ok_or(NOT_AUTHENTIC)?;
        let (ciphertext, tag) = body.split_last_chunk::<TAG_LEN>().ok_or(NOT_AUTHENTIC)?;
        let aad = associated_data(flags, key_id, id, meta);
        let mut refusal = UNKNOWN_KEY;
        for key in self.keys.iter().filter(|key| key.id == key_id) {
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
            refusal = NOT_AUTHENTIC;
        }
        Err(refusal)
    }
}

fn associated_data(flags: u8, key_id: u8, id: &SessionId, meta: &Meta) -> [u8; AAD_LEN] {
    let mut data = [0; AAD_LEN];
    data[..3].copy_from_slice(&[FORMAT, flags, key_id]);
    data[3..19].copy_from_slice(id.as_bytes());
    data[19..35].copy_from_slice(meta.revision.as_bytes());
    data[35..43].copy_from_slice(&meta.created_at.as_millis().to_be_bytes());
    data[43..51].copy_from_slice(&meta.logged_in_at.as_millis().to_be_bytes());
    data[51..67].copy_from_slice(meta.origin.as_bytes());
    data[67] = meta.lifespan.code();
    data
}
