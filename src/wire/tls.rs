//! Encryption of a TCP connection as `sslmode` asks for it, by rustls with ring.
//!
//! PostgreSQL's documentation, "SSL Support" (libpq) and "SSL Session Encryption" (protocol). Nothing that arrives in
//! clear text before the handshake is kept: only the one byte of the answer is read.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, IpAddr, PrivateKeyDer, ServerName};
use rustls::{CertificateError, ClientConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

mod binding;
mod names;
mod verify;

pub(super) use binding::EndPoint;
use verify::{Trust, Verifier};

use super::conninfo::{Host, HostAddress, SslMode, SslNegotiation, SslSettings};
use super::error::WireError;
use super::stream::Stream;

/// The name of the protocol inside TLS: PostgreSQL 17 and later ask for it where TLS begins at once.
const ALPN: &[u8] = b"postgresql";

/// Puts a fresh connection under TLS if the settings and the server want it.
pub(super) async fn secure(mut tcp: TcpStream, ssl: &SslSettings, host: &Host) -> Result<Stream, WireError> {
    let HostAddress::Tcp { name, .. } = &host.address else { return Ok(Stream::Tcp(tcp)) };
    if ssl.mode == SslMode::Disable {
        return Ok(Stream::Tcp(tcp));
    }
    let config = client_config(ssl, name)?;
    if ssl.negotiation == SslNegotiation::Postgres && !offered(&mut tcp, host).await? {
        if ssl.mode == SslMode::Prefer {
            return Ok(Stream::Tcp(tcp));
        }
        return Err(problem(host, "the server does not offer it; set ssl=on there, or sslmode=disable here"));
    }
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(server_name(name), tcp).await.map_err(|error| handshake_error(error, ssl, host))?;
    if ssl.negotiation == SslNegotiation::Direct && stream.get_ref().1.alpn_protocol() != Some(ALPN) {
        return Err(problem(host, "the other end does not speak PostgreSQL's protocol under sslnegotiation=direct"));
    }
    Ok(Stream::Tls(Box::new(stream)))
}

/// What SCRAM can bind to.
pub(super) fn end_point(stream: &TlsStream<TcpStream>) -> EndPoint {
    match stream.get_ref().1.peer_certificates() {
        Some([certificate, ..]) => binding::end_point(certificate),
        _ => EndPoint::NoHash,
    }
}

/// Asks the server whether it speaks TLS.
async fn offered(tcp: &mut TcpStream, host: &Host) -> Result<bool, WireError> {
    let failed = |error| WireError::io(format!("asking {host} for TLS"), error);
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    tcp.write_all(&request).await.map_err(failed)?;
    let mut answer = [0];
    match tcp.read(&mut answer).await.map_err(failed)? {
        0 => Err(WireError::Closed { target: host.to_string() }),
        _ => match answer {
            [b'S'] => Ok(true),
            [b'N'] => Ok(false),
            // An ErrorResponse: the server could not start a process for us. Nobody vouches for its text yet.
            [b'E'] => Err(WireError::Closed { target: host.to_string() }),
            [other] => Err(WireError::Protocol(format!(
                "{host} answers a request for TLS with {:?}; is it a PostgreSQL server?",
                char::from(other)
            ))),
        },
    }
}

/// The name to tell the server. One that cannot be a DNS name is not told; it is checked against the certificate
/// by the [`Verifier`] all the same.
fn server_name(name: &str) -> ServerName<'static> {
    let unspoken = ServerName::IpAddress(IpAddr::V4([0, 0, 0, 0].into()));
    ServerName::try_from(name.to_owned()).unwrap_or(unspoken)
}

