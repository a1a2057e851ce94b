//! What `conflicts` asks of the journal: entries by filter, newest first, and one by its id.
//!
//! Most filters are answered from one covering index in time order, so a list stops at its limit, and a filter that
//! matches nothing reads some tens of bytes an entry and never the rows. A key and what is pending or held have indexes
//! of their own.

use chrono::{DateTime, Utc};
use globset::{Glob, GlobMatcher};
use rusqlite::types::Type;
use rusqlite::{OptionalExtension, Row, ToSql, params_from_iter};
use serde::{Serialize, Serializer};

use crate::journal::entry::{JsonRow, Operation, Status};
use crate::journal::error::JournalError;
use crate::journal::keys;
use crate::journal::reader::Reader;
use crate::journal::states;
use crate::model::ConflictType;
use crate::model::Resolution;

/// An entry as it stands in the journal. Serialised it has the fields of `conflicts list --json`.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Entry {
    /// Its number; never given out twice.
    pub id: i64,
    /// When it was found, by the daemon's clock.
    #[serde(serialize_with = "micros")]
    pub detected_at: DateTime<Utc>,
    /// What kind it is.
    #[serde(rename = "type")]
    pub conflict_type: ConflictType,
    /// `schema.name`, unquoted.
    pub table: String,
    /// The row's key.
    pub key: JsonRow,
    /// Where the change came from.
    pub source: String,
    /// Where it met another.
    pub target: String,
    /// What was done.
    pub resolution: Resolution,
    /// What decided.
    pub resolver: String,
    /// The rule that chose it.
    pub rule: String,
    /// Whether the target has it.
    pub status: Status,
    /// The change that arrived.
    pub remote: EntryRemote,
    /// What it met, if that is known.
    pub local: Option<EntryLocal>,
    /// The row afterwards; `None`: there is none.
    pub result: Option<JsonRow>,
    /// The batch of the link that it belongs to.
    #[serde(skip)]
    pub batch: i64,
    /// A sentence of the resolver's.
    #[serde(skip)]
    pub note: Option<String>,
}

/// The change that arrived.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct EntryRemote {
    /// When it was committed, by its node's clock.
    #[serde(serialize_with = "micros")]
    pub stamp: DateTime<Utc>,
    /// Where, in the source's log.
    pub lsn: String,
    /// Its transaction there.
    pub xid: u32,
    /// The row after it.
    pub row: Option<JsonRow>,
    /// What the source sent of the row before it.
    pub old: Option<JsonRow>,
    /// Where it was committed first.
    #[serde(skip)]
    pub node: String,
    /// What it did.
    #[serde(skip)]
    pub operation: Operation,
}

/// What it met.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct EntryLocal {
    /// When that was committed, if known.
    #[serde(serialize_with = "micros_if_any")]
    pub stamp: Option<DateTime<Utc>>,
    /// Where it was committed first, if known.
    pub node: Option<String>,
    /// The row; `None` where there was none.
    pub row: Option<JsonRow>,
    /// What had been done.
    #[serde(skip)]
    pub operation: Operation,
}

/// Which tables: a glob over `schema.name`, or over the name alone if it has no dot.
#[derive(Clone, Debug)]
pub struct TableFilter {
    matcher: GlobMatcher,
    whole: bool,
}

impl std::str::FromStr for TableFilter {
    type Err = globset::Error;

    fn from_str(text: &str) -> Result<TableFilter, globset::Error> {
        Ok(TableFilter { matcher: Glob::new(text)?.compile_matcher(), whole: text.contains('.') })
    }
}

impl TableFilter {
    fn matches(&self, schema: &str, table: &str) -> bool {
        if self.whole { self.matcher.is_match(format!("{schema}.{table}")) } else { self.matcher.is_match(table) }
    }
}

/// Which key: `column=value`, or a value of any key column.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyFilter(pub String);

/// Which entries. An empty list asks for nothing in particular.
#[derive(Clone, Default, Debug)]
pub struct Filter {
    /// Of one of these tables.
    pub tables: Vec<TableFilter>,
    /// Of one of these types.
    pub types: Vec<ConflictType>,
    /// With one of these nodes at either end of the link.
    pub nodes: Vec<String>,
    /// With all of these in the key.
    pub keys: Vec<KeyFilter>,
    /// Found at or after this.
    pub since: Option<DateTime<Utc>>,
    /// In one of these states.
    pub statuses: Vec<Status>,
    /// At most so many, the newest.
    pub limit: Option<u32>,
}

/// The first format of the file with the status in indexes of its own, and with keys that are taken in later
/// (sql/journal_5.sql).
const LEAN: i64 = 5;

