//! What `conflicts stats` asks of the journal: how many entries of each kind. Numbers by the hour are kept with the
//! entries; what those don't tell (a key, a status, part of an hour) is counted as `conflicts list` finds it.

use rusqlite::params_from_iter;

use crate::journal::error::JournalError;
use crate::journal::numbers::HOUR;
use crate::journal::query::{self, Filter};
use crate::journal::reader::Reader;

/// The first format of the file in which numbers are kept (sql/journal_3.sql).
const WITH_NUMBERS: i64 = 3;

/// What entries are counted by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// Table, as `schema.name`, unquoted.
    Table,
    /// Conflict type.
    Type,
    /// What was done.
    Resolution,
    /// The rule that decided.
    Rule,
    /// The hour in which they were found.
    Hour,
}

impl By {
    /// Each of them.
    pub const ALL: [By; 5] = [By::Table, By::Type, By::Resolution, By::Rule, By::Hour];

    /// The name as users write it.
    pub fn name(self) -> &'static str {
        match self {
            By::Table => "table",
            By::Type => "type",
            By::Resolution => "resolution",
            By::Rule => "rule",
            By::Hour => "hour",
        }
    }
}

/// Entries that are alike in all that was asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Count {
    /// A value for each [`By`] that was asked for, in that order; hours as `2026-11-28T13:00:00Z`.
    pub values: Vec<String>,
    /// How many there are.
    pub count: u64,
}

impl Reader {
    /// Counts the entries that `filter` admits, whatever its limit, by all of `by` together. All come from one state of
    /// the journal.
    pub fn counts(&self, filter: &Filter, by: &[By]) -> Result<Vec<Count>, JournalError> {
        let run = || {
            let (sql, values) = self.counting(filter, by)?;
            let mut statement = self.connection.prepare(&sql)?;
            let rows = statement.query_map(params_from_iter(values), |row| {
                let value = |(place, by): (usize, &By)| match by {
                    By::Hour => {
                        let hour = query::time(row.get::<_, i64>(place)?.saturating_mul(HOUR))?;
                        Ok(hour.format("%Y-%m-%dT%H:00:00Z").to_string())
                    }
                    _ => row.get(place),
                };
                Ok(Count {
                    values: by.iter().enumerate().map(value).collect::<rusqlite::Result<_>>()?,
                    count: row.get::<_, i64>(by.len())?.unsigned_abs(),
                })
            })?;
            rows.collect::<rusqlite::Result<Vec<Count>>>()
        };
        run().map_err(|error| JournalError::sqlite(&self.path, error))
    }

    fn counting(&self, filter: &Filter, by: &[By]) -> rusqlite::Result<(String, query::Values)> {
        let (source, values, hour, number) = match self.kept(filter)? {
            Some((source, values)) => (source, values, "hour", "sum(number)"),
            None => {
                let (source, values) = self.admitted(filter)?;
                (source, values, "detected_at / 3600000000", "count(*)")
            }
        };
        let column = |by: &By| match by {
            By::Table => "relation",
            By::Type => "conflict_type",
            By::Resolution => "resolution",
            By::Rule => "rule",
            By::Hour => hour,
        };
        let shown = |(place, by): (usize, &By)| match by {
            By::Table => {
                format!(
                    "(SELECT schema_name || '.' || table_name FROM relation WHERE relation.id = counted.by_{place})"
                )
            }
            _ => format!("by_{place}"),
        };
        let names = || (0..by.len()).map(|place| format!("by_{place}"));
        let columns: String = by.iter().zip(names()).map(|(by, name)| format!("{} AS {name}, ", column(by))).collect();
        let shown: String = by.iter().enumerate().map(|it| shown(it) + ", ").collect();
        let sql = format!(
            "SELECT {shown}number FROM (SELECT {columns}{number} AS number FROM {source} GROUP BY {}) AS counted",
            names().collect::<Vec<_>>().join(", ")
        );
        Ok((sql, values))
    }

