//! The record of every decision, in SQLite.
