//! How rows are merged: `columns` and `others`, or `function`.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::reader::{Section, Typed, string, suggestion};
use crate::config::report::Problem;
use crate::model::{ColumnMerge, ColumnMerges, FunctionName, NoFunctionName};

pub(super) const FUNCTION_EXAMPLE: &str = "write function = \"public.resolve_price\": a function at every node that takes two rows as jsonb, \
                                the earlier and the later one, and returns the row";

/// The name of a function; `None` if there is none, or with a problem noted.
pub(super) fn function(section: &mut Section<'_>, problems: &mut Vec<Problem>) -> Option<FunctionName> {
    let Typed { value, span } = section.text("function", problems)?;
    let (title, help) = match value.parse() {
        Ok(function) => return Some(function),
        Err(NoFunctionName::NoSchema) => {
            let help = format!("name its schema, too: function = \"public.{}\"", value.trim().replace('"', "\\\""));
            ("`function` has no schema", help)
        }
        Err(NoFunctionName::Malformed) => {
            let help =
                "write its schema and its name, without arguments, as in SQL: function = \"public.resolve_price\"";
            ("`function` is no name of a function", help.to_owned())
        }
    };
    problems.push(Problem::error(span, title).help(help));
    None
}

/// `columns` and `others`; `None` with a problem noted.
pub(super) fn columns(section: &mut Section<'_>, problems: &mut Vec<Problem>) -> Option<ColumnMerges> {
    let before = problems.len();
    let others = section.get("others").and_then(|value| column_merge("others", value, problems));
    let mut columns = BTreeMap::new();
    for (column, value) in section.entries("columns", problems) {
        if let Some(how) = column_merge(&format!("columns.{column}"), value, problems) {
            columns.insert(column, how);
        }
    }
    (problems.len() == before).then(|| ColumnMerges { columns, others: others.unwrap_or_default() })
}

/// `"delta"`, `{ append = "; " }` or `{ sql = "…" }`; `None` with a problem noted.
fn column_merge(key: &str, value: &Spanned<DeValue<'_>>, problems: &mut Vec<Problem>) -> Option<ColumnMerge> {
    if let DeValue::Table(table) = value.get_ref() {
        return with_detail(key, table, value.span(), problems);
    }
    let typed = string(key, value, problems)?;
    let found = ColumnMerge::ALL.into_iter().find(|(name, _)| *name == typed.value).map(|(_, how)| how);
    if found.is_none() {
        let problem = if typed.value == ColumnMerge::SQL {
            let title = format!("`{key}` says that an SQL expression merges, and not which");
            Problem::error(typed.span.clone(), title).help(SQL_EXAMPLE)
        } else {
            let names = ColumnMerge::ALL.map(|(name, _)| name);
            let title = format!("columns can't be merged by {:?}", typed.value);
            Problem::error(typed.span.clone(), title).help(suggestion(&typed.value, &names))
        };
        problems.push(problem);
    }
    found
}

const SQL_EXAMPLE: &str = "write an SQL expression over local, remote and old: { sql = \"(local + remote) / 2\" }";

/// An `append` with what is between two entries, or an `sql` with its expression.
fn with_detail(key: &str, table: &DeTable<'_>, span: Range<usize>, problems: &mut Vec<Problem>) -> Option<ColumnMerge> {
    let mut section = Section::new(format!("`{key}`"), table, span.clone());
    if table.is_empty() {
        section.need("append", "\"; \"", problems);
    }
    let (separator, expression) = (section.text("append", problems), section.text(ColumnMerge::SQL, problems));
    section.finish(problems);
    let (title, help, span) = match (separator, expression) {
        (Some(_), Some(_)) => {
            let title = format!("`{key}` is merged in one way, and here are two");
            (title, "remove `append` or `sql`", span)
        }
        (Some(Typed { value, span }), None) => {
            let what = match &value {
                empty if empty.is_empty() => "is empty, and nothing would tell one entry from the next",
                text if text.contains('\0') => "has a NUL character, which no text of a server has",
                _ => return Some(ColumnMerge::Append(value.into())),
            };
            let help =
                "write what stands between two entries, append = \"; \", or only \"append\": each is a line then";
            (format!("the separator of `{key}` {what}"), help, span)
        }
        (None, Some(Typed { value, span })) => {
            let what = match &value {
                empty if empty.trim().is_empty() => "is empty",
                text if text.contains('\0') => "has a NUL character, which no SQL has",
                _ => return Some(ColumnMerge::Sql(value.into())),
            };
            (format!("the expression of `{key}` {what}"), SQL_EXAMPLE, span)
        }
        (None, None) => return None,
    };
    problems.push(Problem::error(span, title).help(help));
    None
}
