//! Backends that fail each call of one method.

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
    Interposed::with_interposer(memory.clone(), Failing(method, kind))
}

struct Failing(Call, StoreErrorKind);

impl Interposer for Failing {
    async fn around<R: Send + 'static>(
        &self,
        method: Call,
        call: impl Future<Output = Result<R, StoreError>> + Send + 'static,
    ) -> Result<R, StoreError> {
        if method == self.0 { Err(self.1.into()) } else { call.await }
    }
}
