//! The tower middleware: layer, service and response future.

mod future;
mod headers;
mod layer;
mod refusals;
mod service;
mod state;

pub use self::future::ResponseFuture;
pub use self::layer::SessionLayer;
pub use self::service::SessionService;
