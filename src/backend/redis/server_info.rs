//! What a server says about itself: the reply to `INFO`. Pure.

/// Returns a field.
pub(super) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.map(str::trim)
}

/// Returns the name and version of the software.
pub(super) fn software(info: &str) -> Option<String> {
    // Valkey also reports the version of Redis that it is compatible with.
    let valkey = field(info, "valkey_version").map(|version| format!("valkey {version}"));
    valkey.or_else(|| field(info, "redis_version").map(|version| format!("redis {version}")))
}

/// Returns the policy by which the server evicts keys, or `None` if it evicts none.
pub(super) fn evicting_policy(info: &str) -> Option<&str> {
    let is_limited = field(info, "maxmemory").is_some_and(|limit| limit != "0");
    field(info, "maxmemory_policy").filter(|policy| is_limited && *policy != "noeviction")
}

/// Returns `true` if the server has evicted keys since it was started.
pub(super) fn has_evicted(info: &str) -> bool {
    field(info, "evicted_keys").is_some_and(|count| count != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_software_is_named_with_its_version() {
        let redis = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n";
        assert_eq!(software(redis).as_deref(), Some("redis 7.0.15"));
        let valkey = "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\n";
        assert_eq!(software(valkey).as_deref(), Some("valkey 9.1.2"));
        assert_eq!(software("# Server\r\n"), None);
    }

    #[test]
    fn only_a_policy_that_takes_effect_evicts() {
        for (limit, policy, evicting) in [
            ("0", "allkeys-lru", None),
            ("1000", "noeviction", None),
            ("1000", "allkeys-lru", Some("allkeys-lru")),
            ("1000", "volatile-ttl", Some("volatile-ttl")),
        ] {
            let info = format!("maxmemory:{limit}\r\nmaxmemory_policy:{policy}\r\n");
            assert_eq!(evicting_policy(&info), evicting, "{info}");
        }
        assert_eq!(evicting_policy(""), None);
    }
}
