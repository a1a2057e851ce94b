//! The statements that look for rows with a unique value, and that remove one.

use crate::apply::net::Row;
use crate::apply::sql;
use crate::model::table::{Column, IndexKey, Table, UniqueIndex, quote_identifier};
use crate::model::{Cell, NewValues};

/// A text parameter by its number, as an expression.
type Parameter = fn(usize) -> String;

/// A text that passes as text.
fn from_text(number: usize) -> String {
    format!("${number}::pg_catalog.text")
}

/// `t.a = $n::…` for each column, in a way that an index serves: NULLs are told apart beforehand.
fn matches(table: &Table, columns: &[usize], row: &Row, first: usize, parameter: Parameter) -> String {
    let each = |(i, column): (usize, &usize)| {
        let is_null = sql::text_of(row.cell(*column)).is_none();
        let column = &table.columns[*column];
        let (name, text) = (quote_identifier(&column.name), parameter(first + i));
        match is_null {
            true => format!("t.{name} IS NULL AND {text} IS NULL"),
            false => format!("t.{name} {} {}", column.equals, column.value(&text)),
        }
    };
    columns.iter().enumerate().map(each).collect::<Vec<_>>().join(" AND ")
}

/// A further FROM item and the condition under which `t` stands against `row` in the index; the values of the index's
/// columns are the first parameters.
fn stands_against(table: &Table, index: &UniqueIndex, row: &Row, parameter: Parameter) -> (Option<String>, String) {
    let Some(rule) = &index.rule else { return (None, matches(table, &index.columns, row, 1, parameter)) };
    let value = |(i, column): (usize, &usize)| {
        let column = &table.columns[*column];
        format!("{} AS {}", column.value(&parameter(i + 1)), quote_identifier(&column.name))
    };
    let values: Vec<_> = index.columns.iter().enumerate().map(value).collect();
    // Names that no column has, so that the index's own words mean the columns of `t`.
    let name = |i: usize| format!("\"pgconcord {i}\"");
    let keys = rule.keys.iter().enumerate().map(|(i, key)| format!("({}) AS {}", key.expression, name(i)));
    let predicate = rule.predicate.as_ref().map(|predicate| format!("({predicate}) AS \"pgconcord p\""));
    let from = format!(
        "(SELECT {} FROM (SELECT {}) AS v) AS n",
        keys.chain(predicate).collect::<Vec<_>>().join(", "),
        values.join(", ")
    );
    let key = |(i, key): (usize, &IndexKey)| {
        let (theirs, name) = (&key.expression, name(i));
        let collate = key.collation.as_ref().map(|collation| format!(" COLLATE {collation}")).unwrap_or_default();
        let stands = format!("({theirs}) {} (n.{name}{collate})", key.operator);
        match index.nulls_not_distinct {
            true => format!("({stands} OR ({theirs}) IS NULL AND n.{name} IS NULL)"),
            false => stands,
        }
    };
    let predicate = rule.predicate.as_ref().map(|predicate| format!("({predicate}) AND n.\"pgconcord p\""));
    let condition: Vec<_> = rule.keys.iter().enumerate().map(key).chain(predicate).collect();
    (Some(from), condition.join(" AND "))
}

/// Whether rows are locked that are found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lock {
    /// They are only looked at.
    None,
    /// Until the end of the transaction.
    Rows,
}

/// Removes the row with the key of `row` if what the index looks at is still what `row` has.
pub(super) fn removal_query(table: &Table, index: &UniqueIndex, row: &Row) -> String {
    format!("DELETE FROM {} AS t WHERE {}", table.sql_only(), is_same(table, index, row))
}

/// Gives that row other values; the parameters are those of [`removal_query`].
pub(super) fn rename_query(table: &Table, index: &UniqueIndex, row: &Row, values: &NewValues) -> String {
    format!("UPDATE {} AS t SET {} WHERE {}", table.sql_only(), values.assignments(table), is_same(table, index, row))
}

/// Finds the row with the key of `row` if it stands against `other` in the index; the parameters are what the index looks at of
/// `other`, then that key.
pub(super) fn still_stands_query(table: &Table, index: &UniqueIndex, row: &Row, other: &Row) -> String {
    let (from, condition) = stands_against(table, index, other, sql::from_bytes);
    format!(
        "SELECT FROM {} AS t{} WHERE {condition} AND {}",
        table.sql_only(),
        from.map(|from| format!(", {from}")).unwrap_or_default(),
        matches(table, &table.key, row, 1 + index.columns.len(), sql::from_bytes)
    )
}

