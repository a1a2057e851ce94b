//! What the target refuses and a rule lets it do without (R11): put on record at the target in the batch's own transaction,
//! with what the row should be; taken off once its key is written again, by a later change or when it is tried again.

use std::sync::Arc;

use crate::apply::error::ApplyError;
use crate::apply::execute::{Applied, Execution};
use crate::apply::net::{Content, Folded, Net, Row};
use crate::apply::record::{Conflict, Recorder, Refusal, Side};
use crate::apply::session::ApplySession;
use crate::apply::shared::Shared;
use crate::apply::unique::{self, Claim, Claimant, Outcome, ROUNDS};
use crate::apply::{note, slow, sql};
use crate::conflict::window::KeyMap;
use crate::conflict::{Batch, ChangeRef, Held, HeldChange, Operation};
use crate::model::table::Catalog;
use crate::model::{Cell, ConflictType, KeyId, Lsn, Relation, Resolution, Stamp, Table, Tuple, Xid};
use crate::wire::{self, Param};

const HOLD: &str = "INSERT INTO pgconcord.held (cluster, relation, key, home, stamp, lsn, xid, columns, cells, error) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (cluster, relation, key) DO UPDATE SET \
     home = EXCLUDED.home, stamp = EXCLUDED.stamp, lsn = EXCLUDED.lsn, xid = EXCLUDED.xid, columns = EXCLUDED.columns, \
     cells = EXCLUDED.cells, error = EXCLUDED.error, at = DEFAULT, held_at = DEFAULT RETURNING id, at";
const RELEASE: &str = "DELETE FROM pgconcord.held WHERE id = $1::int8";
/// One row for each of the key's cells.
const READ: &str = "SELECT h.id, h.relation, h.at, k.cell FROM pgconcord.held AS h, unnest(h.key) WITH ORDINALITY AS k(cell, ord) \
     WHERE h.cluster = $1 ORDER BY h.id, k.ord";
/// One row for each of the columns; if the row should not be there, one that names none. Of several arrays `unnest` is grammar, not a
/// function: unqualified.
const READ_ONE: &str = "SELECT u.name, u.cell, h.home, h.stamp, h.lsn, h.xid FROM pgconcord.held AS h \
     LEFT JOIN LATERAL unnest(h.columns, h.cells) AS u(name, cell) ON true WHERE h.id = $1::int8";

/// What is on record as refused.
struct Recorded {
    /// The row that should stand; none if none should.
    row: Option<Row>,
    /// Who made it.
    by: Claimant,
}

/// What should stand under a key instead of what does.
struct Refused {
    content: Content,
    remote: Side,
    offset: u64,
}

