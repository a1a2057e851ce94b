//! What a check found: how bad, where, what, and the statement that mends it.

use std::fmt::Write;

use serde::Serialize;

/// How bad a [`Finding`] is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, but somebody should know.
    Warning,
    /// Replication would not work, or not be right.
    Error,
}

/// What one check found at one place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// The node; none where it is about the whole cluster.
    pub node: Option<String>,
    /// The check's name: short, stable, for scripts.
    pub check: &'static str,
    /// `schema.name`, where it is about a table.
    pub table: Option<String>,
    /// What was found, a sentence without the full stop.
    pub what: String,
    /// The statement, or setting, that mends it.
    pub fix: Option<String>,
}

impl Finding {
    /// All is well.
    pub fn ok(check: &'static str, what: impl Into<String>) -> Finding {
        Finding { level: Level::Ok, node: None, check, table: None, what: what.into(), fix: None }
    }

    /// Somebody should know.
    pub fn warning(check: &'static str, what: impl Into<String>) -> Finding {
        Finding { level: Level::Warning, ..Finding::ok(check, what) }
    }

    /// It must change.
    pub fn error(check: &'static str, what: impl Into<String>) -> Finding {
        Finding { level: Level::Error, ..Finding::ok(check, what) }
    }

    /// At this node.
    pub fn at(self, node: &str) -> Finding {
        Finding { node: Some(node.to_owned()), ..self }
    }

    /// About this table, `schema.name`.
    pub fn about(self, table: impl Into<String>) -> Finding {
        Finding { table: Some(table.into()), ..self }
    }

    /// With the statement that mends it.
    pub fn fix(self, statement: impl Into<String>) -> Finding {
        Finding { fix: Some(statement.into()), ..self }
    }
}

/// The worst level, [`Level::Ok`] of nothing.
pub fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
}

/// For people: [`lines`], then one that sums up.
pub fn human(findings: &[Finding]) -> String {
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let summary = summary(count(Level::Ok), count(Level::Warning), count(Level::Error));
    format!("{}\n{summary}\n", lines(findings))
}

/// One block a finding in aligned columns, its statement below it.
pub fn lines(findings: &[Finding]) -> String {
    let node = |finding: &Finding| finding.node.clone().unwrap_or_else(|| "all".to_owned());
    let width = |of: &dyn Fn(&Finding) -> usize| findings.iter().map(of).max().unwrap_or(0);
    let nodes = width(&|finding| node(finding).chars().count());
    let checks = width(&|finding| finding.check.len());
    let mut out = String::new();
    for finding in findings {
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        let table = finding.table.as_ref().map_or_else(String::new, |table| format!("{table}: "));
        let _ =
            writeln!(out, "{level:<7}  {:<nodes$}  {:<checks$}  {table}{}", node(finding), finding.check, finding.what);
        for line in finding.fix.iter().flat_map(|fix| fix.lines()) {
            let _ = writeln!(out, "{:indent$}{line}", "", indent = 7 + 2 + nodes + 2 + checks + 4);
        }
    }
    out
}

fn summary(ok: usize, warnings: usize, errors: usize) -> String {
    let many = |count, one: &str| if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") };
    match (warnings, errors) {
        (0, 0) => format!("All {} passed.", many(ok, "check")),
        (_, 0) => format!("Fit to run: {ok} ok, {}.", many(warnings, "warning")),
        _ => format!("Not fit to run: {}, {}, {ok} ok.", many(errors, "error"), many(warnings, "warning")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_stand_in_columns_with_their_statement_below() {
        let findings = [
            Finding::ok("wal_level", "logical").at("east"),
            Finding::error("key", "has no primary key").at("w").about("public.t").fix("ALTER TABLE t ..."),
        ];
        let shown = human(&findings);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], "ok       east  wal_level  logical");
        assert_eq!(lines[1], "error    w     key        public.t: has no primary key");
        assert_eq!(lines[2].trim_start(), "ALTER TABLE t ...");
        assert_eq!(lines[4], "Not fit to run: 1 error, 0 warnings, 1 ok.");
        assert_eq!(worst(&findings), Level::Error);
    }

    #[test]
    fn a_finding_is_one_json_object() {
        let json = serde_json::to_string(&Finding::warning("skew", "12 ms").at("east")).unwrap();
        assert_eq!(json, r#"{"level":"warning","node":"east","check":"skew","table":null,"what":"12 ms","fix":null}"#);
    }
}
