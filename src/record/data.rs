//! The trait of types that a session can hold.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The data of a session: any type that is
/// `Clone + Default + Serialize + DeserializeOwned + Send + Sync + 'static`.
///
/// `Default` is the data of a visitor without a session. The trait is implemented for all such
/// types, so only the derives have to be written:
///
/// ```
/// #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
/// struct UserSession {
///     user_id: Option<i64>,
///     // A field added later needs a default, so that existing records can still be read.
///     #[serde(default)]
///     theme: String,
/// }
/// # fn is_session_data<T: clustered_sessions::SessionData>() {}
/// # is_session_data::<UserSession>();
/// ```
///
/// # Stability
///
/// Because of the blanket implementation, every bound of this trait is part of the public API:
/// adding one would be a breaking change.
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
