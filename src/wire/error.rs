//! What can go wrong on a connection, what PostgreSQL said about it, and what can be done.
//!
//! SQLSTATEs: PostgreSQL's documentation, appendix "PostgreSQL Error Codes". Fields: "Error and Notice Message
//! Fields". A link retries a [`Class::Transient`] one, resolves a [`Class::Conflict`] and stops at a
//! [`Class::Operator`], whose text says what to do.

use std::fmt;
use std::io;
use std::time::Duration;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorFields;

use super::conninfo::ConninfoError;
use crate::model::{Class, Classify};

/// Why a request or a connection failed.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The server refused one statement; the session goes on.
    #[error("{0}")]
    Server(Box<ServerError>),
    /// The server ended the session: shut down, terminated by an administrator, out of connections, and so on.
    #[error("the server ended the session: {0}")]
    Terminated(Box<ServerError>),
    /// The server does not let us in.
    #[error("cannot log in to {target}: {error}{}{advice}", if advice.is_empty() { "" } else { "; " })]
    Refused {
        /// `user@host:port/database`.
        target: String,
        /// What the server said.
        error: Box<ServerError>,
        /// What to do; empty where there is nothing but to wait.
        advice: String,
    },
    /// The login cannot go on from our side.
    #[error("cannot log in to {target}: {problem}")]
    Auth {
        /// `user@host:port/database`.
        target: String,
        /// What is missing or not possible, and what to do.
        problem: String,
    },
    /// The encrypted channel cannot be set up or trusted.
    #[error("TLS with {target}: {problem}")]
    Tls {
        /// Host and port.
        target: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The operating system reports a fault of the connection.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, and with whom.
        doing: String,
        /// The system's error.
        source: io::Error,
    },
    /// The connection ended without a word from the server.
    #[error("{target} closed the connection unexpectedly")]
    Closed {
        /// Host and port.
        target: String,
    },
    /// Nothing within the time allowed.
    #[error("{doing}: no answer within {} s", after.as_secs())]
    Timeout {
        /// What was being done, and with whom.
        doing: String,
        /// The time allowed.
        after: Duration,
    },
    /// The server is not of the kind that `target_session_attrs` asks for.
    #[error("{target} is not what target_session_attrs asks for: {found}")]
    WrongServer {
        /// Host and port.
        target: String,
        /// What it is instead.
        found: &'static str,
    },
    /// No host of a list could be used.
    #[error("none of the {} hosts can be used: {}", .0.len(), joined(.0))]
    NoHost(Vec<WireError>),
    /// The session was left in the middle of a request, or has ended: open another one.
    #[error("the session with {target} cannot be used any more: {reason}")]
    Unusable {
        /// Host and port.
        target: String,
        /// Why.
        reason: &'static str,
    },
    /// What arrived is not what the protocol has at this place; or what was to be sent cannot be put in a message.
    #[error("protocol: {0}")]
    Protocol(String),
    /// A value in a result is not what the query promised.
    #[error("column {column} of the result: {problem}")]
    Value {
        /// Its place, from 0.
        column: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// The connection string, where it is read late.
    #[error(transparent)]
    Conninfo(#[from] ConninfoError),
}

fn joined(errors: &[WireError]) -> String {
    errors.iter().map(WireError::to_string).collect::<Vec<_>>().join("; ")
}

impl WireError {
    /// The SQLSTATE, if the server said something.
    pub fn code(&self) -> Option<&str> {
        self.server().map(|error| error.code.as_str())
    }

    /// What the server said, if it said something.
    pub fn server(&self) -> Option<&ServerError> {
        match self {
            WireError::Server(error) | WireError::Terminated(error) | WireError::Refused { error, .. } => Some(error),
            _ => None,
        }
    }

    pub(super) fn io(doing: impl Into<String>, source: io::Error) -> WireError {
        WireError::Io { doing: doing.into(), source }
    }
}

impl Classify for WireError {
    fn class(&self) -> Class {
        match self {
            WireError::Server(error) | WireError::Terminated(error) | WireError::Refused { error, .. } => error.class(),
            WireError::Io { .. } | WireError::Closed { .. } | WireError::Timeout { .. } => Class::Transient,
            WireError::Unusable { .. } | WireError::WrongServer { .. } => Class::Transient,
            WireError::NoHost(errors) if errors.iter().any(|error| error.class() == Class::Transient) => {
                Class::Transient
            }
            WireError::NoHost(_)
            | WireError::Auth { .. }
            | WireError::Tls { .. }
            | WireError::Protocol(_)
            | WireError::Value { .. }
            | WireError::Conninfo(_) => Class::Operator,
        }
    }
}

/// How bad the server says it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Log, notice, warning: not an error.
    Notice,
    /// The statement failed.
    Error,
    /// The session ends.
    Fatal,
    /// All sessions end.
    Panic,
}

/// An ErrorResponse or NoticeResponse.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerError {
    /// How bad it is.
    pub severity: Severity,
    /// SQLSTATE, five characters.
    pub code: String,
    /// The primary message, in the server's language.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What the server suggests.
    pub hint: Option<String>,
    /// The call stack of functions, one a line: `CONTEXT`.
    pub context: Option<String>,
    /// Schema of the object concerned.
    pub schema: Option<String>,
    /// Table concerned.
    pub table: Option<String>,
    /// Column concerned.
    pub column: Option<String>,
    /// Constraint (or index) concerned.
    pub constraint: Option<String>,
    /// Where in the statement, in characters from 1.
    pub position: Option<u32>,
}

