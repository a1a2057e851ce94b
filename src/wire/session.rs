//! One session with a server: connecting, requests in turn, the state between them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use postgres_protocol::message::frontend;
use tokio::io::{ReadHalf, WriteHalf};

use super::cancel::CancelHandle;
use super::conninfo::{Conninfo, Host, SslMode, TargetSession};
use super::error::WireError;
use super::exchange::{Condition, Request};
use super::inbox::{Inbox, LONGEST, SESSION_PIECE};
use super::outcome::Outcome;
use super::output::Output;
use super::pipeline::{Pipeline, PipelineError};
use super::statements::Statements;
use super::stream::{self, Endpoint, Stream};
use super::tls::EndPoint;
use super::{startup, tls};

/// Where a session stands between requests: ReadyForQuery's letter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransactionStatus {
    /// Not in a transaction.
    Idle,
    /// In a transaction.
    InTransaction,
    /// In a transaction that has failed: only ROLLBACK is obeyed.
    Failed,
}

impl TransactionStatus {
    pub(super) fn read(letter: u8) -> Result<TransactionStatus, WireError> {
        match letter {
            b'I' => Ok(TransactionStatus::Idle),
            b'T' => Ok(TransactionStatus::InTransaction),
            b'E' => Ok(TransactionStatus::Failed),
            other => Err(WireError::Protocol(format!("unknown transaction status {:?}", char::from(other)))),
        }
    }
}

/// A session. Requests go one after another, or several windows behind each other ([`Pipeline::send`]); one that is dropped midway
/// makes the session unusable.
pub struct Session {
    pub(super) inbox: Inbox<ReadHalf<Stream>>,
    pub(super) writer: WriteHalf<Stream>,
    /// What the next request sends.
    pub(super) output: Output,
    pub(super) condition: Condition,
    /// What was sent and has not been taken, oldest first.
    pub(super) requests: VecDeque<Request>,
    /// The least that a request and its answer have taken.
    pub(super) round_trip: Option<Duration>,
    pub(super) status: TransactionStatus,
    pub(super) statements: Statements,
    pub(super) parameters: BTreeMap<String, String>,
    pub(super) peer: Arc<str>,
    cancel: CancelHandle,
}

impl Session {
    /// Connects to the first host that will have us and is what `target_session_attrs` asks for.
    ///
    /// `parameters` are sent at startup and go before the connection string's of the same name, for instance
    /// `("replication", "database")`. Hosts are tried in order; a refusal that another host would repeat, such as a
    /// wrong password, ends the search, as it does in libpq.
    pub async fn connect(info: &Conninfo, parameters: &[(&str, &str)]) -> Result<Session, WireError> {
        let info = Arc::new(info.clone());
        let passes: &[TargetSession] = match info.target_session() {
            TargetSession::PreferStandby => &[TargetSession::Standby, TargetSession::Any],
            TargetSession::Any => &[TargetSession::Any],
            TargetSession::ReadWrite => &[TargetSession::ReadWrite],
            TargetSession::ReadOnly => &[TargetSession::ReadOnly],
            TargetSession::Primary => &[TargetSession::Primary],
            TargetSession::Standby => &[TargetSession::Standby],
        };
        let mut errors = Vec::new();
        for wanted in passes {
            errors.clear();
            for host in info.hosts() {
                match connect_as(&info, host, parameters, *wanted).await {
                    Ok(session) => return Ok(session),
                    Err(error) if next_host_may_do(&error) => errors.push(error),
                    Err(error) => return Err(error),
                }
            }
        }
        match errors.pop() {
            Some(only) if errors.is_empty() => Err(only),
            last => {
                errors.extend(last);
                Err(WireError::NoHost(errors))
            }
        }
    }

    /// A parameter that the server reports, as of its last message: `server_version`, `TimeZone`, `in_hot_standby`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// The server's version as `server_version_num` has it: 150018 is 15.18. 0 if it does not tell.
    pub fn server_version(&self) -> u32 {
        self.parameter("server_version").map_or(0, version_number)
    }

    /// The server's process for this session, as in `pg_stat_activity.pid`.
    pub fn process_id(&self) -> i32 {
        self.cancel.process_id
    }

    /// The host that was chosen, with its port.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Whether the connection is under TLS.
    pub fn is_encrypted(&self) -> bool {
        self.cancel.encrypted
    }

    /// Where the session stands, as of the last ReadyForQuery.
    pub fn transaction_status(&self) -> TransactionStatus {
        self.status
    }

    /// Whether requests can still be made: nothing was abandoned midway and the server has not hung up.
    pub fn is_usable(&self) -> bool {
        self.condition == Condition::Ready
    }