impl<R: Recorder> Execution<'_, R> {
    /// Whether the row is on record as refused.
    pub(super) fn is_held(&self, key: KeyId) -> bool {
        self.shared.coordinator().held(self.batch.link.target, key).is_some()
    }

    /// Whether the target refuses a row of the table, and a rule lets it do without.
    pub(super) fn may_hold(&self, table: &Table, error: &ApplyError) -> bool {
        is_refusal(error) && self.recorder.holds(table)
    }

    /// Puts what a change's key should be on record; what was written of it is undone. A key change is tried by halves.
    pub(super) async fn hold_refused(&mut self, folded: &Folded, error: ApplyError) -> Result<(), ApplyError> {
        if let [net] = folded.nets.as_slice() {
            let refused = self.refused(net)?;
            return match refused {
                Some(refused) => self.hold(net.key, &net.key_row, refused, &error).await,
                None => Err(error),
            };
        }
        for half in folded.halves() {
            Box::pin(self.write_one(&half)).await?;
        }
        Ok(())
    }

    /// What a net change's key should be; `None` if nothing was to be written.
    fn refused(&self, net: &Net) -> Result<Option<Refused>, ApplyError> {
        let mut coordinator = self.deciding()?;
        let Some((decision, content, _)) = self.due(&mut coordinator, net)? else { return Ok(None) };
        let (remote, offset) = match self.is_ours(decision.winner) {
            true => (self.incoming(net), net.place.1),
            false => (note::side(&coordinator, decision.winner)?, decision.winner.offset()),
        };
        Ok(Some(Refused { content, remote, offset }))
    }

    /// Puts on record what a decision that was taken again can't write.
    pub(super) async fn hold_again(
        &mut self,
        key_row: &Row,
        content: Content,
        winner: ChangeRef,
        error: &ApplyError,
    ) -> Result<(), ApplyError> {
        let remote = note::side(&self.shared.coordinator(), winner)?;
        let key = key_row.key(&self.shared.catalog.hasher);
        self.hold(key, key_row, Refused { content, remote, offset: winner.offset() }, error).await
    }

    async fn hold(
        &mut self,
        key: KeyId,
        key_row: &Row,
        refused: Refused,
        error: &ApplyError,
    ) -> Result<(), ApplyError> {
        let table = key_row.table().clone();
        if matches!(&refused.content, Content::Put(row) if row.has_unchanged()) {
            return Err(ApplyError::Operator {
                what: format!("{error}; and the row can't be held, for a value of it was left out by its server"),
                advice: format!("see to it that {} takes the row", self.session.settings.target_name),
            });
        }
        let of = self.recorded_key(key, key_row);
        let (id, at, stands) = self.put_on_record(&of, key_row, &refused, &error.to_string()).await?;
        let held = Held { id, table: table.id, key: of, at, superseded: None };
        self.held_changes.push(HeldChange::Held(key, held));
        let settings = &self.session.settings;
        tracing::error!(
            source = settings.source_name, target = settings.target_name, %table, code = error.code(),
            "a change is refused and held: pgconcord conflicts list --status held"
        );
        let before = self.conflicts.remove(&key);
        let conflict = Conflict {
            conflict_type: ConflictType::ApplyError,
            resolution: Resolution::Hold,
            local: before.and_then(|before| before.local),
            result: Some(stands),
            refusal: error.refusal(),
            ..self.conflict(key_row, refused.remote, refused.offset)
        };
        self.refusals.insert(key, conflict);
        Ok(())
    }

    /// The key's cells as they are on record, for a key may be written in more ways than one (1.0, 1.00).
    fn recorded_key(&self, key: KeyId, key_row: &Row) -> Tuple {
        let of_batch = self.held_changes.iter().rev().find_map(|change| match change {
            HeldChange::Held(of, held) if *of == key => Some(held.key.clone()),
            _ => None,
        });
        let before = || {
            let coordinator = self.shared.coordinator();
            coordinator.held(self.batch.link.target, key).map(|held| held.key.clone())
        };
        let cells: Vec<_> = key_row.key_cells().collect();
        of_batch.or_else(before).unwrap_or_else(|| Tuple::from_cells(cells.into_iter()))
    }

    /// What should stand under the key; returns its number and position on the record, and what stands instead.
    async fn put_on_record(
        &mut self,
        key: &Tuple,
        key_row: &Row,
        refused: &Refused,
        error: &str,
    ) -> Result<(i64, Lsn, Content), ApplyError> {
        let (table, shared) = (key_row.table().clone(), self.shared);
        let (names, cells) = match &refused.content {
            Content::Put(row) => (Some(column_names(row)), Some(column_cells(row))),
            Content::Delete => (None, None),
        };
        let keys: Vec<_> = key.cells().map(|cell| sql::text_of(Some(cell))).collect();
        let keys = sql::text_array(keys.into_iter());
        let (cluster, relation) = (self.session.settings.cluster.clone(), table.to_string());
        let Side { stamp, lsn, xid, .. } = refused.remote;
        let stamp = stamp.unwrap_or(Stamp { micros: 0, node: self.batch.link.source });
        let (micros, lsn, xid) = (stamp.micros.to_string(), lsn.to_string(), xid.to_string());
        let params = [
            Param::Text(cluster.as_bytes()),
            Param::Text(relation.as_bytes()),
            Param::Binary(&keys),
            Param::Text(shared.node(stamp.node).name.as_bytes()),
            Param::Text(micros.as_bytes()),
            Param::Text(lsn.as_bytes()),
            Param::Text(xid.as_bytes()),
            names.as_deref().map_or(Param::Null, Param::Binary),
            cells.as_deref().map_or(Param::Null, Param::Binary),
            Param::Text(error.as_bytes()),
        ];
        let types = [0, 0, sql::TEXT_ARRAY, 0, 0, 0, 0, sql::TEXT_ARRAY, sql::TEXT_ARRAY];
        let arrays = slow::key_arrays(&table, &[key_row]);
        let columns: Vec<usize> = (0..table.columns.len()).collect();
        let of_key = vec![sql::TEXT_ARRAY; arrays.len()];
        let doing = "putting a refused row on record";
        let mut pipeline = self.begin();
        let at = pipeline.query(HOLD, &types, params);
        let read =
            pipeline.query(&sql::read(&table, &columns), &of_key, arrays.iter().map(|array| Param::Binary(array)));
        let outcomes = pipeline.run().await.map_err(ApplyError::pipeline(doing))?;
        let outcomes = self.begun(outcomes)?;
        let recorded = outcomes[at].one().map_err(ApplyError::wire(doing))?;
        let (id, at) = (recorded.parse(0), recorded.parse(1));
        let stands = outcomes[read].rows.first().map(|found| {
            let cells: Vec<_> = (1..found.len()).map(|i| found.cell(i).map_or(Cell::Null, Cell::Text)).collect();
            row_of(&table, &cells)
        });
        let stands = stands.map_or(Content::Delete, Content::Put);
        Ok((id.map_err(ApplyError::wire(doing))?, at.map_err(ApplyError::wire(doing))?, stands))
    }

    /// Takes what was held of a key off the record, for it has been written.
    pub(super) async fn release(&mut self, keys: &[KeyId]) -> Result<(), ApplyError> {
        let target = self.batch.link.target;
        let held: Vec<(KeyId, i64)> = {
            let coordinator = self.shared.coordinator();
            keys.iter().filter_map(|key| Some((*key, coordinator.held(target, *key)?.id))).collect()
        };
        if held.is_empty() {
            return Ok(());
        }
        let ids: Vec<String> = held.iter().map(|(_, id)| id.to_string()).collect();
        let mut pipeline = self.begin();
        for id in &ids {
            pipeline.query(RELEASE, &[], [Param::Text(id.as_bytes())]);
        }
        let outcomes =
            pipeline.run().await.map_err(ApplyError::pipeline("taking a row off the record of refused ones"))?;
        self.begun(outcomes)?;
        self.held_changes.extend(held.into_iter().map(|(key, _)| HeldChange::Released(key)));
        Ok(())
    }

    /// Writes what is held under a key, if it is still what should stand there.
    async fn write_held(&mut self, key: KeyId, table: &Arc<Table>) -> Result<(), ApplyError> {
        let target = self.batch.link.target;
        self.begin_alone().await?;
        let found = {
            let coordinator = self.shared.coordinator();
            coordinator.held(target, key).map(|held| (held.id, held.key.clone()))
        };
        let Some((id, key_cells)) = found else { return Ok(()) };
        let key_row = key_row(table, &key_cells);
        let Some(recorded) = self.read_record(id, table).await? else { return Ok(()) };
        for _ in 0..ROUNDS {
            let mut there = self.lock_one(&key_row).await?;
            if !there {
                // what is not there can't be locked, and nobody may make and remove it unseen
                self.lock_table(table).await?;
                there = self.lock_one(&key_row).await?;
            }
            self.shared.barrier(target).await?;
            let newest_here = {
                let coordinator = self.deciding()?;
                if !coordinator.is_still_held(target, key) {
                    return Ok(());
                }
                coordinator.newest_at(target, table.id, key)?
            };
            self.savepoint().await?;
            let written = match (&recorded.row, there) {
                (None, false) => Ok(true),
                (row, _) => self.write_outcome(&key_row, row.clone(), there).await,
            };
            let error = match (self.end_savepoint(written, Some(table)).await?, &recorded.row) {
                (Ok(true), _) => {
                    tracing::info!(
                        node = self.session.settings.target_name,
                        row = slow::describe(&key_row),
                        "a held row is written"
                    );
                    return self.release(&[key]).await;
                }
                (Ok(false), _) => continue,
                (Err(error), Some(row)) if unique::is_violation(&error) => {
                    let by = Claimant { newest_here, ..recorded.by.clone() };
                    let claim = Claim { row: row.clone(), key_row: key_row.clone(), by };
                    if self.settle_unique(&claim, &error).await? == Outcome::Yields {
                        return self.release(&[key]).await;
                    }
                    continue;
                }
                (Err(error), _) => error,
            };
            return Err(error);
        }
        Err(unique::taken_in_turn())
    }

    /// Keeps others from writing to the table until the end of the transaction.
    async fn lock_table(&mut self, table: &Table) -> Result<(), ApplyError> {
        let mut pipeline = self.begin();
        pipeline.query(&format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", table.sql_only()), &[], []);
        pipeline.run().await.map(drop).map_err(ApplyError::pipeline(format!("locking {table} to write a held row")))
    }

    async fn read_record(&mut self, id: i64, table: &Arc<Table>) -> Result<Option<Recorded>, ApplyError> {
        let doing = "reading a row that was refused";
        let id = id.to_string();
        let mut pipeline = self.begin();
        let at = pipeline.query(READ_ONE, &[], [Param::Text(id.as_bytes())]);
        let outcomes = pipeline.run().await.map_err(ApplyError::pipeline(doing))?;
        let rows = &outcomes[at].rows;
        let Some(first) = rows.first() else { return Ok(None) };
        let row = first.cell(0).is_some().then(|| {
            let cell = |name: &str| {
                let found = rows.iter().find(|row| row.cell(0) == Some(name.as_bytes()));
                found.map_or(Cell::Unchanged, |row| row.cell(1).map_or(Cell::Null, Cell::Text))
            };
            let cells: Vec<_> = table.columns.iter().map(|column| cell(&column.name)).collect();
            row_of(table, &cells)
        });
        let read = |error| ApplyError::wire(doing)(error);
        let home = first.text(2).map_err(read)?;
        let Some(home) = self.shared.nodes.iter().find(|node| node.name == home).map(|node| node.id) else {
            return Ok(None); // a node that is no longer one of ours
        };
        let remote = Side {
            stamp: Some(Stamp { micros: first.parse(3).map_err(read)?, node: home }),
            lsn: first.parse(4).map_err(read)?,
            xid: Xid(first.parse(5).map_err(read)?),
            operation: Operation::Insert,
            row: row.clone(),
            old: None,
        };
        Ok(Some(Recorded { row, by: Claimant { remote, offset: 0, rekeyed: false, home, newest_here: None } }))
    }
}

