//! The properties, and that the simulation can fail.
//!
//! A schedule that fails is told by its number and printed as a story. To see one again, or to look further:
//!
//! ```text
//! PGCONCORD_NODES=3 PGCONCORD_SEED=1637 PGCONCORD_RESOLVER=origin_priority cargo test --lib simulate::tests::replay -- --nocapture
//! PGCONCORD_REFUSING=1 PGCONCORD_SEED=35896 cargo test --lib simulate::tests::replay -- --nocapture
//! PGCONCORD_NODES=3 PGCONCORD_SEEDS=100000 cargo test --lib simulate::tests::three_nodes -- --nocapture
//! ```

use std::env;

use super::*;
use crate::model::{Case, ColumnMerge, Deletes, Resolver};

mod differing;
mod uniques;

/// Schedules of each test, unless PGCONCORD_SEEDS says otherwise.
const SCHEDULES: u64 = 4_000;
/// Last lines of a failing schedule's story that are shown, unless PGCONCORD_STORY says otherwise.
const STORY: u64 = 120;

fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

/// Runs one schedule with its story; a value that can't be had any more (`Held`) stops a link, as it may.
fn tell(settings: &Settings) -> String {
    match run(&Settings { story: true, ..settings.clone() }) {
        Ok(tally) => format!("{tally:?}"),
        Err((failure, story)) => {
            let lines = usize::try_from(number("PGCONCORD_STORY", STORY)).expect("lines that fit in memory");
            let shown = story.len().saturating_sub(lines);
            format!("{}\n{failure}", story[shown..].join("\n"))
        }
    }
}

fn fails(settings: &Settings) -> bool {
    !matches!(run(settings), Ok(_) | Err((Failure::Held { .. }, _)))
}

fn converge(nodes: usize) {
    converge_by(nodes, &TableRule::default(), SCHEDULES);
}

fn converge_by(nodes: usize, rule: &TableRule, schedules: u64) {
    let name = format!("{}, {}", rule.resolver.name(), rule.deletes.name());
    converge_as(nodes, &name, schedules, |seed| Settings { rule: rule.clone(), ..Settings::new(nodes, seed) });
}

fn converge_as(nodes: usize, name: &str, schedules: u64, settings: impl Fn(u64) -> Settings) {
    let all = (0..number("PGCONCORD_SEEDS", schedules)).map(&settings);
    let (mut conflicts, mut decisions, mut bad) = (0, 0, Vec::new());
    for settings in all {
        match run(&settings) {
            Ok(tally) => (conflicts, decisions) = (conflicts + tally.conflicts, decisions + tally.decisions),
            Err((Failure::Held { .. }, _)) => {}
            Err(_) => bad.push(settings.seed),
        }
    }
    println!("{nodes} nodes, {name}: {decisions} decisions, {conflicts} conflicts");
    assert!(conflicts > 0, "schedules without conflicts prove nothing");
    if let Some(first) = bad.first() {
        panic!("{}\n{nodes} nodes, {name}, seeds {bad:?}", tell(&settings(*first)));
    }
}

#[test]
fn two_nodes_become_equal_whatever_the_schedule() {
    converge(2);
}

#[test]
fn three_nodes_become_equal_whatever_the_schedule() {
    converge(3);
}

#[test]
fn four_nodes_become_equal_whatever_the_schedule() {
    converge(4);
}

#[test]
fn batches_may_be_committed_in_the_window_that_writes_them() {
    for (name, rule) in [
        ("by the last update", TableRule::default()),
        ("by the first", Resolver::FirstUpdateWins.into()),
        ("adding", merge_by(ColumnMerge::Delta)),
    ] {
        for nodes in 2..5 {
            let settings = |seed| Settings { at_once: true, rule: rule.clone(), ..Settings::new(nodes, seed) };
            converge_as(nodes, &format!("at once, {name}"), SCHEDULES / 4, settings);
        }
    }
}

fn going_ahead(nodes: usize, rule: &TableRule, seed: u64) -> Settings {
    let at_once = seed.is_multiple_of(2);
    let refusals = if seed % 5 == 1 { 30 } else { 0 };
    Settings { ahead: true, at_once, refusals, rule: rule.clone(), ..Settings::new(nodes, seed) }
}

