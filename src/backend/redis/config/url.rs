//! URLs of Redis servers.

use percent_encoding::percent_decode_str;
use url::{Host, Url};

use super::{RedisAddress, RedisCluster, RedisSentinels, Servers};
use crate::error::ConfigError;

/// The port of a server without one in its URL.
const PORT: u16 = 6379;
/// The port of a sentinel without one in its URL.
const SENTINEL_PORT: u16 = 26379;

/// The parts of a URL.
pub(super) struct RedisUrl {
    pub(super) servers: Servers,
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
    Sentinel,
    Cluster,
}

impl RedisUrl {
    pub(super) fn parse(text: &str) -> Result<Self, ConfigError> {
        let url = Url::parse(text).map_err(|_| ConfigError::RedisUrl)?;
        let (kind, tls) = match url.scheme() {
            "redis" | "valkey" => (Kind::Tcp, false),
            "rediss" | "valkeys" => (Kind::Tcp, true),
            "redis+unix" | "valkey+unix" | "unix" => (Kind::Unix, false),
            "redis-sentinel" | "valkey-sentinel" => (Kind::Sentinel, false),
            "rediss-sentinel" | "valkeys-sentinel" => (Kind::Sentinel, true),
            "redis-cluster" | "valkey-cluster" => (Kind::Cluster, false),
            "rediss-cluster" | "valkeys-cluster" => (Kind::Cluster, true),
            _ => return Err(ConfigError::RedisUrl),
        };
        if url.fragment().is_some() {
            // Some clients skip the verification of certificates for `#insecure`.
            return Err(ConfigError::RedisUrlFragment);
        }
        let parameters = Parameters::parse(&url, kind)?;
        let (user, password) = (url.username(), url.password().unwrap_or_default());
        let database = if kind == Kind::Unix { None } else { database_in_path(url.path())? };
        Ok(RedisUrl {
            user: parameters.user.clone().unwrap_or(decode(user)?),
            password: parameters.password.clone().unwrap_or(decode(password)?),
            database: match (parameters.database, database) {
                (Some(one), Some(other)) if one != other => return Err(ConfigError::RedisUrl),
                (parameter, path) => parameter.or(path).unwrap_or_default(),
            },
            servers: match kind {
                Kind::Tcp => {
                    let (host, port) = host_and_port(&url, PORT)?;
                    Servers::Single(RedisAddress::tcp(host, port))
                }
                Kind::Unix => Servers::Single(RedisAddress::unix(path_of_socket(&url)?)),
                Kind::Sentinel => Servers::Sentinel(parameters.sentinels(&url)?),
                Kind::Cluster => Servers::Cluster(RedisCluster::new(parameters.hosts(&url, PORT)?)),
            },
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
    nodes: Vec<String>,
    service: Option<String>,
    sentinel_user: Option<String>,
    sentinel_password: Option<String>,
}

impl Parameters {
    fn parse(url: &Url, kind: Kind) -> Result<Self, ConfigError> {
        let mut parameters = Parameters::default();
        let query = url.query().unwrap_or_default();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            // A plus sign stands for itself, as in the user information: passwords contain it.
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = decode(value)?;
            let place = match &*decode(name)? {
                "db" => {
                    let database = parse_database(&value)?;
                    if parameters.database.replace(database).is_some() {
                        return Err(ConfigError::RedisUrl);
                    }
                    continue;
                }
                "node" if matches!(kind, Kind::Sentinel | Kind::Cluster) => {
                    parameters.nodes.push(value);
                    continue;
                }
                "user" if kind == Kind::Unix => &mut parameters.user,
                "pass" if kind == Kind::Unix => &mut parameters.password,
                "sentinelServiceName" if kind == Kind::Sentinel => &mut parameters.service,
                "sentinelUsername" if kind == Kind::Sentinel => &mut parameters.sentinel_user,
                "sentinelPassword" if kind == Kind::Sentinel => &mut parameters.sentinel_password,
                // The node chooses the protocol: version 2 for commands, 3 for the subscription.
                _ => return Err(ConfigError::RedisUrlParameter),
            };
            if place.replace(value).is_some() {
                return Err(ConfigError::RedisUrl);
            }
        }
        Ok(parameters)
    }

    /// Returns the sentinels: the host of the URL, and those that are parameters.
    fn sentinels(self, url: &Url) -> Result<RedisSentinels, ConfigError> {
        let hosts = self.hosts(url, SENTINEL_PORT);
        let service = self.service.filter(|service| !service.is_empty());
        let sentinels = RedisSentinels::new(service.ok_or(ConfigError::RedisSentinels)?, hosts?);
        let (user, password) = (self.sentinel_user, self.sentinel_password);
        Ok(sentinels.user(user.unwrap_or_default()).password(password.unwrap_or_default()))
    }

    /// Returns the host of the URL, and those that are parameters.
    fn hosts(&self, url: &Url, default: u16) -> Result<Vec<(String, u16)>, ConfigError> {
        let mut hosts = vec![host_and_port(url, default)?];
        for node in &self.nodes {
            // A host is written in the same ways in both places.
            let url = Url::parse(&format!("redis://{node}")).map_err(|_| ConfigError::RedisUrl)?;
            let has_user = !url.username().is_empty() || url.password().is_some();
            let has_more = url.query().is_some() || url.fragment().is_some();
            if has_user || has_more || !matches!(url.path(), "" | "/") {
                return Err(ConfigError::RedisUrl);
            }
            hosts.push(host_and_port(&url, default)?);
        }
        Ok(hosts)
    }
}

fn host_and_port(url: &Url, default: u16) -> Result<(String, u16), ConfigError> {
    let host = match url.host() {
        Some(Host::Domain(name)) if !name.is_empty() => decode(name)?,
        Some(Host::Ipv4(ip)) => ip.to_string(),
        Some(Host::Ipv6(ip)) => ip.to_string(),
        _ => return Err(ConfigError::RedisUrl),
    };
    Ok((host, url.port().unwrap_or(default)))
}

/// Returns the path of a socket. With a slash too few, its beginning would be taken for a host.
fn path_of_socket(url: &Url) -> Result<String, ConfigError> {
    let has_host = url.host_str().is_some_and(|host| !host.is_empty());
    if has_host || matches!(url.path(), "" | "/") {
        return Err(ConfigError::RedisUrl);
    }
    decode(url.path())
}

fn database_in_path(path: &str) -> Result<Option<u16>, ConfigError> {
    match path.strip_prefix('/').unwrap_or(path) {
        "" => Ok(None),
        number => parse_database(number).map(Some),
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

    use super::super::RedisCredentials;
    use super::*;

    fn parse(url: &str) -> RedisUrl {
        RedisUrl::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    fn servers(url: &RedisUrl) -> String {
        format!("{:?}", url.servers)
    }

    #[test]
    fn each_form_has_its_meaning() {
        for (text, expected) in [
            ("redis://cache.example.com", "cache.example.com:6379"),
            ("valkey://cache.example.com:6379/", "cache.example.com:6379"),
            ("redis://cache.example.com/0?db=0", "cache.example.com:6379"),
            ("redis://10.0.0.7:7000", "10.0.0.7:7000"),
            ("redis://[::1]:7000", "[::1]:7000"),
        ] {
            let url = parse(text);
            assert_eq!(servers(&url), expected, "{text}");
            assert_eq!((&*url.user, &*url.password, url.database, url.tls), ("", "", 0, false));
        }
        for scheme in ["rediss", "valkeys"] {
            let encrypted = parse(&format!("{scheme}://app:a%2fb@cache.example.com:6380/2"));
            assert_eq!(servers(&encrypted), "cache.example.com:6380");
            assert_eq!((&*encrypted.user, &*encrypted.password), ("app", "a/b"));
            assert_eq!((encrypted.database, encrypted.tls), (2, true));
        }
        for scheme in ["redis+unix", "valkey+unix", "unix"] {
            let path = "/run/my%20redis.sock?db=3&user=app&pass=a%26b+c=";
            let socket = parse(&format!("{scheme}://{path}"));
            assert_eq!(servers(&socket), "/run/my redis.sock");
            assert_eq!((&*socket.user, &*socket.password, socket.database), ("app", "a&b+c=", 3));
        }
    }

    #[test]
    fn a_sentinel_url_names_service_and_sentinels() {
        for (scheme, tls) in [
            ("redis-sentinel", false),
            ("valkey-sentinel", false),
            ("rediss-sentinel", true),
            ("valkeys-sentinel", true),
        ] {
            let url = parse(&format!(
                "{scheme}://app:hunter2@one:7000/3?node=two&node=[::1]:7001\
                 &sentinelServiceName=shop&sentinelUsername=watch&sentinelPassword=hunter3"
            ));
            assert_eq!((&*url.user, &*url.password), ("app", "hunter2"));
            assert_eq!((url.database, url.tls), (3, tls));
            let Servers::Sentinel(sentinels) = url.servers else { panic!("{scheme}") };
            assert_eq!(sentinels.service, "shop");
            let expected = [("one", 7000), ("two", 26379), ("::1", 7001)];
            let expected = expected.map(|(host, port)| RedisAddress::tcp(host, port));
            assert_eq!(sentinels.addresses, expected);
            assert_eq!(sentinels.credentials, RedisCredentials::new("watch", "hunter3"));
            assert!(!format!("{sentinels:?}").contains("hunter3"));
        }
    }

    #[test]
    fn a_cluster_url_names_servers() {
        for (scheme, tls) in [
            ("redis-cluster", false),
            ("valkey-cluster", false),
            ("rediss-cluster", true),
            ("valkeys-cluster", true),
        ] {
            let url = parse(&format!("{scheme}://app:hunter2@one:7000?node=two&node=[::1]:7001"));
            assert_eq!((&*url.user, &*url.password), ("app", "hunter2"));
            assert_eq!((url.database, url.tls), (0, tls));
            let Servers::Cluster(cluster) = url.servers else { panic!("{scheme}") };
            let expected = [("one", 7000), ("two", 6379), ("::1", 7001)];
            let expected = expected.map(|(host, port)| RedisAddress::tcp(host, port));
            assert_eq!(cluster.servers, expected);
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
            ("redis://localhost/?node=other", ConfigError::RedisUrlParameter),
            ("redis://localhost/0?db=3", ConfigError::RedisUrl),
            ("redis://localhost/?db=3&db=3", ConfigError::RedisUrl),
            ("redis+unix:///run/redis.sock?dbb=1", ConfigError::RedisUrlParameter),
            ("redis+unix:///run/redis.sock?pass=a&pass=b", ConfigError::RedisUrl),
            ("redis+unix:///run/redis.sock?pass=%ff", ConfigError::RedisUrl),
            ("redis+unix://run/redis.sock", ConfigError::RedisUrl),
            ("redis+unix://", ConfigError::RedisUrl),
            ("redis+unix:///", ConfigError::RedisUrl),
            ("rediss://localhost/#insecure", ConfigError::RedisUrlFragment),
            ("redis-sentinel://a", ConfigError::RedisSentinels),
            ("redis-sentinel://a?sentinelServiceName=", ConfigError::RedisSentinels),
            ("redis-sentinel://?sentinelServiceName=shop", ConfigError::RedisUrl),
            ("redis-sentinel://a?sentinelServiceName=shop&node=:1", ConfigError::RedisUrl),
            ("redis-sentinel://a?sentinelServiceName=shop&node=b/1", ConfigError::RedisUrl),
            ("redis-sentinel://a?sentinelServiceName=shop&node=c@b", ConfigError::RedisUrl),
            ("redis-cluster://", ConfigError::RedisUrl),
            ("redis-cluster://a?node=b/1", ConfigError::RedisUrl),
            ("redis-cluster://a?node=b%23insecure", ConfigError::RedisUrl),
            ("redis-cluster://a?node=b%3Fdb=1", ConfigError::RedisUrl),
            ("redis-cluster://a?sentinelServiceName=shop", ConfigError::RedisUrlParameter),
        ] {
            assert_eq!(RedisUrl::parse(url).err(), Some(expected), "{url}");
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
        fn no_text_makes_the_parser_panic(text in "redis(s|-sentinel|\\+unix)?://\\PC*") {
            let _ = RedisUrl::parse(&text);
        }
    }
}
