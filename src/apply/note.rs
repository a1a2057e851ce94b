//! Decisions → [`Conflict`]s for the journal.

use std::io;

use crate::apply::complete;
use crate::apply::error::ApplyError;
use crate::apply::execute::Execution;
use crate::apply::net::{Content, Net};
use crate::apply::record::{Conflict, Recorder, Side};
use crate::conflict::coordinator::{Coordinator, Decision};
use crate::conflict::resolve::Resolver;
use crate::conflict::{ChangeRef, LocalRow, Operation, conflict_type};
use crate::model::{ConflictType, NodeId, Op, Resolution, TouchKind};

impl Net {
    /// What the change is to the row it meets: folded changes count as the one that does the same.
    pub fn operation(&self) -> Operation {
        match (&self.content, self.first) {
            (Content::Delete, _) => Operation::Delete,
            (Content::Put(_), Operation::Insert) => Operation::Insert,
            (Content::Put(_), _) => Operation::Update,
        }
    }
}

/// A change in the window as one side of a conflict.
pub(super) fn side(coordinator: &Coordinator, change: ChangeRef) -> io::Result<Side> {
    let transaction = &coordinator.window().transaction(change).transaction;
    let record = transaction.change_at(change.offset())?;
    let deletes = change.kind() == TouchKind::Delete;
    let operation = match record.op {
        Op::Insert { .. } => Operation::Insert,
        Op::Update { .. } if !deletes => Operation::Update,
        Op::Update { .. } | Op::Delete { .. } => Operation::Delete,
        Op::Truncate { .. } => Operation::Truncate,
    };
    Ok(Side {
        stamp: Some(transaction.stamp),
        lsn: transaction.commit_lsn,
        xid: transaction.xid,
        operation,
        row: complete::new_row(&record).filter(|_| !deletes),
        old: complete::old_row(&record),
    })
}

/// Whether the row that a delete doesn't find is one that this link brought and that was never written, because
/// another had its unique value (R12): that is on record, and its removal at home is no conflict of its own.
fn is_lost(net: &Net, decision: &Decision, source: NodeId) -> bool {
    !net.table.unique.is_empty() && decision.before.is_some_and(|before| before.source == source)
}

impl<R: Recorder> Execution<'_, R> {
    /// Notes the conflict that a decision found, if it found one.
    pub(super) fn note(&mut self, coordinator: &Coordinator, net: &Net, decision: &Decision) -> Result<(), ApplyError> {
        let Some(rival) = decision.rival else {
            self.conflicts.remove(&net.key);
            return Ok(());
        };
        let local = side(coordinator, rival)?;
        let met = match rival.kind() {
            TouchKind::Put => LocalRow::Written,
            TouchKind::Delete => LocalRow::Deleted,
        };
        let ours = self.is_ours(decision.winner);
        let (resolution, result) = match (&net.content, met, ours) {
            (Content::Delete, LocalRow::Deleted, _) => (Resolution::Skip, Some(Content::Delete)),
            (content, _, true) => (Resolution::ApplyRemote, Some(content.clone())),
            _ => {
                let hasher = &self.shared.catalog.hasher;
                let result = complete::content_of(coordinator, decision.winner, net.key, hasher)?;
                (Resolution::KeepLocal, Some(result))
            }
        };
        let mut kind = conflict_type(net.operation(), met);
        if net.rekeyed && kind == ConflictType::InsertExists {
            kind = ConflictType::UpdateExists;
        }
        let conflict = self.conflict(coordinator, net, kind, resolution, Some(local), result);
        self.conflicts.insert(net.key, conflict);
        Ok(())
    }

    /// Notes a row that was not as the change expected, where no change in the window explains it and none that
    /// would is under way (R8).
    pub(super) fn note_missing(
        &mut self,
        coordinator: &Coordinator,
        net: &Net,
        decision: &Decision,
        there: bool,
    ) -> Result<(), ApplyError> {
        let expected = decision.before.map_or(net.first != Operation::Insert, |before| before.kind() == TouchKind::Put);
        let ours = self.is_ours(decision.winner);
        if decision.rival.is_some() || !ours || there == expected {
            return Ok(());
        }
        let link = self.batch.link;
        if !there && matches!(net.content, Content::Delete) && is_lost(net, decision, link.source) {
            return Ok(());
        }
        if !there && coordinator.is_ahead(link, net.table.id, net.key, decision.incoming)? {
            return Ok(());
        }
        let met = if there { LocalRow::Written } else { LocalRow::Missing };
        let kind = conflict_type(net.operation(), met);
        let resolution = if kind == ConflictType::DeleteMissing { Resolution::Skip } else { Resolution::ApplyRemote };
        let mut conflict = self.conflict(coordinator, net, kind, resolution, None, Some(net.content.clone()));
        conflict.note = Some("no change that pgconcord knows of explains the row at the target".into());
        self.conflicts.insert(net.key, conflict);
        Ok(())
    }

    /// A conflict of this batch.
    pub(super) fn conflict(
        &self,
        coordinator: &Coordinator,
        net: &Net,
        conflict_type: ConflictType,
        resolution: Resolution,
        local: Option<Side>,
        result: Option<Content>,
    ) -> Conflict {
        let source = self.batch.link.source;
        let transaction = &self.batch.transactions[usize::try_from(net.place.0 - self.batch.first).unwrap_or(0)];
        debug_assert_eq!(
            coordinator.window().log(source).get(net.place.0).map(|l| l.transaction.xid),
            Some(transaction.xid)
        );
        let row = match &net.content {
            Content::Put(row) => Some(row.clone()),
            Content::Delete => None,
        };
        Conflict {
            link: self.batch.link,
            batch: self.session.progress.batch + 1,
            conflict_type,
            table: net.table.clone(),
            key: net.key_row.clone(),
            resolution,
            resolver: Resolver::default(),
            remote: Side {
                stamp: Some(transaction.stamp),
                lsn: transaction.commit_lsn,
                xid: transaction.xid,
                operation: net.operation(),
                row,
                old: net.old.clone(),
            },
            local,
            result,
            offset: net.place.1,
            note: None,
        }
    }
}
