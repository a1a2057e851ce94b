//! `conflict-rules/*.toml` → [`Rule`]s, in file-name order, then in the order of each file.
//!
//! A resolver that this version does not know is refused with a sentence rather than ignored, because a rule that does not
//! hold is worse than none.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use globset::Glob;
use toml::de::DeTable;

use crate::config::reader::{Section, Typed, string};
use crate::config::report::{Problem, Report, line_and_column};
use crate::config::tables::{TableFilter, glob};
use crate::model::{Case, Condition, Deciding, Deletes, Rename, Resolver, TableRule, UniqueWinner};

mod condition;
mod facet;
#[cfg(test)]
mod malformed;
mod merge;
mod record;
mod resolve;
#[cfg(test)]
mod tests;
mod unique;

pub use facet::Facet;
pub use record::{record, recorded};

/// One `[[rule]]`: what it decides about which tables.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What the conflict log calls it.
    pub name: String,
    /// Where it stands.
    pub place: Place,
    /// The tables it is for.
    pub tables: TableFilter,
    /// Of their conflicts those.
    pub condition: Condition,
    /// What comes out where two nodes wrote one row; `None` if it says nothing about that.
    pub resolve: Option<Resolver>,
    /// What counts between a delete and a change; `None` if it says nothing about that.
    pub deletes: Option<Deletes>,
    /// What becomes of the conflicts that it decides.
    pub afterwards: Afterwards,
    /// What becomes of rows that a node refuses; `None` if it says nothing about that.
    pub errors: Option<Errors>,
    /// Which of two rows keeps a unique value, and what becomes of such conflicts; `None` if it says nothing about that.
    pub unique: Option<(UniqueWinner, Afterwards)>,
    /// What rows get that lose a unique value, instead of being deleted; `None` if it says nothing about that.
    pub rename: Option<Rename>,
    /// Columns whose values are written to no journal and no log.
    pub mask: Vec<String>,
}

/// What becomes of a change that a node refuses: by a constraint, a type, a privilege, a trigger.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Errors {
    /// The link stops until it can be applied.
    #[default]
    Stop,
    /// The node does without the row, which is held there until it can be written or a later change takes its place.
    Hold,
}

impl Errors {
    /// All of them, with the names that rules write.
    pub const ALL: [(&str, Errors); 2] = [("stop", Errors::Stop), ("hold", Errors::Hold)];

    /// The name as rules write it.
    pub fn name(self) -> &'static str {
        Errors::ALL.iter().find(|(_, each)| *each == self).map_or("", |(name, _)| name)
    }
}

/// What becomes of a conflict once a rule has decided it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Afterwards {
    /// It is resolved.
    #[default]
    Resolved,
    /// It is held in the journal until a person has looked at it. What the rule says stands meanwhile, so that rows are
    /// alike everywhere all the time.
    Held,
    /// It is not decided at all: the link stops until the table has another rule.
    Refused,
}

/// Where a rule stands.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The line of its `[[rule]]`, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

impl Rule {
    /// Whether it says anything about this facet of a table's conflicts.
    pub fn decides(&self, facet: Facet) -> bool {
        match facet {
            Facet::Writes => self.resolve.is_some(),
            Facet::Deletes => self.deletes.is_some(),
        }
    }
}

/// The rule that decides about this facet of the table's conflicts where no rule with a condition does: the first that matches.
pub fn deciding<'a>(rules: &'a [Rule], schema: &str, table: &str, facet: Facet) -> Option<&'a Rule> {
    let decides = |rule: &&Rule| rule.condition.is_empty() && rule.decides(facet);
    rules.iter().filter(decides).find(|rule| rule.tables.matches(schema, table))
}

/// The rule that decides about this facet of a conflict of the table, about which these of its [`cases`] decide.
pub fn deciding_in<'a>(rules: &'a [Rule], schema: &str, table: &str, facet: Facet, by: Deciding) -> Option<&'a Rule> {
    let place = match facet {
        Facet::Writes => by.resolver,
        Facet::Deletes => by.deletes,
    };
    match place {
        Some(place) => cases(rules, schema, table).get(usize::from(place)).map(|(rule, _)| *rule),
        None => deciding(rules, schema, table, facet),
    }
}

