//! Whether a certificate is for a host, by libpq's rules: alternative names first, the common name where the
//! certificate has no alternative name of the host's kind.
//!
//! libpq: `pq_verify_peer_name_matches_certificate` in `src/interfaces/libpq/fe-secure-common.c`. TLS libraries of
//! today ignore the common name, which many servers' self-made certificates have alone.

use std::net::IpAddr;

use x509_cert::Certificate;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// Says why `certificate` is not for `host`.
pub(super) fn check(certificate: &Certificate, host: &str) -> Result<(), String> {
    let address: Option<IpAddr> = host.parse().ok();
    let alternatives = match certificate.tbs_certificate().get_extension::<SubjectAltName>() {
        Ok(found) => found.map(|(_, names)| names.0).unwrap_or_default(),
        Err(error) => return Err(format!("the alternative names of the server's certificate cannot be read: {error}")),
    };
    let mut seen = Vec::new();
    let mut same_kind = false;
    for alternative in &alternatives {
        match alternative {
            GeneralName::DnsName(name) => {
                same_kind |= address.is_none();
                if matches(name.as_str(), host) {
                    return Ok(());
                }
                seen.push(name.as_str().to_owned());
            }
            GeneralName::IpAddress(octets) => {
                same_kind |= address.is_some();
                let named = ip(octets.as_bytes());
                if named.is_some() && named == address {
                    return Ok(());
                }
                seen.extend(named.map(|address| address.to_string()));
            }
            _ => {}
        }
    }
    if !same_kind && let Ok(Some(name)) = certificate.tbs_certificate().subject().common_name() {
        let name = name.value();
        if matches(&name, host) {
            return Ok(());
        }
        seen.push(name.into_owned());
    }
    let names = if seen.is_empty() { "no name at all".to_owned() } else { seen.join(", ") };
    Err(format!(
        "the server's certificate is for {names}, not for \"{host}\"; connect by that name (hostaddr= can give its \
         address), or use sslmode=verify-ca"
    ))
}

fn ip(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
        _ => None,
    }
}

/// Without regard to case; `*.` in front stands for exactly one label.
fn matches(pattern: &str, host: &str) -> bool {
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    let Some(suffix) = pattern.strip_prefix('*').filter(|suffix| suffix.starts_with('.') && suffix.len() > 1) else {
        return false;
    };
    let Some(at) = host.len().checked_sub(suffix.len()).filter(|at| host.is_char_boundary(*at)) else { return false };
    let (label, rest) = host.split_at(at);
    !label.is_empty() && !label.contains('.') && rest.eq_ignore_ascii_case(suffix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_without_regard_to_case() {
        assert!(matches("DB.example.org", "db.Example.org"));
        assert!(!matches("db.example.org", "db2.example.org"));
    }

    #[test]
    fn a_star_stands_for_one_label() {
        assert!(matches("*.example.org", "db.example.org"));
        for host in ["example.org", ".example.org", "a.b.example.org", "dbexample.org", "é.org"] {
            assert!(!matches("*.example.org", host), "{host}");
        }
        for pattern in ["*", "*.", "d*.example.org", "*example.org"] {
            assert!(!matches(pattern, "db.example.org"), "{pattern}");
        }
    }

    #[test]
    fn addresses_have_four_or_sixteen_octets() {
        assert_eq!(ip(&[127, 0, 0, 1]), Some("127.0.0.1".parse().unwrap()));
        assert_eq!(ip(&[0; 16]), Some("::".parse().unwrap()));
        assert_eq!(ip(&[1, 2]), None);
    }
}
