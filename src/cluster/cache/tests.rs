//! Tests of reads while announcements, loads, writes and losses of the subscription occur in
//! different orders.

use super::pending::PendingWrite;
use super::*;
use crate::record::Meta;

pub(super) const TTL: Duration = Duration::from_secs(60);

/// A cache and one session.
pub(super) struct Bench {
    pub(super) cache: Arc<LocalCache<u32>>,
    pub(super) clock: Clock,
    pub(super) id: SessionId,
}

/// Creates a cache whose lease is held until a test begins another epoch.
pub(super) fn bench() -> Bench {
    bench_for(100)
}

pub(super) fn bench_for(sessions: usize) -> Bench {
    let lease = Lease::new();
    let epoch = lease.bump();
    assert!(lease.extend(epoch, Millis(u64::MAX)));
    Bench::with_capacity(lease, sessions)
}

impl Bench {
    pub(super) fn over(lease: Lease) -> Self {
        Bench::with_capacity(lease, 100)
    }

    fn with_capacity(lease: Lease, sessions: usize) -> Self {
        let clock = Clock::tokio();
        let cache = Arc::new(LocalCache::new(
            lease,
            clock.clone(),
            TTL,
            Capacity { sessions, bytes: sessions as u64 * 100 },
            &Metrics::new(None),
        ));
        Bench { cache, clock, id: SessionId::from_bytes([1; 16]) }
    }

    pub(super) fn record(&self, data: u32) -> Record<u32> {
        let now = self.clock.wall();
        let deadline = now.saturating_add(Duration::from_secs(3600));
        let meta = Meta::new(Revision::first(), now, deadline, self.id);
        Record::new(self.clock.moment(), self.id, meta, data, 0)
    }

    pub(super) fn fill(&self, record: &Record<u32>) {
        self.cache.begin_load(&self.id).finish(Ok(record));
    }

    /// Finds that there are no sessions under this number of other ids.
    fn miss_others(&self, number: u32) {
        for number in 0..number {
            let mut bytes = [2; 16];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            self.cache.begin_load(&SessionId::from_bytes(bytes)).finish(Err(Absence::Gone));
        }
    }

    /// Caches this number of other sessions.
    pub(super) fn fill_others(&self, number: u32) {
        for number in 0..number {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            let id = SessionId::from_bytes(bytes);
            let record = Record::new(self.clock.moment(), id, self.record(0).meta(), number, 0);
            self.cache.begin_load(&id).finish(Ok(&record));
        }
    }

    pub(super) fn begin_write(&self, base: &Record<u32>) -> PendingWrite<u32> {
        self.cache.begin_write(&self.id, Some(base.revision()))
    }

    /// Returns the version that is served from the cache.
    pub(super) fn cached(&self) -> Option<u32> {
        self.cache.peek(&self.id).map(|record| *record.data())
    }
}

#[tokio::test(start_paused = true)]
async fn a_loaded_session_is_cached_until_its_time_to_live_has_passed_since_the_load_began() {
    let bench = bench();
    let load = bench.cache.begin_load(&bench.id);
    tokio::time::advance(TTL / 2).await;
    load.finish(Ok(&bench.record(1)));
    assert_eq!(bench.cached(), Some(1));
    tokio::time::advance(TTL / 2).await;
    assert_eq!(bench.cached(), None);
    assert!(matches!(bench.cache.get(&bench.id), Lookup::Miss));
    assert_eq!(bench.cache.stats().misses, 1, "an expired entry is a miss");
}

#[tokio::test(start_paused = true)]
async fn a_session_is_cached_until_its_deadline_and_longer_if_it_is_extended() {
    let bench = bench();
    let record = bench.record(1);
    let meta = Meta {
        deadline: bench.clock.wall().saturating_add(Duration::from_secs(1)),
        ..record.meta()
    };
    let record = Record::new(bench.clock.moment(), bench.id, meta, 1, 0);
    bench.fill(&record);
    tokio::time::advance(Duration::from_millis(999)).await;
    assert_eq!(bench.cached(), Some(1));
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(bench.cached(), None);
    record.extend(meta.deadline.saturating_add(Duration::from_secs(1)), bench.clock.wall());
    assert_eq!(bench.cached(), Some(1), "an extension moves the deadline of the cached record");
}

#[tokio::test(start_paused = true)]
async fn an_announcement_evicts_any_revision_except_the_announced_one() {
    let bench = bench();
    let record = bench.record(1);
    for (announced, expected) in
        [(Some(record.revision()), Some(1)), (Some(Revision::first()), None), (None, None)]
    {
        bench.fill(&record);
        bench.cache.evict(&bench.id, announced);
        assert_eq!(bench.cached(), expected);
    }
    assert_eq!(bench.cache.stats().invalidations, 2);
}

