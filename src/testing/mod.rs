//! For those who write a [`Backend`], the suite that says whether it is right; for those who build on one, a backend that fails.
//! Feature `testing`.
//!
//! ```
//! # use clustered_sessions::{MemoryBackend, testing};
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! // A new, empty backend for each check; over one database, give each a name space of its own.
//! testing::conformance(async || MemoryBackend::new()).await;
//! # }
//! ```

mod announcements;
mod faulty;
mod owners;
mod records;

use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;

pub use self::faulty::{Faults, FaultyBackend};
use crate::backend::Backend;
use crate::error::StoreError;
use crate::id::SessionId;
use crate::random::random_bytes;
use crate::record::{Content, Meta, Revision, Stored};

/// A time to live that no check outlives.
const LONG: Duration = Duration::from_secs(600);
/// How long a check waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs every check, each on a backend of its own that `make` makes.
///
/// # Panics
///
/// If the backend does not keep one of the promises of [`Backend`]; the message says which.
pub async fn conformance<B: Backend>(make: impl AsyncFn() -> B) {
    macro_rules! run {
        ($($module:ident::$check:ident),* $(,)?) => {
            $(
                tracing::info!(check = stringify!($check), "conformance");
                let backend = make().await;
                $module::$check(&backend).await;
                backend.close().await;
            )*
        };
    }
    run!(
        records::what_was_never_created_is_not_there,
        records::what_was_created_is_loaded_as_it_was,
        records::creating_twice_changes_nothing,
        records::an_update_of_the_expected_revision_is_saved,
        records::an_update_of_another_revision_is_a_conflict,
        records::an_update_never_creates,
        records::an_update_can_be_repeated,
        records::concurrent_updates_lose_nothing,
        records::a_deleted_record_is_gone,
        records::a_tombstone_is_not_deleted_but_followed,
        records::a_conditional_delete_spares_another_revision,
        records::a_record_ends_with_its_time_to_live,
        records::a_touch_extends_and_never_shortens,
        records::a_walk_meets_every_session_and_no_tombstone,
        records::clear_leaves_nothing,
        owners::an_owner_is_not_taken_for_another,
        owners::a_walk_over_an_index_meets_all_of_it,
        owners::an_entry_lasts_until_its_moment_and_is_forgotten_after_it,
        owners::clear_leaves_the_indices,
        announcements::a_subscription_is_confirmed_and_proven,
        announcements::writes_are_announced_in_order,
        announcements::what_changed_nothing_is_not_announced,
        announcements::deletions_are_announced_even_of_what_was_gone,
        announcements::a_proof_comes_after_what_it_proves,
        announcements::every_subscriber_hears,
    );
}

fn any_id() -> SessionId {
    SessionId::from_bytes(random_bytes())
}

/// A record with some bytes of every value in its payload.
fn any_record(revision: Revision) -> Stored {
    with_payload(revision, (0..=255).collect::<Vec<u8>>())
}

fn with_payload(revision: Revision, payload: impl Into<Bytes>) -> Stored {
    Stored { meta: any_meta(revision), content: Content::Payload(payload.into()) }
}

fn tombstone(revision: Revision, to: SessionId) -> Stored {
    Stored { meta: any_meta(revision), content: Content::MovedTo(to) }
}

fn any_meta(revision: Revision) -> Meta {
    Meta { revision, created_at: 1_700_000_000_000, deadline: 1_700_000_600_000 }
}

/// The answer of a call that must not fail.
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
