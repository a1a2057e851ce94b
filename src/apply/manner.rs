//! How a batch is tried: by what became of it before.

/// How a batch is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// In sets.
    Sets,
    /// Change by change, each behind a savepoint: after a unique violation (R7, R12).
    OneByOne,
}

/// What is done about a row of which a value can't be had, because it has moved on at its source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MovedOn {
    /// The batch waits for the change that moved it on.
    Wait,
    /// The batch is written without the row: that change brings it whole, and waiting could be waiting for a link that waits
    /// for this one.
    LeaveOut,
}

/// How rows are written that should not be there yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inserting {
    /// Many by COPY, which fails if one is there all the same.
    Copy,
    /// By statements that leave out the rows that are there.
    Skipping,
}

/// When COMMIT is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Committing {
    /// Of a small batch without conflicts with the statements, which check themselves what they did: one round trip.
    AtOnce,
    /// When the statements have told what they did.
    Afterwards,
}

/// When the next piece's statements are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sending {
    /// Before it is known what those before them did.
    Ahead,
    /// When those before them have told what they did.
    InTurn,
}

/// How a batch is tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Manner {
    /// In sets or one by one.
    pub mode: Mode,
    /// What becomes of rows that have moved on.
    pub moved_on: MovedOn,
    /// How new rows are written.
    pub inserting: Inserting,
    /// When it is committed.
    pub committing: Committing,
    /// How its pieces follow each other.
    pub sending: Sending,
}

impl Manner {
    /// As a batch is tried first.
    pub const FIRST: Manner = Manner {
        mode: Mode::Sets,
        moved_on: MovedOn::Wait,
        inserting: Inserting::Copy,
        committing: Committing::AtOnce,
        sending: Sending::Ahead,
    };
}
