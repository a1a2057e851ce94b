//! Sequences behind keys: two nodes whose sequences can give the same value make two different rows one.
//!
//! A sequence gives the values at + k·increment within its bounds. Those of two nodes are disjoint if the
//! bounds are, or if no common value solves the congruence: gcd of the increments does not divide the distance
//! of their positions.

use crate::model::table::{Catalog, quote_identifier};
use crate::node::Finding;
use crate::node::doctor::facts::{Facts, Sequence};

const CHECK: &str = "sequences";
/// Values left free for what is inserted between doctor and its statement.
const MARGIN: i128 = 1_000;

pub(super) fn check(nodes: &[Facts], catalog: &Catalog) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen = 0;
    for table in catalog.tables() {
        let mut columns: Vec<usize> =
            table.key.iter().chain(table.unique.iter().flat_map(|u| &u.columns)).copied().collect();
        columns.sort_unstable();
        columns.dedup();
        for column in columns {
            let column = &table.columns[column].name;
            let of_nodes: Vec<(&Facts, &Sequence)> =
                nodes.iter().filter_map(|facts| Some((facts, find(facts, &table.to_string(), column)?))).collect();
            seen += usize::from(!of_nodes.is_empty());
            findings.extend(judge(&of_nodes, nodes.len()));
        }
    }
    if seen > 0 && findings.is_empty() {
        findings.push(Finding::ok(CHECK, format!("no collisions among those of {seen} columns")));
    }
    findings
}

fn find<'a>(facts: &'a Facts, table: &str, column: &str) -> Option<&'a Sequence> {
    facts.sequences.iter().find(|sequence| sequence.table == table && sequence.column == column)
}

/// The sequences of one column, one a node that has one.
fn judge(sequences: &[(&Facts, &Sequence)], nodes: usize) -> Vec<Finding> {
    let unreadable = sequences.iter().filter(|(_, sequence)| sequence.at.is_none()).map(|(facts, sequence)| {
        let role = quote_identifier(&facts.server.role);
        Finding::warning(CHECK, format!("{} can't be read, so nobody knows whether it collides", sequence.sql_name))
            .at(&facts.node)
            .about(&sequence.table)
            .fix(format!("GRANT SELECT ON SEQUENCE {} TO {role};", sequence.sql_name))
    });
    let mut findings: Vec<Finding> = unreadable.collect();
    let pairs = || sequences.iter().enumerate().flat_map(|(i, a)| sequences[i + 1..].iter().map(move |b| (a.1, b.1)));
    if !pairs().any(|(a, b)| collide(a, b)) {
        return findings;
    }
    let highest = sequences.iter().filter_map(|(_, sequence)| sequence.at).max().unwrap_or_default();
    let step = nodes as i128;
    let base = (i128::from(highest) + MARGIN).div_euclid(step) * step + step;
    for (place, (facts, sequence)) in sequences.iter().enumerate() {
        let what = format!(
            "{} takes values from {}, and sequences of other nodes give the same: two different rows would become one",
            sequence.column, sequence.sql_name
        );
        let finding = Finding::error(CHECK, what).at(&facts.node).about(&sequence.table);
        let restart = base + place as i128;
        let fits = sequence.increment > 0 && restart <= i128::from(sequence.max);
        let statement = format!("ALTER SEQUENCE {} INCREMENT BY {step} RESTART WITH {restart};", sequence.sql_name);
        findings.push(if fits { finding.fix(statement) } else { finding });
    }
    findings
}

/// Whether both can give one value. Without a known position only the bounds tell, and that is warned of apart.
fn collide(a: &Sequence, b: &Sequence) -> bool {
    if a.max < b.min || b.max < a.min {
        return false;
    }
    let (Some(at_a), Some(at_b)) = (a.at, b.at) else { return false };
    // a cycle starts again at the bound, which need not be in the same residue class
    if a.cycles || b.cycles {
        return true;
    }
    let common = gcd(a.increment.unsigned_abs(), b.increment.unsigned_abs());
    u128::from(at_a.abs_diff(at_b)).is_multiple_of(u128::from(common.max(1)))
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(increment: i64, at: i64) -> Sequence {
        Sequence {
            table: "public.t".to_owned(),
            column: "id".to_owned(),
            sql_name: r#""public"."t_id_seq""#.to_owned(),
            increment,
            min: 1,
            max: i64::MAX,
            cycles: false,
            at: Some(at),
        }
    }

    #[test]
    fn sequences_collide_unless_their_classes_or_bounds_differ() {
        assert!(collide(&sequence(1, 1), &sequence(1, 500)));
        assert!(!collide(&sequence(2, 1), &sequence(2, 500)));
        assert!(collide(&sequence(2, 2), &sequence(2, 500)));
        assert!(!collide(&sequence(4, 1), &sequence(6, 4)), "gcd 2, distance 3");
        assert!(collide(&sequence(4, 1), &sequence(6, 5)));
        assert!(collide(&sequence(2, 1), &sequence(3, 500)));
        let low = Sequence { max: 1_000, ..sequence(1, 5) };
        let high = Sequence { min: 1_001, ..sequence(1, 1_005) };
        assert!(!collide(&low, &high));
        assert!(collide(&Sequence { cycles: true, ..sequence(2, 1) }, &sequence(2, 2)));
    }

    #[test]
    fn the_statements_given_do_not_collide() {
        let node = Facts::sample();
        let (a, b, c) = (sequence(1, 7), sequence(1, 40_000), sequence(1, 1));
        let findings = judge(&[(&node, &a), (&node, &b), (&node, &c)], 3);
        let restart = |finding: &Finding| {
            let fix = finding.fix.clone().unwrap();
            assert!(fix.contains("INCREMENT BY 3"), "{fix}");
            fix.trim_end_matches(';').rsplit(' ').next().unwrap().parse::<i64>().unwrap()
        };
        let restarts: Vec<i64> = findings.iter().map(restart).collect();
        assert!(restarts.iter().all(|restart| *restart > 40_000));
        let mended: Vec<Sequence> = restarts.iter().map(|restart| sequence(3, *restart)).collect();
        assert!(judge(&[(&node, &mended[0]), (&node, &mended[1]), (&node, &mended[2])], 3).is_empty());
    }

    #[test]
    fn a_sequence_that_cannot_be_read_is_a_warning() {
        let hidden = Sequence { at: None, ..sequence(1, 0) };
        let node = Facts::sample();
        assert_eq!(judge(&[(&node, &hidden), (&node, &sequence(1, 1))], 2).len(), 1);
    }
}
