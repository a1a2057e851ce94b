//! A change fits if the catalog knows every column that its source announced: a value with no place at the target
//! is never dropped in silence (R11); the link stops before anything of that change is written.

use crate::apply::error::ApplyError;
use crate::apply::net::Content;
use crate::conflict::Batch;
use crate::model::Relation;

/// Whether all of a batch can be written.
///
/// # Errors
/// An operator error for the first relation that does not fit, which `source` announced.
pub(super) fn check_batch(batch: &Batch, source: &str, target: &str) -> Result<(), ApplyError> {
    match batch.transactions.iter().find_map(|transaction| transaction.misfit()) {
        Some(relation) => Err(misfit(relation, source, target)),
        None => Ok(()),
    }
}

/// Whether what a change of `source` left can be written.
///
/// # Errors
/// As [`check_batch`].
pub(super) fn check(content: &Content, source: &str, target: &str) -> Result<(), ApplyError> {
    match content {
        Content::Put(row) if row.relation.unknown_column().is_some() => Err(misfit(&row.relation, source, target)),
        _ => Ok(()),
    }
}

fn misfit(relation: &Relation, source: &str, target: &str) -> ApplyError {
    let column = relation.unknown_column().unwrap_or_default();
    let table = relation.table();
    ApplyError::Operator {
        what: format!(
            "{source} has a column \"{column}\" in {table} that was not there, or not at every node, when pgconcord \
             started; nothing of that change is written at {target}"
        ),
        advice: format!(
            "make {table} alike at all nodes (add, rename or drop the column), then restart pgconcord; the slot at \
             {source} keeps the changes meanwhile"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::net::Row;
    use crate::model::{Cell, Class, Classify, Table, Tuple};

    fn put(columns: &[&str]) -> Content {
        let relation = Relation::sample(Table::of_texts("item", &["id"]), columns);
        let tuple = Tuple::from_cells(columns.iter().map(|_| Cell::Text(b"1")).collect::<Vec<_>>().into_iter());
        Content::Put(Row { relation, tuple })
    }

    #[test]
    fn a_value_without_a_place_stops_the_link_and_says_what_to_do() {
        let error = check(&put(&["id", "size"]), "east", "west").unwrap_err();
        assert_eq!(error.class(), Class::Operator);
        let text = error.to_string();
        for part in ["east", "\"size\"", "public.item", "west", "restart pgconcord"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn rows_whose_columns_are_known_and_deletes_fit() {
        assert!(check(&put(&["id"]), "east", "west").is_ok());
        assert!(check(&Content::Delete, "east", "west").is_ok());
    }
}
