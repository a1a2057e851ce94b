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
    /// For each node, and for each source: everything that committed at the source before this had been applied at the
    /// node by a commit that ends at or before the node's `confirmed`. It is what the authors of the first changes that
    /// are kept had seen, which those changes' own log does not tell any more.
    pub seen: Vec<Vec<Lsn>>,
}

impl Cut {
    /// Where nothing but what is forgotten has been applied anywhere, and all of that everywhere.
    pub fn at(confirmed: Vec<Lsn>) -> Cut {
        Cut { settled: confirmed.clone(), seen: vec![confirmed.clone(); confirmed.len()], confirmed }
    }

    /// The latest of the cuts that were written; if none was, where the slots were made.
    ///
    /// Cuts only grow, so the greatest positions belong to one cut, and no slot is past it.
    pub fn latest(slots: Vec<Lsn>, written: impl IntoIterator<Item = Cut>) -> Cut {
        let raise = |mine: &mut [Lsn], theirs: &[Lsn]| {
            mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine = *theirs.max(mine));
        };
        let latest = written.into_iter().reduce(|mut latest, cut| {
            raise(&mut latest.confirmed, &cut.confirmed);
            raise(&mut latest.settled, &cut.settled);
            latest.seen.iter_mut().zip(&cut.seen).for_each(|(mine, theirs)| raise(mine, theirs));
            latest
        });
        let Some(mut cut) = latest else { return Cut::at(slots) };
        raise(&mut cut.confirmed, &slots);
        raise(&mut cut.settled, &slots);
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsns(of: &[u64]) -> Vec<Lsn> {
        of.iter().copied().map(Lsn).collect()
    }

    #[test]
    fn the_slots_count_only_if_no_cut_was_written() {
        let slots = lsns(&[10, 20]);
        assert_eq!(Cut::latest(slots.clone(), []), Cut::at(slots.clone()));
        let older =
            Cut { confirmed: lsns(&[30, 40]), settled: lsns(&[35, 40]), seen: vec![lsns(&[0, 25]), lsns(&[28, 0])] };
        let newer =
            Cut { confirmed: lsns(&[50, 40]), settled: lsns(&[55, 40]), seen: vec![lsns(&[0, 39]), lsns(&[28, 0])] };
        assert_eq!(Cut::latest(slots.clone(), [older.clone(), newer.clone()]), newer);
        assert_eq!(Cut::latest(slots, [newer.clone(), older]), newer);
    }
}
