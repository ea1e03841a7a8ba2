//! Messages that the next page shows once: a library that does not know the application's session.

use clustered_sessions::{Part, SessionData, SessionError};
use serde::{Deserialize, Serialize};

/// The messages that no page has shown yet.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Flash(Vec<String>);

/// Session data with messages.
pub(crate) trait HasFlash: SessionData + AsRef<Flash> + AsMut<Flash> {}

impl<T: SessionData + AsRef<Flash> + AsMut<Flash>> HasFlash for T {}

/// Leaves a message for the next page.
pub(crate) fn add(part: &Part<impl HasFlash, Flash>, message: impl Into<String>) {
    part.update_with(message.into(), |flash, message| flash.0.push(message));
}

/// Returns the messages and removes them, now: of two pages that load at the same time, one shows
/// them. If there are none, nothing is written.
pub(crate) async fn take(part: &Part<impl HasFlash, Flash>) -> Result<Vec<String>, SessionError> {
    if part.read(|flash| flash.0.is_empty()) {
        return Ok(Vec::new());
    }
    part.modify(|flash| std::mem::take(&mut flash.0)).await
}
