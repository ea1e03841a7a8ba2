//! Signing and verifying of cookies.

use proptest::prelude::*;

use http::{HeaderMap, header};

use super::*;
use crate::secret::Secret;

fn ring(secrets: &[&str]) -> KeyRing {
    let mut ring = KeyRing::new(Secret::insecure_dev(secrets[0]));
    ring.set_realm("shop".to_owned());
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

fn verified(token: SessionToken, needs_resigning: bool) -> VerifiedCookie {
    VerifiedCookie { id: token.session_id(), token, needs_resigning }
}

/// Returns what a request with these cookies has. Refused cookies are not of interest.
fn verify(signer: &CookieSigner, headers: &HeaderMap) -> VerifiedCookies {
    signer.verify(&CookieHeaders::of(headers), |_| ())
}

/// Returns the only verified cookie.
fn one(signer: &CookieSigner, headers: &HeaderMap) -> Option<VerifiedCookie> {
    match verify(signer, headers) {
        VerifiedCookies::One(cookie) => Some(cookie),
        _ => None,
    }
}

fn pair(signer: &CookieSigner, token: &SessionToken) -> String {
    signer.pair(token).to_str().unwrap().to_owned()
}

#[test]
fn the_format_is_frozen() {
    // If one of these fails, every cookie in production has become invalid.
    assert_eq!(
        signer(&["first secret"]).set(&token(7), Duration::MAX, false).to_str().unwrap(),
        "__Host-session=BwcHBwcHBwcHBwcHBwcHBw.E1HijI-7Di5U6Jmt1yNe6D904PWGt2dSXJN-nBCQmYg; HttpOnly; SameSite=Lax; Secure; Path=/"
    );
    let config =
        CookieConfig::development().domain("example.com").path("/app").same_site(SameSite::Strict);
    assert_eq!(
        CookieSigner::new(config, &ring(&["second secret"]))
            .set(&token(9), Duration::MAX, false)
            .to_str()
            .unwrap(),
        "session=CQkJCQkJCQkJCQkJCQkJCQ.uiRg5RdwGcXgPGemxg1fOl2KE2I0ua9DrlayEtSXS3k; HttpOnly; SameSite=Strict; Path=/app; Domain=example.com"
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
    for value in [signer.set(&token(1), Duration::MAX, false), signer.pair(&token(1))] {
        assert_eq!(format!("{value:?}"), "Sensitive");
    }
    assert!(!format!("{signer:?}").contains("secret"));
}

#[test]
fn the_cookie_is_found_among_others_and_in_any_header() {
    let signer = signer(&["secret"]);
    let ours = pair(&signer, &token(1));
    let expected = Some(verified(token(1), false));
    for cookies in [
        vec![ours.clone()],
        vec![format!("a=b; {ours}; c=d")],
        vec![format!("a=b;{ours} ;c")],
        vec!["a=b".to_owned(), ours.clone()],
        vec![format!("{ours}; {ours}")],
        vec![format!("__Host-session=junk; {ours}")],
    ] {
        let cookies: Vec<_> = cookies.iter().map(String::as_str).collect();
        assert_eq!(one(&signer, &request(&cookies)), expected, "{cookies:?}");
    }
}

#[test]
fn a_cookie_of_another_name_does_not_verify_and_neither_does_its_value_under_our_name() {
    let ours = signer(&["secret"]);
    let theirs = CookieSigner::new(CookieConfig::new().name("__Host-admin"), &ring(&["secret"]));
    let value = pair(&theirs, &token(1)).replace("__Host-admin", "__Host-session");
    for cookie in [
        value,
        pair(&ours, &token(1)).to_lowercase(),
        pair(&ours, &token(1)).replace("__H", "x__H"),
    ] {
        assert_eq!(one(&ours, &request(&[&cookie])), None, "{cookie}");
    }
}

#[test]
fn tokens_that_verify_are_told_apart() {
    let signer = signer(&["new", "old"]);
    let (first, second) = (pair(&signer, &token(1)), pair(&signer, &token(2)));
    let again = pair(&super::tests::signer(&["old"]), &token(1));
    let cookie = |byte| verified(token(byte), false);
    let several = VerifiedCookies::Several([cookie(1), cookie(2)].into());
    for cookies in [vec![format!("{first}; {second}")], vec![again, second, first]] {
        let cookies: Vec<_> = cookies.iter().map(String::as_str).collect();
        let verified = verify(&signer, &request(&cookies));
        assert_eq!(verified, several, "{cookies:?}");
        assert_eq!(verified.rivals(), [token(1).session_id(), token(2).session_id()]);
        assert_eq!(verified.naming(token(2).session_id()), Some(&cookie(2)));
    }
    assert!(verify(&signer, &request(&[&pair(&signer, &token(1))])).rivals().is_empty());
}

#[test]
fn a_cookie_is_found_in_a_flood_of_others_that_do_not_verify() {
    let (signer, other) = (signer(&["secret"]), signer(&["another"]));
    let forged = format!("__Host-session=x; {}; ", pair(&other, &token(2)));
    let flood = forged.repeat(100);
    for cookies in [
        format!("{flood}{}", pair(&signer, &token(1))),
        format!("{}; {flood}", pair(&signer, &token(1))),
    ] {
        let cookie = verified(token(1), false);
        assert_eq!(verify(&signer, &request(&[&cookies])), VerifiedCookies::One(cookie));
    }
}

#[test]
fn of_a_flood_of_cookies_that_verify_the_first_32_are_used_for_a_logout_alone() {
    let signer = signer(&["secret"]);
    let cookies = |count: u8| {
        let pairs: Vec<_> = (1..=count).map(|number| pair(&signer, &token(number))).collect();
        // Copies do not count.
        verify(&signer, &request(&[&pairs.join("; "), &pairs.join("; ")]))
    };
    let all: Vec<_> = (1..=32).map(|number| verified(token(number), false)).collect();
    assert_eq!(cookies(32), VerifiedCookies::Several(all.clone().into()));
    assert_eq!(cookies(33), VerifiedCookies::TooMany(all.into()));
}

#[test]
fn the_only_cookie_of_our_name_is_found_among_others() {
    let signer = signer(&["secret"]);
    let ours = pair(&signer, &token(1));
    let claim = |cookies: &[&str]| {
        let claim = signer.only_claim(&CookieHeaders::of(&request(cookies)));
        claim.map(|claim| claim.id)
    };
    let found = Some(token(1).session_id());
    assert_eq!(claim(&[&ours]), found);
    assert_eq!(claim(&[&format!("a=1;  {ours} ;b=2")]), found);
    assert_eq!(claim(&["a=1; ;;b", &ours]), found);
    assert_eq!(claim(&[&format!("{ours}; {ours}")]), None, "there are two");
    assert_eq!(claim(&[&ours, "__Host-session=junk"]), None, "there are two");
    assert_eq!(claim(&["__Host-session=junk"]), None);
    assert_eq!(claim(&[]), None);
}

#[test]
fn a_remembered_tag_is_that_of_one_signer_and_one_cookie() {
    let ours = signer(&["secret"]);
    let twin = signer(&["secret"]);
    let headers = |pair: &str| CookieHeaders::of(&request(&[pair]));
    let claim = |pair: &str| ours.only_claim(&headers(pair)).unwrap();
    let tag = ours.tag_of(&claim(&pair(&ours, &token(1))));
    assert_eq!(tag, ours.tag_of(&claim(&pair(&ours, &token(1)))));
    assert_ne!(tag, twin.tag_of(&claim(&pair(&ours, &token(1)))), "another layer's");
    let forged = pair(&signer_of_others(), &token(1));
    assert_ne!(tag, ours.tag_of(&claim(&forged)), "another tag for the same token");
    assert_eq!(format!("{tag:?}").matches("..").count(), 1, "{tag:?}");
}

fn signer_of_others() -> CookieSigner {
    signer(&["other secret"])
}

#[test]
fn a_value_in_double_quotes_is_the_same_value() {
    let signer = signer(&["secret"]);
    let quoted = pair(&signer, &token(1)).replace('=', "=\"") + "\"";
    let expected = verified(token(1), false);
    assert_eq!(one(&signer, &request(&[&quoted])), Some(expected));
    for half in [&quoted[..quoted.len() - 1], &format!("{quoted}\"")] {
        assert_eq!(one(&signer, &request(&[half])), None, "{half}");
    }
}

#[test]
fn each_refused_cookie_is_reported_with_its_reason() {
    let signer = signer(&["secret"]);
    let foreign = pair(&super::tests::signer(&["other"]), &token(1));
    let mut refused = Vec::new();
    let headers = request(&[&foreign, "__Host-session=junk; other=1; __Host-session="]);
    signer.verify(&CookieHeaders::of(&headers), |refusal| refused.push(refusal));
    use CookieRefusal::{Malformed, UnknownKey};
    assert_eq!(refused, [UnknownKey, Malformed, Malformed]);
}

#[test]
fn a_cookie_under_a_previous_secret_verifies_and_needs_resigning() {
    let old = pair(&signer(&["old"]), &token(1));
    let rotated = signer(&["new", "old"]);
    assert_eq!(one(&rotated, &request(&[&old])), Some(verified(token(1), true)));
    let new = pair(&rotated, &token(1));
    assert_eq!(one(&rotated, &request(&[&new])), Some(verified(token(1), false)));
    assert_eq!(one(&signer(&["old"]), &request(&[&new])), None, "the current secret signs");
    assert_eq!(
        one(&signer(&["new"]), &request(&[&old])),
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
    assert_eq!(one(&signer, &request(&[&early])), Some(verified(token(1), false)));
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
        prop_assert_eq!(one(&signer, &headers), None);
    }

    #[test]
    fn no_header_makes_it_panic(bytes in "[\\x20-\\x7e\\x80-\\xff]{0,200}", prefix: bool) {
        let mut value = if prefix { b"__Host-session=".to_vec() } else { Vec::new() };
        value.extend(bytes.bytes());
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            let headers: HeaderMap = [(header::COOKIE, value)].into_iter().collect();
            prop_assert_eq!(one(&signer(&["secret"]), &headers), None);
        }
    }
}
