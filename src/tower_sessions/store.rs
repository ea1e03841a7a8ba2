//! A store for tower-sessions over a store of this crate.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use super::expiry::Present;
use super::merge::{self, Data, Loaded, Saved};
use super::requests::Requests;
use crate::clock::Timestamp;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionToken;
use crate::observe::Outcome;
use crate::record::{Ended, Snapshot};
use crate::session::KeyValues;
use crate::store::{Draft, Freshness, SessionStore, Undo};

/// A store for [tower-sessions](https://docs.rs/tower-sessions) and the libraries built on it, such
/// as axum-login, over a [`SessionStore<KeyValues>`](SessionStore).
///
/// An application that uses `tower_sessions::Session` goes on as it is, and gets what this crate
/// promises: sessions are read from memory, a session that one node ends has ended on all, requests
/// at the same time that change different keys keep both changes, and
/// [`delete_all_of`](SessionStore::delete_all_of) logs a user out everywhere. The feature
/// `tower-sessions-0-14` implements the trait `SessionStore` of that version, `tower-sessions-0-15`
/// that of the next; both may be enabled.
///
/// ```
/// # #[cfg(feature = "tower-sessions-0-14")] mod app {
/// # use tower_sessions_0_14 as tower_sessions;
/// use clustered_sessions::{KeyValues, Secret, SessionConfig, SessionStore, TowerSessionsStore};
/// use tower_sessions::{Session, SessionManagerLayer};
///
/// async fn visit(session: Session) -> String {
///     let visits = session.get::<u64>("visits").await.unwrap().unwrap_or_default() + 1;
///     session.insert("visits", visits).await.unwrap();
///     format!("visit {visits}")
/// }
///
/// # pub async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let secret = Secret::new([7; 32])?;
/// let config = SessionConfig::<KeyValues>::builder(secret)
///     .owner(|values| values.get::<String>("user").ok().flatten()) // for "log out everywhere"
///     .build()?;
/// let store = SessionStore::new(config);
/// let app = axum::Router::new()
///     .route("/", axum::routing::get(visit))
///     .layer(SessionManagerLayer::new(TowerSessionsStore::new(store.clone())));
/// # let _: axum::Router = app;
/// # Ok(()) }
/// # }
/// # #[cfg(feature = "tower-sessions-0-14")]
/// # #[tokio::main(flavor = "current_thread")] async fn main() { app::main().await.unwrap() }
/// # #[cfg(not(feature = "tower-sessions-0-14"))] fn main() {}
/// ```
///
/// # Ids
///
/// Their session id is this crate's [`SessionToken`]: the credential, which is in the cookie and
/// nowhere else. The [`SessionId`](crate::SessionId) under which the session is kept is its hash.
/// New sessions get a token from the operating system's random generator, whatever id the record
/// had.
///
/// # What a save does
///
/// It applies the changes that the request has made since it loaded the session to the session's
/// present data. Of two requests that change the same key, the later save counts. A request that
/// has cleared the session replaces all of it.
///
/// - A save that changes nothing writes nothing.
/// - A session that has ended stays ended: what a request saves to it is dropped, as by their store
///   for Redis, and the visitor's next request has no session.
/// - After `cycle_id` of a session that somebody else has ended meanwhile, the new session has
///   nothing but what this request has put into it. So has it after a `cycle_id` that has failed.
///   Of several `cycle_id` of one session at the same time, perhaps none keeps the old values.
///
/// # Expiry
///
/// A session ends at the time that their `Expiry` says, or at the
/// [`absolute_timeout`](crate::SessionConfigBuilder::absolute_timeout) if that is earlier. The idle
/// [`timeout`](crate::SessionConfigBuilder::timeout) of this crate does not apply, and reading a
/// session does not extend it. The store is given what is left until then on the node's clock, so a
/// wrong clock does not matter, except to `Expiry::AtDateTime` with a time that was not counted
/// from the present. As with their other stores, `Expiry::OnInactivity` counts from the
/// last save, so it takes `with_always_save(true)` to count from the last request. A save that only
/// extends the session is written once a quarter of the time has passed
/// ([`touch_after`](crate::SessionConfigBuilder::touch_after)).
///
/// # Limits
///
/// - `cycle_id` ends the session at once, and the new one begins with the response. "Log out
///   everywhere" between the two does not reach it. [`Session::regenerate`](crate::Session) has no
///   such gap.
/// - A change of the [`owner`](crate::SessionConfigBuilder::owner) keeps the id: call `cycle_id` at
///   each login. axum-login does so only if nobody is logged in.
/// - The data that is loaded has one key more than the session, under which the adapter notes what
///   was loaded: `clustered-sessions.loaded`. It is not stored. Thus `cycle_id` of a session
///   without values begins a new one, where it would otherwise remove the cookie.
/// - Do not wrap it in their `CachingSessionStore`, whose cache does not learn of changes on other
///   nodes.
/// - Their layer writes the cookie, and
///   [`SessionConfigBuilder::cookie`](crate::SessionConfigBuilder::cookie) sets nothing of it. The
///   name there is a part of the default [`realm`](crate::SessionConfigBuilder::realm) all the
///   same, so do not change it while there are sessions, or set the realm.
/// - The [outage policy](crate::OutagePolicy) has no effect: a session that cannot be loaded is an
///   error.
/// - Errors become their `session_store::Error`, which keeps the text alone. Their layer answers a
///   save that fails by an empty 500.
#[derive(Clone)]
pub struct TowerSessionsStore {
    store: SessionStore<KeyValues>,
    requests: Arc<Requests>,
}

