//! Tables: fit and alike at all nodes, fed by nobody else, without triggers that fire for replicated rows.

use crate::config::Config;
use crate::model::table::quote_identifier;
use crate::node::Finding;
use crate::node::catalog::ClusterCatalog;
use crate::node::doctor::facts::{Facts, Trigger};

/// At one node.
pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = facts.triggers.iter().map(trigger).collect();
    findings.extend(facts.subscriptions.iter().map(|(table, subscription)| {
        let what = format!(
            "the subscription {subscription} writes into it too: its rows carry another server's commit times, and \
             whether they replicate depends on the version"
        );
        let exclude = format!("[tables] exclude = [\"{table}\"]");
        let fix = format!("DROP SUBSCRIPTION {};  -- or {exclude}", quote_identifier(subscription));
        Finding::error("subscription", what).about(table).fix(fix)
    }));
    findings
}

fn trigger(trigger: &Trigger) -> Finding {
    let kind = trigger.kind.to_lowercase();
    let setting = if trigger.always { "ENABLE ALWAYS" } else { "ENABLE REPLICA" };
    let what = format!(
        "{kind} {} is {setting}: it fires for replicated rows, and what it writes replicates in turn",
        trigger.name
    );
    let mend = match trigger.always {
        true => {
            format!("ALTER TABLE {} ENABLE {} {};", trigger.sql_table, trigger.kind, quote_identifier(&trigger.name))
        }
        false => {
            format!("ALTER TABLE {} DISABLE {} {};", trigger.sql_table, trigger.kind, quote_identifier(&trigger.name))
        }
    };
    Finding::warning("triggers", what).about(&trigger.table).fix(mend)
}

/// Between the nodes.
pub(super) fn check_catalog(config: &Config, catalog: &ClusterCatalog) -> Vec<Finding> {
    let mut findings = catalog.findings.clone();
    for table in catalog.published_but_unfit() {
        let what = "is in the publication and can't replicate: what is written to it would be lost";
        findings.push(
            Finding::error("publication", what)
                .about(table)
                .fix("mend the table, or run `pgconcord setup` to take it out"),
        );
    }
    let fit = catalog.catalog.tables().len();
    if fit == 0 && catalog.left_out.is_empty() && !catalog.shapes.is_empty() {
        let what = format!("no table matches [tables] include = {:?}", config.tables.patterns());
        findings.push(Finding::error("tables", what));
    } else if fit > 0 {
        findings.push(Finding::ok("tables", format!("{fit} tables are fit and alike at all nodes")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_that_always_fires_gets_the_statement_that_makes_it_ordinary() {
        let found = trigger(&Trigger {
            table: "public.t".to_owned(),
            sql_table: r#""public"."t""#.to_owned(),
            name: "audit".to_owned(),
            kind: "TRIGGER".to_owned(),
            always: true,
        });
        assert_eq!(found.fix.as_deref(), Some(r#"ALTER TABLE "public"."t" ENABLE TRIGGER "audit";"#));
    }

    #[test]
    fn a_foreign_subscription_is_an_error() {
        let facts = Facts { subscriptions: vec![("public.t".to_owned(), "feed".to_owned())], ..Facts::sample() };
        assert!(check(&facts)[0].fix.as_deref().unwrap().contains(r#"DROP SUBSCRIPTION "feed""#));
    }
}
