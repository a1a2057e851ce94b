//! What `conflicts stats` asks of the journal: how many entries of each kind. Numbers by the hour are kept with the
//! entries; what those don't tell (a key, a status, part of an hour) is counted from the listing's index alone.

use chrono::{DateTime, Utc};
use rusqlite::params_from_iter;

use crate::journal::error::JournalError;
use crate::journal::numbers::HOUR;
use crate::journal::query::{self, Filter};
use crate::journal::reader::Reader;

/// The first format of the file in which numbers are kept (sql/journal_3.sql).
const WITH_NUMBERS: i64 = 3;

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
        let (source, values, hour_of, number) = match self.kept(filter)? {
            Some((source, values)) => (source, values, "hour", "sum(number)"),
            None => {
                let (source, values) = self.admitted(filter)?;
                (source, values, "detected_at / 3600000000", "count(*)")
            }
        };
        let (hour, grouped) = match hours {
            Hours::Apart => (hour_of, ", 5"),
            Hours::Together => ("NULL", ""),
        };
        let sql = format!(
            "SELECT schema_name || '.' || table_name, conflict_type, resolution, rule, hour * 3600000000, number FROM (
                 SELECT relation, conflict_type, resolution, rule, {hour} AS hour, {number} AS number
                 FROM {source} GROUP BY 1, 2, 3, 4{grouped}) AS counted
             JOIN relation ON relation.id = counted.relation"
        );
        Ok((sql, values))
    }

    /// What follows FROM for the numbers that are kept; `None` where they don't tell enough, or where no newer daemon
    /// has written the file yet.
    fn kept(&self, filter: &Filter) -> rusqlite::Result<Option<(String, query::Values)>> {
        if self.format()? < WITH_NUMBERS || !filter.keys.is_empty() || !filter.statuses.is_empty() {
            return Ok(None);
        }
        let (condition, values) = self.condition(&Filter { since: None, ..filter.clone() })?.into_sql();
        let Some(since) = filter.since.map(|since| since.timestamp_micros()) else {
            return Ok(Some((format!("entry_count {condition}"), values)));
        };
        let (hour, next) = (since.div_euclid(HOUR), (since.div_euclid(HOUR) + 1).saturating_mul(HOUR));
        let columns = "relation, conflict_type, source, target, resolution, rule";
        let numbers = format!(
            "(SELECT {columns}, hour, number FROM entry_count WHERE hour > {hour}
              UNION ALL
              SELECT {columns}, {hour} AS hour, 1 AS number FROM entry INDEXED BY entry_listing
              WHERE detected_at >= {since} AND detected_at < {next}) {condition}"
        );
        Ok(Some((numbers, values)))
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::journal::entry::Status;
    use crate::journal::store::{APPLICATION_ID, Store};

    fn steps(reader: &Reader, filter: &Filter) -> String {
        let (sql, values) = reader.counting(filter, Hours::Together).unwrap();
        let mut plan = reader.connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let steps = plan.query_map(params_from_iter(values), |row| row.get("detail")).unwrap();
        steps.collect::<rusqlite::Result<Vec<String>>>().unwrap().join("\n")
    }

    #[test]
    fn counting_reads_kept_numbers_or_the_index_and_no_row() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgconcord.db");
        let _store = Store::open(&path).unwrap();
        let reader = Reader::open(&path).unwrap();
        let index = "USING COVERING INDEX entry_listing";
        let all = steps(&reader, &Filter::default());
        assert!(all.contains("SCAN entry_count") && !all.contains("entry_listing"), "{all}");
        let late = Filter { nodes: vec!["east".into()], since: Some(Utc::now()), ..Filter::default() };
        let late = steps(&reader, &late);
        assert!(late.contains("SCAN entry_count"), "{late}");
        assert!(late.contains(&format!("{index} (detected_at>? AND detected_at<?)")), "{late}");
        let resolved = steps(&reader, &Filter { statuses: vec![Status::Resolved], ..Filter::default() });
        assert!(resolved.contains(index) && !resolved.contains("entry_count"), "{resolved}");
    }

    /// One entry an hour, in turns of two types, from before numbers were kept.
    fn of_version_2(path: &std::path::Path) {
        let file = Connection::open(path).unwrap();
        file.execute_batch(include_str!("../../sql/journal_1.sql")).unwrap();
        file.execute_batch(include_str!("../../sql/journal_2.sql")).unwrap();
        file.pragma_update(None, "user_version", 2).unwrap();
        file.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
        file.execute_batch(
            "INSERT INTO relation VALUES (1, 'public', 'stock');
             WITH RECURSIVE n(n) AS (VALUES (0) UNION ALL SELECT n + 1 FROM n WHERE n < 9)
             INSERT INTO entry (source, target, batch, detected_at, conflict_type, relation, key, resolution, resolver,
                 rule, status, remote_stamp, remote_node, remote_lsn, remote_offset, remote_xid, remote_operation)
             SELECT 'east', 'west', n, 1790000000000000 + n * 3600000000,
                 iif(n % 2 = 0, 'insert_exists', 'update_origin_differs'), 1, '{}', 'apply_remote', 'last_update_wins',
                 'default', 'resolved', 0, 'east', n, 0, 7, 'update' FROM n",
        )
        .unwrap();
    }

    fn sums(reader: &Reader, hours: Hours) -> Vec<(String, Option<DateTime<Utc>>, u64)> {
        let counts = reader.counts(&Filter::default(), hours).unwrap();
        let mut sums: Vec<_> = counts.into_iter().map(|it| (it.conflict_type, it.hour, it.count)).collect();
        sums.sort();
        sums
    }

    #[test]
    fn a_file_of_the_format_before_counts_alike_before_and_after_it_is_opened_for_writing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgconcord.db");
        of_version_2(&path);
        let read = |hours| sums(&Reader::open(&path).unwrap(), hours);
        let before = (read(Hours::Together), read(Hours::Apart));
        assert_eq!(before.0, [("insert_exists".into(), None, 5), ("update_origin_differs".into(), None, 5)]);
        assert_eq!(before.1.len(), 10);
        drop(Store::open(&path).unwrap());
        let reader = Reader::open(&path).unwrap();
        assert!(reader.kept(&Filter::default()).unwrap().is_some());
        assert_eq!((read(Hours::Together), read(Hours::Apart)), before);
    }
}