/// What the marks of a statement stand for.
pub(super) type Values = Vec<Box<dyn ToSql>>;

/// A WHERE clause with its values.
#[derive(Default)]
pub(super) struct Condition {
    clauses: Vec<String>,
    values: Vec<Box<dyn ToSql>>,
}

impl Condition {
    /// Adds `column IN (…)`; several columns are alternatives.
    fn any_of<T: ToSql + Clone + 'static>(&mut self, columns: &[&str], values: &[T]) {
        let marks = vec!["?"; values.len()].join(", ");
        let clauses: Vec<String> = columns.iter().map(|column| format!("{column} IN ({marks})")).collect();
        self.clauses.push(format!("({})", clauses.join(" OR ")));
        for _ in columns {
            self.values.extend(values.iter().map(|value| Box::new(value.clone()) as Box<dyn ToSql>));
        }
    }

    /// `WHERE …`, or nothing, with the values of its marks.
    pub(super) fn into_sql(self) -> (String, Values) {
        let keyword = if self.clauses.is_empty() { "" } else { "WHERE " };
        (format!("{keyword}{}", self.clauses.join(" AND ")), self.values)
    }

    fn add(&mut self, clause: &str, values: impl IntoIterator<Item = Box<dyn ToSql>>) {
        self.clauses.push(clause.to_owned());
        self.values.extend(values);
    }
}

const COLUMNS: &str = "entry.id, detected_at, conflict_type, schema_name, table_name, key, source, target, resolution,
    resolver, rule, status, remote_stamp, remote_lsn, remote_xid, remote_row, remote_old, remote_node,
    remote_operation, local_stamp, local_node, local_row, local_operation, result, batch, note";

impl Reader {
    /// Calls `each` with every entry that `filter` admits, newest first, until it returns `false`. All come from one
    /// state of the journal.
    pub fn list(&self, filter: &Filter, mut each: impl FnMut(Entry) -> bool) -> Result<(), JournalError> {
        let mut run = || {
            let snapshot = self.connection.unchecked_transaction()?;
            let (sql, values) = self.listing(filter)?;
            let mut ids = snapshot.prepare(&sql)?;
            let mut ids = ids.query(params_from_iter(values))?;
            while let Some(row) = ids.next()? {
                if let Some(entry) = self.entry(row.get(0)?)?
                    && !each(entry)
                {
                    break;
                }
            }
            Ok(())
        };
        run().map_err(|error| JournalError::sqlite(&self.path, error))
    }

    /// The entry of that number.
    pub fn get(&self, id: i64) -> Result<Option<Entry>, JournalError> {
        self.entry(id).map_err(|error| JournalError::sqlite(&self.path, error))
    }

    fn entry(&self, id: i64) -> rusqlite::Result<Option<Entry>> {
        let sql =
            format!("SELECT {COLUMNS} FROM entry JOIN relation ON relation.id = entry.relation WHERE entry.id = ?1");
        self.connection.prepare_cached(&sql)?.query_row([id], read).optional()
    }

    /// The statement that finds the numbers of the entries.
    pub(super) fn listing(&self, filter: &Filter) -> rusqlite::Result<(String, Values)> {
        let (source, values) = self.admitted(filter)?;
        let limit = filter.limit.map_or(-1, i64::from);
        Ok((format!("SELECT id FROM {source} ORDER BY detected_at DESC, id DESC LIMIT {limit}"), values))
    }

    /// What follows FROM for the entries that `filter` admits, whatever its limit.
    pub(super) fn admitted(&self, filter: &Filter) -> rusqlite::Result<(String, Values)> {
        let format = self.format()?;
        // Without statistics SQLite might take another index and sort the rows.
        let index = match filter.statuses[..] {
            _ if !filter.keys.is_empty() => "",
            [Status::Held] if format >= LEAN => states::HELD_IN_ORDER,
            [_, ..] if format >= LEAN && !filter.statuses.contains(&Status::Resolved) => "",
            _ => "INDEXED BY entry_listing",
        };
        let (condition, values) = self.condition(filter, format)?.into_sql();
        Ok((format!("entry {index} {condition}"), values))
    }

