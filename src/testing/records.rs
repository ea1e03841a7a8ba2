//! Checks of records.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::{
    LONG, PATIENCE, any_id, any_record, extension, later, ok, same, tombstone, with_payload,
};
use crate::backend::{Backend, Created, Deleted, Page, Timestamp, Touched, Update, Updated};
use crate::id::SessionId;
use crate::record::{Content, Revision, Stored};

const ANNOUNCEMENT: &[u8] = b"announcement";

pub(super) async fn an_unknown_id_has_no_record(backend: &impl Backend) {
    same(&ok(backend.load(&any_id()).await), &None, "an unknown id is `None` and no error");
    same(
        &ok(backend.touch(&any_id(), extension(Timestamp::from_millis(1), LONG)).await),
        &Touched::Gone,
        "an unknown id cannot be touched",
    );
    ok(backend.ping().await);
}

pub(super) async fn a_record_is_loaded_as_it_was_created(backend: &impl Backend) {
    let large = with_payload(Revision::first(), vec![0xa5; 256 * 1024]);
    let empty = with_payload(Revision::first(), Vec::new());
    for stored in
        [any_record(Revision::first()), large, empty, tombstone(Revision::first(), any_id())]
    {
        let id = any_id();
        same(
            &ok(backend.create(&id, &stored, LONG).await),
            &Created::Created,
            "a record is created under a new id",
        );
        same(&ok(backend.load(&id).await), &Some(stored), "a record is loaded as it was created");
    }
}

pub(super) async fn creating_twice_changes_nothing(backend: &impl Backend) {
    let (id, first) = created(backend).await;
    let second = any_record(Revision::first());
    same(
        &ok(backend.create(&id, &second, LONG).await),
        &Created::Exists,
        "an existing record is not created again",
    );
    same(&ok(backend.load(&id).await), &Some(first), "a second creation changes nothing");
}

pub(super) async fn an_update_of_the_expected_revision_is_saved(backend: &impl Backend) {
    let (id, base) = created(backend).await;
    let new = with_payload(base.meta.revision.next(), "new");
    same(
        &ok(update(backend, &id, &base, &new).await),
        &Updated::Saved,
        "a record with the expected revision is replaced",
    );
    same(&ok(backend.load(&id).await), &Some(new), "the new record is loaded after an update");
}

pub(super) async fn an_update_of_another_revision_is_a_conflict(backend: &impl Backend) {
    let (id, current) = created(backend).await;
    let stale = any_record(Revision::first());
    let new = with_payload(stale.meta.revision.next(), "new");
    let answer = ok(update(backend, &id, &stale, &new).await);
    same(
        &answer,
        &Updated::Conflict(current.clone()),
        "a conflict returns the record that is there",
    );
    same(&ok(backend.load(&id).await), &Some(current.clone()), "a conflict changes nothing");

    let moved = tombstone(current.meta.revision.next(), any_id());
    same(
        &ok(update(backend, &id, &current, &moved).await),
        &Updated::Saved,
        "an update can write a tombstone",
    );
    let answer = ok(update(backend, &id, &current, &new).await);
    same(&answer, &Updated::Conflict(moved), "a tombstone with another revision is a conflict");
}

pub(super) async fn an_update_never_creates(backend: &impl Backend) {
    let (id, base) = (any_id(), any_record(Revision::first()));
    let new = with_payload(base.meta.revision.next(), "new");
    same(
        &ok(update(backend, &id, &base, &new).await),
        &Updated::Gone,
        "a missing record is not updated",
    );
    same(&ok(backend.load(&id).await), &None, "an update never creates");
}

pub(super) async fn an_update_can_be_retried(backend: &impl Backend) {
    let (id, base) = created(backend).await;
    let new = with_payload(base.meta.revision.next(), "new");
    same(
        &ok(update(backend, &id, &base, &new).await),
        &Updated::Saved,
        "a record with the expected revision is replaced",
    );
    same(
        &ok(update(backend, &id, &base, &new).await),
        &Updated::Saved,
        "an update that finds its own revision is saved",
    );
    same(&ok(backend.load(&id).await), &Some(new), "a retry changes nothing");
}