#[tokio::test(start_paused = true)]
async fn a_load_that_a_change_has_overtaken_is_not_cached() {
    let bench = bench();
    let (old, new) = (bench.record(1), bench.record(2));
    let load = bench.cache.begin_load(&bench.id);
    bench.cache.evict(&bench.id, Some(new.revision()));
    load.finish(Ok(&old));
    assert_eq!(bench.cached(), None);
    assert_eq!(bench.cache.stats().refused_fills, 1);

    let load = bench.cache.begin_load(&bench.id);
    bench.cache.evict(&bench.id, Some(new.revision()));
    load.finish(Ok(&new));
    assert_eq!(bench.cached(), Some(2), "a load that returns the announced revision is cached");
}

#[tokio::test(start_paused = true)]
async fn a_load_during_which_the_lease_ends_is_not_counted_as_overtaken() {
    let bench = bench();
    let load = bench.cache.begin_load(&bench.id);
    bench.cache.lease().bump();
    load.finish(Ok(&bench.record(1)));
    assert_eq!(bench.cached(), None);
    assert_eq!(bench.cache.stats().refused_fills, 0);
}

#[tokio::test(start_paused = true)]
async fn a_load_that_a_clear_has_overtaken_is_not_cached() {
    let bench = bench();
    let load = bench.cache.begin_load(&bench.id);
    bench.cache.clear();
    load.finish(Ok(&bench.record(1)));
    assert_eq!(bench.cached(), None);
}

#[tokio::test(start_paused = true)]
async fn what_was_cached_before_a_clear_is_invisible_even_before_it_is_freed() {
    let bench = bench();
    bench.fill(&bench.record(1));
    bench.cache.hide_all();
    assert_eq!((bench.cached(), bench.cache.size()), (None, 1));
    let grace = StaleIfError::AfterLease(u64::MAX / 2);
    assert!(bench.cache.last_known(&bench.id, grace).is_none(), "not in an outage either");
    bench.cache.free_hidden();
    assert_eq!(bench.cache.size(), 0);
    assert_eq!(bench.cache.stats().invalidations, 1);

    bench.fill(&bench.record(2));
    bench.cache.hide_all();
    bench.fill(&bench.record(3));
    bench.cache.free_hidden();
    assert_eq!(bench.cached(), Some(3), "what was cached after the clear stays");
}

#[tokio::test(start_paused = true)]
async fn loads_and_entries_from_before_a_new_epoch_are_not_served() {
    let bench = bench();
    bench.fill(&bench.record(1));
    let load = bench.cache.begin_load(&bench.id);
    let epoch = bench.cache.lease().bump();
    assert_eq!(bench.cached(), None, "the node has no lease");
    assert!(bench.cache.lease().extend(epoch, bench.clock.now().plus(u64::MAX)));
    assert_eq!(bench.cached(), None, "the entry is of another epoch");
    load.finish(Ok(&bench.record(2)));
    assert_eq!(bench.cached(), None, "the load began in another epoch");
    bench.fill(&bench.record(3));
    assert_eq!(bench.cached(), Some(3));
}

#[tokio::test(start_paused = true)]
async fn a_load_without_a_lease_is_not_cached_even_if_one_is_held_when_it_ends() {
    let bench = bench();
    let epoch = bench.cache.lease().bump();
    let load = bench.cache.begin_load(&bench.id);
    assert!(bench.cache.lease().extend(epoch, bench.clock.now().plus(u64::MAX)));
    load.finish(Ok(&bench.record(1)));
    assert_eq!(bench.cached(), None);
}