/// What `ssl` means for rustls, for connections to `host`. Files are read anew, so that renewed ones count.
pub fn client_config(ssl: &SslSettings, host: &str) -> Result<ClientConfig, WireError> {
    let wrong = |problem: String| WireError::Tls { target: host.to_owned(), problem };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let name = (ssl.mode == SslMode::VerifyFull).then(|| host.to_owned());
    let trust = Trust::read(&ssl.roots).map_err(wrong)?;
    let verifier: Arc<dyn ServerCertVerifier> =
        Arc::new(Verifier::new(trust, name, provider.signature_verification_algorithms));
    let versions: Vec<&'static SupportedProtocolVersion> =
        [(ssl.tls13, &rustls::version::TLS13), (ssl.tls12, &rustls::version::TLS12)]
            .into_iter()
            .filter_map(|(wanted, version)| wanted.then_some(version))
            .collect();
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .map_err(|error| wrong(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &ssl.client {
        Some((certificate, key)) => {
            let (chain, key) = client_certificate(certificate, key).map_err(wrong)?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| wrong(format!("{} cannot be used: {error}", certificate.display())))?
        }
        None => builder.with_no_client_auth(),
    };
    config.enable_sni = ssl.sni;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// The client's certificate with its chain, and the key.
fn client_certificate(
    certificate: &Path,
    key: &Path,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let chain = certificates(certificate)?;
    let metadata = fs::metadata(key).map_err(|error| format!("the key {}: {error}", key.display()))?;
    // Like libpq: nobody but the owner, and a key of root's may be read by its group.
    let allowed = if std::os::unix::fs::MetadataExt::uid(&metadata) == 0 { 0o640 } else { 0o600 };
    if metadata.permissions().mode() & 0o777 & !allowed & 0o077 != 0 {
        return Err(format!("others may read the key {}; chmod 600 it", key.display()));
    }
    let key = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| format!("the key {} is no unencrypted PEM key: {error}", key.display()))?;
    Ok((chain, key))
}

/// All certificates of a PEM file; none is an error.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let unreadable = |error| format!("the certificates in {} cannot be read: {error}", path.display());
    let found: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(unreadable)?.collect::<Result<_, _>>().map_err(unreadable)?;
    match found.is_empty() {
        true => Err(format!("{} holds no PEM certificate", path.display())),
        false => Ok(found),
    }
}

fn problem(host: &Host, problem: impl Into<String>) -> WireError {
    WireError::Tls { target: host.to_string(), problem: problem.into() }
}

/// A handshake that failed: a fault of the network, or of trust with what to do about it.
fn handshake_error(error: io::Error, ssl: &SslSettings, host: &Host) -> WireError {
    let Some(fault) = rustls_error(&error) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => WireError::Closed { target: host.to_string() },
            _ => WireError::io(format!("TLS with {host}"), error),
        };
    };
    let text = match fault {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => other.0.to_string(),
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => format!(
            "no root in {} vouches for the server's certificate; put the certificate of its issuer there",
            verify::described(&ssl.roots)
        ),
        other => other.to_string(),
    };
    problem(host, text)
}

/// An error while reading from an open connection: TLS alerts, such as a refused client certificate, come here.
pub(super) fn read_error(error: io::Error, peer: &str) -> WireError {
    match rustls_error(&error) {
        Some(fault) => WireError::Tls { target: peer.to_owned(), problem: fault.to_string() },
        None => WireError::io(format!("reading from {peer}"), error),
    }
}

fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_dns_cannot_have_is_not_told() {
        assert!(matches!(server_name("db.example"), ServerName::DnsName(_)));
        assert!(matches!(server_name("::1"), ServerName::IpAddress(_)));
        assert!(matches!(server_name("not a name"), ServerName::IpAddress(_)));
    }

    #[test]
    fn a_file_without_certificates_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(certificates(file.path()).unwrap_err().contains("holds no PEM certificate"));
        assert!(certificates(Path::new("/nonexistent/root.crt")).unwrap_err().contains("/nonexistent/root.crt"));
    }

    #[test]
    fn a_refusal_keeps_its_words() {
        let refusal = verify::Refusal("the words".to_owned()).into();
        let error = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::InvalidCertificate(refusal));
        let host = Host { address: HostAddress::Tcp { name: "h".to_owned(), address: None }, port: 1 };
        let ssl = crate::wire::Conninfo::parse("host=h sslmode=require user=u").unwrap().ssl().clone();
        assert_eq!(handshake_error(error, &ssl, &host).to_string(), "TLS with h:1: the words");
    }
}
