//! Watches on sessions: what ends them, how soon, and what does not. Under a paused clock, on two
//! nodes over one backend; the second one's link has faults.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use clustered_sessions::backend::{Backend, Content, Revision, Stored, Update, Updated};
use clustered_sessions::testing::{BackendMethod, Faults, FaultyBackend, Interposed, Interposer};
use clustered_sessions::{
    Clock, ClusterConfig, Ended, MemoryBackend, Session, SessionConfig, SessionConfigBuilder,
    SessionId, SessionLayer, SessionWatch, StoreError,
};
use futures_util::future::join_all;
use futures_util::{StreamExt as _, poll, stream};
use http::{HeaderValue, Request, StatusCode};
use tokio::task::JoinSet;
use tokio::time::{Instant, advance, sleep, timeout};
use tower::ServiceExt as _;

use crate::handles::session_after_the_head;
use crate::web::{Browser, Call, Data, Spy, ada, config, request, secret, serve, settle, start};

/// The defaults.
pub(crate) const MAX_STALENESS: Duration = Duration::from_secs(2);
pub(crate) const GRACE: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(60);
/// How late a watch is that is called by the pulse.
pub(crate) const PULSE: Duration = Duration::from_millis(500);
pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) struct Nodes {
    pub(crate) here: SessionLayer<Data>,
    pub(crate) there: SessionLayer<Data>,
    /// Those of the link of `there`.
    pub(crate) faults: Faults,
}

impl Nodes {
    async fn start() -> Self {
        Self::with(ClusterConfig::new()).await
    }

    /// Starts nodes of which the second has this configuration.
    pub(crate) async fn with(there: ClusterConfig) -> Self {
        let clock = Clock::tokio();
        let memory = MemoryBackend::with_clock(clock.clone());
        let (backend, faults) = FaultyBackend::new(memory.clone(), 1);
        Nodes {
            here: node(&clock, memory, ClusterConfig::new()).await,
            there: node(&clock, backend, there).await,
            faults,
        }
    }

    pub(crate) async fn session(&self) -> SessionId {
        self.here.store().create(ada()).await.unwrap().id
    }

    /// Waits for the end of a session on the second node. Returns it with the time that it took.
    async fn ended(&self, id: SessionId) -> (Ended, Duration) {
        let begun = Instant::now();
        (self.there.store().watch(id).ended().await, begun.elapsed())
    }
}

pub(crate) async fn node(
    clock: &Clock,
    backend: impl Backend,
    cluster: ClusterConfig,
) -> SessionLayer<Data> {
    start(config_of_node(clock, backend, cluster)).await
}

fn config_of_node(
    clock: &Clock,
    backend: impl Backend,
    cluster: ClusterConfig,
) -> SessionConfigBuilder<Data> {
    SessionConfig::builder(secret())
        .backend(backend)
        .clock(clock.clone())
        .timeout(TIMEOUT)
        .owner(|data: &Data| data.user.clone())
        .cluster(cluster.local_cache_ttl(TIMEOUT))
}

