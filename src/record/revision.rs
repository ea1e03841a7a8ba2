//! The version of a record.

use crate::random::random_u64;

/// The version of a record: an 8-byte counter and 8 random bytes, new at every write and compared
/// for equality only.
///
/// The counter makes sure that a revision never occurs twice in a session. The random part
/// distinguishes the writes of two nodes that are based on the same revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Revision([u8; 16]);

impl Revision {
    /// Returns the first revision of a new record.
    pub(crate) fn first() -> Self {
        Self::with_counter(1)
    }

    /// Returns a revision for a write that is based on this one.
    pub(crate) fn next(self) -> Self {
        let mut counter = [0; 8];
        counter.copy_from_slice(&self.0[..8]);
        Self::with_counter(u64::from_be_bytes(counter).wrapping_add(1))
    }

    fn with_counter(counter: u64) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&counter.to_be_bytes());
        bytes[8..].copy_from_slice(&random_u64().to_ne_bytes());
        Revision(bytes)
    }

    /// Returns the 16 bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Creates the revision with these 16 bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Revision(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_revision_increments_the_counter_and_is_unique() {
        let base = Revision::first();
        let (one, two) = (base.next(), base.next());
        assert_eq!(one.as_bytes()[..8], 2u64.to_be_bytes());
        assert_eq!(one.as_bytes()[..8], two.as_bytes()[..8]);
        assert_ne!(one, two);
    }
}