    /// What follows FROM for the numbers that are kept; `None` where they don't tell enough, or where no newer daemon
    /// has written the file yet.
    fn kept(&self, filter: &Filter) -> rusqlite::Result<Option<(String, query::Values)>> {
        let format = self.format()?;
        if format < WITH_NUMBERS || !filter.keys.is_empty() || !filter.statuses.is_empty() {
            return Ok(None);
        }
        let (condition, values) = self.condition(&Filter { since: None, ..filter.clone() }, format)?.into_sql();
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
    use chrono::Utc;
    use rusqlite::Connection;

    use super::*;
    use crate::journal::entry::Status;
    use crate::journal::store::{APPLICATION_ID, Store};
    use crate::journal::{Retention, keys, prune};

    const ALIKE: [By; 4] = [By::Table, By::Type, By::Resolution, By::Rule];

    fn steps(reader: &Reader, filter: &Filter) -> String {
        let (sql, values) = reader.counting(filter, &ALIKE).unwrap();
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
                 iif(n % 2 = 0, 'insert_exists', 'update_origin_differs'), 1, json_object('id', cast(n AS TEXT)),
                 'apply_remote', 'last_update_wins', 'default', 'resolved', 0, 'east', n, 0, 7, 'update' FROM n",
        )
        .unwrap();
    }

    fn sums(reader: &Reader, by: &[By]) -> Vec<(String, u64)> {
        let counts = reader.counts(&Filter::default(), by).unwrap();
        let mut sums: Vec<_> = counts.into_iter().map(|it| (it.values.join(" "), it.count)).collect();
        sums.sort();
        sums
    }

    #[test]
    fn a_file_of_the_format_before_counts_alike_before_and_after_it_is_opened_for_writing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgconcord.db");
        of_version_2(&path);
        let read = |by: &[By]| sums(&Reader::open(&path).unwrap(), by);
        let before = (read(&[By::Type]), read(&[By::Hour, By::Table]));
        assert_eq!(before.0, [("insert_exists".into(), 5), ("update_origin_differs".into(), 5)]);
        assert_eq!(before.1.len(), 10);
        assert_eq!(before.1[0], ("2026-09-21T14:00:00Z public.stock".into(), 1));
        drop(Store::open(&path).unwrap());
        let reader = Reader::open(&path).unwrap();
        assert!(reader.kept(&Filter::default()).unwrap().is_some());
        assert_eq!((read(&[By::Type]), read(&[By::Hour, By::Table])), before);
    }

    #[test]
    fn a_file_of_a_format_before_is_read_and_pruned_and_only_the_daemon_changes_its_format() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgconcord.db");
        of_version_2(&path);
        let by_key = |id: &str| {
            let filter = Filter { keys: vec![query::KeyFilter(format!("id={id}"))], ..Filter::default() };
            let mut found = Vec::new();
            let take = |entry: query::Entry| {
                found.push(entry.id);
                true
            };
            Reader::open(&path).unwrap().list(&filter, take).unwrap();
            found
        };
        let resolved = || {
            let filter = Filter { statuses: vec![Status::Resolved], ..Filter::default() };
            let counts = Reader::open(&path).unwrap().counts(&filter, &[By::Type]).unwrap();
            counts.iter().map(|it| it.count).sum::<u64>()
        };
        let keep = Retention { age: Some(std::time::Duration::from_secs(3600)), size: None };
        let at = |hour: i64| query::time(1_790_000_000_000_001 + (hour + 1) * HOUR).unwrap();
        let prunable = |hour| Reader::open(&path).unwrap().prunable(at(hour), keep).unwrap().old;
        let format = || Reader::open(&path).unwrap().format().unwrap();
        assert_eq!((by_key("7"), resolved(), prunable(1), format()), (vec![8], 10, 2, 2));
        assert_eq!(prune(&path, at(1), keep).unwrap(), 2);
        assert_eq!((by_key("7"), by_key("1"), resolved(), prunable(2), format()), (vec![8], vec![], 8, 1, 4));
        let mut store = Store::open(&path).unwrap();
        assert_eq!((by_key("7"), by_key("1"), resolved(), prunable(2), format()), (vec![8], vec![], 8, 1, 5));
        assert_eq!(keys::waiting(store.connection()).unwrap(), 0, "all keys are in since before");
        store.write(keys::take_in).unwrap();
        assert_eq!(by_key("7"), [8]);
    }
}
