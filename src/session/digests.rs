//! Digests of the values of a session, by which a change is recognized without a copy of them.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// The digest of each value under its key, as JSON. Computed once, when a request first loads the
/// session, and copied for each request as one string.
///
/// A clone has none: values are cloned to be changed.
#[derive(Default)]
pub(super) struct Digests(OnceLock<Box<str>>);

impl Digests {
    pub(super) fn of(&self, values: &BTreeMap<String, Value>) -> &str {
        self.0.get_or_init(|| digests(values).into())
    }
}

impl Clone for Digests {
    fn clone(&self) -> Self {
        Digests::default()
    }
}

/// They say nothing that the values do not.
impl PartialEq for Digests {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// Returns the digests of values as JSON.
pub(crate) fn digests<'a>(values: impl IntoIterator<Item = (&'a String, &'a Value)>) -> String {
    let digests: BTreeMap<_, _> =
        values.into_iter().map(|(key, value)| (key, digest(value))).collect();
    // Strings under strings can always be serialized.
    serde_json::to_string(&digests).unwrap_or_default()
}

/// Returns 128 bits of the SHA-256 of a value's JSON, as text.
pub(crate) fn digest(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(&Sha256::digest(value.to_string())[..16])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn digests_are_computed_once_and_not_cloned() {
        let mut values = BTreeMap::from([("a".to_owned(), json!({"b": [1, 2]}))]);
        let first = Digests::default();
        assert_eq!(first.of(&values), format!(r#"{{"a":"{}"}}"#, digest(&json!({"b": [1, 2]}))));
        values.clear();
        assert_ne!(first.of(&values), "{}");
        assert_eq!(first.clone().of(&values), "{}");
        assert_ne!(digest(&json!(1)), digest(&json!("1")));
    }
}