#[tokio::test(start_paused = true)]
async fn a_nodes_own_write_stays_cached_whether_its_announcement_comes_before_or_after_the_reply() {
    let bench = bench();
    let (base, new) = (bench.record(1), bench.record(2));
    bench.fill(&base);
    let write = bench.begin_write(&base);
    bench.cache.evict(&bench.id, Some(new.revision()));
    write.saved(&new);
    assert_eq!(bench.cached(), Some(2));

    bench.cache.evict(&bench.id, Some(new.revision()));
    assert_eq!(bench.cached(), Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_write_overtaken_by_another_nodes_change_leaves_nothing_cached() {
    let bench = bench();
    let (base, new, others) = (bench.record(1), bench.record(2), bench.record(3));
    bench.fill(&base);
    let write = bench.begin_write(&base);
    bench.cache.evict(&bench.id, Some(new.revision()));
    bench.cache.evict(&bench.id, Some(others.revision()));
    write.saved(&new);
    assert_eq!(bench.cached(), None);
}

#[tokio::test(start_paused = true)]
async fn a_write_of_unknown_outcome_evicts_and_voids_the_loads_in_flight() {
    let bench = bench();
    let base = bench.record(1);
    bench.fill(&base);
    let load = bench.cache.begin_load(&bench.id);
    drop(bench.begin_write(&base));
    assert_eq!(bench.cached(), None);
    load.finish(Ok(&base));
    assert_eq!(bench.cached(), None);
}

#[tokio::test(start_paused = true)]
async fn a_load_may_be_shared_until_a_change_is_announced() {
    let bench = bench();
    let (base, new) = (bench.record(1), bench.record(2));
    let load = bench.cache.begin_load(&bench.id);
    assert!(bench.cache.may_share(&load.mark()));
    bench.begin_write(&base).saved(&new);
    assert!(!bench.cache.may_share(&load.mark()), "this node has written");

    let load = bench.cache.begin_load(&bench.id);
    bench.cache.lease().bump();
    assert!(!bench.cache.may_share(&load.mark()), "the node has no lease now");
    let load_without_lease = bench.cache.begin_load(&bench.id);
    assert!(
        !bench.cache.may_share(&load_without_lease.mark()),
        "the node had no lease when the load began"
    );
    drop(load);
}

#[tokio::test(start_paused = true)]
async fn the_absence_of_a_session_is_cached_for_a_second_or_until_an_announcement() {
    let bench = bench();
    let absent = || matches!(bench.cache.get(&bench.id), Lookup::Absent(_));
    bench.fill(&bench.record(1));
    bench.cache.begin_load(&bench.id).finish(Err(Absence::Gone));
    assert_eq!(bench.cached(), None, "a session that is gone is not served");
    assert!(absent());
    tokio::time::advance(Duration::from_millis(ABSENT_TTL)).await;
    assert!(!absent());

    bench.cache.begin_load(&bench.id).finish(Err(Absence::Gone));
    assert!(absent());
    bench.cache.evict(&bench.id, Some(Revision::first()));
    assert!(!absent());
}

#[tokio::test(start_paused = true)]
async fn absent_ids_do_not_evict_sessions() {
    let bench = bench();
    bench.fill(&bench.record(1));
    bench.miss_others(10_000);
    assert_eq!(bench.cached(), Some(1));
    assert!(bench.cache.absent.len() <= 100);
}

#[tokio::test(start_paused = true)]
async fn a_large_cache_does_not_remember_more_than_1024_absent_ids() {
    let bench = bench_for(100 * ABSENT_MAX);
    bench.miss_others(10_000);
    assert!((ABSENT_MAX / 2..=ABSENT_MAX).contains(&bench.cache.absent.len()));
}

#[tokio::test(start_paused = true)]
async fn every_fence_ticket_is_given_back() {
    let bench = bench();
    let record = bench.record(1);
    bench.fill(&record);
    drop(bench.cache.begin_load(&bench.id));
    drop(bench.begin_write(&record));
    bench.begin_write(&record).saved(&record);
    assert_eq!(bench.cache.fence.calls_in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_cache_for_one_session_holds_one() {
    let bench = bench_for(1);
    for data in [1, 2] {
        bench.fill_others(data);
        bench.fill(&bench.record(data));
        let found = bench.cache.peek(&bench.id).map(|record| *record.data());
        assert_eq!(found, Some(data));
        assert_eq!(bench.cache.size(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn the_size_is_bounded_and_evictions_are_counted() {
    let bench = bench();
    bench.fill_others(1000);
    let stats = bench.cache.stats();
    assert!(stats.size <= 100, "{stats:?}");
    assert_eq!(stats.evictions + stats.size as u64, 1000);
    bench.cache.clear();
    assert_eq!(bench.cache.size(), 0);
}

#[test]
fn an_entry_weighs_its_length_and_at_least_its_share_of_the_cache() {
    let weigher = ByLength { minimum: 100 };
    let bench = bench();
    let weight = |data_len: usize| {
        let record =
            Record::new(bench.clock.moment(), bench.id, bench.record(0).meta(), 0, data_len);
        let (epoch, began) = bench.cache.lease.held(|| bench.clock.now()).unwrap();
        let validity = Validity { epoch, clears: 0, began };
        weigher.weight(&bench.id, &Cached { record, validity })
    };
    assert_eq!([0, 100, 101, usize::MAX].map(weight), [100, 100, 101, u64::from(u32::MAX)]);
}

#[tokio::test(start_paused = true)]
async fn hits_of_different_sessions_are_not_all_counted_in_the_same_cache_line() {
    let bench = bench();
    for number in 0..16 {
        let mut bytes = [1; 16];
        bytes[15] = number;
        let id = SessionId::from_bytes(bytes);
        let record = Record::new(bench.clock.moment(), id, bench.record(0).meta(), 0, 0);
        bench.cache.begin_load(&id).finish(Ok(&record));
        assert!(matches!(bench.cache.get(&id), Lookup::Hit(_)));
        assert!(matches!(bench.cache.get_if_known(&id), Lookup::Hit(_)));
        assert!(bench.cache.get_if(&id, |_| true).is_some());
    }
    assert_eq!(bench.cache.counters.hits.counts(), [3; 16]);
}

#[tokio::test(start_paused = true)]
async fn a_look_that_finds_that_a_session_has_moved_is_counted_by_the_read_after_it() {
    let bench = bench();
    let moved = Absence::Moved(SessionId::from_bytes([9; 16]));
    bench.cache.begin_load(&bench.id).finish(Err(moved));
    assert!(matches!(bench.cache.get_if_known(&bench.id), Lookup::Absent(it) if it == moved));
    assert_eq!(bench.cache.stats().hits, 0);
    assert!(matches!(bench.cache.get(&bench.id), Lookup::Absent(_)));
    assert_eq!(bench.cache.stats().hits, 1);
}