#[test]
fn transactions_may_be_written_before_their_end_has_come() {
    for (name, rule) in [
        ("by the last update", TableRule::default()),
        ("by the first", Resolver::FirstUpdateWins.into()),
        (
            "by the last update, if nothing was deleted",
            TableRule { deletes: Deletes::DeleteWins, ..TableRule::default() },
        ),
    ] {
        for nodes in 2..5 {
            let settings = |seed| going_ahead(nodes, &rule, seed);
            converge_as(nodes, &format!("ahead, {name}"), SCHEDULES / 4, settings);
        }
    }
    let tallies = (0..300).filter_map(|seed| run(&going_ahead(2, &TableRule::default(), seed)).ok());
    let taken_over: u64 = tallies.map(|tally| tally.taken_over).sum();
    println!("{taken_over} taken over in 300 schedules");
    assert!(taken_over > 100, "little is written ahead");
}

#[test]
fn what_is_written_ahead_does_not_stand_where_another_node_changed_it() {
    let unasked = |seed| {
        let settings = going_ahead(2, &TableRule::default(), seed);
        Settings { mutation: Some(Mutation::AheadUnasked), ..settings }
    };
    assert!((0..20_000).any(|seed| fails(&unasked(seed))), "nothing is wrong with it");
}

#[test]
fn what_stood_before_a_batch_does_not_stand_where_the_batch_has_written() {
    let one_key = |seed| Settings { focus: Focus::OneKey, ..going_ahead(2, &TableRule::default(), seed) };
    converge_as(2, "ahead, one key", SCHEDULES, one_key);
    let mut trusting = (0..100_000).map(|seed| Settings { mutation: Some(Mutation::TouchedStands), ..one_key(seed) });
    assert!(trusting.any(|settings| fails(&settings)), "nothing is wrong with it");
}

#[test]
fn the_first_update_wins_alike_everywhere() {
    (2..5).for_each(|nodes| converge_by(nodes, &Resolver::FirstUpdateWins.into(), SCHEDULES / 4));
}

#[test]
fn the_node_that_comes_first_wins_alike_everywhere() {
    for nodes in 2..5 {
        let order: Vec<_> = NodeId::all(nodes).rev().collect();
        converge_by(nodes, &Resolver::OriginPriority(order.into()).into(), SCHEDULES / 4);
    }
}

#[test]
fn a_delete_wins_or_loses_alike_everywhere() {
    for deletes in [Deletes::DeleteWins, Deletes::UpdateWins] {
        (2..5).for_each(|nodes| converge_by(nodes, &TableRule { deletes, ..TableRule::default() }, SCHEDULES / 4));
    }
}

#[test]
fn the_row_with_the_greatest_or_the_least_value_wins_alike_everywhere() {
    for resolver in [Resolver::LastByColumn, Resolver::FirstByColumn] {
        for deletes in [Deletes::DeleteWins, Deletes::UpdateWins] {
            let rule = TableRule { deletes, ..by_column(resolver).into() };
            (2..5).for_each(|nodes| converge_by(nodes, &rule, SCHEDULES / 8));
        }
    }
}

/// Rules of which some have conditions, by a number.
fn conditional(nodes: usize, number: u64) -> TableRule {
    let one = |node: u8| Some([NodeId(node)].into());
    let when = When::compile("remote == local", &[]).ok(); // the stand-in takes its place
    let conditions = [
        Condition { source: one(0), target: one(1), ..Condition::default() },
        Condition { changed: Some([String::new()].into()), ..Condition::default() },
        Condition { when: when.clone(), ..Condition::default() },
        Condition { source: one(1), when, ..Condition::default() },
    ];
    let order: Vec<_> = NodeId::all(nodes).rev().collect();
    let order = Resolver::OriginPriority(order.into());
    let says = [
        (Some(Resolver::FirstUpdateWins), None),
        (Some(order.clone()), Some(Deletes::ByResolver)),
        (None, Some(Deletes::DeleteWins)),
        (Some(Resolver::FirstUpdateWins), Some(Deletes::UpdateWins)),
        (Some(by_column(Resolver::FirstByColumn)), Some(Deletes::DeleteWins)),
        (Some(Resolver::LastUpdateWins), None),
    ];
    let place = |at: u64, of: usize| usize::try_from(at).unwrap_or(0) % of;
    let case = |at: u64| {
        let condition = stand_in(&conditions[place(number / 3 + at, conditions.len())], nodes);
        let (resolver, deletes) = says[place(number / 12 + 2 * at, says.len())].clone();
        Case { condition, resolver, deletes }
    };
    let otherwise = [
        TableRule::default(),
        Resolver::FirstUpdateWins.into(),
        order.into(),
        TableRule { deletes: Deletes::UpdateWins, ..TableRule::default() },
    ];
    TableRule { cases: (0..=number % 3).map(case).collect(), ..otherwise[place(number / 72, 4)].clone() }
}

