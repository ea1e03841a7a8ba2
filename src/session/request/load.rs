//! Loads the session of a request: from the cache, or after its cookies have been verified.

use futures_util::future::try_join_all;
use tokio::sync::MutexGuard;

use super::{CachedRead, RequestSession};
use crate::clock::Millis;
use crate::cookie::{VerifiedCookie, VerifiedCookies};
use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;
use crate::record::{Absence, SessionData};
use crate::session::SessionError;
use crate::session::layer_state::LayerState;
use crate::session::loaded::Loaded;
use crate::store::{Degraded, Freshness};

impl<T: SessionData> RequestSession<T> {
    /// Loads the session unless that was done already.
    pub(in super::super) async fn load(&self) -> Result<(), SessionError> {
        if self.load_cached() {
            return Ok(());
        }
        // Boxed, since most requests do not need it, and axum moves the future that contains it.
        Box::pin(self.load_verified()).await
    }

    /// Verifies the request's cookies and loads the session that they name.
    async fn load_verified(&self) -> Result<(), SessionError> {
        let _one_at_a_time = self.io_turn().await?;
        if self.lock().begin_extraction() {
            // By another extraction, in the meantime.
            return Ok(());
        }
        let loaded = self.load_named(Freshness::Cached).await?;
        if let (Some(id), Some(error)) = (loaded.id(), loaded.outage()) {
            self.store().report_degraded_read(&id, error);
        }
        self.provide(loaded, self.store().now());
        Ok(())
    }

    /// Loads the session from the cache if its cookie has been verified before, which the cached
    /// session remembers. Returns `false` if it is not, and nothing was loaded.
    pub(super) fn load_cached(&self) -> bool {
        if self.is_loaded() {
            return true;
        }
        let signer = &self.layer.signer;
        let Some(cookie) = signer.only_claim(&self.cookies) else { return false };
        let tag = signer.tag_of(&cookie);
        let Some((record, now)) = self.store().read_cached(&cookie.id, &tag) else { return false };
        let seen = self.seen(Some(&record), now);
        // Another extraction may have come first.
        let _ = self.cached.set(CachedRead { record, seen });
        true
    }

    fn is_loaded(&self) -> bool {
        match self.active.get() {
            None => self.cached.get().is_some(),
            Some(_) => self.lock().is_loaded(),
        }
    }

    /// Sets what is loaded, unless another extraction has done so in the meantime.
    pub(super) fn provide(&self, loaded: Loaded<T>, now: Millis) {
        let mut state = self.lock();
        if !state.is_loaded() {
            let seen = self.seen(loaded.record(), now);
            let rebase = state.set_loaded(loaded, seen);
            drop(state);
            self.finish_rebases(rebase);
        }
    }

    /// Returns the cookies that the layer's signer accepts.
    fn verified(&self) -> &VerifiedCookies {
        self.active().verified.get_or_init(|| {
            let LayerState { signer, refused, .. } = &*self.layer;
            let verified = signer.verify(&self.cookies, |refusal| refused.refused(refusal));
            self.lock().set_named(verified.rivals());
            verified
        })
    }

    /// Waits until no other commit or load of this request is under way. A load may be held up by a
    /// future that its caller neither polls nor drops.
    pub(in super::super) async fn io_turn(&self) -> Result<MutexGuard<'_, ()>, StoreError> {
        let io_lock = &self.active().io_lock;
        if let Ok(turn) = io_lock.try_lock() {
            return Ok(turn);
        }
        self.store().deadline().wait_for(io_lock.lock()).await.ok_or_else(|| {
            StoreError::from(StoreErrorKind::Timeout)
                .with_source("another commit or load of the request has not ended")
        })
    }

    /// Loads the session past the cache and applies the uncommitted changes again on top of it.
    pub(in super::super) async fn reload(&self) -> Result<(), SessionError> {
        {
            let mut state = self.lock();
            state.begin_extraction();
            state.begin_io();
        }
        let _one_at_a_time = self.io_turn().await?;
        let before = self.lock().loaded().clone();
        let loaded = match (&before, before.id()) {
            // The cookies may name several sessions.
            (Loaded::NotYet | Loaded::Ambiguous | Loaded::Unavailable(..), _) => {
                self.load_named(Freshness::Fresh).await?
            }
            (_, Some(id)) => self.load_one(id, Freshness::Fresh).await?,
            (_, None) => Loaded::NoSession,
        };
        let rebase = {
            let mut state = self.lock();
            // Another extraction may have found the session in the cache meanwhile.
            let loaded = loaded.after(state.loaded());
            let seen = self.seen(loaded.record(), self.store().now());
            state.set_loaded(loaded, seen)
        };
        self.finish_rebases(rebase);
        Ok(())
    }

    /// Loads the session that the request's cookies name. Nothing is allocated for a single cookie.
    async fn load_named(&self, freshness: Freshness) -> Result<Loaded<T>, SessionError> {
        match self.verified() {
            VerifiedCookies::None => Ok(Loaded::NoSession),
            VerifiedCookies::One(cookie) => {
                let loaded = self.load_one(cookie.id, freshness).await?;
                self.remember_tag(cookie, &loaded);
                Ok(loaded)
            }
            VerifiedCookies::Several(cookies) => {
                let loads = cookies.iter().map(|cookie| self.load_one(cookie.id, freshness));
                Ok(Loaded::choose(try_join_all(loads).await?))
            }
            VerifiedCookies::TooMany(_) => Ok(Loaded::Ambiguous),
        }
    }

    /// Remembers the tag of a verified cookie with the session that it names, so that the next
    /// request need not compute it. A cookie that is to be signed again is not worth it.
    fn remember_tag(&self, cookie: &VerifiedCookie, loaded: &Loaded<T>) {
        let signer = &self.layer.signer;
        if let Loaded::Live(record) = loaded
            && !cookie.needs_resigning
            && let Some(claim) = signer.only_claim(&self.cookies)
        {
            record.remember_tag(signer.tag_of(&claim));
        }
    }

    /// Loads the session with this id.
    async fn load_one(
        &self,
        id: SessionId,
        freshness: Freshness,
    ) -> Result<Loaded<T>, SessionError> {
        match self.store().read(id, freshness).await {
            Ok(Ok(record)) => Ok(Loaded::Live(record)),
            Ok(Err(Absence::Gone)) => Ok(Loaded::Missing(id)),
            Ok(Err(Absence::Moved(_))) => Ok(Loaded::Moved(id)),
            Err(error) if error.kind() == StoreErrorKind::Corrupt => {
                Ok(Loaded::Unreadable(error, id))
            }
            // The outage policy does not apply to callers that want a fresh session.
            Err(error) if freshness == Freshness::Fresh => Err(error.into()),
            Err(error) => match self.store().degraded(&id, &error) {
                Some(Degraded::Default) => Ok(Loaded::Unavailable(error, id)),
                Some(Degraded::Stale(record)) => Ok(Loaded::Stale(error, record)),
                None => Err(error.into()),
            },
        }
    }
}
