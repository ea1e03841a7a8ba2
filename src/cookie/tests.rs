//! Signing and verifying of cookies.

use proptest::prelude::*;

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

fn pair(signer: &CookieSigner, token: &SessionToken) -> String {
    signer.pair(token).to_str().unwrap().to_owned()
}

#[test]
fn the_format_is_frozen() {
    // If one of these fails, every cookie in production has become invalid.
    assert_eq!(
        signer(&["first secret"]).set(&token(7), Duration::MAX).to_str().unwrap(),
        "__Host-session=BwcHBwcHBwcHBwcHBwcHBw.E1HijI-7Di5U6Jmt1yNe6D904PWGt2dSXJN-nBCQmYg; HttpOnly; SameSite=Lax; Secure; Path=/"
    );
    let config =
        CookieConfig::development().domain("example.com").path("/app").same_site(SameSite::Strict);
    assert_eq!(
        CookieSigner::new(config, &ring(&["second secret"]))
            .set(&token(9), Duration::MAX)
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
    let theirs = CookieSigner::new(CookieConfig::new().name("__Host-admin"), &ring(&["secret"]));
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
        signer.verify(&request(&[&format!("{flood}{}", pair(&signer, &token(1)))])).one().cloned(),
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
