//! The stream of a replication slot: two halves that go on independently, so that reports to the server never wait
//! for what comes from it.
//!
//! PostgreSQL's documentation, "Streaming Replication Protocol". What the payloads mean is the caller's business.

use std::fmt;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend::{self, CopyData};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};

use super::error::{ServerError, WireError};
use super::exchange::{log_notice, read_error};
use super::inbox::{Inbox, Incoming, LONGEST};
use super::session::Session;
use super::stream::Stream;

/// Room for one read of a stream: reading in small pieces makes the walsender two to three times slower. Payloads
/// share the piece that they came in, so one that is kept keeps it all.
const STREAM_PIECE: usize = 256 * 1024;

/// Notices kept for [`CopyReader::take_notices`]: a server that warns and sends nothing else must not fill the memory.
const MOST_NOTICES: usize = 16;

impl Session {
    /// Starts a stream by `START_REPLICATION …`; the session, opened with `("replication", "database")`, becomes it. What was sent
    /// before and is not answered yet must go well.
    pub async fn start_replication(mut self, sql: &str) -> Result<(CopyReader, CopyWriter), WireError> {
        self.check()?;
        self.put_query(sql)?;
        let failed = |error| WireError::io(format!("writing to {}", self.peer), error);
        self.output.write_to(&mut self.writer).await.map_err(failed)?;
        while self.unanswered() > 0 {
            self.answered(&mut Vec::new()).await?;
        }
        loop {
            match self.inbox.next().await? {
                Incoming::CopyBoth => break,
                Incoming::Message(Message::ErrorResponse(body)) => {
                    let error = Box::new(read_error(body.fields())?);
                    return Err(match error.ends_session() {
                        true => WireError::Terminated(error),
                        false => WireError::Server(error),
                    });
                }
                Incoming::Message(Message::NoticeResponse(body)) => drop(log_notice(body.fields())),
                Incoming::Message(Message::ParameterStatus(_)) => {}
                Incoming::Message(_) => {
                    return Err(WireError::Protocol(format!("{} does not begin a stream after {sql:?}", self.peer)));
                }
            }
        }
        self.inbox.allow(LONGEST, STREAM_PIECE);
        let writer = CopyWriter { writer: self.writer, pending: BytesMut::new(), peer: self.peer };
        Ok((CopyReader { inbox: self.inbox, ended: false, notices: Vec::new() }, writer))
    }
}

/// What the server sends.
pub struct CopyReader {
    inbox: Inbox<ReadHalf<Stream>>,
    ended: bool,
    notices: Vec<ServerError>,
}

impl CopyReader {
    /// The next payload; `None` once the server has ended the stream in good order, as it does when it shuts down.
    ///
    /// Cancel-safe: a payload is either returned or still in the buffer.
    pub async fn next(&mut self) -> Result<Option<Bytes>, WireError> {
        loop {
            if self.ended {
                return Ok(None);
            }
            if let Some(payload) = self.inbox.copy_data()? {
                return Ok(Some(payload));
            }
            if !self.inbox.has_message()? {
                self.inbox.fill().await?;
                continue;
            }
            match self.inbox.next().await? {
                Incoming::Message(Message::CopyDone | Message::CommandComplete(_)) => self.ended = true,
                Incoming::Message(Message::ErrorResponse(body)) => {
                    self.ended = true;
                    return Err(WireError::Terminated(Box::new(read_error(body.fields())?)));
                }
                Incoming::Message(Message::NoticeResponse(body)) => {
                    self.notices.extend(log_notice(body.fields()));
                    self.notices.truncate(MOST_NOTICES);
                }
                Incoming::Message(Message::ParameterStatus(_)) => {}
                _ => return Err(WireError::Protocol("a message that has no place in a stream".to_owned())),
            }
        }
    }

    /// Notices that came before the last payload and were not taken yet, the first of them if there are many.
    pub fn take_notices(&mut self) -> Vec<ServerError> {
        std::mem::take(&mut self.notices)
    }

    /// A payload that has arrived already; `None` means that [`CopyReader::next`] may have to wait.
    pub fn try_next_buffered(&mut self) -> Option<Bytes> {
        // A broken message is left for `next` to report.
        if self.ended { None } else { self.inbox.copy_data().ok().flatten() }
    }
}

impl fmt::Debug for CopyReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CopyReader({})", if self.ended { "ended" } else { "open" })
    }
}

/// What is sent to the server.
pub struct CopyWriter {
    writer: WriteHalf<Stream>,
    /// What a send that was dropped midway has left: it goes out first, so that messages stay whole.
    pending: BytesMut,
    peer: Arc<str>,
}

impl CopyWriter {
    /// Sends one payload at once.
    pub async fn send(&mut self, payload: &[u8]) -> Result<(), WireError> {
        CopyData::new(payload).map_err(|error| WireError::Protocol(error.to_string()))?.write(&mut self.pending);
        self.flush().await
    }

    /// Ends the stream from our side; the server answers with what it had under way, then with the end of its own.
    pub async fn finish(&mut self) -> Result<(), WireError> {
        frontend::copy_done(&mut self.pending);
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), WireError> {
        let failed = |error| WireError::io(format!("writing to {}", self.peer), error);
        while self.pending.has_remaining() {
            self.writer.write_buf(&mut self.pending).await.map_err(failed)?;
        }
        self.writer.flush().await.map_err(failed)
    }
}

impl fmt::Debug for CopyWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CopyWriter({}, {} bytes pending)", self.peer, self.pending.len())
    }
}