/// The rules with a condition that may decide about the table, with what each says: of a facet that an earlier rule has decided
/// for all conflicts it says nothing.
pub fn cases<'a>(rules: &'a [Rule], schema: &str, table: &str) -> Vec<(&'a Rule, Case)> {
    let mut open = Facet::ALL.to_vec();
    let mut cases = Vec::new();
    for rule in rules.iter().filter(|rule| rule.tables.matches(schema, table)) {
        if rule.condition.is_empty() {
            open.retain(|facet| !rule.decides(*facet));
            continue;
        }
        let resolver = rule.resolve.clone().filter(|_| open.contains(&Facet::Writes));
        let deletes = rule.deletes.filter(|_| open.contains(&Facet::Deletes));
        if resolver.is_some() || deletes.is_some() {
            cases.push((rule, Case { condition: rule.condition.clone(), resolver, deletes }));
        }
    }
    cases
}

/// What decides about the table by the rules alone, whether or not that fits its columns.
pub fn table_rule(rules: &[Rule], schema: &str, table: &str) -> TableRule {
    let writes = deciding(rules, schema, table, Facet::Writes);
    let deletes = deciding(rules, schema, table, Facet::Deletes);
    TableRule {
        cases: cases(rules, schema, table).into_iter().map(|(_, case)| case).collect(),
        resolver: writes.and_then(|rule| rule.resolve.clone()).unwrap_or_default(),
        deletes: deletes.and_then(|rule| rule.deletes).unwrap_or_default(),
        unique: on_unique(rules, schema, table).and_then(|rule| rule.unique.clone()).unwrap_or_default().0,
    }
}

/// The rule that tells which of two rows of the table keeps a unique value: the first that says so.
pub fn on_unique<'a>(rules: &'a [Rule], schema: &str, table: &str) -> Option<&'a Rule> {
    rules.iter().find(|rule| rule.unique.is_some() && rule.tables.matches(schema, table))
}

/// The rule that decides about the table's unique values, and what becomes of those conflicts: the one that says which row
/// keeps a value, else that for rows which two nodes wrote.
pub fn deciding_unique<'a>(rules: &'a [Rule], schema: &str, table: &str) -> Option<(&'a Rule, Afterwards)> {
    let said = on_unique(rules, schema, table).and_then(|rule| Some((rule, rule.unique.as_ref()?.1)));
    said.or_else(|| deciding(rules, schema, table, Facet::Writes).map(|rule| (rule, rule.afterwards)))
}

/// The rule that tells what becomes of the table's rows that a node refuses: the first that says so.
pub fn on_errors<'a>(rules: &'a [Rule], schema: &str, table: &str) -> Option<&'a Rule> {
    rules.iter().find(|rule| rule.errors.is_some() && rule.tables.matches(schema, table))
}

/// The rule that tells what rows of the table get that lose a unique value: the first that says so.
pub fn renaming<'a>(rules: &'a [Rule], schema: &str, table: &str) -> Option<(&'a Rule, &'a Rename)> {
    let of_table = rules.iter().filter(|rule| rule.tables.matches(schema, table));
    of_table.filter_map(|rule| Some((rule, rule.rename.as_ref()?))).next()
}

/// The table's columns whose values are written to no journal and no log: those that any rule for the table names.
pub fn masked<'a>(rules: &'a [Rule], schema: &'a str, table: &'a str) -> impl Iterator<Item = &'a str> {
    let of_table = rules.iter().filter(move |rule| rule.tables.matches(schema, table));
    of_table.flat_map(|rule| &rule.mask).map(String::as_str)
}

/// The rule files of a directory, or the file itself, in name order.
pub(super) fn files(path: &Path) -> Result<Vec<PathBuf>, String> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    if files.is_empty() { Err(format!("{} holds no *.toml", path.display())) } else { Ok(files) }
}

/// Reads the rules of a directory, or of one file, for these nodes.
///
/// # Errors
/// If there are none; what is wrong in them goes to `report`.
pub fn read(path: &Path, nodes: &[&str], report: &mut Report) -> Result<Vec<Rule>, String> {
    Ok(load(&files(path)?, nodes, report))
}

/// Reads the files; what is wrong goes to `report`.
pub(super) fn load(files: &[PathBuf], nodes: &[&str], report: &mut Report) -> Vec<Rule> {
    let mut rules = Vec::new();
    for file in files {
        match fs::read_to_string(file) {
            Ok(text) => {
                let mut problems = Vec::new();
                rules.extend(parse(file, &text, nodes, &mut problems));
                report.add(file, &text, problems);
            }
            Err(error) => report.add(file, "", vec![Problem::error(0..0, format!("can't be read: {error}"))]),
        }
    }
    rules
}

