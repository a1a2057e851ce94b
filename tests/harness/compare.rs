//! Are the nodes equal? Every table, every row, as text.

use std::collections::BTreeSet;

use super::Sql;

/// The replicated tables of the database: quoted names; of a partitioned table the root.
pub fn tables(sql: &Sql) -> Vec<String> {
    let rows = sql.rows(
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
         AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgconcord') ORDER BY 1",
    );
    rows.into_iter().map(|mut row| row.remove(0).expect("a name")).collect()
}

/// `SELECT FROM` the table with every row as text `t`, its columns by name, for their order may differ; without the rows
/// of tables that inherit from it. `None` while its node is down.
fn row_texts(sql: &Sql, table: &str) -> Option<String> {
    let query = format!(
        "SELECT format('(SELECT ROW(%s)::text AS t FROM %s %s) AS rows', string_agg(quote_ident(a.attname), ', '
             ORDER BY a.attname COLLATE \"C\"), CASE c.relkind WHEN 'r' THEN 'ONLY' END, c.oid::regclass)
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
         WHERE c.oid = '{}'::regclass AND a.attnum > 0 AND NOT a.attisdropped GROUP BY c.oid, c.relkind",
        table.replace('\'', "''")
    );
    sql.try_rows(&query).ok()?.pop()?.remove(0)
}

/// Number of rows and a sum over the hashes of all rows: equal for equal sets, duplicates counted. `None` while the
/// table can't be read (its node is down).
fn fingerprint(sql: &Sql, table: &str) -> Option<String> {
    let query = format!(
        "SELECT count(*) || ' ' || coalesce(sum(('x' || substr(CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN md5(t)
             ELSE md5(convert_to(t, 'UTF8')) END, 1, 15))::bit(60)::bigint), 0) FROM {}",
        row_texts(sql, table)?
    );
    sql.try_rows(&query).ok()?.remove(0).remove(0)
}

/// The tables that differ between the first session's node and any other's.
pub fn differing(sessions: &[Sql]) -> Vec<String> {
    let mut different: Vec<String> = tables(&sessions[0]);
    different.retain(|table| {
        let prints: BTreeSet<_> = sessions.iter().map(|sql| fingerprint(sql, table)).collect();
        prints.len() > 1 || prints.contains(&None)
    });
    different
}

/// For people: rows that only some nodes have, a few of each table.
pub fn explain(sessions: &[Sql], names: &[&str], tables: &[String]) -> String {
    let mut text = String::new();
    for table in tables {
        let rows = |sql: &Sql| -> BTreeSet<String> {
            let rows = row_texts(sql, table).map(|rows| sql.try_rows(&format!("SELECT t FROM {rows}")));
            let rows = rows.and_then(Result::ok).unwrap_or_default();
            rows.into_iter().map(|mut row| row.remove(0).unwrap_or_default()).collect()
        };
        let all: Vec<BTreeSet<String>> = sessions.iter().map(rows).collect();
        for (name, mine) in names.iter().zip(&all) {
            let only: Vec<_> = mine.iter().filter(|row| all.iter().any(|other| !other.contains(*row))).collect();
            text.push_str(&format!("{table} at {name}: {} rows, {} not everywhere\n", mine.len(), only.len()));
            only.iter().take(10).for_each(|row| text.push_str(&format!("    {row}\n")));
        }
    }
    text
}
