//! Changes of a batch → one net change a key (R7).
//!
//! What ends in a delete is a delete, also insert…delete. A key change is a delete of the old key and a row at the
//! new one. A truncation drops what came before it for its table.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::conflict::Operation;
use crate::conflict::window::{KeyHash, Seq};
use crate::model::key::KeyHasher;
use crate::model::{Cell, Change, KeyId, Op, Relation, Table, TableId, Tuple, Xid};

/// A tuple and the relation that names its cells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// The shape.
    pub relation: Arc<Relation>,
    /// The cells.
    pub tuple: Tuple,
}

impl Row {
    /// The table.
    pub fn table(&self) -> &Arc<Table> {
        self.relation.table()
    }

    /// The key cells in key order.
    pub fn key_cells(&self) -> impl Iterator<Item = Cell<'_>> {
        self.relation.key_cells(&self.tuple)
    }

    /// The row's key.
    pub fn key(&self, hasher: &KeyHasher) -> KeyId {
        let table = self.table();
        hasher.key(table.id, self.key_cells().zip(table.key_forms()))
    }

    /// The cell of the table's column `column`; `None` if the source does not have the column.
    pub fn cell(&self, column: usize) -> Option<Cell<'_>> {
        let position = self.relation.column_of.iter().position(|of| *of == Some(column))?;
        self.tuple.cell(position)
    }

    /// Whether some value was left out because it did not change; one of a column that only the source has is nobody's
    /// concern.
    pub fn has_unchanged(&self) -> bool {
        let mut cells = self.tuple.cells().zip(&self.relation.column_of);
        cells.any(|(cell, column)| cell == Cell::Unchanged && column.is_some())
    }

    /// The row with the values that its old tuple has beside the key (REPLICA IDENTITY FULL): the server leaves an
    /// unchanged TOASTed value out of the new tuple but has it in the old one.
    pub fn with_old_values(self, old: Option<&Row>) -> Row {
        match old {
            Some(old) if self.has_unchanged() => self.filled_from(&whole(old)),
            _ => self,
        }
    }

    /// The row with the cells that were left out taken from `other` by column; those that `other` leaves out too
    /// stay out.
    pub fn filled_from(&self, other: &Row) -> Row {
        let cells: Vec<_> = self
            .tuple
            .cells()
            .zip(&self.relation.column_of)
            .map(|(cell, column)| match (cell, column) {
                (Cell::Unchanged, Some(column)) => other.cell(*column).unwrap_or(cell),
                _ => cell,
            })
            .collect();
        Row { relation: self.relation.clone(), tuple: Tuple::from_cells(cells.into_iter()) }
    }
}

/// What a key is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// This row.
    Put(Row),
    /// No row.
    Delete,
}

/// The net change of one key.
#[derive(Clone, Debug)]
pub struct Net {
    /// Its table.
    pub table: Arc<Table>,
    /// The key.
    pub key: KeyId,
    /// A row that has the key's cells.
    pub key_row: Row,
    /// What the first change of the key in the batch was: an insert tells that the author's node had no row.
    pub first: Operation,
    /// What the last one was.
    pub last: Operation,
    /// The key that the row was moved from, with a row that has its cells: there stand the values left out.
    pub moved_from: Option<Row>,
    /// The row came from another key by an update.
    pub rekeyed: bool,
    /// What comes out.
    pub content: Content,
    /// The row before the last change, as far as the source sent it.
    pub old: Option<Row>,
    /// Number of the first change's transaction, and the offset of its record.
    pub first_place: (Seq, u64),
    /// Those of the last change.
    pub place: (Seq, u64),
    /// Who wrote the last version at the source.
    pub xid: Xid,
    /// The view of the last change's author; see [`Incoming::view`].
    view: u64,
}

