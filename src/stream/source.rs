//! The task that reads one node: connection → frames → events, and feedback beside it.
//!
//! Reading may wait for whoever takes the events; feedback never does: it has a task of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::model::table::Catalog;
use crate::model::{Demand, Lsn, NodeId};
use crate::stream::assemble::{Assembler, SourceEvent};
use crate::stream::error::AssembleError;
use crate::stream::message::{Frame, Reply};
use crate::stream::pace::Pace;
use crate::stream::source_error::SourceError;
use crate::stream::spill::Spill;
use crate::stream::start::{Connected, Started};
use crate::stream::{decode, feedback, start};
use crate::wire::{Conninfo, CopyReader, WireError};

/// `object_not_in_prerequisite_state`
const NOT_IN_STATE: &str = "55000";
/// So many events are handed on at once, at most: the coordinator is not to be held for long.
const MOST_GATHERED: usize = 512;
/// How long a stream rests at a time before it has been read through once.
const LONGEST_REST: Duration = Duration::from_secs(2);
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
    /// How it is to be read just now.
    pub demand: watch::Receiver<Demand>,
    /// As `pg_stat_replication` shows it.
    pub application_name: String,
}

/// Streams over `connected` from `start` (0/0: from where the slot stands) until the connection ends, which is an error, or until everything
/// before `until` has been delivered. If the receiver of the events is dropped, a last status is sent and the stream
/// ends well.
///
/// The slot is told `confirmed`'s value and nothing else.
pub async fn stream(
    connected: Connected,
    settings: &SourceSettings,
    echo: Echo,
    start: Lsn,
    until: Option<Lsn>,
    confirmed: watch::Receiver<Lsn>,
    events: mpsc::Sender<Vec<SourceEvent>>,
) -> Result<(), SourceError> {
    let Started { reader, writer, patience } = start::open(connected, settings, echo, start).await?;
    let asked = Arc::new(Notify::new());
    let mut feedback = JoinSet::new(); // stops its task when dropped
    let (stop, stopped) = oneshot::channel();
    feedback.spawn(feedback::run(writer, patience, confirmed, asked.clone(), stopped));
    let (node, own_origins) = (settings.node, settings.own_origins.clone());
    let assembler = Assembler::new(node, settings.catalog.clone(), own_origins, settings.spill.clone());
    let position = Position { told: Lsn::ZERO, reached: Lsn::ZERO };
    let (gathered, demand) = (Vec::new(), settings.demand.clone());
    let mut pump =
        Pump { settings, reader, assembler, asked, events, gathered, until, position, demand, is_late: false };
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
    events: mpsc::Sender<Vec<SourceEvent>>,
    /// What is to be handed on with the next piece.
    gathered: Vec<SourceEvent>,
    until: Option<Lsn>,
    position: Position,
    demand: watch::Receiver<Demand>,
    /// It has rested for long before it was read through, and does so no more until it is.
    is_late: bool,
}

impl Pump<'_> {
    async fn run(&mut self) -> Result<(), SourceError> {
        let mut pace = Pace::new(Instant::now());
        loop {
            let first = tokio::select! {
                first = self.reader.next() => first.map_err(|error| self.ended_by(error))?,
                () = self.events.closed() => return Ok(()),
            };
            self.check_notices()?;
            let mut next = Some(first.ok_or(SourceError::Ended)?);
            while let Some(bytes) = next {
                pace.count(&bytes);
                self.take(bytes)?;
                if self.is_done() {
                    break;
                }
                if self.gathered.len() >= MOST_GATHERED && self.hand_on().await == Flow::Done {
                    return Ok(());
                }
                next = self.reader.try_next_buffered();
            }
            if self.hand_on().await == Flow::Done || self.is_done() || self.rest().await == Flow::Done {
                return Ok(());
            }
            if let Some(pause) = pace.pause(Instant::now()) {
                self.pause(pause).await;
            }
        }
    }

    /// Lets messages gather, unless somebody waits for one of them.
    async fn pause(&mut self, pause: Duration) {
        _ = timeout(pause, self.demand.wait_for(|demand| demand.hurries())).await;
    }

    /// Waits while there is no use for more. What has an end is read up to it.
    async fn rest(&mut self) -> Flow {
        if self.until.is_some() {
            return Flow::On;
        }
        let is_late = self.is_late;
        let late = self.demand.borrow().unfinished && !is_late;
        tokio::select! {
            _ = self.demand.wait_for(|demand| !demand.rests() || demand.unfinished && is_late) => Flow::On,
            () = self.events.closed() => Flow::Done,
            () = sleep(LONGEST_REST), if late => {
                self.is_late = true;
                Flow::On
            }
        }
    }

    fn is_done(&self) -> bool {
        self.until.is_some_and(|until| self.position.reached >= until)
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

    fn take(&mut self, bytes: Bytes) -> Result<(), SourceError> {
        match decode::frame(bytes).map_err(AssembleError::from)? {
            Frame::Keepalive { wal_end, reply, .. } => {
                self.position.reached = self.position.reached.max(wal_end);
                if reply == Reply::AtOnce {
                    self.asked.notify_one();
                }
            }
            Frame::XLogData { body, .. } => {
                let before = self.gathered.len();
                self.assembler.feed(body, &mut self.gathered)?;
                for event in &self.gathered[before..] {
                    let end = match event {
                        SourceEvent::Transaction(transaction) => transaction.end_lsn,
                        SourceEvent::OwnCommit { end_lsn, .. } => *end_lsn,
                        SourceEvent::Position(lsn) => *lsn,
                        SourceEvent::Barrier { .. } | SourceEvent::Growing(_) | SourceEvent::Withdrawn(_) => Lsn::ZERO,
                    };
                    self.position.reached = self.position.reached.max(end);
                }
            }
        }
        Ok(())
    }

    /// What was gathered, and one position for all that was reached: it comes last, for what is handed on may lie before it.
    async fn hand_on(&mut self) -> Flow {
        self.gathered.retain(|event| !matches!(event, SourceEvent::Position(_)));
        let Position { reached, told } = self.position;
        if reached > told {
            self.position.told = reached;
            self.gathered.push(SourceEvent::Position(reached));
        }
        if self.gathered.is_empty() {
            return Flow::On;
        }
        match self.events.send(std::mem::take(&mut self.gathered)).await {
            Ok(()) => Flow::On,
            Err(_) => Flow::Done,
        }
    }
}
