//! The conformance suite finds each of these faults of a backend.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::thread::yield_now;
use std::time::{Duration, SystemTime};

use clustered_sessions::backend::{
    Backend, Content, Created, Cursor, Deleted, Event, Extension, Lifespan, Meta, OwnerTag, Page,
    Revision, Stored, Subscription, Timestamp, Touched, Update, Updated,
};
use clustered_sessions::testing::{self, BackendMethod};
use clustered_sessions::{Clock, MemoryBackend, SessionId, StoreError};
use futures_util::FutureExt as _;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// The way in which a backend differs from one that conforms in the plainest way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quirk {
    None,
    /// A subscription is confirmed late, and misses all announcements before. It may.
    ConnectsLate,
    /// The time of the last use is moved forward only. It may be.
    KeepsLatestUse,
    /// Records are kept without the columns that `Meta::new` does not take.
    ForgetsMeta,
    /// An update changes the revision and the content alone.
    UpdatesKeepMeta,
    /// An update compares in one step and writes in another.
    UpdatesRace,
    /// The announcements of this method are lost.
    AnnouncesNothing(BackendMethod),
    /// The announcements of this method are made after it has answered.
    AnnouncesLate(BackendMethod),
    /// This method finds expired records.
    FindsExpired(BackendMethod),
    /// An update leaves the time to live as it is.
    UpdatesKeepTtl,
    TouchKeepsTtl,
    TouchShortens,
    TouchMovesDeadlineBack,
    TouchForgetsUse,
    TouchExtendsFixed,
    TouchChangesFixed,
    /// A shorter life for an entry of the owner index replaces whatever is left of it.
    LengthensEntries,
    /// An entry of the owner index lives for less than is asked for.
    ShortensEntries,
}

struct Row {
    stored: Stored,
    expires: Instant,
}

/// A backend as one makes it of a database: a table of records, and a statement for each method.
struct Table {
    quirk: Quirk,
    rows: Mutex<BTreeMap<SessionId, Row>>,
    /// Delivers announcements, and has the owner index.
    others: MemoryBackend,
}

/// The first byte of an announcement that is delivered late.
const LATE: u8 = b'!';

impl Table {
    fn new(quirk: Quirk) -> Self {
        let others = MemoryBackend::with_clock(Clock::tokio());
        Table { quirk, rows: Mutex::default(), others }
    }

    fn is(&self, quirk: Quirk) -> bool {
        self.quirk == quirk
    }

    fn finds(&self, method: BackendMethod, row: &Row) -> bool {
        row.expires > Instant::now() || self.is(Quirk::FindsExpired(method))
    }

    async fn announce(&self, method: BackendMethod, announcement: &[u8]) {
        if self.is(Quirk::AnnouncesNothing(method)) {
            return;
        }
        let late = self.is(Quirk::AnnouncesLate(method));
        let message = [if late { &[LATE][..] } else { &[] }, announcement].concat();
        self.others.publish(&message).await.unwrap();
    }
}

impl Backend for Table {
    async fn load(&self, id: &SessionId) -> Result<Option<Stored>, StoreError> {
        let rows = self.rows.lock().await;
        let found = rows.get(id).filter(|row| self.finds(BackendMethod::Load, row));
        Ok(found.map(|Row { stored, .. }| {
            let Meta { revision, created_at, deadline, origin, .. } = stored.meta;
            let meta = match self.quirk {
                Quirk::ForgetsMeta => Meta::new(revision, created_at, deadline, origin),
                _ => stored.meta,
            };
            Stored::new(meta, stored.content.clone())
        }))
    }

    async fn create(
        &self,
        id: &SessionId,
        stored: &Stored,
        ttl: Duration,
    ) -> Result<Created, StoreError> {
        let mut rows = self.rows.lock().await;
        if rows.get(id).is_some_and(|row| self.finds(BackendMethod::Create, row)) {
            return Ok(Created::Exists);
        }
        rows.insert(*id, Row { stored: stored.clone(), expires: Instant::now() + ttl });
        Ok(Created::Created)
    }

    async fn update(&self, update: Update<'_>) -> Result<Updated, StoreError> {
        let mut rows = self.rows.lock().await;
        let found = rows.get(update.id).filter(|row| self.finds(BackendMethod::Update, row));
        let Some(found) = found.map(|row| row.stored.clone()) else { return Ok(Updated::Gone) };
        if self.is(Quirk::UpdatesRace) {
            drop(rows);
            (0..1000).for_each(|_| yield_now());
            rows = self.rows.lock().await;
        }
        if found.meta.revision == update.stored.meta.revision {
            return Ok(Updated::Saved);
        }
        if found.meta.revision != update.expected {
            return Ok(Updated::Conflict(found));
        }
        self.announce(BackendMethod::Update, update.announcement).await;
        let row = rows.get_mut(update.id).unwrap();
        row.stored = update.stored.clone();
        if self.is(Quirk::UpdatesKeepMeta) {
            row.stored.meta = found.meta;
            row.stored.meta.revision = update.stored.meta.revision;
        }
        if !self.is(Quirk::UpdatesKeepTtl) {
            row.expires = Instant::now() + update.ttl;
        }
        Ok(Updated::Saved)
    }

