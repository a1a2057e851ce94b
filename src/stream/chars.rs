//! One spelling of `"char"`: from 16 on a byte above 127 is written `\ooo`, before that as it is, which no client encoding
//! knows. `charout` in src/backend/utils/adt/char.c

use crate::model::{Cell, Op, Relation, Tuple};

/// OID of `"char"`, the same everywhere: src/include/catalog/pg_type.dat
const CHAR: u32 = 18;

/// The operation with the newer spelling.
pub fn spelled(relation: &Relation, op: Op) -> Op {
    if !relation.columns.iter().any(|column| column.type_oid == CHAR) {
        return op;
    }
    let tuple = |tuple: Tuple| respell(relation, &tuple).unwrap_or(tuple);
    match op {
        Op::Insert { new } => Op::Insert { new: tuple(new) },
        Op::Update { old, new } => Op::Update { old: old.map(tuple), new: tuple(new) },
        Op::Delete { old } => Op::Delete { old: tuple(old) },
        truncate @ Op::Truncate { .. } => truncate,
    }
}

/// `None` if there is nothing to change.
fn respell(relation: &Relation, tuple: &Tuple) -> Option<Tuple> {
    let high = |(i, cell): (usize, Cell<'_>)| match cell {
        Cell::Text(&[byte]) if byte > 127 && relation.columns[i].type_oid == CHAR => Some(byte),
        _ => None,
    };
    let spelled: Vec<Option<String>> =
        tuple.cells().enumerate().map(|cell| high(cell).map(|byte| format!("\\{byte:03o}"))).collect();
    if spelled.iter().all(Option::is_none) {
        return None;
    }
    let cells = tuple.cells().zip(&spelled);
    let cells: Vec<Cell<'_>> =
        cells.map(|(cell, spelled)| spelled.as_deref().map_or(cell, |text| Cell::Text(text.as_bytes()))).collect();
    Some(Tuple::from_cells(cells.into_iter()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Table;

    #[test]
    fn a_high_byte_is_spelled_as_newer_servers_do() {
        let mut relation = Relation::clone(&Relation::sample(Table::of_texts("t", &["a", "b"]), &["a", "b"]));
        relation.columns[0].type_oid = CHAR;
        let insert =
            |cells: [&'static [u8]; 2]| Op::Insert { new: Tuple::from_cells(cells.map(Cell::Text).into_iter()) };
        assert_eq!(spelled(&relation, insert([b"\xff", b"\xff"])), insert([b"\\377", b"\xff"]));
        assert_eq!(spelled(&relation, insert([b"a", b"b"])), insert([b"a", b"b"]));
    }
}
