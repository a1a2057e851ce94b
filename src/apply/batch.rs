//! A batch → pieces that fit in memory, folded; and pieces → sets of rows that one statement writes.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use smallvec::SmallVec;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::apply::net::{Folded, Incoming, Row};
use crate::apply::sql::{self, Array, CopyFormat};
use crate::conflict::Batch;
use crate::model::key::KeyHasher;
use crate::model::table::Input;
use crate::model::{BinaryType, Cell, Relation, Xid};
use crate::wire::{CopiedRows, TextRows};

/// Rows in one statement: larger gains nothing (docs/design.md, "Speed").
pub const SET_ROWS: usize = 1_000;
/// New rows of one shape that are worth a COPY.
pub const COPY_ROWS: usize = 20;
/// Changes folded at a time: bounds memory, whatever the size of a transaction.
const PIECE_CHANGES: u64 = 10_000;
/// Bytes of tuples folded at a time.
pub const PIECE_BYTES: usize = 8 << 20;

/// Walks a batch's changes piece by piece.
#[derive(Debug)]
pub struct Pieces {
    batch: Batch,
    transaction: usize,
    offset: u64,
    changes: u64,
}

impl Pieces {
    /// From the beginning.
    pub fn new(batch: &Batch, changes: u64) -> Pieces {
        Pieces::from(batch, changes, 0)
    }

    /// From the record at `offset` of the first transaction on.
    pub fn from(batch: &Batch, changes: u64, offset: u64) -> Pieces {
        Pieces { batch: batch.clone(), transaction: 0, offset, changes: changes.min(PIECE_CHANGES) }
    }

    /// Up to where the first transaction has been walked.
    pub fn reached(&self) -> u64 {
        match self.batch.transactions.first() {
            Some(first) if self.transaction > 0 => first.payload.len(),
            _ => self.offset,
        }
    }

    /// Whether the last piece was the end of the batch.
    pub fn is_at_end(&self) -> bool {
        self.transaction == self.batch.transactions.len()
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// If a spilled transaction can't be read.
    pub fn next(&mut self, hasher: &KeyHasher) -> io::Result<Option<Folded>> {
        let left =
            self.batch.transactions[self.transaction..].iter().map(|transaction| transaction.changes).sum::<u64>();
        let mut folded = Folded::for_changes(left.min(self.changes));
        while let Some(transaction) = self.batch.transactions.get(self.transaction) {
            let seq = self.batch.first + self.transaction as u64;
            let view = self.batch.views[self.transaction];
            for change in transaction.changes_from(self.offset) {
                let (offset, change) = change?;
                if folded.changes >= self.changes || folded.bytes >= PIECE_BYTES {
                    self.offset = offset;
                    return Ok(Some(folded));
                }
                folded.add(Incoming { place: (seq, offset), view, change }, hasher);
            }
            self.transaction += 1;
            self.offset = 0;
        }
        Ok((folded.changes > 0).then_some(folded))
    }

    /// Has the next piece read and folded on another thread, and made into what is needed of it, while this one is written.
    pub fn fetch<T: Send + 'static>(
        self,
        hasher: KeyHasher,
        make: impl FnOnce(Folded) -> T + Send + 'static,
    ) -> Fetching<T> {
        match self.is_at_end() {
            true => Fetching::Nothing(self),
            false => Fetching::Next(spawn_blocking(move || {
                let mut pieces = self;
                let next = pieces.next(&hasher)?.map(make);
                Ok((pieces, next))
            })),
        }
    }
}

/// A piece on its way.
#[derive(Debug)]
pub enum Fetching<T> {
    /// There is none.
    Nothing(Pieces),
    /// It is being read.
    Next(JoinHandle<io::Result<(Pieces, Option<T>)>>),
}

impl<T> Fetching<T> {
    /// The piece, and the walk after it.
    ///
    /// # Errors
    /// If a spilled transaction can't be read.
    pub async fn piece(self) -> io::Result<(Pieces, Option<T>)> {
        match self {
            Fetching::Nothing(pieces) => Ok((pieces, None)),
            Fetching::Next(reading) => reading.await.map_err(io::Error::other)?,
        }
    }
}

/// A row to be written by a statement.
#[derive(Clone, Debug)]
pub struct Write {
    /// Index of its net change in the piece.
    pub net: usize,
    /// The row, or one that has the key's cells if it is to be deleted.
    pub row: Row,
    /// The version that may be replaced beside those that the guard knows.
    pub known: Option<Xid>,
}

