//! The tower middleware: layer, service and response future.

mod error_response;
mod future;
mod headers;
mod layer;
mod service;

pub use self::error_response::{EmptyErrorResponse, ErrorResponse};
pub use self::future::ResponseFuture;
pub use self::layer::SessionLayer;
pub use self::service::SessionService;
