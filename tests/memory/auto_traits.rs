//! Public types can be shared between tasks and threads.

use clustered_sessions::backend::{
    BackendInfo, Cursor, Event, Extension, Meta, OwnerTag, Page, Revision, Stored, Subscription,
    SubscriptionSender, Timestamp,
};
use clustered_sessions::testing::{Faults, FaultyBackend};
use clustered_sessions::{
    BulkDeletion, CacheStats, Circuit, CircuitBreakerConfig, CircuitState, Clock, ClusterConfig,
    ConfigError, CookieConfig, Coordinator, DataFormat, EmptyErrorResponse, Encryption, Ended,
    Fresh, InvalidSessionId, KeyValues, LimitPolicy, LocalCache, MemoryBackend, NewSession,
    OutagePolicy, Part, Record, RedisAddress, RedisCluster, RedisConfig, RedisCredentials,
    RedisSentinels, RedisTls, ResponseFuture, RetryConfig, SameSite, Secret, Session,
    SessionConfig, SessionConfigBuilder, SessionError, SessionEvent, SessionId, SessionLayer,
    SessionService, SessionStore, SessionToken, SessionWatch, Snapshot, StoreError, StoreErrorKind,
    ValueError,
};

use crate::web::Data;

/// Asserts at compile time that each of these types is `Send` and `Sync`.
macro_rules! assert_send_and_sync {
    ($($type:ty),* $(,)?) => {
        const fn is_send_and_sync<T: Send + Sync>() {}
        const { $(is_send_and_sync::<$type>();)* }
    };
}

#[test]
fn public_types_are_send_and_sync() {
    // For requests.
    assert_send_and_sync!(
        EmptyErrorResponse,
        Ended,
        Fresh<Session<Data>>,
        KeyValues,
        Part<Data, Data>,
        ResponseFuture<(), (), Data>,
        Session<Data>,
        SessionError,
        SessionLayer<Data>,
        SessionService<(), Data>,
        SessionWatch<Data>,
        Snapshot<Data>,
        ValueError,
    );
}

#[test]
fn public_types_of_stores_are_send_and_sync() {
    assert_send_and_sync!(
        BackendInfo,
        BulkDeletion,
        CacheStats,
        Circuit,
        CircuitState,
        Clock,
        Coordinator<Data>,
        Cursor,
        Event,
        Extension,
        Faults,
        FaultyBackend<MemoryBackend>,
        InvalidSessionId,
        LocalCache<Data>,
        MemoryBackend,
        Meta,
        NewSession<Data>,
        OwnerTag,
        Page,
        Record<Data>,
        Revision,
        SessionEvent,
        SessionId,
        SessionStore<Data>,
        SessionToken,
        StoreError,
        StoreErrorKind,
        Stored,
        Subscription,
        SubscriptionSender,
        Timestamp,
    );
}

#[test]
fn public_types_of_configurations_are_send_and_sync() {
    assert_send_and_sync!(
        CircuitBreakerConfig,
        ClusterConfig,
        ConfigError,
        CookieConfig,
        DataFormat,
        Encryption,
        LimitPolicy,
        OutagePolicy,
        RedisAddress,
        RedisCluster,
        RedisConfig,
        RedisCredentials,
        RedisSentinels,
        RedisTls,
        RetryConfig,
        SameSite,
        Secret,
        SessionConfig<Data>,
        SessionConfigBuilder<Data>,
    );
}