/// Tries to write what is held under a key, in a transaction of its own.
///
/// # Errors
/// As [`crate::apply::execute::apply`]; not if the target refuses it again.
pub async fn retry<R: Recorder>(
    shared: &Shared,
    session: &mut ApplySession,
    recorder: &R,
    batch: &Batch,
    key: KeyId,
    table: &Arc<Table>,
) -> Result<Applied, ApplyError> {
    let mut execution = Execution::new(shared, session, recorder, batch);
    let written = execution.write_held(key, table).await;
    execution.end(written).await
}

/// What the session's node has on record of tables that replicate.
///
/// # Errors
/// If it can't be read.
pub async fn read(session: &mut ApplySession, catalog: &Catalog) -> Result<KeyMap<Held>, ApplyError> {
    let (cluster, target) = (session.settings.cluster.clone(), session.settings.target_name.clone());
    let mut pipeline = session.pipeline();
    pipeline.query(READ, &[], [Param::Text(cluster.as_bytes())]);
    let outcomes = pipeline.run().await.map_err(|failed| match failed.code() {
        Some("42P01" | "42501") => ApplyError::Operator {
            what: format!("{target} has no table pgconcord.held, or we may not use it"),
            advice: "run `pgconcord setup`".into(),
        },
        _ => ApplyError::pipeline(format!("reading what {target} has refused"))(failed),
    })?;
    let reading = || ApplyError::wire("reading what a node has refused");
    let mut held = KeyMap::default();
    for rows in outcomes[0].rows.chunk_by(|a, b| a.cell(0) == b.cell(0)) {
        let (id, at): (i64, Lsn) = (rows[0].parse(0).map_err(reading())?, rows[0].parse(2).map_err(reading())?);
        let name = rows[0].text(1).map_err(reading())?;
        let Some(table) = catalog.tables().iter().find(|table| table.to_string() == name) else { continue };
        let cell = |row: &wire::Row| row.bytes(3);
        let cells: Vec<_> = rows.iter().map(cell).collect();
        let cells = cells.iter().map(|cell| cell.as_deref().map_or(Cell::Null, Cell::Text));
        let key = Tuple::from_cells(cells);
        let of = key_row(table, &key).key(&catalog.hasher);
        held.insert(of, Held { id, table: table.id, key, at, superseded: None });
    }
    Ok(held)
}

