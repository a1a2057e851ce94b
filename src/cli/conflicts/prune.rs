//! `conflicts prune`: removes resolved entries by age and size, beside a daemon that writes or without one.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use chrono::Utc;

use crate::cli::USAGE;
use crate::cli::conflicts::span;
use crate::cli::text::emit;
use crate::config::units::size;
use crate::journal::{Prunable, Reader, Retention, prune};

/// Arguments of `conflicts prune`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Those found longer ago than this: 12h, 30d, 8w; without both options, [journal] retention and max_size
    #[arg(long, value_name = "SPAN", value_parser = age)]
    older_than: Option<Duration>,
    /// If the journal's contents take more than this, the oldest, until an eighth of it is free: 500MB, 4GB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_size: Option<u64>,
    /// Only say how many there are
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command; `usual` is what the configuration says, where it was read.
pub(super) fn run(path: &Path, usual: Option<Retention>, args: &Args) -> anyhow::Result<ExitCode> {
    let asked = Retention { age: args.older_than, size: args.max_size };
    let asked = (asked != Retention::FOREVER).then_some(asked);
    let Some(retention) = asked.or(usual) else {
        eprintln!("pgconcord: with --journal say what is to go: --older-than 30d, --max-size 1GB or both");
        return Ok(ExitCode::from(USAGE));
    };
    emit(&format!("{}\n", pruned(path, retention, args.dry_run)?))?;
    Ok(ExitCode::SUCCESS)
}

/// Prunes, or only looks; tells what came of it.
fn pruned(path: &Path, retention: Retention, dry_run: bool) -> anyhow::Result<String> {
    let now = Utc::now();
    // first, so that a name that is not there is an error and no new journal
    let Prunable { old, for_room } = Reader::open(path)?.prunable(now, retention)?;
    let path_shown = path.display();
    Ok(match (dry_run, for_room) {
        (false, _) => format!("{} removed from {path_shown}", conflicts(prune(path, now, retention)?)),
        (true, 0) => format!("{} would be removed from {path_shown}", conflicts(old)),
        (true, _) => format!(
            "about {} would be removed from {path_shown}: {old} by age, the others because of its size",
            conflicts(old + for_room)
        ),
    })
}

fn conflicts(number: u64) -> String {
    format!("{number} {}", if number == 1 { "conflict" } else { "conflicts" })
}

fn age(text: &str) -> Result<Duration, String> {
    let age = span(text).and_then(|span| span.to_std().ok());
    age.ok_or_else(|| "write a span such as 12h, 30d or 8w".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Journal;

    #[test]
    fn what_is_to_go_is_named_or_configured() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgconcord.db");
        drop(Journal::open(&path, Retention::FOREVER).unwrap());
        let nothing = Args { older_than: None, max_size: None, dry_run: false };
        let code = |usual, args: &Args| format!("{:?}", run(&path, usual, args).unwrap());
        assert_eq!(code(None, &nothing), format!("{:?}", ExitCode::from(USAGE)));
        assert_eq!(code(Some(Retention::FOREVER), &nothing), format!("{:?}", ExitCode::SUCCESS));
        let old = Args { older_than: Some(Duration::from_secs(60)), ..nothing };
        assert_eq!(code(None, &old), format!("{:?}", ExitCode::SUCCESS));
    }

    #[test]
    fn a_file_that_is_not_there_is_not_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("typo.db");
        assert!(pruned(&path, Retention::FOREVER, false).unwrap_err().to_string().contains("typo.db"));
        assert!(!path.exists());
    }

    #[test]
    fn one_conflict_is_no_plural() {
        assert_eq!([conflicts(0), conflicts(1)], ["0 conflicts", "1 conflict"]);
    }
}
