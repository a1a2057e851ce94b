//! Which tables are meant: globs over `schema.table`.

use std::fmt;

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

/// Schemas that never replicate, whatever the globs say: the servers' own, and ours.
const NEVER: &[&str] = &["pg_catalog", "information_schema", "pg_toast", "pgconcord"];

/// Globs over `schema.table`: what an `include` names and no `exclude` takes away.
#[derive(Clone)]
pub struct TableFilter {
    include: GlobSet,
    exclude: GlobSet,
    insert_only: GlobSet,
    patterns: Vec<String>,
}

impl fmt::Debug for TableFilter {
    /// The patterns; the compiled automata fill pages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TableFilter").field(&self.patterns).finish_non_exhaustive()
    }
}

impl TableFilter {
    /// From globs that [`glob`] has accepted.
    pub fn new(include: Vec<Glob>, exclude: Vec<Glob>) -> Result<TableFilter, globset::Error> {
        let patterns = include.iter().map(|glob| glob.glob().to_owned()).collect();
        Ok(TableFilter { include: set(include)?, exclude: set(exclude)?, insert_only: GlobSet::empty(), patterns })
    }

    /// The same, with nothing but the inserts of the tables that these match.
    pub fn with_insert_only(self, insert_only: Vec<Glob>) -> Result<TableFilter, globset::Error> {
        Ok(TableFilter { insert_only: set(insert_only)?, ..self })
    }

    /// Whether of the table nothing but the inserts are meant.
    pub fn is_insert_only(&self, schema: &str, table: &str) -> bool {
        self.insert_only.is_match(format!("{schema}.{table}"))
    }

    /// Every table but those that never replicate.
    pub fn all() -> TableFilter {
        let every = glob("*.*").expect("a constant that parses");
        TableFilter::new(vec![every], vec![]).expect("one small glob compiles")
    }

    /// Whether the table is meant.
    pub fn matches(&self, schema: &str, table: &str) -> bool {
        let name = format!("{schema}.{table}");
        let never = NEVER.contains(&schema) || schema.starts_with("pg_temp") || schema.starts_with("pg_toast_temp");
        !never && self.include.is_match(&name) && !self.exclude.is_match(&name)
    }

    /// The first including glob that the table's name matches.
    pub fn matching(&self, schema: &str, table: &str) -> Option<&str> {
        let first = self.include.matches(format!("{schema}.{table}")).into_iter().min()?;
        self.patterns.get(first).map(String::as_str).filter(|_| self.matches(schema, table))
    }

    /// The including globs as written, for messages.
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }
}

/// Reads one glob over `schema.table`: `*`, `?`, `[ab]`, `{a,b}`. The error is a sentence.
pub fn glob(pattern: &str) -> Result<Glob, String> {
    if !pattern.contains('.') {
        return Err(format!("write the schema too: \"public.{pattern}\""));
    }
    GlobBuilder::new(pattern).literal_separator(false).build().map_err(|error| error.kind().to_string())
}

fn set(globs: Vec<Glob>) -> Result<GlobSet, globset::Error> {
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        set.add(glob);
    }
    set.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(include: &[&str], exclude: &[&str]) -> TableFilter {
        let globs = |patterns: &[&str]| patterns.iter().map(|pattern| glob(pattern).unwrap()).collect();
        TableFilter::new(globs(include), globs(exclude)).unwrap()
    }

    #[test]
    fn what_is_included_and_not_excluded_replicates() {
        let filter = filter(&["public.*"], &["public.audit_*"]);
        assert!(filter.matches("public", "orders"));
        assert!(!filter.matches("public", "audit_log"));
        assert!(!filter.matches("sales", "orders"));
    }

    #[test]
    fn the_servers_own_tables_and_ours_never_replicate() {
        for (schema, table) in [("pg_catalog", "pg_class"), ("pgconcord", "progress"), ("pg_temp_3", "t")] {
            assert!(!TableFilter::all().matches(schema, table), "{schema}.{table}");
        }
        assert!(TableFilter::all().matches("a b", "ünï"));
    }

    #[test]
    fn a_glob_names_schema_and_table() {
        assert!(glob("orders").is_err());
        assert!(glob("public.[").is_err());
        assert!(glob("public.{a,b}").is_ok());
    }
}
