//! Whether the nodes describe one table alike; what differs is a [`Finding`] at the node that differs from the
//! first one that has it.

use std::collections::BTreeSet;

use crate::model::table::{quote_identifier, quote_literal};
use crate::node::Finding;
use crate::node::catalog::fit::{is_plain_unique, uniques};
use crate::node::catalog::shape::{ColumnShape, IndexShape, TableShape};
use crate::node::catalog::types::{Folding, TypeKind, TypeShape};

const CHECK: &str = "schema";

/// One table at every node; `None` where it is missing.
pub(super) type Row<'a> = [(&'a str, Option<&'a TableShape>)];

/// What differs; an error among it keeps the table out.
pub(super) fn compare(row: &Row<'_>) -> Vec<Finding> {
    let Some((first_node, first)) = row.iter().find_map(|(node, table)| Some((*node, (*table)?))) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for (node, table) in row.iter().filter(|(node, _)| *node != first_node) {
        let found = match table {
            None => vec![Finding::error(CHECK, format!("is missing here; {first_node} has it")).fix(format!(
                "pg_dump --schema-only --table='{}' at {first_node}; run what it prints here",
                first.sql_name()
            ))],
            Some(table) => Pair { first_node, first, table }.compare(),
        };
        findings.extend(found.into_iter().map(|finding| finding.at(node).about(first.shown())));
    }
    findings.extend(unfilled(row, first_node, first));
    findings
}

/// Columns of the first node's that a third one lacks, and that here can't do without a value from elsewhere: no pair with
/// the first node shows that.
fn unfilled(row: &Row<'_>, first_node: &str, first: &TableShape) -> Vec<Finding> {
    let tables = || row.iter().filter_map(|(node, table)| Some((*node, (*table)?)));
    let mut findings = Vec::new();
    for (node, table) in tables().filter(|(node, _)| *node != first_node) {
        for column in table.columns.iter().filter(|column| !column.does_without()) {
            let lacking = tables().find(|(_, other)| other.column(&column.name).is_none());
            // Where the first node lacks it, or can't do without it either, that is said already.
            let is_told = first.column(&column.name).is_none_or(|first| !first.does_without());
            if let Some((lacks, other)) = lacking.filter(|_| !is_told) {
                let what = format!("has the column {}, which {lacks} lacks", column.name);
                let finding = one_sided(column, what, &add_column(other, column), &format!("at {lacks}: "));
                findings.push(finding.at(node).about(table.shown()));
            }
        }
    }
    findings
}

struct Pair<'a> {
    first_node: &'a str,
    first: &'a TableShape,
    table: &'a TableShape,
}

