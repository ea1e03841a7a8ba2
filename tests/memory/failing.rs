//! Backends that fail each call of one method, or do not answer it.

use std::future::pending;

use clustered_sessions::backend::Backend;
use clustered_sessions::testing::{Interposed, Interposer};
use clustered_sessions::{MemoryBackend, StoreError, StoreErrorKind};

use crate::web::Call;

/// Returns a backend that is unreachable for each call of one method.
pub(crate) fn failing(memory: &MemoryBackend, method: Call) -> impl Backend {
    failing_as(memory, method, StoreErrorKind::Unavailable)
}

/// Returns a backend that fails each call of one method in this way.
pub(crate) fn failing_as(
    memory: &MemoryBackend,
    method: Call,
    kind: StoreErrorKind,
) -> impl Backend {
    Interposed::with_interposer(memory.clone(), Failing { method, kind: Some(kind) })
}

/// Returns a backend that does not answer the calls of one method.
pub(crate) fn hanging(memory: &MemoryBackend, method: Call) -> impl Backend {
    Interposed::with_interposer(memory.clone(), Failing { method, kind: None })
}

struct Failing {
    method: Call,
    /// `None` for calls that are not answered.
    kind: Option<StoreErrorKind>,
}

impl Interposer for Failing {
    async fn around<R: Send + 'static>(
        &self,
        method: Call,
        call: impl Future<Output = Result<R, StoreError>> + Send + 'static,
    ) -> Result<R, StoreError> {
        match self.kind {
            _ if method != self.method => call.await,
            Some(kind) => Err(kind.into()),
            None => pending().await,
        }
    }
}
