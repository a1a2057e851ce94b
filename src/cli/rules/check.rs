//! `pgconcord rules check`: against the tables as they are, and by simulation.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::ptr;
use std::sync::Arc;

use serde_json::json;

use crate::cli::rules::{catalog, described};
use crate::cli::text::emit;
use crate::config::rules::{Facet, cases, deciding, on_errors, on_unique, renaming};
use crate::config::{Config, Rule};
use crate::daemon::resolvers::{Misfit, Told, ask_expressions, compile, lost};
use crate::model::table::Catalog;
use crate::model::{Case, ColumnMerge, Deletes, Merge, NodeId, Resolver, Table, TableRule, UniqueWinner};
use crate::simulate::{self, Failure, Settings};

/// The simulation has at most so many nodes.
const MOST_NODES: usize = 4;
/// Lines of a story that are shown.
const STORY: usize = 40;

/// Arguments of `pgconcord rules check`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Connect to no server: only what the files tell
    #[arg(long)]
    offline: bool,
    /// How many random schedules each rule is tried with
    #[arg(long, default_value_t = 2_000, value_name = "N")]
    schedules: u64,
    /// One JSON object a line: level, rule, table, what, fix
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Ok,
    Warning,
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

/// Something to say.
struct Finding {
    level: Level,
    rule: Option<String>,
    table: Option<String>,
    what: String,
    fix: Option<String>,
}

impl Finding {
    fn new(level: Level, what: impl Into<String>) -> Finding {
        Finding { level, rule: None, table: None, what: what.into(), fix: None }
    }

    fn of_rule(level: Level, rule: &Rule, what: &str, fix: &str) -> Finding {
        let what = format!("the rule {:?} ({}) {what}", rule.name, rule.place);
        Finding { rule: Some(rule.name.clone()), fix: Some(fix.to_owned()), ..Finding::new(level, what) }
    }

    fn text(&self, json: bool) -> String {
        if json {
            let Finding { level, rule, table, what, fix } = self;
            let object = json!({ "level": level.name(), "rule": rule, "table": table, "what": what, "fix": fix });
            return format!("{object}\n");
        }
        let fix = self.fix.as_ref().map(|fix| format!("\n         {fix}")).unwrap_or_default();
        format!("{:<8} {}{fix}\n", self.level.name(), self.what)
    }
}