/// Asserts that a future is not ready for some time.
async fn lasts(future: impl Future<Output = Ended>, time: Duration) {
    assert_eq!(timeout(time, future).await.ok(), None);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_on_another_node_ends_a_watch_at_once() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    let mut ended = pin!(nodes.there.store().watch(id).ended());
    lasts(&mut ended, SECOND * 30).await;
    let begun = Instant::now();
    assert!(nodes.here.store().delete(id).await.unwrap());
    assert_eq!(ended.await, Ended::Revoked);
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn all_watchers_of_a_session_are_told() {
    let nodes = Nodes::start().await;
    let (ended, other) = (nodes.session().await, nodes.session().await);
    let mut watchers = JoinSet::new();
    for _ in 0..1000 {
        watchers.spawn(nodes.there.store().watch(ended).ended());
    }
    let mut kept = pin!(nodes.there.store().watch(other).ended());
    lasts(&mut kept, SECOND).await;
    assert!(nodes.here.store().delete(ended).await.unwrap());
    assert_eq!(watchers.join_all().await, [Ended::Revoked; 1000]);
    lasts(kept, SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn a_change_is_told_once_on_whatever_node_it_is_made() {
    let nodes = Nodes::start().await;
    for writer in [&nodes.here, &nodes.there] {
        let id = nodes.session().await;
        let mut watch = nodes.there.store().watch(id);
        assert_eq!(*watch.changed().await.unwrap().data(), ada(), "what is there in the beginning");
        assert!(timeout(SECOND, watch.changed()).await.is_err());
        writer.store().modify(id, |data| data.visits += 1).await.unwrap();
        writer.store().modify(id, |data| data.visits += 1).await.unwrap();
        assert_eq!(watch.changed().await.unwrap().data().visits, 2);
        assert!(timeout(SECOND, watch.changed()).await.is_err());
    }
}

/// The first call after a change fails for one of two watches. The other one reads the session.
#[tokio::test(start_paused = true)]
async fn a_watch_that_could_not_read_a_change_tries_again_although_another_one_has_read_it() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    let [mut early, mut late] = [(); 2].map(|()| nodes.there.store().watch(id));
    early.changed().await.unwrap();
    late.changed().await.unwrap();
    let mut early = pin!(early.changed());
    assert!(poll!(&mut early).is_pending());
    nodes.faults.fail_calls(1.0);
    nodes.here.store().modify(id, |data| data.visits += 1).await.unwrap();
    assert!(timeout(PULSE / 2, &mut early).await.is_err(), "its look fails");
    nodes.faults.heal();
    assert_eq!(late.changed().await.unwrap().data().visits, 1);
    assert!(timeout(SECOND, late.changed()).await.is_err());
    assert_eq!(timeout(SECOND, early).await.unwrap().unwrap().data().visits, 1);
}

/// Counts the loads that run at the same time.
#[derive(Clone, Default)]
struct Crowd(Arc<Mutex<(usize, usize)>>);

impl Interposer for Crowd {
    async fn around<R: Send + 'static>(
        &self,
        _: BackendMethod,
        call: impl Future<Output = Result<R, StoreError>> + Send + 'static,
    ) -> Result<R, StoreError> {
        {
            let (now, most) = &mut *self.0.lock().unwrap();
            *now += 1;
            *most = (*most).max(*now);
        }
        sleep(SECOND / 100).await;
        let result = call.await;
        self.0.lock().unwrap().0 -= 1;
        result
    }
}

#[tokio::test(start_paused = true)]
async fn when_all_watches_look_at_once_64_of_them_read() {
    let (clock, crowd) = (Clock::tokio(), Crowd::default());
    let backend =
        Interposed::with_interposer(MemoryBackend::with_clock(clock.clone()), crowd.clone());
    let sessions = node(&clock, backend, ClusterConfig::new()).await;
    let mut watches = JoinSet::new();
    for _ in 0..200 {
        let session = sessions.store().create(ada()).await.unwrap();
        watches.spawn(sessions.store().watch(session.id).ended());
    }
    sleep(SECOND).await;
    crowd.0.lock().unwrap().1 = 0;
    sessions.store().coordinator().local_cache().clear();
    sleep(SECOND).await;
    assert_eq!(*crowd.0.lock().unwrap(), (0, 64));
    assert!(watches.try_join_next().is_none());
}

/// Counts the loads.
#[derive(Clone, Default)]
struct Loads(Arc<AtomicU32>);

impl Interposer for Loads {
    async fn around<R: Send + 'static>(
        &self,
        method: BackendMethod,
        call: impl Future<Output = Result<R, StoreError>> + Send + 'static,
    ) -> Result<R, StoreError> {
        self.0.fetch_add(u32::from(method == BackendMethod::Load), Ordering::Relaxed);
        sleep(SECOND / 100).await;
        call.await
    }
}