impl Pair<'_> {
    fn compare(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for column in &self.first.columns {
            match self.table.column(&column.name) {
                None => findings.push(self.missing(column)),
                Some(here) => findings.extend(self.column(column, here)),
            }
        }
        for column in self.table.columns.iter().filter(|column| self.first.column(&column.name).is_none()) {
            findings.push(self.extra(column));
        }
        findings.extend(self.keys());
        findings.extend(self.uniques());
        findings
    }

    fn missing(&self, column: &ColumnShape) -> Finding {
        let what = format!("lacks the column {}, which {} has", column.name, self.first_node);
        one_sided(column, what, &add_column(self.table, column), "")
    }

    fn extra(&self, column: &ColumnShape) -> Finding {
        let what = format!("has the column {}, which {} lacks", column.name, self.first_node);
        one_sided(column, what, &add_column(self.first, column), &format!("at {}: ", self.first_node))
    }

    fn column(&self, first: &ColumnShape, here: &ColumnShape) -> Vec<Finding> {
        let (name, node) = (&first.name, self.first_node);
        let mut findings = Vec::new();
        if let Some(difference) = here.base.difference(&first.base) {
            let what = format!("column {name} is not what it is at {node}: {difference}");
            findings.push(Finding::error(CHECK, what));
        } else if first.shown_type != here.shown_type {
            let what = format!(
                "column {name} is {} here and {} at {node}: values that fit only one of them stop the link",
                here.shown_type, first.shown_type
            );
            findings.push(Finding::warning(CHECK, what));
        }
        if first.generated != here.generated {
            let which = if here.generated { "here" } else { node };
            findings.push(Finding::error(CHECK, format!("column {name} is generated {which} only")));
        }
        if first.not_null != here.not_null {
            let which = if here.not_null { "here" } else { node };
            let what = format!("column {name} is NOT NULL {which} only: a NULL from elsewhere stops the link");
            findings.push(Finding::warning(CHECK, what));
        }
        if let (Some(Folding::ByCharacter(theirs)), Some(Folding::ByCharacter(ours))) = (&first.folding, &here.folding)
            && let Some(character) = theirs.first_difference(ours)
        {
            let what = format!(
                "column {name}: the lower case of {character:?} is another one than at {node}, so citext compares otherwise"
            );
            findings.push(Finding::error(CHECK, what));
        }
        findings.extend(self.labels(first, here));
        findings
    }

    /// Of each enum in the column's type.
    fn labels(&self, first: &ColumnShape, here: &ColumnShape) -> Vec<Finding> {
        let (mut at_first, mut at_here) = (Vec::new(), Vec::new());
        first.base.enums(&mut at_first);
        here.base.enums(&mut at_here);
        at_first.iter().zip(at_here).filter_map(|(first, here)| self.labels_of(first, here)).collect()
    }

    fn labels_of(&self, first: &TypeShape, here: &TypeShape) -> Option<Finding> {
        let (TypeKind::Enum(firsts), TypeKind::Enum(heres)) = (&first.kind, &here.kind) else { return None };
        let lacks: Vec<&String> = firsts.iter().filter(|label| !heres.contains(label)).collect();
        let more: Vec<&String> = heres.iter().filter(|label| !firsts.contains(label)).collect();
        if lacks.is_empty() && more.is_empty() {
            return None;
        }
        let what = format!("the labels of {} differ from those at {}", here.sql_name, self.first_node);
        let add = |label: &&String| format!("ALTER TYPE {} ADD VALUE {};", here.sql_name, quote_literal(label));
        let there = |label: &&String| format!("at {}: {}", self.first_node, add(label));
        let fix: Vec<String> = lacks.iter().map(add).chain(more.iter().map(there)).collect();
        Some(Finding::error(CHECK, what).fix(fix.join("\n")))
    }

    fn keys(&self) -> Option<Finding> {
        let key = |table: &TableShape| match table.key_index() {
            Some(index) => Some(index.columns.clone()),
            None => table.insert_only.then(Vec::new),
        };
        let (first, here) = (key(self.first)?, key(self.table)?);
        let (first, here) = (set(&first), set(&here));
        let what = || format!("the key is ({}) here and ({}) at {}", list(&here), list(&first), self.first_node);
        (first != here).then(|| Finding::error(CHECK, what()))
    }

    fn is_plain(&self, index: &IndexShape) -> bool {
        is_plain_unique(self.first, index)
    }

    /// A value that is unique at one node only is a duplicate waiting to happen there.
    fn uniques(&self) -> Vec<Finding> {
        let (first, here) = (uniques(self.first), uniques(self.table));
        let alike = |a: &IndexShape, b: &IndexShape| match (self.is_plain(a), self.is_plain(b)) {
            (true, true) => same(a, b),
            (false, false) => a.rule == b.rule || a.name == b.name && set(&a.looks_at) == set(&b.looks_at),
            _ => false,
        } && a.immediate == b.immediate;
        let absent = |index: &&&IndexShape, from: &[&IndexShape]| !from.iter().any(|other| alike(index, other));
        let lacking = first.iter().filter(|index| absent(index, &here)).map(|index| {
            Finding::error(CHECK, format!("lacks the unique index {}, which {} has", index.name, self.first_node))
                .fix(format!("{};", index.definition))
        });
        let extra = here.iter().filter(|index| absent(index, &first)).map(|index| {
            Finding::error(CHECK, format!("has the unique index {}, which {} lacks", index.name, self.first_node))
                .fix(format!("at {}: {};", self.first_node, index.definition))
        });
        lacking.chain(extra).collect()
    }
}

/// Rows that come from elsewhere have no value for a column that only one side has: it must do without.
fn one_sided(column: &ColumnShape, what: String, add: &str, at: &str) -> Finding {
    let finding = match column.does_without() {
        true => Finding::warning(CHECK, format!("{what}: it keeps its values to itself")),
        false => Finding::error(
            CHECK,
            format!("{what}: it has no default and allows no NULL, so other rows can't be written"),
        ),
    };
    finding.fix(format!("{at}{add}"))
}

fn add_column(table: &TableShape, column: &ColumnShape) -> String {
    format!("ALTER TABLE {} ADD COLUMN {} {};", table.sql_name(), quote_identifier(&column.name), column.shown_type)
}

/// Whether two unique indexes forbid the same rows.
pub(super) fn same(a: &IndexShape, b: &IndexShape) -> bool {
    set(&a.columns) == set(&b.columns) && a.nulls_not_distinct == b.nulls_not_distinct
}

fn set(columns: &[String]) -> BTreeSet<&str> {
    columns.iter().map(String::as_str).collect()
}

