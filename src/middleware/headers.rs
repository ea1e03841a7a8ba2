//! The session's response headers: `Set-Cookie`, and `Vary` and `Cache-Control` for caches.

use http::header::{self, Entry};
use http::{HeaderMap, HeaderName, HeaderValue, Response};

use crate::cookie::CookieSigner;
use crate::session::{CookieChange, HeadChanges};

/// The `Set-Cookie` headers that session layers have added to a response, as an extension of it. An
/// outer layer that replaces the response keeps them: its own session may not have been committed,
/// but those of the inner layers were.
#[derive(Clone, Default)]
struct SessionCookies(Vec<HeaderValue>);

impl SessionCookies {
    fn add_to<B>(self, response: &mut Response<B>) {
        let headers = response.headers_mut();
        for cookie in &self.0 {
            headers.append(header::SET_COOKIE, cookie.clone());
        }
        prevent_caching(headers);
        prevent_caching_by_cdns(headers);
        response.extensions_mut().get_or_insert_default::<SessionCookies>().0.extend(self.0);
    }
}

/// Adds the session cookies of a response to the one that replaces it.
pub(super) fn keep_cookies<B>(mut replaced: Response<B>, response: &mut Response<B>) {
    if let Some(cookies) = replaced.extensions_mut().remove::<SessionCookies>() {
        cookies.add_to(response);
    }
}

pub(super) fn apply<B>(response: &mut Response<B>, changes: &HeadChanges, signer: &CookieSigner) {
    if changes.extracted {
        vary_on_cookie(response.headers_mut());
    }
    let cookie = match &changes.cookie {
        None => return,
        // The handler has given the visitor another session, by a `Set-Cookie` of its own.
        Some(CookieChange::Resign(_)) if sets_cookie(response.headers(), signer.name()) => return,
        Some(CookieChange::Set(token) | CookieChange::Resign(token)) => {
            signer.set(token, changes.lifetime, changes.remembered)
        }
        Some(CookieChange::Remove) => signer.removal(),
    };
    SessionCookies(signer.former_removals().chain([cookie]).collect()).add_to(response);
}

/// Returns `true` if a response sets the cookie of this name.
fn sets_cookie(headers: &HeaderMap, name: &str) -> bool {
    headers.get_all(header::SET_COOKIE).iter().any(|value| {
        let rest = value.as_bytes().strip_prefix(name.as_bytes());
        rest.is_some_and(|rest| rest.trim_ascii_start().starts_with(b"="))
    })
}

/// Adds `Vary: Cookie`, so that a cache does not serve one visitor's response to another.
fn vary_on_cookie(headers: &mut HeaderMap) {
    let varies = |value: &HeaderValue| {
        let names = value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        names.into_iter().any(|name| name == b"*" || name.eq_ignore_ascii_case(b"cookie"))
    };
    let cookie = HeaderValue::from_static("cookie");
    match headers.entry(header::VARY) {
        Entry::Vacant(entry) => {
            entry.insert(cookie);
        }
        Entry::Occupied(mut entry) => {
            if !entry.iter().any(varies) {
                entry.append(cookie);
            }
        }
    }
}

/// Adds `Cache-Control: private, no-cache="set-cookie"`: a cached `Set-Cookie` would give one
/// visitor's session to another.
///
/// The handler's directives are kept, except that `private` replaces `public` and `s-maxage`, which
/// are for shared caches. `no-store` is left as it is, since nothing is stricter, unless
/// `must-understand` lets caches ignore it (RFC 9111, section 5.2.2.3).
fn prevent_caching(headers: &mut HeaderMap) {
    let mut directives = Vec::new();
    for value in headers.get_all(header::CACHE_CONTROL) {
        directives.extend(split_directives(value.as_bytes()));
    }
    let has = |name: &[u8]| directives.iter().any(|directive| directive.eq_ignore_ascii_case(name));
    if has(b"no-store") && !has(b"must-understand") {
        return;
    }
    let (has_private, has_no_cache) = (has(b"private"), has(b"no-cache"));
    let mut merged = Vec::new();
    let mut push = |directive: &[u8]| {
        if !merged.is_empty() {
            merged.extend_from_slice(b", ");
        }
        merged.extend_from_slice(directive);
    };
    for directive in directives.iter().filter(|directive| !is_for_shared_caches(directive)) {
        push(directive);
    }
    if !has_private {
        push(b"private");
    }
    if !has_no_cache {
        push(b"no-cache=\"set-cookie\"");
    }
    // Never fails: parts of header values form a header value.
    if let Ok(value) = HeaderValue::from_bytes(&merged) {
        headers.insert(header::CACHE_CONTROL, value);
    }
}

