//! Bytes → replication messages, of protocol versions 1 to 4. Pure; row data is shared with the bytes it came in.
//!
//! Whatever the bytes, the outcome is a message or an error that names the message's kind.

use bytes::{Buf, Bytes};

use crate::model::{Class, Classify, Lsn, RelationColumn, Tuple, Xid};
use crate::stream::message::{
    Bond, Chunk, CommitPoint, Frame, Message, Old, Prepared, RelationShape, Reply, TruncateOptions,
};

/// The server sent something that its protocol does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "malformed {kind} message in the replication stream: {reason}. Nothing of it was applied; if it comes again, \
     check what lies between pgconcord and the server, and report it with the server's version"
)]
pub struct DecodeError {
    /// Which message, by its name in the PostgreSQL documentation.
    pub kind: &'static str,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Classify for DecodeError {
    fn class(&self) -> Class {
        Class::Operator
    }
}

/// Where in the stream a message stands: inside stream blocks, messages carry an xid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Between Stream Start and Stream Stop.
    InStream,
    /// Anywhere else.
    Outside,
}

/// Decodes the content of one CopyData of the server.
pub fn frame(bytes: Bytes) -> Result<Frame, DecodeError> {
    let mut input = Input { bytes, kind: "replication" };
    match input.u8()? {
        b'w' => {
            input.kind = "XLogData";
            Ok(Frame::XLogData {
                wal_start: input.lsn()?,
                wal_end: input.lsn()?,
                micros: input.i64()?,
                body: input.bytes,
            })
        }
        b'k' => {
            input.kind = "Primary keepalive";
            let (wal_end, micros) = (input.lsn()?, input.i64()?);
            let reply = if input.u8()? == 0 { Reply::Whenever } else { Reply::AtOnce };
            input.end(Frame::Keepalive { wal_end, micros, reply })
        }
        _ => Err(input.error("unknown kind")),
    }
}

/// Decodes one `pgoutput` message.
pub fn message(bytes: Bytes, place: Place) -> Result<Message, DecodeError> {
    let mut input = Input { bytes, kind: "pgoutput" };
    let tag = input.u8()?;
    input.kind = kind(tag).ok_or_else(|| input.error("unknown kind"))?;
    let message = match tag {
        b'B' => Message::Begin { commit_lsn: input.lsn()?, micros: input.i64()?, xid: input.xid()? },
        b'C' => Message::Commit(input.point_after_flags()?),
        b'O' => Message::Origin { lsn: input.lsn()?, name: input.string()? },
        b'S' => Message::StreamStart {
            xid: input.xid()?,
            chunk: if input.u8()? == 1 { Chunk::First } else { Chunk::Later },
        },
        b'E' => Message::StreamStop,
        b'c' => Message::StreamCommit { xid: input.xid()?, point: input.point_after_flags()? },
        b'A' => input.stream_abort()?,
        b'b' => Message::BeginPrepare(Prepared { point: input.point()?, xid: input.xid()?, gid: input.string()? }),
        b'P' => Message::Prepare(input.prepared()?),
        b'K' => Message::CommitPrepared(input.prepared()?),
        b'p' => Message::StreamPrepare(input.prepared()?),
        b'r' => Message::RollbackPrepared(input.rolled_back()?),
        _ => {
            let xid = match place {
                Place::InStream => Some(input.xid()?),
                Place::Outside => None,
            };
            match tag {
                b'M' => input.logical(xid)?,
                b'R' => Message::Relation { xid, shape: input.shape()? },
                b'Y' => Message::Type { xid, oid: input.u32()?, schema: input.schema()?, name: input.string()? },
                b'T' => input.truncate(xid)?,
                _ => input.row(tag, xid)?,
            }
        }
    };
    input.end(message)
}

/// The name of a message in the PostgreSQL documentation.
fn kind(tag: u8) -> Option<&'static str> {
    Some(match tag {
        b'B' => "Begin",
        b'M' => "Message",
        b'C' => "Commit",
        b'O' => "Origin",
        b'R' => "Relation",
        b'Y' => "Type",
        b'I' => "Insert",
        b'U' => "Update",
        b'D' => "Delete",
        b'T' => "Truncate",
        b'S' => "Stream Start",
        b'E' => "Stream Stop",
        b'c' => "Stream Commit",
        b'A' => "Stream Abort",
        b'b' => "Begin Prepare",
        b'P' => "Prepare",
        b'K' => "Commit Prepared",
        b'r' => "Rollback Prepared",
        b'p' => "Stream Prepare",
        _ => return None,
    })
}

/// What is left of a message.
struct Input {
    bytes: Bytes,
    kind: &'static str,
}

impl Input {
    fn error(&self, reason: &'static str) -> DecodeError {
        DecodeError { kind: self.kind, reason }
    }

    fn need(&self, count: usize) -> Result<(), DecodeError> {
        if self.bytes.len() < count { Err(self.error("it is cut short")) } else { Ok(()) }
    }

    fn end<T>(self, value: T) -> Result<T, DecodeError> {
        if self.bytes.is_empty() { Ok(value) } else { Err(self.error("bytes are left over")) }
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.need(1)?;
        Ok(self.bytes.get_u8())
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.need(2)?;
        Ok(self.bytes.get_u16())
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.need(4)?;
        Ok(self.bytes.get_u32())
    }

