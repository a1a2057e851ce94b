//! How a stream begins: session settings, checks, and the START_REPLICATION command.
//!
//! <https://www.postgresql.org/docs/current/protocol-logical-replication.html>

use std::time::Duration;

use crate::model::Lsn;
use crate::model::table::{quote_identifier, quote_literal};
use crate::stream::source::{Echo, SourceSettings};
use crate::stream::source_error::SourceError;
use crate::wire::{CopyReader, CopyWriter, Outcome, Session, pin};

/// What a stream pins beside the values' settings: it may take as long as it takes, and may rest.
const PATIENT: [(&str, &str); 4] = [
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("tcp_user_timeout", "0"),
];

/// A large transaction is streamed from so many kilobytes of changes on, unless the server's own limit is lower: of the 64 MB that it
/// usually is half a million rows fit in, and none of them would be sent before. (`logical_decoding_work_mem`)
const EARLY: &str = "SELECT pg_catalog.set_config('logical_decoding_work_mem', \
     LEAST(pg_catalog.pg_size_bytes(pg_catalog.current_setting('logical_decoding_work_mem')) / 1024, 8192)::pg_catalog.text, false)";

/// A session that can become a stream.
pub struct Connected {
    session: Session,
    dialect: Dialect,
    patience: Option<Duration>,
}

/// A stream that has begun.
pub struct Started {
    /// What the server sends.
    pub reader: CopyReader,
    /// What is sent to the server.
    pub writer: CopyWriter,
    /// How long the server waits for a sign of life; `None` is for ever.
    pub patience: Option<Duration>,
}

/// Connects, pins the session's settings, and finds what makes the stream impossible.
///
/// # Errors
/// If the node can't be reached or refuses the login, and what is amiss.
pub async fn connect(settings: &SourceSettings) -> Result<Connected, SourceError> {
    let startup = [("replication", "database"), ("application_name", settings.application_name.as_str())];
    let mut session = Session::connect(&settings.conninfo, &startup).await?;
    let dialect = Dialect::of(session.server_version())?;
    // Behind each other: to a distant server each question takes a round trip.
    session.send_simple(&pin(&PATIENT)).await?;
    session.send_simple(&check_statement(&settings.slot, &settings.publication)).await?;
    session.answer().await.map_err(|failed| failed.error)?;
    let checked = session.answer().await.map_err(|failed| failed.error)?;
    let patience = check(&checked, settings)?;
    Ok(Connected { session, dialect, patience })
}

/// Starts the stream at `start`; 0/0 is where the slot stands.
///
/// # Errors
/// If the server refuses it.
pub async fn open(
    connected: Connected,
    settings: &SourceSettings,
    echo: Echo,
    start: Lsn,
) -> Result<Started, SourceError> {
    let Connected { mut session, dialect, patience } = connected;
    if echo == Echo::None {
        session.send_simple(EARLY).await?; // what is not streamed would go to the server's disk the earlier
    }
    let command = dialect.start_replication(&settings.slot, &settings.publication, echo, start);
    let halves = session.start_replication(&command).await;
    let (reader, writer) = halves.map_err(|error| SourceError::at_start(&settings.slot, error))?;
    Ok(Started { reader, writer, patience })
}

/// Finds what makes the stream impossible before the server says it in its own words, or fails to say it; returns
/// `wal_sender_timeout`.
fn check(outcomes: &[Outcome], settings: &SourceSettings) -> Result<Option<Duration>, SourceError> {
    let [outcome] = outcomes else { return Err(SourceError::Unexpected("the answer to the checks")) };
    let row = outcome.one()?;
    let (slot, publication) = (settings.slot.clone(), settings.publication.clone());
    match (row.text(0)?, row.optional_text(1)?, row.text(2)?) {
        ("logical", Some("lost"), _) => {
            Err(SourceError::SlotInvalidated { slot, said: "wal_status is lost".to_owned() })
        }
        ("logical", None, _) => Err(SourceError::SlotGone { slot }),
        ("logical", Some(_), "f") => Err(SourceError::PublicationGone { publication }),
        ("logical", Some(_), _) => Ok(Some(row.parse(3)?).filter(|ms| *ms > 0).map(Duration::from_millis)),
        (level, _, _) => Err(SourceError::WalLevel(level.to_owned())),
    }
}

fn check_statement(slot: &str, publication: &str) -> String {
    format!(
        "SELECT pg_catalog.current_setting('wal_level'), \
         (SELECT coalesce(wal_status, 'unknown') FROM pg_catalog.pg_replication_slots WHERE slot_name = {}), \
         EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = {}), \
         (1000 * EXTRACT(epoch FROM pg_catalog.current_setting('wal_sender_timeout')::pg_catalog.interval))::pg_catalog.int8",
        quote_literal(slot),
        quote_literal(publication)
    )
}

/// What one major version of the server understands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Dialect {
    major: u32,
}

impl Dialect {
    /// `version` as `server_version_num` has it.
    fn of(version: u32) -> Result<Dialect, SourceError> {
        let major = version / 10_000;
        if major >= 14 { Ok(Dialect { major }) } else { Err(SourceError::TooOld(major)) }
    }

    fn start_replication(self, slot: &str, publication: &str, echo: Echo, start: Lsn) -> String {
        let version = match self.major {
            14 => 2,
            15 => 3,
            _ => 4,
        };
        // The Origin message of a streamed transaction does not tell the position, which the marks need.
        let streaming = match echo {
            Echo::Any => "off",
            Echo::None => "on",
        };
        let origin = match (self.major, echo) {
            (..=15, _) => "",
            (_, Echo::Any) => ", origin 'any'",
            (_, Echo::None) => ", origin 'none'",
        };
        format!(
            "START_REPLICATION SLOT {} LOGICAL {start} (proto_version '{version}', publication_names {}, \
             messages 'true', streaming '{streaming}'{origin})",
            quote_identifier(slot),
            quote_literal(&quote_identifier(publication))
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_gets_the_most_that_it_speaks() {
        let command = |major: u32, echo| {
            Dialect::of(major * 10_000 + 1).unwrap().start_replication("s", "it's", echo, Lsn(0x1_0000_00ff))
        };
        for (major, echo, ends) in [
            (14, Echo::None, "streaming 'on')"),
            (15, Echo::Any, "streaming 'off')"),
            (16, Echo::Any, "streaming 'off', origin 'any')"),
            (18, Echo::None, "streaming 'on', origin 'none')"),
        ] {
            let version = (major - 12).min(4);
            let begins = format!(
                "START_REPLICATION SLOT \"s\" LOGICAL 1/FF (proto_version '{version}', \
                 publication_names '\"it''s\"', messages 'true', "
            );
            assert_eq!(command(major, echo), begins + ends);
        }
    }

    #[test]
    fn servers_before_14_are_refused() {
        assert!(matches!(Dialect::of(130_020), Err(SourceError::TooOld(13))));
    }
}
