//! COMMIT at a target, and what of it is heard when the session is lost.

use std::io;

use crate::conflict::Batch;
use crate::model::NodeId;
use crate::simulate::Mutation;
use crate::simulate::job::{Job, Stage, Step};
use crate::simulate::node::Moved;
use crate::simulate::world::{World, tell};

impl World {
    pub(super) fn commit(&mut self, job: &mut Job) -> io::Result<Step> {
        let link = job.batch.link;
        let node = &mut self.nodes[link.target.index()];
        match job.stage {
            Stage::Commit => {
                self.daemon.coordinator.commit_begins(link);
                Ok(Step::Next(Stage::Sent))
            }
            Stage::Sent if self.random.permille(20) => {
                node.roll_back(job.xid);
                self.daemon.coordinator.commit_failed(link)?;
                Ok(Step::Finished)
            }
            Stage::Sent => {
                let moved = moved(&job.batch);
                let at = node.commit_own(job.xid, moved, job.held.clone(), &mut self.random);
                tell!(self, "n{}: x{} commits at {at}", link.target.0, job.xid);
                Ok(Step::Next(Stage::Answered(at)))
            }
            Stage::Answered(at) => {
                let changes = self.held_changes(&job.held);
                self.daemon.coordinator.change_held(link.target, changes);
                self.daemon.coordinator.committed(link, at)?;
                if self.settings.mutation == Some(Mutation::RewrittenIsSafe) {
                    self.daemon.coordinator.drop_rewritten(link.target);
                }
                Ok(Step::Finished)
            }
            stage => Ok(Step::Next(stage)),
        }
    }

    /// The session at the node is gone; a COMMIT that was sent may have been heard.
    pub fn drop_session(&mut self, node: NodeId) {
        self.drop_ahead(node);
        let Some(job) = self.jobs[node.index()].take() else { return };
        let server = &mut self.nodes[node.index()];
        let heard = job.stage == Stage::Sent && self.random.permille(500);
        match job.stage {
            Stage::Answered(_) => {}
            Stage::Sent if heard => {
                let at = server.commit_own(job.xid, moved(&job.batch), job.held, &mut self.random);
                tell!(self, "n{}: x{} commits at {at}, which nobody learns", node.0, job.xid);
            }
            _ => server.roll_back(job.xid),
        }
    }
}

fn moved(batch: &Batch) -> Moved {
    Moved { source: batch.link.source, from: batch.start_lsn, to: batch.end_lsn }
}
