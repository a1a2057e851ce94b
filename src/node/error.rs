//! What can go wrong on a control connection.

use std::fmt;

use tokio_postgres::error::SqlState;

use crate::model::{Class, Classify};

/// An error of the control plane.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// No connection.
    #[error("cannot connect to {target}: {reason}")]
    Connect {
        /// `user@host:port/database`.
        target: String,
        /// Why, for people.
        reason: String,
        /// What tokio-postgres said, if it came that far.
        error: Option<tokio_postgres::Error>,
        /// Where the server said nothing: a fault of the network may pass, a missing password does not.
        class: Class,
    },
    /// The server, or the connection to it, refused a statement.
    #[error("cannot {doing}: {}", Shown(.error))]
    Statement {
        /// What the statement was for: "read the tables".
        doing: &'static str,
        /// What came back; named by the message, so it is no `source()`.
        error: tokio_postgres::Error,
    },
    /// The server answered something that makes no sense.
    #[error("cannot {doing}: the server answered {answer:?}")]
    Answer {
        /// What the statement was for.
        doing: &'static str,
        /// What came back.
        answer: String,
    },
    /// Somebody must do something; the text says what.
    #[error("{0}")]
    Operator(String),
    /// The same, with the node where it happened.
    #[error("{node}: {error}")]
    At {
        /// The node's name.
        node: String,
        /// What happened.
        error: Box<NodeError>,
    },
}

impl NodeError {
    /// For `map_err`: a statement failed that was to do this.
    pub(crate) fn doing(doing: &'static str) -> impl Fn(tokio_postgres::Error) -> NodeError {
        move |error| NodeError::Statement { doing, error }
    }

    /// Says where it happened.
    pub(crate) fn at(self, node: &str) -> NodeError {
        NodeError::At { node: node.to_owned(), error: Box::new(self) }
    }

    /// The server's SQLSTATE, where a server answered.
    pub fn sqlstate(&self) -> Option<&SqlState> {
        match self {
            NodeError::Statement { error, .. } => error.code(),
            NodeError::Connect { error, .. } => error.as_ref()?.code(),
            NodeError::At { error, .. } => error.sqlstate(),
            NodeError::Answer { .. } | NodeError::Operator(_) => None,
        }
    }
}

impl Classify for NodeError {
    fn class(&self) -> Class {
        match (self, self.sqlstate()) {
            (NodeError::At { error, .. }, _) => error.class(),
            (NodeError::Operator(_) | NodeError::Answer { .. }, _) => Class::Operator,
            (NodeError::Connect { class, .. }, None) => *class,
            (_, None) => Class::Transient,
            (_, Some(state)) => class_of(state),
        }
    }
}

/// Connection exceptions, rollbacks, lack of resources, operator intervention and objects in use may pass.
pub(super) fn class_of(state: &SqlState) -> Class {
    match state.code() {
        "57014" | "55P03" | "55006" => Class::Transient,
        code if ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class)) => Class::Transient,
        _ => Class::Operator,
    }
}

/// A server's message with its SQLSTATE, detail and hint; tokio-postgres alone says only "db error".
pub(crate) struct Shown<'a>(pub &'a tokio_postgres::Error);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(db) = self.0.as_db_error() else { return self.0.fmt(f) };
        write!(f, "{} (SQLSTATE {})", db.message(), db.code().code())?;
        for more in [db.detail(), db.hint()].into_iter().flatten() {
            write!(f, "; {more}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_told_from_what_must_be_mended() {
        for (state, class) in [
            (SqlState::T_R_DEADLOCK_DETECTED, Class::Transient),
            (SqlState::CANNOT_CONNECT_NOW, Class::Transient),
            (SqlState::TOO_MANY_CONNECTIONS, Class::Transient),
            (SqlState::OBJECT_IN_USE, Class::Transient),
            (SqlState::INVALID_PASSWORD, Class::Operator),
            (SqlState::UNDEFINED_OBJECT, Class::Operator),
            (SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, Class::Operator),
        ] {
            assert_eq!(class_of(&state), class, "{}", state.code());
        }
    }
}
