//! The sessions of one owner: how they are listed, and which of them are deleted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clustered_sessions::testing::{BackendMethod, Interposed, Interposer};
use clustered_sessions::{
    Clock, LimitPolicy, MemoryBackend, Session, SessionId, SessionLayer, StoreError, StoreErrorKind,
};
use futures_util::TryStreamExt as _;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::failing::failing_as;
use crate::handles::session_after_the_head;
use crate::web::{Browser, COOKIE, Data, config, only_data, request, serve, settle, start};

async fn node() -> SessionLayer<Data> {
    let clock = Clock::tokio();
    let memory = MemoryBackend::with_clock(clock.clone());
    let owner = |data: &Data| data.user.clone();
    start(config(&memory).clock(clock).owner(owner)).await
}

/// Creates a session a second later than the one before.
async fn create(node: &SessionLayer<Data>, user: &str, visits: u64) -> SessionId {
    sleep(Duration::from_secs(1)).await;
    node.store().create(Data { user: Some(user.to_owned()), visits }).await.unwrap().id
}

async fn ids(node: &SessionLayer<Data>, user: &str) -> Vec<SessionId> {
    node.store().sessions_of(user).await.unwrap().iter().map(|record| record.id()).collect()
}

#[tokio::test(start_paused = true)]
async fn sessions_are_listed_from_the_newest_to_the_oldest() {
    let node = node().await;
    let mut created = Vec::new();
    for visits in 0..20 {
        created.push(create(&node, "ada", visits).await);
        create(&node, "bob", visits).await;
    }
    created.reverse();
    assert_eq!(ids(&node, "ada").await, created);
}

#[tokio::test(start_paused = true)]
async fn sessions_are_listed_by_their_logins_however_they_change() {
    let node = node().await;
    let data = Data { user: Some("ada".to_owned()), visits: 0 };
    let cookie = node.cookie_for(data).await.unwrap();
    let newer = create(&node, "ada", 1).await;
    assert_eq!(ids(&node, "ada").await[0], newer);
    sleep(Duration::from_secs(1)).await;
    request(&node, cookie, Session::regenerate).await;
    let now = ids(&node, "ada").await;
    assert_eq!((now.len(), now[0]), (2, newer));
    sleep(Duration::from_secs(1)).await;
    let log_in = |data: &mut Data| data.user = Some("bob".to_owned());
    node.store().modify(now[1], log_in).await.unwrap();
    create(&node, "bob", 1).await;
    sleep(Duration::from_secs(1)).await;
    node.store().modify(newer, log_in).await.unwrap();
    assert_eq!(ids(&node, "bob").await[0], newer, "the latest login, although not the newest");
}

#[tokio::test(start_paused = true)]
async fn the_time_of_the_last_use_is_that_of_the_last_extension() {
    let clock = Clock::tokio();
    let memory = MemoryBackend::with_clock(clock.clone());
    let hour = Duration::from_secs(3600);
    let config = config(&memory).clock(clock).timeout(hour).absolute_timeout(hour * 2);
    let node = start(config).await;
    let start = Instant::now();
    let new = node.store().create(Data::default()).await.unwrap();
    let began = new.record.created_at();
    assert_eq!((new.record.logged_in_at(), new.record.last_used_at()), (began, began));
    // Near the absolute timeout, a visit extends nothing, and is recorded all the same.
    for minutes in [10, 20, 30, 70, 80, 100] {
        sleep_until(start + Duration::from_secs(minutes * 60)).await;
        node.store().visit(new.id).await.unwrap().unwrap();
        settle().await;
        let expected = match minutes {
            10 => 0,
            30 => 20,
            80 => 70,
            visited => visited,
        };
        for record in [node.store().find(new.id).await, node.store().find_fresh(new.id).await] {
            let used = record.unwrap().unwrap().last_used_at().duration_since(began).unwrap();
            assert_eq!(used.as_secs() / 60, expected, "after {minutes} minutes");
        }
    }
    sleep_until(start + Duration::from_secs(101 * 60)).await;
    node.store().modify(new.id, |data| data.visits += 1).await.unwrap();
    let record = node.store().find_fresh(new.id).await.unwrap().unwrap();
    let used = record.last_used_at().duration_since(began).unwrap();
    assert_eq!(used.as_secs() / 60, 101, "a change is a use at any time");
}

#[tokio::test(start_paused = true)]
async fn those_of_an_owners_sessions_are_deleted_that_a_predicate_selects() {
    let node = node().await;
    let old = create(&node, "ada", 0).await;
    let kept = create(&node, "ada", 1).await;
    let selected = create(&node, "ada", 7).await;
    let other = create(&node, "bob", 7).await;
    let store = node.store();
    let limit = store.find(kept).await.unwrap().unwrap().created_at();
    let done = store.bulk_delete_of("ada", |s| s.data().visits == 7 || s.created_at() < limit);
    assert_eq!(done.await.unwrap().deleted, 2);
    for (id, exists) in [(old, false), (kept, true), (selected, false), (other, true)] {
        assert_eq!(store.find(id).await.unwrap().is_some(), exists);
    }
}

/// As an index whose key holds a value of another type.
#[tokio::test(start_paused = true)]
async fn an_index_that_cannot_be_read_is_an_error_and_not_an_owner_without_sessions() {
    let memory = MemoryBackend::new();
    for method in [BackendMethod::SessionsOfOwner, BackendMethod::Scan] {
        let backend = failing_as(&memory, method, StoreErrorKind::Corrupt);
        let owned = config(&memory).owner(|data: &Data| data.user.clone()).backend(backend);
        let store = start(owned).await.store().clone();
        let found = async {
            match method {
                BackendMethod::SessionsOfOwner => store.sessions_of("ada").await.map(drop),
                _ => store.each_session().try_collect::<Vec<_>>().await.map(drop),
            }
        };
        let found = timeout(Duration::from_secs(60), found).await.expect("it ends");
        assert_eq!(found.unwrap_err().kind(), StoreErrorKind::Refused, "{method:?}");
    }
}

