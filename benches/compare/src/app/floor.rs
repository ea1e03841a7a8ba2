//! The floor: the least that a layer must do for a cached session of a signed cookie. It scans the
//! header, decodes token and tag, hashes the token once, looks the digest up, compares the tag with
//! a remembered one in constant time, and inserts one extension.
//!
//! It has no lease, no expiry, no metrics and no commit: it is a measure, not a design.

use std::hint::black_box;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http::{HeaderMap, HeaderValue, Request, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use quick_cache::sync::Cache;
use sha2::{Digest as _, Sha256};
use tower::{Layer, Service};

use crate::data::UserSession;

/// Length of a token in base64url.
const TOKEN_LEN: usize = 22;

type Id = [u8; 16];
pub type Cached = Arc<Entry>;

/// A cached session and the tag of its cookie.
pub struct Entry {
    tag: [u8; 32],
    pub data: UserSession,
}

#[derive(Clone)]
pub struct FloorLayer(Arc<Cache<Id, Cached>>);

#[derive(Clone)]
pub struct Floor<S> {
    inner: S,
    cache: Arc<Cache<Id, Cached>>,
}

impl FloorLayer {
    pub fn new(sessions: usize) -> Self {
        FloorLayer(Arc::new(Cache::new(sessions * 2)))
    }

    /// Caches a session and returns its cookie.
    pub fn log_in(&self, data: UserSession) -> HeaderValue {
        let token = u128::from(data.user_id).to_be_bytes();
        // It stands for the HMAC, which is not computed again while the session is cached.
        let tag: [u8; 32] = Sha256::digest(data.user_id.to_be_bytes()).into();
        let (token_text, tag_text) = (URL_SAFE_NO_PAD.encode(token), URL_SAFE_NO_PAD.encode(tag));
        self.0.insert(id_of(&token), Arc::new(Entry { tag, data }));
        let cookie = format!("id={token_text}.{tag_text}");
        cookie.parse().expect("base64 is a header value")
    }
}

impl<S> Layer<S> for FloorLayer {
    type Service = Floor<S>;

    fn layer(&self, inner: S) -> Floor<S> {
        Floor { inner, cache: self.0.clone() }
    }
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for Floor<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        if let Some(cached) = verified(request.headers(), &self.cache) {
            request.extensions_mut().insert(cached);
        }
        self.inner.call(request)
    }
}

fn verified(headers: &HeaderMap, cache: &Cache<Id, Cached>) -> Option<Cached> {
    let header = headers.get(header::COOKIE)?.as_bytes();
    let mut pairs = header.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
    let value = pairs.find_map(|pair| pair.strip_prefix(b"id="))?;
    let (token_text, tag_text) = value.split_at_checked(TOKEN_LEN)?;
    let (mut token, mut tag) = ([0; 16], [0; 32]);
    URL_SAFE_NO_PAD.decode_slice(token_text, &mut token).ok()?;
    URL_SAFE_NO_PAD.decode_slice(tag_text.strip_prefix(b".")?, &mut tag).ok()?;
    let cached = cache.get(&id_of(&token))?;
    is_equal(&cached.tag, &tag).then_some(cached)
}

fn id_of(token: &[u8; 16]) -> Id {
    let digest: [u8; 32] = Sha256::digest(token).into();
    digest.first_chunk().copied().unwrap_or_default()
}

/// Compares in constant time.
fn is_equal(one: &[u8; 32], other: &[u8; 32]) -> bool {
    let differences = one.iter().zip(other).fold(0, |all, (one, other)| all | (one ^ other));
    black_box(differences) == 0
}