pub(super) async fn concurrent_updates_lose_nothing(backend: &impl Backend) {
    const WRITERS: u64 = 20;
    let id = any_id();
    ok(backend
        .create(&id, &with_payload(Revision::first(), 0u64.to_be_bytes().to_vec()), LONG)
        .await);
    let count = |stored: &Stored| match &stored.content {
        Content::Payload(payload) => payload[..].try_into().map(u64::from_be_bytes).ok(),
        Content::MovedTo(_) => None,
    };
    let write = async || {
        let Some(mut base) = ok(backend.load(&id).await) else { panic!("the record is gone") };
        loop {
            let Some(counted) = count(&base) else { panic!("the payload has changed") };
            let new = with_payload(base.meta.revision.next(), (counted + 1).to_be_bytes().to_vec());
            match ok(update(backend, &id, &base, &new).await) {
                Updated::Saved => return,
                Updated::Conflict(current) => base = current,
                Updated::Gone => panic!("the record is gone"),
            }
        }
    };
    futures_util::future::join_all((0..WRITERS).map(|_| write())).await;
    let last = ok(backend.load(&id).await).and_then(|stored| count(&stored));
    same(&last, &Some(WRITERS), "each concurrent update is applied exactly once");
}

pub(super) async fn a_deleted_record_is_gone(backend: &impl Backend) {
    let (id, _) = created(backend).await;
    same(
        &ok(backend.delete(&id, ANNOUNCEMENT).await),
        &Deleted::Deleted,
        "an existing record is deleted",
    );
    same(&ok(backend.load(&id).await), &None, "a deleted record is not loaded");
    same(
        &ok(backend.delete(&id, ANNOUNCEMENT).await),
        &Deleted::Gone,
        "a missing record is not deleted again",
    );
}

pub(super) async fn a_deletion_reports_a_tombstone_and_keeps_it(backend: &impl Backend) {
    let (id, to) = (any_id(), any_id());
    let moved = tombstone(Revision::first(), to);
    ok(backend.create(&id, &moved, LONG).await);
    same(
        &ok(backend.delete(&id, ANNOUNCEMENT).await),
        &Deleted::MovedTo(to),
        "a deletion reports the id that a tombstone names",
    );
    same(&ok(backend.load(&id).await), &Some(moved), "a deletion keeps a tombstone");
    same(
        &ok(backend.touch(&id, extension(Timestamp::from_millis(u64::MAX), LONG)).await),
        &Touched::Gone,
        "a tombstone is not extended",
    );
}

pub(super) async fn a_conditional_deletion_keeps_another_revision(backend: &impl Backend) {
    let (id, current) = created(backend).await;
    let answer = ok(backend.delete_if(&id, Revision::first(), ANNOUNCEMENT).await);
    same(
        &answer,
        &Deleted::Conflict(current.clone()),
        "a conditional deletion of another revision is a conflict",
    );
    same(&ok(backend.load(&id).await), &Some(current.clone()), "a conflict changes nothing");
    let answer = ok(backend.delete_if(&id, current.meta.revision, ANNOUNCEMENT).await);
    same(&answer, &Deleted::Deleted, "a conditional deletion removes its revision");
    let answer = ok(backend.delete_if(&id, current.meta.revision, ANNOUNCEMENT).await);
    same(&answer, &Deleted::Gone, "a missing record is not deleted again");
}