/// Adds a visit, and makes the user the owner.
fn log_in_as(user: &'static str) -> impl Fn(&mut Data) + Send + Sync + 'static {
    move |data| {
        data.user = Some(user.to_owned());
        data.visits += 1;
    }
}

/// Session fixation: see OWASP's Session Management Cheat Sheet, "Renew the Session ID After Any
/// Privilege Level Change".
#[tokio::test]
async fn a_change_that_gives_a_session_an_owner_gives_it_a_new_token() {
    let node = node().await;
    let count = serve(&node, async |session: Session<Data>| {
        session.update(|data| data.visits += 1);
        session.data().user.clone().unwrap_or_default()
    });
    let by_update = serve(&node, async |session: Session<Data>| session.update(log_in_as("Ada")));
    let by_modify =
        serve(&node, async |session: Session<Data>| session.modify(log_in_as("Grace")).await);
    let mut browser = Browser::new();
    browser.visit(&count).await;
    for (app, user, visits) in [(by_update, "Ada", 5), (by_modify, "Grace", 9)] {
        let planted = browser.clone();
        browser.visit(&count).await;
        assert_eq!(browser.cookie(COOKIE), planted.cookie(COOKIE));
        browser.visit(&app).await;
        let token = browser.cookie(COOKIE).map(str::to_owned);
        assert_ne!(token.as_deref(), planted.cookie(COOKIE));
        assert_eq!(browser.visit(&count).await.body, user);
        browser.visit(&app).await;
        let data = only_data(&node).await;
        assert_eq!((data.user.as_deref(), data.visits), (Some(user), visits), "all is kept");
        assert_eq!(browser.cookie(COOKIE), token.as_deref(), "a login as the same user is none");
        let nobody = serve(&node, async |session: Session<Data>| session.is_new().to_string());
        assert_eq!(planted.clone().visit(&nobody).await.body, "true");
    }
}

/// Nothing could tell the visitor about another token.
#[tokio::test]
async fn a_login_after_the_response_has_begun_keeps_the_token() {
    let node = node().await;
    let browser = Browser::with(&node, Data::default()).await;
    let session = session_after_the_head(&node, &browser).await;
    session.update(log_in_as("Ada"));
    session.save().await.unwrap();
    let session = session_after_the_head(&node, &browser).await;
    assert_eq!(session.data().user.as_deref(), Some("Ada"));
}

/// A server that is full: it refuses new sessions, and takes what concerns the index.
struct Full {
    entries: Arc<AtomicUsize>,
}

impl Interposer for Full {
    async fn around<R: Send + 'static>(
        &self,
        method: BackendMethod,
        call: impl Future<Output = Result<R, StoreError>> + Send + 'static,
    ) -> Result<R, StoreError> {
        match method {
            BackendMethod::Create => return Err(StoreErrorKind::Refused.into()),
            BackendMethod::AddToOwner => drop(self.entries.fetch_add(1, Ordering::Relaxed)),
            BackendMethod::RemoveFromOwner => drop(self.entries.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        call.await
    }
}

#[tokio::test]
async fn logins_that_a_full_server_refuses_leave_no_entries_behind() {
    let entries = Arc::<AtomicUsize>::default();
    let full = Full { entries: entries.clone() };
    let backend = Interposed::with_interposer(MemoryBackend::new(), full);
    let node = config(&MemoryBackend::new()).backend(backend);
    let node = start(node.owner(|data: &Data| data.user.clone())).await;
    for _ in 0..3 {
        let data = Data { user: Some("ada".to_owned()), visits: 0 };
        assert_eq!(node.store().create(data).await.unwrap_err().kind(), StoreErrorKind::Refused);
    }
    node.store().shutdown().await;
    assert_eq!(entries.load(Ordering::Relaxed), 0);
}

/// Counts the deletions that are under way.
struct Crowd {
    present: AtomicUsize,
    most: Arc<AtomicUsize>,
}

impl Interposer for Crowd {
    async fn around<R: Send + 'static>(
        &self,
        method: BackendMethod,
        call: impl Future<Output = Result<R, StoreError>> + Send + 'static,
    ) -> Result<R, StoreError> {
        if method != BackendMethod::DeleteIf {
            return call.await;
        }
        let present = self.present.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(present, Ordering::Relaxed);
        tokio::task::yield_now().await;
        let answer = call.await;
        self.present.fetch_sub(1, Ordering::Relaxed);
        answer
    }
}

#[tokio::test]
async fn the_first_login_under_a_limit_ends_the_others_in_groups() {
    let (memory, most) = (MemoryBackend::new(), Arc::<AtomicUsize>::default());
    let owned = || config(&memory).owner(|data: &Data| data.user.clone());
    let ada = || Data { user: Some("ada".to_owned()), visits: 0 };
    let before = start(owned()).await;
    for _ in 0..600 {
        let _ = before.store().create(ada()).await.unwrap();
    }
    let crowd = Crowd { present: AtomicUsize::new(0), most: most.clone() };
    let limited = owned().backend(Interposed::with_interposer(memory.clone(), crowd));
    let limited = start(limited.max_sessions_of_owner(1, LimitPolicy::EndOldest)).await;
    let last = limited.store().create(ada()).await.unwrap().id;
    assert_eq!(ids(&limited, "ada").await, [last]);
    assert_eq!(most.load(Ordering::Relaxed), 256);
}
