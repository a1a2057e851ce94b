//! Control-plane connections: our [`Conninfo`] by way of tokio-postgres, with pinned settings.
//!
//! Hosts, TLS and passwords are those of [`crate::wire`]; only the messages are tokio-postgres's. It pipelines
//! and speaks the extended protocol, which is what catalog queries want; streams and batches never use it.

use std::io;
use std::sync::Once;

use rustls::CertificateError;
use tokio_postgres::config::{ChannelBinding, SslMode as TokioSslMode, SslNegotiation as TokioSslNegotiation};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::model::Class;
use crate::node::NodeError;
use crate::node::error::Shown;
use crate::wire::conninfo::{
    ChannelBindingMode, Host, HostAddress, PasswordSource, SslMode, SslNegotiation, TargetSession,
};
use crate::wire::tls;
use crate::wire::{Conninfo, pin};

/// What a connection pins beside the values' settings. `synchronous_commit = local`: a barrier must not wait for standbys.
/// 15 s is far above what any of our statements takes; the creation of a slot sets its own limit.
const PINNED: [(&str, &str); 7] = [
    ("client_encoding", "UTF8"), // the only one that tokio-postgres reads
    ("default_transaction_read_only", "off"),
    ("default_transaction_isolation", "read committed"),
    ("synchronous_commit", "local"),
    ("statement_timeout", "15s"),
    ("lock_timeout", "10s"),
    ("idle_in_transaction_session_timeout", "60s"),
];

/// Connects to the first host that will have us and is what `target_session_attrs` asks for, and pins the
/// session's settings. The connection ends when the client is dropped.
///
/// # Errors
/// [`NodeError::Connect`], with the reason of each host that was tried.
pub async fn connect(info: &Conninfo, application_name: &str) -> Result<Client, NodeError> {
    install_crypto();
    let passes: &[TargetSession] = match info.target_session() {
        TargetSession::PreferStandby => &[TargetSession::Standby, TargetSession::Any],
        TargetSession::Any => &[TargetSession::Any],
        TargetSession::ReadWrite => &[TargetSession::ReadWrite],
        TargetSession::ReadOnly => &[TargetSession::ReadOnly],
        TargetSession::Primary => &[TargetSession::Primary],
        TargetSession::Standby => &[TargetSession::Standby],
    };
    let mut last = None;
    for wanted in passes {
        for host in info.hosts() {
            match one_host(info, host, application_name, *wanted).await {
                Ok(client) => return Ok(client),
                // a wrong password is wrong everywhere; libpq stops there too
                Err(error) if is_refusal(&error) => return Err(error),
                Err(error) => last = Some(error),
            }
        }
    }
    Err(last.expect("a connection string names at least one host"))
}

/// rustls wants one provider a process; the builder in `tls` names it, tokio-postgres-rustls need not.
fn install_crypto() {
    static ONCE: Once = Once::new();
    // an error means that somebody was faster, which is as good
    ONCE.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

fn is_refusal(error: &NodeError) -> bool {
    error.sqlstate().is_some_and(|state| state.code().starts_with("28") || state.code().starts_with("3D"))
}

async fn one_host(info: &Conninfo, host: &Host, application: &str, wanted: TargetSession) -> Result<Client, NodeError> {
    let failed = |reason: String, class: Class| NodeError::Connect {
        target: format!("{}@{host}/{}", info.user(), info.dbname()),
        reason,
        error: None,
        class,
    };
    let password = info.password(host).map_err(|error| failed(error.to_string(), Class::Operator))?;
    let config = config(info, host, application, password.text);
    let opened = match &host.address {
        HostAddress::Tcp { name, .. } if info.ssl().mode != SslMode::Disable => {
            let settings = tls::client_config(info.ssl(), name);
            let settings = settings.map_err(|error| failed(error.to_string(), Class::Operator))?;
            open(&config, MakeRustlsConnect::new(settings)).await
        }
        _ => open(&config, NoTls).await,
    };
    let client = opened.map_err(|error| explained(failed(String::new(), Class::Operator), error, &password.source))?;
    client.batch_execute(&pin(&PINNED)).await.map_err(NodeError::doing("pin the session's settings"))?;
    match mismatch(&client, wanted).await? {
        None => Ok(client),
        // a failover may be under way
        Some(found) => Err(failed(format!("it is {found}, which target_session_attrs rules out"), Class::Transient)),
    }
}

/// Fills in why a connection could not be opened.
fn explained(mut failed: NodeError, why: tokio_postgres::Error, source: &PasswordSource) -> NodeError {
    if let NodeError::Connect { reason, error, class, .. } = &mut failed {
        (*reason, *class) = explain(&why, source);
        *error = Some(why);
    }
    failed
}

/// What the server, TLS or the network said, and whether it may pass; with a login problem, where the password
/// came from.
fn explain(error: &tokio_postgres::Error, source: &PasswordSource) -> (String, Class) {
    let shown = Shown(error).to_string();
    match error.code().map(|state| state.code()) {
        Some("28P01") => return (format!("{shown}; the password came from {source}"), Class::Operator),
        Some(_) => return (shown, Class::Operator),
        None => {}
    }
    let Some(fault) = std::error::Error::source(error) else { return (shown, Class::Transient) };
    match fault.downcast_ref::<io::Error>() {
        Some(fault) => match fault.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(CertificateError::Other(refusal))) => {
                (format!("TLS: {}", refusal.0), Class::Operator)
            }
            Some(refusal) => (format!("TLS: {refusal}"), Class::Operator),
            None => (fault.to_string(), Class::Transient),
        },
        None if fault.to_string().contains("password") => {
            (format!("{fault}; set PGPASSWORD, a passfile, or password_file = in the configuration"), Class::Operator)
        }
        None => (format!("{shown}: {fault}"), Class::Operator),
    }
}

