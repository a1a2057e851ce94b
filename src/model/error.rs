//! What the daemon does about an error: every error type of a stage answers this.

/// What can be done about an error, and by whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// The cause may pass by itself: retried with backoff (connection lost, deadlock, server starting).
    Transient,
    /// The rows are in conflict: resolved by rule.
    Conflict,
    /// Somebody must change something; the error's text says what. The link stops meanwhile and nothing is lost.
    Operator,
}

/// Errors that know their [`Class`].
pub trait Classify {
    /// What can be done about it.
    fn class(&self) -> Class;
}