    async fn delete(&self, id: &SessionId, announcement: &[u8]) -> Result<Deleted, StoreError> {
        let mut rows = self.rows.lock().await;
        self.announce(BackendMethod::Delete, announcement).await;
        match rows.get(id).filter(|row| self.finds(BackendMethod::Delete, row)) {
            None => Ok(Deleted::Gone),
            Some(Row { stored: Stored { content: Content::MovedTo(to), .. }, .. }) => {
                Ok(Deleted::MovedTo(*to))
            }
            Some(_) => {
                rows.remove(id);
                Ok(Deleted::Deleted)
            }
        }
    }

    async fn delete_if(
        &self,
        id: &SessionId,
        revision: Revision,
        announcement: &[u8],
    ) -> Result<Deleted, StoreError> {
        let mut rows = self.rows.lock().await;
        let found = rows.get(id).filter(|row| self.finds(BackendMethod::DeleteIf, row));
        let answer = match found {
            Some(Row { stored, .. }) if stored.meta.revision != revision => {
                return Ok(Deleted::Conflict(stored.clone()));
            }
            Some(_) => Deleted::Deleted,
            None => Deleted::Gone,
        };
        self.announce(BackendMethod::DeleteIf, announcement).await;
        rows.remove(id);
        Ok(answer)
    }

    async fn touch(&self, id: &SessionId, extension: Extension) -> Result<Touched, StoreError> {
        let mut rows = self.rows.lock().await;
        let Some(row) = rows.get_mut(id).filter(|row| self.finds(BackendMethod::Touch, row)) else {
            return Ok(Touched::Gone);
        };
        if matches!(row.stored.content, Content::MovedTo(_)) {
            return Ok(Touched::Gone);
        }
        let meta = &mut row.stored.meta;
        let is_fixed = meta.lifespan == Lifespan::Fixed;
        let expires = Instant::now() + extension.ttl;
        if !is_fixed || self.is(Quirk::TouchExtendsFixed) {
            row.expires = match self.quirk {
                Quirk::TouchKeepsTtl => row.expires,
                Quirk::TouchShortens => expires,
                _ => row.expires.max(expires),
            };
        }
        if !is_fixed || self.is(Quirk::TouchChangesFixed) {
            meta.deadline = match self.quirk {
                Quirk::TouchMovesDeadlineBack if row.expires == expires => extension.deadline,
                _ => meta.deadline.max(extension.deadline),
            };
            meta.used_at = match self.quirk {
                Quirk::TouchForgetsUse if meta.deadline != extension.deadline => meta.used_at,
                Quirk::KeepsLatestUse => meta.used_at.max(extension.used_at),
                _ => extension.used_at,
            };
        }
        Ok(Touched::Extended)
    }

    async fn clear(&self, announcement: &[u8]) -> Result<u64, StoreError> {
        let mut rows = self.rows.lock().await;
        self.announce(BackendMethod::Clear, announcement).await;
        let is_session = |row: &&Row| matches!(row.stored.content, Content::Payload(_));
        let counted = rows.values().filter(|row| self.finds(BackendMethod::Clear, row));
        let sessions = counted.filter(is_session).count();
        rows.clear();
        Ok(sessions as u64)
    }

    async fn scan(&self, _: Option<&Cursor>) -> Result<Page, StoreError> {
        let rows = self.rows.lock().await;
        let (mut ids, mut moved) = (Vec::new(), Vec::new());
        for (id, row) in rows.iter().filter(|(_, row)| self.finds(BackendMethod::Scan, row)) {
            match row.stored.content {
                Content::MovedTo(to) => moved.push(to),
                _ => ids.push(*id),
            }
        }
        Ok(Page::new(ids, moved, None))
    }

    async fn publish(&self, announcement: &[u8]) -> Result<(), StoreError> {
        self.announce(BackendMethod::Publish, announcement).await;
        Ok(())
    }

