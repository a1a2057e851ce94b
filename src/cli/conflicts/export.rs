//! `conflicts export`: the journal for other programs, as JSON lines or CSV (RFC 4180), one row an entry.
//!
//! A file gets its name only once it is whole.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::cli::conflicts::FilterArgs;
use crate::journal::{Entry, Filter, Reader};

/// Arguments of `conflicts export`.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    filter: FilterArgs,
    /// How to write them
    #[arg(long, value_enum)]
    format: Format,
    /// Where to; standard output if not given. An existing file is replaced once the new one is whole
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    /// One JSON object a line, as `conflicts list --json`
    Jsonl,
    /// RFC 4180 with a heading; keys and rows as JSON
    Csv,
}

/// The columns of a CSV file: where each lies in the entry's JSON.
const COLUMNS: [(&str, &str); 20] = [
    ("id", "/id"),
    ("detected_at", "/detected_at"),
    ("type", "/type"),
    ("table", "/table"),
    ("key", "/key"),
    ("source", "/source"),
    ("target", "/target"),
    ("resolution", "/resolution"),
    ("resolver", "/resolver"),
    ("rule", "/rule"),
    ("status", "/status"),
    ("remote_stamp", "/remote/stamp"),
    ("remote_lsn", "/remote/lsn"),
    ("remote_xid", "/remote/xid"),
    ("remote_row", "/remote/row"),
    ("remote_old", "/remote/old"),
    ("local_stamp", "/local/stamp"),
    ("local_node", "/local/node"),
    ("local_row", "/local/row"),
    ("result", "/result"),
];

/// Runs the command.
pub(super) fn run(journal: &Reader, args: Args) -> anyhow::Result<ExitCode> {
    let filter = args.filter.into_filter(None);
    match args.output {
        Some(path) => {
            let found = to_file(journal, &filter, args.format, &path)
                .with_context(|| format!("the export to {} failed; no file was written", path.display()))?;
            eprintln!("{found} conflicts written to {}", path.display());
        }
        None => match write(journal, &filter, args.format, io::stdout().lock()) {
            Err(error) if is_closed_pipe(&error) => {}
            done => drop(done?),
        },
    }
    Ok(ExitCode::SUCCESS)
}

fn to_file(journal: &Reader, filter: &Filter, format: Format, path: &Path) -> anyhow::Result<u64> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = NamedTempFile::new_in(directory)?;
    let found = write(journal, filter, format, file.as_file())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(found)
}

fn write(journal: &Reader, filter: &Filter, format: Format, out: impl Write) -> anyhow::Result<u64> {
    match format {
        Format::Jsonl => {
            let mut out = BufWriter::new(out);
            let found = each(journal, filter, |entry| {
                serde_json::to_writer(&mut out, entry)?;
                Ok(out.write_all(b"\n")?)
            })?;
            out.flush()?;
            Ok(found)
        }
        Format::Csv => {
            let mut out = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(out);
            out.write_record(COLUMNS.map(|(name, _)| name))?;
            let found = each(journal, filter, |entry| Ok(out.write_record(cells(entry)?)?))?;
            out.flush()?;
            Ok(found)
        }
    }
}

/// Calls `work` with each entry until it fails.
fn each(journal: &Reader, filter: &Filter, mut work: impl FnMut(&Entry) -> anyhow::Result<()>) -> anyhow::Result<u64> {
    let (mut found, mut done) = (0, Ok(()));
    journal.list(filter, |entry| {
        done = work(&entry);
        found += 1;
        done.is_ok()
    })?;
    done.map(|()| found)
}

/// What is absent is an empty cell.
fn cells(entry: &Entry) -> serde_json::Result<Vec<String>> {
    let entry = serde_json::to_value(entry)?;
    let cell = |(_, place): (&str, &str)| match entry.pointer(place) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    Ok(COLUMNS.map(cell).into())
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let closed = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(closed)
            || cause.downcast_ref::<serde_json::Error>().is_some_and(|it| it.io_error_kind() == Some(io::ErrorKind::BrokenPipe))
            || matches!(cause.downcast_ref::<csv::Error>().map(csv::Error::kind), Some(csv::ErrorKind::Io(it)) if closed(it))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::conflicts::show::tests::example;
    use crate::journal::{Journal, Retention};

    #[test]
    fn a_csv_row_reads_back_with_rows_as_json() {
        let mut entry = example();
        entry.rule = "head office, \"prices\"\nfirst".into();
        let mut out = csv::Writer::from_writer(Vec::new());
        out.write_record(COLUMNS.map(|(name, _)| name)).unwrap();
        out.write_record(cells(&entry).unwrap()).unwrap();
        let bytes = out.into_inner().unwrap();
        let mut reader = csv::Reader::from_reader(&bytes[..]);
        let headings = reader.headers().unwrap().clone();
        let row = reader.records().next().unwrap().unwrap();
        let cell = |name: &str| &row[headings.iter().position(|it| it == name).unwrap()];
        assert_eq!((cell("id"), cell("rule"), cell("remote_old")), ("42", entry.rule.as_str(), ""));
        let written: Value = serde_json::from_str(cell("remote_row")).unwrap();
        assert_eq!(written.as_object(), entry.remote.row.as_ref());
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgconcord.db");
        drop(Journal::open(&path, Retention::FOREVER).unwrap());
        let journal = Reader::open(&path).unwrap();
        let out = directory.path().join("out.csv");
        assert_eq!(to_file(&journal, &Filter::default(), Format::Csv, &out).unwrap(), 0);
        assert!(std::fs::read_to_string(&out).unwrap().starts_with("id,detected_at,type,"));
        let files = || {
            std::fs::read_dir(directory.path())
                .unwrap()
                .filter(|it| it.as_ref().unwrap().path().extension().is_none())
                .count()
        };
        assert_eq!(files(), 0, "no temporary file stays");
        let nowhere = directory.path().join("none/out.csv");
        assert!(to_file(&journal, &Filter::default(), Format::Csv, &nowhere).is_err());
    }
}
