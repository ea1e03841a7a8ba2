//! Sessions whose data has no type of its own: values under keys.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Session, SessionError};

/// The data of a session as values under keys, each of any type that serde knows.
///
/// For code that cannot have one type for the whole session, such as libraries and plugins, and for
/// applications that come from such a library. A struct of one's own is better wherever it can be:
/// the compiler then checks the names and the types.
///
/// It is an ordinary type of session data, so all of [`Session`] and
/// [`SessionStore`](crate::SessionStore) works with it. `Session<KeyValues>` has methods of its
/// own:
///
/// ```
/// use clustered_sessions::{KeyValues, Session, ValueError};
///
/// async fn visit(session: Session<KeyValues>) -> Result<String, ValueError> {
///     let visits = session.get::<u64>("visits")?.unwrap_or_default() + 1;
///     session.insert("visits", visits)?; // committed with the response
///     Ok(format!("visit {visits}"))
/// }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), ValueError> {
/// # let session = Session::detached(KeyValues::new());
/// # visit(session.clone()).await?;
/// # assert_eq!(visit(session).await?, "visit 2");
/// # Ok(()) }
/// ```
///
/// # Concurrent changes
///
/// Requests that change different keys at the same time keep both changes. Of two that
/// [`insert`](Session::insert) under the same key, the last one counts: in the example above, one
/// of two visits at the same time is lost. To count, or to use a value once, change it in a
/// closure: with [`Session::modify`], or [`Session::take`].
///
/// # Names
///
/// Whoever uses the session chooses names for the keys. Begin those of a library with its name, as
/// in `flash.messages`.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct KeyValues {
    values: BTreeMap<String, Value>,
    /// The number of the request that has written or removed a value, where `TowerSessionsStore`
    /// did: see `src/tower_sessions/merge.rs`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    writers: BTreeMap<String, u64>,
    #[cfg(feature = "_tower-sessions")]
    #[serde(skip)]
    digests: super::digests::Digests,
}

impl KeyValues {
    /// Creates data without values.
    pub fn new() -> Self {
        KeyValues::default()
    }

    /// Returns the value under a key, or `None` if there is none.
    ///
    /// # Errors
    ///
    /// A [`ValueError`] if the value is not of this type.
    pub fn get<V: DeserializeOwned>(&self, key: &str) -> Result<Option<V>, ValueError> {
        self.values.get(key).map(|value| from_json(key, value)).transpose()
    }

    /// Puts a value under a key, in place of the one that was there.
    ///
    /// # Errors
    ///
    /// A [`ValueError`] if the value cannot be serialized to JSON.
    pub fn insert(&mut self, key: &str, value: impl Serialize) -> Result<(), ValueError> {
        self.put(key, to_json(key, value)?, None);
        Ok(())
    }

    /// Removes the value under a key, and returns `true` if there was one.
    pub fn remove(&mut self, key: &str) -> bool {
        self.take(key).is_some()
    }

    /// Returns `true` if there is a value under this key.
    pub fn contains_key(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Returns the keys, in alphabetical order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// Returns the number of values.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Returns `true` if there are no values.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Removes all values.
    pub fn clear(&mut self) {
        *self = KeyValues::default();
    }

    /// Puts a value under a key, on behalf of the request with this number.
    pub(crate) fn put(&mut self, key: &str, value: Value, writer: Option<u64>) {
        match writer {
            Some(writer) => self.writers.insert(key.to_owned(), writer),
            None => self.writers.remove(key),
        };
        self.values_mut().insert(key.to_owned(), value);
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.writers.remove(key);
        self.values_mut().remove(key)
    }

    fn values_mut(&mut self) -> &mut BTreeMap<String, Value> {
        #[cfg(feature = "_tower-sessions")]
        {
            self.digests = Default::default();
        }
        &mut self.values
    }
}

/// For `TowerSessionsStore`.
#[cfg(feature = "_tower-sessions")]
impl KeyValues {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }

    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// Returns the digest of each value, as JSON.
    pub(crate) fn digests(&self) -> &str {
        self.digests.of(&self.values)
    }

    /// Returns the number of the request that has put the value under a key or removed it, if it is
    /// known.
    pub(crate) fn writer(&self, key: &str) -> Option<u64> {
        self.writers.get(key).copied()
    }

    /// Removes the value under a key, on behalf of the request with this number.
    pub(crate) fn remove_for(&mut self, key: &str, writer: Option<u64>) {
        self.take(key);
        if let Some(writer) = writer {
            self.writers.insert(key.to_owned(), writer);
        }
    }

    /// Forgets who has removed values, but for this request.
    pub(crate) fn forget_removals(&mut self, but_of: Option<u64>) {
        let KeyValues { values, writers, .. } = self;
        writers.retain(|key, writer| values.contains_key(key) || Some(*writer) == but_of);
    }
}

/// Prints the keys. The values may be private.
impl fmt::Debug for KeyValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyValues").field(&self.values.keys()).finish()
    }
}

fn to_json(key: &str, value: impl Serialize) -> Result<Value, ValueError> {
    serde_json::to_value(value).map_err(|_| ValueError::NotJson { key: key.to_owned() })
}

fn from_json<V: DeserializeOwned>(key: &str, value: &Value) -> Result<V, ValueError> {
    V::deserialize(value).map_err(|_| ValueError::OtherType { key: key.to_owned() })
}

