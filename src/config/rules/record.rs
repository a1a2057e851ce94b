//! What decides about a table as the nodes keep it: in the words of a rule file, so that it can be read back.

use std::path::Path;

use crate::config::rules::resolve::ACCEPTED;
use crate::config::rules::{Facet, parse, table_rule};
use crate::model::{ColumnMerge, Condition, Deletes, Merge, NodeId, Resolver, TableRule, UniqueWinner};

/// The rule's `resolve` and `deletes` with what belongs to them. Compared with what the nodes keep, so equal rules have
/// equal texts.
pub fn record(rule: &TableRule, nodes: &[&str]) -> String {
    let mut lines = Vec::new();
    for case in &rule.cases {
        condition(&case.condition, nodes, &mut lines);
        let only = match (&case.resolver, case.deletes) {
            (Some(_), None) => Some(Facet::Writes),
            (None, Some(_)) => Some(Facet::Deletes),
            _ => None,
        };
        lines.extend(only.map(|facet| format!("types = {}", list(facet.types().iter().map(|each| each.name())))));
        case.resolver.iter().for_each(|by| resolver(by, nodes, &mut lines));
        lines.extend(case.deletes.map(deletes));
        lines.push(BEGIN.to_owned());
    }
    resolver(&rule.resolver, nodes, &mut lines);
    // what a merge does about deletes is no choice
    if !matches!(rule.resolver, Resolver::Merge(_)) {
        lines.push(deletes(rule.deletes));
    }
    unique(&rule.unique, nodes, &mut lines);
    lines.join("\n")
}

/// What stands before each rule; of the first one it goes without saying.
const BEGIN: &str = "[[rule]]\nname = \"recorded\"";

fn condition(condition: &Condition, nodes: &[&str], lines: &mut Vec<String>) {
    let names = |nodes_of: &[NodeId]| list(nodes_of.iter().map(|node| nodes[node.index()]));
    lines.extend(condition.source.iter().map(|nodes| format!("source = {}", names(nodes))));
    lines.extend(condition.target.iter().map(|nodes| format!("target = {}", names(nodes))));
    let columns = condition.changed.iter();
    lines.extend(columns.map(|columns| format!("changed = {}", list(columns.iter().map(String::as_str)))));
    lines.extend(condition.when.iter().map(|when| format!("when = {}", quoted(when.text()))));
}

fn resolver(resolver: &Resolver, nodes: &[&str], lines: &mut Vec<String>) {
    lines.push(format!("resolve = {}", quoted(resolver.name())));
    if resolver.diverges() {
        lines.push(format!("diverges = {}", quoted(ACCEPTED)));
    }
    match resolver {
        Resolver::LastUpdateWins | Resolver::FirstUpdateWins => {}
        Resolver::KeepLocal | Resolver::ApplyRemote | Resolver::Skip => {}
        Resolver::LastByColumn(column) | Resolver::FirstByColumn(column) => {
            lines.push(format!("by = {}", quoted(column)));
        }
        Resolver::OriginPriority(order) => {
            lines.push(priority(order, nodes));
        }
        Resolver::Merge(merge) => match &**merge {
            Merge::Columns(merge) => {
                let columns = merge.columns.iter().map(|(name, how)| format!("{} = {}", quoted(name), written(how)));
                let columns: Vec<_> = columns.collect();
                lines.push(format!("columns = {{ {} }}", columns.join(", ")));
                lines.push(format!("others = {}", written(&merge.others)));
            }
            Merge::Function(function) => lines.push(format!("function = {}", quoted(&function.to_string()))),
        },
    }
}

/// Which row keeps a unique value; nothing of the default, which older versions have not on record. A rule of its own, for the
/// order of nodes may be another one than for rows.
fn unique(winner: &UniqueWinner, nodes: &[&str], lines: &mut Vec<String>) {
    if let UniqueWinner::OriginPriority(order) = winner {
        lines.push(BEGIN.to_owned());
        lines.push(format!("unique = {}", quoted(winner.name())));
        lines.push(priority(order, nodes));
    }
}

fn priority(order: &[NodeId], nodes: &[&str]) -> String {
    format!("priority = {}", list(order.iter().map(|node| nodes[node.index()])))
}

fn deletes(deletes: Deletes) -> String {
    format!("deletes = {}", quoted(deletes.name()))
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    format!("[{}]", names.map(quoted).collect::<Vec<_>>().join(", "))
}

fn written(how: &ColumnMerge) -> String {
    match how {
        ColumnMerge::Append(separator) if separator != ColumnMerge::NEW_LINE => {
            format!("{{ {} = {} }}", how.name(), quoted(separator))
        }
        ColumnMerge::Sql(expression) => format!("{{ {} = {} }}", how.name(), quoted(expression)),
        _ => quoted(how.name()),
    }
}

