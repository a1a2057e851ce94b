//! What `conflicts stats` asks of the journal: how many entries of each kind, counted from the listing's index alone.

use chrono::{DateTime, Utc};
use rusqlite::params_from_iter;

use crate::journal::error::JournalError;
use crate::journal::query::{self, Filter};
use crate::journal::reader::Reader;

/// Entries that are alike in all of this.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Count {
    /// `schema.name`, unquoted.
    pub table: String,
    /// The conflict type's name.
    pub conflict_type: String,
    /// The resolution's name.
    pub resolution: String,
    /// The rule that decided.
    pub rule: String,
    /// The hour in which they were found, where that was asked for.
    pub hour: Option<DateTime<Utc>>,
    /// How many there are.
    pub count: u64,
}

/// Whether entries of different hours are counted apart, which takes longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hours {
    /// Each hour by itself.
    Apart,
    /// All in one.
    Together,
}

impl Reader {
    /// Counts the entries that `filter` admits, whatever its limit. All come from one state of the journal.
    pub fn counts(&self, filter: &Filter, hours: Hours) -> Result<Vec<Count>, JournalError> {
        let run = || {
            let (sql, values) = self.counting(filter, hours)?;
            let mut statement = self.connection.prepare(&sql)?;
            let rows = statement.query_map(params_from_iter(values), |row| {
                Ok(Count {
                    table: row.get(0)?,
                    conflict_type: row.get(1)?,
                    resolution: row.get(2)?,
                    rule: row.get(3)?,
                    hour: row.get::<_, Option<i64>>(4)?.map(query::time).transpose()?,
                    count: row.get::<_, i64>(5)?.unsigned_abs(),
                })
            })?;
            rows.collect::<rusqlite::Result<Vec<Count>>>()
        };
        run().map_err(|error| JournalError::sqlite(&self.path, error))
    }

    fn counting(&self, filter: &Filter, hours: Hours) -> rusqlite::Result<(String, query::Values)> {
        let (source, values) = self.admitted(filter)?;
        let (hour, grouped) = match hours {
            Hours::Apart => ("detected_at / 3600000000", ", 5"),
            Hours::Together => ("NULL", ""),
        };
        let sql = format!(
            "SELECT schema_name || '.' || table_name, conflict_type, resolution, rule, hour * 3600000000, number FROM (
                 SELECT relation, conflict_type, resolution, rule, {hour} AS hour, count(*) AS number
                 FROM {source} GROUP BY 1, 2, 3, 4{grouped}) AS counted
             JOIN relation ON relation.id = counted.relation"
        );
        Ok((sql, values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::store::Store;

    #[test]
    fn counting_reads_the_index_and_no_row() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgconcord.db");
        let _store = Store::open(&path).unwrap();
        let reader = Reader::open(&path).unwrap();
        let filter = Filter { nodes: vec!["east".into()], since: Some(Utc::now()), ..Filter::default() };
        for filter in [Filter::default(), filter] {
            let (sql, values) = reader.counting(&filter, Hours::Together).unwrap();
            let mut plan = reader.connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let steps: Vec<String> = plan
                .query_map(params_from_iter(values), |row| row.get("detail"))
                .unwrap()
                .collect::<rusqlite::Result<_>>()
                .unwrap();
            assert!(steps.iter().any(|step| step.contains("USING COVERING INDEX entry_listing")), "{steps:?}");
        }
    }
}
