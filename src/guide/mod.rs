//! The guide: documentation in chapters. This module has no items of code.
//!
//! The chapters are the files in `docs/`, which can be read on any forge as well. In reading order:
//!
//! 1. [`guarantees`]: the contract, its limits, and the test that demonstrates each rule.
//! 2. [`protocol`]: the rules by which the nodes keep the contract, and every format on the wire.
//! 3. [`resilience`]: retries, deadlines, the circuit breaker, and outages of the backend.
//! 4. [`owners`]: the sessions of one user, and "log out everywhere".
//! 5. [`streams`]: open streams and sockets that end with their session.
//! 6. [`encryption`]: encryption at rest, rotation of secrets, and compression.
//! 7. [`deployment`]: several nodes over one Redis, in production.
//! 8. [`scale`]: what nodes and writes cost one Redis and a Cluster, and up to where.
//! 9. [`performance`]: what each operation costs, compared with others, and where the time goes.
//! 10. [`observability`]: metrics, alerts, spans, log events, and events for audit logs.
//! 11. [`recipes`]: pages for members, an extractor for the user, error pages, tokens, the proxy.
//! 12. [`testing`]: tests of an application that uses this crate.
//! 13. [`owasp`]: the OWASP session checklist and ASVS 5.0, requirement by requirement.
//! 14. [`other_frameworks`]: sessions in hyper, tonic, warp and salvo.
//! 15. [`coming_from_tower_sessions`]: from tower-sessions and others, while users are logged in.
//! 16. [`from_clustered_redis_store`]: from the Crystal library `ClusteredRedisStore` to this one.

// On a forge, documents refer to each other by file name. Here each module first defines the same
// link labels again, as paths to items: of two definitions of a label, Markdown takes the first.
// A test checks that none is missing.

pub mod guarantees {
    //! The contract, its limits, and the test that demonstrates each rule.
    //!
    //! [cluster]: super::protocol#cluster
    //! [load]: super::resilience#under-load
    //! [model]: super::protocol#the-model
    //! [protocol]: super::protocol
    //! [rule-28]: super::protocol#rule-28-history
    //! [rule-32]: super::protocol#rule-32-which-server
    //!
    #![doc = include_str!("../../docs/guarantees.md")]
}

pub mod protocol {
    //! The rules by which the nodes keep the contract, and every format on the wire.
    //!
    //! [deployment]: super::deployment#redis
    //! [contract]: super::guarantees#the-contract
    //! [encryption]: super::encryption
    //! [glossary]: https://docs.rs/crate/clustered-sessions/latest/source/CONTRIBUTING.md
    //! [guarantees]: super::guarantees
    //! [owners]: super::owners
    //!
    #![doc = include_str!("../../docs/protocol.md")]
}

pub mod resilience {
    //! Retries, deadlines, the circuit breaker, and outages of the backend.
    //!
    //! [`SessionError`]: crate::SessionError
    //! [asvs]: super::owasp#asvs-50-chapter-v7
    //! [guarantees]: super::guarantees
    //! [observability]: super::observability
    //! [protocol]: super::protocol
    //! [recipes]: super::recipes#pages-for-errors
    //!
    #![doc = include_str!("../../docs/resilience.md")]
}

pub mod owners {
    //! The sessions of one user, and "log out everywhere".
    //!
    //! [index]: super::protocol#owner-index
    //! [rule-36]: super::protocol#rule-36-the-limit-of-an-owner
    //! [`touch_after`]: crate::SessionConfigBuilder::touch_after
    //!
    #![doc = include_str!("../../docs/owners.md")]
}

pub mod streams {
    //! Open streams and sockets that end with their session.
    //!
    //! [limit]: super::owners#a-limit
    //! [outage]: super::resilience#outage-policies
    //! [performance]: super::performance#how-to-run-it
    //!
    #![doc = include_str!("../../docs/streams.md")]
}

pub mod encryption {
    //! Encryption at rest, rotation of secrets, and compression.
    //!
    //! [record]: super::protocol#record
    //! [rotating]: super::deployment#rotating-the-secret
    //!
    #![doc = include_str!("../../docs/encryption.md")]
}

pub mod deployment {
    //! Several nodes over one Redis, in production.
    //!
    //! [faults]: super::guarantees#measured-faults
    //! [observability]: super::observability
    //! [owners]: super::owners
    //! [proxy]: super::recipes#behind-a-proxy
    //! [retries]: super::resilience#retries
    //! [rotation]: super::encryption#changing-the-secret
    //! [rule-1]: super::protocol#rule-1-proof-by-heartbeat
    //! [rule-28]: super::protocol#rule-28-history
    //! [rule-32]: super::protocol#rule-32-which-server
    //! [scale]: super::scale
    //!
    #![doc = include_str!("../../docs/deployment.md")]
}