    async fn subscribe(&self, heartbeat: Duration) -> Result<Subscription, StoreError> {
        let mut from = self.others.subscribe(heartbeat).await?;
        let (mut to, subscription) = Subscription::channel();
        let connects_late = self.is(Quirk::ConnectsLate);
        tokio::spawn(async move {
            if connects_late {
                while !matches!(from.next().await, Some(Event::Alive(_))) {}
                to.send(Event::Connected);
            }
            // A late announcement, and all behind it, wait until the next proof has overtaken them.
            let mut waiting = Vec::new();
            while let Some(event) = from.next().await {
                match event {
                    Event::Message(message) if message.first() == Some(&LATE) => {
                        waiting.push(message.slice(1..));
                    }
                    Event::Message(message) if !waiting.is_empty() => waiting.push(message),
                    event => {
                        let is_proof = matches!(event, Event::Alive(_));
                        if !to.send(event) {
                            return;
                        }
                        for message in waiting.drain(..).filter(|_| is_proof) {
                            to.send(Event::Message(message));
                        }
                    }
                }
            }
        });
        Ok(subscription)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn close(&self) {}

    async fn add_to_owner(
        &self,
        owner: &OwnerTag,
        id: &SessionId,
        until: Timestamp,
    ) -> Result<(), StoreError> {
        let until = match self.quirk {
            Quirk::ShortensEntries => until.saturating_sub(Duration::from_secs(2)),
            _ => until,
        };
        self.others.add_to_owner(owner, id, until).await
    }

    async fn remove_from_owner(&self, owner: &OwnerTag, id: &SessionId) -> Result<(), StoreError> {
        self.others.remove_from_owner(owner, id).await
    }

    async fn expire_in_owner(
        &self,
        owner: &OwnerTag,
        id: &SessionId,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        let page = self.others.sessions_of_owner(owner, None).await?;
        let exists = matches!(page, Page::Ids { ids, .. } if ids.contains(id));
        if exists && self.is(Quirk::LengthensEntries) {
            let until = Timestamp::from(SystemTime::now()).saturating_add(ttl);
            self.others.add_to_owner(owner, id, until).await?;
        }
        self.others.expire_in_owner(owner, id, ttl).await
    }

    async fn sessions_of_owner(
        &self,
        owner: &OwnerTag,
        cursor: Option<&Cursor>,
    ) -> Result<Page, StoreError> {
        self.others.sessions_of_owner(owner, cursor).await
    }
}

async fn conformance(quirk: Quirk) {
    testing::conformance(async || Table::new(quirk)).await;
}

/// Asserts that the suite finds a quirk, by the check of this promise.
async fn assert_found(quirk: Quirk, promise: &str) {
    let run = AssertUnwindSafe(conformance(quirk)).catch_unwind().await;
    let panic = run.expect_err("the suite has found nothing");
    let literal = || panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let message = panic.downcast_ref::<String>().cloned().or_else(literal).unwrap();
    assert!(message.starts_with(promise), "found: {message}\nexpected: {promise}");
}

#[tokio::test(start_paused = true)]
async fn a_table_of_records_conforms() {
    conformance(Quirk::None).await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_confirms_subscriptions_late_conforms() {
    conformance(Quirk::ConnectsLate).await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_keeps_the_latest_use_conforms() {
    conformance(Quirk::KeepsLatestUse).await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_forgets_metadata_is_found() {
    assert_found(Quirk::ForgetsMeta, "a record is loaded as it was created").await;
    assert_found(Quirk::UpdatesKeepMeta, "the new record is loaded after an update").await;
}

/// Under the real clock: it takes threads that run at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backend_whose_updates_overtake_each_other_is_found() {
    assert_found(Quirk::UpdatesRace, "each concurrent update is applied exactly once").await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_announces_after_it_has_answered_is_found() {
    for (method, name) in [
        (BackendMethod::Publish, "publish"),
        (BackendMethod::Update, "update"),
        (BackendMethod::Delete, "delete"),
        (BackendMethod::DeleteIf, "delete_if"),
        (BackendMethod::Clear, "clear"),
    ] {
        let promise = format!("`Alive` overtook the announcement that `{name}` has made");
        assert_found(Quirk::AnnouncesLate(method), &promise).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_announces_nothing_is_found() {
    assert_found(Quirk::AnnouncesNothing(BackendMethod::Update), "writes are announced").await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_finds_expired_records_is_found() {
    for (method, promise) in [
        (BackendMethod::Load, "a record outlives its time to live"),
        (BackendMethod::Scan, "a scan finds neither expired records nor expired tombstones"),
        (BackendMethod::Update, "an expired record is not updated"),
        (BackendMethod::Touch, "an expired record cannot be touched"),
        (BackendMethod::Delete, "an expired record is not deleted again"),
        (BackendMethod::DeleteIf, "an expired record is neither deleted conditionally nor"),
        (BackendMethod::Clear, "`clear` does not count expired records"),
        (BackendMethod::Create, "an expired record does not prevent the creation"),
    ] {
        assert_found(Quirk::FindsExpired(method), promise).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_whose_records_live_too_long_or_too_briefly_is_found() {
    for (quirk, promise) in [
        (Quirk::UpdatesKeepTtl, "a record outlives its time to live"),
        (Quirk::TouchKeepsTtl, "a touched record lives for its new time to live"),
        (Quirk::TouchShortens, "a touch does not shorten the time to live"),
        (Quirk::TouchExtendsFixed, "a record outlives its time to live"),
    ] {
        assert_found(quirk, promise).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_whose_touches_change_too_much_or_too_little_is_found() {
    let promise = "a touch does not move the deadline back, and records the time of use";
    assert_found(Quirk::TouchMovesDeadlineBack, promise).await;
    assert_found(Quirk::TouchForgetsUse, promise).await;
    let promise = "a touch leaves a record with a fixed lifespan as it is";
    assert_found(Quirk::TouchChangesFixed, promise).await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_whose_index_entries_live_too_long_or_too_briefly_is_found() {
    let promise = "an entry of an owner index does not expire";
    assert_found(Quirk::LengthensEntries, promise).await;
    let promise = "an entry of an owner index expired before its time";
    assert_found(Quirk::ShortensEntries, promise).await;
}
