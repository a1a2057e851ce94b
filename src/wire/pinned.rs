//! Settings that every session of ours pins: what a role, a database or the server may have set otherwise, and what
//! changes how values are written, how they are read, or what a statement means.

use crate::model::table::quote_literal;

/// What all sessions share.
const PINNED: [(&str, &str); 13] = [
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("xmloption", "content"),
    ("array_nulls", "on"), // off reads NULL as the text 'NULL'
    ("search_path", "pg_catalog"),
    ("standard_conforming_strings", "on"),
    ("row_security", "off"),            // rather an error than rows that are not there
    ("client_min_messages", "warning"), // 18 only warns when the publication is gone
    ("jit", "off"),                     // compiling a look at the catalog takes longer than looking
];

/// What a database in SQL_ASCII holds is bytes that are no text in particular: they pass as they are.
const CLIENT_ENCODING: &str = "pg_catalog.set_config('client_encoding', \
     CASE pg_catalog.getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END, false)";

/// Limits that not every version has: a session that has nothing to do waits for what comes (14+), and a large transaction
/// takes its time (17+).
const UNLIMITED: &str = "(SELECT pg_catalog.count(pg_catalog.set_config(name, '0', false)) \
     FROM (VALUES ('idle_session_timeout'), ('transaction_timeout')) AS limits (name) \
     WHERE pg_catalog.current_setting(name, true) IS NOT NULL)";

/// One statement that pins these settings and `more`.
pub fn pin(more: &[(&str, &str)]) -> String {
    let set = |(name, value): &(&str, &str)| {
        format!("pg_catalog.set_config({}, {}, false)", quote_literal(name), quote_literal(value))
    };
    let settings: Vec<_> = PINNED.iter().chain(more).map(set).collect();
    format!("SELECT {CLIENT_ENCODING}, {UNLIMITED}, {}", settings.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_set_in_one_statement() {
        let text = pin(&[("lock_timeout", "0")]);
        assert!(text.contains("pg_catalog.set_config('DateStyle', 'ISO, YMD', false), "), "{text}");
        assert!(text.ends_with("pg_catalog.set_config('lock_timeout', '0', false)") && !text.contains(';'), "{text}");
    }
}
