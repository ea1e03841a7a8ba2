//! The session cookie: signs, verifies, sets and removes it.
//!
//! Its value is `<token>.<tag>` in base64url without padding. The tag is HMAC-SHA256 (RFC 2104),
//! under a derived key, over a fixed label, the cookie's name and the token. A value is therefore
//! valid under no other name and in no other version of the format.
//!
//! The signature is checked before the backend is queried, so a guessed or damaged cookie costs no
//! round trip. A cookie that does not verify is ignored, and the visitor is treated as new.

mod config;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cookie::Cookie;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderValue, header};
use sha2::Sha256;

pub use self::config::{CookieConfig, SameSite};
use crate::id::{self, SessionId, SessionToken};
use crate::secret::KeyRing;

/// Purpose for which the keys are derived, and the beginning of what is signed.
const PURPOSE: &str = "clustered-sessions/cookie/v1";
/// Length of a tag in characters: 32 bytes in base64url.
const TAG_LEN: usize = 43;
/// Maximum number of cookies of our name in one request. Browsers send a handful at most; a request
/// with more is an attack and has no session.
pub(crate) const MAX_CANDIDATES: usize = 8;

/// The longest `Max-Age` that browsers accept.
const LONGEST_LIFE: Duration = Duration::from_secs(400 * 24 * 3600);

/// Signs and verifies the cookies of one layer.
pub(crate) struct CookieSigner {
    config: CookieConfig,
    /// The configured name, shared with state that outlives a request.
    name: Arc<str>,
    /// One key per secret of the ring, the one that signs first.
    keys: Vec<SigningKey>,
}

/// A key derived from one secret of the ring.
struct SigningKey {
    /// Has already consumed the label and the name, so that each cookie costs only the token.
    mac: Hmac<Sha256>,
    retiring: bool,
}

/// A cookie that has been verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VerifiedCookie {
    pub(crate) token: SessionToken,
    /// `true` if the cookie was signed with a previous secret and should be signed again with the
    /// current one.
    pub(crate) needs_resigning: bool,
}

/// The cookies of one request that have been verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VerifiedCookies {
    None,
    One(VerifiedCookie),
    /// The sessions of several tokens, none of which the request uses. A logout ends all of them:
    /// the visitor's own session is among them. Also a request with more cookies of our name than
    /// are verified.
    Several(Arc<[SessionId]>),
}

