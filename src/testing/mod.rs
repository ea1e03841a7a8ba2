//! A conformance suite for implementations of [`Backend`], and backends that fail or can be
//! observed, for tests of applications.
//!
//! Needs the feature `testing`.
//!
//! ```
//! # use clustered_sessions::{MemoryBackend, testing};
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! // The closure makes a new, empty backend for each check. Over one database, give each its
//! // own namespace.
//! testing::conformance(async || MemoryBackend::new()).await;
//! # }
//! ```

mod announcements;
mod expiry;
mod faulty;
mod interposed;
mod owners;
mod records;

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use self::faulty::{Faults, FaultyBackend};
pub use self::interposed::{BackendMethod, Interposed, Interposer};
use crate::backend::{Backend, Created, Extension, Lifespan, Page, Timestamp};
use crate::error::StoreError;
use crate::id::SessionId;
use crate::random::random_bytes;
use crate::record::{Content, Meta, Revision, Stored};

/// A time to live that is longer than any check.
const LONG: Duration = Duration::from_secs(600);
/// The time that a check waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs every check of the contract of [`Backend`], each on a new backend from `make`.
///
/// A backend that keeps no owner index is not checked for it, provided that all three methods of
/// the group fail with [`NotConfigured`](crate::StoreErrorKind::NotConfigured).
///
/// # Time
///
/// The checks wait for records to expire, for a few seconds in all, by the clock of tokio. A
/// backend that follows it, as [`MemoryBackend`](crate::MemoryBackend) does with
/// [`Clock::tokio`](crate::Clock::tokio), can be checked under a paused clock in no time. For any
/// other, use a runtime with several threads, on which concurrent calls run in parallel. Its clock
/// and that of this machine may differ by up to a second, and a call must not take that long.
///
/// # Stability
///
/// Checks are added and sharpened as the contract is understood better, in minor and patch releases
/// too. A release that makes a correct backend fail is a bug; a release that finds a fault in a
/// backend is not a breaking change.
///
/// # Panics
///
/// Panics if the backend breaks the contract. The message says which promise it breaks.
pub async fn conformance<B: Backend>(make: impl AsyncFn() -> B) {
    macro_rules! run {
        ($($module:ident::$check:ident),* $(,)?) => {
            $(
                tracing::info!(check = stringify!($check), "conformance");
                let backend = Arc::new(make().await);
                $module::$check(&backend).await;
                backend.close().await;
            )*
        };
    }
    run!(
        records::an_unknown_id_has_no_record,
        records::a_record_is_loaded_as_it_was_created,
        records::creating_twice_changes_nothing,
        records::an_update_of_the_expected_revision_is_saved,
        records::an_update_of_another_revision_is_a_conflict,
        records::an_update_never_creates,
        records::an_update_can_be_retried,
        records::concurrent_updates_lose_nothing,
        records::a_deleted_record_is_gone,
        records::a_deletion_reports_a_tombstone_and_keeps_it,
        records::a_conditional_deletion_keeps_another_revision,
        records::a_scan_finds_each_session_and_reports_tombstones_apart,
        records::clear_leaves_nothing,
        expiry::a_record_ends_with_its_time_to_live,
        expiry::an_expired_record_is_gone_for_each_call,
        expiry::a_touch_extends_and_never_shortens,
        expiry::a_touch_does_not_extend_a_fixed_lifespan,
        announcements::a_subscription_is_confirmed_and_alive,
        announcements::writes_are_announced_in_order,
        announcements::announcements_about_no_session_arrive,
        announcements::calls_that_change_nothing_are_not_announced,
        announcements::each_deletion_is_announced,
        announcements::alive_comes_after_all_announcements_before_it,
        announcements::each_subscriber_receives_each_announcement,
    );
    let backend = make().await;
    let keeps_owner_index = owners::is_supported(&backend).await;
    backend.close().await;
    if keeps_owner_index {
        run!(
            owners::each_owner_has_its_own_index,
            owners::an_entry_can_be_given_less_time,
            owners::a_scan_of_an_index_finds_each_entry,
            owners::an_entry_lives_until_its_time_and_expires_after_it,
            owners::clear_keeps_the_owner_index,
        );
    }
}

fn any_id() -> SessionId {
    SessionId::from_bytes(random_bytes())
}

/// Returns a record whose payload has each byte value once.
fn any_record(revision: Revision) -> Stored {
    with_payload(revision, (0..=255).collect::<Vec<u8>>())
}

fn with_payload(revision: Revision, payload: impl Into<Bytes>) -> Stored {
    Stored { meta: any_meta(revision), content: Content::Payload(payload.into()) }
}

fn tombstone(revision: Revision, to: SessionId) -> Stored {
    Stored { meta: any_meta(revision), content: Content::MovedTo(to) }
}

/// Returns metadata whose fields all differ, from each other and from those of any other call.
fn any_meta(revision: Revision) -> Meta {
    let offset = u64::from(u32::from_be_bytes(random_bytes())) * 10;
    let moment = |millis: u64| Timestamp::from_millis(1_700_000_000_000 + offset + millis);
    Meta {
        logged_in_at: moment(1),
        used_at: moment(2),
        // Not the one that a record has which is made with `Meta::new`.
        lifespan: Lifespan::Remembered,
        ..Meta::new(revision, moment(0), moment(600_000), any_id())
    }
}

/// Creates a record under a new id.
async fn created(backend: &impl Backend, ttl: Duration) -> (SessionId, Stored) {
    let (id, stored) = (any_id(), any_record(Revision::first()));
    same(
        &ok(backend.create(&id, &stored, ttl).await),
        &Created::Created,
        "a record is created under a new id",
    );
    (id, stored)
}

/// Returns the ids of all sessions, and those that tombstones name.
async fn scan(backend: &impl Backend) -> (HashSet<SessionId>, HashSet<SessionId>) {
    let (mut found, mut moved_to, mut cursor) = (HashSet::new(), HashSet::new(), None);
    loop {
        match ok(backend.scan(cursor.as_ref()).await) {
            Page::Ids { ids, moved, next, .. } => {
                found.extend(ids);
                moved_to.extend(moved);
                cursor = next;
            }
            Page::Restart => cursor = None,
        }
        if cursor.is_none() {
            return (found, moved_to);
        }
    }
}

/// Returns an extension whose time of use no other has.
fn extension(deadline: Timestamp, ttl: Duration) -> Extension {
    Extension::new(deadline, deadline.saturating_sub(Duration::from_millis(1234)), ttl)
}

/// Returns the moment one millisecond later.
fn later(moment: Timestamp) -> Timestamp {
    moment.saturating_add(Duration::from_millis(1))
}

/// Returns the answer of a call that must not fail.
#[track_caller]
fn ok<R>(answer: Result<R, StoreError>) -> R {
    match answer {
        Ok(answer) => answer,
        Err(error) => panic!("the backend failed: {error:?}"),
    }
}

#[track_caller]
fn same<V: PartialEq + Debug>(found: &V, expected: &V, promise: &str) {
    assert!(found == expected, "{promise}\n   found: {found:?}\nexpected: {expected:?}");
}
