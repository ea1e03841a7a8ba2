//! Setters for how records are written: encryption, compression, format and the size limit.

use super::SessionConfigBuilder;
#[cfg(feature = "messagepack")]
use crate::codec::DataFormat;
use crate::codec::Encryption;

impl<T> SessionConfigBuilder<T> {
    /// Sets whether records are encrypted in the backend. Defaults to [`Encryption::Off`], and to
    /// [`Encryption::Required`] in [`production`](crate::SessionConfig::production).
    ///
    /// Records are encrypted with AES-256-GCM-SIV (RFC 8452) under a key derived from the
    /// [`Secret`](crate::Secret), and bound to their session's id, revision and time of creation. A
    /// record that was altered, or copied to another place, is refused. OWASP's Session Management
    /// Cheat Sheet asks for encryption if sessions hold sensitive data. It costs a microsecond or
    /// two for records of up to 2 KB, and 28 bytes each.
    ///
    /// # Risk
    ///
    /// If there are plain sessions already, start with [`Encryption::Migrating`], or they are lost.
    /// Ids, times and sizes of records stay visible. An attacker who can write to the backend can
    /// still delete a session, or restore an old version of it together with its header: see [the
    /// guide](crate::guide::encryption).
    #[doc(alias = "encryption")]
    pub fn encrypt_redis_data(mut self, encryption: Encryption) -> Self {
        self.codec.encryption = encryption;
        self
    }

    /// Sets whether large records are compressed (DEFLATE, RFC 1951). Defaults to `false`.
    /// Compressed records are always readable.
    ///
    /// JSON of 2 KB shrinks to about a third, which saves memory in Redis and bandwidth. It costs
    /// some 14 microseconds per write and 4 per cache miss. Each thread that compresses keeps some
    /// 300 KB for it.
    ///
    /// # Risk
    ///
    /// The length of a compressed record depends on its content. An attacker who can see lengths in
    /// Redis or on the network, *and* can place chosen text into another user's session, may guess
    /// what else that session holds, encrypted or not (RFC 3749, section 6; CRIME and BREACH are
    /// such attacks on HTTP). Do not enable it if both can be the case.
    ///
    /// A node that was built without the feature `compression` cannot read compressed records.
    /// Remove it only when every session has been written without compression or has expired: one
    /// that is only read stays compressed. See [the guide](crate::guide::encryption).
    #[doc(alias = "compression")]
    #[cfg(feature = "compression")]
    pub fn compress_data(mut self, compress: bool) -> Self {
        self.codec.compress = compress;
        self
    }

    /// Sets the length of data, in bytes, above which records are compressed. Defaults to 1024.
    /// Must be less than [`max_record_size`](Self::max_record_size).
    ///
    /// It applies if [`compress_data`](Self::compress_data) is on. A record that compression does
    /// not make smaller is stored as it is. A record of 300 bytes shrinks by a fifth, one of 1 KB
    /// by more than half.
    #[cfg(feature = "compression")]
    pub fn compression_threshold(mut self, bytes: usize) -> Self {
        self.codec.compression_threshold = bytes;
        self
    }

    /// Sets the format in which data is written. Defaults to JSON. All formats are read.
    ///
    /// ```
    /// # use clustered_sessions::{DataFormat, Secret, SessionConfig, SessionStore};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession { seen: Vec<u64> }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("dev"))
    ///     .data_format(DataFormat::MessagePack)
    ///     .build()?;
    /// # let store = SessionStore::new(config);
    /// # let id = store.create(UserSession { seen: vec![1, 2, 3] }).await?.id;
    /// # assert_eq!(store.find_fresh(id).await?.unwrap().data().seen, [1, 2, 3]);
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "messagepack")]
    pub fn data_format(mut self, format: DataFormat) -> Self {
        self.codec.format = format;
        self
    }

    /// Sets the maximum length of a session's data, in bytes. Defaults to 1 MiB; at least 1 KiB, at
    /// most 16 MiB.
    ///
    /// A larger session is refused when it is written, with
    /// [`StoreErrorKind::TooLarge`](crate::StoreErrorKind::TooLarge). Sessions of up to 16 MiB are
    /// read whatever this is, so that it can be raised and lowered node by node. A session is read
    /// as a whole at each cache miss: store large objects elsewhere, and their keys in the session.
    ///
    /// It does not limit the memory that a read takes. A compressed record that claims more than 16
    /// MiB is refused before it is decompressed, but the backend's client first holds the whole of
    /// what was stored: in Redis, that is up to 512 MB for an attacker who can write there.
    ///
    /// # Risk
    ///
    /// Once lowered, a longer session can still be read, but every change and regeneration of it
    /// fails until it is short enough. It is not encrypted again either, so it is lost at the end
    /// of a rotation.
    pub fn max_record_size(mut self, bytes: usize) -> Self {
        self.codec.max_record_size = bytes;
        self
    }
}
