//! Creation of sessions.

use std::time::Duration;

use bytes::Bytes;

use super::SessionStore;
use super::index::Ownership;
use super::lifetime::{Term, time_to_live};
use super::limit::NotAdmitted;
use crate::backend::{Created, MemoryBackend, Timestamp};
use crate::codec::Encoded;
use crate::error::{StoreError, StoreErrorKind};
use crate::events::{SessionEvent, Unreported};
use crate::id::{SessionId, SessionToken};
use crate::record::{Content, Meta, NewSession, Record, Revision, SessionData, Stored};

/// A session that is yet to be written.
pub(crate) struct Draft<T> {
    pub(super) new: NewSession<T>,
    stored: Stored,
    ttl: Duration,
}

/// The failure of a creation under a token that the caller has chosen.
#[derive(Debug)]
pub(super) enum DraftError {
    /// The record was not written, unless the kind is
    /// [`OutcomeUnknown`](StoreErrorKind::OutcomeUnknown).
    NotWritten(StoreError),
    /// The record was written, and is still there.
    Written(StoreError),
}

impl From<StoreError> for DraftError {
    fn from(error: StoreError) -> Self {
        DraftError::NotWritten(error)
    }
}

/// Number of times that a login is attempted under a limit of sessions, while others compete with
/// it for the last place.
const MAX_LOGIN_ATTEMPTS: u32 = 8;

impl<T: SessionData> SessionStore<T> {
    /// Creates a session with a new token and id.
    ///
    /// # Errors
    ///
    /// Fails with [`Encode`](StoreErrorKind::Encode) or [`TooLarge`](StoreErrorKind::TooLarge) if
    /// the data cannot be stored, with [`LimitReached`](StoreErrorKind::LimitReached) if its owner
    /// may have no more sessions, or with the backend's error.
    pub async fn create(&self, data: T) -> Result<NewSession<T>, StoreError> {
        self.begin()?;
        self.operation(self.create_session(&data, Term::Ordinary)).await
    }

    /// Creates a session whose token the application has chosen, such as one that is taken over
    /// from another library, so that nobody has to log in again.
    ///
    /// ```
    /// # use clustered_sessions::{Secret, SessionConfig, SessionStore, SessionToken};
    /// # #[derive(Clone, Default, serde::Serialize, serde::Deserialize)] struct UserSession { name: String }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = SessionConfig::<UserSession>::development(Secret::insecure_dev("dev")).build()?;
    /// # let store = SessionStore::new(config);
    /// # let former: u128 = 0x1fd0_55a9_7d2c_4f0e_9d3b_0c1a_2b4d_6e8f;
    /// let token = SessionToken::from_bytes(former.to_be_bytes());
    /// let session = store.create_with_token(token, UserSession { name: "Ada".into() }).await?;
    /// assert_eq!(store.get(session.id).await?.data().name, "Ada");
    /// # Ok(()) }
    /// ```
    ///
    /// # Risk
    ///
    /// Whoever can guess the token has the session. It must be 128 bits from a random generator
    /// made for cryptography, and nobody but the visitor may know it.
    ///
    /// Use each token once. The call is not repeated if it fails, since that could bring back a
    /// session which has been deleted meanwhile. Nor should the caller do that after a deletion.
    ///
    /// It costs one round trip more than [`create`](SessionStore::create): the other nodes are
    /// told, since they may know that there was no session with this token.
    ///
    /// # Errors
    ///
    /// Fails with [`AlreadyExists`](StoreErrorKind::AlreadyExists) if there is a session with this
    /// token, or was one that has been regenerated a moment ago, or with
    /// [`OutcomeUnknown`](StoreErrorKind::OutcomeUnknown) if the session may have been left behind.
    /// Otherwise as [`create`](SessionStore::create).
    pub async fn create_with_token(
        &self,
        token: SessionToken,
        data: T,
    ) -> Result<NewSession<T>, StoreError> {
        self.begin()?;
        self.operation(self.create_under(token, &data)).await
    }

