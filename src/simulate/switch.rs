//! Other rules in the middle of a schedule.

use std::io;

use crate::model::{Resolvers, TableId};
use crate::simulate::Mutation;
use crate::simulate::world::{World, tell};

impl World {
    /// Has tables take the later rule that can, if it is time: deciding stops until [`World::end_switch`], or until the
    /// daemon starts again.
    ///
    /// # Errors
    /// If the coordinator has one.
    pub fn begin_switch(&mut self) -> io::Result<()> {
        let Some(later) = self.settings.later.clone().filter(|_| self.steps > self.settings.steps / 3) else {
            return Ok(());
        };
        let waits = |table: &TableId| self.rules[table.0 as usize] != later;
        let waiting: Vec<TableId> = self.workload.tables.iter().copied().filter(waits).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let free = match self.settings.mutation {
            Some(Mutation::SwitchAtOnce) => waiting,
            _ => {
                let next = Resolvers::new(vec![later.clone(); self.rules.len()]);
                self.daemon.coordinator.begin_switch(&waiting, &next)?
            }
        };
        if free.is_empty() {
            return Ok(());
        }
        tell!(self, "tables {free:?} are between two rules");
        self.switching = free;
        if self.settings.mutation == Some(Mutation::SwitchAtOnce) {
            self.end_switch();
        }
        Ok(())
    }

    /// The nodes keep the later rule; now and then the daemon dies just before it knows.
    pub fn end_switch(&mut self) {
        let Some(later) = self.settings.later.clone().filter(|_| !self.switching.is_empty()) else { return };
        for table in std::mem::take(&mut self.switching) {
            self.rules[table.0 as usize] = later.clone();
            self.switched += 1;
        }
        if self.random.permille(100) {
            self.restart();
        } else {
            self.daemon.coordinator.end_switch(Some(Resolvers::new(self.rules.clone())));
            tell!(self, "the later rule decides");
        }
    }
}
