//! Captured log lines.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, Once};

use tracing::subscriber::{DefaultGuard, set_global_default};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Log lines that were captured on one thread.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Captures what this thread logs while the guard lives, including spans that close. `filter`
    /// is in the syntax of `RUST_LOG`.
    pub fn capture(&self, filter: &str) -> DefaultGuard {
        keep_callsites_enabled();
        let writer = self.clone();
        tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(filter))
            .with_span_events(FmtSpan::CLOSE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish()
            .set_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// Installs a global subscriber that is interested in everything and records nothing.
///
/// `tracing` caches per callsite whether any subscriber is interested. While at most one exists,
/// it asks the default of the thread that reaches the callsite first: on a thread of another test,
/// which captures nothing, that would disable the callsite for the whole process. With the global
/// subscriber the answer is the same on every thread.
fn keep_callsites_enabled() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        set_global_default(tracing_subscriber::registry()).expect("no test installs its own");
    });
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
