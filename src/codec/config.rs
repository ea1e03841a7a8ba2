//! How records are written.

use crate::error::ConfigError;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Whether the backend gets to see what sessions hold.
///
/// Whatever is chosen, a node reads the encrypted records of others that have its secret. So encryption can be turned on, and
/// off again, under way and without logging anybody out: see [the guide](crate::guide::encryption).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Encryption {
    /// Records are written as plain JSON. Plain and encrypted ones are read.
    #[default]
    Off,
    /// Records are written encrypted. Plain ones are read, too, and encrypted when a request uses them.
    ///
    /// # Risk
    ///
    /// Whoever can write to the backend can still put a plain record there, and so make up a session.
    Migrating,
    /// Records are written encrypted, and plain ones are refused.
    Required,
}

/// The part of the configuration that is the codec's.
#[derive(Clone, Debug)]
pub(crate) struct CodecConfig {
    pub(crate) encryption: Encryption,
    /// Without the feature `compression`, nothing can set it.
    pub(crate) compress: bool,
    pub(crate) compression_threshold: usize,
    pub(crate) max_record_size: usize,
}

impl CodecConfig {
    pub(crate) fn new() -> Self {
        CodecConfig {
            encryption: Encryption::Off,
            compress: false,
            compression_threshold: KIB,
            max_record_size: MIB,
        }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let maximum = self.max_record_size;
        if !(KIB..=16 * MIB).contains(&maximum) {
            return Err(ConfigError::MaxRecordSize(maximum));
        }
        if self.compress && self.compression_threshold >= maximum {
            return Err(ConfigError::CompressionThreshold {
                threshold: self.compression_threshold,
                maximum,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_size_must_be_sensible() {
        let with = |max_record_size| CodecConfig { max_record_size, ..CodecConfig::new() }.check();
        assert_eq!(CodecConfig::new().check(), Ok(()));
        assert_eq!(with(16 * MIB), Ok(()));
        for size in [0, KIB - 1, 16 * MIB + 1] {
            assert_eq!(with(size), Err(ConfigError::MaxRecordSize(size)));
        }
    }

    #[test]
    fn a_threshold_that_no_record_can_pass_is_a_mistake() {
        let with = |compress, compression_threshold| {
            CodecConfig { compress, compression_threshold, ..CodecConfig::new() }.check()
        };
        assert_eq!(with(true, 0), Ok(()));
        assert_eq!(
            with(true, MIB),
            Err(ConfigError::CompressionThreshold { threshold: MIB, maximum: MIB })
        );
        assert_eq!(with(false, MIB), Ok(()));
    }
}
