//! The options with a fixed set of values, and those that belong together: encryption, keepalives, kind of server.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{ConninfoError, Environment};

/// The options after defaults: name → (value, keyword or variable that it came from).
pub(super) struct Values(pub(super) HashMap<&'static str, (String, &'static str)>);

impl Values {
    /// A value that is set and not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|(value, _)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Where `name` was set, for messages.
    pub(super) fn origin(&self, name: &'static str) -> &'static str {
        self.0.get(name).map_or(name, |(_, origin)| origin)
    }

    pub(super) fn invalid(&self, name: &'static str, value: &str, expected: &str) -> ConninfoError {
        ConninfoError::Invalid {
            origin: self.origin(name).to_owned(),
            value: value.to_owned(),
            expected: expected.to_owned(),
        }
    }

    /// A whole number from 0 to `most`; a negative one means 0, as libpq has it.
    pub(super) fn integer(&self, name: &'static str, most: i32) -> Result<Option<u32>, ConninfoError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number: i32 = text
            .trim()
            .parse()
            .ok()
            .filter(|number| *number <= most)
            .ok_or_else(|| self.invalid(name, text, &format!("a whole number up to {most}")))?;
        Ok(Some(u32::try_from(number).unwrap_or(0)))
    }

    /// One of the listed spellings; `None` if the option is not set.
    fn choice<T: Copy>(&self, name: &'static str, choices: &[(&str, T)]) -> Result<Option<T>, ConninfoError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match choices.iter().find(|(spelling, _)| *spelling == text) {
            Some((_, value)) => Ok(Some(*value)),
            None => {
                let spellings: Vec<_> = choices.iter().map(|(spelling, _)| *spelling).collect();
                Err(self.invalid(name, text, &format!("one of {}", spellings.join(", "))))
            }
        }
    }
}

/// How much of TLS is demanded. libpq's `allow` is read as `prefer`: both take what they get.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SslMode {
    /// Never.
    Disable,
    /// If the server offers it.
    Prefer,
    /// Always; the certificate is checked only where a root certificate is at hand.
    Require,
    /// Always, and a trusted root vouches for the certificate.
    VerifyCa,
    /// And the certificate is for this host.
    VerifyFull,
}

/// How TLS begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SslNegotiation {
    /// After an SSLRequest, which every server understands.
    Postgres,
    /// At once: PostgreSQL 17 and later.
    Direct,
}

/// Which roots are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootCertificates {
    /// Those in this file; it was named, or it is the default and exists.
    File(PathBuf),
    /// The operating system's: `sslrootcert=system`.
    System,
    /// None at hand.
    None,
}

/// Encryption, and whom to trust.
#[derive(Clone, Debug)]
pub struct SslSettings {
    /// How much is demanded.
    pub mode: SslMode,
    /// How it begins.
    pub negotiation: SslNegotiation,
    /// Which roots are trusted.
    pub roots: RootCertificates,
    /// The client's certificate and its key, if it shows one.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Whether the server is told the host's name: `sslsni`.
    pub sni: bool,
    /// Whether TLS 1.2 may be spoken.
    pub tls12: bool,
    /// Whether TLS 1.3 may be spoken.
    pub tls13: bool,
}

impl SslSettings {
    pub(super) fn read(values: &Values, environment: &Environment) -> Result<SslSettings, ConninfoError> {
        let system = values.get("sslrootcert") == Some("system");
        let mode = values
            .choice(
                "sslmode",
                &[
                    ("disable", SslMode::Disable),
                    ("allow", SslMode::Prefer),
                    ("prefer", SslMode::Prefer),
                    ("require", SslMode::Require),
                    ("verify-ca", SslMode::VerifyCa),
                    ("verify-full", SslMode::VerifyFull),
                ],
            )?
            .unwrap_or(if system { SslMode::VerifyFull } else { SslMode::Prefer });
        if system && mode < SslMode::VerifyFull {
            return Err(ConninfoError::Contradiction(
                "sslrootcert=system trusts every public authority, so the host's name must be checked: \
                 write sslmode=verify-full"
                    .to_owned(),
            ));
        }
        let negotiation = values
            .choice("sslnegotiation", &[("postgres", SslNegotiation::Postgres), ("direct", SslNegotiation::Direct)])?
            .unwrap_or(SslNegotiation::Postgres);
        if negotiation == SslNegotiation::Direct && mode < SslMode::Require {
            return Err(ConninfoError::Contradiction(
                "sslnegotiation=direct needs sslmode=require or stronger".to_owned(),
            ));
        }
        let roots = match values.get("sslrootcert") {
            _ if mode == SslMode::Disable => RootCertificates::None,
            Some("system") => RootCertificates::System,
            Some(path) if mode >= SslMode::VerifyCa || Path::new(path).exists() => RootCertificates::File(path.into()),
            Some(_) => RootCertificates::None,
            None => existing(environment, "root.crt").map_or(RootCertificates::None, RootCertificates::File),
        };
        if roots == RootCertificates::None && mode >= SslMode::VerifyCa {
            return Err(ConninfoError::Contradiction(
                "sslmode=verify-ca and verify-full need a root certificate: write sslrootcert=FILE, or \
                 sslrootcert=system for the operating system's roots"
                    .to_owned(),
            ));
        }
        let (tls12, tls13) = versions(values)?;
        let sni = values.choice("sslsni", &[("0", false), ("1", true)])?.unwrap_or(true);
        Ok(SslSettings { mode, negotiation, roots, client: client(values, environment), sni, tls12, tls13 })
    }
}

