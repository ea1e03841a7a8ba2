//! Checks of the owner index.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::{LONG, PATIENCE, any_id, any_record, ok, same};
use crate::backend::{Backend, Created, Cursor, OwnerTag, Page, Timestamp};
use crate::clock::Clock;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::SessionId;
use crate::random::random_bytes;
use crate::record::Revision;

/// A number of entries that fits neither into one page nor into a compact encoding of small sets.
const MANY: usize = 1000;
/// The longest time by which the clocks of the backend and of this machine may differ.
const SKEW: Duration = Duration::from_secs(1);

fn any_owner() -> OwnerTag {
    OwnerTag::from_bytes(random_bytes())
}

/// Returns the moment that is `time` from now.
fn after(time: Duration) -> Timestamp {
    Clock::tokio().wall().saturating_add(time)
}

/// Returns `false` if the backend consistently keeps no owner index.
pub(super) async fn is_supported(backend: &impl Backend) -> bool {
    let (owner, id) = (any_owner(), any_id());
    let missing = |error: Option<StoreError>| {
        error.is_some_and(|error| error.kind() == StoreErrorKind::NotConfigured)
    };
    let answers = [
        missing(backend.add_to_owner(&owner, &id, after(LONG)).await.err()),
        missing(backend.sessions_of_owner(&owner, None).await.err()),
        missing(backend.remove_from_owner(&owner, &id).await.err()),
    ];
    let all_or_none = answers.iter().all(|missing| *missing == answers[0]);
    assert!(all_or_none, "a backend implements all methods of the owner index or none");
    !answers[0]
}

/// Scans an owner's index.
async fn entries(backend: &impl Backend, owner: &OwnerTag) -> HashSet<SessionId> {
    let (mut found, mut cursor) = (HashSet::new(), None::<Cursor>);
    loop {
        match ok(backend.sessions_of_owner(owner, cursor.as_ref()).await) {
            Page::Ids { ids, moved, next, .. } => {
                same(&moved, &Vec::new(), "a page of an owner index has no moved ids");
                found.extend(ids);
                cursor = next;
            }
            Page::Restart => (found, cursor) = Default::default(),
        }
        if cursor.is_none() {
            return found;
        }
    }
}

pub(super) async fn each_owner_has_its_own_index(backend: &impl Backend) {
    let (one, other) = (any_owner(), any_owner());
    let ids: HashSet<_> = [(); 3].map(|()| any_id()).into();
    for id in &ids {
        ok(backend.add_to_owner(&one, id, after(LONG)).await);
        ok(backend.add_to_owner(&one, id, after(LONG)).await);
    }
    same(
        &entries(backend, &one).await,
        &ids,
        "an owner index has each session that was added, once",
    );
    same(
        &entries(backend, &other).await,
        &HashSet::new(),
        "an owner index has no sessions of another owner",
    );

    let id = any_id();
    ok(backend.add_to_owner(&one, &id, after(LONG)).await);
    ok(backend.add_to_owner(&other, &id, after(LONG)).await);
    ok(backend.remove_from_owner(&one, &id).await);
    ok(backend.remove_from_owner(&one, &id).await);
    same(&entries(backend, &one).await, &ids, "a removed session is no longer in the owner index");
    same(
        &entries(backend, &other).await,
        &[id].into(),
        "a session is removed from one owner's index only",
    );
}

pub(super) async fn an_entry_can_be_given_less_time(backend: &impl Backend) {
    let (owner, short, long) = (any_owner(), any_id(), any_id());
    for id in [&short, &long] {
        ok(backend.add_to_owner(&owner, id, after(LONG)).await);
    }
    ok(backend.expire_in_owner(&owner, &long, LONG).await);
    ok(backend.expire_in_owner(&owner, &any_id(), LONG).await);
    same(
        &entries(backend, &owner).await,
        &[short, long].into(),
        "an entry lives for as long as it may, and none is added",
    );
}

pub(super) async fn a_scan_of_an_index_finds_each_entry(backend: &impl Backend) {
    let owner = any_owner();
    let mut ids = HashSet::new();
    for _ in 0..MANY {
        let id = any_id();
        ok(backend.add_to_owner(&owner, &id, after(LONG)).await);
        ok(backend.add_to_owner(&any_owner(), &any_id(), after(LONG)).await);
        ids.insert(id);
    }
    let found = entries(backend, &owner).await;
    same(&found.len(), &MANY, "a scan finds each entry and none of another owner");
    same(&found, &ids, "a scan finds each entry");
    let page = ok(backend.scan(None).await);
    assert!(
        !matches!(page, Page::Ids { ids, .. } if !ids.is_empty()),
        "an entry of an owner index is not a session"
    );
}

pub(super) async fn an_entry_lives_until_its_time_and_expires_after_it(backend: &impl Backend) {
    let (owner, left_alone) = (any_owner(), any_owner());
    let (short, extended, not_lengthened, long) = (any_id(), any_id(), any_id(), any_id());
    let soon = after(SKEW * 2);
    ok(backend.add_to_owner(&owner, &extended, after(LONG)).await);
    for id in [&short, &extended, &not_lengthened] {
        ok(backend.add_to_owner(&owner, id, soon).await);
    }
    ok(backend.expire_in_owner(&owner, &not_lengthened, LONG).await);
    ok(backend.add_to_owner(&left_alone, &long, after(LONG)).await);
    ok(backend.add_to_owner(&left_alone, &short, soon).await);
    let begin = Instant::now();
    let mut live = entries(backend, &owner).await;
    while live.contains(&short) || live.contains(&not_lengthened) {
        assert!(begin.elapsed() < PATIENCE, "an entry of an owner index does not expire");
        tokio::time::sleep(Duration::from_millis(10)).await;
        ok(backend.add_to_owner(&owner, &long, after(LONG)).await);
        live = entries(backend, &owner).await;
    }
    assert!(after(SKEW) >= soon, "an entry of an owner index expired before its time");
    same(&live.contains(&extended), &true, "an entry lives until the latest time given for it");
    same(
        &entries(backend, &left_alone).await.contains(&long),
        &true,
        "an owner index lives as long as its last entry",
    );
}

pub(super) async fn clear_keeps_the_owner_index(backend: &impl Backend) {
    let (owner, id) = (any_owner(), any_id());
    ok(backend.add_to_owner(&owner, &id, after(LONG)).await);
    same(&ok(backend.clear(b"clear").await), &0, "an entry of an owner index is not a session");
    same(
        &entries(backend, &owner).await,
        &[id].into(),
        "`clear` removes nothing from an owner index",
    );
    let created = ok(backend.create(&id, &any_record(Revision::first()), LONG).await);
    same(
        &created,
        &Created::Created,
        "an entry of an owner index does not prevent the creation of its session",
    );
}
