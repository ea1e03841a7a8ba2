//! How records are written: encrypted, compressed, and how large they may be.

use super::SessionConfigBuilder;
use crate::codec::Encryption;

impl<T> SessionConfigBuilder<T> {
    /// Whether the backend gets to see what sessions hold; default [`Encryption::Off`], and [`Encryption::Required`] in
    /// [`production`](crate::SessionConfig::production).
    ///
    /// Records are encrypted with AES-256-GCM-SIV (RFC 8452) under a key derived from the [`Secret`](crate::Secret), and bound to
    /// their session's id, revision and time of creation: one that is changed, or copied to another place, is refused. OWASP's
    /// Session Management Cheat Sheet asks for it where sessions hold sensitive data. It costs a microsecond or two for
    /// records of up to 2 KB, and 28 bytes each.
    ///
    /// # Risk
    ///
    /// Where sessions exist already, go by [`Encryption::Migrating`], or they are lost. Ids, times and sizes of records stay
    /// visible, and whoever can write to the backend can still delete a session, or put back an old version of it together with
    /// its header: see [the guide](crate::guide::encryption).
    pub fn encrypt_redis_data(mut self, encryption: Encryption) -> Self {
        self.codec.encryption = encryption;
        self
    }

    /// Whether large records are compressed (DEFLATE, RFC 1951); default `false`. Compressed records are read in any case.
    ///
    /// JSON of 2 KB shrinks to about a third, which spares Redis memory and the network. It costs some 14 microseconds at a
    /// write and 4 at a cache miss. Each thread that compresses keeps some 300 KB for that.
    ///
    /// # Risk
    ///
    /// How long a compressed record is depends on what it says. Whoever sees lengths in Redis or on the way there, *and* can have
    /// text of their own choice put into somebody else's session, may guess what else it holds, encrypted or not (RFC 3749, section
    /// 6; CRIME and BREACH are such attacks on HTTP). Leave it off where both can be the case.
    ///
    /// A node that was built without the feature `compression` cannot read compressed records.
    #[cfg(feature = "compression")]
    pub fn compress_data(mut self, compress: bool) -> Self {
        self.codec.compress = compress;
        self
    }

    /// Records whose JSON is longer than this, in bytes, are compressed if [`compress_data`](Self::compress_data) is on and if that
    /// makes them smaller; default 1024.
    ///
    /// A record of 300 bytes shrinks by a fifth, one of 1 KB by more than half.
    #[cfg(feature = "compression")]
    pub fn compression_threshold(mut self, bytes: usize) -> Self {
        self.codec.compression_threshold = bytes;
        self
    }

    /// The longest JSON, in bytes, that a session may have; default 1 MiB, at least 1 KiB, at most 16 MiB.
    ///
    /// What is larger is refused at the write with [`StoreErrorKind::TooLarge`](crate::StoreErrorKind::TooLarge), and no record
    /// makes a node use more memory than this, whatever it claims to hold when uncompressed. A session is read as a whole at
    /// each miss: large things belong elsewhere, with their key in the session.
    ///
    /// # Risk
    ///
    /// Once lowered, longer records can no longer be read.
    pub fn max_record_size(mut self, bytes: usize) -> Self {
        self.codec.max_record_size = bytes;
        self
    }
}