impl ServerError {
    /// Reads the fields of a message; unknown ones are left out, bytes that are no UTF-8 are replaced.
    pub(super) fn read(mut fields: ErrorFields<'_>) -> io::Result<ServerError> {
        let mut error = ServerError::new(Severity::Error, "XX000", "");
        let mut localized = Severity::Error;
        let mut plain = None;
        while let Some(field) = fields.next()? {
            let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'S' => localized = severity(&text),
                b'V' => plain = Some(severity(&text)),
                b'C' => error.code = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                b'W' => error.context = Some(text),
                b's' => error.schema = Some(text),
                b't' => error.table = Some(text),
                b'c' => error.column = Some(text),
                b'n' => error.constraint = Some(text),
                b'P' => error.position = text.parse().ok(),
                _ => {}
            }
        }
        error.severity = plain.unwrap_or(localized);
        Ok(error)
    }

    pub(super) fn new(severity: Severity, code: &str, message: &str) -> ServerError {
        ServerError {
            severity,
            code: code.to_owned(),
            message: message.to_owned(),
            detail: None,
            hint: None,
            context: None,
            schema: None,
            table: None,
            column: None,
            constraint: None,
            position: None,
        }
    }

    /// Whether the session is over.
    pub fn ends_session(&self) -> bool {
        self.severity >= Severity::Fatal
    }
}

fn severity(text: &str) -> Severity {
    match text {
        "ERROR" => Severity::Error,
        "FATAL" => Severity::Fatal,
        "PANIC" => Severity::Panic,
        "WARNING" | "NOTICE" | "DEBUG" | "INFO" | "LOG" => Severity::Notice,
        _ => Severity::Error,
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.code)?;
        if let Some(detail) = &self.detail {
            write!(f, "; {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; hint: {hint}")?;
        }
        Ok(())
    }
}

impl Classify for ServerError {
    fn class(&self) -> Class {
        match self.code.as_str() {
            // The database was dropped: it does not come back by itself.
            "57P04" => Class::Operator,
            // Cancelled, shut down, crashed, starting, idle too long.
            code if code.starts_with("57") => Class::Transient,
            // The connection; too many connections, out of memory; a transaction that time limits ended.
            code if code.starts_with("08") => Class::Transient,
            "53300" | "53200" | "25P03" | "25P04" => Class::Transient,
            // Read-only: a standby for now, or an administrator's brake.
            "25006" => Class::Transient,
            // Serialization, deadlock, outcome unknown; lock not available; object in use (a slot, an origin).
            "40001" | "40P01" | "40003" | "55P03" | "55006" => Class::Transient,
            // A row is in the way.
            "23505" | "23P01" => Class::Conflict,
            _ => Class::Operator,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: &str) -> WireError {
        WireError::Server(Box::new(ServerError::new(Severity::Error, code, "m")))
    }

    #[test]
    fn what_may_pass_is_transient() {
        for code in ["08006", "57P01", "57P02", "57P03", "57014", "53300", "40001", "40P01", "55P03", "55006"] {
            assert_eq!(server(code).class(), Class::Transient, "{code}");
        }
    }

    #[test]
    fn unique_and_exclusion_violations_are_conflicts() {
        for code in ["23505", "23P01"] {
            assert_eq!(server(code).class(), Class::Conflict, "{code}");
        }
    }

    #[test]
    fn what_somebody_must_change_is_the_operators() {
        for code in
            ["28P01", "28000", "42501", "42P01", "3D000", "0A000", "55000", "57P04", "23503", "53100", "XX000", "42704"]
        {
            assert_eq!(server(code).class(), Class::Operator, "{code}");
        }
    }

    #[test]
    fn lost_connections_are_transient() {
        let lost = WireError::io("reading", io::Error::from(io::ErrorKind::ConnectionReset));
        let closed = WireError::Closed { target: "h:1".to_owned() };
        let wrong = WireError::Protocol("x".to_owned());
        assert_eq!(lost.class(), Class::Transient);
        assert_eq!(closed.class(), Class::Transient);
        assert_eq!(WireError::NoHost(vec![server("28P01"), closed]).class(), Class::Transient);
        assert_eq!(WireError::NoHost(vec![server("28P01"), wrong]).class(), Class::Operator);
    }

    #[test]
    fn the_code_is_the_servers() {
        assert_eq!(server("23505").code(), Some("23505"));
        assert_eq!(WireError::Closed { target: String::new() }.code(), None);
    }

    #[test]
    fn severity_comes_from_the_field_that_is_not_translated() {
        use bytes::{BufMut, BytesMut};
        use postgres_protocol::message::backend::Message;

        let mut body = BytesMut::new();
        for (field, text) in [(b'S', "FATAL auf Deutsch"), (b'V', "FATAL"), (b'C', "57P01"), (b'M', "Ende")] {
            body.put_u8(field);
            body.put_slice(text.as_bytes());
            body.put_u8(0);
        }
        body.put_u8(0);
        let mut message = BytesMut::new();
        message.put_u8(b'E');
        message.put_u32(u32::try_from(body.len() + 4).unwrap());
        message.put_slice(&body);
        let Some(Message::ErrorResponse(body)) = Message::parse(&mut message).unwrap() else { panic!("no error") };
        let error = ServerError::read(body.fields()).unwrap();
        assert_eq!((error.severity, error.code.as_str(), error.message.as_str()), (Severity::Fatal, "57P01", "Ende"));
        assert!(error.ends_session());
        assert_eq!(error.to_string(), "Ende (SQLSTATE 57P01)");
    }
}
