//! A plain hyper server without axum: the session layer in a tower `ServiceBuilder`.
//!
//! ```sh
//! cargo run --example hyper --no-default-features
//! curl -i -c jar -b jar localhost:3000    # repeat: the number of visits goes up
//! ```
//!
//! Points of interest: [`visit`] takes the session from the request's extensions, and [`handle`]
//! turns an error into its response, which axum's extractor does by itself. `PORT` sets another
//! port; 0 picks a free one.

#![allow(clippy::print_stdout, reason = "the example prints its address")]

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use clustered_sessions::{Secret, Session, SessionConfig, SessionError, SessionLayer};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt as _};

/// The data of a session. A visitor without a session gets the default.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Visitor {
    visits: u64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // For plain HTTP on one machine: cookies are not `Secure`, records are not encrypted, and the
    // node does not listen to others. The example `production` has what a deployment needs.
    let config = SessionConfig::<Visitor>::development(Secret::insecure_dev("hyper")).build()?;
    // Built once and cloned for each request: all clones share one store.
    let service = ServiceBuilder::new().layer(SessionLayer::new(config)).service_fn(handle);

    let port = std::env::var("PORT").map_or(Ok(3000), |port| port.parse())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                println!("cannot accept a connection: {error}");
                // Too many files may be open, which only the end of other connections changes.
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let service = service.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(|request| service.clone().oneshot(request));
            if let Err(error) =
                http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
            {
                println!("connection failed: {error}");
            }
        });
    }
}

/// Turns an error into its response: without a framework, the handler must do so itself.
async fn handle(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(visit(&request).await.unwrap_or_else(|error| error.to_response()))
}

async fn visit(request: &Request<Incoming>) -> Result<Response<Full<Bytes>>, SessionError> {
    let session = Session::<Visitor>::from_extensions(request.extensions()).await?;
    let visits = session
        .modify(|visitor| {
            visitor.visits += 1;
            visitor.visits
        })
        .await?;
    Ok(Response::new(format!("visit {visits}\n").into()))
}
