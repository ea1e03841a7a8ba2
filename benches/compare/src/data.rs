//! The data of the sessions that are measured.

use serde::{Deserialize, Serialize};

/// Some 200 bytes of JSON: what an application keeps of a user, in a handful of fields.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UserSession {
    pub user_id: u64,
    pub username: String,
    pub email: String,
    pub roles: Vec<String>,
    pub csrf_token: String,
    pub locale: Option<String>,
    pub visits: u64,
}

impl UserSession {
    /// Returns the data of one of many users.
    pub fn number(number: u64) -> Self {
        UserSession {
            user_id: number,
            username: format!("user-{number:08}"),
            email: format!("user-{number:08}@example.org"),
            roles: vec!["customer".to_owned(), "reviewer".to_owned()],
            csrf_token: format!("{number:043}"),
            locale: Some("en-GB".to_owned()),
            visits: 0,
        }
    }
}
