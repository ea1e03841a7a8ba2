//! Checks on the text of the repository: documents, modules and language.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod docs;
mod language;
mod layout;
