//! One request and all its answers up to ReadyForQuery: sending and receiving go on at the same time.
//!
//! A large window and its answers would fill both directions' buffers and stand still if it were all written before
//! the first answer is read.

use std::collections::BTreeMap;

use postgres_protocol::message::backend::{ErrorFields, Message};
use tokio::io::{AsyncRead, AsyncWriteExt};

use super::error::{ServerError, WireError};
use super::inbox::{Inbox, Incoming};
use super::outcome::{CommandTag, Outcome, Row};
use super::session::{Session, TransactionStatus};
use super::statements::Statements;

/// Room for output that a session keeps between requests; what a large window needed beyond it is given back.
const OUTPUT_KEPT: usize = 4 * 1024 * 1024;

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
        Err(WireError::Unusable { target: self.peer.to_string(), reason })
    }

    /// Sends the output, in which are the rows of so many `copies`, and gathers in `done` what the server did. Errors of statements come as
    /// [`WireError::Server`] and leave the session usable.
    pub(super) async fn exchange(&mut self, done: &mut Vec<Outcome>, copies: usize) -> Result<(), WireError> {
        self.check()?;
        self.condition = Condition::Busy;
        let result = self.send_and_receive(done, copies).await;
        self.output.clear();
        if self.output.capacity() > OUTPUT_KEPT {
            self.output = bytes::BytesMut::new();
        }
        match result {
            Ok((status, refused)) => {
                self.status = status;
                self.condition = Condition::Ready;
                self.statements.end_window();
                match refused {
                    None => Ok(()),
                    Some(error) => {
                        self.statements.doubt(&error.code);
                        Err(WireError::Server(error))
                    }
                }
            }
            Err(error) => {
                self.condition = Condition::Ended;
                Err(error)
            }
        }
    }

    async fn send_and_receive(
        &mut self,
        done: &mut Vec<Outcome>,
        copies: usize,
    ) -> Result<(TransactionStatus, Option<Box<ServerError>>), WireError> {
        let Session { inbox, writer, output, statements, parameters, .. } = self;
        let send = async {
            writer.write_all(output).await?;
            writer.flush().await
        };
        let mut answers = Answers { done, statements, parameters, copies, rows: Vec::new(), refused: None };
        let receive = answers.gather(inbox);
        tokio::pin!(send, receive);
        tokio::select! {
            received = &mut receive => received,
            sent = &mut send => match (sent, receive.await) {
                (Ok(()), received) => received,
                // What the server said last tells more than that it does not listen any more.
                (Err(_), Err(WireError::Terminated(said))) => Err(WireError::Terminated(said)),
                (Err(error), _) => Err(WireError::io(format!("writing to {}", self.peer), error)),
            },
        }
    }
}

/// What has been answered so far.
struct Answers<'a> {
    done: &'a mut Vec<Outcome>,
    statements: &'a mut Statements,
    parameters: &'a mut BTreeMap<String, String>,
    /// For so many the rows are on their way.
    copies: usize,
    rows: Vec<Row>,
    refused: Option<Box<ServerError>>,
}

impl Answers<'_> {
    /// Reads up to ReadyForQuery: the session's status then, and the statement's error if there was one.
    async fn gather<R: AsyncRead + Unpin>(
        &mut self,
        inbox: &mut Inbox<R>,
    ) -> Result<(TransactionStatus, Option<Box<ServerError>>), WireError> {
        loop {
            let message = match inbox.next().await? {
                Incoming::Message(message) => message,
                Incoming::CopyBoth => return Err(unexpected("a replication stream; use start_replication")),
            };
            if let Message::ReadyForQuery(body) = message {
                return Ok((TransactionStatus::read(body.status())?, self.refused.take()));
            }
            self.take(message)?;
        }
    }

    fn take(&mut self, message: Message) -> Result<(), WireError> {
        match message {
            Message::DataRow(body) => {
                self.rows.push(Row::read(&body).map_err(|error| WireError::Protocol(error.to_string()))?);
            }
            Message::CommandComplete(body) => {
                let tag = body.tag().map_err(|error| WireError::Protocol(error.to_string()))?;
                self.finish(CommandTag::parse(tag));
            }
            Message::EmptyQueryResponse => self.finish(CommandTag::parse("")),
            Message::ParseComplete => self.statements.parsed(),
            Message::CloseComplete => self.statements.closed(),
            Message::BindComplete | Message::NoData | Message::RowDescription(_) | Message::ParameterDescription(_) => {
            }
            Message::ErrorResponse(body) => {
                let error = Box::new(read_error(body.fields())?);
                if error.ends_session() {
                    return Err(WireError::Terminated(error));
                }
                self.rows.clear();
                self.refused.get_or_insert(error);
            }
            Message::NoticeResponse(body) => drop(log_notice(body.fields())),
            Message::ParameterStatus(body) => {
                if let (Ok(name), Ok(value)) = (body.name(), body.value()) {
                    self.parameters.insert(name.to_owned(), value.to_owned());
                }
            }
            Message::NotificationResponse(_) => {}
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
