//! The text of a new pgconcord.toml.

use crate::cli::init::Draft;

/// The file for these nodes.
pub(super) fn render(cluster: &str, nodes: &[Draft]) -> String {
    let nodes: String = nodes.iter().map(node).collect();
    format!(
        r#"# pgconcord.toml: what replicates between which primaries. Relative paths are relative to this file.
# `pgconcord doctor` checks all that it names and says what to change; nothing is changed by it.

# The name of the slot, the publication and the origins: pgconcord_{cluster}
[cluster]
name = "{cluster}"

# Two or more writable primaries, connected to as libpq would: key=value or URI, several hosts with
# target_session_attrs=read-write for a node that fails over, sslmode=require or better beyond this machine.
# Without superuser: sql/role.sql shows what the role needs.
{nodes}
[tables]
include = ["public.*"]             # patterns over schema.table
exclude = []                       # what these match stays out
# insert_only = ["public.log_*"]   # of these the inserts replicate, and nothing else; they need no key

[rules]
path = "conflict-rules"            # every *.toml in it, in name order; the first rule that matches decides

[journal]
path = "pgconcord.db"              # SQLite: every conflict and what was done about it
retention = "90d"
max_size = "4GB"                   # beyond it the oldest resolved conflicts go; pending and held ones stay

[limits]
max_clock_skew = "1s"              # clocks further apart raise an alarm
memory = "256MB"                   # window and transactions in flight; beyond it, disk
# spill = "/var/tmp"               # where that disk is; default: the system's directory for temporary files
# batch_rows = 10000               # the most rows that are joined in one transaction at the target
# barrier_timeout = "5s"           # how long a batch waits to learn what happened to a row, or for a function of a rule
# lock_timeout = "800ms"           # below the servers' deadlock_timeout, so that users go first

[http]
listen = "127.0.0.1:7432"          # /metrics /healthz /readyz /status
"#
    )
}

fn node(draft: &Draft) -> String {
    let dsn = toml::Value::String(draft.dsn.clone());
    let hint = match draft.password {
        Some(_) => format!("password_file = \"{}\"   # or PGPASSWORD, or a passfile\n", draft.password_file()),
        None => String::new(),
    };
    format!("[[node]]\nname = \"{}\"\ndsn = {dsn}\n{hint}", draft.name)
}
