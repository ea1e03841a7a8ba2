//! Configuration of the codec: encryption, compression and the size limit.

use super::DataFormat;
use crate::error::ConfigError;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Maximum length of data that any node may write, and so that every node reads.
pub(super) const LONGEST: usize = 16 * MIB;

/// Encryption of the records in the backend.
///
/// Whatever is set, a node reads encrypted records of other nodes that share its secret. Encryption
/// can therefore be enabled and disabled while sessions are live, without logging users out: see
/// [the guide](crate::guide::encryption).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Encryption {
    /// Writes plain records. Reads plain and encrypted records.
    #[default]
    Off,
    /// Writes encrypted records. Reads plain ones as well, and encrypts them when a request uses
    /// them.
    ///
    /// # Risk
    ///
    /// An attacker who can write to the backend can still store a plain record there, and so forge
    /// a session.
    Migrating,
    /// Writes encrypted records and refuses plain ones.
    Required,
}

/// The options of the codec.
#[derive(Clone, Debug)]
pub(crate) struct CodecConfig {
    pub(crate) encryption: Encryption,
    /// Always JSON without the feature `messagepack`.
    pub(crate) format: DataFormat,
    /// Always `false` without the feature `compression`.
    pub(crate) compress: bool,
    /// In bytes of data.
    pub(crate) compression_threshold: usize,
    /// In bytes of data that is written.
    pub(crate) max_record_size: usize,
}

impl CodecConfig {
    /// Creates the default options: no encryption, no compression, records of up to 1 MiB.
    pub(crate) fn new() -> Self {
        CodecConfig {
            encryption: Encryption::Off,
            format: DataFormat::Json,
            compress: false,
            compression_threshold: KIB,
            max_record_size: MIB,
        }
    }

    /// Checks the size limit, and that the threshold is below it.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let maximum = self.max_record_size;
        if !(KIB..=LONGEST).contains(&maximum) {
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
