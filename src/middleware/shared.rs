//! What all services of a layer have in common.

use crate::cookie::CookieJar;
use crate::store::SessionStore;

/// What all services of a layer have in common.
pub(super) struct Shared<T> {
    pub(super) store: SessionStore<T>,
    pub(super) jar: CookieJar,
}