    /// What cancels this session's statements from elsewhere.
    pub fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    /// Runs SQL by the simple query protocol: several statements, or a replication command. One outcome a statement.
    pub async fn simple(&mut self, sql: &str) -> Result<Vec<Outcome>, WireError> {
        self.check()?;
        self.put_query(sql)?;
        let mut done = Vec::new();
        self.exchange(&mut done, 0).await?;
        Ok(done)
    }

    /// Sends the same behind what was sent before and is not answered yet; [`Session::answer`] tells what became of each, in
    /// order. The server does each whatever became of those before it.
    pub async fn send_simple(&mut self, sql: &str) -> Result<(), WireError> {
        self.check()?;
        self.put_query(sql)?;
        self.send(0).await
    }

    /// Makes this the next output.
    pub(super) fn put_query(&mut self, sql: &str) -> Result<(), WireError> {
        self.output.clear();
        frontend::query(sql, &mut self.output.open).map_err(|error| WireError::Protocol(error.to_string()))
    }

    /// A window of statements that is sent as one, with one Sync.
    pub fn pipeline(&mut self) -> Pipeline<'_> {
        Pipeline::new(self)
    }

    /// What became of the first request that was sent by [`Pipeline::send`] or [`Session::send_simple`] and of which that has not
    /// been asked.
    ///
    /// Dropping the future midway leaves the session unusable.
    pub async fn answer(&mut self) -> Result<Vec<Outcome>, PipelineError> {
        let mut done = Vec::new();
        match self.answered(&mut done).await {
            Ok(()) => Ok(done),
            Err(error) => Err(PipelineError { at: done.len(), done, error }),
        }
    }

    /// Of how many requests that has not been asked.
    pub fn unanswered(&self) -> usize {
        self.requests.len()
    }

    /// Takes note of how long a request and its answer took that were not made by one call.
    pub fn took(&mut self, time: Duration) {
        self.round_trip = Some(self.round_trip.map_or(time, |least| least.min(time)));
    }

    /// The least that a request and its answer have taken: about a round trip, once some small ones have been made. None before
    /// the first.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// Says goodbye and hangs up. Dropping the session hangs up without a word, which the server takes as well.
    pub async fn close(mut self) {
        use tokio::io::AsyncWriteExt;

        self.output.clear();
        frontend::terminate(&mut self.output.open);
        // It is the end either way.
        let _ = self.output.write_to(&mut self.writer).await;
        let _ = self.writer.shutdown().await;
    }

    /// What this server is instead of `wanted`; `None` if it is that.
    async fn mismatch(&mut self, wanted: TargetSession) -> Result<Option<&'static str>, WireError> {
        let standby = matches!(wanted, TargetSession::Primary | TargetSession::Standby | TargetSession::PreferStandby);
        Ok(match wanted {
            TargetSession::Any => None,
            _ if standby => match (self.in_recovery().await?, wanted) {
                (true, TargetSession::Primary) => Some("it is a standby"),
                (false, TargetSession::Standby | TargetSession::PreferStandby) => Some("it is a primary"),
                _ => None,
            },
            _ => match (self.read_only().await?, wanted) {
                (true, TargetSession::ReadWrite) => Some("its transactions are read-only"),
                (false, TargetSession::ReadOnly) => Some("its transactions are read-write"),
                _ => None,
            },
        })
    }

    /// PostgreSQL 14 and later report it; a pooler in between may not pass it on, so it is asked for then.
    async fn in_recovery(&mut self) -> Result<bool, WireError> {
        match self.parameter("in_hot_standby") {
            Some(value) => Ok(value == "on"),
            None => self.shown("SELECT CASE WHEN pg_is_in_recovery() THEN 'on' ELSE 'off' END").await,
        }
    }

    async fn read_only(&mut self) -> Result<bool, WireError> {
        match (self.parameter("in_hot_standby"), self.parameter("default_transaction_read_only")) {
            (Some(standby), Some(default)) => Ok(standby == "on" || default == "on"),
            _ => self.shown("SHOW transaction_read_only").await,
        }
    }

    async fn shown(&mut self, sql: &str) -> Result<bool, WireError> {
        let outcomes = self.simple(sql).await?;
        let outcome = outcomes.first().ok_or_else(|| WireError::Protocol(format!("{sql} answered nothing")))?;
        Ok(outcome.one()?.text(0)? == "on")
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({}, process {}, {:?}, {:?})", self.peer, self.process_id(), self.condition, self.status)
    }
}

/// Whether the next host of the list is worth a try after this error.
fn next_host_may_do(error: &WireError) -> bool {
    use crate::model::{Class, Classify};
    error.class() == Class::Transient
}

