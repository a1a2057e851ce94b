//! What needs real servers, as black boxes: the commands, the HTTP address and SQL.
//!
//! At most one cluster runs at a time ([`harness::quiet`]), because a test that waits for convergence wants the
//! machine for itself. What failed is kept under `target/tmp/failed/`.

/// Servers, the daemon, proxies, load, comparison: what the tests are written with.
mod harness;

/// Large transactions, written while they still come.
mod ahead;
/// Backlogs of many small transactions.
mod backlog;
/// Clocks that are apart.
mod clocks;
/// Generated, identity, dropped and one-sided columns; as many and as large as they come.
mod columns;
/// The commands themselves: setup, teardown, doctor, status, stopping.
mod commands;
/// Rules that are for some conflicts of a table.
mod conditions;
/// Each conflict type, made on purpose.
mod conflicts;
/// Two and three primaries under pgbench.
mod convergence;
/// The daemon, the servers and the connections between them, cut down under load.
mod crashes;
/// What people decide about conflicts.
mod decisions;
/// `pgconcord demo`.
mod demo;
/// Rules by which rows differ on purpose.
mod differing;
/// Columns that are merged by an SQL expression.
mod expressions;
/// What people get wrong: the message, and that nothing is lost.
mod faults;
/// Rows that are merged by a function.
mod functions;
/// Tables of which nothing but the inserts replicate.
mod inserts;
/// Large transactions, long backlogs.
mod large;
/// Which stage may know which, read from the source.
mod layering;
/// Idle databases and nodes that are down.
mod links;
/// Rows that are made from several changes, column by column.
mod merges;
/// Names that need care; schemas; encodings.
mod names;
/// Every operation against every other, in either order.
mod opposites;
/// Partitioned tables, inheritance.
mod partitions;
/// Rules about which row keeps a unique value.
mod priorities;
/// Changes that a node refuses.
mod refusals;
mod renames;
/// Resolvers that rules choose.
mod rules;
/// COPY, MERGE, upserts, savepoints, two-phase commit, messages, identities, triggers.
mod statements;
/// Keys, TOAST, TRUNCATE, unique values, on plain tables.
mod tables;
/// Every type as a column, an array and a key, between the versions.
mod types;
/// Partial, expression and other unique indexes; exclusion constraints.
mod uniques;
/// The wire session: logins, TLS, windows of statements, streams, against real servers.
mod wire;
