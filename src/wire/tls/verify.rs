//! Whether a server's certificate is trusted, as libpq and OpenSSL see it, on top of rustls' own checks.
//!
//! Two kinds of certificate that PostgreSQL's documentation tells people to make are beyond webpki and are handled
//! here: one that is itself in the root file (self-signed), and one of X.509 version 1, signed directly by a root.
//! The handshake's signature is always verified, also where nobody vouches for the certificate: channel binding
//! relies on it.

use std::fmt;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use x509_cert::Certificate;
use x509_cert::certificate::Version;
use x509_cert::der::{Decode, Encode};
use x509_cert::spki::AlgorithmIdentifierOwned;

use super::super::conninfo::RootCertificates;
use super::{certificates, names};

/// Whom to trust.
#[derive(Debug)]
pub(super) enum Trust {
    /// Anybody: encryption without authentication.
    Anybody,
    /// Who is issued by one of these roots, or is one of these certificates.
    Roots { store: RootCertStore, certificates: Vec<CertificateDer<'static>> },
}

impl Trust {
    /// Reads the roots.
    pub(super) fn read(roots: &RootCertificates) -> Result<Trust, String> {
        let found = match roots {
            RootCertificates::None => return Ok(Trust::Anybody),
            RootCertificates::File(path) => certificates(path)?,
            RootCertificates::System => rustls_native_certs::load_native_certs().certs,
        };
        let mut store = RootCertStore::empty();
        let (usable, _) = store.add_parsable_certificates(found.iter().cloned());
        if usable == 0 {
            return Err(format!("{} hold no usable root certificate", described(roots)));
        }
        // Self-signed servers and version 1 concern a file that somebody wrote for these servers.
        let certificates = if *roots == RootCertificates::System { Vec::new() } else { found };
        Ok(Trust::Roots { store, certificates })
    }
}

/// The roots in words.
pub(super) fn described(roots: &RootCertificates) -> String {
    match roots {
        RootCertificates::File(path) => path.display().to_string(),
        RootCertificates::System => "the operating system's root certificates".to_owned(),
        RootCertificates::None => "no file".to_owned(),
    }
}

/// A reason that rustls has no word for.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for CertificateError {
    fn from(refusal: Refusal) -> CertificateError {
        CertificateError::Other(OtherError(std::sync::Arc::new(refusal)))
    }
}

/// The check of one connection's certificate.
#[derive(Debug)]
pub(super) struct Verifier {
    trust: Trust,
    /// The host that the certificate must be for: `sslmode=verify-full`.
    host: Option<String>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(super) fn new(trust: Trust, host: Option<String>, algorithms: WebPkiSupportedAlgorithms) -> Verifier {
        Verifier { trust, host, algorithms }
    }

    fn chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let Trust::Roots { store, certificates } = &self.trust else { return Ok(()) };
        if certificates.contains(end_entity) {
            return in_time(&parse(end_entity)?, now);
        }
        match ParsedCertificate::try_from(end_entity) {
            Ok(parsed) => {
                let schemes = self.algorithms.all;
                match verify_server_cert_signed_by_trust_anchor(&parsed, store, intermediates, now, schemes) {
                    // A self-signed authority that is not in the file: webpki names another of its sins.
                    Err(Error::InvalidCertificate(CertificateError::Other(_))) if self_signed(&parse(end_entity)?) => {
                        Err(CertificateError::UnknownIssuer.into())
                    }
                    result => result,
                }
            }
            Err(error) => match parse(end_entity)? {
                leaf if leaf.tbs_certificate().version() == Version::V1 => self.version1(&leaf, certificates, now),
                _ => Err(error),
            },
        }
    }

    /// A version 1 certificate has no extensions, so nothing is left to check but time, issuer and signature.
    fn version1(&self, leaf: &Certificate, roots: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        in_time(leaf, now)?;
        let signed_by = |root: &Certificate| {
            root.tbs_certificate().subject() == leaf.tbs_certificate().issuer() && self.signed(leaf, root)
        };
        match roots.iter().filter_map(|root| parse(root).ok()).any(|root| signed_by(&root)) {
            true => Ok(()),
            false => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    /// Whether `root`'s key made `leaf`'s signature.
    fn signed(&self, leaf: &Certificate, root: &Certificate) -> bool {
        let key = root.tbs_certificate().subject_public_key_info();
        let (Ok(message), Some(signature), Some(public)) =
            (leaf.tbs_certificate().to_der(), leaf.signature().as_bytes(), key.subject_public_key.as_bytes())
        else {
            return false;
        };
        let (Some(signed_with), Some(key_of)) = (identifier(leaf.signature_algorithm()), identifier(&key.algorithm))
        else {
            return false;
        };
        self.algorithms
            .all
            .iter()
            .filter(|algorithm| algorithm.signature_alg_id().as_ref() == signed_with)
            .filter(|algorithm| algorithm.public_key_alg_id().as_ref() == key_of)
            .any(|algorithm| algorithm.verify_signature(public, &message, signature).is_ok())
    }
}

/// An algorithm's identifier as rustls writes it: the contents of the SEQUENCE, without its two bytes of header.
fn identifier(algorithm: &AlgorithmIdentifierOwned) -> Option<Vec<u8>> {
    let der = algorithm.to_der().ok()?;
    (*der.get(1)? < 0x80).then(|| der[2..].to_vec())
}

fn self_signed(certificate: &Certificate) -> bool {
    certificate.tbs_certificate().subject() == certificate.tbs_certificate().issuer()
}

fn parse(certificate: &CertificateDer<'_>) -> Result<Certificate, Error> {
    Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding.into())
}

fn in_time(certificate: &Certificate, now: UnixTime) -> Result<(), Error> {
    let validity = certificate.tbs_certificate().validity();
    if now.as_secs() < validity.not_before.to_unix_duration().as_secs() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now.as_secs() > validity.not_after.to_unix_duration().as_secs() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.chain(end_entity, intermediates, now)?;
        if let Some(host) = &self.host {
            names::check(&parse(end_entity)?, host).map_err(|problem| CertificateError::from(Refusal(problem)))?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if ParsedCertificate::try_from(certificate).is_ok() {
            return verify_tls13_signature(message, certificate, signature, &self.algorithms);
        }
        // Version 1: webpki does not read it, but its key is as good as any.
        let parsed = parse(certificate)?;
        let key = parsed.tbs_certificate().subject_public_key_info().to_der();
        let key = key.map_err(|_| Error::from(CertificateError::BadEncoding))?;
        verify_tls13_signature_with_raw_key(message, &SubjectPublicKeyInfoDer::from(key), signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
