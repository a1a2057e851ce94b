//! A snapshot of what the daemon is doing: made by the daemon, served by http, printed by `pgconcord status`.
