//! Which keys a change touches. Pure.
//!
//! Invariant: in the tuples that leave here, the new row's key cells are values, never "unchanged".

use smallvec::SmallVec;

use crate::model::key::KeyHasher;
use crate::model::{Cell, Class, Classify, KeyId, Op, Relation, TouchKind, Tuple};

/// A change does not say which row it is about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key's value lies in TOAST and the server sent it in neither tuple.
    #[error(
        "an update of {table} leaves its key column \"{column}\" out, because the value is stored out of line and did \
         not change. ALTER TABLE {table} REPLICA IDENTITY FULL at the source makes it send the value; then run \
         `pgconcord teardown`, compare the nodes and run `pgconcord setup`, because this change cannot be read again"
    )]
    LeftOut {
        /// `schema.name`.
        table: String,
        /// The column's name.
        column: String,
    },
    /// Updates and deletes at the source don't carry the key.
    #[error(
        "the replica identity of {table} at the source does not contain its key column \"{column}\". Make the cluster's \
         key its REPLICA IDENTITY (or FULL) there; then run `pgconcord teardown`, compare the nodes and run \
         `pgconcord setup`, because this change cannot be read again"
    )]
    NotInIdentity {
        /// `schema.name`.
        table: String,
        /// The column's name.
        column: String,
    },
}

impl Classify for KeyError {
    fn class(&self) -> Class {
        Class::Operator
    }
}

/// The touched keys in order: two for an update that changes the key.
pub type Touched = SmallVec<[(KeyId, TouchKind); 2]>;

/// The keys that `op` touches; completes the key cells of its new row from its old one.
pub fn touched(hasher: &KeyHasher, relation: &Relation, op: &mut Op) -> Result<Touched, KeyError> {
    let key = |tuple: &Tuple| key_of(hasher, relation, tuple);
    let mut touched = Touched::new();
    match op {
        Op::Insert { new } => touched.push((key(new), TouchKind::Put)),
        Op::Delete { old } => {
            check_identity(relation)?;
            touched.push((key(old), TouchKind::Delete));
        }
        Op::Update { old, new } => {
            check_identity(relation)?;
            complete(relation, old.as_ref(), new)?;
            let after = key(new);
            touched.extend(old.as_ref().map(key).filter(|before| *before != after).map(|k| (k, TouchKind::Delete)));
            touched.push((after, TouchKind::Put));
        }
        Op::Truncate { .. } => {}
    }
    Ok(touched)
}

fn key_of(hasher: &KeyHasher, relation: &Relation, tuple: &Tuple) -> KeyId {
    let table = relation.table();
    hasher.key(table.id, relation.key_cells(tuple).zip(table.key_forms()))
}

fn check_identity(relation: &Relation) -> Result<(), KeyError> {
    match relation.key_positions.iter().map(|position| &relation.columns[*position]).find(|key| !key.in_identity) {
        None => Ok(()),
        Some(key) => Err(KeyError::NotInIdentity { table: relation.table().to_string(), column: key.name.clone() }),
    }
}

/// Puts the old row's key cells where the new row says "unchanged".
fn complete(relation: &Relation, old: Option<&Tuple>, new: &mut Tuple) -> Result<(), KeyError> {
    let is_key = |position: usize| relation.key_positions.contains(&position);
    if relation.key_cells(new).all(|cell| cell != Cell::Unchanged) {
        return Ok(());
    }
    let cells = new.cells().enumerate().map(|(position, cell)| {
        if cell != Cell::Unchanged || !is_key(position) {
            return Ok(cell);
        }
        match old.and_then(|old| old.cell(position)) {
            Some(cell @ (Cell::Text(_) | Cell::Binary(_))) => Ok(cell),
            _ => Err(KeyError::LeftOut {
                table: relation.table().to_string(),
                column: relation.columns[position].name.clone(),
            }),
        }
    });
    let cells = cells.collect::<Result<Vec<_>, _>>()?;
    *new = Tuple::from_cells(cells.into_iter());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::relations::Relations;
    use crate::stream::testing::{catalog, shape, tuple};

    fn run(identity: &[&str], mut op: Op) -> (Result<Touched, KeyError>, Op) {
        let mut relations = Relations::new(catalog());
        relations.announce(shape(7, "pairs", &["a", "b", "c"], identity)).unwrap();
        let touched = touched(&relations.catalog().hasher, relations.get(7).unwrap(), &mut op);
        (touched, op)
    }

    fn put(cells: &str) -> KeyId {
        run(&["a", "b"], Op::Insert { new: tuple(cells) }).0.unwrap()[0].0
    }

    #[test]
    fn an_update_that_changes_the_key_deletes_the_old_one_first() {
        let op = Op::Update { old: Some(tuple("1 1 null")), new: tuple("1 2 x") };
        let expected = [(put("1 1 x"), TouchKind::Delete), (put("1 2 x"), TouchKind::Put)];
        assert_eq!(run(&["a", "b"], op).0.unwrap().as_slice(), expected);
    }

    #[test]
    fn an_old_row_with_the_same_key_is_one_touch() {
        let op = Op::Update { old: Some(tuple("1 1 x")), new: tuple("1 1 y") };
        assert_eq!(run(&["a", "b", "c"], op).0.unwrap().as_slice(), [(put("1 1 x"), TouchKind::Put)]);
    }

    #[test]
    fn a_key_that_its_type_calls_equal_is_one_touch() {
        // b is numeric
        let op = Op::Update { old: Some(tuple("1 1.0 null")), new: tuple("1 1.00 y") };
        assert_eq!(run(&["a", "b"], op).0.unwrap().as_slice(), [(put("1 1 x"), TouchKind::Put)]);
    }

    #[test]
    fn a_key_value_in_toast_comes_from_the_old_row_and_other_cells_stay_unchanged() {
        let op = Op::Update { old: Some(tuple("big 1 null")), new: tuple("toast 2 toast") };
        let (touched, op) = run(&["a", "b"], op);
        assert_eq!(touched.unwrap()[1], (put("big 2 x"), TouchKind::Put));
        assert_eq!(op, Op::Update { old: Some(tuple("big 1 null")), new: tuple("big 2 toast") });
    }

    #[test]
    fn a_key_value_that_was_never_sent_is_refused_by_name() {
        for old in [None, Some(tuple("null 1 null"))] {
            let error = run(&["a", "b"], Op::Update { old, new: tuple("toast 2 x") }).0.unwrap_err();
            assert!(error.to_string().contains("public.pairs") && error.to_string().contains("\"a\""), "{error}");
        }
    }

    #[test]
    fn updates_and_deletes_need_the_key_in_the_identity_and_inserts_do_not() {
        assert!(run(&[], Op::Insert { new: tuple("1 2 3") }).0.is_ok());
        let delete = run(&["a"], Op::Delete { old: tuple("1 null null") }).0.unwrap_err();
        assert!(matches!(delete, KeyError::NotInIdentity { column, .. } if column == "b"));
    }
}
