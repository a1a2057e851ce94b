//! What SCRAM binds to: the hash of the server's certificate (`tls-server-end-point`, RFC 5929).
//!
//! The hash is that of the certificate's signature, but never MD5 or SHA-1. PostgreSQL computes the same at its end.

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::der::Decode;

/// What a login knows about the channel that it runs in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum EndPoint {
    /// There is no TLS.
    Plain,
    /// The certificate's signature has no hash of its own (Ed25519, RSA-PSS) or is unknown.
    NoHash,
    /// The hash to bind to.
    Hash(Vec<u8>),
}

/// The end point that a certificate stands for.
pub(super) fn end_point(certificate: &CertificateDer<'_>) -> EndPoint {
    let Ok(parsed) = Certificate::from_der(certificate) else { return EndPoint::NoHash };
    match parsed.signature_algorithm().oid.to_string().as_str() {
        // RSA with MD5 or SHA-1, ECDSA with SHA-1: SHA-256 instead, as the RFC says.
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" => hash::<Sha256>(certificate),
        // RSA and ECDSA, each with SHA-224, -256, -384 and -512.
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => hash::<Sha224>(certificate),
        "1.2.840.113549.1.1.11" | "1.2.840.10045.4.3.2" => hash::<Sha256>(certificate),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => hash::<Sha384>(certificate),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => hash::<Sha512>(certificate),
        _ => EndPoint::NoHash,
    }
}

fn hash<D: Digest>(certificate: &[u8]) -> EndPoint {
    EndPoint::Hash(D::digest(certificate).to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_has_no_hash() {
        assert_eq!(end_point(&CertificateDer::from(vec![1, 2, 3])), EndPoint::NoHash);
    }
}
