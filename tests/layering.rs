//! Which stage may know which: read from the source, so that it stays as docs/design.md draws it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each part may use besides itself. Parts that are not listed (`cli`, `daemon`, `simulate`) may use any, but
/// see [`nobody_but`].
const MAY_USE: [(&str, &[&str]); 10] = [
    ("model", &[]),
    ("wire", &["model"]),
    ("config", &["model", "wire"]),
    ("stream", &["model", "wire", "config"]),
    ("conflict", &["model"]),
    ("journal", &["model"]),
    ("status", &["model"]),
    ("node", &["model", "wire", "config"]),
    ("apply", &["model", "wire", "config", "node", "stream", "conflict", "journal"]),
    ("http", &["model", "config", "status", "journal"]),
];

/// Parts that only some may use.
const NOBODY_BUT: [(&str, &[&str]); 4] =
    [("cli", &["main"]), ("daemon", &["cli"]), ("throwaway", &["cli"]), ("simulate", &["cli"])];

/// Crates that only some parts may use.
const CRATES: [(&str, &[&str]); 3] =
    [("rusqlite", &["journal"]), ("postgres_protocol", &["wire"]), ("anyhow", &["main", "cli"])];

/// What pure code must not touch.
const IMPURE: [&str; 8] = [
    "std::fs",
    "std::net",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "tokio::",
    "Utc::now",
    "tracing::",
];

/// What pure code may use of `std::io`: the errors of a payload that is read from disk.
const IO_VALUES: [&str; 3] = ["Result", "Error", "ErrorKind"];

/// A source file without comments and without its tests.
struct Source {
    path: PathBuf,
    /// The part of the program it belongs to: `stream` for `src/stream.rs` and `src/stream/decode.rs`.
    part: String,
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut directories = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("the source").flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(&root).expect("below src");
                let part = below.iter().next().expect("a name").to_string_lossy();
                let part = part.trim_end_matches(".rs").to_owned();
                found.push(Source { code: code_of(&path), part, path });
            }
        }
    }
    found
}

fn code_of(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("a source file");
    let code = text.split("#[cfg(test)]\nmod tests").next().expect("split gives one");
    code.lines().map(|line| line.split("//").next().expect("split gives one")).collect::<Vec<_>>().join("\n")
}

/// The parts named after `crate::`, also within `crate::{…}`.
fn uses(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, found) in code.match_indices("crate::") {
        let rest = &code[at + found.len()..];
        match rest.strip_prefix('{') {
            Some(group) => names.extend(top_names(group)),
            None => names.extend(first_name(rest)),
        }
    }
    names
}

/// The first path segment of each item of a `{…}` group.
fn top_names(group: &str) -> Vec<String> {
    let mut depth = 1;
    let mut names = Vec::new();
    let mut at_start = true;
    for (at, each) in group.char_indices() {
        match each {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => at_start = true,
            _ if at_start && !each.is_whitespace() => {
                names.extend(first_name(&group[at..]));
                at_start = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

fn first_name(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|each| each.is_alphanumeric() || *each == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// What is used of `std::io`: the names after `io::`, a group as its brace.
fn of_io(code: &str) -> Vec<String> {
    let starts = |at: usize| !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_');
    let uses = code.match_indices("io::").filter(|(at, _)| starts(*at));
    uses.map(|(at, found)| first_name(&code[at + found.len()..]).unwrap_or_else(|| "{".into())).collect()
}

fn allowed(part: &str, used: &str) -> bool {
    let may = MAY_USE.iter().find(|(name, _)| *name == part).is_none_or(|(_, may)| may.contains(&used));
    let reserved = NOBODY_BUT.iter().find(|(name, _)| *name == used).is_none_or(|(_, by)| by.contains(&part));
    part == used || (may && reserved)
}

#[test]
fn no_stage_uses_a_later_one() {
    let parts: BTreeSet<String> = sources().into_iter().map(|source| source.part).collect();
    let mut wrong = Vec::new();
    for source in sources() {
        for used in uses(&source.code).iter().filter(|used| parts.contains(*used) && *used != "lib") {
            if !allowed(&source.part, used) {
                wrong.push(format!("{}: {} uses {used}", source.path.display(), source.part));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn some_crates_stay_where_they_belong() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (name, parts) in CRATES {
            if source.code.contains(&format!("{name}::")) && !parts.contains(&source.part.as_str()) {
                wrong.push(format!("{} uses {name}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn deciding_and_decoding_are_pure() {
    let mut wrong = Vec::new();
    for source in
        sources().iter().filter(|source| source.part == "conflict" || source.path.ends_with("stream/decode.rs"))
    {
        for impure in IMPURE.iter().filter(|impure| source.code.contains(**impure)) {
            wrong.push(format!("{} uses {impure}", source.path.display()));
        }
        for name in of_io(&source.code).iter().filter(|name| !IO_VALUES.contains(&name.as_str())) {
            wrong.push(format!("{} uses io::{name}", source.path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn groups_are_read_to_their_end() {
    let code = "use crate::{model::{Lsn, Xid}, wire, stream::decode};\nlet x = crate::apply::Batch;";
    let names: Vec<_> = uses(code).into_iter().collect();
    assert_eq!(names, ["apply", "model", "stream", "wire"]);
    assert_eq!(of_io("use std::io; fn f() -> io::Result<()> { tokio::io::copy(); audio::play() }"), ["Result", "copy"]);
}
