//! The example `form`, run as a process.

use http::StatusCode;
use support::node::Node;

use crate::login::{Browser, Page};

/// Returns the token of the form on a page.
fn token(page: &Page) -> String {
    let (_, rest) = page.body.split_once("name=token value=\"").unwrap();
    rest.split_once('"').unwrap().0.to_owned()
}

#[tokio::test]
async fn a_note_is_taken_from_the_own_form_alone_and_its_message_is_escaped_and_shown_once() {
    let node = Node::start_example("form", &[]);
    let (mut visitor, mut other) = (Browser::new(&node), Browser::new(&node));
    let page = visitor.get("/").await;
    let (own, foreign) = (token(&page), token(&other.get("/").await));
    assert_ne!(own, foreign);
    assert_eq!(token(&visitor.get("/").await), own, "it lasts as long as the session");

    for bad in ["", &own[1..], &foreign] {
        let refused = visitor.post("/", &[("note", "hello"), ("token", bad)]).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN);
    }
    assert!(visitor.get("/").await.body.contains("left 0 notes"));

    let taken = visitor.post("/", &[("note", "<b>hello</b>"), ("token", &own)]).await;
    assert_eq!(taken.status, StatusCode::SEE_OTHER);
    let page = visitor.get("/").await;
    assert!(
        page.body.contains("Thank you for \"&lt;b>hello&lt;/b>\".")
            && page.body.contains("left 1 notes"),
        "{}",
        page.body
    );
    assert!(!visitor.get("/").await.body.contains("Thank you"));
    assert!(!other.get("/").await.body.contains("Thank you"));
}
