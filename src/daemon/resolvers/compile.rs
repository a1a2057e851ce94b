//! Rules → what decides about one table, and what is wrong with that.

use crate::config::Rule;
use crate::config::rules::{self, Errors, Facet, deciding};
use crate::daemon::resolvers::Misfit;
use crate::daemon::resolvers::fit::{self, Unfit};
use crate::model::{Case, Deletes, Resolver, Table, TableRule, UniqueWinner};

/// What decides about the table: of each facet the first rule that matches; and what is wrong with that.
pub fn compile(rules: &[Rule], table: &Table) -> (TableRule, Vec<Misfit>) {
    let decides = |facet| deciding(rules, &table.schema, &table.name, facet);
    let found = Found {
        table,
        cases: rules::cases(rules, &table.schema, &table.name),
        writes: decides(Facet::Writes).and_then(|rule| Some((rule, rule.resolve.as_ref()?))),
        deletes: decides(Facet::Deletes).and_then(|rule| Some((rule, rule.deletes?))),
        unique: match fit::unique(table) {
            Some(_) => UniqueWinner::default(), // so that all ways to write nothing are one rule
            None => rules::table_rule(rules, &table.schema, &table.name).unique,
        },
    };
    let (rule, mut misfits) = found.rule();
    misfits.extend(found.misfits(&rule));
    misfits.extend(beside(rules, &rule, table));
    (rule, misfits)
}

/// The rules for a table that decide about its conflicts, each with what it says.
struct Found<'a> {
    table: &'a Table,
    cases: Vec<(&'a Rule, Case)>,
    /// Without a condition.
    writes: Option<(&'a Rule, &'a Resolver)>,
    /// Without a condition.
    deletes: Option<(&'a Rule, Deletes)>,
    unique: UniqueWinner,
}

impl Found<'_> {
    fn misfit(&self, rule: &Rule, unfit: Unfit) -> Misfit {
        Misfit::new(rule, self.table, unfit)
    }

    /// What they come to, a merge as far as it makes a difference; and what is wrong with that one.
    fn rule(&self) -> (TableRule, Vec<Misfit>) {
        let (resolver, misfits) = match self.writes {
            Some((rule, Resolver::Merge(merge))) => {
                let (merge, unfit) = fit::merge(merge, self.table);
                let misfits = unfit.into_iter().map(|unfit| self.misfit(rule, unfit)).collect();
                (Resolver::Merge(merge.into()), misfits)
            }
            Some((_, resolver)) => (resolver.clone(), Vec::new()),
            None => (Resolver::LastUpdateWins, Vec::new()),
        };
        // what a merge does about deletes is not a choice, so that all ways to write it are one rule
        let said = self.deletes.filter(|_| !matches!(resolver, Resolver::Merge(_)));
        let deletes = said.map_or(Deletes::ByResolver, |(_, deletes)| deletes);
        let cases = self.cases.iter().map(|(_, case)| case.clone()).collect();
        (TableRule { cases, resolver, deletes, unique: self.unique.clone() }, misfits)
    }

    /// What is wrong with them beside how columns are merged.
    fn misfits(&self, rule: &TableRule) -> Vec<Misfit> {
        let mut misfits = Vec::new();
        let is_merge = matches!(rule.resolver, Resolver::Merge(_));
        if let Some((by, Deletes::UpdateWins)) = self.deletes.filter(|_| is_merge) {
            let what = "its rows are merged, and in a merged table a delete always wins".to_owned();
            let fix = "write deletes = \"delete_wins\", or leave the table out of the rule's `tables`".to_owned();
            misfits.push(self.misfit(by, Unfit { what, fix }));
        }
        for (by, case) in &self.cases {
            if is_merge {
                let what =
                    "its rows are merged: they are made of all changes, and no conflict of theirs is decided otherwise";
                let fix = "leave the table out of the rule's `tables`, or out of those of the rule that merges";
                misfits.push(self.misfit(by, Unfit { what: what.to_owned(), fix: fix.to_owned() }));
            }
            misfits.extend(fit::case(case, self.table).into_iter().map(|unfit| self.misfit(by, unfit)));
        }
        for Compared { place, resolver, deletes } in by_column(rule) {
            let by = place.map(|place| self.cases[place].0).or(self.writes.map(|(by, _)| by));
            let unfit = fit::by(resolver, deletes, self.table);
            misfits.extend(by.into_iter().flat_map(|by| unfit.iter().map(|unfit| self.misfit(by, unfit.clone()))));
        }
        if let Some(unfit) = fit::whole_rows(&rule.resolver, rule.deletes, self.table) {
            let by = match rule.resolver {
                Resolver::LastUpdateWins => self.deletes.map(|(by, _)| by),
                _ => self.writes.map(|(by, _)| by),
            };
            misfits.extend(by.map(|by| self.misfit(by, unfit)));
        }
        misfits
    }
}

/// What is wrong with what rules say of all rows of the table.
fn beside(rules: &[Rule], rule: &TableRule, table: &Table) -> Vec<Misfit> {
    let mut misfits = Vec::new();
    let errors = rules::on_errors(rules, &table.schema, &table.name).filter(|by| by.errors == Some(Errors::Hold));
    misfits.extend(errors.and_then(|by| Some(Misfit::new(by, table, fit::hold(rule, table)?))));
    if let Some((by, rename)) = rules::renaming(rules, &table.schema, &table.name) {
        misfits.extend(fit::rename(rename, table).into_iter().map(|unfit| Misfit::new(by, table, unfit)));
    }
    let masking = rules.iter().filter(|rule| rule.tables.matches(&table.schema, &table.name));
    for (rule, column) in masking.flat_map(|rule| rule.mask.iter().map(move |column| (rule, column))) {
        misfits.extend(fit::mask(column, table).map(|unfit| Misfit::new(rule, table, unfit)));
    }
    misfits
}

/// A resolver that compares rows by a column.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Compared<'a> {
    /// Of this case; `None`: without a condition.
    pub place: Option<usize>,
    /// The resolver.
    pub resolver: &'a Resolver,
    /// What may count against a delete beside it: of several `by_resolver`, with which a column can't decide.
    pub deletes: Deletes,
}

/// The rule's resolvers that compare rows by a column.
pub(super) fn by_column(rule: &TableRule) -> Vec<Compared<'_>> {
    let worst = |mut all: Vec<Deletes>| {
        all.sort_by_key(|deletes| *deletes != Deletes::ByResolver);
        all.first().copied().unwrap_or_default()
    };
    // Of those before it only what resolves nothing can count beside it: else it would not be the first.
    let before = |place: usize| {
        let silent = rule.cases[..place].iter().filter(|case| case.resolver.is_none());
        silent.filter_map(|case| case.deletes).collect::<Vec<_>>()
    };
    let of_case = |place: usize, case: &Case| {
        let mut beside = before(place);
        match case.deletes {
            Some(deletes) => beside.push(deletes),
            None => {
                beside.extend(rule.cases[place + 1..].iter().filter_map(|case| case.deletes).chain([rule.deletes]));
            }
        }
        worst(beside)
    };
    let resolvers = rule.cases.iter().enumerate().filter_map(|(place, case)| {
        Some(Compared { place: Some(place), resolver: case.resolver.as_ref()?, deletes: of_case(place, case) })
    });
    let mut beside = before(rule.cases.len());
    beside.push(rule.deletes);
    let last = Compared { place: None, resolver: &rule.resolver, deletes: worst(beside) };
    resolvers.chain([last]).filter(|compared| compared.resolver.by().is_some()).collect()
}
