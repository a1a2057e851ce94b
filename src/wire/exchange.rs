//! A request and all its answers up to ReadyForQuery: sending and receiving go on at the same time.
//!
//! A large window and its answers would fill both directions' buffers and stand still if it were all written before
//! the first answer is read. So what has been answered is taken while the next request is sent, too, and kept until somebody asks.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use postgres_protocol::message::backend::{ErrorFields, Message};
use tokio::time::timeout;

use super::error::{ServerError, WireError};
use super::inbox::Incoming;
use super::outcome::{CommandTag, Outcome, Row};
use super::session::{Session, TransactionStatus};
use super::statements::Statements;

/// How long a server that takes nothing more may take to say why, message by message.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Whether a session can make a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Condition {
    /// It can.
    Ready,
    /// One is under way; whoever sees this between requests sees one that was abandoned.
    Busy,
    /// The connection or the protocol failed, or the server ended it.
    Ended,
}

impl Session {
    /// Whether a request can be made.
    pub(super) fn check(&self) -> Result<(), WireError> {
        let reason = match self.condition {
            Condition::Ready => return Ok(()),
            Condition::Busy => "an earlier request was abandoned midway",
            Condition::Ended => "it has ended",
        };
        Err(self.unusable(reason))
    }

    fn unusable(&self, reason: &'static str) -> WireError {
        WireError::Unusable { target: self.peer.to_string(), reason }
    }

    /// Sends the output, in which are the rows of so many `copies`, and gathers in `done` what the server did. Errors of statements come as
    /// [`WireError::Server`] and leave the session usable.
    pub(super) async fn exchange(&mut self, done: &mut Vec<Outcome>, copies: usize) -> Result<(), WireError> {
        self.check()?;
        if !self.requests.is_empty() {
            return Err(self.unusable("what earlier requests were answered has not been taken"));
        }
        let began = Instant::now();
        self.send(copies).await?;
        let answered = self.answered(done).await;
        self.took(began.elapsed());
        answered
    }

    /// Sends the output; [`Session::answered`] is to be called once for it.
    pub(super) async fn send(&mut self, copies: usize) -> Result<(), WireError> {
        self.check()?;
        self.condition = Condition::Busy;
        self.statements.sent();
        self.requests.push_back(Request { copies, ..Request::default() });
        let sent = self.write_out().await;
        self.output.clear();
        self.condition = if sent.is_ok() { Condition::Ready } else { Condition::Ended };
        sent
    }

    /// What the server did of the request that was sent first of those that are not taken.
    pub(super) async fn answered(&mut self, done: &mut Vec<Outcome>) -> Result<(), WireError> {
        self.check()?;
        self.condition = Condition::Busy;
        while let Some(request) = self.requests.front()
            && !request.is_answered
        {
            if let Err(error) = self.receive().await {
                self.condition = Condition::Ended;
                done.extend(self.requests.pop_front().unwrap_or_default().done);
                return Err(error);
            }
        }
        self.condition = Condition::Ready;
        let Some(request) = self.requests.pop_front() else { return Err(self.unusable("nothing has been sent")) };
        done.extend(request.done);
        request.refused.map_or(Ok(()), |error| Err(WireError::Server(error)))
    }

    async fn write_out(&mut self) -> Result<(), WireError> {
        let Session { inbox, writer, output, statements, parameters, status, requests, .. } = self;
        let mut answers = Answers { requests, statements, parameters, status };
        let send = output.write_to(writer);
        tokio::pin!(send);
        let failed = loop {
            tokio::select! {
                sent = &mut send => match sent {
                    Ok(()) => return Ok(()),
                    Err(error) => break error,
                },
                message = inbox.next() => answers.take(message?)?, // cancel-safe
            }
        };
        // What the server said last tells more than that it does not listen any more.
        loop {
            match timeout(LAST_WORDS, inbox.next()).await {
                Ok(Ok(message)) => answers.take(message)?,
                _ => return Err(WireError::io(format!("writing to {}", self.peer), failed)),
            }
        }
    }

    async fn receive(&mut self) -> Result<(), WireError> {
        let Session { inbox, statements, parameters, status, requests, .. } = self;
        let message = inbox.next().await?;
        Answers { requests, statements, parameters, status }.take(message)
    }
}

