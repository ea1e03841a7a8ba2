//! The state that all requests of a layer share.

use super::failed_commits::FailedCommits;
use super::logout::Logout;
use super::refusals::RefusedCookies;
use crate::config::SessionConfig;
use crate::cookie::CookieSigner;
use crate::observe::Metrics;
use crate::record::SessionData;
use crate::store::SessionStore;

/// The store, and the signer of the cookies that name its sessions.
pub(crate) struct LayerState<T> {
    pub(crate) store: SessionStore<T>,
    pub(crate) signer: CookieSigner,
    pub(crate) refused: RefusedCookies,
    pub(crate) failed_commits: FailedCommits,
    /// [`Logout::carry_out_in_background`]. It needs `T: SessionData`, and the drops that call it
    /// must not have that bound, so that types that contain a session need not repeat it.
    pub(super) carry_out_in_background: fn(Logout<T>, &SessionStore<T>),
}

impl<T: SessionData> LayerState<T> {
    /// Creates a store and spawns its listener.
    pub(crate) fn new(config: SessionConfig<T>) -> Self {
        let signer = CookieSigner::new(config.cookie.clone(), &config.keys);
        let metrics = Metrics::new(config.metrics_label.as_deref());
        let clock = config.clock.clone();
        let store = SessionStore::new(config);
        let failed_commits = FailedCommits::new(clock.clone());
        let refused = RefusedCookies::new(&metrics, clock, store.events());
        let carry_out_in_background = Logout::carry_out_in_background;
        LayerState { store, signer, refused, failed_commits, carry_out_in_background }
    }
}
