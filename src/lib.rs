//! pgconcord keeps two or more writable PostgreSQL primaries equal.
//!
//! Data flows one way, and the modules show it:
//!
//! ```text
//! stream ─► conflict ─► apply ─► journal        over wire and model; node, http and cli stand beside
//! ```
//!
//! docs/design.md explains the rules R1–R15 that the comments refer to.

pub mod apply;
pub mod cli;
pub mod config;
pub mod conflict;
pub mod daemon;
#[cfg(test)]
mod fuzz;
pub mod http;
pub mod journal;
pub mod model;
pub mod node;
pub mod simulate;
pub mod status;
pub mod stream;
pub mod throwaway;
pub mod wire;
