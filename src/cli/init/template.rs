//! The text of a new pgconcord.toml.

use crate::cli::init::Draft;

/// The file for these nodes.
pub(super) fn render(cluster: &str, nodes: &[Draft]) -> String {
    let nodes: String = nodes.iter().map(node).collect();
    format!(
        r#"# pgconcord.toml: relative paths are relative to this file. `pgconcord doctor` checks what it names.

[cluster]
name = "{cluster}"                     # names the slot, publication and origins: pgconcord_{cluster}

{nodes}
[tables]
include = ["public.*"]             # patterns over schema.table
exclude = []                       # what these match stays out

[rules]
path = "conflict-rules"            # every *.toml in it, in name order; the first rule that matches decides

[journal]
path = "pgconcord.db"              # SQLite: every conflict and what was done about it
retention = "90d"

[limits]
max_clock_skew = "1s"              # clocks further apart raise an alarm
memory = "256MB"                   # window and transactions in flight; beyond it, disk
# spill = "/var/tmp"               # where that disk is; default: the system's directory for temporary files
# batch_rows = 10000               # the most rows that are joined in one transaction at the target
# barrier_timeout = "5s"           # how long a batch waits to learn what happened to a row
# lock_timeout = "800ms"           # below the servers' deadlock_timeout, so that users go first

[http]
listen = "127.0.0.1:7432"          # /metrics /healthz /readyz /status
"#
    )
}

fn node(draft: &Draft) -> String {
    let dsn = toml::Value::String(draft.dsn.clone());
    let hint = match draft.had_password {
        true => format!("# password_file = \"{}.password\"   # or PGPASSWORD, or a passfile\n", draft.name),
        false => String::new(),
    };
    format!("[[node]]\nname = \"{}\"\ndsn = {dsn}\n{hint}", draft.name)
}