fn list(columns: &BTreeSet<&str>) -> String {
    columns.iter().copied().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Level;

    fn found(change: impl Fn(&mut TableShape)) -> Vec<Finding> {
        let east = TableShape::sample();
        let mut west = TableShape::sample();
        change(&mut west);
        compare(&[("east", Some(&east)), ("west", Some(&west))])
    }

    #[test]
    fn equal_tables_leave_no_finding_whatever_the_order_of_columns() {
        assert_eq!(found(|table| table.columns.reverse()), vec![]);
    }

    #[test]
    fn a_missing_table_is_named_at_the_node_that_lacks_it() {
        let east = TableShape::sample();
        let findings = compare(&[("north", None), ("east", Some(&east)), ("west", None)]);
        let nodes: Vec<_> = findings.iter().map(|finding| finding.node.as_deref().unwrap()).collect();
        assert_eq!(nodes, ["north", "west"]);
    }

    #[test]
    fn a_column_of_one_side_may_stay_if_it_does_without_values_from_elsewhere() {
        let extra = |not_null, has_default| {
            let extra = ColumnShape { not_null, has_default, ..ColumnShape::of("extra", "text", "pg_catalog.text") };
            found(move |table| table.columns.push(extra.clone()))[0].level
        };
        assert_eq!(extra(false, false), Level::Warning);
        assert_eq!(extra(true, true), Level::Warning);
        assert_eq!(extra(true, false), Level::Error);
    }

    #[test]
    fn a_column_that_one_of_three_lacks_and_another_can_not_do_without_is_an_error() {
        let with = |not_null| {
            let mut table = TableShape::sample();
            table.columns.push(ColumnShape { not_null, ..ColumnShape::of("extra", "text", "pg_catalog.text") });
            table
        };
        let (east, west, north) = (with(false), TableShape::sample(), with(true));
        let findings = compare(&[("east", Some(&east)), ("west", Some(&west)), ("north", Some(&north))]);
        let errors: Vec<_> = findings.iter().filter(|finding| finding.level == Level::Error).collect();
        assert_eq!(errors.len(), 1, "{findings:?}");
        assert_eq!(errors[0].node.as_deref(), Some("north"));
        assert!(errors[0].what.contains("which west lacks"), "{errors:?}");
    }

    #[test]
    fn citext_that_compares_otherwise_is_an_error() {
        use crate::model::CaseMap;
        let folding = |upper| Some(Folding::ByCharacter(CaseMap::new([(upper, "i".to_owned())]).into()));
        let (mut east, mut west) = (TableShape::sample(), TableShape::sample());
        (east.columns[1].folding, west.columns[1].folding) = (folding('I'), folding('İ'));
        let findings = compare(&[("east", Some(&east)), ("west", Some(&west))]);
        assert!(findings[0].what.contains("citext compares otherwise"), "{findings:?}");
        west.columns[1].folding = folding('I');
        assert_eq!(compare(&[("east", Some(&east)), ("west", Some(&west))]), vec![]);
    }

    #[test]
    fn a_renamed_column_is_one_lacking_and_one_too_many() {
        let findings = found(|table| table.columns[1].name = "title".to_owned());
        assert_eq!(findings.len(), 2);
        assert!(findings.iter().all(|finding| finding.fix.as_deref().unwrap().contains("ADD COLUMN")));
    }

    #[test]
    fn another_type_is_an_error_and_another_length_a_warning() {
        let other = |name: &str, shown: &str| {
            found(move |table| {
                table.columns[1].base = TypeShape::base("pg_catalog", name);
                shown.clone_into(&mut table.columns[1].shown_type);
            })
        };
        assert_eq!(other("int8", "bigint")[0].level, Level::Error);
        assert_eq!(other("text", "text(9)")[0].level, Level::Warning);
    }

    #[test]
    fn uniqueness_at_one_node_only_is_an_error_with_the_index_to_make() {
        let findings = found(|table| table.indexes.push(IndexShape::of("t_name", &["name"])));
        assert_eq!(findings[0].level, Level::Error);
        assert!(findings[0].fix.as_deref().unwrap().starts_with("at east: CREATE UNIQUE INDEX"));
    }

    #[test]
    fn a_constraint_that_is_deferrable_at_one_node_only_is_an_error() {
        let (mut east, mut west) = (TableShape::sample(), TableShape::sample());
        east.indexes.push(IndexShape::of("t_name", &["name"]));
        west.indexes.push(IndexShape { immediate: false, ..IndexShape::of("t_name", &["name"]) });
        let findings = compare(&[("east", Some(&east)), ("west", Some(&west))]);
        assert!(findings.iter().any(|finding| finding.level == Level::Error), "{findings:?}");
    }

    #[test]
    fn a_label_that_one_node_lacks_is_added_there() {
        let mut east = TableShape::sample();
        east.columns[1].base.kind = TypeKind::Enum(vec!["glad".to_owned(), "sad".to_owned()]);
        let mut west = east.clone();
        west.columns[1].base.kind = TypeKind::Enum(vec!["glad".to_owned()]);
        let findings = compare(&[("east", Some(&east)), ("west", Some(&west))]);
        assert!(findings[0].fix.as_deref().unwrap().ends_with("ADD VALUE 'sad';"));
    }
}