/// What is to be done with a key that no other node has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plain<'a> {
    /// Its row is there and goes.
    Delete,
    /// There is none, and this comes.
    Insert(&'a Row),
    /// It is there and becomes this.
    Update(&'a Row),
}

/// A change on its way into a batch.
#[derive(Debug)]
pub struct Incoming {
    /// Number of its transaction, and the offset of its record.
    pub place: (Seq, u64),
    /// Alike for changes of one source between which no change of another node came to it: only then is what the
    /// later one leaves out the value that the earlier one left.
    pub view: u64,
    /// The change.
    pub change: Change,
}

/// What all ways of folding a change need to know of it.
#[derive(Clone, Copy)]
struct Mark {
    place: (Seq, u64),
    view: u64,
    xid: Xid,
}

impl Net {
    fn new(key: KeyId, op: Operation, key_row: Row, content: Content, old: Option<Row>, mark: Mark) -> Net {
        let table = key_row.table().clone();
        let Mark { place, view, xid } = mark;
        Net {
            table,
            key,
            key_row,
            first: op,
            last: op,
            moved_from: None,
            rekeyed: false,
            content,
            old,
            first_place: place,
            place,
            xid,
            view,
        }
    }

    /// What is to be done where no other node has changed the key; `None` if there is more to it: a key that the row was moved
    /// from, a value that was left out, a row that may never have been there.
    pub fn plain(&self) -> Option<Plain<'_>> {
        match &self.content {
            _ if self.rekeyed => None,
            Content::Delete => (self.first != Operation::Insert).then_some(Plain::Delete),
            Content::Put(row) if row.has_unchanged() => None,
            Content::Put(row) if self.first == Operation::Insert => Some(Plain::Insert(row)),
            Content::Put(row) => Some(Plain::Update(row)),
        }
    }

    fn follow(&mut self, op: Operation, content: Content, old: Option<Row>, mark: Mark) {
        self.content = content;
        (self.last, self.old, self.place, self.xid, self.view) = (op, old, mark.place, mark.xid, mark.view);
    }
}

/// Something that comes before the rows of the chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Truncation {
    /// All tables of the statement.
    pub tables: SmallVec<[TableId; 2]>,
    /// RESTART IDENTITY.
    pub restart_identity: bool,
    /// Number of the transaction, and offset of the record.
    pub place: (Seq, u64),
}

/// The folded changes of a piece of a batch: first the truncations, then the rows.
#[derive(Clone, Debug, Default)]
pub struct Folded {
    /// One for each TRUNCATE statement.
    pub truncations: Vec<Truncation>,
    /// One for each key, in order of first appearance.
    pub nets: Vec<Net>,
    by_key: HashMap<KeyId, usize, BuildHasherDefault<KeyHash>>,
    /// The tables of the last statement whose records have come.
    truncating: SmallVec<[TableId; 2]>,
    /// Number of changes folded.
    pub changes: u64,
    /// Bytes of their tuples.
    pub bytes: usize,
}

impl Folded {
    /// Empty, with room for as many net changes as so many changes can become.
    pub fn for_changes(changes: u64) -> Folded {
        let room = usize::try_from(changes).unwrap_or(0);
        let by_key = HashMap::with_capacity_and_hasher(room, BuildHasherDefault::default());
        Folded { nets: Vec::with_capacity(room), by_key, ..Folded::default() }
    }

    /// For each table the place of its first net change: the order in which the author came to it.
    pub fn table_ranks(&self) -> HashMap<TableId, usize> {
        let mut ranks = HashMap::new();
        let mut before = None;
        for (place, net) in self.nets.iter().enumerate() {
            if before.replace(net.table.id) != Some(net.table.id) {
                ranks.entry(net.table.id).or_insert(place);
            }
        }
        ranks
    }

    /// Folds one more change in.
    pub fn add(&mut self, incoming: Incoming, hasher: &KeyHasher) {
        let Incoming { place, view, change } = incoming;
        self.changes += 1;
        let mark = Mark { place, view, xid: change.xid };
        let relation = change.relation.clone();
        let row = |tuple: Tuple| Row { relation: relation.clone(), tuple };
        self.bytes +=
            change.new_tuple().map_or(0, |t| t.as_bytes().len()) + change.old_tuple().map_or(0, |t| t.as_bytes().len());
        match change.op {
            Op::Insert { new } => self.put(Operation::Insert, row(new), None, mark, hasher),
            Op::Update { old, new } => {
                let (old, new) = (old.map(row), Row { relation: change.relation, tuple: new });
                let new = new.with_old_values(old.as_ref());
                match old.as_ref().filter(|old| old.key(hasher) != new.key(hasher)).cloned() {
                    Some(before) => self.moved(before, new, mark, hasher),
                    None => self.put(Operation::Update, new, old, mark, hasher),
                }
            }
            Op::Delete { old } => {
                self.delete(row(old), mark, hasher);
            }
            Op::Truncate { group, restart_identity } => {
                self.truncate(change.relation.table_id(), &group, restart_identity, place);
            }
        }
    }