/// A basic string of TOML, on one line, so that it can be a key: it escapes as JSON does, and DEL besides.
/// <https://toml.io/en/v1.0.0#string>
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// What was recorded; `None` if it is nothing that this version can decide by with these nodes.
pub fn recorded(text: &str, nodes: &[&str]) -> Option<TableRule> {
    let mut problems = Vec::new();
    let rules = parse(Path::new(""), &format!("{BEGIN}\n{text}\n"), nodes, &mut problems);
    let decides = rules.iter().any(|rule| rule.condition.is_empty() && rule.resolve.is_some());
    (problems.is_empty() && decides).then(|| table_rule(&rules, "public", "recorded"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Case, ColumnMerges, When};

    #[test]
    fn every_rule_is_read_back_as_it_was_recorded() {
        let nodes = ["east", "west"];
        let merge = |columns: &[(&str, ColumnMerge)]| {
            let columns = columns.iter().map(|(name, how)| ((*name).to_owned(), how.clone())).collect();
            Resolver::Merge(Merge::Columns(ColumnMerges { columns, others: ColumnMerge::Greatest }).into())
        };
        let all = ColumnMerge::ALL;
        let resolvers = [
            Resolver::LastUpdateWins,
            Resolver::FirstUpdateWins,
            Resolver::OriginPriority([NodeId(1), NodeId(0)].into()),
            Resolver::KeepLocal,
            Resolver::ApplyRemote,
            Resolver::Skip,
        ];
        let whole = resolvers.into_iter().flat_map(|resolver| {
            Deletes::ALL.map(|(_, deletes)| TableRule { resolver: resolver.clone(), deletes, ..TableRule::default() })
        });
        let by = ["updated_at", "a \"b\"\n"].map(Into::into);
        let by = by.into_iter().flat_map(|column: Arc<str>| {
            let resolvers = [Resolver::LastByColumn(column.clone()), Resolver::FirstByColumn(column)];
            let deletes = [Deletes::DeleteWins, Deletes::UpdateWins];
            resolvers.into_iter().flat_map(move |resolver| {
                deletes.map(|deletes| TableRule { resolver: resolver.clone(), deletes, ..TableRule::default() })
            })
        });
        let odd =
            [("a \"quoted\" 'name'\n\\ \t\u{1}\u{7f}", ColumnMerge::Delta), ("größe, x = 1 }", ColumnMerge::Union)];
        let append = |separator: &'static str| ColumnMerge::Append(separator.into());
        let separators = [
            ("a", append("; ")),
            ("b", append("\"\t\u{7f}\\ }\n")),
            ("c", append(ColumnMerge::NEW_LINE)),
            ("d", ColumnMerge::Sql("'a\"' || local --\n".into())),
        ];
        let others = Merge::Columns(ColumnMerges { columns: [].into(), others: append(" | ") });
        let functions = ["shop.price", "\"A \"\"b\"\"\n\".\"c.d\""];
        let functions = functions.map(|name| Resolver::Merge(Merge::Function(name.parse().expect(name)).into()));
        let merges = [merge(&[]), merge(&all), merge(&odd), merge(&separators), Resolver::Merge(others.into())];
        let merges = merges.into_iter().chain(functions);
        let merges = merges.map(TableRule::from);
        let condition = Condition {
            source: Some([NodeId(1)].into()),
            target: Some([NodeId(0), NodeId(1)].into()),
            changed: Some(["a \"b\"".to_owned(), "c".to_owned()].into()),
            when: Some(When::compile("remote['\\u00e4\\n'] == \"x\" || 'a' in local.b", &nodes).expect("CEL")),
        };
        let when = Condition { when: condition.when.clone(), ..Condition::default() };
        let says = [
            (Some(Resolver::FirstUpdateWins), Some(Deletes::UpdateWins)),
            (Some(Resolver::LastByColumn("n".into())), None),
            (None, Some(Deletes::ByResolver)),
        ];
        let cases = |condition: &Condition| {
            says.clone().map(|(resolver, deletes)| Case { condition: condition.clone(), resolver, deletes }).into()
        };
        let conditional = [condition, when].map(|condition| TableRule {
            cases: cases(&condition),
            resolver: Resolver::OriginPriority([NodeId(1), NodeId(0)].into()),
            deletes: Deletes::DeleteWins,
            ..TableRule::default()
        });
        let unique = [TableRule::default(), Resolver::OriginPriority([NodeId(1), NodeId(0)].into()).into()];
        let unique = unique.map(|rule: TableRule| TableRule {
            unique: UniqueWinner::OriginPriority([NodeId(0), NodeId(1)].into()),
            ..rule
        });
        for rule in whole.chain(by).chain(merges).chain(conditional).chain(unique) {
            let text = record(&rule, &nodes);
            assert_eq!(recorded(&text, &nodes).as_ref(), Some(&rule), "{text}");
        }
    }

    #[test]
    fn what_no_longer_holds_is_not_read() {
        assert_eq!(recorded("last_update_wins", &["east", "west"]), None);
        assert_eq!(
            recorded("resolve = \"origin_priority\"\npriority = [\"east\", \"west\"]", &["east", "north"]),
            None
        );
        assert_eq!(recorded("resolve = \"merge\"\ncolumns = { n = \"crdt\" }", &["east", "west"]), None);
    }
}
