//! The task that reads one node: connection → frames → events, and feedback beside it.
//!
//! Reading may wait for whoever takes the events; feedback never does: it has a task of its own.
//!
//! A reader that wakes for every message costs the machine more than the messages do, and has the server send each by
//! itself. So when messages come fast it pauses between reads, and what comes meanwhile comes in larger pieces, unless somebody
//! who may hold locks waits for a barrier. Pauses of 1, 3 and 6 ms, medians of three runs (benches/replication at scale 0.5,
//! PostgreSQL 15, 2 cores): A1 2.9, 2.8, 3.4 s, A2 1.0, 0.8, 0.9 s, A4 1.4, 1.5, 1.3 s; CPU of the daemon in A2 5.3, 3.2, 3.3 s
//! per million rows, and 19 without. One read a pause, not until nothing is left: what stays keeps the socket full, and messages
//! then gather at the sender (`wire/stream.rs`, NEAR_BUFFER). When messages come slowly each is taken at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
/// Over this the rate of messages is taken.
const PACE: Duration = Duration::from_millis(4);
/// Messages a second from which on a stream is read with pauses: ten thousand small transactions. A backlog comes so fast,
/// and users hardly.
const FAST: f64 = 40_000.0;
/// And from which on it goes on to be: read without pauses a server in need of its processors may not send faster.
const STILL_FAST: f64 = FAST / 4.0;
/// How long a pause lasts at least. In twice that what a large transaction sends no longer fits in the socket's buffers.
const PAUSE: Duration = Duration::from_millis(3);
/// And at most, where less than [`FULL`] comes.
const LONGEST_PAUSE: Duration = Duration::from_millis(12);
/// So many bytes in one read mean that the socket was full.
const FULL: usize = 60 << 10;
/// So many events are handed on at once, at most: the coordinator is not to be held for long.
const MOST_GATHERED: usize = 512;
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
    /// How many barriers are awaited in it by somebody who may hold locks: while there are any it is read without pauses.
    pub awaited: watch::Receiver<usize>,
    /// As `pg_stat_replication` shows it.
    pub application_name: String,
}

/// Streams from `start` (0/0: from where the slot stands) until the connection ends, which is an error, or until everything
/// before `until` has been delivered. If the receiver of the events is dropped, a last status is sent and the stream
/// ends well.
///
/// The slot is told `confirmed`'s value and nothing else.
pub async fn stream(
    settings: &SourceSettings,
    echo: Echo,
    start: Lsn,
    until: Option<Lsn>,
    confirmed: watch::Receiver<Lsn>,
    events: mpsc::Sender<Vec<SourceEvent>>,
) -> Result<(), SourceError> {
    let Started { reader, writer, patience } = start::open(settings, echo, start).await?;
    let asked = Arc::new(Notify::new());
    let mut feedback = JoinSet::new(); // stops its task when dropped
    let (stop, stopped) = oneshot::channel();
    feedback.spawn(feedback::run(writer, patience, confirmed, asked.clone(), stopped));
    let (node, own_origins) = (settings.node, settings.own_origins.clone());
    let assembler = Assembler::new(node, settings.catalog.clone(), own_origins, settings.spill.clone());
    let position = Position { told: Lsn::ZERO, reached: Lsn::ZERO };
    let (gathered, awaited) = (Vec::new(), settings.awaited.clone());
    let mut pump = Pump { settings, reader, assembler, asked, events, gathered, until, position, awaited };
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

/// How fast messages come.
struct Pace {
    since: Instant,
    messages: u32,
    /// Messages a second.
    rate: f64,
    /// Whether there are pauses.
    paused: bool,
    /// Bytes since the last pause.
    bytes: usize,
    pause: Duration,
}

impl Pace {
    fn new() -> Pace {
        Pace { since: Instant::now(), messages: 0, rate: 0.0, paused: false, bytes: 0, pause: PAUSE }
    }

    fn count(&mut self, message: &Bytes) {
        self.messages += 1;
        self.bytes += message.len();
    }

    /// How long to let messages gather from `now` on, if at all.
    fn pause(&mut self, now: Instant) -> Option<Duration> {
        let elapsed = now.duration_since(self.since);
        if elapsed >= PACE {
            self.rate = f64::from(self.messages) / elapsed.as_secs_f64();
            self.paused = self.rate >= if self.paused { STILL_FAST } else { FAST };
            (self.since, self.messages) = (now, 0);
        }
        self.pause = match self.rate >= FAST && self.bytes < FULL {
            true => (self.pause * 2).min(LONGEST_PAUSE),
            false => PAUSE,
        };
        self.bytes = 0;
        self.paused.then_some(self.pause)
    }
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
    awaited: watch::Receiver<usize>,
}

impl Pump<'_> {
    async fn run(&mut self) -> Result<(), SourceError> {
        let mut pace = Pace::new();
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
            if self.hand_on().await == Flow::Done || self.is_done() {
                return Ok(());
            }
            if let Some(pause) = pace.pause(Instant::now()) {
                self.pause(pause).await;
            }
        }
    }

    /// Lets messages gather, unless somebody waits for one of them.
    async fn pause(&mut self, pause: Duration) {
        _ = timeout(pause, self.awaited.wait_for(|barriers| *barriers > 0)).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What `pace` says after reads of so many messages, 5 ms after one another.
    fn after_reads(pace: &mut Pace, reads: u32, messages: usize, bytes: usize) -> Option<Duration> {
        let mut said = None;
        for _ in 0..reads {
            (0..messages).for_each(|_| pace.count(&Bytes::from(vec![0; bytes])));
            said = pace.pause(pace.since + Duration::from_millis(5));
        }
        said
    }

    #[test]
    fn only_what_comes_fast_is_paused_for() {
        let mut pace = Pace::new();
        assert_eq!(after_reads(&mut pace, 10, 190, 62), None); // 38,000 a second
        assert!(after_reads(&mut pace, 1, 210, 62).is_some());
        assert_eq!(after_reads(&mut pace, 10, 60, 62), Some(PAUSE)); // 12,000: it has been fast
        assert_eq!(after_reads(&mut pace, 1, 40, 62), None);
        assert_eq!(after_reads(&mut pace, 1, 190, 62), None);
    }

    #[test]
    fn the_less_a_fast_stream_brings_the_longer_is_the_pause() {
        let mut pace = Pace::new();
        assert_eq!(after_reads(&mut pace, 1, 500, 62), Some(2 * PAUSE));
        assert_eq!(after_reads(&mut pace, 5, 500, 62), Some(LONGEST_PAUSE));
        assert_eq!(after_reads(&mut pace, 1, 1000, 62), Some(PAUSE)); // the socket was full
        assert_eq!(after_reads(&mut pace, 1, 500, 62), Some(2 * PAUSE));
    }
}