/// Certificate and key to show: those named, else libpq's default files if the certificate is there.
fn client(values: &Values, environment: &Environment) -> Option<(PathBuf, PathBuf)> {
    let certificate = match values.get("sslcert") {
        Some(path) => PathBuf::from(path),
        None => existing(environment, "postgresql.crt")?,
    };
    let key = values.get("sslkey").map(PathBuf::from);
    Some((certificate, key.or_else(|| environment.in_home(".postgresql/postgresql.key"))?))
}

fn existing(environment: &Environment, file: &str) -> Option<PathBuf> {
    environment.in_home(&format!(".postgresql/{file}")).filter(|path| path.exists())
}

/// Whether TLS 1.2 and 1.3 lie between the bounds. Older versions are not spoken, so a lower minimum changes nothing.
fn versions(values: &Values) -> Result<(bool, bool), ConninfoError> {
    let spellings = [("TLSv1", 0), ("TLSv1.1", 1), ("TLSv1.2", 2), ("TLSv1.3", 3)];
    let least = values.choice("ssl_min_protocol_version", &spellings)?.unwrap_or(2);
    let most = values.choice("ssl_max_protocol_version", &spellings)?.unwrap_or(3);
    if least > most || most < 2 {
        return Err(ConninfoError::Contradiction(
            "ssl_min_protocol_version and ssl_max_protocol_version leave neither TLSv1.2 nor TLSv1.3".to_owned(),
        ));
    }
    Ok((least <= 2, most >= 3))
}

/// Whether SCRAM is bound to the TLS channel, so that nobody in between can pass the login on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChannelBindingMode {
    /// Never.
    Disable,
    /// Where both sides can.
    Prefer,
    /// Or the login fails.
    Require,
}

impl ChannelBindingMode {
    pub(super) fn read(values: &Values) -> Result<ChannelBindingMode, ConninfoError> {
        let choices = [
            ("disable", ChannelBindingMode::Disable),
            ("prefer", ChannelBindingMode::Prefer),
            ("require", ChannelBindingMode::Require),
        ];
        Ok(values.choice("channel_binding", &choices)?.unwrap_or(ChannelBindingMode::Prefer))
    }
}

/// What a session must be able to do: `target_session_attrs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TargetSession {
    /// Any server.
    Any,
    /// Transactions write by default.
    ReadWrite,
    /// They do not.
    ReadOnly,
    /// Not in recovery.
    Primary,
    /// In recovery.
    Standby,
    /// In recovery if there is one, else any.
    PreferStandby,
}

impl TargetSession {
    pub(super) fn read(values: &Values) -> Result<TargetSession, ConninfoError> {
        let choices = [
            ("any", TargetSession::Any),
            ("read-write", TargetSession::ReadWrite),
            ("read-only", TargetSession::ReadOnly),
            ("primary", TargetSession::Primary),
            ("standby", TargetSession::Standby),
            ("prefer-standby", TargetSession::PreferStandby),
        ];
        Ok(values.choice("target_session_attrs", &choices)?.unwrap_or(TargetSession::Any))
    }
}

/// What the kernel does to notice a peer that is gone without saying so.
///
/// libpq leaves the intervals to the system, where the first probe goes out after two hours. A link that hangs that
/// long is an outage, so these are shorter unless the connection string says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keepalive {
    /// Whether probes are sent at all.
    pub enabled: bool,
    /// Silence before the first probe.
    pub idle: Duration,
    /// Between probes.
    pub interval: Duration,
    /// Unanswered probes before the connection counts as lost.
    pub count: u32,
    /// How long sent data may stay unacknowledged; `None` leaves it to the system.
    pub user_timeout: Option<Duration>,
}

impl Keepalive {
    pub(super) fn read(values: &Values) -> Result<Keepalive, ConninfoError> {
        const LONGEST_SECONDS: i32 = 32_767; // the kernel's MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL
        const MOST_PROBES: i32 = 127; // MAX_TCP_KEEPCNT
        let number = |name, most, default| match values.integer(name, most) {
            Ok(Some(0) | None) => Ok(default),
            Ok(Some(number)) => Ok(number),
            Err(error) => Err(error),
        };
        Ok(Keepalive {
            enabled: values.integer("keepalives", i32::MAX)?.is_none_or(|number| number != 0),
            idle: Duration::from_secs(u64::from(number("keepalives_idle", LONGEST_SECONDS, 30)?)),
            interval: Duration::from_secs(u64::from(number("keepalives_interval", LONGEST_SECONDS, 10)?)),
            count: number("keepalives_count", MOST_PROBES, 3)?,
            user_timeout: values
                .integer("tcp_user_timeout", i32::MAX)?
                .filter(|millis| *millis > 0)
                .map(|millis| Duration::from_millis(u64::from(millis))),
        })
    }
}
