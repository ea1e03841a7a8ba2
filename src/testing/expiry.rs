//! Checks of the time for which records live.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::{
    LONG, PATIENCE, any_id, any_record, created, extension, later, ok, same, scan, tombstone,
    with_payload,
};
use crate::backend::{Backend, Created, Deleted, Extension, Lifespan, Touched, Update, Updated};
use crate::id::SessionId;
use crate::record::Revision;

/// The time to live of a record that a check only waits for.
const BRIEF: Duration = Duration::from_millis(50);
/// The time to live of a record that a call must still find.
const SHORT: Duration = Duration::from_secs(1);
const ANNOUNCEMENT: &[u8] = b"announcement";

/// Waits until a record is not loaded any more.
async fn expire(backend: &impl Backend, id: &SessionId) {
    let begin = Instant::now();
    while ok(backend.load(id).await).is_some() {
        assert!(begin.elapsed() < PATIENCE, "a record outlives its time to live");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(super) async fn a_record_ends_with_its_time_to_live(backend: &impl Backend) {
    let (touched, stored) = created(backend, SHORT).await;
    let extension = extension(later(stored.meta.deadline), LONG);
    same(
        &ok(backend.touch(&touched, extension).await),
        &Touched::Extended,
        "a record lives for its time to live",
    );
    let (updated, stored) = created(backend, LONG).await;
    let new = with_payload(stored.meta.revision.next(), "new");
    let update = Update::new(&updated, stored.meta.revision, &new, SHORT, ANNOUNCEMENT);
    ok(backend.update(update).await);
    let (untouched, _) = created(backend, SHORT).await;
    for id in [updated, untouched] {
        expire(backend, &id).await;
    }
    assert!(
        ok(backend.load(&touched).await).is_some(),
        "a touched record lives for its new time to live"
    );
}

pub(super) async fn an_expired_record_is_gone_for_each_call(backend: &impl Backend) {
    let (updated, base) = created(backend, BRIEF).await;
    let (touched, _) = created(backend, BRIEF).await;
    let (created_again, _) = created(backend, BRIEF).await;
    let (deleted, _) = created(backend, BRIEF).await;
    let (deleted_if, expected) = created(backend, BRIEF).await;
    let (another_revision, _) = created(backend, BRIEF).await;
    let moved = any_id();
    ok(backend.create(&moved, &tombstone(Revision::first(), any_id()), BRIEF).await);
    // The others are not loaded, which could remove them. They have expired when this one has.
    let (last, _) = created(backend, BRIEF).await;
    expire(backend, &last).await;

    same(
        &scan(backend).await,
        &(HashSet::new(), HashSet::new()),
        "a scan finds neither expired records nor expired tombstones",
    );
    let new = with_payload(base.meta.revision.next(), "new");
    let update = Update::new(&updated, base.meta.revision, &new, LONG, ANNOUNCEMENT);
    same(&ok(backend.update(update).await), &Updated::Gone, "an expired record is not updated");
    same(&ok(backend.load(&updated).await), &None, "an update never creates");
    same(
        &ok(backend.touch(&touched, extension(later(base.meta.deadline), LONG)).await),
        &Touched::Gone,
        "an expired record cannot be touched",
    );
    same(&ok(backend.load(&touched).await), &None, "a touch never creates");
    for id in [deleted, moved] {
        same(
            &ok(backend.delete(&id, ANNOUNCEMENT).await),
            &Deleted::Gone,
            "an expired record is not deleted again",
        );
    }
    for (id, revision) in
        [(deleted_if, expected.meta.revision), (another_revision, Revision::first())]
    {
        same(
            &ok(backend.delete_if(&id, revision, ANNOUNCEMENT).await),
            &Deleted::Gone,
            "an expired record is neither deleted conditionally nor a conflict",
        );
    }
    let again = any_record(Revision::first());
    same(
        &ok(backend.create(&created_again, &again, LONG).await),
        &Created::Created,
        "an expired record does not prevent the creation of another one",
    );
    same(
        &ok(backend.load(&created_again).await),
        &Some(again),
        "a record is loaded as it was created",
    );
    same(&ok(backend.clear(ANNOUNCEMENT).await), &1, "`clear` does not count expired records");
}

pub(super) async fn a_touch_extends_and_never_shortens(backend: &impl Backend) {
    let (id, mut stored) = created(backend, LONG).await;
    let deadline = stored.meta.deadline;
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

    // As touches of nodes with different timeouts do, and those that were delayed.
    for ttl in [BRIEF, LONG * 4] {
        stored.meta.used_at = later(stored.meta.used_at);
        let back = Extension::new(deadline, stored.meta.used_at, ttl);
        same(
            &ok(backend.touch(&id, back).await),
            &Touched::Extended,
            "a touch with an earlier deadline is no error",
        );
        same(
            &ok(backend.load(&id).await),
            &Some(stored.clone()),
            "a touch does not move the deadline back, and records the time of use all the same",
        );
    }

    let (shortened, stored) = created(backend, LONG).await;
    ok(backend.touch(&shortened, extension(later(stored.meta.deadline), BRIEF)).await);
    let (brief, _) = created(backend, BRIEF).await;
    expire(backend, &brief).await;
    assert!(
        ok(backend.load(&shortened).await).is_some(),
        "a touch does not shorten the time to live"
    );
}

pub(super) async fn a_touch_does_not_extend_a_fixed_lifespan(backend: &impl Backend) {
    let (id, mut stored) = (any_id(), any_record(Revision::first()));
    stored.meta.lifespan = Lifespan::Fixed;
    ok(backend.create(&id, &stored, SHORT).await);
    same(
        &ok(backend.touch(&id, extension(later(stored.meta.deadline), LONG)).await),
        &Touched::Extended,
        "a touch of a record with a fixed lifespan is no error",
    );
    let found = ok(backend.load(&id).await);
    same(&found, &Some(stored), "a touch leaves a record with a fixed lifespan as it is");
    expire(backend, &id).await;
}
