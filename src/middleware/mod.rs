//! The tower middleware.

mod future;
mod headers;
mod layer;
mod service;
mod shared;

pub use self::future::ResponseFuture;
pub use self::layer::SessionLayer;
pub use self::service::SessionService;