    /// What `filter` asks of an entry, in a file of that format.
    pub(super) fn condition(&self, filter: &Filter, format: i64) -> rusqlite::Result<Condition> {
        let mut condition = Condition::default();
        if !filter.tables.is_empty() {
            condition.any_of(&["relation"], &self.relations(&filter.tables)?);
        }
        if !filter.types.is_empty() {
            condition.any_of(&["conflict_type"], &names(&filter.types, |it| it.name()));
        }
        if !filter.nodes.is_empty() {
            condition.any_of(&["source", "target"], &filter.nodes);
        }
        if !filter.statuses.is_empty() && format >= LEAN {
            condition.add(&states::any_of(&filter.statuses), []);
        } else if !filter.statuses.is_empty() {
            condition.any_of(&["status"], &names(&filter.statuses, |it| it.name()));
        }
        if let Some(since) = filter.since {
            condition.add("detected_at >= ?", [Box::new(since.timestamp_micros()) as Box<dyn ToSql>]);
        }
        for key in &filter.keys {
            let (name, value) = key.0.split_once('=').unwrap_or(("", ""));
            let marked = [key.0.as_str(), value, name];
            let all_taken_in = format < LEAN;
            let found = if all_taken_in {
                keys::LOOKED_UP
            } else {
                &format!("{} UNION ALL {}", keys::LOOKED_UP, keys::SEARCHED)
            };
            let values = marked.into_iter().cycle().take(if all_taken_in { 3 } else { 6 });
            condition.add(&format!("id IN ({found})"), values.map(|text| Box::new(text.to_owned()) as Box<dyn ToSql>));
        }
        Ok(condition)
    }

    fn relations(&self, tables: &[TableFilter]) -> rusqlite::Result<Vec<i64>> {
        let mut statement = self.connection.prepare_cached("SELECT id, schema_name, table_name FROM relation")?;
        let rows =
            statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?)))?;
        let wanted = |(id, schema, table): (i64, String, String)| {
            tables.iter().any(|filter| filter.matches(&schema, &table)).then_some(id)
        };
        rows.filter_map(|row| row.map(wanted).transpose()).collect()
    }
}

fn names<T: Copy>(values: &[T], name: impl Fn(T) -> &'static str) -> Vec<&'static str> {
    values.iter().map(|value| name(*value)).collect()
}

/// One row of [`COLUMNS`].
fn read(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let operation = |column: &str| {
        let found =
            row.get::<_, Option<String>>(column)?.map(|name| Operation::of(&name).ok_or_else(|| unknown(&name)));
        found.transpose()
    };
    let local = match operation("local_operation")? {
        None => None,
        Some(operation) => Some(EntryLocal {
            stamp: row.get::<_, Option<i64>>("local_stamp")?.map(time).transpose()?,
            node: row.get("local_node")?,
            row: json(row, "local_row")?,
            operation,
        }),
    };
    Ok(Entry {
        id: row.get("id")?,
        detected_at: time(row.get("detected_at")?)?,
        conflict_type: named(row, "conflict_type")?,
        table: format!("{}.{}", row.get::<_, String>("schema_name")?, row.get::<_, String>("table_name")?),
        key: json(row, "key")?.unwrap_or_default(),
        source: row.get("source")?,
        target: row.get("target")?,
        resolution: named(row, "resolution")?,
        resolver: row.get("resolver")?,
        rule: row.get("rule")?,
        status: row.get::<_, String>("status").and_then(|name| Status::of(&name).ok_or_else(|| unknown(&name)))?,
        remote: EntryRemote {
            stamp: time(row.get("remote_stamp")?)?,
            lsn: row.get("remote_lsn")?,
            xid: row.get("remote_xid")?,
            row: json(row, "remote_row")?,
            old: json(row, "remote_old")?,
            node: row.get("remote_node")?,
            operation: operation("remote_operation")?.ok_or_else(|| unknown("NULL"))?,
        },
        local,
        result: json(row, "result")?,
        batch: row.get("batch")?,
        note: row.get("note")?,
    })
}

fn json(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<JsonRow>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| serde_json::from_str(&text).map_err(|error| unreadable(error.into()))).transpose()
}

fn named<T: std::str::FromStr<Err = String>>(row: &Row<'_>, column: &str) -> rusqlite::Result<T> {
    row.get::<_, String>(column)?.parse().map_err(|error: String| unreadable(error.into()))
}

pub(super) fn time(unix_micros: i64) -> rusqlite::Result<DateTime<Utc>> {
    DateTime::from_timestamp_micros(unix_micros).ok_or_else(|| unknown(&format!("time {unix_micros}")))
}

fn unknown(value: &str) -> rusqlite::Error {
    unreadable(format!("an entry holds {value:?}, which this pgconcord does not know").into())
}

fn unreadable(error: Box<dyn std::error::Error + Send + Sync>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Text, error)
}

fn micros<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&time.format("%Y-%m-%dT%H:%M:%S%.6fZ"))
}

fn micros_if_any<S: Serializer>(time: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => micros(time, serializer),
        None => serializer.serialize_none(),
    }
}
