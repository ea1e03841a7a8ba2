//! The address of a server.

use std::fmt;
use std::path::PathBuf;

/// The address of a Redis server or of a sentinel.
///
/// ```
/// use clustered_sessions::RedisAddress;
///
/// assert_eq!(RedisAddress::tcp("10.0.0.7", 6379).to_string(), "10.0.0.7:6379");
/// assert_eq!(RedisAddress::tcp("::1", 6379).to_string(), "[::1]:6379");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RedisAddress {
    /// A TCP port.
    Tcp {
        /// A host name, or an IP address without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix domain socket.
    Unix {
        /// The path of the socket.
        path: PathBuf,
    },
}

impl RedisAddress {
    /// Creates the address of a TCP port.
    pub fn tcp(host: impl Into<String>, port: u16) -> Self {
        RedisAddress::Tcp { host: host.into(), port }
    }

    /// Creates the address of a Unix domain socket.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        RedisAddress::Unix { path: path.into() }
    }
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RedisAddress::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            RedisAddress::Tcp { host, port } => write!(f, "{host}:{port}"),
            RedisAddress::Unix { path } => write!(f, "{}", path.display()),
        }
    }
}
