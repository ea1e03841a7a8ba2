//! Tokens against cross-site request forgery: a library that does not know the application's
//! session. It is the "synchronizer token pattern" of OWASP's cheat sheet.
//!
//! For most applications, tower-http's `CsrfLayer` is less work: it refuses what the browser says
//! comes from another site. See the example `login`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clustered_sessions::{Part, SessionData, SessionError};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The token of a session. It lasts as long as the session. A login by `replace` ends it, unless
/// the application gives it to the new session: begin with `Csrf::default()` there.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Csrf(Option<String>);

/// Session data with a token.
pub(crate) trait HasCsrf: SessionData + AsRef<Csrf> + AsMut<Csrf> {}

impl<T: SessionData + AsRef<Csrf> + AsMut<Csrf>> HasCsrf for T {}

/// Returns the token for a form. The first form of a session makes it: two at the same time
/// get the same one.
pub(crate) async fn token(part: &Part<impl HasCsrf, Csrf>) -> Result<String, SessionError> {
    if let Some(token) = part.read(|csrf| csrf.0.clone()) {
        return Ok(token);
    }
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system has a random generator");
    let new = URL_SAFE_NO_PAD.encode(bytes);
    part.modify(move |csrf| csrf.0.get_or_insert_with(|| new.clone()).clone()).await
}

/// Returns `true` if a form has sent the token of the session.
pub(crate) fn verify(part: &Part<impl HasCsrf, Csrf>, sent: &str) -> bool {
    // The time that it takes to compare digests tells nothing about the token.
    let digest = |token: &str| Sha256::digest(token.as_bytes());
    part.read(|csrf| csrf.0.as_deref().is_some_and(|token| digest(token) == digest(sent)))
}