/// Values under keys.
impl Session<KeyValues> {
    /// Returns the value under a key, with this request's changes, or `None` if there is none.
    ///
    /// # Errors
    ///
    /// A [`ValueError`] if the value is not of this type.
    pub fn get<V: DeserializeOwned>(&self, key: &str) -> Result<Option<V>, ValueError> {
        self.read(|values| values.get(key))
    }

    /// Puts a value under a key. This request sees it at once; it is committed with the response.
    /// Changes of other keys by other requests are kept.
    ///
    /// # Errors
    ///
    /// A [`ValueError`] if the value cannot be serialized to JSON.
    pub fn insert(&self, key: &str, value: impl Serialize) -> Result<(), ValueError> {
        let entry = (key.to_owned(), to_json(key, value)?);
        self.update_with(entry, |values, (key, value)| values.put(&key, value, None));
        Ok(())
    }

    /// Removes the value under a key. This request sees that at once; it is committed with the
    /// response.
    pub fn remove(&self, key: &str) {
        self.update_with(key.to_owned(), |values, key| drop(values.take(&key)));
    }

    /// Removes the value under a key now, and returns it: of concurrent requests, one gets it. For
    /// values that are used once, such as messages for the next page, or the state of an OAuth
    /// login.
    ///
    /// ```
    /// # use clustered_sessions::{KeyValues, Session};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let session = Session::detached(KeyValues::new());
    /// session.insert("flash.message", "Saved.")?;
    /// assert_eq!(session.take::<String>("flash.message").await?, Some("Saved.".to_owned()));
    /// assert_eq!(session.take::<String>("flash.message").await?, None);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// A [`ValueError`]. A value that is not of this type is removed all the same.
    pub async fn take<V: DeserializeOwned>(&self, key: &str) -> Result<Option<V>, ValueError> {
        let taken = key.to_owned();
        let value = self.modify(move |values| values.take(&taken)).await?;
        value.map(|value| from_json(key, &value)).transpose()
    }
}

/// The error of a value under a key. It shows nothing of the value.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ValueError {
    /// The value is not of the type that was asked for.
    #[non_exhaustive]
    OtherType {
        /// The key.
        key: String,
    },
    /// The value cannot be serialized to JSON.
    #[non_exhaustive]
    NotJson {
        /// The key.
        key: String,
    },
    /// The session could not be changed.
    Session(SessionError),
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherType { key } => write!(f, "the value under `{key}` is of another type"),
            Self::NotJson { key } => {
                write!(f, "the value for `{key}` cannot be serialized to JSON")
            }
            Self::Session(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ValueError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Session(error) => error.source(),
            Self::OtherType { .. } | Self::NotJson { .. } => None,
        }
    }
}

impl From<SessionError> for ValueError {
    fn from(error: SessionError) -> Self {
        Self::Session(error)
    }
}

/// The response of the [`SessionError`], or an empty 500: the application has mixed up its types.
#[cfg(feature = "axum")]
impl axum_core::response::IntoResponse for ValueError {
    fn into_response(self) -> axum_core::response::Response {
        match self {
            Self::Session(error) => error.into_response(),
            Self::OtherType { .. } | Self::NotJson { .. } => {
                http::StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_value_of_another_type_is_an_error_that_shows_nothing_of_it() {
        let mut values = KeyValues::new();
        values.insert("card", "4111 1111 1111 1111").unwrap();
        let error = values.get::<u64>("card").unwrap_err();
        assert_eq!(error.to_string(), "the value under `card` is of another type");
        assert_eq!(format!("{values:?}"), "KeyValues([\"card\"])");
        assert!(!format!("{error:?}").contains("4111"));
        assert_eq!(values.get::<u64>("none").unwrap(), None);
    }

    #[test]
    fn a_value_that_is_no_json_is_refused() {
        let mut values = KeyValues::new();
        let by_pairs = std::collections::HashMap::from([((1, 2), 3)]);
        let error = values.insert("pairs", by_pairs).unwrap_err();
        assert_eq!(error.to_string(), "the value for `pairs` cannot be serialized to JSON");
        assert!(values.is_empty());
    }

    #[test]
    fn the_stored_form_is_frozen() {
        let mut values = KeyValues::new();
        values.insert("visits", 3).unwrap();
        values.insert("name", "Ada").unwrap();
        assert_eq!(
            serde_json::to_string(&values).unwrap(),
            r#"{"values":{"name":"Ada","visits":3}}"#
        );
        values.put("visits", 4.into(), Some(7));
        let json = r#"{"values":{"name":"Ada","visits":4},"writers":{"visits":7}}"#;
        assert_eq!(serde_json::to_string(&values).unwrap(), json);
        assert_eq!(serde_json::from_str::<KeyValues>(json).unwrap(), values);
        // A native change is nobody's.
        values.insert("visits", 4).unwrap();
        assert!(values.writers.is_empty());
    }

    proptest! {
        #[test]
        fn values_come_back_as_they_were_put(pairs: BTreeMap<String, (i64, String, Option<bool>)>) {
            let mut values = KeyValues::new();
            for (key, value) in &pairs {
                values.insert(key, value).unwrap();
            }
            let json = serde_json::to_vec(&values).unwrap();
            let mut values: KeyValues = serde_json::from_slice(&json).unwrap();
            prop_assert_eq!(values.len(), pairs.len());
            for (key, value) in pairs {
                prop_assert!(values.contains_key(&key));
                prop_assert_eq!(values.get(&key).unwrap(), Some(value));
                prop_assert!(values.remove(&key) && !values.remove(&key));
            }
            prop_assert!(values.is_empty());
        }
    }
}