/// The rules of one file, for these nodes.
pub(super) fn parse(file: &Path, text: &str, nodes: &[&str], problems: &mut Vec<Problem>) -> Vec<Rule> {
    let (root, errors) = DeTable::parse_recoverable(text);
    problems.extend(errors.iter().map(syntax_problem));
    if !errors.is_empty() {
        return Vec::new();
    }
    let mut root = Section::new("", root.get_ref(), 0..0);
    let sections = root.sections("rule", problems);
    root.finish(problems);
    let mut read = |section: Section<'_>| {
        let place = Place { file: file.to_owned(), line: line_and_column(text, section.span.start).0 };
        rule(section, place, nodes, problems)
    };
    sections.into_iter().filter_map(&mut read).collect()
}

/// What TOML itself does not allow.
pub(super) fn syntax_problem(error: &toml::de::Error) -> Problem {
    Problem::error(error.span().unwrap_or(0..0), format!("this is no TOML: {}", error.message().trim()))
}

fn rule(mut section: Section<'_>, place: Place, nodes: &[&str], problems: &mut Vec<Problem>) -> Option<Rule> {
    let before = problems.len();
    let name = section.required("name", "\"newest wins\"", problems);
    let before_tables = problems.len();
    let tables = section.list("tables", problems);
    let tables = match section.get("tables") {
        Some(value) if tables.is_empty() && problems.len() == before_tables => {
            let title = "`tables` is empty, so the rule is for no table";
            problems
                .push(Problem::error(value.span(), title).help("name some, or remove it: the rule is for all then"));
            TableFilter::all()
        }
        _ => filter(&tables, &[], problems).unwrap_or_else(TableFilter::all),
    };
    let mask = section.list("mask", problems).into_iter().map(|column| column.value).collect();
    let rename = rename(&mut section, problems);
    let condition = condition::read(&mut section, nodes, problems);
    let decision = resolve::read(&mut section, nodes, problems);
    section.finish(problems);
    let resolve::Decision { resolve, deletes, afterwards, errors, unique } = decision?;
    let (name, condition) = (name?.value, condition?);
    let rule = Rule { name, place, tables, condition, resolve, deletes, afterwards, errors, unique, rename, mask };
    (problems.len() == before).then_some(rule)
}

/// `rename = { email = "…" }`.
fn rename(section: &mut Section<'_>, problems: &mut Vec<Problem>) -> Option<Rename> {
    const EXAMPLE: &str = "rename = { email = \"email || '.' || id\" }";
    let span = section.get("rename")?.span();
    let before = problems.len();
    let entries = section.entries("rename", problems);
    if entries.is_empty() && problems.len() == before {
        let help = format!("give each column an SQL expression, {EXAMPLE}, or remove it: the row is deleted then");
        problems.push(Problem::error(span, "`rename` names no column").help(help));
    }
    let mut values = BTreeMap::new();
    for (column, value) in entries {
        let Some(Typed { value, span }) = string(&format!("rename.{column}"), value, problems) else { continue };
        let wrong = match value.as_str() {
            text if text.trim().is_empty() => "is empty",
            text if text.contains('\0') => "has a NUL character, which no SQL has",
            _ => "",
        };
        if !wrong.is_empty() {
            let problem = Problem::error(span, format!("`rename.{column}` {wrong}"));
            problems.push(problem.help(format!("write an SQL expression over the row's columns: {EXAMPLE}")));
        }
        values.insert(column, value);
    }
    (problems.len() == before).then_some(Rename(values))
}

/// Those of the globs that are right.
pub(super) fn globs(list: &[Typed<String>], problems: &mut Vec<Problem>) -> Vec<Glob> {
    let mut globs = Vec::new();
    for typed in list {
        match glob(&typed.value) {
            Ok(glob) => globs.push(glob),
            Err(help) => problems.push(Problem::error(typed.span.clone(), "this is no table pattern").help(help)),
        }
    }
    globs
}

/// A filter from lists of globs; `None` if the including list is empty or a glob is wrong.
pub(super) fn filter(
    include: &[Typed<String>],
    exclude: &[Typed<String>],
    problems: &mut Vec<Problem>,
) -> Option<TableFilter> {
    let before = problems.len();
    let (include, exclude) = (globs(include, problems), globs(exclude, problems));
    if include.is_empty() || problems.len() > before {
        return None;
    }
    match TableFilter::new(include, exclude) {
        Ok(filter) => Some(filter),
        Err(error) => {
            problems.push(Problem::error(0..0, format!("the table patterns can't be used: {error}")));
            None
        }
    }
}
