//! Walks a parsed TOML file and remembers every problem: one wrong key must not hide the next.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::report::Problem;

/// How far from a known key an unknown one may be to be taken for a slip: edits / length (Jaro–Winkler).
const LIKE: f64 = 0.75;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Typed<T> {
    pub value: T,
    pub span: Range<usize>,
}

/// One table of the file: gives typed values, notes those of the wrong type, and in the end the unknown keys.
pub(super) struct Section<'a> {
    /// As users write it, `[limits]`.
    title: String,
    table: &'a DeTable<'a>,
    /// Where its header stands.
    pub span: Range<usize>,
    asked: Vec<&'static str>,
}

impl<'a> Section<'a> {
    pub fn new(title: impl Into<String>, table: &'a DeTable<'a>, span: Range<usize>) -> Section<'a> {
        Section { title: title.into(), table, span, asked: Vec::new() }
    }

    /// The value of `key`, if it is there.
    pub fn get(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.push(key);
        self.table.get(key)
    }

    /// A string.
    pub fn text(&mut self, key: &'static str, problems: &mut Vec<Problem>) -> Option<Typed<String>> {
        let value = self.get(key)?;
        string(key, value, problems)
    }

    /// A string that must be there.
    pub fn required(&mut self, key: &'static str, example: &str, problems: &mut Vec<Problem>) -> Option<Typed<String>> {
        self.need(key, example, problems);
        self.text(key, problems)
    }

    /// Notes it if `key` is not there.
    pub fn need(&mut self, key: &'static str, example: &str, problems: &mut Vec<Problem>) {
        if self.get(key).is_none() {
            problems.push(
                Problem::error(self.span.clone(), format!("{} needs `{key}`", self.title))
                    .help(format!("add {key} = {example}")),
            );
        }
    }

    /// A string that `read` turns into what is meant; its error is shown as help.
    pub fn parsed<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
        problems: &mut Vec<Problem>,
    ) -> Option<T> {
        let text = self.text(key, problems)?;
        match read(&text.value) {
            Ok(value) => Some(value),
            Err(help) => {
                problems.push(Problem::error(text.span, format!("`{key}` can't be read")).help(help));
                None
            }
        }
    }

    /// A list of strings; empty if it is not there.
    pub fn list(&mut self, key: &'static str, problems: &mut Vec<Problem>) -> Vec<Typed<String>> {
        match self.get(key) {
            None => Vec::new(),
            Some(value) => match value.get_ref() {
                DeValue::Array(items) => items.iter().filter_map(|item| string(key, item, problems)).collect(),
                _ => {
                    let help = format!("write {key} = [\"...\", \"...\"]");
                    problems.push(wrong_type(key, value, "a list of strings").help(help));
                    Vec::new()
                }
            },
        }
    }

    /// The names and values of a table inside this one, written `key = { name = "..." }` or as a section of its own.
    pub fn entries(
        &mut self,
        key: &'static str,
        problems: &mut Vec<Problem>,
    ) -> Vec<(String, &'a Spanned<DeValue<'a>>)> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let DeValue::Table(table) = value.get_ref() else {
            let help = format!("write {key} = {{ a_column = \"...\" }}");
            problems.push(wrong_type(key, value, "a table of names and strings").help(help));
            return Vec::new();
        };
        table.iter().map(|(name, value)| (name.get_ref().to_string(), value)).collect()
    }

    /// `true` or `false` under `key`, with where it stands.
    pub fn flag(&mut self, key: &'static str, problems: &mut Vec<Problem>) -> Option<Typed<bool>> {
        let value = self.get(key)?;
        let read = value.get_ref().as_bool();
        if read.is_none() {
            problems.push(wrong_type(key, value, "true or false"));
        }
        read.map(|read| Typed { value: read, span: value.span() })
    }

    /// A whole number from 1 on.
    pub fn count(&mut self, key: &'static str, problems: &mut Vec<Problem>) -> Option<usize> {
        let value = self.get(key)?;
        let number = value.get_ref().as_integer().and_then(|n| usize::from_str_radix(n.as_str(), n.radix()).ok());
        if !matches!(number, Some(1..)) {
            problems.push(wrong_type(key, value, "a whole number from 1 on"));
        }
        number.filter(|n| *n > 0)
    }

    /// A table inside this one; `[[key]]` or a plain value in its place is a problem.
    pub fn section(&mut self, key: &'static str, problems: &mut Vec<Problem>) -> Option<Section<'a>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(Section::new(format!("[{key}]"), table, value.span())),
            _ => {
                problems.push(wrong_type(key, value, &format!("a section [{key}]")));
                None
            }
        }
    }

    /// The tables of `[[key]]`.
    pub fn sections(&mut self, key: &'static str, problems: &mut Vec<Problem>) -> Vec<Section<'a>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            let help = format!("write [[{key}]] with two brackets");
            problems.push(wrong_type(key, value, &format!("one or more sections [[{key}]]")).help(help));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::Table(table) => sections.push(Section::new(format!("[[{key}]]"), table, item.span())),
                _ => problems.push(wrong_type(key, item, &format!("a section [[{key}]]"))),
            }
        }
        sections
    }

    /// Notes the keys that nobody asked for.
    pub fn finish(self, problems: &mut Vec<Problem>) {
        for (key, _) in self.table.iter() {
            let name = key.get_ref().as_ref();
            if !self.asked.contains(&name) {
                let place = if self.title.is_empty() { String::new() } else { format!(" in {}", self.title) };
                let problem = Problem::error(key.span(), format!("unknown key `{name}`{place}"));
                problems.push(problem.help(suggestion(name, &self.asked)));
            }
        }
    }
}

/// A value that is a string.
pub(super) fn string(key: &str, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<Typed<String>> {
    match value.get_ref() {
        DeValue::String(text) => Some(Typed { value: text.to_string(), span: value.span() }),
        _ => {
            problems.push(wrong_type(key, value, "a string"));
            None
        }
    }
}

fn wrong_type(key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) -> Problem {
    Problem::error(value.span(), format!("`{key}` is {wanted}"))
        .label(format!("this is of type {}", value.get_ref().type_str()))
}

/// "did you mean `x`?", or the list of what there is.
pub(super) fn suggestion(name: &str, known: &[&str]) -> String {
    let near = known.iter().map(|each| (strsim::jaro_winkler(name, each), *each)).max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((likeness, each)) if likeness >= LIKE => format!("did you mean `{each}`?"),
        _ => {
            let mut names: Vec<String> = known.iter().map(|each| format!("`{each}`")).collect();
            names.sort();
            names.dedup();
            format!("there is {}", names.join(", "))
        }
    }
}