impl TowerSessionsStore {
    /// Creates an adapter for a store. Clones, and adapters for clones of the store, share its
    /// sessions.
    pub fn new(store: SessionStore<KeyValues>) -> Self {
        TowerSessionsStore { store, requests: Arc::default() }
    }

    /// Returns the store: to list and end sessions, and to
    /// [shut it down](SessionStore::shutdown).
    pub fn store(&self) -> &SessionStore<KeyValues> {
        &self.store
    }

    /// Returns the present on the clocks of this node, by which tower-sessions counts, and of the
    /// store.
    pub(super) fn present(&self) -> Present {
        Present { node: SystemTime::now().into(), store: self.store.wall() }
    }

    /// Creates a session and returns its token.
    pub(super) async fn create_session(
        &self,
        data: &mut Data,
        until: Timestamp,
    ) -> Result<SessionToken, StoreError> {
        // Only `cycle_id` leaves the digests of another session in the data of a new one.
        if let Some(former) = Loaded::take_from(data)
            && !self.requests.take_ended(former.session())
        {
            former.keep_changes_only(data);
        }
        if self.store.has_passed(until) {
            return Ok(SessionToken::random());
        }
        let values = merge::values(data);
        let create = self.store.create_until(&values, until);
        let new = self.commit(create).await?;
        Loaded::note_in(data, self.requests.begin(), new.id);
        Ok(new.token)
    }

    /// Applies to the session what a request has changed. If the session has ended, the changes are
    /// dropped.
    pub(super) async fn save_session(
        &self,
        token: &SessionToken,
        data: &Data,
        until: Timestamp,
    ) -> Result<(), StoreError> {
        if self.store.has_passed(until) {
            return self.delete_session(token).await;
        }
        let id = token.session_id();
        let saved = Saved::new(data);
        let save = async {
            // A cached session may be older than a change that was acknowledged on another node. On
            // top of that, a change may be one that is none on the cached session.
            for freshness in [Freshness::Cached, Freshness::Fresh] {
                let base = self.store.read(id, freshness).await?;
                let base = base.map_err(|_| StoreError::gone(&id))?;
                let values = saved.apply_to(base.data());
                if values != *base.data() || self.store.should_move(&base, until) {
                    let reapply = |current: &KeyValues| Snapshot::new(saved.apply_to(current));
                    let values = Snapshot::new(values);
                    return self.store.write_until(base, values, until, &reapply).await.map(drop);
                }
                if saved.is_unchanged() {
                    break;
                }
            }
            Ok(())
        };
        match self.commit(save).await {
            Err(error) if error.kind() == StoreErrorKind::Gone => {
                tracing::debug!(session = %id, "a request has changed a session that has ended");
                Ok(())
            }
            saved => saved,
        }
    }

    /// Returns the data of a session for a request, and its deadline.
    pub(super) async fn load_session(
        &self,
        token: &SessionToken,
        freshness: Freshness,
    ) -> Result<Option<(Data, Timestamp)>, StoreError> {
        let id = token.session_id();
        let Ok(record) = self.store.read(id, freshness).await? else { return Ok(None) };
        let data = Loaded::give_out(self.requests.begin(), id, record.data());
        Ok(Some((data, record.deadline())))
    }

    /// Forgets that another request has ended the session, before this one tries to. If it fails,
    /// the data that `cycle_id` keeps is that of a session which this request has not ended.
    pub(super) fn forget_end(&self, token: &SessionToken) {
        self.requests.take_ended(token.session_id());
    }

    pub(super) async fn delete_session(&self, token: &SessionToken) -> Result<(), StoreError> {
        let id = token.session_id();
        self.forget_end(token);
        let delete = self.store.delete_following_tombstones(id, None, Some(Ended::LoggedOut));
        let was_alive = self.commit(delete).await?.existed();
        self.requests.note_end(id, was_alive);
        Ok(())
    }

    /// Prepares the import of a session from another store, under its token. Returns `None` if it
    /// has expired.
    pub(super) fn draft_import(
        &self,
        token: SessionToken,
        data: &Data,
        until: Timestamp,
    ) -> Result<Option<Draft<KeyValues>>, StoreError> {
        if self.store.has_passed(until) {
            return Ok(None);
        }
        self.store.draft_import(token, &merge::values(data), until).map(Some)
    }

    /// Creates a session as it was in another store. Returns `false` if there is one already.
    pub(super) async fn import(&self, draft: &Draft<KeyValues>) -> Result<bool, StoreError> {
        match self.commit(self.store.import(draft)).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == StoreErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes what [`import`](Self::import) may have created, even during a shutdown.
    pub(super) async fn undo_import(
        &self,
        draft: &Draft<KeyValues>,
        undo: Undo,
    ) -> Result<(), StoreError> {
        self.store.operation(self.store.undo_import(draft, undo)).await
    }

    /// Carries out a change as an operation of its own, and counts it among the commits.
    async fn commit<R>(
        &self,
        change: impl Future<Output = Result<R, StoreError>>,
    ) -> Result<R, StoreError> {
        self.store.begin()?;
        let result = self.store.operation(change).await;
        let outcome = result.as_ref().map_or_else(|error| error.kind().into(), |_| Outcome::Ok);
        self.store.count_commit(outcome);
        result
    }
}

impl fmt::Debug for TowerSessionsStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TowerSessionsStore").field(&self.store).finish()
    }
}
