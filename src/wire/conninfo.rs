//! A connection string, read as libpq reads it, into what a session needs to know.
//!
//! What the string leaves open comes from libpq's environment variables, then from its defaults. Keywords that are
//! unknown or not supported are refused by name. The password stays out of every message and debug output.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod environment;
mod keywords;
mod parse;
mod passfile;
mod settings;

pub use environment::Environment;
pub use passfile::{Password, PasswordSource};
pub use settings::{
    ChannelBindingMode, Keepalive, RootCertificates, SslMode, SslNegotiation, SslSettings, TargetSession,
};

use crate::model::{Class, Classify};
use settings::Values;

/// Where a server listens if nothing says otherwise.
pub const DEFAULT_PORT: u16 = 5432;

/// Longest wait for one address if the string has no `connect_timeout`. libpq would wait for ever; a daemon that does
/// is down without anybody noticing.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection string with its defaults filled in.
#[derive(Clone, Debug)]
pub struct Conninfo {
    hosts: Vec<Host>,
    user: String,
    dbname: String,
    password: Option<Secret>,
    password_file: Option<PathBuf>,
    passfile: Option<PathBuf>,
    options: Option<String>,
    application_name: Option<String>,
    connect_timeout: Option<Duration>,
    keepalive: Keepalive,
    target_session: TargetSession,
    channel_binding: ChannelBindingMode,
    ssl: SslSettings,
}

/// One of the places where the server may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// How it is reached.
    pub address: HostAddress,
    /// TCP port, and the number in a unix socket's name.
    pub port: u16,
}

/// How a host is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostAddress {
    /// Over TCP: the name that was written and, where `hostaddr` gave it, the address to use without a look-up.
    Tcp {
        /// Host name or literal address: certificates are checked against it.
        name: String,
        /// `hostaddr`.
        address: Option<IpAddr>,
    },
    /// The directory of a unix socket; `@` in front names an abstract socket.
    Unix(PathBuf),
}

impl Host {
    fn new(host: &str, address: Option<IpAddr>, port: u16) -> Host {
        let address = match address {
            None if host.starts_with(['/', '@']) => HostAddress::Unix(PathBuf::from(host)),
            _ => HostAddress::Tcp { name: host.to_owned(), address },
        };
        Host { address, port }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            HostAddress::Tcp { name, .. } if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            HostAddress::Tcp { name, .. } => write!(f, "{name}:{}", self.port),
            HostAddress::Unix(directory) => write!(f, "{}:{}", directory.display(), self.port),
        }
    }
}

/// A text that no message shows.
#[derive(Clone)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Why a connection string cannot be used. Each says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConninfoError {
    /// Neither key=value pairs nor a URI.
    #[error("the connection string cannot be read: {0}")]
    Syntax(String),
    /// A keyword that libpq does not have either.
    #[error("the connection string has an unknown keyword \"{0}\"")]
    UnknownKeyword(String),
    /// A keyword or variable that libpq has and pgconcord does not act on.
    #[error("{origin} is not supported; {instead}")]
    Unsupported {
        /// The keyword or the environment variable.
        origin: String,
        /// What to do instead.
        instead: String,
    },
    /// A value that its keyword cannot have.
    #[error("{origin} is \"{value}\"; it must be {expected}")]
    Invalid {
        /// The keyword or the environment variable.
        origin: String,
        /// What was written.
        value: String,
        /// What could be.
        expected: String,
    },
    /// Values that contradict each other.
    #[error("{0}")]
    Contradiction(String),
    /// No user name was given and the operating system has none for us.
    #[error("the connection string names no user, and the operating system has no name for this process; add user=")]
    NoUser,
}

impl Classify for ConninfoError {
    fn class(&self) -> Class {
        Class::Operator
    }
}

impl Conninfo {
    /// Reads `key=value` pairs or a URI; what is left open comes from the process's environment.
    pub fn parse(text: &str) -> Result<Conninfo, ConninfoError> {
        Conninfo::parse_in(text, &Environment::process())
    }

    /// The same with another environment, for tests.
    pub fn parse_in(text: &str, environment: &Environment) -> Result<Conninfo, ConninfoError> {
        let mut values = HashMap::new();
        for (keyword, value) in parse::pairs(text)? {
            let name = keywords::check(&keyword, &value, &keyword)?;
            values.insert(name, (value, name));
        }
        for (name, variable) in keywords::variables() {
            if let Some(value) = environment.variable(variable).filter(|_| !values.contains_key(name)) {
                keywords::check(name, value, variable)?;
                values.insert(name, (value.to_owned(), variable));
            }
        }
        Conninfo::build(&Values(values), environment)
    }

    fn build(values: &Values, environment: &Environment) -> Result<Conninfo, ConninfoError> {
        let user = match values.get("user") {
            Some(user) => user.to_owned(),
            None => environment.user().ok_or(ConninfoError::NoUser)?.to_owned(),
        };
        let dbname = values.get("dbname").unwrap_or(&user).to_owned();
        let connect_timeout = match values.integer("connect_timeout", i32::MAX)? {
            None => Some(DEFAULT_CONNECT_TIMEOUT),
            Some(0) => None,
            Some(seconds) => Some(Duration::from_secs(u64::from(seconds))),
        };
        Ok(Conninfo {
            hosts: hosts(values)?,
            user,
            dbname,
            password: values.get("password").map(|password| Secret(password.to_owned())),
            password_file: None,
            passfile: values.get("passfile").map(PathBuf::from).or_else(|| environment.in_home(".pgpass")),
            options: values.get("options").map(str::to_owned),
            application_name: values
                .get("application_name")
                .or_else(|| values.get("fallback_application_name"))
                .map(str::to_owned),
            connect_timeout,
            keepalive: Keepalive::read(values)?,
            target_session: TargetSession::read(values)?,
            channel_binding: ChannelBindingMode::read(values)?,
            ssl: SslSettings::read(values, environment)?,
        })
    }