    fn put(&mut self, op: Operation, new: Row, old: Option<Row>, mark: Mark, hasher: &KeyHasher) {
        let key = new.key(hasher);
        let Some(&at) = self.by_key.get(&key) else {
            return self.push(Net::new(key, op, new.clone(), Content::Put(new), old, mark));
        };
        let net = &mut self.nets[at];
        let new = match &net.content {
            Content::Put(before) if new.has_unchanged() && net.view == mark.view => new.filled_from(before),
            _ => new,
        };
        net.key_row = new.clone();
        net.follow(op, Content::Put(new), old, mark);
    }

    /// Returns what the key was to be before.
    fn delete(&mut self, old: Row, mark: Mark, hasher: &KeyHasher) -> Option<Net> {
        let key = old.key(hasher);
        if let Some(&at) = self.by_key.get(&key) {
            let net = &mut self.nets[at];
            let before = net.clone();
            net.moved_from = None;
            net.follow(Operation::Delete, Content::Delete, Some(old), mark);
            return Some(before);
        }
        self.push(Net::new(key, Operation::Delete, old.clone(), Content::Delete, Some(old), mark));
        None
    }

    fn moved(&mut self, before: Row, new: Row, mark: Mark, hasher: &KeyHasher) {
        let earlier = self.delete(before.clone(), mark, hasher);
        let (new, origin) = match earlier {
            Some(Net { content: Content::Put(row), moved_from, view, .. }) if view == mark.view => {
                (new.filled_from(&row), moved_from.unwrap_or(before))
            }
            _ => (new, before),
        };
        let key = new.key(hasher);
        let left_out = new.has_unchanged();
        self.put(Operation::Insert, new, None, mark, hasher);
        if let Some(&at) = self.by_key.get(&key) {
            self.nets[at].moved_from = left_out.then_some(origin);
            self.nets[at].rekeyed = true;
        }
    }

    /// One statement is one record a table; the next one begins where a table comes again.
    fn truncate(&mut self, table: TableId, group: &[TableId], restart_identity: bool, place: (Seq, u64)) {
        let is_same = |last: &Truncation| last.place.0 == place.0 && last.tables.as_slice() == group;
        if self.truncations.last().is_some_and(is_same) && !self.truncating.contains(&table) {
            self.truncating.push(table);
            return;
        }
        self.truncating = SmallVec::from_slice(&[table]);
        self.nets.retain(|net| !group.contains(&net.table.id));
        self.by_key = self.nets.iter().enumerate().map(|(at, net)| (net.key, at)).collect();
        self.truncations.push(Truncation { tables: group.into(), restart_identity, place });
    }

    fn push(&mut self, net: Net) {
        self.by_key.insert(net.key, self.nets.len());
        self.nets.push(net);
    }

    /// Each net change by itself; nothing is counted, for the whole is.
    pub fn halves(&self) -> impl Iterator<Item = Folded> {
        self.nets.iter().map(|net| {
            let mut half = Folded::default();
            half.push(net.clone());
            half
        })
    }

    /// What it takes in memory, about, in bytes.
    pub fn memory(&self) -> usize {
        self.bytes + self.nets.len() * size_of::<Net>()
    }

    /// The net change of a key.
    pub fn get(&self, key: KeyId) -> Option<&Net> {
        self.by_key.get(&key).map(|at| &self.nets[*at])
    }
}