    fn i64(&mut self) -> Result<i64, DecodeError> {
        self.need(8)?;
        Ok(self.bytes.get_i64())
    }

    fn lsn(&mut self) -> Result<Lsn, DecodeError> {
        self.need(8)?;
        Ok(Lsn(self.bytes.get_u64()))
    }

    fn xid(&mut self) -> Result<Xid, DecodeError> {
        self.u32().map(Xid)
    }

    fn string(&mut self) -> Result<String, DecodeError> {
        let end = self.bytes.iter().position(|b| *b == 0).ok_or_else(|| self.error("a text has no end"))?;
        let text = self.bytes.split_to(end);
        self.bytes.advance(1);
        String::from_utf8(text.into()).map_err(|_| self.error("a text is not UTF-8"))
    }

    fn schema(&mut self) -> Result<String, DecodeError> {
        let schema = self.string()?;
        Ok(if schema.is_empty() { "pg_catalog".to_owned() } else { schema })
    }

    fn tuple(&mut self) -> Result<Tuple, DecodeError> {
        Tuple::parse(&mut self.bytes).map_err(|bad| self.error(bad.0))
    }

    fn point(&mut self) -> Result<CommitPoint, DecodeError> {
        Ok(CommitPoint { lsn: self.lsn()?, end_lsn: self.lsn()?, micros: self.i64()? })
    }

    fn point_after_flags(&mut self) -> Result<CommitPoint, DecodeError> {
        self.u8()?;
        self.point()
    }

    fn prepared(&mut self) -> Result<Prepared, DecodeError> {
        Ok(Prepared { point: self.point_after_flags()?, xid: self.xid()?, gid: self.string()? })
    }

    fn rolled_back(&mut self) -> Result<Prepared, DecodeError> {
        self.u8()?;
        let (lsn, end_lsn, _prepared_at) = (self.lsn()?, self.lsn()?, self.i64()?);
        let point = CommitPoint { lsn, end_lsn, micros: self.i64()? };
        Ok(Prepared { point, xid: self.xid()?, gid: self.string()? })
    }

    /// Position and time follow under `streaming 'parallel'` only, whatever the protocol version.
    fn stream_abort(&mut self) -> Result<Message, DecodeError> {
        let (xid, subxid) = (self.xid()?, self.xid()?);
        let at = if self.bytes.is_empty() { None } else { Some((self.lsn()?, self.i64()?)) };
        Ok(Message::StreamAbort { xid, subxid, at })
    }

    fn logical(&mut self, xid: Option<Xid>) -> Result<Message, DecodeError> {
        let bond = if self.u8()? & 1 == 1 { Bond::Transactional } else { Bond::Immediate };
        let (lsn, prefix) = (self.lsn()?, self.string()?);
        let len = self.u32()? as usize;
        self.need(len)?;
        Ok(Message::Logical { xid, bond, lsn, prefix, content: self.bytes.split_to(len) })
    }

    fn shape(&mut self) -> Result<RelationShape, DecodeError> {
        let (oid, schema, name) = (self.u32()?, self.schema()?, self.string()?);
        let _replica_identity = self.u8()?;
        let count = self.u16()?;
        let columns = (0..count).map(|_| self.column()).collect::<Result<_, _>>()?;
        Ok(RelationShape { oid, schema, name, columns })
    }

    fn column(&mut self) -> Result<RelationColumn, DecodeError> {
        let in_identity = self.u8()? & 1 == 1;
        let (name, type_oid, _modifier) = (self.string()?, self.u32()?, self.u32()?);
        Ok(RelationColumn { name, type_oid, in_identity })
    }

    fn truncate(&mut self, xid: Option<Xid>) -> Result<Message, DecodeError> {
        let (count, bits) = (self.u32()? as usize, self.u8()?);
        if self.bytes.len() / 4 < count {
            return Err(self.error("fewer relations than announced"));
        }
        let options = TruncateOptions { cascade: bits & 1 != 0, restart_identity: bits & 2 != 0 };
        Ok(Message::Truncate { xid, oids: (0..count).map(|_| self.bytes.get_u32()).collect(), options })
    }

    fn row(&mut self, tag: u8, xid: Option<Xid>) -> Result<Message, DecodeError> {
        let oid = self.u32()?;
        let old = match (tag, self.u8()?) {
            (b'I', b'N') => return Ok(Message::Insert { xid, oid, new: self.tuple()? }),
            (b'U', b'N') => return Ok(Message::Update { xid, oid, old: None, new: self.tuple()? }),
            (b'U' | b'D', b'K') => Old::Key(self.tuple()?),
            (b'U' | b'D', b'O') => Old::Row(self.tuple()?),
            _ => return Err(self.error("unknown kind of tuple")),
        };
        if tag == b'D' {
            return Ok(Message::Delete { xid, oid, old });
        }
        match self.u8()? {
            b'N' => Ok(Message::Update { xid, oid, old: Some(old), new: self.tuple()? }),
            _ => Err(self.error("no new tuple after the old one")),
        }
    }
}

#[cfg(test)]
mod tests;
