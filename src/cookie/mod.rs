//! The session cookie: signs, verifies, sets and removes it.
//!
//! Its value is `<token>.<tag>` in base64url without padding. The tag is HMAC-SHA256 (RFC 2104),
//! under a derived key, over a fixed label, the cookie's name and the token. A value is therefore
//! valid under no other name and in no other version of the format.
//!
//! The signature is checked before the backend is queried, so a guessed or damaged cookie costs no
//! round trip. A cookie that does not verify is ignored, and the visitor is treated as new.
//!
//! A tag that was verified is remembered with the cached session, and that of the next request is
//! compared with it, which costs less than to compute it again.

mod config;
mod headers;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cookie::Cookie;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderValue;
use sha2::Sha256;

pub use self::config::{CookieConfig, SameSite};
pub(crate) use self::headers::CookieHeaders;
use crate::id::{self, SessionId, SessionToken};
use crate::record::VerifiedTag;
use crate::secret::KeyRing;

/// Purpose for which the keys are derived, and the beginning of what is signed.
const PURPOSE: &str = "clustered-sessions/cookie/v2";
/// Length of a tag in characters: 32 bytes in base64url.
const TAG_LEN: usize = 43;
/// Maximum number of sessions that the cookies of one request name. Browsers send a handful at
/// most; a request with more is an attack and has no session. Cookies that do not verify are not
/// counted: whoever can set cookies for a sibling domain could hide the visitor's own behind them.
pub(crate) const MAX_CANDIDATES: usize = 32;

/// The longest `Max-Age` that browsers accept.
const LONGEST_LIFE: Duration = Duration::from_secs(400 * 24 * 3600);

/// Signs and verifies the cookies of one layer.
pub(crate) struct CookieSigner {
    config: CookieConfig,
    /// The configured name, shared with state that outlives a request.
    name: Arc<str>,
    /// One key per secret of the ring, the one that signs first.
    keys: Vec<SigningKey>,
    /// Identifies the signer within this process, and with it its name and its keys.
    number: u32,
}

/// A key derived from one secret of the ring.
struct SigningKey {
    /// Has already consumed the label and the name, so that each cookie costs only the token.
    mac: Hmac<Sha256>,
    retiring: bool,
}

/// A cookie of our name and form, which may be forged.
pub(crate) struct ClaimedCookie {
    token: SessionToken,
    /// The session that the token names.
    pub(crate) id: SessionId,
    tag: [u8; 32],
}

/// A cookie that has been verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VerifiedCookie {
    pub(crate) token: SessionToken,
    /// The session that the token names.
    pub(crate) id: SessionId,
    /// `true` if the cookie was signed with a previous secret and should be signed again with the
    /// current one.
    pub(crate) needs_resigning: bool,
}

/// The cookies of one request that have been verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VerifiedCookies {
    None,
    One(VerifiedCookie),
    /// Cookies with different tokens. At most one of their sessions is used.
    Several(Arc<[VerifiedCookie]>),
    /// The first [`MAX_CANDIDATES`] cookies with different tokens of a request with more of them.
    /// None of their sessions is used.
    TooMany(Arc<[VerifiedCookie]>),
}

impl VerifiedCookies {
    pub(crate) fn as_slice(&self) -> &[VerifiedCookie] {
        match self {
            VerifiedCookies::None => &[],
            VerifiedCookies::One(cookie) => std::slice::from_ref(cookie),
            VerifiedCookies::Several(cookies) | VerifiedCookies::TooMany(cookies) => cookies,
        }
    }

    /// Returns the cookie that names this session.
    pub(crate) fn naming(&self, id: SessionId) -> Option<&VerifiedCookie> {
        self.as_slice().iter().find(|cookie| cookie.id == id)
    }

    /// Returns the ids that the cookies name if they are several. A logout ends all of them, since
    /// it is unknown which session is the visitor's own.
    pub(crate) fn rivals(&self) -> Vec<SessionId> {
        match self {
            VerifiedCookies::None | VerifiedCookies::One(_) => Vec::new(),
            VerifiedCookies::Several(cookies) | VerifiedCookies::TooMany(cookies) => {
                cookies.iter().map(|cookie| cookie.id).collect()
            }
        }
    }
}

/// Why a cookie of our name was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CookieRefusal {
    /// It is not of the form that this layer sets.
    Malformed,
    /// No secret of this layer has signed it: it is forged, from before a change of the secret, or
    /// from another application.
    UnknownKey,
}