pub mod scale {
    //! What a Redis Cluster costs, and up to how many nodes and writes.
    //!
    //! [announcements]: super::protocol#announcements
    //! [model]: super::protocol#the-model
    //! [rule-2]: super::protocol#rule-2-one-queue
    //! [rule-14]: super::protocol#rule-14-write-and-announcement-are-one-step
    //! [rule-32]: super::protocol#rule-32-which-server
    //!
    #![doc = include_str!("../../docs/scale.md")]
}

pub mod performance {
    //! What each operation costs, compared with others, and where the time goes.
    //!
    //! [rule-25]: super::protocol#rule-25-remembered-verification
    //! [rule-29]: super::protocol#rule-29-what-is-cached-is-what-was-written
    //!
    #![doc = include_str!("../../docs/performance.md")]
}

pub mod observability {
    //! Metrics, alerts, spans and log events.
    //!
    //! [adapter]: super::coming_from_tower_sessions#keep-the-code-change-the-store
    //! [limit]: super::owners#a-limit
    //! [redis]: super::deployment#redis
    //! [streams]: super::streams
    //!
    #![cfg_attr(
        any(not(doctest), feature = "metrics"),
        doc = include_str!("../../docs/observability.md")
    )]
}

pub mod recipes {
    //! Pages for members only, error pages, bearer tokens, and the proxy in front.
    //!
    //! [`CookieConfig::development`]: crate::CookieConfig::development
    //! [`Session`]: crate::Session
    //! [`Session::modify`]: crate::Session::modify
    //! [`Session::outage`]: crate::Session::outage
    //! [`Session::save`]: crate::Session::save
    //! [errors]: super::resilience#errors
    //! [owners]: super::owners
    //! [streams]: super::streams
    //! [testing]: super::testing
    //!
    #![cfg_attr(
        any(not(doctest), feature = "axum"),
        doc = include_str!("../../docs/recipes.md")
    )]
}

pub mod testing {
    //! Tests of an application that uses this crate.
    //!
    #![cfg_attr(
        any(not(doctest), all(feature = "axum", feature = "testing")),
        doc = include_str!("../../docs/testing.md")
    )]
}

pub mod owasp {
    //! The OWASP session checklist and ASVS 5.0, requirement by requirement.
    //!
    //! [contract]: super::guarantees#the-contract
    //! [deployment]: super::deployment
    //! [observability]: super::observability#events-for-audit-logs
    //! [limit]: super::owners#a-limit
    //! [outage]: super::resilience#outage-policies
    //! [owners]: super::owners
    //! [streams]: super::streams
    //!
    #![doc = include_str!("../../docs/owasp.md")]
}

pub mod other_frameworks {
    //! Sessions in hyper, tonic, warp and salvo.
    //!
    //! [example]: https://docs.rs/crate/clustered-sessions/latest/source/examples/hyper.rs
    //! [on-commit-error]: crate::SessionLayer::on_commit_error
    //!
    // Its code is compiled and run in `tests/frameworks`, which has the frameworks.
    #![cfg_attr(not(doctest), doc = include_str!("../../docs/other-frameworks.md"))]
}

pub mod coming_from_tower_sessions {
    //! From tower-sessions, axum-login and others to this crate, while users are logged in.
    //!
    //! [adapter]: https://docs.rs/clustered-sessions/latest/clustered_sessions/struct.TowerSessionsStore.html
    //! [crystal]: super::from_clustered_redis_store
    //! [encryption]: super::encryption
    //! [error]: crate::SessionError
    //! [key-values]: crate::KeyValues
    //! [migrating]: https://docs.rs/clustered-sessions/latest/clustered_sessions/struct.MigratingStore.html
    //! [performance]: super::performance
    //! [prefixes]: super::deployment#redis
    //! [streams]: super::streams
    //!
    // Its examples need these features, and nothing else does.
    #![cfg_attr(
        any(not(doctest), all(feature = "axum", feature = "redis", feature = "tower-sessions-0-15")),
        doc = include_str!("../../docs/coming-from-tower-sessions.md")
    )]
}

pub mod from_clustered_redis_store {
    //! A table from the Crystal library `ClusteredRedisStore` to this crate.
    //!
    //! [guarantees]: super::guarantees#the-contract
    //! [messages]: super::protocol#announcements
    //! [owners]: super::owners
    //! [resilience]: super::resilience
    //!
    #![doc = include_str!("../../docs/from-clustered-redis-store.md")]
}
