//! The session's spans in the trace of a request.

use clustered_sessions::{MemoryBackend, Session, SessionLayer};
use support::log::Log;
use tracing::Instrument as _;

use super::visit;
use crate::web::{Browser, Data, ada, config, only_id, serve, settle, start};

async fn request(browser: &mut Browser, layer: &SessionLayer<Data>) {
    let app = serve(layer, async |session: Session<Data>| session.update(visit));
    browser.visit(&app).instrument(tracing::info_span!("request")).await;
    settle().await;
}

/// Returns the log lines of the spans that have closed, each with its parents.
fn closed_spans(log: &Log) -> Vec<String> {
    let text = log.text();
    text.lines().filter(|line| line.contains(" close ")).map(str::to_owned).collect()
}

#[tokio::test(start_paused = true)]
async fn loads_and_commits_have_spans_in_the_request_and_cached_reads_have_none() {
    let layer = start(config(&MemoryBackend::new())).await;
    let mut browser = Browser::with(&layer, ada()).await;
    let id = only_id(&layer).await;
    layer.store().evict_from_cache(id);
    let log = Log::default();
    let guard = log.capture("debug");
    request(&mut browser, &layer).await;
    request(&mut browser, &layer).await;
    drop(guard);
    let spans = closed_spans(&log);
    let load = format!("request:session.load{{session={id}}}:");
    let commit = format!("request:session.commit{{session={id}}}:");
    let count = |span: &str| spans.iter().filter(|line| line.contains(span)).count();
    assert_eq!((count(&load), count(&commit)), (1, 2), "{spans:#?}");
    assert_eq!(count("session.backend"), 0, "{spans:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_backend_call_has_a_span_at_trace_level_with_its_outcome() {
    let layer = start(config(&MemoryBackend::new())).await;
    let mut browser = Browser::with(&layer, ada()).await;
    let id = only_id(&layer).await;
    layer.store().evict_from_cache(id);
    let log = Log::default();
    let guard = log.capture("trace");
    request(&mut browser, &layer).await;
    drop(guard);
    let spans = closed_spans(&log);
    for (parent, operation) in [("load", "load"), ("commit", "update")] {
        let span = format!(
            "request:session.{parent}{{session={id}}}:session.backend{{operation=\"{operation}\" outcome=\"ok\"}}:"
        );
        assert!(spans.iter().any(|line| line.contains(&span)), "{span} is not in {spans:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn successful_requests_log_nothing_at_info_level() {
    let layer = start(config(&MemoryBackend::new())).await;
    let mut browser = Browser::with(&layer, ada()).await;
    let log = Log::default();
    let guard = log.capture("clustered_sessions=info");
    request(&mut browser, &layer).await;
    layer.store().coordinator().local_cache().clear();
    request(&mut browser, &layer).await;
    let logout = serve(&layer, async |session: Session<Data>| session.destroy());
    browser.visit(&logout).await;
    request(&mut browser, &layer).await;
    drop(guard);
    assert_eq!(log.text(), "");
}
