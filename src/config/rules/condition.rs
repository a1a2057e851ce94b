//! For which conflicts a rule is: `source`, `target`, `changed` and `when`.

use std::ops::Range;
use std::sync::Arc;

use toml::de::DeValue;

use crate::config::reader::{Section, Typed, string, suggestion};
use crate::config::report::Problem;
use crate::model::when::{BadWhen, FUNCTIONS, VARIABLES};
use crate::model::{Condition, NodeId, When};

/// The keys of a condition.
const KEYS: [&str; 4] = ["source", "target", "changed", "when"];
/// Keys that are not about a conflict of two changes.
const ABOUT_TABLES: [&str; 4] = ["mask", "errors", "unique", "rename"];
const EXAMPLE: &str = "when = \"remote.total > 1000 || local.total > 1000\"";

/// Reads it, for these nodes; `None` with a problem noted.
pub(super) fn read(section: &mut Section<'_>, nodes: &[&str], problems: &mut Vec<Problem>) -> Option<Condition> {
    let before = problems.len();
    let source = some_nodes(section, "source", nodes, problems);
    let target = some_nodes(section, "target", nodes, problems);
    if let (Some([one]), Some([other])) = (source.as_deref(), target.as_deref())
        && one == other
        && let Some(value) = section.get("target")
    {
        let title = "`source` and `target` are one node, and nobody's changes are in conflict with his own";
        problems.push(Problem::error(value.span(), title).help("name another node, or remove `target`"));
    }
    let changed = changed(section, problems);
    let when = when(section, nodes, problems);
    if let Some(key) = KEYS.into_iter().find(|key| section.get(key).is_some()) {
        for other in ABOUT_TABLES {
            if let Some(value) = section.get(other) {
                let title = format!("`{other}` is for all rows of a table and can't go with `{key}`");
                let help = format!("put `{other}` into a rule of its own for the same tables");
                problems.push(Problem::error(value.span(), title).help(help));
            }
        }
        let merging = |name: &&str| ["merge", "function"].contains(name);
        if let Some(value) = section.get("resolve")
            && let Some(name) = value.get_ref().as_str().filter(merging)
        {
            let title =
                format!("{name} can't go with `{key}`: merged rows are made of all changes, in conflict or not");
            let help = format!("remove `{key}`, or give `resolve` another value");
            problems.push(Problem::error(value.span(), title).help(help));
        }
    }
    (problems.len() == before).then_some(Condition { source, target, changed, when })
}

/// `source = "east"` or `source = ["east", "west"]`.
fn some_nodes(
    section: &mut Section<'_>,
    key: &'static str,
    nodes: &[&str],
    problems: &mut Vec<Problem>,
) -> Option<Arc<[NodeId]>> {
    let value = section.get(key)?;
    let names = match value.get_ref() {
        DeValue::String(_) => string(key, value, problems).into_iter().collect::<Vec<_>>(),
        _ => some(section, key, value.span(), "holds for no node", problems),
    };
    Some(node_ids(&names, nodes, problems).into())
}

/// The nodes of these names, each once.
pub(super) fn node_ids(names: &[Typed<String>], nodes: &[&str], problems: &mut Vec<Problem>) -> Vec<NodeId> {
    let mut found = Vec::new();
    for name in names {
        let place = nodes.iter().position(|node| *node == name.value);
        let problem = |title: String| Problem::error(name.span.clone(), title);
        match place.and_then(|place| u8::try_from(place).ok()).map(NodeId) {
            None => problems
                .push(problem(format!("there is no node {:?}", name.value)).help(suggestion(&name.value, nodes))),
            Some(node) if found.contains(&node) => problems.push(problem(format!("{:?} is here twice", name.value))),
            Some(node) => found.push(node),
        }
    }
    found
}

/// `changed = ["price"]`.
fn changed(section: &mut Section<'_>, problems: &mut Vec<Problem>) -> Option<Arc<[String]>> {
    let span = section.get("changed")?.span();
    let columns = some(section, "changed", span, "holds for no change", problems);
    Some(columns.into_iter().map(|column| column.value).collect())
}

/// A list that is not empty.
fn some(
    section: &mut Section<'_>,
    key: &'static str,
    span: Range<usize>,
    so: &str,
    problems: &mut Vec<Problem>,
) -> Vec<Typed<String>> {
    let before = problems.len();
    let list = section.list(key, problems);
    if list.is_empty() && problems.len() == before {
        let problem = Problem::error(span, format!("`{key}` is empty, so the rule {so}"));
        problems.push(problem.help("name some, or remove it: the rule is for all then"));
    }
    list
}

fn when(section: &mut Section<'_>, nodes: &[&str], problems: &mut Vec<Problem>) -> Option<When> {
    let Typed { value, span } = section.text("when", problems)?;
    let (title, help) = match When::compile(&value, nodes) {
        Ok(when) => return Some(when),
        Err(_) if value.trim().is_empty() => ("`when` is empty".to_owned(), format!("write a condition: {EXAMPLE}")),
        Err(BadWhen::Syntax(said, place)) => {
            let place = place.map_or_else(String::new, |(line, column)| match line {
                1 => format!(" at its character {column}"),
                line => format!(" in its line {line} at character {column}"),
            });
            let help = format!("write an expression of CEL (== to compare, && for and, || for or): {EXAMPLE}");
            let said = if said.contains("Recursion limit") { "it is nested too deeply".to_owned() } else { said };
            let said = said.trim_start_matches("Syntax error: ").replace('\n', " ");
            // the parser goes on with every token that it knows
            let said = said.split_once(" expecting {").map_or(&*said, |(what, _)| what);
            (format!("`when` can't be read{place}: {said}"), help)
        }
        Err(BadWhen::Node(name)) => {
            (format!("`when` compares with {name:?}, and there is no such node"), suggestion(&name, nodes))
        }
        Err(BadWhen::Type(name, types)) => {
            (format!("`when` compares with {name:?}, and no two changes are of that type"), suggestion(&name, &types))
        }
        Err(BadWhen::Other(what, fix)) => (format!("`when` {what}"), fix),
        Err(BadWhen::Variable(name)) => (format!("`when` knows no {name:?}"), suggestion(&name, &VARIABLES)),
        Err(BadWhen::Function(name)) => (format!("CEL has no function {name:?}"), suggestion(&name, &FUNCTIONS)),
    };
    problems.push(Problem::error(span, title).help(help));
    None
}