/// Rows that one statement can write: same table, same shape, same columns left out.
#[derive(Debug)]
pub struct Set {
    /// The shape.
    pub relation: Arc<Relation>,
    /// The columns beside the key that are written, as indices into the table's columns.
    pub columns: Vec<usize>,
    /// The rows.
    pub writes: Vec<Write>,
}

impl Set {
    /// Where the key's columns, then `columns`, are in the rows' tuples.
    fn positions(&self, columns: &[usize]) -> Vec<Option<usize>> {
        let position = |column: &usize| self.relation.column_of.iter().position(|of| *of == Some(*column));
        self.relation.table().key.iter().chain(columns).map(position).collect()
    }

    /// Whether COPY is faster for its rows, and can be used.
    pub fn is_worth_copy(&self) -> bool {
        self.writes.len() >= COPY_ROWS && self.takes_copy()
    }

    /// Whether the types' input functions make of every text what SQL makes of it: not of `"char"` before 16.
    fn takes_copy(&self) -> bool {
        let table = self.relation.table();
        table.key.iter().chain(&self.columns).all(|column| table.columns[*column].input != Input::Char)
    }

    /// The rows for a COPY, and their format: the key's columns, then [`Set::columns`].
    pub fn copied(&self) -> (CopyFormat, CopiedRows) {
        match self.copied_in_binary() {
            Some(rows) => (CopyFormat::Binary, rows),
            None => (CopyFormat::Text, CopiedRows::text(|rows| self.copy_texts(rows))),
        }
    }

    fn copy_texts(&self, rows: &mut TextRows) {
        self.for_each_row(|cells| {
            cells.for_each(|cell| rows.value(cell));
            rows.end_row();
            Some(())
        });
    }

    /// `None` if a column has no binary format, or a value has none.
    fn copied_in_binary(&self) -> Option<CopiedRows> {
        let table = self.relation.table();
        let columns = table.key.iter().chain(&self.columns);
        let types: Vec<BinaryType> = columns.map(|column| table.columns[*column].binary()).collect::<Option<_>>()?;
        CopiedRows::binary(i16::try_from(types.len()).ok()?, |rows| {
            self.for_each_row(|cells| {
                rows.row();
                for (of, cell) in types.iter().zip(cells) {
                    match cell {
                        Some(text) => rows.value(|out| of.write(text, out))?,
                        None => rows.null(),
                    }
                }
                Some(())
            })
        })
    }

    /// The texts of each row, the key's columns first; goes on while `take` gives something.
    fn for_each_row(&self, mut take: impl FnMut(&mut dyn Iterator<Item = Option<&[u8]>>) -> Option<()>) -> Option<()> {
        let positions = self.positions(&self.columns);
        let mut cells: Vec<Cell<'_>> = Vec::new();
        for write in &self.writes {
            cells.clear();
            cells.extend(write.row.tuple.cells());
            let cell = |position: &Option<usize>| position.and_then(|position| cells.get(position).copied());
            take(&mut positions.iter().map(|position| sql::text_of(cell(position))))?;
        }
        Some(())
    }

    /// The arrays of the statement: the key's columns, then `columns`.
    pub fn arrays(&self, writes: &[Write], columns: &[usize]) -> Vec<Array> {
        let table = self.relation.table();
        let rows: Vec<Vec<Cell<'_>>> = writes.iter().map(|write| write.row.tuple.cells().collect()).collect();
        let array = |(column, position): (&usize, Option<usize>)| {
            let cell = |row: &Vec<_>| position.and_then(|position| row.get(position).copied());
            Array::of(table.columns[*column].binary(), rows.iter().map(|row| sql::text_of(cell(row))))
        };
        table.key.iter().chain(columns).zip(self.positions(columns)).map(array).collect()
    }
}

/// Sorts writes into sets, in order of first appearance.
pub fn into_sets(writes: Vec<Write>) -> Vec<Set> {
    let mut sets: Vec<Set> = Vec::new();
    let mut places: HashMap<Shape, usize> = HashMap::new();
    let mut last: Option<(Shape, usize)> = None; // mostly that of the row before
    for write in writes {
        let shape = Shape::of(&write.row);
        let place = match &last {
            Some((before, place)) if *before == shape => *place,
            _ => {
                let place = *places.entry(shape.clone()).or_insert_with(|| {
                    let (relation, columns) = (write.row.relation.clone(), written_columns(&write.row));
                    sets.push(Set { relation, columns, writes: Vec::new() });
                    sets.len() - 1
                });
                last = Some((shape, place));
                place
            }
        };
        sets[place].writes.push(write);
    }
    sets
}

