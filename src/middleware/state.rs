//! The state that all services of a layer share.

use super::refusals::RefusedCookies;
use crate::cookie::CookieSigner;
use crate::store::SessionStore;

/// The store, and the signer of the cookies that name its sessions.
pub(super) struct LayerState<T> {
    pub(super) store: SessionStore<T>,
    pub(super) signer: CookieSigner,
    pub(super) refused: RefusedCookies,
}
