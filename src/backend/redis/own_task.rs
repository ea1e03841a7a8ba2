//! Work that goes on although its caller is not polled, or has gone.

use tracing::Instrument as _;

use crate::error::{StoreError, StoreErrorKind};
use crate::task::join_result;

/// Spawns a task for work that others wait for, too. Returns its result.
///
/// The future contains the task's handle and not the work, as that of an `async fn` would.
pub(super) fn in_own_task<R: Send + 'static>(
    work: impl Future<Output = Result<R, StoreError>> + Send + 'static,
) -> impl Future<Output = Result<R, StoreError>> + Send {
    let task = tokio::spawn(work.in_current_span());
    async move {
        join_result(task.await).unwrap_or_else(|| {
            Err(StoreError::from(StoreErrorKind::Unavailable)
                .with_source("the runtime is shutting down"))
        })
    }
}