impl CookieRefusal {
    /// Returns the name in logs and metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            CookieRefusal::Malformed => "malformed",
            CookieRefusal::UnknownKey => "unknown_key",
        }
    }
}

impl CookieSigner {
    /// Derives a key from each secret of the ring.
    #[expect(
        clippy::expect_used,
        reason = "HMAC takes keys of any length; and a checked config has a short name"
    )]
    pub(crate) fn new(config: CookieConfig, ring: &KeyRing) -> Self {
        let name_len = u8::try_from(config.name.len()).expect("a checked cookie name is short");
        let keys = ring.derive(PURPOSE).map(|key| {
            let mut mac =
                Hmac::<Sha256>::new_from_slice(&key.bytes).expect("HMAC takes keys of any length");
            mac.update(PURPOSE.as_bytes());
            mac.update(&[0, name_len]);
            mac.update(config.name.as_bytes());
            SigningKey { mac, retiring: key.retiring }
        });
        static SIGNERS: AtomicU32 = AtomicU32::new(0);
        let number = SIGNERS.fetch_add(1, Ordering::Relaxed);
        CookieSigner { keys: keys.collect(), name: config.name.as_str().into(), config, number }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Verifies the request's cookies of our name.
    ///
    /// Calls `refused` for each cookie of our name that is not accepted.
    ///
    /// This layer alone never sets several cookies: a sibling domain or another path has added one,
    /// or the layer's own path or domain was changed.
    pub(crate) fn verify(
        &self,
        headers: &CookieHeaders,
        mut refused: impl FnMut(CookieRefusal),
    ) -> VerifiedCookies {
        // Nothing is allocated for a single cookie.
        let mut first: Option<VerifiedCookie> = None;
        let mut others: Vec<VerifiedCookie> = Vec::new();
        let mut is_flood = false;
        for value in headers.named(&self.config.name) {
            let claimed = ClaimedCookie::parse(value).ok_or(CookieRefusal::Malformed);
            let verified = match claimed.and_then(|claimed| self.verify_claim(&claimed)) {
                Ok(verified) => verified,
                Err(refusal) => {
                    refused(refusal);
                    continue;
                }
            };
            let same = first.iter_mut().chain(&mut others).find(|it| it.token == verified.token);
            if let Some(same) = same {
                same.needs_resigning &= verified.needs_resigning;
            } else if first.is_none() {
                first = Some(verified);
            } else if others.len() + 1 < MAX_CANDIDATES {
                others.push(verified);
            } else {
                is_flood = true;
                break;
            }
        }
        let all = || first.iter().chain(&others).cloned().collect();
        match (is_flood, others.is_empty()) {
            (true, _) => VerifiedCookies::TooMany(all()),
            (false, false) => VerifiedCookies::Several(all()),
            (false, true) => first.map_or(VerifiedCookies::None, VerifiedCookies::One),
        }
    }

    /// Returns the only cookie of our name, if there is one and it has our form. It may be forged.
    pub(crate) fn only_claim(&self, headers: &CookieHeaders) -> Option<ClaimedCookie> {
        let mut values = headers.named(&self.config.name);
        let value = values.next()?;
        if values.next().is_some() {
            return None;
        }
        ClaimedCookie::parse(value)
    }

    /// Returns the tag of a cookie as it is remembered once this signer has verified it.
    pub(crate) fn tag_of(&self, cookie: &ClaimedCookie) -> VerifiedTag {
        VerifiedTag::new(self.number, cookie.tag)
    }

    /// Verifies a cookie.
    pub(crate) fn verify_claim(
        &self,
        cookie: &ClaimedCookie,
    ) -> Result<VerifiedCookie, CookieRefusal> {
        // `verify_slice` compares in constant time.
        let key = self.keys.iter().find(|key| {
            key.mac
                .clone()
                .chain_update(cookie.token.expose_bytes())
                .verify_slice(&cookie.tag)
                .is_ok()
        });
        let key = key.ok_or(CookieRefusal::UnknownKey)?;
        Ok(cookie.verified(key.retiring))
    }

    /// Returns the cookie's value, signed with the current secret.
    fn sign(&self, token: &SessionToken) -> String {
        let mac = self.keys[0].mac.clone().chain_update(token.expose_bytes());
        let tag = mac.finalize().into_bytes();
        format!("{}.{}", token.to_text(), URL_SAFE_NO_PAD.encode(tag))
    }

    /// Returns the `Set-Cookie` header that gives a visitor this token. `life` is the maximum
    /// remaining lifetime of its session. Browsers keep the cookie of a `remembered` session when
    /// they are closed.
    pub(crate) fn set(
        &self,
        token: &SessionToken,
        life: Duration,
        remembered: bool,
    ) -> HeaderValue {
        let mut cookie = self.build(self.sign(token));
        if self.config.persistent || remembered {
            let seconds = life.min(LONGEST_LIFE).as_secs();
            cookie.set_max_age(cookie::time::Duration::seconds(
                i64::try_from(seconds).unwrap_or(i64::MAX),
            ));
        }
        header_value(&cookie)
    }

    /// Returns the `Set-Cookie` header that removes the cookie. It has the attributes of
    /// [`set`](Self::set), because browsers ignore a removal whose attributes differ.
    pub(crate) fn removal(&self) -> HeaderValue {
        let mut cookie = self.build(String::new());
        cookie.make_removal();
        header_value(&cookie)
    }

    /// Returns the `Set-Cookie` headers that remove what is left of the cookie under its former
    /// paths and domains. If the cookie is partitioned, it may not have been then, and browsers
    /// keep the two apart.
    pub(crate) fn former_removals(&self) -> impl Iterator<Item = HeaderValue> + '_ {
        self.config.former.iter().flat_map(|(path, domain)| {
            let mut cookie = self.build(String::new());
            cookie.set_path(path.as_str());
            match domain {
                Some(domain) => cookie.set_domain(domain.as_str()),
                None => cookie.unset_domain(),
            }
            cookie.make_removal();
            let removal = header_value(&cookie);
            cookie.set_partitioned(false);
            let unpartitioned = self.config.partitioned.then(|| header_value(&cookie));
            [removal].into_iter().chain(unpartitioned)
        })
    }

    /// Returns `name=value`, as a browser sends it back.
    pub(crate) fn pair(&self, token: &SessionToken) -> HeaderValue {
        let mut cookie = Cookie::new(&*self.name, self.sign(token));
        cookie.unset_path();
        header_value(&cookie)
    }

    /// Builds a cookie with the configured attributes.
    fn build(&self, value: String) -> Cookie<'_> {
        let same_site = match self.config.same_site {
            SameSite::Strict => cookie::SameSite::Strict,
            SameSite::Lax => cookie::SameSite::Lax,
            SameSite::None => cookie::SameSite::None,
        };
        let mut cookie = Cookie::new(&*self.name, value);
        cookie.set_http_only(true);
        cookie.set_same_site(same_site);
        cookie.set_secure(self.config.secure);
        if self.config.partitioned {
            cookie.set_partitioned(true);
        }
        cookie.set_path(self.config.path.as_str());
        if let Some(domain) = &self.config.domain {
            cookie.set_domain(domain.as_str());
        }
        cookie
    }
}

