//! `conflicts tail`: the last entries, then each one as it is settled, until Ctrl-C or until nobody reads on.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cli::conflicts::list_row;
use crate::cli::text::emit;
use crate::journal::{Entry, Filter, JournalError, Reader, Status};

/// How often the journal is looked at.
const EVERY: Duration = Duration::from_millis(500);

/// Arguments of `conflicts tail`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Begin with so many of the latest
    #[arg(long, short = 'n', value_name = "N", default_value_t = 10)]
    lines: u32,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// What has been seen of the journal.
struct Follower {
    /// The greatest number that was looked at.
    newest: i64,
    /// Numbers up to it whose batch is not known to be committed.
    waiting: BTreeSet<i64>,
    /// Shown at the start though they came after `newest`, or settled just then.
    shown: BTreeSet<i64>,
}

impl Follower {
    /// Begins, with the latest `lines` settled entries in order.
    fn begin(journal: &Reader, lines: u32) -> Result<(Follower, Vec<Entry>), JournalError> {
        let (newest, waiting) = (journal.newest()?, journal.pending()?);
        let filter = Filter { statuses: vec![Status::Resolved, Status::Held], limit: Some(lines), ..Filter::default() };
        let mut latest = Vec::new();
        journal.list(&filter, |entry| {
            latest.push(entry);
            true
        })?;
        latest.reverse();
        let shown = latest.iter().map(|entry| entry.id).collect();
        Ok((Follower { newest, waiting: waiting.into_iter().collect(), shown }, latest))
    }

    /// What has been settled since.
    fn more(&mut self, journal: &Reader) -> Result<Vec<Entry>, JournalError> {
        for id in journal.after(self.newest)? {
            self.newest = id;
            self.waiting.insert(id);
        }
        let mut settled = Vec::new();
        for id in std::mem::take(&mut self.waiting) {
            match journal.get(id)? {
                Some(entry) if entry.status == Status::Pending => drop(self.waiting.insert(id)),
                Some(entry) if !self.shown.contains(&id) => settled.push(entry),
                _ => {} // shown, or discarded: it did not happen
            }
        }
        Ok(settled)
    }
}

/// Runs the command. The file is opened each time, since who wrote it may have ended or begun meanwhile.
pub(super) async fn run(path: &Path, args: &Args) -> anyhow::Result<ExitCode> {
    let (mut follower, mut entries) = Follower::begin(&Reader::open(path)?, args.lines)?;
    loop {
        for entry in &entries {
            let line = if args.json { serde_json::to_string(entry)? } else { list_row(entry).join("  ") };
            if !emit(&(line + "\n"))? {
                return Ok(ExitCode::SUCCESS);
            }
        }
        tokio::select! {
            stopped = tokio::signal::ctrl_c() => {
                stopped?;
                return Ok(ExitCode::SUCCESS);
            }
            () = tokio::time::sleep(EVERY) => entries = follower.more(&Reader::open(path)?)?,
        }
        if entries.is_empty() && is_unread() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Whether standard output is a pipe that nobody reads any more; writing would tell, but there is nothing to write.
fn is_unread() -> bool {
    let stdout = std::io::stdout();
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    let gone = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| events.contains(PollFlags::POLLERR));
    poll(&mut fds, PollTimeout::ZERO).is_ok() && fds.iter().any(gone)
}
