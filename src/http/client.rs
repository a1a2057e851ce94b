//! Asks a running daemon for its snapshot, and to do things.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Method, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::http::{Answer, Request};
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
    let (status, body) = ask(address, Method::GET, "/status").await?;
    if status != StatusCode::OK {
        return Err(ClientError::NotADaemon { address, reason: format!("HTTP status {status}") });
    }
    serde_json::from_slice(&body).map_err(|error| ClientError::NotADaemon { address, reason: error.to_string() })
}

/// Asks the daemon that listens at `listen` to do something.
pub async fn request(listen: SocketAddr, request: Request) -> Result<Answer, ClientError> {
    let address = reachable(listen);
    let (status, body) = ask(address, Method::POST, request.path()).await?;
    let said = String::from_utf8_lossy(&body).trim_end().to_owned();
    match status {
        StatusCode::OK => Ok(Ok(said)),
        StatusCode::UNPROCESSABLE_ENTITY => Ok(Err(said)),
        StatusCode::SERVICE_UNAVAILABLE => Err(ClientError::NoAnswer { address, reason: said }),
        _ => Err(ClientError::NotADaemon { address, reason: format!("HTTP status {status}") }),
    }
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

async fn ask(address: SocketAddr, method: Method, path: &str) -> Result<(StatusCode, Bytes), ClientError> {
    let late = || ClientError::NoAnswer { address, reason: format!("nothing came within {} s", TIMEOUT.as_secs()) };
    tokio::time::timeout(TIMEOUT, exchange(address, method, path)).await.map_err(|_| late())?
}

async fn exchange(address: SocketAddr, method: Method, path: &str) -> Result<(StatusCode, Bytes), ClientError> {
    let no_answer = |reason: String| ClientError::NoAnswer { address, reason };
    let stream = TcpStream::connect(address).await.map_err(|error| no_answer(error.to_string()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| no_answer(error.to_string()))?;
    tokio::spawn(connection); // ends with the sender; its error is the request's, too
    let request = hyper::Request::builder().method(method).uri(path).header(header::HOST, address.to_string());
    let request = request.body(Empty::<Bytes>::new());
    let request = request.map_err(|error| no_answer(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(|error| no_answer(error.to_string()))?;
    let status = response.status();
    match Limited::new(response.into_body(), LONGEST).collect().await {
        Ok(body) => Ok((status, body.to_bytes())),
        Err(error) => Err(no_answer(error.to_string())),
    }
}
