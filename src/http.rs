//! What the daemon tells over HTTP, from its latest snapshot: health, readiness, status, metrics.
//!
//! No page asks the daemon or a server anything, so no request can slow replication down. What is asked of the daemon
//! (`POST`) waits for its answer.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::model::{Class, Classify};
use crate::status::Status;

mod ask;
pub mod client;
mod metrics;
mod routes;

pub use ask::{Answer, Ask, Asked, Request};

/// The address could not be bound, or serving it ended.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Something else has the address.
    #[error("{0} is in use: does another pgconcord run? Stop it, or name another address in [http] listen")]
    InUse(SocketAddr),
    /// The address can't be had.
    #[error("cannot listen on {listen}: {source}; name an address of this machine and a free port in [http] listen")]
    Bind {
        /// The address.
        listen: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The socket failed.
    #[error("serving HTTP ended: {0}")]
    Serve(io::Error),
}

impl Classify for HttpError {
    fn class(&self) -> Class {
        Class::Operator
    }
}

/// Takes the address, before anything else starts. Connections wait until [`serve`].
pub async fn bind(listen: SocketAddr) -> Result<TcpListener, HttpError> {
    TcpListener::bind(listen).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => HttpError::InUse(listen),
        _ => HttpError::Bind { listen, source },
    })
}

/// Serves the latest of `status` until `shutdown` completes; requests under way are answered first, but nobody is
/// waited for longer than a second.
pub async fn serve(
    listener: TcpListener,
    status: watch::Receiver<Arc<Status>>,
    ask: Ask,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), HttpError> {
    routes::serve(listener, status, ask, shutdown).await.map_err(HttpError::Serve)
}

#[cfg(test)]
mod tests;
