//! What all services of a layer have in common.

use crate::cookie::CookieSigner;
use crate::store::SessionStore;

/// What all services of a layer have in common.
pub(super) struct LayerState<T> {
    pub(super) store: SessionStore<T>,
    pub(super) signer: CookieSigner,
}
