//! The tasks and how they are tied together.
