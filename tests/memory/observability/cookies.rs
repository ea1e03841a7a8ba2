//! Cookies that are not accepted: counted each time, and logged once, without their values.

use clustered_sessions::{MemoryBackend, Secret, Session, SessionConfig, SessionLayer};
use support::log::Log;

use super::Scrape;
use crate::web::{Browser, COOKIE, Data, ada, config, serve, start};

async fn read(_: Session<Data>) {}

/// Sends each kind of cookie that is not accepted, three times. `foreign` is signed with another
/// secret, and the two others are those of two live sessions.
async fn send_refused(sessions: &SessionLayer<Data>, foreign: &str, [one, two]: [&str; 2]) {
    let app = serve(sessions, read);
    for value in ["forged", foreign, &format!("{one}; {COOKIE}={two}")] {
        for _ in 0..3 {
            let mut browser = Browser::new();
            browser.set_cookie(COOKIE, value);
            browser.visit(&app).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn refused_cookies_are_counted_by_reason_and_logged_once_without_their_values() {
    let (log, scrape) = (Log::default(), Scrape::new());
    let sessions = scrape.start(config(&MemoryBackend::new())).await;
    let other = Secret::new("another secret that is long enough").unwrap();
    let other = start(SessionConfig::builder(other).backend(MemoryBackend::new())).await;
    let foreign = Browser::with(&other, ada()).await;
    let foreign = foreign.cookie(COOKIE).unwrap();
    let (one, two) = (Browser::with(&sessions, ada()).await, Browser::with(&sessions, ada()).await);
    let live = [one.cookie(COOKIE).unwrap(), two.cookie(COOKIE).unwrap()];
    let guard = log.capture("clustered_sessions=info");
    let rises = scrape.rises(send_refused(&sessions, foreign, live)).await;
    drop(guard);
    let refused = |reason: &str| rises[&format!("refused_cookies_total{{reason=\"{reason}\"}}")];
    assert_eq!(["malformed", "unknown_key", "ambiguous"].map(refused), [3.0, 3.0, 3.0]);
    let text = log.text();
    for line in
        ["a request has the cookies of several sessions", "a session cookie does not verify"]
    {
        assert_eq!(text.matches(line).count(), 1, "{text}");
    }
    for secret in [live[0], live[1], foreign, "forged"] {
        assert!(!text.contains(secret), "{text}");
    }
}