/// Makes of the row with the key of `row` what `row` is, with other values; tells how many bytes those have as text. And the
/// columns whose texts are its parameters, the key's last.
pub(super) fn rename_here(row: &Row, values: &NewValues) -> (String, Vec<usize>) {
    let table = row.table();
    let has = |column: &usize| row.cell(*column).is_some_and(|cell| cell != Cell::Unchanged);
    let given: Vec<usize> = (0..table.columns.len()).filter(has).collect();
    let name = |column: usize| quote_identifier(&table.columns[column].name);
    let is_set = |column: &usize| !table.key.contains(column) && !table.columns[*column].identity_always;
    let set: Vec<usize> = given.iter().copied().filter(is_set).collect();
    let names: Vec<_> = set.iter().map(|column| name(*column)).collect();
    let chosen = set.iter().map(|column| match values.of(*column) {
        Some(value) => format!("({value})"),
        None => format!("t.{}", name(*column)),
    });
    let old = given.iter().enumerate();
    let old = old.map(|(i, column)| format!("{} AS {}", table.columns[*column].parameter(i + 1), name(*column)));
    let new = set.iter().filter(|column| values.of(**column).is_some());
    let lengths =
        new.map(|column| format!("coalesce(pg_catalog.octet_length(o.{}::pg_catalog.text), 0)", name(*column)));
    let key = table.key.iter().enumerate().map(|(i, column)| {
        let Column { equals, .. } = &table.columns[*column];
        let value = table.columns[*column].parameter(given.len() + i + 1);
        format!("o.{} {equals} {value}", name(*column))
    });
    let text = format!(
        "UPDATE {} AS o SET ({}) = (SELECT {} FROM (SELECT {}) AS t) WHERE {} RETURNING {}",
        table.sql_only(),
        names.join(", "),
        chosen.collect::<Vec<_>>().join(", "),
        old.collect::<Vec<_>>().join(", "),
        key.collect::<Vec<_>>().join(" AND "),
        lengths.collect::<Vec<_>>().join(" + ")
    );
    (text, given.into_iter().chain(table.key.iter().copied()).collect())
}

/// Locks that row; the parameters are those of [`removal_query`].
pub(super) fn removal_lock(table: &Table, index: &UniqueIndex, row: &Row) -> String {
    format!("SELECT FROM {} AS t WHERE {} FOR UPDATE OF t", table.sql_only(), is_same(table, index, row))
}

/// The condition under which `t` has the key of `row` and in what the index looks at what `row` has; a value that was left
/// out of `row` is not looked at. Compared as text, for a row need not stand against itself (EXCLUDE ... WITH <>), and not
/// every type has an equality.
fn is_same(table: &Table, index: &UniqueIndex, row: &Row) -> String {
    let same = |(i, column): (usize, &usize)| {
        let is_left_out = row.cell(*column) == Some(Cell::Unchanged);
        let column = &table.columns[*column];
        let (name, text) = (quote_identifier(&column.name), sql::from_bytes(i + 1));
        match is_left_out {
            true => format!("{text} IS NULL"),
            false => {
                format!("t.{name}::pg_catalog.text IS NOT DISTINCT FROM ({})::pg_catalog.text", column.value(&text))
            }
        }
    };
    let key = matches(table, &table.key, row, 1 + index.columns.len(), sql::from_bytes);
    let values = match index.rule {
        None => matches(table, &index.columns, row, 1, sql::from_bytes),
        Some(_) => index.columns.iter().enumerate().map(same).collect::<Vec<_>>().join(" AND "),
    };
    format!("{key} AND {values}")
}

/// The rows that stand against `row` in the index and have another key: the name of the origin that wrote them, all
/// columns.
pub(super) fn holder_query(table: &Table, index: &UniqueIndex, row: &Row, lock: Lock) -> String {
    // As the types write them: a cast to text is not always that (bool, inet).
    let columns: Vec<_> = table.columns.iter().map(|column| format!("t.{}", quote_identifier(&column.name))).collect();
    let (from, condition) = stands_against(table, index, row, from_text);
    format!(
        "SELECT (SELECT o.roname FROM pg_catalog.pg_replication_origin AS o \
         WHERE o.roident = (pg_catalog.pg_xact_commit_timestamp_origin(t.xmin)).roident), {} \
         FROM {} AS t{} WHERE {condition} AND NOT ({}){}",
        columns.join(", "),
        table.sql_only(),
        from.map(|from| format!(", {from}")).unwrap_or_default(),
        matches(table, &table.key, row, 1 + index.columns.len(), from_text),
        if lock == Lock::Rows { " FOR NO KEY UPDATE OF t" } else { "" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Relation, Tuple};

    #[test]
    fn a_holder_is_looked_for_by_value_and_not_by_its_own_key() {
        let index = UniqueIndex {
            name: "t_e".into(),
            columns: vec![1],
            nulls_not_distinct: false,
            deferrable: false,
            rule: None,
        };
        let table = Table { unique: vec![index.clone()], ..Table::of_texts("t", &["k", "e\"x"]) };
        let relation = Relation::sample(table.clone(), &["k", "e\"x"]);
        let query = |value| {
            let cells = [Cell::Text(b"1"), value];
            let row = Row { relation: relation.clone(), tuple: Tuple::from_cells(cells.into_iter()) };
            holder_query(&table, &index, &row, Lock::None)
        };
        let text = query(Cell::Text(b"e"));
        assert!(text.contains(r#"WHERE t."e""x" = $1::pg_catalog.text::pg_catalog.text AND NOT"#), "{text}");
        assert!(text.ends_with(r#"(t."k" = $2::pg_catalog.text::pg_catalog.text)"#), "{text}");
        assert!(query(Cell::Null).contains(r#"WHERE t."e""x" IS NULL AND $1::pg_catalog.text IS NULL"#));
    }
}
