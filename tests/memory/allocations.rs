//! How often a request allocates. Each allocation of the hot path is named here.

use std::convert::Infallible;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use allocation_counter::measure;
use bytes::Bytes;
use clustered_sessions::backend::{Content, Meta, Revision, Stored, Timestamp};
use clustered_sessions::{MemoryBackend, Session, SessionId, SessionLayer};
use http::{HeaderValue, Request, Response, header};
use tower::{Layer as _, Service, service_fn};

use crate::web::{Data, ada, node};

/// Spreads consecutive numbers over all ids.
const ODD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;

/// Sends one request and returns the number of allocations until it is answered.
fn allocations(
    service: &mut impl Service<Request<()>, Response = Response<()>>,
    cookie: &HeaderValue,
) -> u64 {
    let mut request = Request::builder().header(header::COOKIE, cookie).body(()).unwrap();
    // A server and a router have extensions of their own, so the map is there.
    request.extensions_mut().insert("of the server");
    let counted = measure(move || {
        let mut context = Context::from_waker(Waker::noop());
        let answered = pin!(service.call(request)).poll(&mut context);
        assert!(matches!(answered, Poll::Ready(Ok(_))), "the request had to wait");
    });
    counted.count_total
}

/// Answers with a header, so that the map of headers is there.
fn answer() -> Result<Response<()>, Infallible> {
    Ok(Response::builder().header(header::CONTENT_TYPE, "text/plain").body(()).unwrap())
}

async fn cookie(sessions: &SessionLayer<Data>) -> HeaderValue {
    sessions.cookie_for(ada()).await.unwrap()
}

#[tokio::test]
async fn a_cached_read_allocates_twice() {
    let sessions = node(&MemoryBackend::new()).await;
    let cookie = cookie(&sessions).await;
    let mut reads = sessions.layer(service_fn(async |request: Request<()>| {
        let session = Session::<Data>::from_extensions(request.extensions()).await.unwrap();
        assert_eq!(session.data().user.as_deref(), Some("Ada"));
        answer()
    }));
    let mut reads_nothing = service_fn(async |_: Request<()>| answer());
    let without = allocations(&mut reads_nothing, &cookie);
    // The first request verifies the cookie.
    allocations(&mut reads, &cookie);
    // The request's session, and the extension that holds it.
    assert_eq!(allocations(&mut reads, &cookie) - without, 2);
}

#[tokio::test]
async fn a_request_that_needs_no_session_allocates_twice() {
    let sessions = node(&MemoryBackend::new()).await;
    let cookie = cookie(&sessions).await;
    let mut below = sessions.layer(service_fn(async |_: Request<()>| answer()));
    let mut alone = service_fn(async |_: Request<()>| answer());
    let without = allocations(&mut alone, &cookie);
    assert_eq!(allocations(&mut below, &cookie) - without, 2);
}

#[tokio::test]
async fn a_look_up_in_the_cache_allocates_nothing() {
    let sessions = node(&MemoryBackend::new()).await;
    let id = sessions.store().create(ada()).await.unwrap().id;
    let counted = measure(|| {
        let mut context = Context::from_waker(Waker::noop());
        let found = pin!(sessions.store().find(id)).poll(&mut context);
        assert!(matches!(found, Poll::Ready(Ok(Some(_)))));
    });
    assert_eq!(counted.count_total, 0);
}

/// Nothing but a place in the register, as long as nothing happens.
#[test]
fn a_record_is_read_from_a_reply_without_an_allocation() {
    let now = Timestamp::from_millis(1);
    let meta = Meta::new(Revision::from_bytes([1; 16]), now, now, SessionId::from_bytes([2; 16]));
    let stored = Stored::new(meta, Content::Payload(b"payload"[..].into()));
    // As the bytes of a reply are: the buffer belongs to nobody else.
    let reply = Bytes::from(stored.to_bytes().to_vec());
    let counted = measure(move || assert_eq!(Stored::from_bytes(reply).unwrap(), stored));
    assert_eq!(counted.count_total, 0);
}

#[tokio::test]
async fn a_waiting_watch_takes_less_than_300_bytes() {
    const WATCHES: usize = 100_000;
    let sessions = node(&MemoryBackend::new()).await;
    let ids: Vec<_> = (0..WATCHES as u128)
        .map(|number| SessionId::from_bytes(number.wrapping_mul(ODD).to_be_bytes()))
        .collect();
    let mut watches = Vec::with_capacity(WATCHES);
    let counted = measure(|| watches.extend(ids.iter().map(|id| sessions.store().watch(*id))));
    let each = counted.bytes_current as f64 / WATCHES as f64 + size_of_val(&watches[0]) as f64;
    assert!(each < 300.0, "{each} bytes");
}