async fn open<T>(config: &Config, tls: T) -> Result<Client, tokio_postgres::Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    let (client, connection) = config.connect(tls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!("a control connection ended: {}", Shown(&error));
        }
    });
    Ok(client)
}

fn config(info: &Conninfo, host: &Host, application: &str, password: Option<Vec<u8>>) -> Config {
    let mut config = Config::new();
    config.user(info.user()).dbname(info.dbname()).port(host.port).application_name(application);
    match &host.address {
        HostAddress::Tcp { name, address } => {
            config.host(name);
            address.map(|address| config.hostaddr(address));
        }
        HostAddress::Unix(directory) => {
            config.host_path(directory);
        }
    }
    password.map(|password| config.password(password));
    info.options().map(|options| config.options(options));
    info.connect_timeout().map(|timeout| config.connect_timeout(timeout));
    let keepalive = info.keepalive();
    config.keepalives(keepalive.enabled).keepalives_idle(keepalive.idle).keepalives_interval(keepalive.interval);
    config.keepalives_retries(keepalive.count);
    keepalive.user_timeout.map(|timeout| config.tcp_user_timeout(timeout));
    config.ssl_mode(match info.ssl().mode {
        SslMode::Disable => TokioSslMode::Disable,
        SslMode::Prefer => TokioSslMode::Prefer,
        // what is checked of the certificate is the verifier's business
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => TokioSslMode::Require,
    });
    config.ssl_negotiation(match info.ssl().negotiation {
        SslNegotiation::Postgres => TokioSslNegotiation::Postgres,
        SslNegotiation::Direct => TokioSslNegotiation::Direct,
    });
    config.channel_binding(match info.channel_binding() {
        ChannelBindingMode::Disable => ChannelBinding::Disable,
        ChannelBindingMode::Prefer => ChannelBinding::Prefer,
        ChannelBindingMode::Require => ChannelBinding::Require,
    });
    config
}

/// What the server is, if that is not what was wanted.
async fn mismatch(client: &Client, wanted: TargetSession) -> Result<Option<&'static str>, NodeError> {
    if matches!(wanted, TargetSession::Any | TargetSession::PreferStandby) {
        return Ok(None);
    }
    // the role's or database's own default counts, not the one pinned above
    let query =
        "SELECT pg_is_in_recovery(), reset_val = 'on' FROM pg_settings WHERE name = 'default_transaction_read_only'";
    let row = client.query_one(query, &[]).await.map_err(NodeError::doing("ask for the kind of server"))?;
    let (standby, read_only): (bool, bool) = (row.get(0), row.get(1));
    Ok(match wanted {
        TargetSession::ReadWrite | TargetSession::Primary if standby => Some("a standby"),
        TargetSession::ReadWrite if read_only => Some("read-only"),
        TargetSession::Standby if !standby => Some("a primary"),
        TargetSession::ReadOnly if !standby && !read_only => Some("writable"),
        _ => None,
    })
}
