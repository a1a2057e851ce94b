//! What is wanted of a node's stream, for whoever reads it.

/// How a stream is to be read just now.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Demand {
    /// How many barriers it is awaited to bring.
    pub barriers: usize,
    /// How many of them by somebody who may hold locks.
    pub urgent: usize,
    /// So much of it waits wherever it goes that more would only take memory.
    pub sated: bool,
    /// Once it is read through, batches can be applied at its node; nobody is known to wait for that.
    pub unfinished: bool,
}

impl Demand {
    /// Whether it is read without pauses.
    pub fn hurries(self) -> bool {
        self.urgent > 0
    }

    /// Whether it is not read on (R9): a barrier is never left waiting.
    pub fn rests(self) -> bool {
        self.sated && self.barriers == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_a_barrier_is_never_left_waiting() {
        let sated = Demand { sated: true, ..Demand::default() };
        assert!(sated.rests() && !sated.hurries());
        assert!(!Demand { barriers: 1, ..sated }.rests());
        let urgent = Demand { barriers: 1, urgent: 1, ..sated };
        assert!(urgent.hurries() && !urgent.rests());
        assert!(!Demand::default().rests());
    }
}
