//! `pgconcord rules explain`: of the files alone; no server is asked.

use std::process::ExitCode;
use std::ptr;

use serde_json::{Value, json};

use crate::cli::rules::{condition, described};
use crate::cli::text::emit;
use crate::config::rules::{Afterwards, Errors, Facet, deciding, masked, on_errors, on_unique, renaming, table_rule};
use crate::config::{Config, Rule};
use crate::model::Resolver;

/// Arguments of `pgconcord rules explain`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The table: schema.name, or a name in public
    #[arg(value_name = "TABLE")]
    table: String,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What decides about one facet.
struct Decision<'a> {
    facet: Facet,
    /// Rules that decide where their condition holds.
    conditional: Vec<&'a Rule>,
    /// The rule that decides otherwise; none where the default holds.
    rule: Option<&'a Rule>,
    /// Rules for the table that come later, and so decide nothing about it.
    passed_over: Vec<&'a Rule>,
}

pub(super) fn run(config: &Config, args: &Args) -> anyhow::Result<ExitCode> {
    let (schema, table) = args.table.split_once('.').unwrap_or(("public", &args.table));
    let rules = &config.conflict_rules;
    let decisions = Facet::ALL.map(|facet| {
        let rule = deciding(rules, schema, table, facet);
        let mut all = rules.iter().filter(|rule| rule.decides(facet) && rule.tables.matches(schema, table));
        let conditional = all.by_ref().take_while(|each| !rule.is_some_and(|rule| ptr::eq(rule, *each))).collect();
        Decision { facet, conditional, rule, passed_over: all.collect() }
    });
    let comes_to = table_rule(rules, schema, table);
    let is_refused = |decision: &Decision<'_>| decision.rule.is_some_and(|rule| rule.afterwards == Afterwards::Refused);
    let (resolve, described) = match decisions.iter().any(is_refused) {
        true => ("error", "error".to_owned()),
        false => (comes_to.resolver.name(), described(&comes_to, config)),
    };
    let masked: Vec<&str> = masked(rules, schema, table).collect();
    let on_errors = on_errors(rules, schema, table);
    let (on_unique, renaming) = (on_unique(rules, schema, table), renaming(rules, schema, table));
    let name = format!("{schema}.{table}");
    let replicates = config.tables.matches(schema, table);
    let text = match args.json {
        true => {
            let nodes = config.node_names();
            let each = decisions.iter().map(|decision| decision.json(schema, table, &nodes)).collect::<Vec<_>>();
            let object = json!({
                "table": name, "replicates": replicates, "resolve": resolve,
                "comes_to": described, "decided": each, "masked": masked,
                "errors": on_errors.and_then(|rule| rule.errors).unwrap_or_default().name(),
                "unique": on_unique.and_then(|rule| rule.unique.as_ref().map(|unique| json!({
                    "rule": rule.name, "place": rule.place.to_string(), "kept_by": unique.0.name(),
                    "held": unique.1 == Afterwards::Held, "stops": unique.1 == Afterwards::Refused,
                }))),
                "rename": renaming.map(|(rule, rename)| json!({
                    "rule": rule.name, "place": rule.place.to_string(), "values": rename.0,
                })),
            });
            format!("{object}\n")
        }
        false => {
            let mut text = format!("{name}: {described}\n");
            if !replicates {
                text += "  It does not replicate: [tables] does not include it.\n";
            }
            for decision in &decisions {
                text += &decision.sentence(schema, table, &comes_to.resolver, &config.node_names());
            }
            if let Some((rule, (winner, after))) = on_unique.and_then(|rule| Some((rule, rule.unique.as_ref()?))) {
                text += &format!(
                    "  Where two rows claim a unique value: the rule {:?} ({}), by {}.\n{}",
                    rule.name,
                    rule.place,
                    winner.name(),
                    afterwards(*after)
                );
            }
            if let Some((rule, rename)) = renaming {
                let values: Vec<_> = rename.0.iter().map(|(column, value)| format!("{column} = {value}")).collect();
                text += &format!(
                    "  Where a row loses a unique value to another: the rule {:?} ({}), it gets {}.\n",
                    rule.name,
                    rule.place,
                    values.join(", ")
                );
            }
            if let Some(rule) = on_errors {
                text += &match rule.errors.unwrap_or_default() {
                    Errors::Stop => format!(
                        "  Where a node refuses a row: the rule {:?} ({}), the link stops.\n",
                        rule.name, rule.place
                    ),
                    Errors::Hold => format!(
                        "  Where a node refuses a row: the rule {:?} ({}), the row is held and the link goes on.\n",
                        rule.name, rule.place
                    ),
                };
            }
            if !masked.is_empty() {
                text += &format!("  Kept out of the journal: {}.\n", masked.join(", "));
            }
            text + "  `pgconcord rules check` tells whether that can hold for the table as it is.\n"
        }
    };
    emit(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What becomes of what the rule decides, a line.
fn afterwards(afterwards: Afterwards) -> &'static str {
    match afterwards {
        Afterwards::Resolved => "",
        Afterwards::Held => {
            "    What comes out stands, and the conflict is held until a person decides: pgconcord conflicts resolve.\n"
        }
        Afterwards::Refused => "    Nothing is decided: the link stops until the table has another rule.\n",
    }
}

impl Decision<'_> {
    fn json(&self, schema: &str, table: &str, nodes: &[&str]) -> Value {
        let rule = |rule: &Rule| json!({ "name": rule.name, "place": rule.place.to_string() });
        let conditional = |rule: &&Rule| {
            json!({
                "name": rule.name, "place": rule.place.to_string(), "where": condition(&rule.condition, nodes),
                "held": rule.afterwards == Afterwards::Held, "stops": rule.afterwards == Afterwards::Refused,
            })
        };
        json!({
            "when": self.facet.describe(),
            "types": self.facet.types().iter().map(|each| each.name()).collect::<Vec<_>>(),
            "conditional": self.conditional.iter().map(conditional).collect::<Vec<_>>(),
            "rule": self.rule.map(rule),
            "pattern": self.rule.and_then(|rule| rule.tables.matching(schema, table)),
            "held": self.rule.is_some_and(|rule| rule.afterwards == Afterwards::Held),
            "stops": self.rule.is_some_and(|rule| rule.afterwards == Afterwards::Refused),
            "passed_over": self.passed_over.iter().map(|each| rule(each)).collect::<Vec<_>>(),
        })
    }

    fn sentence(&self, schema: &str, table: &str, resolver: &Resolver, nodes: &[&str]) -> String {
        let mut when = format!("  Where {}: ", self.facet.describe());
        for rule in &self.conditional {
            let so = condition(&rule.condition, nodes);
            when += &format!(
                "if {so}, the rule {:?} ({}).\n{}    Else ",
                rule.name,
                rule.place,
                afterwards(rule.afterwards)
            );
        }
        let Some(rule) = self.rule else {
            let what = match (self.facet, resolver) {
                (_, Resolver::Merge(_)) => "the delete wins, as in every merged table",
                (Facet::Writes, _) => "no rule is for it, so the last update wins",
                (Facet::Deletes, _) => "no rule is for it, so they are resolved like any two changes",
            };
            return format!("{when}{what}.\n");
        };
        let pattern = rule.tables.matching(schema, table).unwrap_or("*");
        let mut text = format!("{when}the rule {:?} ({}), by its pattern {pattern:?}.\n", rule.name, rule.place);
        text += afterwards(rule.afterwards);
        for other in &self.passed_over {
            text += &format!("    {:?} ({}) comes later and is passed over.\n", other.name, other.place);
        }
        text
    }
}
