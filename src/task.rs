//! The results of tasks.

use std::panic::resume_unwind;

use tokio::task::JoinError;

/// Returns the result of a task that nothing but the runtime's shutdown cancels, and `None` in that
/// case. Resumes the panic of a task that has panicked.
pub(crate) fn join_result<R>(joined: Result<R, JoinError>) -> Option<R> {
    match joined.map_err(JoinError::try_into_panic) {
        Ok(result) => Some(result),
        Err(Ok(panic)) => resume_unwind(panic),
        Err(Err(_)) => None,
    }
}