pub(super) async fn a_record_ends_with_its_time_to_live(backend: &impl Backend) {
    let (created, updated, touched) = (any_id(), any_id(), any_id());
    let short = Duration::from_millis(50);
    let stored = any_record(Revision::first());
    ok(backend.create(&created, &stored, short).await);
    ok(backend.create(&updated, &stored, LONG).await);
    ok(backend.create(&touched, &stored, short).await);
    let new = with_payload(stored.meta.revision.next(), "new");
    ok(backend
        .update(Update::new(&updated, stored.meta.revision, &new, short, ANNOUNCEMENT))
        .await);
    ok(backend.touch(&touched, extension(later(stored.meta.deadline), LONG)).await);
    for id in [created, updated] {
        let begin = Instant::now();
        while ok(backend.load(&id).await).is_some() {
            assert!(begin.elapsed() < PATIENCE, "a record outlives its time to live");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert!(
        ok(backend.load(&touched).await).is_some(),
        "a touched record lives for its new time to live"
    );
    same(
        &ok(backend.touch(&created, extension(Timestamp::from_millis(u64::MAX), LONG)).await),
        &Touched::Gone,
        "an expired record cannot be touched",
    );
}

pub(super) async fn a_touch_extends_and_never_shortens(backend: &impl Backend) {
    let id = any_id();
    let mut stored = any_record(Revision::first());
    let deadline = stored.meta.deadline;
    ok(backend.create(&id, &stored, LONG).await);

    let forward = extension(later(deadline), LONG * 2);
    same(
        &ok(backend.touch(&id, forward).await),
        &Touched::Extended,
        "an existing record is extended",
    );
    stored.meta.deadline = forward.deadline;
    stored.meta.used_at = forward.used_at;
    same(
        &ok(backend.load(&id).await),
        &Some(stored.clone()),
        "a touch changes only the deadline and the time of the last use",
    );

    let back = extension(deadline.saturating_sub(Duration::from_millis(1)), LONG / 2);
    same(
        &ok(backend.touch(&id, back).await),
        &Touched::Extended,
        "a touch with an earlier deadline is no error",
    );
    stored.meta.used_at = back.used_at;
    same(
        &ok(backend.load(&id).await),
        &Some(stored),
        "a touch does not move the deadline back, and records the time of use all the same",
    );
}

pub(super) async fn a_scan_finds_each_session_and_reports_tombstones_apart(backend: &impl Backend) {
    let mut sessions = HashSet::new();
    for _ in 0..1000 {
        sessions.insert(created(backend).await.0);
    }
    let mut targets = HashSet::new();
    for _ in 0..10 {
        let to = any_id();
        ok(backend.create(&any_id(), &tombstone(Revision::first(), to), LONG).await);
        targets.insert(to);
    }
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
            break;
        }
    }
    same(&sessions.difference(&found).count(), &0, "a scan finds each session");
    same(&found.difference(&sessions).count(), &0, "a scan finds nothing but sessions");
    same(&moved_to, &targets, "a scan reports the ids that tombstones name");
}

pub(super) async fn clear_leaves_nothing(backend: &impl Backend) {
    let mut ids = Vec::new();
    for _ in 0..700 {
        ids.push(created(backend).await.0);
    }
    let tombstone_id = any_id();
    ok(backend.create(&tombstone_id, &tombstone(Revision::first(), any_id()), LONG).await);
    same(&ok(backend.clear(ANNOUNCEMENT).await), &700, "`clear` counts sessions and no tombstones");
    ids.push(tombstone_id);
    for id in ids {
        same(&ok(backend.load(&id).await), &None, "`clear` removes each record");
    }
    same(&ok(backend.clear(ANNOUNCEMENT).await), &0, "`clear` of an empty backend counts nothing");
}

async fn created(backend: &impl Backend) -> (SessionId, Stored) {
    let (id, stored) = (any_id(), any_record(Revision::first()));
    same(
        &ok(backend.create(&id, &stored, LONG).await),
        &Created::Created,
        "a record is created under a new id",
    );
    (id, stored)
}

async fn update(
    backend: &impl Backend,
    id: &SessionId,
    base: &Stored,
    new: &Stored,
) -> Result<Updated, crate::error::StoreError> {
    backend.update(Update::new(id, base.meta.revision, new, LONG, ANNOUNCEMENT)).await
}