/// Rows that are alike in it have values for the same columns of the same table.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Shape {
    /// Where the relation is.
    relation: usize,
    /// The places of the cells that are left out.
    unchanged: SmallVec<[usize; 2]>,
}

impl Shape {
    fn of(row: &Row) -> Shape {
        let unchanged = row.tuple.cells().enumerate().filter(|(_, cell)| *cell == Cell::Unchanged);
        Shape { relation: Arc::as_ptr(&row.relation) as usize, unchanged: unchanged.map(|(at, _)| at).collect() }
    }
}

/// The columns beside the key for which the row has a value.
fn written_columns(row: &Row) -> Vec<usize> {
    let key = &row.table().key;
    let named = row.tuple.cells().zip(&row.relation.column_of);
    let mut columns: Vec<_> =
        named.filter(|(cell, _)| *cell != Cell::Unchanged).filter_map(|(_, column)| *column).collect();
    columns.retain(|column| !key.contains(column));
    columns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Table, Tuple};

    #[test]
    fn rows_without_the_same_values_are_other_sets() {
        let relation = Relation::sample(Table::of_texts("t", &["k", "a", "b"]), &["k", "a", "b"]);
        let other = Relation::sample(Table::of_texts("t", &["k", "a", "b"]), &["k", "a", "b"]);
        let write = |net: usize, relation: &Arc<Relation>, cells: [Cell<'static>; 3]| {
            let row = Row { relation: relation.clone(), tuple: Tuple::from_cells(cells.into_iter()) };
            Write { net, row, known: None }
        };
        let (text, unchanged) = (Cell::Text(b"1"), Cell::Unchanged);
        let sets = into_sets(vec![
            write(0, &relation, [text, text, text]),
            write(1, &relation, [text, Cell::Null, text]),
            write(2, &relation, [text, unchanged, text]),
            write(3, &other, [text, text, text]),
            write(4, &relation, [text, text, unchanged]),
            write(5, &relation, [text, unchanged, text]),
            write(6, &relation, [text, text, text]),
        ]);
        let shown = |set: &Set| (set.columns.clone(), set.writes.iter().map(|write| write.net).collect::<Vec<_>>());
        let expected = [(vec![1, 2], vec![0, 1, 6]), (vec![2], vec![2, 5]), (vec![1, 2], vec![3]), (vec![1], vec![4])];
        assert_eq!(sets.iter().map(shown).collect::<Vec<_>>(), expected);
    }

    /// A set of rows of (k int4, a numeric, b, c text).
    fn set(of_b: &str, cells: &[[Cell<'static>; 4]]) -> Set {
        let mut table = Table::of_texts("t", &["k", "a", "b", "c"]);
        for (column, of) in table.columns.iter_mut().zip(["pg_catalog.int4", "pg_catalog.\"numeric\"", of_b]) {
            column.sql_type = of.to_owned();
        }
        let relation = Relation::sample(table, &["k", "a", "b", "c"]);
        let write = |(net, cells): (usize, &[Cell<'static>; 4])| {
            let row = Row { relation: relation.clone(), tuple: Tuple::from_cells(cells.iter().copied()) };
            Write { net, row, known: None }
        };
        Set {
            relation: relation.clone(),
            columns: vec![1, 2, 3],
            writes: cells.iter().enumerate().map(write).collect(),
        }
    }

    #[test]
    fn a_column_goes_in_its_type_if_all_its_values_can() {
        let text = |text: &'static str| Cell::Text(text.as_bytes());
        let row = [text("1"), Cell::Null, text("2026-11-28"), text("c")];
        let before_christ = [text("2"), text("1.0"), text("0044-03-15 BC"), text("c")];
        let forms = |set: &Set| -> Vec<_> {
            set.arrays(&set.writes, &set.columns).iter().map(|array| (array.form, array.oid())).collect()
        };
        let of = |of: BinaryType| (Some(of), of.array().unwrap().oid);
        let texts = (None, sql::TEXT_ARRAY);
        let dates = set("pg_catalog.date", &[row, row]);
        assert_eq!(forms(&dates), [of(BinaryType::Int4), of(BinaryType::Numeric), of(BinaryType::Date), texts]);
        assert_eq!(dates.copied().0, CopyFormat::Binary);
        let dates = set("pg_catalog.date", &[row, before_christ]);
        assert_eq!(forms(&dates), [of(BinaryType::Int4), of(BinaryType::Numeric), texts, texts]);
        assert_eq!(dates.copied().0, CopyFormat::Text);
        let moods = set("public.\"Mood\"", &[row]);
        assert_eq!((forms(&moods)[2], moods.copied().0), (texts, CopyFormat::Text));
    }
}