/// A request on its way, and what has been answered so far.
#[derive(Default)]
pub(super) struct Request {
    /// For so many the rows are on their way.
    copies: usize,
    done: Vec<Outcome>,
    rows: Vec<Row>,
    refused: Option<Box<ServerError>>,
    /// ReadyForQuery has come.
    is_answered: bool,
}

/// Where answers go.
struct Answers<'a> {
    requests: &'a mut VecDeque<Request>,
    statements: &'a mut Statements,
    parameters: &'a mut BTreeMap<String, String>,
    status: &'a mut TransactionStatus,
}

impl Answers<'_> {
    fn take(&mut self, message: Incoming) -> Result<(), WireError> {
        let message = match message {
            Incoming::Message(message) => message,
            Incoming::CopyBoth => return Err(unexpected("a replication stream; use start_replication")),
        };
        let request = self.requests.iter_mut().find(|request| !request.is_answered);
        match (message, request) {
            (Message::NoticeResponse(body), _) => drop(log_notice(body.fields())),
            (Message::ParameterStatus(body), _) => {
                if let (Ok(name), Ok(value)) = (body.name(), body.value()) {
                    self.parameters.insert(name.to_owned(), value.to_owned());
                }
            }
            (Message::NotificationResponse(_), _) => {}
            (Message::ErrorResponse(body), request) => {
                let error = Box::new(read_error(body.fields())?);
                match request {
                    Some(request) if !error.ends_session() => {
                        request.rows.clear();
                        request.refused.get_or_insert(error);
                    }
                    _ => return Err(WireError::Terminated(error)),
                }
            }
            (Message::ReadyForQuery(body), Some(request)) => {
                *self.status = TransactionStatus::read(body.status())?;
                request.is_answered = true;
                self.statements.end_window();
                if let Some(error) = &request.refused {
                    self.statements.doubt(&error.code);
                }
            }
            (message, Some(request)) => request.take(message, self.statements)?,
            (_, None) => return Err(unexpected("an answer to nothing")),
        }
        Ok(())
    }
}

impl Request {
    fn take(&mut self, message: Message, statements: &mut Statements) -> Result<(), WireError> {
        match message {
            Message::DataRow(body) => {
                self.rows.push(Row::read(&body).map_err(|error| WireError::Protocol(error.to_string()))?);
            }
            Message::CommandComplete(body) => {
                let tag = body.tag().map_err(|error| WireError::Protocol(error.to_string()))?;
                self.finish(CommandTag::parse(tag));
            }
            Message::EmptyQueryResponse => self.finish(CommandTag::parse("")),
            Message::ParseComplete => statements.parsed(),
            Message::CloseComplete => statements.closed(),
            Message::BindComplete | Message::NoData | Message::RowDescription(_) | Message::ParameterDescription(_) => {
            }
            Message::CopyInResponse(_) if self.copies > 0 => self.copies -= 1,
            Message::CopyInResponse(_) => return Err(unexpected("COPY FROM STDIN")),
            Message::CopyOutResponse(_) => return Err(unexpected("COPY TO STDOUT")),
            _ => return Err(unexpected("a message that has no place here")),
        }
        Ok(())
    }

    fn finish(&mut self, tag: CommandTag) {
        self.done.push(Outcome { tag, rows: std::mem::take(&mut self.rows) });
    }
}

fn unexpected(what: &str) -> WireError {
    WireError::Protocol(format!("the server began {what}, which this request does not expect"))
}

/// The fields of an ErrorResponse.
pub(super) fn read_error(fields: ErrorFields<'_>) -> Result<ServerError, WireError> {
    ServerError::read(fields).map_err(|error| WireError::Protocol(format!("an unreadable error: {error}")))
}

/// Notices and warnings go to the debug log, and to whoever wants them.
pub(super) fn log_notice(fields: ErrorFields<'_>) -> Option<ServerError> {
    let notice = ServerError::read(fields).ok()?;
    tracing::debug!(code = %notice.code, "server notice: {}", notice.message);
    Some(notice)
}
