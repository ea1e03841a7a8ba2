//! The errors that every part of the crate shares.
//!
//! [`ConfigError`] is for the developer who starts the application: one variant for each mistake,
//! with the fix in its message. [`StoreError`] is for the running code: opaque, with a kind to
//! decide on and a source to log. `SessionError` is also an HTTP response, so it is in `session`.

mod config;
mod store;

pub use self::config::ConfigError;
pub use self::store::{StoreError, StoreErrorKind};