#[test]
fn rules_with_conditions_decide_alike_everywhere() {
    let settings = |nodes, seed: u64| Settings {
        rule: conditional(nodes, seed),
        later: seed.is_multiple_of(5).then(|| conditional(nodes, seed / 5 + 7)),
        ..Settings::new(nodes, seed)
    };
    (2..5).for_each(|nodes| converge_as(nodes, "conditions", SCHEDULES / 2, |seed| settings(nodes, seed)));
}

fn append() -> ColumnMerge {
    ColumnMerge::Append(ColumnMerge::NEW_LINE.into())
}

#[test]
fn what_is_appended_is_kept_alike_everywhere() {
    (2..5).for_each(|nodes| converge_by(nodes, &merge_by(append()), SCHEDULES / 2));
}

#[test]
fn counters_add_up_alike_everywhere() {
    (2..5).for_each(|nodes| converge_by(nodes, &merge_by(ColumnMerge::Delta), SCHEDULES / 2));
}

/// A user changed the row before it was deleted again: it begins anew with that, as long as anybody can ask.
#[test]
fn a_counter_that_a_crash_brought_back_comes_out_alike() {
    for seed in [5514, 179_686] {
        let settings = Settings { rule: merge_by(ColumnMerge::Delta), ..Settings::new(2, seed) };
        assert!(!fails(&settings), "{}", tell(&settings));
    }
}

#[test]
fn what_an_expression_makes_of_values_is_alike_everywhere() {
    (2..5).for_each(|nodes| converge_by(nodes, &merge_by(ColumnMerge::Sql("".into())), SCHEDULES / 2));
}

#[test]
fn what_a_function_makes_of_rows_is_alike_everywhere() {
    (2..5).for_each(|nodes| converge_by(nodes, &by_function(), SCHEDULES / 2));
}

#[test]
fn columns_merge_alike_everywhere() {
    for how in [ColumnMerge::LastUpdateWins, ColumnMerge::Greatest, ColumnMerge::Least, ColumnMerge::JsonMerge] {
        let rule = merge_by(how);
        (2..5).for_each(|nodes| converge_by(nodes, &rule, SCHEDULES / 4));
    }
}

/// Who had seen whom is known by column: an author who was told of a change by one of another column had not seen it.
#[test]
fn a_value_is_kept_though_a_change_of_another_column_told_of_it() {
    let found = [(append(), 10_676), (append(), 10_872), (append(), 13_616), (ColumnMerge::LastUpdateWins, 5577)];
    // In the last one somebody inserts the row whose insert is still under way, and an update of which is there already.
    for (how, seed) in found.into_iter().chain([(append(), 76_333)]) {
        let settings = Settings { rule: merge_by(how), ..Settings::new(3, seed) };
        assert!(!fails(&settings), "{}", tell(&settings));
    }
}

/// A schedule in which nodes refuse what is written.
fn refusing(seed: u64) -> Settings {
    let nodes = 2 + (seed % 3) as usize;
    let rules: Vec<_> =
        all_rules(nodes).into_iter().filter(|rule| !matches!(rule.resolver, Resolver::Merge(_))).collect();
    let rule = rules[(seed / 3) as usize % rules.len()].clone();
    let refusals = [30, 150, 500][(seed / 2) as usize % 3];
    Settings { rule, refusals, ..Settings::new(nodes, seed) }
}

#[test]
fn nodes_that_refuse_rows_become_equal_once_they_take_them() {
    let (mut held, mut bad) = (0, Vec::new());
    let schedules = number("PGCONCORD_SEEDS", SCHEDULES);
    for seed in 0..schedules {
        match run(&refusing(seed)) {
            Ok(tally) => held += tally.held,
            Err((Failure::Held { .. }, _)) => {}
            Err(_) => bad.push(seed),
        }
    }
    println!("{held} rows were held in {schedules} schedules");
    assert!(held > 0, "nothing was held");
    if let Some(first) = bad.first() {
        panic!("{}\n{:?}, {} of {schedules}: {bad:?}", tell(&refusing(*first)), refusing(*first), bad.len());
    }
}

