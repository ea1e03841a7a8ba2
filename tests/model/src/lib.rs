//! A model of the protocol between nodes and servers, of which every state is visited.
//!
//! It is about one session, one node with a cache, and up to three servers. Other nodes only change
//! the session: what they have in their caches matters to none but themselves, since a change is
//! made by comparing with what the server has. Loads, changes and heartbeats are carried out at the
//! moment at which they are sent; what is carried out later proves less, or is newer.
//!
//! `docs/protocol.md` links the states and transitions to the code.

mod effect;
pub mod explorer;
pub mod node;
pub mod normal;
mod possible;
pub mod rule;
pub mod scenario;
pub mod step;
pub mod system;
pub mod truth;
pub mod world;
