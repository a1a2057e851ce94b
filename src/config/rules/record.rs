//! What decides about a table as the nodes keep it: in the words of a rule file, so that it can be read back.

use std::path::Path;

use crate::config::rules::parse;
use crate::model::{ColumnMerge, Resolver, TableRule};

/// The rule's `resolve` and `deletes` with what belongs to them. Compared with what the nodes keep, so equal rules have
/// equal texts.
pub fn record(rule: &TableRule, nodes: &[&str]) -> String {
    let resolve = format!("resolve = {}", quoted(rule.resolver.name()));
    let deletes = format!("deletes = {}", quoted(rule.deletes.name()));
    match &rule.resolver {
        Resolver::LastUpdateWins | Resolver::FirstUpdateWins => format!("{resolve}\n{deletes}"),
        Resolver::LastByColumn(column) | Resolver::FirstByColumn(column) => {
            format!("{resolve}\nby = {}\n{deletes}", quoted(column))
        }
        Resolver::OriginPriority(order) => {
            let names: Vec<_> = order.iter().map(|node| quoted(nodes[node.index()])).collect();
            format!("{resolve}\npriority = [{}]\n{deletes}", names.join(", "))
        }
        // what a merge does about deletes is no choice
        Resolver::Merge(merge) => {
            let columns = merge.columns.iter().map(|(name, how)| format!("{} = {}", quoted(name), written(how)));
            let columns: Vec<_> = columns.collect();
            let others = written(&merge.others);
            format!("{resolve}\ncolumns = {{ {} }}\nothers = {others}", columns.join(", "))
        }
    }
}

fn written(how: &ColumnMerge) -> String {
    match how {
        ColumnMerge::Append(separator) if separator != ColumnMerge::NEW_LINE => {
            format!("{{ {} = {} }}", how.name(), quoted(separator))
        }
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
    let rule = format!("[[rule]]\nname = \"recorded\"\n{text}\n");
    let mut problems = Vec::new();
    let [rule] = <[_; 1]>::try_from(parse(Path::new(""), &rule, nodes, &mut problems)).ok()?;
    if !problems.is_empty() {
        return None;
    }
    Some(TableRule { resolver: rule.resolve?, deletes: rule.deletes.unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Deletes, Merge, NodeId};

    #[test]
    fn every_rule_is_read_back_as_it_was_recorded() {
        let nodes = ["east", "west"];
        let merge = |columns: &[(&str, ColumnMerge)]| {
            let columns = columns.iter().map(|(name, how)| ((*name).to_owned(), how.clone())).collect();
            Resolver::Merge(Merge { columns, others: ColumnMerge::Greatest }.into())
        };
        let all = ColumnMerge::ALL;
        let resolvers = [
            Resolver::LastUpdateWins,
            Resolver::FirstUpdateWins,
            Resolver::OriginPriority([NodeId(1), NodeId(0)].into()),
        ];
        let whole = resolvers
            .into_iter()
            .flat_map(|resolver| Deletes::ALL.map(|(_, deletes)| TableRule { resolver: resolver.clone(), deletes }));
        let by = ["updated_at", "a \"b\"\n"].map(Into::into);
        let by = by.into_iter().flat_map(|column: Arc<str>| {
            let resolvers = [Resolver::LastByColumn(column.clone()), Resolver::FirstByColumn(column)];
            let deletes = [Deletes::DeleteWins, Deletes::UpdateWins];
            resolvers
                .into_iter()
                .flat_map(move |resolver| deletes.map(|deletes| TableRule { resolver: resolver.clone(), deletes }))
        });
        let odd =
            [("a \"quoted\" 'name'\n\\ \t\u{1}\u{7f}", ColumnMerge::Delta), ("größe, x = 1 }", ColumnMerge::Union)];
        let append = |separator: &'static str| ColumnMerge::Append(separator.into());
        let separators = [("a", append("; ")), ("b", append("\"\t\u{7f}\\ }\n")), ("c", append(ColumnMerge::NEW_LINE))];
        let others = Merge { columns: [].into(), others: append(" | ") };
        let merges = [merge(&[]), merge(&all), merge(&odd), merge(&separators), Resolver::Merge(others.into())];
        let merges = merges.map(TableRule::from);
        for rule in whole.chain(by).chain(merges) {
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