#[test]
fn what_is_held_is_no_longer_written_once_a_change_has_taken_its_place() {
    for mutation in [Mutation::HeldIsLasting, Mutation::ForgetSuperseding] {
        let mut settings = (0..60_000).map(|seed| Settings { mutation: Some(mutation), ..refusing(seed) });
        assert!(settings.any(|settings| fails(&settings)), "{mutation:?} broke nothing");
    }
}

fn all_rules(nodes: usize) -> Vec<TableRule> {
    let order: Vec<_> = NodeId::all(nodes).rev().collect();
    let deletes = |deletes| TableRule { deletes, ..TableRule::default() };
    let mut rules = vec![
        TableRule::default(),
        Resolver::FirstUpdateWins.into(),
        Resolver::OriginPriority(order.into()).into(),
        deletes(Deletes::DeleteWins),
        deletes(Deletes::UpdateWins),
    ];
    rules.extend([ColumnMerge::LastUpdateWins, ColumnMerge::Delta, ColumnMerge::Greatest].map(merge_by));
    rules.push(by_function());
    rules
}

/// A schedule in the middle of which the rules change.
fn switching(seed: u64) -> Settings {
    let nodes = 2 + (seed % 3) as usize;
    let rules = all_rules(nodes);
    let count = rules.len() as u64;
    let (from, to) = (seed / 3 % count, seed / 3 / count % count);
    let rule = |place: u64| rules[place as usize].clone();
    Settings { rule: rule(from), later: (from != to).then(|| rule(to)), ..Settings::new(nodes, seed) }
}

/// The same, from or to a rule by which changes append.
fn switching_append(seed: u64) -> Settings {
    let nodes = 2 + (seed % 3) as usize;
    let rules = all_rules(nodes);
    let (other, append) = (rules[(seed / 3) as usize % rules.len()].clone(), merge_by(append()));
    let (rule, later) = if seed.is_multiple_of(2) { (other, append) } else { (append, other) };
    Settings { rule, later: Some(later), ..Settings::new(nodes, seed) }
}

#[test]
fn rules_change_alike_everywhere_while_changes_are_under_way() {
    switch_by(switching, SCHEDULES);
}

#[test]
fn rules_change_alike_to_and_from_what_is_appended() {
    switch_by(switching_append, SCHEDULES / 4);
}

/// A delete that is forgotten takes nothing away: so tables whose rows will be merged wait for what it took away.
#[test]
fn what_a_forgotten_delete_took_away_is_not_merged() {
    let (rule, later) = (Resolver::FirstUpdateWins.into(), Some(merge_by(ColumnMerge::Delta)));
    let settings = Settings { rule, later, ..Settings::new(3, 3811) };
    assert!(!fails(&settings), "{}", tell(&settings));
}

fn switch_by(switching: impl Fn(u64) -> Settings, schedules: u64) {
    let (mut switched, mut bad) = (0, Vec::new());
    let schedules = number("PGCONCORD_SEEDS", schedules);
    for seed in 0..schedules {
        match run(&switching(seed)) {
            Ok(tally) => switched += tally.switched,
            Err((Failure::Held { .. }, _)) => {}
            Err(_) => bad.push(seed),
        }
    }
    println!("{switched} tables took a later rule in {schedules} schedules");
    assert!(switched > schedules / 4, "{switched} switches prove little");
    if let Some(first) = bad.first() {
        panic!("{}\n{:?}, seeds {bad:?}", tell(&switching(*first)), switching(*first));
    }
}

#[test]
fn rules_that_change_at_once_come_out_differently() {
    let mut settings = (0..20_000).map(|seed| Settings { mutation: Some(Mutation::SwitchAtOnce), ..switching(seed) });
    assert!(settings.any(|settings| fails(&settings)), "nothing broke");
}

/// Each rule that is broken must show: else the simulation would prove nothing about it.
#[test]
fn without_a_rule_some_schedule_fails() {
    let broken = [
        (Mutation::NoGuard, Focus::Nothing),
        (Mutation::NoReopen, Focus::Nothing),
        (Mutation::ForgetAtOnce, Focus::Nothing),
        (Mutation::ForgetMarks, Focus::Starts),
        (Mutation::NothingSettled, Focus::Starts),
        (Mutation::AllSettled, Focus::Starts),
        (Mutation::Pairwise, Focus::Nothing),
        (Mutation::ResumeAtOnce, Focus::Starts),
        (Mutation::AnyBody, Focus::Toast),
        (Mutation::AnyLoser, Focus::Nothing),
    ];
    for (mutation, focus) in broken {
        let mut settings = (0..60_000).map(|seed| Settings {
            mutation: Some(mutation),
            focus,
            ..Settings::new(2 + (seed % 3) as usize, seed)
        });
        assert!(settings.any(|settings| fails(&settings)), "{mutation:?} broke nothing");
    }
}

