//! What a session can hold.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What a session can hold: any type that is `Clone + Default + Serialize + DeserializeOwned + Send + Sync + 'static`.
///
/// `Default` is what a visitor without a session has. Implemented for all such types, so there is nothing to write but the
/// derives:
///
/// ```
/// #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
/// struct UserSession {
///     user_id: Option<i64>,
///     // A field added later needs a default, so that the records of yesterday can be read.
///     #[serde(default)]
///     theme: String,
/// }
/// # fn is_session_data<T: clustered_sessions::SessionData>() {}
/// # is_session_data::<UserSession>();
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be held in a session",
    label = "not session data",
    note = "add `#[derive(Clone, Default, serde::Serialize, serde::Deserialize)]` to `{Self}`, and make sure that it is `Send + Sync + 'static`"
)]
pub trait SessionData:
    Clone + Default + Serialize + DeserializeOwned + Send + Sync + 'static
{
}

impl<T: Clone + Default + Serialize + DeserializeOwned + Send + Sync + 'static> SessionData for T {}
