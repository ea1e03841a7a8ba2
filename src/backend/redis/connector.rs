//! Opens byte streams to servers.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_ok;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};

use super::config::RedisAddress;

/// Time without traffic after which a keepalive is sent. A node that answers all reads from its
/// cache sends no commands, and load balancers and NAT gateways forget idle connections after
/// minutes.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// A stream of bytes to a server.
pub(super) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for S {}

pub(super) type BoxStream = Box<dyn ByteStream>;

type Opening = Pin<Box<dyn Future<Output = io::Result<BoxStream>> + Send>>;

/// Opens byte streams to servers: an application's own way, or the usual one.
#[derive(Clone)]
pub(super) struct Connector(Arc<dyn Fn(RedisAddress) -> Opening + Send + Sync>);

impl Connector {
    pub(super) fn new<C, F, S>(connect: C) -> Self
    where
        C: Fn(RedisAddress) -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Connector(Arc::new(move |address| {
            let connecting = connect(address);
            Box::pin(async move { Ok(Box::new(connecting.await?) as BoxStream) })
        }))
    }

    pub(super) async fn open(&self, address: &RedisAddress) -> io::Result<BoxStream> {
        (self.0)(address.clone()).await
    }
}

/// Opens TCP connections and Unix domain sockets.
impl Default for Connector {
    fn default() -> Self {
        Connector(Arc::new(|address| Box::pin(open(address))))
    }
}

async fn open(address: RedisAddress) -> io::Result<BoxStream> {
    match address {
        RedisAddress::Tcp { host, port } => {
            let stream = connect_to_any(&host, port).await?;
            // Small packets are sent at once.
            stream.set_nodelay(true)?;
            SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
            Ok(Box::new(stream))
        }
        RedisAddress::Unix { path } => open_unix(&path).await,
    }
}

/// Connects to all addresses of a host at once, and returns the first connection.
async fn connect_to_any(host: &str, port: u16) -> io::Result<TcpStream> {
    let attempts: Vec<_> =
        lookup_host((host, port)).await?.map(|addr| Box::pin(TcpStream::connect(addr))).collect();
    if attempts.is_empty() {
        return Err(io::Error::other("the host has no address"));
    }
    Ok(select_ok(attempts).await?.0)
}

#[cfg(unix)]
async fn open_unix(path: &Path) -> io::Result<BoxStream> {
    Ok(Box::new(tokio::net::UnixStream::connect(path).await?))
}

#[cfg(not(unix))]
async fn open_unix(_: &Path) -> io::Result<BoxStream> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no Unix domain sockets"))
}