impl VerifiedCookies {
    /// Returns the cookie whose session the request uses.
    pub(crate) fn one(&self) -> Option<&VerifiedCookie> {
        match self {
            VerifiedCookies::One(cookie) => Some(cookie),
            VerifiedCookies::None | VerifiedCookies::Several(_) => None,
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
        CookieSigner { keys: keys.collect(), name: config.name.as_str().into(), config }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Verifies the request's cookies of our name.
    ///
    /// Several of them are never set by this layer alone: a sibling domain or another path has
    /// added one. If more than one token verifies, it is unknown which session the visitor means
    /// to use, so the request uses none.
    pub(crate) fn verify(&self, headers: &HeaderMap) -> VerifiedCookies {
        // Nothing is allocated for a single cookie.
        let mut first: Option<VerifiedCookie> = None;
        let mut others: Vec<SessionId> = Vec::new();
        let mut is_flood = false;
        for (index, value) in self.candidates(headers).enumerate() {
            if index == MAX_CANDIDATES {
                is_flood = true;
                break;
            }
            let Some(verified) = self.verify_value(value) else { continue };
            match &mut first {
                None => first = Some(verified),
                Some(first) if first.token == verified.token => {
                    first.needs_resigning &= verified.needs_resigning;
                }
                Some(_) => others.push(verified.token.session_id()),
            }
        }
        if !is_flood && others.is_empty() {
            return first.map_or(VerifiedCookies::None, VerifiedCookies::One);
        }
        let first = first.map(|first| first.token.session_id());
        VerifiedCookies::Several(first.into_iter().chain(others).collect())
    }

    /// Returns the values of all cookies of our name. Names are compared byte for byte.
    fn candidates<'a>(&'a self, headers: &'a HeaderMap) -> impl Iterator<Item = &'a [u8]> {
        headers
            .get_all(header::COOKIE)
            .into_iter()
            .flat_map(|header| header.as_bytes().split(|&byte| byte == b';'))
            .filter_map(|pair| {
                pair.trim_ascii().strip_prefix(self.config.name.as_bytes())?.strip_prefix(b"=")
            })
    }

    /// Verifies the value of one cookie.
    fn verify_value(&self, value: &[u8]) -> Option<VerifiedCookie> {
        if value.len() != id::TEXT_LEN + 1 + TAG_LEN {
            return None;
        }
        let (token, tag) = value.split_at(id::TEXT_LEN);
        let token = SessionToken::parse(token)?;
        let mut claimed = [0; 32];
        let written = URL_SAFE_NO_PAD.decode_slice(tag.strip_prefix(b".")?, &mut claimed).ok()?;
        if written != claimed.len() {
            return None;
        }
        // `verify_slice` compares in constant time.
        let key = self.keys.iter().find(|key| {
            key.mac.clone().chain_update(token.as_bytes()).verify_slice(&claimed).is_ok()
        })?;
        Some(VerifiedCookie { token, needs_resigning: key.retiring })
    }

    /// Returns the cookie's value, signed with the current secret.
    fn sign(&self, token: &SessionToken) -> String {
        let mac = self.keys[0].mac.clone().chain_update(token.as_bytes());
        let tag = mac.finalize().into_bytes();
        format!("{}.{}", token.to_text(), URL_SAFE_NO_PAD.encode(tag))
    }

    /// Returns the `Set-Cookie` header that gives a visitor this token. `life` is the maximum
    /// remaining lifetime of its session.
    pub(crate) fn set(&self, token: &SessionToken, life: Duration) -> HeaderValue {
        let mut cookie = self.build(self.sign(token));
        if self.config.persistent {
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
        cookie.set_path(self.config.path.as_str());
        if let Some(domain) = &self.config.domain {
            cookie.set_domain(domain.as_str());
        }
        cookie
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::secret::Secret;

    fn ring(secrets: &[&str]) -> KeyRing {
        let mut ring = KeyRing::new(Secret::insecure_dev(secrets[0]));
        for secret in &secrets[1..] {
            ring.push_previous(Secret::insecure_dev(secret));
        }
        ring
    }

    fn signer(secrets: &[&str]) -> CookieSigner {
        CookieSigner::new(CookieConfig::new(), &ring(secrets))
    }

    fn token(byte: u8) -> SessionToken {
        let text = URL_SAFE_NO_PAD.encode([byte; 16]);
        SessionToken::parse(text.as_bytes()).unwrap()
    }

    fn request(cookies: &[&str]) -> HeaderMap {
        cookies.iter().map(|value| (header::COOKIE, value.parse().unwrap())).collect()
    }

    fn pair(signer: &CookieSigner, token: &SessionToken) -> String {
        signer.pair(token).to_str().unwrap().to_owned()
    }

    #[test]
    fn the_format_is_frozen() {
        // If one of these fails, every cookie in production has become invalid.
        assert_eq!(
            signer(&["first secret"]).set(&token(7), Duration::MAX).to_str().unwrap(),
            "__Host-session=BwcHBwcHBwcHBwcHBwcHBw.GrWGhF2LQsaKX2VTAFJNpIMv0IMvsHKPCn8bcGycdak; HttpOnly; SameSite=Lax; Secure; Path=/"
        );
        let config = CookieConfig::development()
            .domain("example.com")
            .path("/app")
            .same_site(SameSite::Strict);
        assert_eq!(
            CookieSigner::new(config, &ring(&["second secret"]))
                .set(&token(9), Duration::MAX)
                .to_str()
                .unwrap(),
            "session=CQkJCQkJCQkJCQkJCQkJCQ.YBnBcu9ZEI7hhj4iEmJQ_P4FfJoBpIauuHs9RUF9lxE; HttpOnly; SameSite=Strict; Path=/app; Domain=example.com"
        );
    }

    #[test]
    fn a_removal_has_the_attributes_of_the_cookie() {
        let removal = signer(&["secret"]).removal();
        let removal = removal.to_str().unwrap();
        assert!(removal.starts_with(
            "__Host-session=; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=0; Expires="
        ));
    }

    #[test]
    fn headers_do_not_print_the_token() {
        let signer = signer(&["secret"]);
        for value in [signer.set(&token(1), Duration::MAX), signer.pair(&token(1))] {
            assert_eq!(format!("{value:?}"), "Sensitive");
        }
        assert!(!format!("{signer:?}").contains("secret"));
    }

    #[test]
    fn the_cookie_is_found_among_others_and_in_any_header() {
        let signer = signer(&["secret"]);
        let ours = pair(&signer, &token(1));
        let expected = Some(VerifiedCookie { token: token(1), needs_resigning: false });
        for cookies in [
            vec![ours.clone()],
            vec![format!("a=b; {ours}; c=d")],
            vec![format!("a=b;{ours} ;c")],
            vec!["a=b".to_owned(), ours.clone()],
            vec![format!("{ours}; {ours}")],
            vec![format!("__Host-session=junk; {ours}")],
        ] {
            let cookies: Vec<_> = cookies.iter().map(String::as_str).collect();
            assert_eq!(signer.verify(&request(&cookies)).one().cloned(), expected, "{cookies:?}");
        }
    }

    #[test]
    fn a_cookie_of_another_name_does_not_verify_and_neither_does_its_value_under_our_name() {
        let ours = signer(&["secret"]);
        let theirs =
            CookieSigner::new(CookieConfig::new().name("__Host-admin"), &ring(&["secret"]));
        let value = pair(&theirs, &token(1)).replace("__Host-admin", "__Host-session");
        for cookie in [
            value,
            pair(&ours, &token(1)).to_lowercase(),
            pair(&ours, &token(1)).replace("__H", "x__H"),
        ] {
            assert_eq!(ours.verify(&request(&[&cookie])).one().cloned(), None, "{cookie}");
        }
    }

    #[test]
    fn two_tokens_that_verify_are_a_stranger() {
        let signer = signer(&["secret"]);
        let (one, two) = (pair(&signer, &token(1)), pair(&signer, &token(2)));
        assert_eq!(signer.verify(&request(&[&format!("{one}; {two}")])).one().cloned(), None);
        let both = signer.verify(&request(&[&one, &two]));
        let ids = [token(1).session_id(), token(2).session_id()];
        assert_eq!(both, VerifiedCookies::Several(ids.into()), "a logout ends both");
    }

    #[test]
    fn a_flood_of_cookies_is_a_stranger() {
        let signer = signer(&["secret"]);
        let flood = "__Host-session=x; ".repeat(MAX_CANDIDATES);
        assert_eq!(
            signer
                .verify(&request(&[&format!("{flood}{}", pair(&signer, &token(1)))]))
                .one()
                .cloned(),
            None
        );
    }

    #[test]
    fn a_cookie_under_a_previous_secret_verifies_and_needs_resigning() {
        let old = pair(&signer(&["old"]), &token(1));
        let rotated = signer(&["new", "old"]);
        assert_eq!(
            rotated.verify(&request(&[&old])).one().cloned(),
            Some(VerifiedCookie { token: token(1), needs_resigning: true })
        );
        let new = pair(&rotated, &token(1));
        assert_eq!(
            rotated.verify(&request(&[&new])).one().cloned(),
            Some(VerifiedCookie { token: token(1), needs_resigning: false })
        );
        assert_eq!(
            signer(&["old"]).verify(&request(&[&new])).one().cloned(),
            None,
            "the current secret signs"
        );
        assert_eq!(
            signer(&["new"]).verify(&request(&[&old])).one().cloned(),
            None,
            "a dropped secret verifies nothing"
        );
    }

    #[test]
    fn a_cookie_of_the_next_secret_verifies_and_is_left_as_it_is() {
        let mut ring = ring(&["now"]);
        ring.push_next(Secret::insecure_dev("soon"));
        let early = pair(&signer(&["soon"]), &token(1));
        let signer = CookieSigner::new(CookieConfig::new(), &ring);
        assert_eq!(
            signer.verify(&request(&[&early])).one().cloned(),
            Some(VerifiedCookie { token: token(1), needs_resigning: false })
        );
        assert_eq!(
            pair(&signer, &token(1)),
            pair(&super::tests::signer(&["now"]), &token(1)),
            "the current secret signs"
        );
    }

    proptest! {
        #[test]
        fn any_change_to_a_cookie_makes_it_a_strangers(at in 0usize..66, byte in 0x21u8..0x7f) {
            let signer = signer(&["secret"]);
            let mut cookie = pair(&signer, &token(1)).into_bytes();
            let at = cookie.len() - 66 + at;
            prop_assume!(cookie[at] != byte);
            cookie[at] = byte;
            let headers: HeaderMap = [(header::COOKIE, HeaderValue::from_bytes(&cookie).unwrap())].into_iter().collect();
            prop_assert_eq!(signer.verify(&headers).one().cloned(), None);
        }

        #[test]
        fn no_header_makes_it_panic(bytes in "[\\x20-\\x7e\\x80-\\xff]{0,200}", prefix: bool) {
            let mut value = if prefix { b"__Host-session=".to_vec() } else { Vec::new() };
            value.extend(bytes.bytes());
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                let headers: HeaderMap = [(header::COOKIE, value)].into_iter().collect();
                prop_assert_eq!(signer(&["secret"]).verify(&headers).one().cloned(), None);
            }
        }
    }
}