#[tokio::test(start_paused = true)]
async fn the_watches_of_a_session_share_what_they_load_when_it_moves() {
    let (clock, loads) = (Clock::tokio(), Loads::default());
    let memory = MemoryBackend::with_clock(clock.clone());
    let here = node(&clock, memory.clone(), ClusterConfig::new()).await;
    let counted = Interposed::with_interposer(memory, loads.clone());
    let there = node(&clock, counted, ClusterConfig::new()).await;
    let cookie = here.cookie_for(ada()).await.unwrap();
    let old = crate::web::only_id(&here).await;
    let mut watches: Vec<_> = (0..50).map(|_| there.store().watch(old)).collect();
    for watch in &mut watches {
        watch.changed().await.unwrap();
    }
    let before = loads.0.load(Ordering::Relaxed);
    regenerate(&here, cookie).await;
    for moved in join_all(watches.iter_mut().map(SessionWatch::changed)).await {
        assert_eq!(moved.unwrap().origin(), old);
    }
    let made = loads.0.load(Ordering::Relaxed) - before;
    assert_eq!(made, 2, "one finds the tombstone, and one the session");
}

#[tokio::test(start_paused = true)]
async fn watches_that_are_not_polled_hold_up_no_other() {
    let clock = Clock::tokio();
    let (backend, faults) = FaultyBackend::new(MemoryBackend::with_clock(clock.clone()), 1);
    faults.delay_calls_by(SECOND / 100..SECOND / 50);
    let sessions = node(&clock, backend, ClusterConfig::new()).await;
    let store = sessions.store();
    let mut watches = Vec::new();
    for _ in 0..65 {
        watches.push(store.watch(store.create(ada()).await.unwrap().id));
    }
    store.coordinator().local_cache().clear();
    let mut last = watches.pop().unwrap();
    let mut unpolled: Vec<_> = watches.iter_mut().map(|watch| Box::pin(watch.changed())).collect();
    for watch in &mut unpolled {
        assert!(poll!(watch).is_pending());
    }
    assert!(timeout(SECOND, last.changed()).await.expect("there is a turn for it").is_ok());
}

/// As a loop does that has other things to wait for, which take this long.
#[tokio::test(start_paused = true)]
async fn a_watch_whose_caller_cancels_each_call_ends_after_the_grace_all_the_same() {
    for (others, limit) in [(Duration::ZERO, GRACE + SECOND), (SECOND * 2, GRACE + SECOND * 10)] {
        let clock = Clock::tokio();
        let (backend, faults) = FaultyBackend::new(MemoryBackend::with_clock(clock.clone()), 1);
        let hour = SECOND * 3600;
        let patient = config_of_node(&clock, backend, ClusterConfig::new());
        let sessions = start(patient.attempt_timeout(hour).operation_timeout(hour)).await;
        let id = sessions.store().create(ada()).await.unwrap().id;
        let mut watch = sessions.store().watch(id);
        watch.changed().await.unwrap();
        faults.delay_calls_by(hour..hour * 2);
        sessions.store().coordinator().local_cache().clear();
        let begun = Instant::now();
        let ended = loop {
            if let Ok(changed) = timeout(SECOND / 10, watch.changed()).await {
                break changed.unwrap_err();
            }
            assert!(begun.elapsed() <= limit, "after {:?}", begun.elapsed());
            sleep(others).await;
        };
        assert_eq!(ended, Ended::Unknown);
    }
}

