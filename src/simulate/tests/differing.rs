//! Rules by which rows differ on purpose: each node must have what they say for it.

use super::*;

const ALL: [Resolver; 3] = [Resolver::KeepLocal, Resolver::ApplyRemote, Resolver::Skip];

#[test]
fn each_node_has_what_a_rule_says_for_it() {
    for resolver in ALL {
        (2..5).for_each(|nodes| converge_by(nodes, &resolver.clone().into(), SCHEDULES / 16));
    }
}

#[test]
fn each_node_has_what_a_rule_says_for_it_where_a_row_was_deleted() {
    for deletes in [Deletes::DeleteWins, Deletes::UpdateWins] {
        for resolver in ALL {
            let rule = TableRule { deletes, ..resolver.into() };
            (2..4).for_each(|nodes| converge_by(nodes, &rule, SCHEDULES / 16));
        }
    }
}

/// Some conflicts of a table are decided so, others alike everywhere.
#[test]
fn each_node_has_what_a_rule_with_a_condition_says_for_it() {
    for resolver in ALL {
        let condition = Condition { source: Some([NodeId(0)].into()), ..Condition::default() };
        let case = Case { condition, resolver: Some(resolver), deletes: None };
        let rule = TableRule { cases: vec![case], ..TableRule::default() };
        (2..4).for_each(|nodes| converge_by(nodes, &rule, SCHEDULES / 16));
    }
}

#[test]
fn each_node_has_what_a_merge_says_for_its_column() {
    for how in [ColumnMerge::KeepLocal, ColumnMerge::ApplyRemote] {
        (2..5).for_each(|nodes| converge_by(nodes, &merge_by(how.clone()), SCHEDULES / 8));
    }
}