/// One host, all its addresses, checked for what is wanted.
async fn connect_as(
    info: &Arc<Conninfo>,
    host: &Host,
    parameters: &[(&str, &str)],
    wanted: TargetSession,
) -> Result<Session, WireError> {
    let endpoints = limited(info, host, stream::resolve(host)).await?;
    let mut last = WireError::Closed { target: host.to_string() };
    for endpoint in endpoints {
        match limited(info, host, connect_endpoint(info, host, &endpoint, parameters)).await {
            Ok(mut session) => {
                return match limited(info, host, session.mismatch(wanted)).await? {
                    None => Ok(session),
                    Some(found) => {
                        session.close().await;
                        Err(WireError::WrongServer { target: host.to_string(), found })
                    }
                };
            }
            Err(error) if next_host_may_do(&error) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// `step` within `connect_timeout`.
async fn limited<T>(
    info: &Conninfo,
    host: &Host,
    step: impl Future<Output = Result<T, WireError>>,
) -> Result<T, WireError> {
    match info.connect_timeout() {
        None => step.await,
        Some(after) => tokio::time::timeout(after, step)
            .await
            .unwrap_or_else(|_| Err(WireError::Timeout { doing: format!("connecting to {host}"), after })),
    }
}

/// One address. With `sslmode=prefer` a second try goes without TLS where the first failed for it.
async fn connect_endpoint(
    info: &Arc<Conninfo>,
    host: &Host,
    endpoint: &Endpoint,
    parameters: &[(&str, &str)],
) -> Result<Session, WireError> {
    let open = || async {
        let at = match endpoint {
            Endpoint::Tcp(address) if !host.to_string().contains(&address.to_string()) => {
                format!("connecting to {host} ({address})")
            }
            _ => format!("connecting to {host}"),
        };
        endpoint.open(info.keepalive()).await.map_err(|error| WireError::io(at, error))
    };
    let mut encrypted = false;
    let secured = match open().await? {
        Stream::Tcp(tcp) => tls::secure(tcp, info.ssl(), host).await,
        stream => Ok(stream),
    };
    let result = match secured {
        Ok(stream) => {
            encrypted = matches!(stream, Stream::Tls(_));
            begin(info, host, endpoint, parameters, stream).await
        }
        Err(error) => Err(error),
    };
    let for_tls = |error: &WireError| match error {
        WireError::Tls { .. } => true,
        // pg_hba.conf has lines for unencrypted connections only.
        error => encrypted && error.code() == Some("28000"),
    };
    match result {
        Err(error) if info.ssl().mode == SslMode::Prefer && for_tls(&error) => {
            begin(info, host, endpoint, parameters, open().await?).await.map_err(|_| error)
        }
        result => result,
    }
}

/// From a stream to a session.
async fn begin(
    info: &Arc<Conninfo>,
    host: &Host,
    endpoint: &Endpoint,
    parameters: &[(&str, &str)],
    stream: Stream,
) -> Result<Session, WireError> {
    let end_point = match &stream {
        Stream::Tls(stream) => tls::end_point(stream),
        _ => EndPoint::Plain,
    };
    let encrypted = end_point != EndPoint::Plain;
    let peer: Arc<str> = host.to_string().into();
    let (reader, mut writer) = tokio::io::split(stream);
    let mut inbox = Inbox::new(reader, peer.clone());
    let greeting = startup::log_in(&mut inbox, &mut writer, info, host, parameters, end_point).await?;
    inbox.allow(LONGEST, SESSION_PIECE);
    Ok(Session {
        inbox,
        writer,
        output: Output::default(),
        condition: Condition::Ready,
        requests: VecDeque::new(),
        round_trip: None,
        status: greeting.status,
        statements: Statements::default(),
        parameters: greeting.parameters,
        peer,
        cancel: CancelHandle {
            info: info.clone(),
            host: host.clone(),
            endpoint: endpoint.clone(),
            encrypted,
            process_id: greeting.process_id,
            secret_key: greeting.secret_key,
        },
    })
}

/// `15.18 (Debian 15.18-1)` → 150018, `18beta1` → 180000, `9.6.3` → 90603.
fn version_number(text: &str) -> u32 {
    let plain: String = text.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    let parts: Vec<u32> = plain.split('.').map(|part| part.parse().unwrap_or(0)).collect();
    match parts.as_slice() {
        [major, minor, rest @ ..] if *major < 10 => major * 10_000 + minor * 100 + rest.first().unwrap_or(&0),
        [major, minor, ..] => major * 10_000 + minor,
        [major] => major * 10_000,
        [] => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers() {
        for (text, number) in
            [("15.18 (Debian 15.18-1)", 150_018), ("18.4", 180_004), ("18beta1", 180_000), ("9.6.3", 90_603), ("", 0)]
        {
            assert_eq!(version_number(text), number, "{text}");
        }
    }
}
