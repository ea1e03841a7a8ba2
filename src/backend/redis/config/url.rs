//! URLs of Redis servers.

use percent_encoding::percent_decode_str;
use url::{Host, Url};

use super::RedisAddress;
use crate::error::ConfigError;

/// The port of a server without one in its URL.
const PORT: u16 = 6379;

/// The parts of a URL.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RedisUrl {
    pub(super) address: RedisAddress,
    pub(super) user: String,
    pub(super) password: String,
    pub(super) database: u16,
    pub(super) tls: bool,
}

/// The kind of address that a scheme announces.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Unix,
}

impl RedisUrl {
    pub(super) fn parse(text: &str) -> Result<Self, ConfigError> {
        let url = Url::parse(text).map_err(|_| ConfigError::RedisUrl)?;
        let (kind, tls) = match url.scheme() {
            "redis" | "valkey" => (Kind::Tcp, false),
            "rediss" | "valkeys" => (Kind::Tcp, true),
            "redis+unix" | "valkey+unix" | "unix" => (Kind::Unix, false),
            scheme if scheme.ends_with("-sentinel") => return unsupported("Redis Sentinel"),
            scheme if scheme.ends_with("-cluster") => return unsupported("Redis Cluster"),
            _ => return Err(ConfigError::RedisUrl),
        };
        if url.fragment().is_some() {
            // Some clients skip the verification of certificates for `#insecure`.
            return Err(ConfigError::RedisUrlFragment);
        }
        let parameters = Parameters::parse(&url, kind)?;
        let (address, user, password, database) = match kind {
            Kind::Tcp => {
                let (user, password) = (url.username(), url.password().unwrap_or_default());
                (tcp(&url)?, decode(user)?, decode(password)?, database_in_path(url.path())?)
            }
            Kind::Unix => {
                let address = RedisAddress::unix(decode(url.path())?);
                (address, String::new(), String::new(), 0)
            }
        };
        Ok(RedisUrl {
            address,
            user: parameters.user.unwrap_or(user),
            password: parameters.password.unwrap_or(password),
            database: parameters.database.unwrap_or(database),
            tls,
        })
    }
}

/// The parameters in the query of a URL.
#[derive(Default)]
struct Parameters {
    user: Option<String>,
    password: Option<String>,
    database: Option<u16>,
}

impl Parameters {
    fn parse(url: &Url, kind: Kind) -> Result<Self, ConfigError> {
        let mut parameters = Parameters::default();
        for (name, value) in url.query_pairs() {
            match &*name {
                "db" => parameters.database = Some(parse_database(&value)?),
                "user" if kind == Kind::Unix => parameters.user = Some(value.into_owned()),
                "pass" if kind == Kind::Unix => parameters.password = Some(value.into_owned()),
                // The node chooses the protocol: version 2 for commands, 3 for the subscription.
                _ => return Err(ConfigError::RedisUrlParameter),
            }
        }
        Ok(parameters)
    }
}

fn unsupported<R>(feature: &'static str) -> Result<R, ConfigError> {
    Err(ConfigError::RedisUnsupported { feature })
}

fn tcp(url: &Url) -> Result<RedisAddress, ConfigError> {
    let host = match url.host() {
        Some(Host::Domain(name)) if !name.is_empty() => decode(name)?,
        Some(Host::Ipv4(ip)) => ip.to_string(),
        Some(Host::Ipv6(ip)) => ip.to_string(),
        _ => return Err(ConfigError::RedisUrl),
    };
    Ok(RedisAddress::tcp(host, url.port().unwrap_or(PORT)))
}

fn database_in_path(path: &str) -> Result<u16, ConfigError> {
    match path.strip_prefix('/').unwrap_or(path) {
        "" => Ok(0),
        number => parse_database(number),
    }
}

fn parse_database(text: &str) -> Result<u16, ConfigError> {
    text.parse().map_err(|_| ConfigError::RedisUrl)
}

fn decode(text: &str) -> Result<String, ConfigError> {
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| ConfigError::RedisUrl)?;
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(url: &str) -> RedisUrl {
        RedisUrl::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    fn url(address: RedisAddress) -> RedisUrl {
        let (user, password) = (String::new(), String::new());
        RedisUrl { address, user, password, database: 0, tls: false }
    }

    #[test]
    fn each_form_has_its_meaning() {
        let host = url(RedisAddress::tcp("cache.example.com", 6379));
        assert_eq!(parse("redis://cache.example.com"), host);
        assert_eq!(parse("valkey://cache.example.com:6379/"), host);
        assert_eq!(parse("redis://cache.example.com/0?db=0"), host);
        for scheme in ["rediss", "valkeys"] {
            let encrypted = parse(&format!("{scheme}://cache.example.com:6380/2"));
            assert!(encrypted.tls);
            assert_eq!(encrypted.database, 2);
            assert_eq!(encrypted.address, RedisAddress::tcp("cache.example.com", 6380));
        }
        assert_eq!(parse("redis://10.0.0.7:7000"), url(RedisAddress::tcp("10.0.0.7", 7000)));
        assert_eq!(parse("redis://[::1]:7000"), url(RedisAddress::tcp("::1", 7000)));
        for scheme in ["redis+unix", "valkey+unix", "unix"] {
            let socket =
                parse(&format!("{scheme}:///run/my%20redis.sock?db=3&user=app&pass=a%26b"));
            assert_eq!(socket.address, RedisAddress::unix("/run/my redis.sock"));
            assert_eq!((&*socket.user, &*socket.password, socket.database), ("app", "a&b", 3));
        }
    }

    #[test]
    fn each_mistake_has_its_error() {
        for (url, expected) in [
            ("", ConfigError::RedisUrl),
            ("redis://", ConfigError::RedisUrl),
            ("redis:///0", ConfigError::RedisUrl),
            ("http://localhost", ConfigError::RedisUrl),
            ("redis://localhost/x", ConfigError::RedisUrl),
            ("redis://localhost/-1", ConfigError::RedisUrl),
            ("redis://localhost/?db=65536", ConfigError::RedisUrl),
            ("redis://localhost:65536", ConfigError::RedisUrl),
            ("redis://:%ff@localhost", ConfigError::RedisUrl),
            ("redis://localhost/?protocol=resp3", ConfigError::RedisUrlParameter),
            ("redis://localhost/?pass=hunter2", ConfigError::RedisUrlParameter),
            ("redis+unix:///run/redis.sock?dbb=1", ConfigError::RedisUrlParameter),
            ("rediss://localhost/#insecure", ConfigError::RedisUrlFragment),
            ("redis-sentinel://a", ConfigError::RedisUnsupported { feature: "Redis Sentinel" }),
            ("valkeys-cluster://a", ConfigError::RedisUnsupported { feature: "Redis Cluster" }),
        ] {
            assert_eq!(RedisUrl::parse(url), Err(expected), "{url}");
        }
    }

    proptest! {
        #[test]
        fn a_password_is_what_was_encoded(user in ".*", password in ".*") {
            let encode = |text: &str| -> String {
                text.bytes().map(|byte| format!("%{byte:02x}")).collect()
            };
            let text = format!("redis://{}:{}@localhost", encode(&user), encode(&password));
            let parsed = parse(&text);
            prop_assert_eq!((parsed.user, parsed.password), (user, password));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "redis(s|\\+unix)?://\\PC*") {
            let _ = RedisUrl::parse(&text);
        }
    }
}