/// Removes a pair of double quotes around a value. RFC 6265 allows them, and some clients and
/// proxies add them.
fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

impl ClaimedCookie {
    /// Parses the value of a cookie.
    fn parse(value: &[u8]) -> Option<Self> {
        let value = unquoted(value);
        if value.len() != id::TEXT_LEN + 1 + TAG_LEN {
            return None;
        }
        let (token, text) = value.split_at(id::TEXT_LEN);
        let token = SessionToken::parse(token)?;
        let mut tag = [0; 32];
        let written = URL_SAFE_NO_PAD.decode_slice(text.strip_prefix(b".")?, &mut tag).ok()?;
        (written == tag.len()).then(|| ClaimedCookie { id: token.session_id(), token, tag })
    }

    /// Returns the cookie as one that has been verified.
    fn verified(&self, needs_resigning: bool) -> VerifiedCookie {
        VerifiedCookie { token: self.token.clone(), id: self.id, needs_resigning }
    }
}

/// Omits the keys.
impl std::fmt::Debug for CookieSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CookieSigner").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Converts a cookie to a header value. It is marked as sensitive, so that neither `Debug` of the
/// headers nor HTTP/2's header compression exposes the token.
#[expect(clippy::expect_used, reason = "name, path and domain are checked, the value is base64url")]
fn header_value(cookie: &Cookie<'_>) -> HeaderValue {
    let mut value =
        HeaderValue::try_from(cookie.to_string()).expect("a checked cookie is a header value");
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests;
