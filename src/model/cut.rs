//! A consistent cut through all nodes' logs: from where they are needed (R5).

use crate::model::Lsn;

/// By node, in the configuration's order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cut {
    /// Everything that committed there before this is stable and forgotten.
    pub confirmed: Vec<Lsn>,
    /// What was applied there by commits that end at or before this was decided with every local change before them
    /// known, and is durable: it is not decided again.
    pub settled: Vec<Lsn>,
}

impl Cut {
    /// Where nothing but what is forgotten has been applied anywhere.
    pub fn at(confirmed: Vec<Lsn>) -> Cut {
        Cut { settled: confirmed.clone(), confirmed }
    }
}
