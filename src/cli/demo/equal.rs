//! Are the two sides equal? Every row of every table, as text.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::time::sleep;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::site::Site;

/// How often the sides are compared while they are not equal yet.
const AGAIN: Duration = Duration::from_millis(300);
/// The sides must still be equal this much later: a change may have been under way.
const STILL: Duration = Duration::from_millis(700);
/// So many rows of a difference are shown.
const SHOWN: usize = 5;

/// One table on both sides.
struct TableRows {
    name: String,
    rows: [usize; 2],
    /// Rows that only one side has, at most [`SHOWN`] a side: the side, the row.
    only: Vec<(usize, String)>,
    differing: usize,
}

/// All tables on both sides.
pub struct Comparison {
    names: [&'static str; 2],
    tables: Vec<TableRows>,
}

impl Comparison {
    /// Whether every table has the same rows on both sides.
    pub fn is_equal(&self) -> bool {
        self.tables.iter().all(|table| table.differing == 0)
    }

    /// For people: a line a table, and the rows that differ.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for TableRows { name, rows, only, differing } in &self.tables {
            if *differing == 0 {
                lines.push(format!("{name:<18} {:>6} rows, the same on both sides", rows[0]));
                continue;
            }
            let [east, west] = self.names;
            lines.push(format!(
                "{name:<18} {} rows at {east}, {} at {west}, {differing} of them on one side only",
                rows[0], rows[1]
            ));
            lines.extend(only.iter().map(|(side, row)| format!("    only at {}: {row}", self.names[*side])));
        }
        lines
    }
}

/// Compares until the sides are equal, and still are a moment later; gives the last comparison after `limit`.
pub async fn wait(site: &Site, limit: Duration) -> anyhow::Result<Comparison> {
    let sessions = site.sessions().await?;
    let start = Instant::now();
    let mut equal_before = false;
    loop {
        let comparison = compare(site.names(), &sessions).await?;
        let equal = comparison.is_equal();
        if (equal && equal_before) || start.elapsed() > limit {
            return Ok(comparison);
        }
        equal_before = equal;
        sleep(if equal { STILL } else { AGAIN }).await;
    }
}

async fn compare(names: [&'static str; 2], sessions: &[Client; 2]) -> anyhow::Result<Comparison> {
    let tables = "SELECT quote_ident(relname) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1";
    let mut found = Vec::new();
    for name in column(&sessions[0], tables).await? {
        let query = format!("SELECT t::text FROM public.{name} AS t ORDER BY t::text COLLATE \"C\"");
        let (east, west) = tokio::try_join!(column(&sessions[0], &query), column(&sessions[1], &query))?;
        found.push(compare_rows(name, &east, &west));
    }
    Ok(Comparison { names, tables: found })
}

/// Walks two sorted lists side by side.
fn compare_rows(name: String, east: &[String], west: &[String]) -> TableRows {
    let mut table = TableRows { name, rows: [east.len(), west.len()], only: Vec::new(), differing: 0 };
    let mut shown = [0; 2];
    let mut note = |side: usize, row: &String| {
        table.differing += 1;
        if shown[side] < SHOWN {
            shown[side] += 1;
            table.only.push((side, row.clone()));
        }
    };
    let (mut e, mut w) = (0, 0);
    while e < east.len() || w < west.len() {
        let order = match (east.get(e), west.get(w)) {
            (Some(east), Some(west)) => east.cmp(west),
            (Some(_), None) => Ordering::Less,
            _ => Ordering::Greater,
        };
        if order == Ordering::Less {
            note(0, &east[e]);
        } else if order == Ordering::Greater {
            note(1, &west[w]);
        }
        e += usize::from(order != Ordering::Greater);
        w += usize::from(order != Ordering::Less);
    }
    table
}

/// The first column of the result.
async fn column(client: &Client, sql: &str) -> anyhow::Result<Vec<String>> {
    let messages = client.simple_query(sql).await.context("cannot read a demo server")?;
    let text = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    };
    Ok(messages.iter().filter_map(text).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn rows_of_one_side_are_found_and_so_are_doubles() {
        let equal = compare_rows("t".into(), &rows("a b b c"), &rows("a b b c"));
        assert_eq!(equal.differing, 0);
        let table = compare_rows("t".into(), &rows("a b b d"), &rows("b c d e"));
        let only: Vec<_> = table.only.iter().map(|(side, row)| (*side, row.as_str())).collect();
        assert_eq!(only, [(0, "a"), (0, "b"), (1, "c"), (1, "e")]);
        assert_eq!(table.differing, 4);
    }

    #[test]
    fn a_side_without_rows_differs() {
        assert_eq!(compare_rows("t".into(), &rows("a"), &[]).differing, 1);
        assert_eq!(compare_rows("t".into(), &[], &rows("a")).differing, 1);
    }
}
