//! Why a source's stream ended, and what can be done about it.

use crate::model::{Class, Classify};
use crate::stream::error::AssembleError;
use crate::wire::WireError;

/// A stream that ended; transactions delivered before are whole, and nothing but what the daemon gave as confirmed has
/// been confirmed.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The connection.
    #[error(transparent)]
    Wire(WireError),
    /// What came over it.
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    /// A walsender has the slot: another pgconcord, or the last connection's, which the server still takes for alive.
    #[error("replication slot \"{slot}\" is in use: {said}")]
    SlotInUse {
        /// Its name.
        slot: String,
        /// What the server said.
        said: String,
    },
    /// No such slot.
    #[error(
        "replication slot \"{slot}\" is not there, so changes may have been lost to us. Run `pgconcord teardown`, compare \
         the nodes, and run `pgconcord setup`, which creates it"
    )]
    SlotGone {
        /// Its name.
        slot: String,
    },
    /// The server has removed log that the slot needed, or it does not suit.
    #[error(
        "replication slot \"{slot}\" can no longer be read: {said}. Changes were lost to us: run `pgconcord teardown`, \
         compare the nodes, and run `pgconcord setup`; `pgconcord doctor` shows settings that let slots fall behind"
    )]
    SlotInvalidated {
        /// Its name.
        slot: String,
        /// What the server said.
        said: String,
    },
    /// The publication is not there, now or at the place of the stream.
    #[error(
        "publication \"{publication}\" does not exist, or did not at this point of the stream. `pgconcord setup` creates \
         it; if this comes again after that, it was dropped for a while and changes were lost to us: run \
         `pgconcord teardown`, compare the nodes, and run `pgconcord setup`"
    )]
    PublicationGone {
        /// Its name.
        publication: String,
    },
    /// The server's log does not carry what logical replication needs.
    #[error("wal_level is {0} and must be logical: set it in the server's configuration and restart the server")]
    WalLevel(String),
    /// The server is too old.
    #[error("the server is PostgreSQL {0}; pgconcord reads version 14 and later: upgrade it")]
    TooOld(u32),
    /// The server answered out of the protocol.
    #[error("the server did not give {0} as its protocol has it; report it with the server's version")]
    Unexpected(&'static str),
    /// The server ended the stream without an error: it shuts down.
    #[error("the server ended the replication stream; it may be shutting down")]
    Ended,
}

impl From<WireError> for SourceError {
    fn from(error: WireError) -> SourceError {
        SourceError::Wire(error)
    }
}

impl SourceError {
    /// What START_REPLICATION was answered.
    pub fn at_start(slot: &str, error: WireError) -> SourceError {
        let (slot, said) = (slot.to_owned(), error.to_string());
        match error.code() {
            Some("55006") => SourceError::SlotInUse { slot, said },
            Some("55000") => SourceError::SlotInvalidated { slot, said },
            Some("42704") => SourceError::SlotGone { slot },
            _ => SourceError::Wire(error),
        }
    }

    /// What ended a stream that had begun.
    pub fn while_streaming(slot: &str, publication: &str, error: WireError) -> SourceError {
        match error.code() {
            Some("55000") => SourceError::SlotInvalidated { slot: slot.to_owned(), said: error.to_string() },
            Some("42704") => SourceError::PublicationGone { publication: publication.to_owned() },
            _ => SourceError::Wire(error),
        }
    }
}

impl Classify for SourceError {
    fn class(&self) -> Class {
        match self {
            SourceError::Wire(error) => error.class(),
            SourceError::Assemble(error) => error.class(),
            SourceError::SlotInUse { .. } | SourceError::Ended => Class::Transient,
            SourceError::SlotGone { .. }
            | SourceError::SlotInvalidated { .. }
            | SourceError::PublicationGone { .. }
            | SourceError::WalLevel(_)
            | SourceError::TooOld(_)
            | SourceError::Unexpected(_) => Class::Operator,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{ServerError, Severity};

    fn said(code: &str) -> WireError {
        let error = ServerError {
            severity: Severity::Error,
            code: code.to_owned(),
            message: "m".to_owned(),
            detail: None,
            hint: None,
            context: None,
            schema: None,
            table: None,
            column: None,
            constraint: None,
            position: None,
        };
        WireError::Server(Box::new(error))
    }

    #[test]
    fn a_slot_in_use_may_become_free_and_a_lost_one_never_comes_back() {
        let at_start = |code| SourceError::at_start("s", said(code));
        assert_eq!(at_start("55006").class(), Class::Transient);
        for code in ["55000", "42704"] {
            let error = at_start(code);
            assert_eq!(error.class(), Class::Operator);
            assert!(error.to_string().contains("\"s\"") && error.to_string().contains("pgconcord setup"), "{error}");
        }
    }

    #[test]
    fn the_same_code_means_the_publication_once_the_stream_runs() {
        let error = SourceError::while_streaming("s", "p", said("42704"));
        assert!(matches!(&error, SourceError::PublicationGone { publication } if publication == "p"));
        assert_eq!(error.class(), Class::Operator);
    }

    #[test]
    fn a_server_that_shuts_down_comes_back() {
        assert_eq!(SourceError::while_streaming("s", "p", said("57P01")).class(), Class::Transient);
        assert_eq!(SourceError::Ended.class(), Class::Transient);
    }
}
