//! The errors with which a server refuses a command, by what to do about them.
//!
//! | error | meaning | kind |
//! |---|---|---|
//! | `LOADING`, `BUSY`, `TRYAGAIN`, `UNBLOCKED`; `ERR` with `max number of clients`, `max concurrent connections`, `while the cluster is down` or `Script killed` | not now: the same server may carry the command out a moment later | `Unavailable` |
//! | `READONLY`, `MASTERDOWN`, `CLUSTERDOWN`, `NOREPLICAS`, `REDIRECT` | not here: the server takes no writes; another one may be the master by now | `Unavailable` |
//! | `MISCONF` | no changes: the server cannot save its data. It is still the master, and can be read | `Unavailable` |
//! | `NOAUTH`, `WRONGPASS`, `NOPERM`, `DENIED` | not allowed: an operator must correct the password or the permissions | `Refused` |
//! | `OOM` | no memory left: an operator must add some | `Refused` |
//! | `WRONGTYPE` | the key belongs to another program | `Corrupt` |
//! | `CROSSSLOT`, also as text within another error | not together: the keys are in several slots, and each may be accepted alone | `Refused` |
//! | anything else | the command or the server is not what this crate expects | `Refused` |
//!
//! The codes are those of Redis 7 and 8 and of Valkey; the texts of `ERR` include those of managed
//! services. In no case was anything done.

use redis::{ErrorKind, RedisError};

use crate::error::StoreErrorKind;

/// What a refusal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The same server may carry the command out a moment later.
    NotNow,
    /// The server takes no writes. It may have been replaced by another one, and its data may be
    /// outdated.
    NotAMaster,
    /// The server refuses writes because it cannot save its data. It is still the master.
    CannotSave,
    /// A password or a permission is wrong.
    NotAllowed,
    /// The server has no memory left.
    NoMemory,
    /// The key belongs to another program.
    WrongType,
    /// The keys are in several slots. Each of them may be accepted alone.
    SeveralSlots,
    /// The command or the server is not what this crate expects.
    Unexpected,
}

/// Texts of errors with the code `ERR` that mean [`Refusal::NotNow`], in lower case.
const NOT_NOW: [&str; 4] = [
    "max number of clients",
    "max concurrent connections",
    "while the cluster is down",
    "script killed",
];

/// Texts of errors with another code that mean [`Refusal::SeveralSlots`], in lower case. A script
/// that a proxy has let through may fail with the second.
const SEVERAL_SLOTS: [&str; 2] = ["crossslot", "hash to the same slot"];

impl Refusal {
    /// Returns what a server's error means, or `None` if it is not the server's.
    pub(super) fn of(error: &RedisError) -> Option<Self> {
        let from_server = matches!(
            error.kind(),
            ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::AuthenticationFailed
        );
        if !from_server {
            return None;
        }
        Some(match error.code() {
            Some("LOADING" | "BUSY" | "TRYAGAIN" | "UNBLOCKED") => Refusal::NotNow,
            Some("READONLY" | "MASTERDOWN" | "CLUSTERDOWN" | "NOREPLICAS" | "REDIRECT") => {
                Refusal::NotAMaster
            }
            Some("MISCONF") => Refusal::CannotSave,
            Some("NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED") => Refusal::NotAllowed,
            Some("OOM") => Refusal::NoMemory,
            Some("WRONGTYPE") => Refusal::WrongType,
            Some("CROSSSLOT") => Refusal::SeveralSlots,
            _ if has_text(error, &NOT_NOW) => Refusal::NotNow,
            _ if has_text(error, &SEVERAL_SLOTS) => Refusal::SeveralSlots,
            _ if error.kind() == ErrorKind::AuthenticationFailed => Refusal::NotAllowed,
            _ => Refusal::Unexpected,
        })
    }

    pub(super) fn kind(self) -> StoreErrorKind {
        match self {
            Refusal::NotNow | Refusal::NotAMaster | Refusal::CannotSave => {
                StoreErrorKind::Unavailable
            }
            Refusal::NotAllowed
            | Refusal::NoMemory
            | Refusal::SeveralSlots
            | Refusal::Unexpected => StoreErrorKind::Refused,
            Refusal::WrongType => StoreErrorKind::Corrupt,
        }
    }
}

fn has_text(error: &RedisError, parts: &[&str]) -> bool {
    let text = error.to_string().to_ascii_lowercase();
    parts.iter().any(|part| text.contains(part))
}

#[cfg(test)]
mod tests {
    use redis::{Value, parse_redis_value};

    use super::*;

    #[test]
    fn each_error_of_a_server_has_its_meaning() {
        use Refusal::{
            CannotSave, NoMemory, NotAMaster, NotAllowed, NotNow, SeveralSlots, Unexpected,
            WrongType,
        };
        for (line, meaning) in [
            ("LOADING Redis is loading the dataset in memory", NotNow),
            ("LOADING Valkey is loading the dataset in memory", NotNow),
            ("BUSY Redis is busy running a script. You can only call SCRIPT KILL", NotNow),
            ("TRYAGAIN Multiple keys request during rehashing of slot", NotNow),
            ("UNBLOCKED client unblocked via CLIENT UNBLOCK", NotNow),
            ("ERR max number of clients reached", NotNow),
            ("ERR max number of clients + cluster connections reached", NotNow),
            ("ERR max concurrent connections exceeded", NotNow),
            ("ERR Script attempted to execute a command while the cluster is down", NotNow),
            ("ERR Error running script (call to f): @user_script: Script killed by user", NotNow),
            ("READONLY You can't write against a read only replica.", NotAMaster),
            ("MASTERDOWN Link with MASTER is down", NotAMaster),
            ("CLUSTERDOWN The cluster is down", NotAMaster),
            ("NOREPLICAS Not enough good replicas to write.", NotAMaster),
            ("REDIRECT 127.0.0.1:6380", NotAMaster),
            ("MISCONF Redis is configured to save RDB snapshots", CannotSave),
            ("NOAUTH Authentication required.", NotAllowed),
            ("WRONGPASS invalid username-password pair or user is disabled.", NotAllowed),
            ("NOPERM User app has no permissions to run the 'getex' command", NotAllowed),
            ("DENIED Redis is running in protected mode", NotAllowed),
            ("OOM command not allowed when used memory > 'maxmemory'.", NoMemory),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", WrongType),
            ("NOSCRIPT No matching script.", Unexpected),
            ("EXECABORT Transaction discarded because of previous errors.", Unexpected),
            ("NOPROTO unsupported protocol version", Unexpected),
            ("MOVED 3999 127.0.0.1:6381", Unexpected),
            ("ASK 3999 127.0.0.1:6381", Unexpected),
            ("CROSSSLOT Keys in request don't hash to the same slot", SeveralSlots),
            ("ERR Error running script: CROSSSLOT Keys don't belong together", SeveralSlots),
            ("ERR Script attempted to access keys that do not hash to the same slot", SeveralSlots),
            ("NOTBUSY No scripts in execution right now.", Unexpected),
            ("ERR unknown command 'GETEX'", Unexpected),
            ("ERR max daily request limit exceeded", Unexpected),
            ("ERR", Unexpected),
        ] {
            let reply = parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
            let error = Value::extract_error(reply).unwrap_err();
            assert_eq!(Refusal::of(&error), Some(meaning), "{line}");
        }
    }

    #[test]
    fn an_error_of_the_connection_is_no_refusal() {
        let broken = RedisError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert_eq!(Refusal::of(&broken), None);
    }
}
