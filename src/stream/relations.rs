//! The relation cache of one stream: what the source announced, bound by name to the cluster's catalog.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::model::table::Catalog;
use crate::model::{Class, Classify, Relation, RelationColumn};
use crate::stream::message::RelationShape;

/// A table at the source does not fit the catalog.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "table {table} at the source has no column \"{column}\", which is part of its key in the cluster. Name or add it \
     there as at the other nodes, then restart pgconcord; the slot keeps the changes meanwhile"
)]
pub struct MissingKeyColumn {
    /// `schema.name`.
    pub table: String,
    /// The column's name.
    pub column: String,
}

impl Classify for MissingKeyColumn {
    fn class(&self) -> Class {
        Class::Operator
    }
}

/// The shapes that hold at this point of the stream.
#[derive(Debug)]
pub struct Relations {
    catalog: Arc<Catalog>,
    by_oid: FxHashMap<u32, Arc<Relation>>,
}

impl Relations {
    /// Knows nothing yet; the source announces each relation before its first change.
    pub fn new(catalog: Arc<Catalog>) -> Relations {
        Relations { catalog, by_oid: FxHashMap::default() }
    }

    /// The tables that replicate.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The relation of that OID as last announced.
    pub fn get(&self, oid: u32) -> Option<&Arc<Relation>> {
        self.by_oid.get(&oid)
    }

    /// Takes an announcement; one that says what is known already changes nothing.
    pub fn announce(&mut self, shape: RelationShape) -> Result<(), MissingKeyColumn> {
        let relation = self.bind(shape)?;
        match self.by_oid.get(&relation.oid) {
            Some(known) if **known == relation => {}
            _ => drop(self.by_oid.insert(relation.oid, Arc::new(relation))),
        }
        Ok(())
    }

    fn bind(&self, shape: RelationShape) -> Result<Relation, MissingKeyColumn> {
        let RelationShape { oid, schema, name, mut columns } = shape;
        let table = self.catalog.find(&schema, &name).cloned();
        let (mut column_of, mut key_positions) = (vec![None; columns.len()], Vec::new());
        if let Some(table) = &table {
            column_of = columns.iter().map(|column| table.column(&column.name)).collect();
            let position = |key: &usize| {
                column_of.iter().position(|column| *column == Some(*key)).ok_or_else(|| MissingKeyColumn {
                    table: table.to_string(),
                    column: table.columns[*key].name.clone(),
                })
            };
            key_positions = table.key.iter().map(position).collect::<Result<_, _>>()?;
            if table.key.is_empty() {
                let name = Relation::NUMBER.to_owned();
                key_positions.push(columns.len());
                columns.push(RelationColumn { name, type_oid: 0, in_identity: true });
                column_of.push(None);
            }
        }
        Ok(Relation { oid, schema, name, columns, table, column_of, key_positions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Class;
    use crate::stream::testing::{catalog, shape};

    #[test]
    fn columns_are_bound_by_name_not_by_place() {
        let mut relations = Relations::new(catalog());
        relations.announce(shape(7, "pairs", &["extra", "b", "a"], &["a", "b"])).unwrap();
        let relation = relations.get(7).unwrap();
        assert_eq!(relation.column_of, [None, Some(1), Some(0)]);
        assert_eq!(relation.key_positions, [2, 1]);
    }

    #[test]
    fn the_same_announcement_again_keeps_the_relation() {
        let mut relations = Relations::new(catalog());
        relations.announce(shape(7, "items", &["id", "v"], &["id"])).unwrap();
        let first = relations.get(7).unwrap().clone();
        relations.announce(shape(7, "items", &["id", "v"], &["id"])).unwrap();
        assert!(Arc::ptr_eq(&first, relations.get(7).unwrap()));
        relations.announce(shape(7, "items", &["id", "v", "w"], &["id"])).unwrap();
        assert!(!Arc::ptr_eq(&first, relations.get(7).unwrap()));
    }

    #[test]
    fn a_table_without_one_of_its_key_columns_is_refused_by_name() {
        let error = Relations::new(catalog()).announce(shape(7, "pairs", &["a", "c"], &["a"])).unwrap_err();
        assert_eq!(error.class(), Class::Operator);
        assert!(error.to_string().contains("public.pairs") && error.to_string().contains("\"b\""), "{error}");
    }

    #[test]
    fn a_relation_that_does_not_replicate_is_known_as_such() {
        let mut relations = Relations::new(catalog());
        relations.announce(shape(8, "stranger", &["x"], &[])).unwrap();
        assert_eq!(relations.get(8).unwrap().table, None);
    }
}
