//! The errors with which a server of a cluster sends a request on. Pure.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::super::config::RedisAddress;

/// Where a request is to be sent instead. The server that says so has done nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Redirect {
    /// The server has the key's slot.
    Moved(RedisAddress),
    /// The server is importing the key's slot, and already has the key, or would get it.
    Ask(RedisAddress),
}

impl Redirect {
    /// Returns where the error of a server at this address sends a request, if it does.
    pub(in super::super) fn of(error: &RedisError, from: &RedisAddress) -> Option<Self> {
        let (place, _slot) = error.redirect_node()?;
        let (host, port) = place.rsplit_once(':')?;
        let address = address(host, port.parse().ok()?, from)?;
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::Moved) => Some(Redirect::Moved(address)),
            ErrorKind::Server(ServerErrorKind::Ask) => Some(Redirect::Ask(address)),
            _ => None,
        }
    }
}

/// Returns the address that a server names. It may leave out the host if that is its own, or if it
/// does not know it.
pub(super) fn address(host: &str, port: u16, from: &RedisAddress) -> Option<RedisAddress> {
    match (host, from) {
        ("" | "?", RedisAddress::Tcp { host, .. }) => Some(RedisAddress::tcp(host, port)),
        ("" | "?", RedisAddress::Unix { .. }) => None,
        (host, _) => Some(RedisAddress::tcp(host, port)),
    }
}

#[cfg(test)]
mod tests {
    use redis::{Value, parse_redis_value};

    use super::*;

    fn redirect(line: &str) -> Option<Redirect> {
        let reply = parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        let error = Value::extract_error(reply).unwrap_err();
        Redirect::of(&error, &RedisAddress::tcp("asked", 7000))
    }

    #[test]
    fn a_redirect_names_an_address() {
        use Redirect::{Ask, Moved};
        let tcp = RedisAddress::tcp;
        for (line, expected) in [
            ("MOVED 3999 127.0.0.1:6381", Some(Moved(tcp("127.0.0.1", 6381)))),
            ("MOVED 3999 redis-2.example.com:6381", Some(Moved(tcp("redis-2.example.com", 6381)))),
            ("MOVED 3999 ::1:6381", Some(Moved(tcp("::1", 6381)))),
            ("MOVED 3999 :6381", Some(Moved(tcp("asked", 6381)))),
            ("ASK 3999 ?:6381", Some(Ask(tcp("asked", 6381)))),
            ("ASK 3999 127.0.0.1:6381", Some(Ask(tcp("127.0.0.1", 6381)))),
            ("MOVED 3999", None),
            ("MOVED", None),
            ("MOVED 3999 127.0.0.1:high", None),
            ("MOVED 3999 127.0.0.1", None),
            ("READONLY You can't write against a read only replica.", None),
        ] {
            assert_eq!(redirect(line), expected, "{line}");
        }
    }
}