fn is_for_shared_caches(directive: &[u8]) -> bool {
    let name = directive.split(|&byte| byte == b'=').next().unwrap_or_default();
    name.trim_ascii().eq_ignore_ascii_case(b"public")
        || name.trim_ascii().eq_ignore_ascii_case(b"s-maxage")
}

/// Replaces what the handler says to CDNs, which take it before `Cache-Control`, by `no-store`:
/// targeted fields such as `CDN-Cache-Control` (RFC 9213), and `Surrogate-Control`.
fn prevent_caching_by_cdns(headers: &mut HeaderMap) {
    let targeted = |name: &&HeaderName| {
        name.as_str().ends_with("-cache-control") || name.as_str() == "surrogate-control"
    };
    let names: Vec<_> = headers.keys().filter(targeted).cloned().collect();
    for name in names {
        headers.insert(name, HeaderValue::from_static("no-store"));
    }
}

/// Splits at commas outside of quotes.
fn split_directives(value: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let mut quoted = false;
    value
        .split(move |&byte| {
            quoted ^= byte == b'"';
            byte == b',' && !quoted
        })
        .map(|directive| directive.trim_ascii().to_vec())
        .filter(|directive| !directive.is_empty())
        .collect::<Vec<_>>()
        .into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(sent: &[&'static str]) -> String {
        let mut headers: HeaderMap = sent
            .iter()
            .map(|value| (header::CACHE_CONTROL, HeaderValue::from_static(value)))
            .collect();
        prevent_caching(&mut headers);
        let values: Vec<_> =
            headers.get_all(header::CACHE_CONTROL).iter().map(|v| v.to_str().unwrap()).collect();
        values.join(" | ")
    }

    #[test]
    fn cache_control_is_merged_with_the_handlers() {
        for (sent, expected) in [
            (&[][..], r#"private, no-cache="set-cookie""#),
            (&["max-age=60"], r#"max-age=60, private, no-cache="set-cookie""#),
            (&["Public, max-age=60"], r#"max-age=60, private, no-cache="set-cookie""#),
            (&["s-maxage=60, max-age=5"], r#"max-age=5, private, no-cache="set-cookie""#),
            (&["S-MaxAge = 60"], r#"private, no-cache="set-cookie""#),
            (&["no-store"], "no-store"),
            (
                &["must-understand, no-store"],
                "must-understand, no-store, private, no-cache=\"set-cookie\"",
            ),
            (&["private", "max-age=0"], r#"private, max-age=0, no-cache="set-cookie""#),
            (&["no-cache"], "no-cache, private"),
            (&[r#"no-cache="a, b", ,"#], r#"no-cache="a, b", private, no-cache="set-cookie""#),
        ] {
            assert_eq!(merged(sent), expected, "{sent:?}");
        }
    }

    #[test]
    fn what_the_handler_tells_cdns_is_replaced() {
        let mut headers = HeaderMap::new();
        for name in ["cdn-cache-control", "cloudflare-cdn-cache-control", "surrogate-control"] {
            headers.append(name, HeaderValue::from_static("public"));
            headers.append(name, HeaderValue::from_static("max-age=3600"));
        }
        headers.append("x-cache", HeaderValue::from_static("public"));
        let other = headers.clone();
        prevent_caching_by_cdns(&mut headers);
        for name in ["cdn-cache-control", "cloudflare-cdn-cache-control", "surrogate-control"] {
            assert!(headers.get_all(name).iter().eq(["no-store"]), "{name}");
        }
        assert_eq!(headers.get("x-cache"), other.get("x-cache"));
        assert_eq!(headers.keys_len(), other.keys_len(), "no field is added");
    }

    #[test]
    fn vary_names_the_cookie_once() {
        for (sent, expected) in [
            (&[][..], "cookie"),
            (&["accept-encoding"], "accept-encoding | cookie"),
            (&["accept, Cookie"], "accept, Cookie"),
            (&["*"], "*"),
        ] {
            let mut headers: HeaderMap =
                sent.iter().map(|value| (header::VARY, HeaderValue::from_static(value))).collect();
            vary_on_cookie(&mut headers);
            let values: Vec<_> =
                headers.get_all(header::VARY).iter().map(|v| v.to_str().unwrap()).collect();
            assert_eq!(values.join(" | "), expected);
        }
    }
}
