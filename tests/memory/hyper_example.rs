//! The example `hyper`, run as a process.

use support::node::Node;

use crate::login::Browser;

#[tokio::test]
async fn a_server_without_axum_counts_the_visits_of_each_browser() {
    let node = Node::start_example("hyper", &[]);
    let (mut visitor, mut other) = (Browser::new(&node), Browser::new(&node));
    assert_eq!(visitor.get("/").await.body, "visit 1\n");
    assert_eq!(visitor.get("/").await.body, "visit 2\n");
    assert_eq!(other.get("/").await.body, "visit 1\n");
}

#[tokio::test]
async fn a_server_that_cannot_accept_a_connection_accepts_it_later() {
    let mut node = Node::start_example("hyper", &[]);
    node.limit_files(3);
    let address = node.url("").replace("http://", "");
    let _waits = tokio::net::TcpStream::connect(address).await.unwrap();
    node.read_line("cannot accept a connection: ");
    node.limit_files(256);
    assert_eq!(Browser::new(&node).get("/").await.body, "visit 1\n");
}
