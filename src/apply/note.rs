//! Decisions → [`Conflict`]s for the journal.

use std::io;

use crate::apply::error::ApplyError;
use crate::apply::execute::Execution;
use crate::apply::merge::{Merged, Merging};
use crate::apply::net::{Content, Net, Row};
use crate::apply::record::{Conflict, Recorder, Side, Subject};
use crate::apply::{complete, unique};
use crate::conflict::{ChangeRef, LocalRow, Operation, conflict_type};
use crate::conflict::{Coordinator, Decision};
use crate::model::{Cell, ConflictType, Deciding, KeyId, Resolution, Resolver, TableId, TouchKind};

impl Net {
    /// Whether there is a row afterwards.
    pub fn kind(&self) -> TouchKind {
        match self.content {
            Content::Put(_) => TouchKind::Put,
            Content::Delete => TouchKind::Delete,
        }
    }

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
    Ok(Side {
        stamp: Some(transaction.stamp),
        lsn: transaction.commit_lsn,
        xid: transaction.xid,
        operation: Operation::of(&record, change.kind()),
        row: complete::new_row(&record).filter(|_| change.kind() == TouchKind::Put),
        old: complete::old_row(&record),
    })
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
                (self.stays(net.table.id, decision.by), Some(result))
            }
        };
        let mut kind = conflict_type(net.operation(), met);
        if net.rekeyed && kind == ConflictType::InsertExists {
            kind = ConflictType::UpdateExists;
        }
        let conflict = Conflict {
            conflict_type: kind,
            resolution,
            local: Some(local),
            result,
            ..self.conflict(&net.key_row, self.incoming(net), net.place.1).decided(&self.resolvers, decision.by)
        };
        self.conflicts.insert(net.key, conflict);
        Ok(())
    }

    /// What it is called where what stands, stays.
    pub(super) fn stays(&self, table: TableId, by: Deciding) -> Resolution {
        match self.resolvers.rule(table).resolver_of(by) {
            Resolver::Skip => Resolution::Skip,
            _ => Resolution::KeepLocal,
        }
    }

    /// Completes what was noted of a key with the row that was made from several changes.
    pub(super) fn note_merged(&mut self, key: KeyId, plan: &Merging, merged: &Merged) {
        let Some(conflict) = self.conflicts.get_mut(&key) else { return };
        let standing = plan.standing.as_ref().map(|values| {
            let cells: Vec<_> = values.iter().map(|value| value.as_deref().map_or(Cell::Null, Cell::Text)).collect();
            unique::row_of(&plan.key_row, &cells)
        });
        let remote_row = conflict.remote.row.is_some();
        let local_row = conflict.local.as_ref().is_some_and(|local| local.row.is_some());
        (conflict.resolution, conflict.result) = match merged {
            Merged::Write(Content::Put(_), whole) if remote_row && local_row => {
                (Resolution::Merge, Some(whole.clone()))
            }
            Merged::Write(Content::Put(_), whole) if remote_row => (Resolution::ApplyRemote, Some(whole.clone())),
            Merged::Write(Content::Put(_), whole) => (Resolution::KeepLocal, Some(whole.clone())),
            Merged::Write(Content::Delete, whole) if remote_row => (Resolution::KeepLocal, Some(whole.clone())),
            Merged::Write(Content::Delete, whole) => (Resolution::ApplyRemote, Some(whole.clone())),
            Merged::Stands if !remote_row && !local_row => (Resolution::Skip, Some(Content::Delete)),
            Merged::Stands => (Resolution::KeepLocal, Some(standing.map_or(Content::Delete, Content::Put))),
        };
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
        let stands = self.stands(net, decision);
        let expected = stands.map_or(net.first != Operation::Insert, |kind| kind == TouchKind::Put);
        let ours = self.is_ours(decision.winner);
        if decision.rival.is_some()
            || !ours
            || there == expected
            || coordinator.held(self.batch.link.target, net.key).is_some()
        {
            return Ok(());
        }
        let link = self.batch.link;
        let made_room = self.shared.removed().keys().any(|(_, key, _)| *key == net.key);
        if !there && made_room {
            return Ok(()); // the loser of a unique value: on record as that
        }
        if !there && coordinator.is_ahead(link, net.table.id, net.key, decision.incoming)? {
            return Ok(());
        }
        let met = if there { LocalRow::Written } else { LocalRow::Missing };
        let kind = conflict_type(net.operation(), met);
        let resolution = if kind == ConflictType::DeleteMissing { Resolution::Skip } else { Resolution::ApplyRemote };
        let conflict = Conflict {
            conflict_type: kind,
            resolution,
            result: Some(net.content.clone()),
            note: Some("no change that pgconcord knows of explains the row at the target".into()),
            ..self.conflict(&net.key_row, self.incoming(net), net.place.1)
        };
        self.conflicts.insert(net.key, conflict);
        Ok(())
    }

    /// The incoming change as one side of a conflict.
    pub(super) fn incoming(&self, net: &Net) -> Side {
        let transaction = &self.batch.transactions[usize::try_from(net.place.0 - self.batch.first).unwrap_or(0)];
        let row = match &net.content {
            Content::Put(row) => Some(row.clone()),
            Content::Delete => None,
        };
        Side {
            stamp: Some(transaction.stamp),
            lsn: transaction.commit_lsn,
            xid: transaction.xid,
            operation: net.operation(),
            row,
            old: net.old.clone(),
        }
    }

    /// A conflict of this batch, met by `remote`, whose type and outcome are still to be filled in.
    pub(super) fn conflict(&self, key: &Row, remote: Side, offset: u64) -> Conflict {
        Conflict {
            link: self.batch.link,
            batch: self.session.progress.batch + 1,
            conflict_type: conflict_type(remote.operation, LocalRow::Written),
            subject: Subject::Row,
            table: key.table().clone(),
            key: key.clone(),
            resolution: Resolution::ApplyRemote,
            by: Deciding::default(),
            resolver: self.resolvers.of(key.table().id).name(),
            remote,
            local: None,
            result: None,
            offset,
            note: None,
            refusal: None,
        }
    }
}
