//! Asks a running daemon for its snapshot.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::model::{Class, Classify};
use crate::status::Status;

/// A daemon answers from memory; one that takes longer hangs.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The snapshot of a cluster of the most nodes is far below this; what is longer is something else.
const LONGEST: usize = 16 << 20;

/// There is no snapshot to be had.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens there, or it does not answer.
    #[error(
        "no daemon answers at {address}: {reason}; start it with `pgconcord run`, or see that [http] listen is the one it runs with"
    )]
    NoAnswer {
        /// Where.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// Something answers that is no daemon of this version.
    #[error("what answers at {address} is no pgconcord of this version: {reason}")]
    NotADaemon {
        /// Where.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
}

impl Classify for ClientError {
    fn class(&self) -> Class {
        match self {
            ClientError::NoAnswer { .. } => Class::Transient,
            ClientError::NotADaemon { .. } => Class::Operator,
        }
    }
}

/// The snapshot of the daemon that listens at `listen`.
pub async fn status(listen: SocketAddr) -> Result<Status, ClientError> {
    let address = reachable(listen);
    let late = || ClientError::NoAnswer { address, reason: format!("nothing came within {} s", TIMEOUT.as_secs()) };
    let body = tokio::time::timeout(TIMEOUT, get(address)).await.map_err(|_| late())??;
    serde_json::from_slice(&body).map_err(|error| ClientError::NotADaemon { address, reason: error.to_string() })
}

/// A daemon that listens everywhere is reached on this machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

async fn get(address: SocketAddr) -> Result<Bytes, ClientError> {
    let no_answer = |reason: String| ClientError::NoAnswer { address, reason };
    let stream = TcpStream::connect(address).await.map_err(|error| no_answer(error.to_string()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| no_answer(error.to_string()))?;
    tokio::spawn(connection); // ends with the sender; its error is the request's, too
    let request = Request::get("/status").header(header::HOST, address.to_string()).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| no_answer(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(|error| no_answer(error.to_string()))?;
    if response.status() != StatusCode::OK {
        return Err(ClientError::NotADaemon { address, reason: format!("HTTP status {}", response.status()) });
    }
    match Limited::new(response.into_body(), LONGEST).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(no_answer(error.to_string())),
    }
}
