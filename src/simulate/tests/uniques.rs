//! Rows that claim one unique value.

use super::*;
use crate::model::UniqueWinner;

fn renaming(nodes: usize, seed: u64) -> Settings {
    Settings { renames: true, ..Settings::new(nodes, seed) }
}

/// The node that comes last in number first.
fn by_order(nodes: usize) -> TableRule {
    let unique = UniqueWinner::OriginPriority(NodeId::all(nodes).rev().collect());
    TableRule { unique, ..TableRule::default() }
}

#[test]
fn a_row_that_loses_its_unique_value_gets_another_one_alike_everywhere() {
    (2..5).for_each(|nodes| converge_as(nodes, "renames", SCHEDULES / 2, |seed| renaming(nodes, seed)));
}

/// Where losers are renamed: at the target before that is done at their homes.
#[test]
fn renaming_a_loser_that_is_not_settled_breaks_it() {
    let mutation = Some(Mutation::UnsettledLosers);
    let settings = |seed: u64| Settings { mutation, ..renaming(2 + (seed % 3) as usize, seed) };
    assert!((0..60_000).map(settings).any(|settings| fails(&settings)), "it broke nothing");
}

#[test]
fn the_row_of_the_node_that_comes_first_keeps_a_unique_value_alike_everywhere() {
    for nodes in 2..5 {
        let ordered = |renames| {
            move |seed| Settings {
                rule: by_order(nodes),
                renames,
                at_once: seed % 2 == 0,
                ..Settings::new(nodes, seed)
            }
        };
        converge_as(nodes, "unique values by the order of nodes", SCHEDULES / 4, ordered(false));
        converge_as(nodes, "unique values by the order of nodes, renaming", SCHEDULES / 8, ordered(true));
    }
}

/// Were one of two rows to lose by the old rule and the other by the new one, both would go.
#[test]
fn another_row_keeps_a_unique_value_when_nothing_is_under_way() {
    let switching = |rule: TableRule, later: TableRule| {
        move |seed| Settings { rule: rule.clone(), later: Some(later.clone()), ..Settings::new(2, seed) }
    };
    let (newest, ordered) = (TableRule::default, || by_order(2));
    converge_as(2, "by the order of nodes, later", SCHEDULES / 2, switching(newest(), ordered()));
    converge_as(2, "by the last update, later", SCHEDULES / 2, switching(ordered(), newest()));
    let at_once = |seed| Settings { mutation: Some(Mutation::SwitchAtOnce), ..switching(newest(), ordered())(seed) };
    assert!((0..40_000).any(|seed| fails(&at_once(seed))), "nothing is wrong with it");
}