pub(super) async fn run(config: &Config, args: &Args) -> anyhow::Result<ExitCode> {
    let mut worst = Level::Ok;
    let mut tell = |finding: Finding| {
        worst = worst.max(finding.level);
        emit(&finding.text(args.json))
    };
    let mut in_use = BTreeMap::new();
    if args.offline {
        shadowed(&config.conflict_rules).into_iter().try_for_each(|finding| tell(finding).map(drop))?;
        for rule in &config.conflict_rules {
            let rule = alone(rule);
            in_use.insert(described(&rule, config), rule);
        }
    } else {
        let read = match catalog(config).await {
            Ok(catalog) => told(config, &catalog).await.map(|told| (catalog, told)),
            Err(what) => Err(what),
        };
        match read {
            Ok((catalog, told)) => {
                against(config, &catalog, told, &mut in_use)
                    .into_iter()
                    .try_for_each(|finding| tell(finding).map(drop))?;
            }
            Err(what) => {
                let fix = Some("start the server, or check what the files tell by themselves: --offline".to_owned());
                tell(Finding { fix, ..Finding::new(Level::Error, what) })?;
            }
        }
    }
    let nodes = config.nodes.len().min(MOST_NODES);
    let mut tried: Vec<(String, TableRule)> = Vec::new();
    for each in in_use.values().flat_map(|rule| to_simulate(rule, nodes)) {
        if !tried.contains(&each) {
            tell(simulated(&each.0, &each.1, config, args.schedules))?;
            tried.push(each);
        }
    }
    Ok(if worst == Level::Error { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What the nodes say of the rules that only they can tell.
async fn told(config: &Config, catalog: &Catalog) -> Result<Told, String> {
    let mut all = Told::default();
    for node in &config.nodes {
        let told = ask_expressions(&config.conflict_rules, catalog, node).await;
        let Told { refused, untold } = told.map_err(|error| format!("{}: {error}", node.name))?;
        all.refused.extend(refused);
        all.untold.extend(untold);
    }
    Ok(all)
}

/// What a rule decides by itself.
fn alone(rule: &Rule) -> TableRule {
    let Rule { condition, resolve, deletes, unique, .. } = rule.clone();
    match condition.is_empty() {
        true => {
            let unique = unique.unwrap_or_default().0;
            let (resolver, deletes) = (resolve.unwrap_or_default(), deletes.unwrap_or_default());
            TableRule { cases: Vec::new(), resolver, deletes, unique }
        }
        false => TableRule { cases: vec![Case { condition, resolver: resolve, deletes }], ..TableRule::default() },
    }
}

/// Rules that can decide nothing, as far as their patterns tell.
fn shadowed(rules: &[Rule]) -> Vec<Finding> {
    let covers = |earlier: &Rule, later: &Rule| {
        if !earlier.condition.is_empty() {
            return false;
        }
        let (all, patterns) = (earlier.tables.patterns(), later.tables.patterns());
        all.iter().any(|pattern| pattern == "*.*" || pattern == "*") || patterns.iter().all(|each| all.contains(each))
    };
    let mut findings = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        let facets = || Facet::ALL.into_iter().filter(|facet| rule.decides(*facet));
        let taken = |facet: Facet| rules[..at].iter().find(|earlier| earlier.decides(facet) && covers(earlier, rule));
        if let Some(earlier) = facets().next().and_then(taken)
            && facets().all(|facet| taken(facet).is_some())
        {
            let what = format!(
                "decides nothing: {:?} ({}) comes first and is for all its tables",
                earlier.name, earlier.place
            );
            findings.push(Finding::of_rule(
                Level::Warning,
                rule,
                &what,
                "put it into a file whose name comes first, or remove it",
            ));
        }
    }
    findings
}

/// What the tables and the nodes tell; gathers what decides about them.
fn against(config: &Config, catalog: &Catalog, told: Told, in_use: &mut BTreeMap<String, TableRule>) -> Vec<Finding> {
    let rules = &config.conflict_rules;
    let mut findings = Vec::new();
    let mut by_rule: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let Told { refused: mut misfits, untold } = told;
    misfits.extend(lost(rules, catalog));
    for table in catalog.tables() {
        let (rule, unfit) = compile(rules, table);
        misfits.extend(unfit);
        by_rule.entry(described(&rule, config)).or_default().push(table.to_string());
        in_use.insert(described(&rule, config), rule);
    }
    let of_misfit = |level: Level, so: &str, misfit: Misfit| {
        let Misfit { rule, place, table, unfit } = misfit;
        let what = format!("the rule {rule:?} ({place}) {so} {table}: {}", unfit.what);
        Finding { rule: Some(rule), table: Some(table), fix: Some(unfit.fix), ..Finding::new(level, what) }
    };
    findings.extend(misfits.into_iter().map(|misfit| of_misfit(Level::Error, "can't hold for", misfit)));
    findings.extend(untold.into_iter().map(|misfit| of_misfit(Level::Warning, "may not hold for", misfit)));
    for rule in rules {
        let tables = || catalog.tables().iter().filter(|table| rule.tables.matches(&table.schema, &table.name));
        let is_first = |of: &dyn Fn(&str, &str) -> Option<*const Rule>| {
            tables().any(|table| of(&table.schema, &table.name).is_some_and(|first| std::ptr::eq(first, rule)))
        };
        let decides = |facet| is_first(&|schema, table| deciding(rules, schema, table, facet).map(ptr::from_ref));
        let is_case =
            |table: &Table| cases(rules, &table.schema, &table.name).into_iter().any(|(case, _)| ptr::eq(case, rule));
        let renames = is_first(&|schema, table| renaming(rules, schema, table).map(|(rule, _)| ptr::from_ref(rule)));
        let on_unique = is_first(&|schema, table| on_unique(rules, schema, table).map(ptr::from_ref));
        let on_errors = is_first(&|schema, table| on_errors(rules, schema, table).map(ptr::from_ref));
        let decides = Facet::ALL.into_iter().any(decides) || tables().any(|table| is_case(table));
        let says_something = renames || on_errors || on_unique || !rule.mask.is_empty() || decides;
        if tables().next().is_none() {
            let what = "is for no table that replicates";
            findings.push(Finding::of_rule(
                Level::Warning,
                rule,
                what,
                "look at its `tables` and at [tables] in pgconcord.toml",
            ));
        } else if !says_something {
            let what = "decides nothing: for each of its tables another rule comes first";
            findings.push(Finding::of_rule(
                Level::Warning,
                rule,
                what,
                "put it into a file whose name comes first, or remove it",
            ));
        }
    }
    for (rule, tables) in by_rule {
        let shown = match tables.len() {
            0..=4 => tables.join(", "),
            more => format!("{}, and {} more", tables[..3].join(", "), more - 3),
        };
        findings.push(Finding::new(Level::Ok, format!("{rule}: {shown}")));
    }
    findings
}

/// Tries a rule with random schedules on as many nodes as there are.
fn simulated(name: &str, rule: &TableRule, config: &Config, schedules: u64) -> Finding {
    let nodes = config.nodes.len().min(MOST_NODES);
    let settings = |seed| Settings { rule: rule.clone(), ..Settings::new(nodes, seed) };
    let is_alike = |failure: &Failure| matches!(failure, Failure::Held { .. });
    let differs = |seed: &u64| simulate::run(&settings(*seed)).is_err_and(|(failure, _)| !is_alike(&failure));
    let of = if nodes < config.nodes.len() { " (there are more; the simulation has no more)" } else { "" };
    let Some(seed) = (0..schedules).find(differs) else {
        if rule.diverges() {
            let what = format!(
                "{name} leaves rows that differ, as the rule accepts; so it came out in {schedules} random schedules on \
                 {nodes} nodes{of}, each with what the rule says for it"
            );
            return Finding::new(Level::Warning, what);
        }
        let what = format!("{name} comes out alike in {schedules} random schedules on {nodes} nodes{of}");
        return Finding::new(Level::Ok, what);
    };
    let told = simulate::run(&Settings { story: true, ..settings(seed) });
    let story = told.err().map(|(failure, story)| {
        let from = story.len().saturating_sub(STORY);
        format!("{failure}\n    {}", story[from..].join("\n    "))
    });
    let what = format!("{name} does not come out alike on {nodes} nodes: {}", story.unwrap_or_default());
    Finding { fix: Some("choose another resolver".to_owned()), ..Finding::new(Level::Error, what) }
}

/// The rule in the simulation's terms: its rows have a number and a text, merged in each way that the rule's columns are.
fn to_simulate(rule: &TableRule, nodes: usize) -> Vec<(String, TableRule)> {
    let Resolver::Merge(merge) = &rule.resolver else {
        // An order of more nodes than are simulated: of those that are.
        let simulated_order =
            |order: &[NodeId]| order.iter().filter(|node| node.index() < nodes).copied().collect::<Arc<[NodeId]>>();
        let resolver = |resolver: &Resolver| match resolver {
            Resolver::OriginPriority(order) => Resolver::OriginPriority(simulated_order(order)),
            Resolver::LastByColumn(_) => simulate::by_column(Resolver::LastByColumn),
            Resolver::FirstByColumn(_) => simulate::by_column(Resolver::FirstByColumn),
            _ => resolver.clone(),
        };
        let name = |resolver: Option<&Resolver>, deletes: Deletes| {
            let by = if resolver.is_some_and(|resolver| resolver.by().is_some()) { " by a column" } else { "" };
            match (resolver, deletes) {
                (None, deletes) => deletes.name().to_owned(),
                (Some(resolver), Deletes::ByResolver) => format!("{}{by}", resolver.name()),
                (Some(resolver), deletes) => format!("{}{by} with {}", resolver.name(), deletes.name()),
            }
        };
        let case = |case: &Case| Case {
            condition: simulate::stand_in(&case.condition, nodes),
            resolver: case.resolver.as_ref().map(resolver),
            deletes: case.deletes,
        };
        let conditional = rule.cases.iter().map(|case| {
            format!("{} under a condition, else ", name(case.resolver.as_ref(), case.deletes.unwrap_or_default()))
        });
        let name = conditional.collect::<String>() + &name(Some(&rule.resolver), rule.deletes);
        let cases = rule.cases.iter().map(case).collect();
        let (unique, name) = match &rule.unique {
            UniqueWinner::LastUpdateWins => (UniqueWinner::LastUpdateWins, name),
            UniqueWinner::OriginPriority(order) => (
                UniqueWinner::OriginPriority(simulated_order(order)),
                format!("{name}, unique values by {}", rule.unique.name()),
            ),
        };
        let (resolver, deletes) = (resolver(&rule.resolver), rule.deletes);
        return vec![(name, TableRule { cases, resolver, deletes, unique })];
    };
    let merge = match &**merge {
        Merge::Columns(merge) => merge,
        Merge::Function(_) => {
            return vec![("function (simulated with another function)".to_owned(), simulate::by_function())];
        }
    };
    let kinds: BTreeSet<&ColumnMerge> = merge.columns.values().chain([&merge.others]).collect();
    let of_kind = |how: &ColumnMerge| {
        // Sets of elements are made from the same changes as extremes are.
        let (simulated, as_what) = match how {
            ColumnMerge::Union => (ColumnMerge::Greatest, " (simulated as greatest)"),
            ColumnMerge::Intersection => (ColumnMerge::Least, " (simulated as least)"),
            // Its entries are lines.
            ColumnMerge::Append(_) => (ColumnMerge::Append(ColumnMerge::NEW_LINE.into()), ""),
            ColumnMerge::Sql(_) => (ColumnMerge::Sql("".into()), " (simulated with another expression)"),
            other => (other.clone(), ""),
        };
        (format!("merging by {}{as_what}", how.name()), simulate::merge_by(simulated))
    };
    kinds.into_iter().map(of_kind).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::rules::{Afterwards, Place};
    use crate::config::{TableFilter, tables::glob};
    use crate::model::key::KeyHasher;
    use crate::model::{ColumnMerges, Condition};

    fn rule(name: &str, tables: &str, resolve: Resolver) -> Rule {
        let tables = TableFilter::new(vec![glob(tables).expect("a pattern")], vec![]).expect("a filter");
        let deletes = Some(Deletes::ByResolver);
        let (place, afterwards, errors) = (Place::default(), Afterwards::default(), None);
        Rule {
            name: name.into(),
            place,
            tables,
            condition: Condition::default(),
            resolve: Some(resolve),
            deletes,
            afterwards,
            errors,
            unique: None,
            rename: None,
            mask: Vec::new(),
        }
    }

    fn told(findings: &[Finding]) -> String {
        findings.iter().map(|finding| finding.text(false)).collect()
    }

    #[test]
    fn a_rule_behind_another_of_the_same_tables_decides_nothing() {
        let rules = [
            rule("a", "public.a", Resolver::FirstUpdateWins),
            rule("all", "*.*", Resolver::LastUpdateWins),
            rule("late", "public.b", Resolver::FirstUpdateWins),
        ];
        let text = told(&shadowed(&rules));
        assert!(text.contains("\"late\"") && text.contains("\"all\""), "{text}");
        assert_eq!(text.matches("warning").count(), 1, "{text}");
    }

    #[test]
    fn tables_tell_what_cannot_hold_and_what_decides() {
        let mut config = Config::sample();
        config.conflict_rules = vec![
            rule("first", "public.a", Resolver::FirstUpdateWins),
            rule("nobody", "sales.*", Resolver::FirstUpdateWins),
            rule("again", "public.a", Resolver::LastUpdateWins),
        ];
        let table = |name: &str| Table::of_texts(name, &["id", "v"]);
        let catalog = Catalog::new(vec![table("a"), table("b")], KeyHasher::with_seed(1));
        let mut in_use = BTreeMap::new();
        let text = told(&against(&config, &catalog, Told::default(), &mut in_use));
        for part in [
            "error",
            "REPLICA IDENTITY FULL",
            "\"nobody\"",
            "no table that replicates",
            "\"again\"",
            "another rule comes first",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(in_use.len(), 2, "{text}");
    }

    #[test]
    fn a_rule_is_tried_and_told() {
        let config = Config::sample();
        let columns = [("qty".to_owned(), ColumnMerge::Delta), ("tags".to_owned(), ColumnMerge::Union)].into();
        let merge = ColumnMerges { columns, others: ColumnMerge::LastUpdateWins };
        let merge = Resolver::Merge(Merge::Columns(merge).into());
        let tried = to_simulate(&merge.into(), 2);
        let text = told(&tried.iter().map(|(name, rule)| simulated(name, rule, &config, 20)).collect::<Vec<_>>());
        assert_eq!(text.matches("comes out alike in 20 random schedules on 2 nodes").count(), 3, "{text}");
        assert!(text.contains("merging by delta") && text.contains("union (simulated as greatest)"), "{text}");
        let function = Merge::Function("public.f".parse().expect("a name"));
        let tried = to_simulate(&Resolver::Merge(function.into()).into(), 2);
        assert_eq!(tried, [("function (simulated with another function)".to_owned(), simulate::by_function())]);
    }
}