/// A slow client keeps a stream from asking.
#[tokio::test(start_paused = true)]
async fn a_watch_that_nobody_has_asked_for_long_reads_the_session_before_it_gives_up() {
    let clock = Clock::tokio();
    let memory = MemoryBackend::with_clock(clock.clone());
    let (backend, faults) = FaultyBackend::new(memory, 1);
    let slow = || faults.delay_calls_by(SECOND / 100..SECOND / 50);
    slow();
    let cluster = ClusterConfig::new().local_cache_enabled(false);
    let sessions = node(&clock, backend, cluster).await;
    let id = sessions.store().create(ada()).await.unwrap().id;
    let mut watch = sessions.store().watch(id);
    sleep(GRACE + SECOND).await;
    assert!(watch.changed().await.is_ok());
    sleep(GRACE + SECOND).await;
    assert!(timeout(SECOND, watch.changed()).await.is_err(), "nothing has changed");
    faults.fail_calls(1.0);
    assert!(timeout(PULSE, watch.changed()).await.is_err(), "it cannot be read");
    faults.heal();
    slow();
    sleep(GRACE + SECOND).await;
    lasts(watch.ended(), SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn an_expiry_ends_a_watch() {
    let nodes = Nodes::start().await;
    let (ended, after) = nodes.ended(nodes.session().await).await;
    assert_eq!(ended, Ended::Expired);
    assert!((TIMEOUT..=TIMEOUT + PULSE * 2).contains(&after), "after {after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_used_on_another_node_does_not_end() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    let mut ended = pin!(nodes.there.store().watch(id).ended());
    lasts(&mut ended, TIMEOUT - SECOND * 10).await;
    assert!(nodes.here.store().touch(id).await.unwrap());
    lasts(&mut ended, TIMEOUT - SECOND * 10).await;
    assert_eq!(ended.await, Ended::Expired);
}

#[tokio::test(start_paused = true)]
async fn a_watch_follows_a_regeneration() {
    let nodes = Nodes::start().await;
    let cookie = nodes.here.cookie_for(ada()).await.unwrap();
    let old = crate::web::only_id(&nodes.here).await;
    let mut watch = nodes.there.store().watch(old);
    watch.changed().await.unwrap();
    regenerate(&nodes.here, cookie).await;

    let moved = watch.changed().await.unwrap();
    assert!(moved.id() != old && moved.origin() == old && watch.id() == moved.id());
    let mut ended = pin!(watch.ended());
    lasts(&mut ended, SECOND).await;
    assert!(nodes.here.store().delete(moved.id()).await.unwrap());
    assert_eq!(ended.await, Ended::Revoked);
}

/// Writes a session's record behind the backs of the nodes.
async fn write(memory: &MemoryBackend, id: SessionId, content: Content, ttl: Duration) {
    let mut meta = stored(memory, id).await.meta;
    let before = std::mem::replace(&mut meta.revision, Revision::from_bytes([7; 16]));
    let written = Stored::new(meta, content);
    let update = Update::new(&id, before, &written, ttl, b"no announcement");
    assert!(matches!(memory.update(update).await, Ok(Updated::Saved)));
}

async fn stored(memory: &MemoryBackend, id: SessionId) -> Stored {
    memory.load(&id).await.unwrap().unwrap()
}

/// Whoever can write to the backend can do that, also if records are encrypted.
#[tokio::test(start_paused = true)]
async fn a_forged_tombstone_leads_a_watch_to_no_session_of_another_visitor() {
    let clock = Clock::tokio();
    let memory = MemoryBackend::with_clock(clock.clone());
    let cluster = ClusterConfig::new().local_cache_enabled(false);
    let sessions = node(&clock, memory.clone(), cluster).await;
    let [own, other] = [sessions.store().create(ada()).await, sessions.store().create(ada()).await]
        .map(|created| created.unwrap().id);
    let mut watch = sessions.store().watch(own);
    watch.changed().await.unwrap();

    write(&memory, own, Content::MovedTo(other), TIMEOUT).await;
    assert!(!watch.visit().await.unwrap());
    assert_eq!(timeout(SECOND, watch.changed()).await.unwrap().unwrap_err(), Ended::Deleted);
}

/// The first of several watches has begun what wakes the others up.
#[tokio::test(start_paused = true)]
async fn a_watch_outlives_the_runtime_of_another_one() {
    let nodes = Nodes::start().await;
    let (id, store) = (nodes.session().await, nodes.there.store().clone());
    let other = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut first = store.watch(id);
    let other = std::thread::spawn(move || {
        other.block_on(first.changed()).unwrap();
        other
    });
    let other = other.join().unwrap();
    let mut ended = pin!(store.watch(id).ended());
    lasts(&mut ended, SECOND).await;
    other.shutdown_background();
    assert_eq!(timeout(TIMEOUT + SECOND, ended).await, Ok(Ended::Expired));
}

/// As after Redis has evicted it, which it does not announce.
#[tokio::test(start_paused = true)]
async fn a_load_that_finds_no_session_ends_its_watches() {
    let clock = Clock::tokio();
    let memory = MemoryBackend::with_clock(clock.clone());
    let sessions = node(&clock, memory.clone(), ClusterConfig::new()).await;
    let id = sessions.store().create(ada()).await.unwrap().id;
    let mut ended = pin!(sessions.store().watch(id).ended());
    lasts(&mut ended, SECOND).await;
    write(&memory, id, stored(&memory, id).await.content, SECOND).await;
    lasts(&mut ended, SECOND * 2).await;
    assert!(sessions.store().find_fresh(id).await.unwrap().is_none());
    assert_eq!(timeout(SECOND, ended).await, Ok(Ended::Deleted));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_visited_over_a_stream_lives_on() {
    let nodes = Nodes::start().await;
    let mut watch = nodes.there.store().watch(nodes.session().await);
    watch.changed().await.unwrap();
    for _ in 0..10 {
        sleep(TIMEOUT / 2).await;
        assert!(watch.visit().await.unwrap());
        settle().await;
    }
    sleep(TIMEOUT).await;
    assert!(!watch.visit().await.unwrap());
    assert_eq!(watch.ended().await, Ended::Expired);
}

#[tokio::test(start_paused = true)]
async fn visits_extend_a_session_only_when_a_quarter_of_its_timeout_has_passed() {
    let spy = Spy::new();
    let sessions = start(config(&spy).clock(Clock::tokio()).timeout(TIMEOUT)).await;
    let id = sessions.store().create(ada()).await.unwrap().id;
    let watch = sessions.store().watch(id);
    for over_a_stream in [true, false] {
        let visit = async || {
            if over_a_stream {
                assert!(watch.visit().await.unwrap());
            } else {
                assert_eq!(*sessions.store().visit(id).await.unwrap().unwrap().data(), ada());
            }
            settle().await;
            spy.take_calls()
        };
        spy.take_calls();
        assert_eq!(visit().await, []);
        advance(TIMEOUT / 4).await;
        assert_eq!(visit().await, []);
        advance(Duration::from_millis(1)).await;
        assert_eq!(visit().await, [Call::Touch]);
        assert_eq!(visit().await, []);
    }
    assert!(sessions.store().touch(id).await.unwrap());
    assert_eq!(spy.take_calls(), [Call::Touch], "`touch` extends it each time");
}

#[tokio::test(start_paused = true)]
async fn a_visit_follows_a_session_to_its_new_id() {
    let nodes = Nodes::start().await;
    let cookie = nodes.here.cookie_for(ada()).await.unwrap();
    let old = crate::web::only_id(&nodes.here).await;
    let watch = nodes.there.store().watch(old);
    regenerate(&nodes.here, cookie).await;
    assert!(watch.visit().await.unwrap());
    assert_eq!(nodes.there.store().visit(old).await.unwrap().map(|record| record.id()), None);
}

/// Sends a request that gives a session a new id.
pub(crate) async fn regenerate(node: &SessionLayer<Data>, cookie: HeaderValue) {
    request(node, cookie, Session::regenerate).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_once() {
    let nodes = Nodes::start().await;
    let mut watch = nodes.there.store().watch(nodes.session().await);
    watch.changed().await.unwrap();
    nodes.faults.stall_subscriptions();
    nodes.faults.fail_calls(1.0);
    assert_eq!(watch.changed().await.unwrap_err(), Ended::Unknown);
    nodes.faults.heal();
    sleep(GRACE).await;
    assert_eq!(watch.changed().await.unwrap_err(), Ended::Unknown);
}

/// The ways to end a session.
#[derive(Clone, Copy, Debug)]
enum End {
    Destroy,
    Replace,
    Delete,
    BulkDelete,
    DeleteAllOf,
    DeleteAllOfExcept,
}

impl End {
    /// Ends the only session of a node, whose cookie this is.
    async fn end(self, node: &SessionLayer<Data>, cookie: HeaderValue, id: SessionId) {
        let (store, nobody) = (node.store(), SessionId::from_bytes([0; 16]));
        match self {
            End::Destroy => request(node, cookie, Session::destroy).await,
            End::Replace => request(node, cookie, |session| session.replace(ada())).await,
            End::Delete => assert!(store.delete(id).await.unwrap()),
            End::BulkDelete => assert_eq!(store.bulk_delete(|_| true).await.unwrap().deleted, 1),
            End::DeleteAllOf => assert_eq!(store.delete_all_of("Ada").await.unwrap().deleted, 1),
            End::DeleteAllOfExcept => {
                let done = store.delete_all_of_except("Ada", nobody).await.unwrap();
                assert_eq!(done.deleted, 1);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_reason_of_a_deletion_is_told_on_every_node() {
    for (end, reason) in [
        (End::Destroy, Ended::LoggedOut),
        (End::Replace, Ended::Replaced),
        (End::Delete, Ended::Revoked),
        (End::BulkDelete, Ended::Revoked),
        (End::DeleteAllOf, Ended::OwnerRevoked),
        (End::DeleteAllOfExcept, Ended::OwnerRevoked),
    ] {
        let nodes = Nodes::start().await;
        let cookie = nodes.here.cookie_for(ada()).await.unwrap();
        let id = crate::web::only_id(&nodes.here).await;
        let mut here = pin!(nodes.here.store().watch(id).ended());
        let mut there = pin!(nodes.there.store().watch(id).ended());
        lasts(&mut here, SECOND).await;
        lasts(&mut there, SECOND).await;
        end.end(&nodes.here, cookie, id).await;
        assert_eq!((here.await, there.await), (reason, reason), "{end:?}");
    }
}

/// The deletion is not carried out, and the session expires later.
#[tokio::test(start_paused = true)]
async fn the_reason_of_a_deletion_that_has_failed_is_forgotten() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    let store = nodes.there.store();
    let mut ended = pin!(store.watch(id).ended());
    lasts(&mut ended, SECOND).await;
    nodes.faults.fail_calls(1.0);
    store.delete(id).await.unwrap_err();
    nodes.faults.heal();
    lasts(&mut ended, SECOND).await;
    nodes.faults.stall_subscriptions();
    assert_eq!(nodes.here.store().bulk_delete(|_| true).await.unwrap().deleted, 1);
    assert_eq!(ended.await, Ended::Deleted, "the node has not heard why");
}

#[tokio::test(start_paused = true)]
async fn clearing_the_store_ends_all_watches() {
    let nodes = Nodes::start().await;
    let mut ended = pin!(nodes.there.store().watch(nodes.session().await).ended());
    lasts(&mut ended, SECOND).await;
    nodes.here.store().clear().await.unwrap();
    assert_eq!(ended.await, Ended::Deleted);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_during_a_silent_failure_ends_a_watch_within_the_promise() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    let mut ended = pin!(nodes.there.store().watch(id).ended());
    lasts(&mut ended, SECOND).await;
    nodes.faults.stall_subscriptions();
    assert!(nodes.here.store().delete(id).await.unwrap());
    let begun = Instant::now();
    assert_eq!(ended.await, Ended::Deleted);
    assert!(begun.elapsed() <= MAX_STALENESS + PULSE, "after {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_deletion_whose_announcement_is_lost_ends_a_watch_when_the_node_is_connected_again() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    let mut ended = pin!(nodes.there.store().watch(id).ended());
    lasts(&mut ended, SECOND).await;
    nodes.faults.drop_announcements_briefly();
    settle().await;
    assert!(nodes.here.store().delete(id).await.unwrap());
    let begun = Instant::now();
    assert_eq!(ended.await, Ended::Deleted);
    assert!(begun.elapsed() <= Duration::from_millis(100), "after {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_watch_on_a_node_that_is_cut_off_ends_after_the_grace() {
    let nodes = Nodes::start().await;
    let mut ended = pin!(nodes.there.store().watch(nodes.session().await).ended());
    lasts(&mut ended, SECOND).await;
    nodes.faults.stall_subscriptions();
    nodes.faults.fail_calls(1.0);
    let begun = Instant::now();
    lasts(&mut ended, GRACE).await;
    assert_eq!(ended.await, Ended::Unknown);
    assert!(begun.elapsed() <= MAX_STALENESS + GRACE + PULSE, "after {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_a_request_begins_late_counts_from_when_its_session_was_seen() {
    let nodes = Nodes::start().await;
    let browser = Browser::with(&nodes.there, ada()).await;
    let session = session_after_the_head(&nodes.there, &browser).await;
    nodes.faults.stall_subscriptions();
    nodes.faults.fail_calls(1.0);
    let begun = Instant::now();
    sleep(SECOND * 8).await;
    assert_eq!(session.ended().await, Ended::Unknown);
    assert!(begun.elapsed() <= MAX_STALENESS + GRACE + PULSE, "after {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_watch_whose_session_cannot_be_read_ends_after_the_grace_although_the_node_listens() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    let mut watch = nodes.there.store().watch(id);
    watch.changed().await.unwrap();
    nodes.faults.fail_calls(1.0);
    nodes.here.store().modify(id, |data| data.visits += 1).await.unwrap();
    let begun = Instant::now();
    assert_eq!(watch.changed().await.unwrap_err(), Ended::Unknown);
    assert!((GRACE..=GRACE + PULSE).contains(&begun.elapsed()), "after {:?}", begun.elapsed());
}

/// Without retries, a read fails before any time has passed.
#[tokio::test(start_paused = true)]
async fn a_watch_whose_reads_fail_at_once_ends_after_the_grace() {
    let clock = Clock::tokio();
    let (backend, faults) = FaultyBackend::new(MemoryBackend::with_clock(clock.clone()), 1);
    let node = start(config_of_node(&clock, backend, ClusterConfig::new()).enable_retry(false));
    let node = node.await;
    let id = node.store().create(ada()).await.unwrap().id;
    let mut ended = pin!(node.store().watch(id).ended());
    lasts(&mut ended, SECOND).await;
    faults.cut_subscriptions();
    faults.fail_calls(1.0);
    lasts(&mut ended, GRACE - PULSE).await;
    assert_eq!(timeout(PULSE * 2 + SECOND / 100, ended).await, Ok(Ended::Unknown));
}

/// Such a node reads the session once in a pulse.
#[tokio::test(start_paused = true)]
async fn a_grace_that_is_shorter_than_a_pulse_ends_no_watch_on_a_node_without_a_cache() {
    let cluster = ClusterConfig::new().local_cache_enabled(false).watch_grace(PULSE / 2);
    let nodes = Nodes::with(cluster).await;
    nodes.faults.delay_calls_by(SECOND / 50..SECOND / 25);
    let id = nodes.session().await;
    let mut ended = pin!(nodes.there.store().watch(id).ended());
    lasts(&mut ended, SECOND * 30).await;
    assert!(nodes.here.store().delete(id).await.unwrap());
    assert_eq!(timeout(SECOND, ended).await, Ok(Ended::Deleted));
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_ends_no_watch() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    let mut ended = pin!(nodes.there.store().watch(id).ended());
    for _ in 0..3 {
        nodes.faults.cut_subscriptions();
        nodes.faults.refuse_subscriptions();
        nodes.faults.fail_calls(1.0);
        lasts(&mut ended, GRACE - SECOND).await;
        nodes.faults.heal();
        lasts(&mut ended, SECOND * 5).await;
    }
    assert!(nodes.here.store().delete(id).await.unwrap());
    assert_eq!(ended.await, Ended::Revoked);
}

#[tokio::test(start_paused = true)]
async fn a_node_without_a_cache_asks_for_what_it_watches() {
    let nodes = Nodes::with(ClusterConfig::new().local_cache_enabled(false)).await;
    let id = nodes.session().await;
    let mut ended = pin!(nodes.there.store().watch(id).ended());
    lasts(&mut ended, SECOND * 30).await;
    assert!(nodes.here.store().delete(id).await.unwrap());
    let begun = Instant::now();
    assert_eq!(ended.await, Ended::Deleted);
    assert!(begun.elapsed() <= PULSE, "after {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_node_without_clustering_notices_its_own_changes_and_logouts() {
    let nodes = Nodes::with(ClusterConfig::new().enabled(false)).await;
    let id = nodes.session().await;
    let store = nodes.there.store();
    let mut watch = store.watch(id);
    watch.changed().await.unwrap();
    let mut ended = pin!(store.watch(id).ended());
    lasts(&mut ended, SECOND).await;
    {
        let mut changed = pin!(watch.changed());
        assert!(poll!(&mut changed).is_pending());
        store.modify(id, |data| data.visits += 1).await.unwrap();
        assert_eq!(changed.await.unwrap().data().visits, 1);
    }
    assert!(store.delete(id).await.unwrap());
    assert_eq!(ended.await, Ended::Revoked);
}

#[tokio::test(start_paused = true)]
async fn a_node_without_clustering_notices_the_end_of_a_session_when_it_must_read_it_again() {
    let clock = Clock::tokio();
    let memory = MemoryBackend::with_clock(clock.clone());
    let here = node(&clock, memory.clone(), ClusterConfig::new()).await;
    let alone = ClusterConfig::new().enabled(false).local_cache_ttl(SECOND * 20);
    let config = config_of_node(&clock, memory, ClusterConfig::new()).cluster(alone);
    let there = start(config).await;
    let id = here.store().create(ada()).await.unwrap().id;
    assert!(there.store().find(id).await.unwrap().is_some());
    sleep(SECOND * 10).await;
    let mut ended = pin!(there.store().watch(id).ended());
    lasts(&mut ended, SECOND * 5).await;
    assert!(here.store().delete(id).await.unwrap());
    let begun = Instant::now();
    assert_eq!(ended.await, Ended::Deleted);
    assert!(begun.elapsed() <= SECOND * 5 + PULSE, "after {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_all_watches() {
    for cluster in [ClusterConfig::new(), ClusterConfig::new().enabled(false)] {
        let nodes = Nodes::with(cluster).await;
        let mut ended = pin!(nodes.there.store().watch(nodes.session().await).ended());
        lasts(&mut ended, SECOND).await;
        nodes.there.store().shutdown().await;
        assert_eq!(timeout(Duration::from_millis(1), ended).await, Ok(Ended::Unknown), "at once");
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_asks_nothing_while_nothing_happens() {
    let spy = Spy::new();
    let sessions = start(config(&spy)).await;
    let id = sessions.store().create(ada()).await.unwrap().id;
    let mut ended = pin!(sessions.store().watch(id).ended());
    assert!(poll!(&mut ended).is_pending());
    spy.take_calls();
    lasts(&mut ended, SECOND * 50).await;
    assert_eq!(spy.take_calls(), []);
    sessions.store().evict_from_cache(id);
    lasts(&mut ended, SECOND).await;
    assert_eq!(spy.take_calls(), [Call::Load]);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_has_seen_nothing() {
    let nodes = Nodes::start().await;
    let id = nodes.session().await;
    let mut watch = nodes.there.store().watch(id);
    watch.changed().await.unwrap();
    {
        let mut dropped = pin!(watch.changed());
        assert!(poll!(&mut dropped).is_pending());
        nodes.here.store().modify(id, |data| data.visits += 1).await.unwrap();
        settle().await;
    }
    assert_eq!(watch.changed().await.unwrap().data().visits, 1);
}

#[tokio::test(start_paused = true)]
async fn watches_that_begin_after_all_others_have_ended_work() {
    let nodes = Nodes::start().await;
    for _ in 0..3 {
        assert_eq!(nodes.ended(nodes.session().await).await.0, Ended::Expired);
        advance(SECOND * 10).await;
        sleep(SECOND * 10).await;
    }
}

#[tokio::test]
async fn a_visitor_without_a_session_has_nothing_to_wait_for() {
    let sessions = start(config(&MemoryBackend::new())).await;
    let handler = async |session: Session<Data>| {
        assert!(session.watch().is_none());
        assert_eq!(session.ended().await, Ended::Deleted);
        let events = session.until_ended(stream::pending::<()>());
        assert_eq!(events.count().await, 0);
    };
    let request = Request::get("/").body(Body::empty()).unwrap();
    let response = serve(&sessions, handler).oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_request_that_ends_its_session_ends_its_streams() {
    let session = Session::detached(ada());
    let mut watch = session.watch().unwrap();
    session.modify(|data| data.visits += 1).await.unwrap();
    assert_eq!(watch.changed().await.unwrap().data().visits, 1);
    let events = session.until_ended(stream::repeat(()).chain(stream::pending()));
    let mut events = pin!(events);
    assert_eq!(events.next().await, Some(()));
    session.destroy();
    assert!(session.watch().is_none());
    session.save().await.unwrap();
    assert_eq!(events.next().await, None);
    assert_eq!(watch.changed().await.unwrap_err(), Ended::LoggedOut);
}