/// The same where rows are made from several changes.
#[test]
fn without_a_rule_some_merged_row_differs() {
    let broken = [
        (Mutation::NoGuard, Focus::Nothing),
        (Mutation::NoReopen, Focus::Nothing),
        (Mutation::NoBarrier, Focus::Nothing),
        (Mutation::ForgetAtOnce, Focus::Nothing),
        (Mutation::ForgetMarks, Focus::Starts),
        (Mutation::ResumeAtOnce, Focus::Starts),
    ];
    for (mutation, focus) in broken {
        for rule in [merge_by(ColumnMerge::Delta), by_function()] {
            let mut settings = (0..20_000).map(|seed| Settings {
                mutation: Some(mutation),
                focus,
                rule: rule.clone(),
                ..Settings::new(2 + (seed % 3) as usize, seed)
            });
            let name = rule.resolver.name();
            assert!(settings.any(|settings| fails(&settings)), "{mutation:?} broke nothing by {name}");
        }
    }
}

/// A counter that every node adds to without a pause holds nothing back either.
#[test]
fn a_hot_counter_does_not_pin_the_frontier() {
    for seed in 0..6 {
        let rule = merge_by(ColumnMerge::Delta);
        let hot =
            Settings { focus: Focus::HotKey, steps: 30_000, rule, ..Settings::new(2 + (seed % 3) as usize, seed) };
        let tally = run(&hot).unwrap_or_else(|_| panic!("{}", tell(&hot)));
        assert!(tally.conflicts > tally.transactions / 4, "{tally:?}");
        assert!(tally.most_kept < tally.transactions / 6, "seed {seed}: {tally:?}");
    }
}

/// A key that every node changes without a pause, so that each change is concurrent with one that is still kept, holds
/// nothing back: what the window keeps does not grow with what was written.
#[test]
fn a_hot_key_does_not_pin_the_frontier() {
    for seed in 0..12 {
        let hot = Settings { focus: Focus::HotKey, steps: 60_000, ..Settings::new(2 + (seed % 3) as usize, seed) };
        let tally = run(&hot).unwrap_or_else(|_| panic!("{}", tell(&hot)));
        assert!(tally.conflicts > tally.transactions / 4, "{tally:?}");
        assert!(tally.most_kept < tally.transactions / 6, "seed {seed}: {tally:?}");
    }
}

fn resolver_named(name: &str, nodes: usize) -> Resolver {
    match name {
        "first_update_wins" => Resolver::FirstUpdateWins,
        "origin_priority" => Resolver::OriginPriority(NodeId::all(nodes).rev().collect()),
        "function" => by_function().resolver,
        text => match ColumnMerge::ALL.into_iter().find(|(name, _)| text == format!("merge {name}")) {
            Some((_, how)) => merge_by(how).resolver,
            None => Resolver::LastUpdateWins,
        },
    }
}

/// Shows the schedule that PGCONCORD_SEED names.
#[test]
fn replay() {
    let nodes = usize::try_from(number("PGCONCORD_NODES", 2)).expect("a handful");
    let resolver = resolver_named(&env::var("PGCONCORD_RESOLVER").unwrap_or_default(), nodes);
    let later = env::var("PGCONCORD_LATER").ok().map(|name| resolver_named(&name, nodes).into());
    let deletes = env::var("PGCONCORD_DELETES").unwrap_or_default();
    let deletes = Deletes::ALL.iter().find(|(name, _)| *name == deletes).map_or(Deletes::ByResolver, |(_, each)| *each);
    let rule = TableRule { deletes, ..TableRule::from(resolver) };
    let seed = number("PGCONCORD_SEED", 1);
    let settings = match env::var_os("PGCONCORD_REFUSING") {
        Some(_) => refusing(seed),
        None => Settings { rule, later, ..Settings::new(nodes, seed) },
    };
    println!("{}", tell(&settings));
    assert!(!fails(&settings));
}