/// Whether the server refuses a row: data exceptions, constraints other than unique ones, privileges, what a trigger raises.
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
pub fn is_refusal(error: &ApplyError) -> bool {
    let refuses = |code: &str| {
        matches!(&code[..2], "22" | "44" | "54" | "P0" | "38" | "39")
            || code.starts_with("23") && !matches!(code, "23505" | "23P01")
            || code == "42501"
    };
    !error.loses_session() && error.code().is_some_and(|code| code.len() == 5 && refuses(code))
}

/// The row's columns as an array of text.
fn column_names(row: &Row) -> Vec<u8> {
    let names: Vec<_> = named(row).map(|(name, _)| Some(name)).collect();
    sql::text_array(names.into_iter())
}

/// Their values.
fn column_cells(row: &Row) -> Vec<u8> {
    let cells: Vec<_> = named(row).map(|(_, cell)| sql::text_of(Some(cell))).collect();
    sql::text_array(cells.into_iter())
}

fn named(row: &Row) -> impl Iterator<Item = (&[u8], Cell<'_>)> {
    let columns = &row.table().columns;
    let cells = row.tuple.cells().zip(&row.relation.column_of);
    cells.filter_map(|(cell, column)| Some((columns[(*column)?].name.as_bytes(), cell)))
}

fn row_of(table: &Arc<Table>, cells: &[Cell<'_>]) -> Row {
    Row { relation: Relation::of_table(table), tuple: Tuple::from_cells(cells.iter().copied()) }
}

/// A row with these cells of the key, in key order, and nothing else.
pub fn key_row(table: &Arc<Table>, key: &Tuple) -> Row {
    let place = |column: usize| table.key.iter().position(|of| *of == column);
    let cell = |column| place(column).and_then(|place| key.cell(place)).unwrap_or(Cell::Unchanged);
    let cells: Vec<_> = (0..table.columns.len()).map(cell).collect();
    row_of(table, &cells)
}

impl ApplyError {
    /// What a server said, for the journal.
    fn refusal(&self) -> Option<Refusal> {
        let ApplyError::Wire { error, .. } = self else { return None };
        let server = error.server()?;
        let constraint = server.constraint.as_ref().map(|name| format!(", constraint {name}")).unwrap_or_default();
        let column = server.column.as_ref().map(|name| format!(", column {name}")).unwrap_or_default();
        let kind = format!("SQLSTATE {}{constraint}{column}", server.code);
        Some(Refusal { message: format!("{} ({kind})", server.message), kind })
    }
}
