//! The task that reads one node: connection → frames → events, and feedback beside it.
//!
//! Reading may wait for whoever takes the events; feedback never does: it has a task of its own.
//!
//! There is no pause between reads. One makes the server's messages larger, but its socket's buffer holds only some
//! hundred small ones, so that it waits for us instead: 200,000 transactions took 1.6–2.1 s without, 2.7–5.7 s with
//! pauses of 0.5 to 1 ms; a million rows in one 2.9–3.3 s and 4.3–7 s (PostgreSQL 15, TCP and unix socket).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::model::table::Catalog;
use crate::model::{Lsn, NodeId};
use crate::stream::assemble::{Assembler, SourceEvent};
use crate::stream::error::AssembleError;
use crate::stream::message::{Frame, Reply};
use crate::stream::source_error::SourceError;
use crate::stream::spill::Spill;
use crate::stream::start::Started;
use crate::stream::{decode, feedback, start};
use crate::wire::{Conninfo, CopyReader, WireError};

/// `object_not_in_prerequisite_state`
const NOT_IN_STATE: &str = "55000";
/// How long a stream that ends well may take to say good-bye; after that the server finds out by itself.
const FAREWELL: Duration = Duration::from_secs(2);

/// What to do about the commits of our own apply sessions on PostgreSQL 16 and later; before that they always come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Echo {
    /// Have them sent: while the window is rebuilt.
    Any,
    /// Have them left out, and other replication's with them.
    None,
}

/// What a source needs to know.
#[derive(Clone, Debug)]
pub struct SourceSettings {
    /// The node that is read.
    pub node: NodeId,
    /// Where it is.
    pub conninfo: Conninfo,
    /// The slot that is read.
    pub slot: String,
    /// The publication that says which tables.
    pub publication: String,
    /// The tables of the cluster.
    pub catalog: Arc<Catalog>,
    /// The names of our replication origins there, and whose changes they bring.
    pub own_origins: HashMap<String, NodeId>,
    /// Takes what exceeds the memory budget.
    pub spill: Arc<Spill>,
    /// As `pg_stat_replication` shows it.
    pub application_name: String,
}

/// Streams from `start` (0/0: from where the slot stands) until the connection ends, which is an error, or until the
/// barrier `until` has been delivered. If the receiver of the events is dropped, a last status is sent and the stream
/// ends well.
///
/// The slot is told `confirmed`'s value and nothing else.
pub async fn stream(
    settings: &SourceSettings,
    echo: Echo,
    start: Lsn,
    until: Option<u64>,
    confirmed: watch::Receiver<Lsn>,
    events: mpsc::Sender<SourceEvent>,
) -> Result<(), SourceError> {
    let Started { reader, writer, patience } = start::open(settings, echo, start).await?;
    let asked = Arc::new(Notify::new());
    let mut feedback = JoinSet::new(); // stops its task when dropped
    let (stop, stopped) = oneshot::channel();
    feedback.spawn(feedback::run(writer, patience, confirmed, asked.clone(), stopped));
    let (node, own_origins) = (settings.node, settings.own_origins.clone());
    let assembler = Assembler::new(node, settings.catalog.clone(), own_origins, settings.spill.clone());
    let position = Position { told: Lsn::ZERO, reached: Lsn::ZERO };
    let mut pump = Pump { settings, reader, assembler, asked, events, until, position };
    tokio::select! {
        ended = pump.run() => ended?,
        Some(Ok(result)) = feedback.join_next() => return result.map_err(SourceError::Wire),
    }
    drop(stop);
    let farewell = async {
        feedback.join_next().await;
        while let Ok(Some(_)) = pump.reader.next().await {} // what was under way; the slot is free after the end
    };
    _ = timeout(FAREWELL, farewell).await;
    Ok(())
}

/// How far the stream is known to have come, and how far that has been told.
struct Position {
    reached: Lsn,
    told: Lsn,
}

/// Whether the stream goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    Done,
}

struct Pump<'a> {
    settings: &'a SourceSettings,
    reader: CopyReader,
    assembler: Assembler,
    asked: Arc<Notify>,
    events: mpsc::Sender<SourceEvent>,
    until: Option<u64>,
    position: Position,
}

impl Pump<'_> {
    async fn run(&mut self) -> Result<(), SourceError> {
        loop {
            let first = tokio::select! {
                first = self.reader.next() => first.map_err(|error| self.ended_by(error))?,
                () = self.events.closed() => return Ok(()),
            };
            self.check_notices()?;
            let mut next = Some(first.ok_or(SourceError::Ended)?);
            while let Some(bytes) = next {
                if self.take(bytes).await? == Flow::Done {
                    return Ok(());
                }
                next = self.reader.try_next_buffered();
            }
            if self.tell_position().await == Flow::Done {
                return Ok(());
            }
        }
    }

    fn ended_by(&self, error: WireError) -> SourceError {
        SourceError::while_streaming(&self.settings.slot, &self.settings.publication, error)
    }

    /// From 18 on, the server only warns when the publication is not there, and goes on without its tables.
    fn check_notices(&mut self) -> Result<(), SourceError> {
        match self.reader.take_notices().iter().any(|notice| notice.code == NOT_IN_STATE) {
            true => Err(SourceError::PublicationGone { publication: self.settings.publication.clone() }),
            false => Ok(()),
        }
    }

    async fn take(&mut self, bytes: Bytes) -> Result<Flow, SourceError> {
        match decode::frame(bytes).map_err(AssembleError::from)? {
            Frame::Keepalive { wal_end, reply, .. } => {
                self.position.reached = self.position.reached.max(wal_end);
                if reply == Reply::AtOnce {
                    self.asked.notify_one();
                }
                Ok(Flow::On)
            }
            Frame::XLogData { body, .. } => {
                let mut batch = Vec::new(); // allocates only when a transaction completes
                self.assembler.feed(body, &mut batch)?;
                self.deliver(batch).await
            }
        }
    }

    async fn deliver(&mut self, batch: Vec<SourceEvent>) -> Result<Flow, SourceError> {
        for event in batch {
            if let SourceEvent::Position(lsn) = event {
                self.position.reached = self.position.reached.max(lsn);
                continue;
            }
            let last = matches!(event, SourceEvent::Barrier { nonce, .. } if Some(nonce) == self.until);
            if self.events.send(event).await.is_err() || last {
                return Ok(Flow::Done);
            }
        }
        Ok(Flow::On)
    }

    /// One event for all that was reached since the last one. It says less than it could: what was delivered meanwhile
    /// may lie beyond it.
    async fn tell_position(&mut self) -> Flow {
        let Position { reached, told } = self.position;
        if reached <= told {
            return Flow::On;
        }
        self.position.told = reached;
        match self.events.send(SourceEvent::Position(reached)).await {
            Ok(()) => Flow::On,
            Err(_) => Flow::Done,
        }
    }
}
