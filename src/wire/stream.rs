//! The byte stream under a session: TCP or unix socket, bare or under TLS, as one type.

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use super::conninfo::{Host, HostAddress, Keepalive};
use super::error::WireError;

/// A server that answers a connection within this is near, as is one on this machine however busy that is: what it sends needs
/// no large buffer on the way.
const NEAR: Duration = Duration::from_millis(2);

/// The receive buffer for what a near server sends, bytes; the kernel doubles it for its own needs, and may allow less
/// (`net.core.rmem_max`, usually 208 kB). Left to itself it grows to many times as much, the socket never fills, and each
/// message of a walsender travels as a segment of its own, which takes most of the walsender's time. In a buffer that is full
/// they gather at the sender. At 128 kB a large transaction's changes, some 30 MB/s, came no faster than pauses of 3 ms let
/// them in (A1 4.0 s, 3.2 s with 192 kB). A distant server needs as much as is under way, so there the kernel decides.
const NEAR_BUFFER: usize = 192 << 10;

/// An open connection.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// One place to connect to, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// All endpoints that a host's name stands for, in the resolver's order.
pub(super) async fn resolve(host: &Host) -> Result<Vec<Endpoint>, WireError> {
    match &host.address {
        HostAddress::Unix(directory) => Ok(vec![Endpoint::Unix(socket_path(directory.clone(), host.port))]),
        HostAddress::Tcp { address: Some(address), .. } => {
            Ok(vec![Endpoint::Tcp(SocketAddr::new(*address, host.port))])
        }
        HostAddress::Tcp { name, address: None } => {
            if let Ok(address) = name.parse::<IpAddr>() {
                return Ok(vec![Endpoint::Tcp(SocketAddr::new(address, host.port))]);
            }
            let found = tokio::net::lookup_host((name.as_str(), host.port))
                .await
                .map_err(|error| WireError::io(format!("looking up the host name \"{name}\""), error))?;
            let endpoints: Vec<_> = found.map(Endpoint::Tcp).collect();
            if endpoints.is_empty() {
                let none = io::Error::new(io::ErrorKind::NotFound, "it has no address");
                return Err(WireError::io(format!("looking up the host name \"{name}\""), none));
            }
            Ok(endpoints)
        }
    }
}

/// `.s.PGSQL.5432` in the directory; an abstract socket's name begins with a zero byte for the kernel.
fn socket_path(directory: PathBuf, port: u16) -> PathBuf {
    let path = directory.join(format!(".s.PGSQL.{port}"));
    match path.as_os_str().as_bytes().strip_prefix(b"@") {
        Some(name) => PathBuf::from(OsString::from_vec([b"\0", name].concat())),
        None => path,
    }
}

impl Endpoint {
    /// Opens it.
    pub(super) async fn open(&self, keepalive: &Keepalive) -> io::Result<Stream> {
        match self {
            Endpoint::Unix(path) => Ok(Stream::Unix(UnixStream::connect(path).await?)),
            Endpoint::Tcp(address) => {
                let begun = Instant::now();
                let stream = TcpStream::connect(address).await?;
                let near = address.ip().is_loopback() || begun.elapsed() < NEAR;
                stream.set_nodelay(true)?;
                set_options(&SockRef::from(&stream), keepalive, near)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }
}

/// What the kernel is told about a TCP connection.
fn set_options(socket: &SockRef<'_>, keepalive: &Keepalive, near: bool) -> io::Result<()> {
    if near {
        socket.set_recv_buffer_size(NEAR_BUFFER)?;
    }
    if keepalive.enabled {
        let probes = TcpKeepalive::new().with_time(keepalive.idle).with_interval(keepalive.interval);
        socket.set_tcp_keepalive(&probes.with_retries(keepalive.count))?;
    }
    if keepalive.user_timeout.is_some() {
        socket.set_tcp_user_timeout(keepalive.user_timeout)?;
    }
    Ok(())
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Conninfo;

    #[tokio::test]
    async fn a_unix_host_is_a_socket_in_a_directory() {
        let path = |directory: &str| socket_path(PathBuf::from(directory), 5433);
        assert_eq!(path("/run/pg"), PathBuf::from("/run/pg/.s.PGSQL.5433"));
        assert_eq!(path("@pg").as_os_str().as_bytes(), b"\0pg/.s.PGSQL.5433");
    }

    #[test]
    fn only_a_near_server_gets_a_buffer_of_fixed_size() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let size_if = |near| {
            let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let socket = SockRef::from(&stream);
            let before = socket.recv_buffer_size().unwrap();
            set_options(&socket, Conninfo::parse("host=h").unwrap().keepalive(), near).unwrap();
            (before, socket.recv_buffer_size().unwrap())
        };
        let (before, near) = size_if(true);
        assert_ne!(before, near);
        let (before, distant) = size_if(false);
        assert_eq!(before, distant);
    }

    #[tokio::test]
    async fn a_literal_address_needs_no_look_up() {
        let address = HostAddress::Tcp { name: "127.0.0.1".to_owned(), address: None };
        let found = resolve(&Host { address, port: 1 }).await.unwrap();
        assert_eq!(found, [Endpoint::Tcp("127.0.0.1:1".parse().unwrap())]);
    }

    #[tokio::test]
    async fn a_name_that_does_not_exist_is_named() {
        let address = HostAddress::Tcp { name: "no.such.host.invalid".to_owned(), address: None };
        let error = resolve(&Host { address, port: 1 }).await.unwrap_err().to_string();
        assert!(error.contains("no.such.host.invalid"), "{error}");
    }
}
