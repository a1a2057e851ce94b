//! What a rule gives a row that loses a unique value to another row, instead of having it deleted.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::Table;
use crate::model::table::{UniqueIndex, quote_identifier};

/// New values by column, each an SQL expression over the row as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rename(pub BTreeMap<String, String>);

impl Rename {
    /// The new values of a row that loses what these indexes look at: those of the columns that they look at. `None` if one of
    /// them looks at no column that is given another value.
    pub fn for_indexes<'i>(
        &self,
        table: &Table,
        indexes: impl Iterator<Item = &'i UniqueIndex> + Clone,
    ) -> Option<NewValues> {
        let named: BTreeSet<usize> = self.0.keys().filter_map(|name| table.column(name)).collect();
        let frees = |index: &UniqueIndex| index.columns.iter().any(|column| named.contains(column));
        let looked_at: BTreeSet<usize> = indexes.clone().flat_map(|index| index.columns.iter().copied()).collect();
        let all_freed = !looked_at.is_empty() && indexes.clone().all(frees);
        let values = self.values(table).filter(|(column, _)| looked_at.contains(column));
        all_freed.then(|| NewValues(values.collect()))
    }

    /// All of them that the table has columns for.
    pub fn all(&self, table: &Table) -> NewValues {
        NewValues(self.values(table).collect())
    }

    fn values<'a>(&'a self, table: &'a Table) -> impl Iterator<Item = (usize, String)> + 'a {
        self.0.iter().filter_map(|(name, value)| Some((table.column(name)?, value.clone())))
    }
}

/// Columns of a table, as indices into [`Table::columns`], and the SQL expressions of their new values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewValues(Vec<(usize, String)>);

impl NewValues {
    /// What follows SET in an UPDATE.
    pub fn assignments(&self, table: &Table) -> String {
        let each = |(column, value): &(usize, String)| {
            format!("{} = ({value})", quote_identifier(&table.columns[*column].name))
        };
        self.0.iter().map(each).collect::<Vec<_>>().join(", ")
    }

    /// The expression of a column's new value.
    pub fn of(&self, column: usize) -> Option<&str> {
        self.0.iter().find(|(of, _)| *of == column).map(|(_, value)| value.as_str())
    }

    /// The columns' names, for people.
    pub fn names(&self, table: &Table) -> String {
        self.0.iter().map(|(column, _)| table.columns[*column].name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(columns: &[usize]) -> UniqueIndex {
        let columns = columns.to_vec();
        UniqueIndex { name: "i".into(), columns, nulls_not_distinct: false, deferrable: false, rule: None }
    }

    #[test]
    fn a_row_gets_new_values_of_what_it_loses_and_of_nothing_else() {
        let table = Table::of_texts("t", &["id", "e\"mail", "name", "site"]);
        let pairs = [("e\"mail", "'x' || id"), ("name", "name || id"), ("gone", "1")];
        let rename = Rename(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        let set = |indexes: &[UniqueIndex]| {
            rename.for_indexes(&table, indexes.iter()).map(|values| values.assignments(&table))
        };
        assert_eq!(set(&[index(&[1])]).as_deref(), Some(r#""e""mail" = ('x' || id)"#));
        assert_eq!(set(&[index(&[1]), index(&[3, 2])]), Some(rename.all(&table).assignments(&table)));
        assert_eq!(set(&[index(&[1]), index(&[3])]), None, "nothing frees the site");
        assert_eq!(set(&[]), None);
    }
}