/// The old tuple as a source of values: under REPLICA IDENTITY DEFAULT it has only the key, the rest is NULL and
/// says nothing.
fn whole(old: &Row) -> Row {
    let keyed = old.relation.columns.iter().all(|column| column.in_identity);
    if keyed {
        return old.clone();
    }
    let cells: Vec<_> = old
        .tuple
        .cells()
        .zip(&old.relation.columns)
        .map(|(cell, column)| if column.in_identity { cell } else { Cell::Unchanged })
        .collect();
    Row { relation: old.relation.clone(), tuple: Tuple::from_cells(cells.into_iter()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Table;

    fn relation() -> Arc<Relation> {
        Relation::sample(Table::of_texts("t", &["k", "a", "big"]), &["k", "a", "big"])
    }

    fn tuple(cells: [&'static str; 3]) -> Tuple {
        let cell = |text: &'static str| match text {
            "?" => Cell::Unchanged,
            "-" => Cell::Null,
            text => Cell::Text(text.as_bytes()),
        };
        Tuple::from_cells(cells.into_iter().map(cell))
    }

    fn insert(row: [&'static str; 3]) -> Op {
        Op::Insert { new: tuple(row) }
    }
    fn update(row: [&'static str; 3]) -> Op {
        Op::Update { old: None, new: tuple(row) }
    }
    fn rekey(old: &'static str, row: [&'static str; 3]) -> Op {
        Op::Update { old: Some(tuple([old, "-", "-"])), new: tuple(row) }
    }
    fn delete(key: &'static str) -> Op {
        Op::Delete { old: tuple([key, "-", "-"]) }
    }
    fn truncate() -> Op {
        Op::Truncate { group: vec![TableId(0)], restart_identity: false }
    }

    fn fold(ops: Vec<Op>) -> Folded {
        let relation = relation();
        let mut folded = Folded::default();
        for (i, op) in ops.into_iter().enumerate() {
            let change = Change { relation: relation.clone(), xid: Xid(7), op };
            folded.add(Incoming { place: (0, i as u64), view: 0, change }, &KeyHasher::with_seed(1));
        }
        folded
    }

    fn shown(folded: &Folded) -> Vec<String> {
        let text = |cell: Cell| match cell {
            Cell::Text(text) => String::from_utf8_lossy(text).into_owned(),
            Cell::Unchanged => "?".into(),
            _ => "-".into(),
        };
        let show = |net: &Net| {
            let key: String = net.key_row.key_cells().map(text).collect();
            match &net.content {
                Content::Delete => format!("{:?} {key} gone", net.first),
                Content::Put(row) => {
                    format!("{:?} {key} = {}", net.first, row.tuple.cells().map(text).collect::<Vec<_>>().join(","))
                }
            }
        };
        folded.nets.iter().map(show).collect()
    }

    #[test]
    fn many_changes_of_a_key_become_one() {
        let folded = fold(vec![insert(["1", "a", "x"]), update(["1", "b", "?"]), update(["1", "c", "?"])]);
        assert_eq!(shown(&folded), ["Insert 1 = 1,c,x"]);
    }

    #[test]
    fn what_ends_in_a_delete_is_a_delete() {
        let folded = fold(vec![insert(["1", "a", "x"]), delete("1"), update(["2", "b", "y"]), delete("2")]);
        assert_eq!(shown(&folded), ["Insert 1 gone", "Update 2 gone"]);
    }

    #[test]
    fn a_delete_and_an_insert_replace_the_row() {
        assert_eq!(shown(&fold(vec![delete("1"), insert(["1", "a", "x"])])), ["Delete 1 = 1,a,x"]);
    }

    #[test]
    fn keys_that_swap_keep_their_rows() {
        let swap = vec![rekey("1", ["9", "a", "?"]), rekey("2", ["1", "b", "?"]), rekey("9", ["2", "a", "?"])];
        let folded = fold(swap);
        assert_eq!(shown(&folded), ["Delete 1 = 1,b,?", "Insert 9 gone", "Delete 2 = 2,a,?"]);
        let from = |at: usize| {
            let row = folded.nets[at].moved_from.as_ref().expect("moved");
            row.tuple.cell(0) == Some(Cell::Text(if at == 0 { b"2" } else { b"1" }))
        };
        assert!(from(0) && from(2), "the omitted values stand at the keys the rows came from");
    }

    #[test]
    fn a_second_truncation_in_a_transaction_is_one_of_its_own() {
        let relation = relation();
        let mut folded = Folded::default();
        for (i, op) in [truncate(), insert(["1", "a", "x"]), truncate()].into_iter().enumerate() {
            let change = Change { relation: relation.clone(), xid: Xid(7), op };
            folded.add(Incoming { place: (0, i as u64), view: 0, change }, &KeyHasher::with_seed(1));
        }
        assert_eq!((folded.truncations.len(), shown(&folded)), (2, vec![]));
    }

    #[test]
    fn a_value_left_out_of_a_column_that_only_the_source_has_is_not_missed() {
        let relation = Relation::sample(Table::of_texts("t", &["k", "a"]), &["k", "a", "own"]);
        let row =
            |cells: [Cell<'static>; 3]| Row { relation: relation.clone(), tuple: Tuple::from_cells(cells.into_iter()) };
        assert!(!row([Cell::Text(b"1"), Cell::Text(b"a"), Cell::Unchanged]).has_unchanged());
        assert!(row([Cell::Text(b"1"), Cell::Unchanged, Cell::Null]).has_unchanged());
    }

    #[test]
    fn a_truncation_drops_what_came_before() {
        let folded = fold(vec![insert(["1", "a", "x"]), truncate(), insert(["2", "b", "y"])]);
        assert_eq!(folded.truncations.len(), 1);
        assert_eq!(shown(&folded), ["Insert 2 = 2,b,y"]);
        assert!(folded.get(folded.nets[0].key).is_some());
    }
}