    async fn create_under(
        &self,
        token: SessionToken,
        data: &T,
    ) -> Result<NewSession<T>, StoreError> {
        let draft = self.draft_under(token, data, Term::Ordinary)?;
        match self.create_draft(&draft).await {
            Ok(()) => Ok(draft.new),
            Err(DraftError::NotWritten(error)) => Err(error),
            Err(DraftError::Written(error)) => {
                let undone = self.undo_under_chosen_token(draft.new.id).await;
                Err(if undone { error } else { StoreError::outcome_unknown(error) })
            }
        }
    }

    pub(super) fn draft_under(
        &self,
        token: SessionToken,
        data: &T,
        term: Term,
    ) -> Result<Draft<T>, StoreError> {
        let encoded = self.encode_new(data, term)?;
        Ok(self.draft(token, &encoded, None, None, term))
    }

    /// Creates a session under a token that the caller has chosen. What was written by an attempt
    /// that fails is left to the caller, who knows if the session may stay.
    pub(super) async fn create_draft(&self, draft: &Draft<T>) -> Result<(), DraftError> {
        let Draft { new, .. } = draft;
        let ownership = self.ownership(None, new.record.data());
        let ownership = ownership.as_ref();
        self.index_before_write(ownership, &new.id, None, new.record.deadline()).await?;
        let unreported = self.inner.events.hold(new.id);
        if self.write_draft(draft).await? == Created::Exists {
            let exists = StoreError::from(StoreErrorKind::AlreadyExists).with_session_id(&new.id);
            return Err(exists.into());
        }
        let admitted = async {
            // Another node may have looked for the session a moment ago, and remember that there is
            // none. Before the limit is applied: a login that fails must not end other sessions.
            self.inner.coordinator.publish_invalidation(new.id).await?;
            self.admit(&new.record, ownership).await
        };
        admitted.await.map_err(|reason| DraftError::Written(self.give_up(reason)))?;
        self.report_creation(&new.record, unreported);
        Ok(())
    }

    pub(crate) async fn create_session(
        &self,
        data: &T,
        term: Term,
    ) -> Result<NewSession<T>, StoreError> {
        let encoded = self.encode_new(data, term)?;
        self.create_encoded(&encoded, term).await
    }

    /// Encodes the data of a new session, and checks that it can be created.
    pub(crate) fn encode_new(&self, data: &T, term: Term) -> Result<Encoded<T>, StoreError> {
        if term == Term::Remembered && !self.inner.lifetimes.can_remember() {
            let cause = "sessions cannot be remembered: set SessionConfigBuilder::remember_me";
            return Err(StoreError::from(StoreErrorKind::NotConfigured).with_source(cause));
        }
        self.inner.codec.encode(data)
    }

    pub(crate) async fn create_encoded(
        &self,
        encoded: &Encoded<T>,
        term: Term,
    ) -> Result<NewSession<T>, StoreError> {
        let (new, unreported) = self.create_unreported(encoded, None, term).await?;
        self.report_creation(&new.record, unreported);
        Ok(new)
    }

    /// Creates a session, which goes on from `continues` under a new id. The caller reports it.
    pub(super) async fn create_unreported(
        &self,
        encoded: &Encoded<T>,
        continues: Option<&Record<T>>,
        term: Term,
    ) -> Result<(NewSession<T>, Unreported<'_>), StoreError> {
        let ownership = self.ownership(continues, encoded.data());
        let ownership = ownership.as_ref();
        let mut attempt = 1;
        loop {
            let (new, unreported) = self.write_new(encoded, continues, ownership, term).await?;
            let reason = match self.admit(&new.record, ownership).await {
                Ok(()) => return Ok((new, unreported)),
                Err(reason) => reason,
            };
            self.undo(&new.record, None).await;
            if attempt == MAX_LOGIN_ATTEMPTS || matches!(reason, NotAdmitted::Failed(_)) {
                return Err(self.give_up(reason));
            }
            self.pause_after_conflict(attempt).await;
            attempt += 1;
        }
    }

    fn report_creation(&self, record: &Record<T>, unreported: Unreported<'_>) {
        let (id, owner) = (record.id(), || self.owner_of(record));
        unreported.report(|| [SessionEvent::Created { id, owner: owner() }]);
    }