    /// The password comes from this file (its first line), read at every connect; it overrides every other source.
    #[must_use]
    pub fn with_password_file(mut self, path: impl Into<PathBuf>) -> Conninfo {
        self.password_file = Some(path.into());
        self
    }

    /// The same server settings at one other host: a name, an address, or the directory of a unix socket.
    #[must_use]
    pub fn with_host_port(mut self, host: &str, port: u16) -> Conninfo {
        self.hosts = vec![Host::new(host, None, port)];
        self
    }

    /// The same server, another database.
    #[must_use]
    pub fn with_dbname(mut self, dbname: impl Into<String>) -> Conninfo {
        self.dbname = dbname.into();
        self
    }

    /// The places to try, in this order; at least one.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The role to log in as.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The database to connect to.
    pub fn dbname(&self) -> &str {
        &self.dbname
    }

    /// Command-line options for the server, as in `-c statement_timeout=5s`.
    pub fn options(&self) -> Option<&str> {
        self.options.as_deref()
    }

    /// `application_name`, or the fallback; a session's own parameter goes before it.
    pub fn application_name(&self) -> Option<&str> {
        self.application_name.as_deref()
    }

    /// Longest wait for one address, from the first packet to the first `ReadyForQuery`; `None` is for ever.
    pub fn connect_timeout(&self) -> Option<Duration> {
        self.connect_timeout
    }

    /// What the kernel does to notice a dead peer.
    pub fn keepalive(&self) -> &Keepalive {
        &self.keepalive
    }

    /// What the session must be able to do.
    pub fn target_session(&self) -> TargetSession {
        self.target_session
    }

    /// Whether SCRAM is bound to the TLS channel.
    pub fn channel_binding(&self) -> ChannelBindingMode {
        self.channel_binding
    }

    /// Encryption, and whom to trust.
    pub fn ssl(&self) -> &SslSettings {
        &self.ssl
    }

    /// The password to use at `host`, and where it was found. An unreadable `password_file` is an error.
    pub fn password(&self, host: &Host) -> std::io::Result<Password> {
        if let Some(path) = &self.password_file {
            return passfile::whole_file(path);
        }
        match (&self.password, &self.passfile) {
            (Some(Secret(text)), _) => {
                Ok(Password { text: Some(text.clone().into_bytes()), source: PasswordSource::ConnectionString })
            }
            (None, Some(path)) => Ok(passfile::search(path, host, &self.dbname, &self.user)),
            (None, None) => Ok(Password { text: None, source: PasswordSource::Nowhere }),
        }
    }

    /// `user@host:port/database` for messages; several hosts are joined by commas. Never the password.
    pub fn describe(&self) -> String {
        let hosts: Vec<_> = self.hosts.iter().map(Host::to_string).collect();
        format!("{}@{}/{}", self.user, hosts.join(","), self.dbname)
    }
}

/// Pairs the elements of `host`, `hostaddr` and `port`.
fn hosts(values: &Values) -> Result<Vec<Host>, ConninfoError> {
    let list = |keyword| values.get(keyword).map(|text| text.split(',').map(str::trim).collect::<Vec<_>>());
    let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port").unwrap_or_default());
    let count = names.as_ref().or(addresses.as_ref()).map_or(1, Vec::len);
    if let (Some(names), Some(addresses)) = (&names, &addresses)
        && names.len() != addresses.len()
    {
        return Err(ConninfoError::Contradiction(format!(
            "{} has {} names and {} has {} addresses; give one address a name",
            values.origin("host"),
            names.len(),
            values.origin("hostaddr"),
            addresses.len()
        )));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(ConninfoError::Contradiction(format!(
            "{} has {} ports for {count} hosts; give one port for all, or one each",
            values.origin("port"),
            ports.len()
        )));
    }
    (0..count)
        .map(|i| {
            let address = match addresses.as_ref().map(|addresses| addresses[i]).filter(|text| !text.is_empty()) {
                Some(text) => Some(text.parse().map_err(|_| values.invalid("hostaddr", text, "numeric addresses"))?),
                None => None,
            };
            let name = names.as_ref().map(|names| names[i]).filter(|name| !name.is_empty());
            let port = match ports.get(i).or(ports.first().filter(|_| ports.len() == 1)) {
                None | Some(&"") => DEFAULT_PORT,
                Some(text) => text
                    .parse()
                    .ok()
                    .filter(|port| *port > 0)
                    .ok_or_else(|| values.invalid("port", text, "a number from 1 to 65535"))?,
            };
            Ok(match (name, address) {
                (Some(name), address) => Host::new(name, address, port),
                (None, Some(address)) => Host::new(&address.to_string(), Some(address), port),
                (None, None) => Host::new(&default_socket_directory(), None, port),
            })
        })
        .collect()
}

/// libpq has this compiled in, and packages differ: `/var/run/postgresql` where it exists, else `/tmp`.
fn default_socket_directory() -> String {
    ["/var/run/postgresql", "/tmp"]
        .into_iter()
        .find(|directory| Path::new(directory).is_dir())
        .unwrap_or("/tmp")
        .to_owned()
}

#[cfg(test)]
mod tests;
