//! Rows of tables without a key, which replicate by their inserts only: each gets a number, which is its key.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::model::{Cell, Tuple};

/// The row with a number of its own in the place of [`crate::model::Relation::NUMBER`]; unique within this process.
pub fn numbered(row: &Tuple) -> Tuple {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let cells: Vec<Cell<'_>> = row.cells().chain([Cell::Binary(&number)]).collect();
    Tuple::from_cells(cells.into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_rows_are_told_apart() {
        let row = Tuple::from_cells([Cell::Text(b"a"), Cell::Null].into_iter());
        let (first, second) = (numbered(&row), numbered(&row));
        assert_eq!(first.len(), 3);
        assert_ne!(first, second);
    }
}
