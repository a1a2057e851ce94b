//! What the command line asks for, whatever is compared.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use pgconcord::throwaway::Binaries;

/// What all comparisons need to know.
pub struct Plan {
    /// Of each contender.
    pub runs: usize,
    /// Part of the full size.
    pub scale: f64,
    /// Servers of a backlog's run: the source and its targets.
    pub nodes: usize,
    /// Of the workloads with many tables.
    pub tables: u64,
    /// The servers'.
    pub binaries: Binaries,
    /// Where results go.
    pub out: PathBuf,
}

impl Plan {
    /// Who is next, of so many: the run and the place. Each round begins with another one.
    pub fn turns(&self, of: usize) -> Vec<(usize, usize)> {
        (0..self.runs).flat_map(|run| (0..of).map(move |turn| (run, (run + turn) % of))).collect()
    }

    /// Writes a file of results and says so.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        fs::create_dir_all(&self.out).with_context(|| format!("cannot make {}", self.out.display()))?;
        let path = self.out.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
        Ok(())
    }
}