    /// Writes the record of a new session.
    async fn write_new(
        &self,
        encoded: &Encoded<T>,
        continues: Option<&Record<T>>,
        ownership: Option<&Ownership>,
        term: Term,
    ) -> Result<(NewSession<T>, Unreported<'_>), StoreError> {
        let mut attempts = self.inner.backend.attempts();
        let mut in_doubt = Vec::new();
        loop {
            // Each attempt has its own token. Under the same id, a delayed first attempt could
            // bring back a session that has been deleted meanwhile.
            let draft = self.draft(SessionToken::random(), encoded, continues, ownership, term);
            // Without an index entry, no record is written. An earlier attempt may have written
            // one, though.
            self.index_before_write(ownership, &draft.new.id, None, draft.new.record.deadline())
                .await
                .map_err(|error| attempts.ended_by(error))?;
            let unreported = self.inner.events.hold(draft.new.id);
            match self.write_draft(&draft).await {
                Ok(Created::Created) => {
                    for record in &in_doubt {
                        self.undo(record, None).await;
                    }
                    return Ok((draft.new, unreported));
                }
                Ok(Created::Exists) => {}
                // A failed attempt may still be executed later. It then leaves a record whose
                // token was never given out, and which expires like any other.
                Err(error) => {
                    if error.kind() == StoreErrorKind::OutcomeUnknown
                        && self.owner_limit().is_some()
                    {
                        // It must not take a place from the owner's other sessions.
                        in_doubt.push(draft.new.record.clone());
                    }
                    if error.kind() == StoreErrorKind::Refused {
                        // A server that is full takes index entries all the same. Each login that
                        // it refuses would leave another one.
                        self.remove_from_index_in_background(Some(draft.new.record));
                    }
                    self.inner.backend.pause_after(&mut attempts, error).await?;
                }
            }
        }
    }

    fn draft(
        &self,
        token: SessionToken,
        encoded: &Encoded<T>,
        continues: Option<&Record<T>>,
        ownership: Option<&Ownership>,
        term: Term,
    ) -> Draft<T> {
        let id = token.session_id();
        let now = self.inner.clock.moment();
        let (mut meta, ttl) = self.new_meta(now.wall, id, term);
        if let Some(base) = continues {
            meta.origin = base.origin();
            if !ownership.is_some_and(|it| it.is_new) {
                meta.logged_in_at = base.meta().logged_in_at;
            }
        }
        let data = encoded.data().clone();
        let record = Record::new(now, id, meta, data, encoded.data_len());
        let payload = self.inner.codec.payload(&id, &meta, encoded.bytes());
        let stored = Stored { meta, content: Content::Payload(payload) };
        Draft { new: NewSession { id, token, record }, stored, ttl }
    }

    async fn write_draft(&self, draft: &Draft<T>) -> Result<Created, StoreError> {
        let Draft { new, stored, ttl } = draft;
        let create = self.inner.backend.create(&new.id, stored, *ttl);
        let created = |answer: &_| matches!(answer, Ok(Created::Created));
        self.inner.cache.write_through(&new.record, None, create, created).await
    }

    /// Creates a session in memory without waiting. The store must use this backend.
    pub(crate) fn create_in_memory(&self, memory: &MemoryBackend, data: T) -> Record<T> {
        let id = SessionToken::random().session_id();
        let now = self.inner.clock.moment();
        let (meta, ttl) = self.new_meta(now.wall, id, Term::Ordinary);
        // The first change of the session reports data that cannot be encoded.
        let encoded = self.inner.codec.encode(&data);
        let data_len = encoded.as_ref().map_or(0, Encoded::data_len);
        let record = Record::new(now, id, meta, data, data_len);
        let payload = encoded
            .map_or_else(|_| Bytes::new(), |it| self.inner.codec.payload(&id, &meta, it.bytes()));
        memory.create_now(&id, &Stored { meta, content: Content::Payload(payload) }, ttl);
        record
    }

    /// Returns the metadata of a session created now, and its time to live.
    fn new_meta(&self, now: Timestamp, origin: SessionId, term: Term) -> (Meta, Duration) {
        let deadline = self.inner.lifetimes.first_deadline(term, now);
        let meta = Meta {
            lifespan: term.lifespan(),
            ..Meta::new(Revision::first(), now, deadline, origin)
        };
        (meta, time_to_live(deadline, now))
    }
}
