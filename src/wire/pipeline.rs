//! Many statements in one window with one Sync: the server does them in order and skips the rest after an error.
//!
//! ```text
//! Parse Bind Execute  Bind Execute  …  Bind Execute  Sync ─►
//!                      ◄─ a command tag each, or one error ─ ReadyForQuery
//! ```
//!
//! With a Sync after each statement a transaction that fails in the middle would not stop the next one: a hole in the
//! history. PostgreSQL's documentation, "Message Flow: Extended Query" and "Pipelining".

use bytes::{BufMut, BytesMut};
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend::{self, BindError};
use smallvec::SmallVec;

use super::copy::CopiedRows;
use super::error::WireError;
use super::outcome::Outcome;
use super::session::Session;
use super::statements::Lookup;
use crate::model::{Class, Classify};

/// A statement's parameter.
#[derive(Clone, Copy, Debug)]
pub enum Param<'a> {
    /// NULL.
    Null,
    /// In the type's text format.
    Text(&'a [u8]),
    /// In the type's binary format.
    Binary(&'a [u8]),
}

impl Param<'_> {
    fn format(self) -> i16 {
        match self {
            Param::Null | Param::Text(_) => 0,
            Param::Binary(_) => 1,
        }
    }

    fn write(self, output: &mut BytesMut) -> IsNull {
        match self {
            Param::Null => IsNull::Yes,
            Param::Text(value) | Param::Binary(value) => {
                output.put_slice(value);
                IsNull::No
            }
        }
    }
}

/// A window that failed. Nothing after the failed statement was done; the session is usable if the error is the
/// server's [`WireError::Server`].
#[derive(Debug, thiserror::Error)]
#[error("statement {at} of a window: {error}")]
pub struct PipelineError {
    /// The failed statement's place, from 0; the number of statements if the closing Sync itself failed, as a
    /// deferred constraint does outside an explicit transaction.
    pub at: usize,
    /// What the statements before it did. They may have been rolled back since.
    pub done: Vec<Outcome>,
    /// Why.
    #[source]
    pub error: WireError,
}

impl PipelineError {
    /// The SQLSTATE, if the server said something.
    pub fn code(&self) -> Option<&str> {
        self.error.code()
    }
}

impl Classify for PipelineError {
    fn class(&self) -> Class {
        self.error.class()
    }
}

/// A window under construction. Dropping it unsent does nothing to the session.
pub struct Pipeline<'s> {
    session: &'s mut Session,
    statements: usize,
    copies: usize,
    /// The first statement that cannot be sent, and why: the window is then refused whole.
    refused: Option<(usize, WireError)>,
}

impl<'s> Pipeline<'s> {
    pub(super) fn new(session: &'s mut Session) -> Pipeline<'s> {
        session.output.clear();
        for orphan in session.statements.begin_window() {
            close(&orphan.name(), &mut session.output.open);
        }
        Pipeline { session, statements: 0, copies: 0, refused: None }
    }

    /// Adds a statement; returns its place in the outcomes, from 0.
    ///
    /// `types` are the parameters' type OIDs; fewer than there are parameters leave the rest to the server. Results
    /// come in text format. A statement seen before with the same types is not parsed again.
    pub fn query<'p>(&mut self, sql: &str, types: &[u32], params: impl IntoIterator<Item = Param<'p>>) -> usize {
        let at = self.statements;
        self.statements += 1;
        if self.refused.is_none()
            && let Err(problem) = self.write(sql, types, params.into_iter().collect())
        {
            self.refused = Some((at, WireError::Protocol(problem)));
        }
        at
    }

    /// Adds a COPY FROM STDIN with its rows, which are in the format that it says; returns its place in the outcomes.
    ///
    /// The rows are sent without waiting for the server to ask for them. If it does not, because a statement before has
    /// failed or this one does, it leaves them unread up to the Sync (`PostgresMain` in src/backend/tcop/postgres.c).
    pub fn copy_in(&mut self, sql: &str, rows: &CopiedRows) -> usize {
        let at = self.query(sql, &[], []);
        if self.refused.is_none() {
            self.copies += 1;
            let output = &mut self.session.output;
            rows.pieces().iter().for_each(|piece| output.append(piece));
            frontend::copy_done(&mut output.open);
        }
        at
    }

    fn write(&mut self, sql: &str, types: &[u32], params: SmallVec<[Param<'_>; 16]>) -> Result<(), String> {
        let output = &mut self.session.output.open;
        let name = match self.session.statements.find(sql, types) {
            Lookup::Known(id) => id.name(),
            Lookup::New(id, evicted) => {
                if let Some(evicted) = evicted {
                    close(&evicted.name(), output);
                }
                let name = id.name();
                frontend::parse(&name, sql, types.iter().copied(), output).map_err(|error| error.to_string())?;
                name
            }
        };
        let formats: SmallVec<[i16; 16]> = params.iter().map(|param| param.format()).collect();
        let write = |param: Param<'_>, output: &mut BytesMut| Ok(param.write(output));
        frontend::bind("", &name, formats, params, write, [], output).map_err(|error| match error {
            BindError::Conversion(error) => error.to_string(),
            BindError::Serialization(error) => error.to_string(),
        })?;
        frontend::execute("", 0, output).map_err(|error| error.to_string())
    }

    /// How many statements.
    pub fn batch_len(&self) -> usize {
        self.statements
    }

    /// How many bytes they take on the wire.
    pub fn bytes(&self) -> usize {
        self.session.output.len()
    }

    /// Sends the window and waits for all of it: one outcome a statement, in order.
    ///
    /// Dropping the future midway leaves the session unusable.
    pub async fn run(self) -> Result<Vec<Outcome>, PipelineError> {
        if self.statements == 0 && self.refused.is_none() {
            return Ok(Vec::new());
        }
        let (statements, copies) = (self.statements, self.copies);
        let session = self.finish()?;
        let mut done = Vec::with_capacity(statements);
        match session.exchange(&mut done, copies).await {
            Ok(()) if done.len() == statements => Ok(done),
            Ok(()) => {
                let problem = format!("{statements} statements were sent and {} answered", done.len());
                Err(PipelineError { at: done.len(), done, error: WireError::Protocol(problem) })
            }
            Err(error) => Err(PipelineError { at: done.len(), done, error }),
        }
    }

    /// Sends the window, behind others of which the answers have not come yet: over a distance the server need not wait for it.
    /// [`Session::answer`] tells what became of each, in the order in which they were sent, and must have told of all before
    /// anything else is asked.
    ///
    /// All are to be parts of one transaction: then nothing is done of those behind one that fails. Returns when the window is
    /// on its way; dropping the future before leaves the session unusable.
    pub async fn send(self) -> Result<(), PipelineError> {
        let copies = self.copies;
        let session = self.finish()?;
        session.send(copies).await.map_err(|error| PipelineError { at: 0, done: Vec::new(), error })
    }

    /// Closes the window, unless it is refused.
    fn finish(self) -> Result<&'s mut Session, PipelineError> {
        if let Some((at, error)) = self.refused {
            return Err(PipelineError { at, done: Vec::new(), error });
        }
        frontend::sync(&mut self.session.output.open);
        Ok(self.session)
    }
}

/// Close for a prepared statement, whose name is ours and holds no zero byte.
fn close(name: &str, output: &mut BytesMut) {
    frontend::close(b'S', name, output).expect("a statement's name is letters and digits");
}
