//! What is to be done with each key of a piece.

use crate::apply::batch::Write;
use crate::apply::complete::{self, Completed};
use crate::apply::error::ApplyError;
use crate::apply::execute::Execution;
use crate::apply::net::{Content, Folded};
use crate::apply::record::Recorder;
use crate::conflict::{ChangeRef, Operation};
use crate::model::{TouchKind, Xid};

/// What is to be done with the keys of a piece, by index into its nets.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub deletes: Vec<Write>,
    pub updates: Vec<Write>,
    pub inserts: Vec<Write>,
    pub incomplete: Vec<Incomplete>,
    pub slow: Vec<usize>,
    /// X as of the look-up: versions with an older `xmin` are known.
    pub horizon: Option<Xid>,
}

/// A row with values left out.
#[derive(Debug)]
pub(super) struct Incomplete {
    write: Write,
    /// Whether a row is there.
    there: bool,
    completed: Completed,
    /// The batch's last change of the key.
    last: ChangeRef,
}

impl<R: Recorder> Execution<'_, R> {
    /// Decides each key under one look at the window (R1).
    pub(super) fn decide(&mut self, folded: &Folded, nets: &[usize]) -> Result<Plan, ApplyError> {
        let link = self.batch.link;
        // Read before the look: what is older is in the window by then.
        let mut plan = Plan { horizon: self.shared.node(link.target).horizon(), ..Plan::default() };
        let mut coordinator = self.deciding()?;
        for &at in nets {
            let net = &folded.nets[at];
            let own = ChangeRef::at(link.source, net.place, net.kind());
            let mut decision = match coordinator.decide_alone(link, net.table.id, net.key, own) {
                Some(decision) => decision,
                // A row that is made from several changes is made under its lock.
                None if self.resolvers.merge(net.table.id).is_some() => {
                    plan.slow.push(at);
                    continue;
                }
                None => coordinator.decide(link, net.table.id, net.key)?,
            };
            self.note(&coordinator, net, &decision)?;
            decision.write |= self.may_be_touched(net.key);
            if !self.is_ours(decision.winner) {
                if decision.write {
                    plan.slow.push(at);
                }
                continue;
            }
            let known = decision.local.map(|local| coordinator.window().transaction(local).transaction.xid);
            let stands = self.stands(net, &decision);
            match &net.content {
                Content::Delete if stands == Some(TouchKind::Delete) && net.first != Operation::Insert => {}
                Content::Delete => plan.deletes.push(Write { net: at, row: net.key_row.clone(), known }),
                Content::Put(row) => {
                    let there = match stands {
                        Some(kind) => kind == TouchKind::Put,
                        None => net.first != Operation::Insert,
                    };
                    let write = Write { net: at, row: row.clone(), known };
                    if row.has_unchanged() {
                        let completed =
                            complete::complete_net(&coordinator, link, net, row, &self.shared.catalog.hasher)?;
                        plan.incomplete.push(Incomplete { write, there, completed, last: decision.incoming });
                    } else if there {
                        plan.updates.push(write);
                    } else {
                        plan.inserts.push(write);
                    }
                }
            }
        }
        Ok(plan)
    }

    /// Finds the values that changes left out (R8) and sorts their rows into the plan.
    pub(super) async fn complete(&mut self, folded: &Folded, plan: &mut Plan) -> Result<(), ApplyError> {
        for Incomplete { mut write, there, completed, last } in std::mem::take(&mut plan.incomplete) {
            let net = &folded.nets[write.net];
            let moved = net.moved_from.as_ref();
            let row = match (completed, moved) {
                (Completed::Whole(row), _) => Some(row),
                (Completed::AtTarget(row), None) if there => Some(row),
                (Completed::AtTarget(row), Some(from)) => match self.read_at_target(&row, from).await? {
                    Some(row) => Some(row),
                    None => self.read_at_source(&row, last).await?,
                },
                // The batch has a later change of the key, in another piece: that one decides.
                (Completed::AtTarget(_) | Completed::AtSource(..), _) if (last.seq, last.offset()) != net.place => {
                    continue;
                }
                (Completed::AtTarget(row), None) => self.read_at_source(&row, last).await?,
                (Completed::AtSource(row, change), _) => self.read_at_source(&row, change).await?,
            };
            let Some(row) = row else {
                plan.deletes.push(write);
                continue;
            };
            write.row = row;
            if there { plan.updates.push(write) } else { plan.inserts.push(write) }
        }
        Ok(())
    }
}
