//! The keys of a transaction while it is assembled: a list, and sorted runs once there are many.

use std::sync::Arc;

use crate::model::run::{self, Entry, Run};
use crate::model::{Payload, Touch, Touches};
use crate::stream::spill::{Extents, Spill, SpillError};

/// A transaction of more touches keeps them in runs: 2 MB are what one transaction may well hold in memory.
const LIST_MOST: usize = 64 << 10;
/// Entries of a run; 4 MB while it is being filled.
const RUN: usize = 128 << 10;
/// Entries of a run when the memory budget is used up: still worth a run's own overhead.
const RUN_UNDER_PRESSURE: usize = 8 << 10;

/// Appended touches; see [`TouchLog::finish`].
#[derive(Debug)]
pub struct TouchLog {
    spill: Arc<Spill>,
    recent: Vec<Entry>,
    runs: Vec<Run>,
    /// Bytes that the runs hold in memory.
    run_memory: usize,
}

/// Whether there is memory to spare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pressure {
    /// The budget has room.
    None,
    /// It has not.
    UsedUp,
}

impl TouchLog {
    /// An empty one.
    pub fn new(spill: Arc<Spill>) -> TouchLog {
        TouchLog { spill, recent: Vec::new(), runs: Vec::new(), run_memory: 0 }
    }

    /// Bytes in memory.
    pub fn memory(&self) -> u64 {
        (self.recent.len() * size_of::<Entry>() + self.run_memory) as u64
    }

    /// Appends one.
    pub fn push(&mut self, touch: Touch) {
        self.recent.push(Entry { key: touch.key, value: [0, touch.pack()] });
    }

    /// Writes a run if it is time for one.
    pub fn settle(&mut self, pressure: Pressure) -> Result<(), SpillError> {
        let most = match pressure {
            Pressure::None => RUN,
            Pressure::UsedUp => RUN_UNDER_PRESSURE,
        };
        if self.recent.len() >= most { self.write_run() } else { Ok(()) }
    }

    fn write_run(&mut self) -> Result<(), SpillError> {
        let bytes = run::encode(&mut self.recent);
        let (start, len) = (0, bytes.len() as u64);
        let file = Arc::new(Extents::new(vec![self.spill.append(&bytes)?], None));
        drop(bytes);
        let run = Run::new(&self.recent, Payload::Spilled { file, start, len });
        self.run_memory += run.memory();
        self.runs.push(run);
        self.recent.clear();
        Ok(())
    }

    /// All of them, and the bytes that they hold in memory.
    pub fn finish(mut self) -> Result<(Touches, u64), SpillError> {
        if self.runs.is_empty() && self.recent.len() <= LIST_MOST {
            let memory = self.memory();
            let list = self.recent.into_iter().map(|entry| Touch::unpack(entry.key, entry.value[1]));
            return Ok((Touches::List(list.collect::<Box<[_]>>().into_vec()), memory));
        }
        if !self.recent.is_empty() {
            self.write_run()?;
        }
        Ok((Touches::Runs(self.runs), self.run_memory as u64))
    }
}
