//! `conflict-rules/*.toml` → [`Rule`]s, in file-name order, then in the order of each file.
//!
//! A resolver that this version does not know is refused with a sentence rather than ignored, because a rule that does not
//! hold is worse than none.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use globset::Glob;
use toml::de::DeTable;

use crate::config::reader::{Section, Typed, suggestion};
use crate::config::report::{Problem, Report};
use crate::config::tables::{TableFilter, glob};
use crate::model::{ConflictType, NodeId, Resolver};

/// One `[[rule]]`: which conflicts of which tables it settles, and how.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What the conflict log calls it.
    pub name: String,
    /// The tables it is for.
    pub tables: TableFilter,
    /// The conflict types it is for; all of them where the file names none.
    pub types: Vec<ConflictType>,
    /// How it settles them.
    pub resolve: Resolver,
}

impl Rule {
    /// Whether it settles this type of conflict of this table.
    pub fn matches(&self, schema: &str, table: &str, conflict: ConflictType) -> bool {
        self.types.contains(&conflict) && self.tables.matches(schema, table)
    }
}

/// The rule files of a directory, or the file itself, in name order.
pub(super) fn files(path: &Path) -> Result<Vec<PathBuf>, String> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    if files.is_empty() { Err(format!("{} holds no *.toml", path.display())) } else { Ok(files) }
}

/// Reads the files; what is wrong goes to `report`.
pub(super) fn load(files: &[PathBuf], nodes: &[&str], report: &mut Report) -> Vec<Rule> {
    let mut rules = Vec::new();
    for file in files {
        match fs::read_to_string(file) {
            Ok(text) => {
                let mut problems = Vec::new();
                rules.extend(parse(&text, nodes, &mut problems));
                report.add(file, &text, problems);
            }
            Err(error) => report.add(file, "", vec![Problem::error(0..0, format!("can't be read: {error}"))]),
        }
    }
    rules
}

/// The rules of one file, for these nodes.
pub(super) fn parse(text: &str, nodes: &[&str], problems: &mut Vec<Problem>) -> Vec<Rule> {
    let (root, errors) = DeTable::parse_recoverable(text);
    problems.extend(errors.iter().map(syntax_problem));
    if !errors.is_empty() {
        return Vec::new();
    }
    let mut root = Section::new("", root.get_ref(), 0..0);
    let sections = root.sections("rule", problems);
    root.finish(problems);
    sections.into_iter().filter_map(|section| rule(section, nodes, problems)).collect()
}

/// What TOML itself does not allow.
pub(super) fn syntax_problem(error: &toml::de::Error) -> Problem {
    Problem::error(error.span().unwrap_or(0..0), format!("this is no TOML: {}", error.message().trim()))
}

fn rule(mut section: Section<'_>, nodes: &[&str], problems: &mut Vec<Problem>) -> Option<Rule> {
    let name = section.required("name", "\"newest wins\"", problems);
    let types_span = section.get("types").map(|value| value.span());
    let types = section.list("types", problems);
    let types = conflict_types(types, problems);
    let tables = section.list("tables", problems);
    let tables = filter(&tables, &[], problems).unwrap_or_else(TableFilter::all);
    let resolve = section.required("resolve", "\"last_update_wins\"", problems);
    let order =
        Order { span: section.get("priority").map(|value| value.span()), nodes: section.list("priority", problems) };
    let resolve = resolve.and_then(|resolve| resolver(&resolve, order, nodes, problems));
    if let (Some(span), Some(Resolver::FirstUpdateWins | Resolver::OriginPriority(_))) = (types_span, &resolve) {
        let title = "a row must come out alike at every node, whatever type of conflict each of them sees";
        let help = "remove `types`: only last_update_wins can be given by type";
        problems.push(Problem::error(span, title).help(help));
    }
    for key in ["columns", "others"] {
        if let Some(value) = section.get(key) {
            let help = "remove it, or wait for the version that merges columns";
            problems.push(Problem::error(value.span(), format!("`{key}` is not available in this version")).help(help));
        }
    }
    section.finish(problems);
    Some(Rule { name: name?.value, tables, types, resolve: resolve? })
}

/// `priority = […]`.
struct Order {
    span: Option<Range<usize>>,
    nodes: Vec<Typed<String>>,
}

/// Resolvers of later versions: their names are right, so no other spelling is suggested.
const LATER: &[&str] = &["merge", "keep_local", "apply_remote", "hold", "error", "skip", "function"];

fn resolver(typed: &Typed<String>, order: Order, nodes: &[&str], problems: &mut Vec<Problem>) -> Option<Resolver> {
    let resolver = match typed.value.as_str() {
        "last_update_wins" => Resolver::LastUpdateWins,
        "first_update_wins" => Resolver::FirstUpdateWins,
        "origin_priority" => return origin_priority(typed, order, nodes, problems),
        other => {
            let (title, help) = if LATER.contains(&other) {
                let help = format!("this version has {}", Resolver::NAMES.join(", "));
                (format!("the resolver {other:?} is not available in this version"), help)
            } else {
                (format!("there is no resolver {other:?}"), suggestion(other, &Resolver::NAMES))
            };
            problems.push(Problem::error(typed.span.clone(), title).help(help));
            return None;
        }
    };
    if let Some(span) = order.span {
        let title = format!("`priority` has no meaning for {}", typed.value);
        problems.push(Problem::error(span, title).help("remove it, or write resolve = \"origin_priority\""));
    }
    Some(resolver)
}

/// Every node once, the one that wins over all others first.
fn origin_priority(
    typed: &Typed<String>,
    order: Order,
    nodes: &[&str],
    problems: &mut Vec<Problem>,
) -> Option<Resolver> {
    let before = problems.len();
    let mut places: Vec<NodeId> = Vec::new();
    for name in &order.nodes {
        let place = nodes.iter().position(|node| *node == name.value);
        let problem = |title: String| Problem::error(name.span.clone(), title);
        match place.and_then(|place| u8::try_from(place).ok()).map(NodeId) {
            None => problems
                .push(problem(format!("there is no node {:?}", name.value)).help(suggestion(&name.value, nodes))),
            Some(node) if places.contains(&node) => problems.push(problem(format!("{:?} is here twice", name.value))),
            Some(node) => places.push(node),
        }
    }
    let left: Vec<&str> =
        NodeId::all(nodes.len()).filter(|node| !places.contains(node)).map(|node| nodes[node.index()]).collect();
    if problems.len() == before && !left.is_empty() {
        let title = format!("origin_priority needs `priority` with every node once; it lacks {}", left.join(", "));
        let all: Vec<String> = nodes.iter().map(|node| format!("{node:?}")).collect();
        let help = format!("write priority = [{}], the node that wins over all others first", all.join(", "));
        problems.push(Problem::error(order.span.unwrap_or_else(|| typed.span.clone()), title).help(help));
    }
    (problems.len() == before).then(|| Resolver::OriginPriority(places.into()))
}

fn conflict_types(typed: Vec<Typed<String>>, problems: &mut Vec<Problem>) -> Vec<ConflictType> {
    if typed.is_empty() {
        return ConflictType::ALL.to_vec();
    }
    let names: Vec<&str> = ConflictType::ALL.iter().map(|each| each.name()).collect();
    let mut read = |text: Typed<String>| match text.value.parse() {
        Ok(conflict) => Some(conflict),
        Err(_) => {
            let problem = Problem::error(text.span, format!("{:?} is no conflict type", text.value));
            problems.push(problem.help(suggestion(&text.value, &names)));
            None
        }
    };
    typed.into_iter().filter_map(&mut read).collect()
}

/// Those of the globs that are right.
pub(super) fn globs(list: &[Typed<String>], problems: &mut Vec<Problem>) -> Vec<Glob> {
    let mut globs = Vec::new();
    for typed in list {
        match glob(&typed.value) {
            Ok(glob) => globs.push(glob),
            Err(help) => problems.push(Problem::error(typed.span.clone(), "this is no table pattern").help(help)),
        }
    }
    globs
}

/// A filter from lists of globs; `None` if the including list is empty or a glob is wrong.
pub(super) fn filter(
    include: &[Typed<String>],
    exclude: &[Typed<String>],
    problems: &mut Vec<Problem>,
) -> Option<TableFilter> {
    let before = problems.len();
    let (include, exclude) = (globs(include, problems), globs(exclude, problems));
    if include.is_empty() || problems.len() > before {
        return None;
    }
    match TableFilter::new(include, exclude) {
        Ok(filter) => Some(filter),
        Err(error) => {
            problems.push(Problem::error(0..0, format!("the table patterns can't be used: {error}")));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> String {
        let mut problems = Vec::new();
        parse(text, &["east", "west"], &mut problems);
        let mut report = Report::default();
        report.add(Path::new("rules.toml"), text, problems);
        report.render(crate::config::report::Style::Plain)
    }

    #[test]
    fn the_default_rules_settle_every_conflict_of_every_table() {
        let mut problems = Vec::new();
        let rules = parse(include_str!("../../conflict-rules/default.toml"), &["east", "west"], &mut problems);
        assert_eq!(problems, vec![]);
        for conflict in ConflictType::ALL {
            assert!(rules.iter().any(|rule| rule.matches("sales", "orders", *conflict)), "{conflict}");
        }
    }

    #[test]
    fn a_rule_is_for_its_tables_and_types_only() {
        let text = "[[rule]]\nname = \"a\"\ntables = [\"public.a\"]\ntypes = [\"insert_exists\"]\nresolve = \"last_update_wins\"\n";
        let rules = parse(text, &["east", "west"], &mut Vec::new());
        assert!(rules[0].matches("public", "a", ConflictType::InsertExists));
        assert!(!rules[0].matches("public", "b", ConflictType::InsertExists));
        assert!(!rules[0].matches("public", "a", ConflictType::DeleteMissing));
    }

    #[test]
    fn a_resolver_of_a_later_version_is_refused_by_name() {
        let shown = problems("[[rule]]\nname = \"a\"\nresolve = \"merge\"\ncolumns = { qty = \"delta\" }\n");
        assert!(shown.contains("the resolver \"merge\" is not available"), "{shown}");
        assert_eq!(shown.matches("error:").count(), 2, "{shown}");
    }

    fn resolver(lines: &str) -> Option<Resolver> {
        let text = format!("[[rule]]\nname = \"a\"\n{lines}\n");
        let mut problems = Vec::new();
        let mut rules = parse(&text, &["east", "west"], &mut problems);
        problems.is_empty().then(|| rules.pop().expect("one rule").resolve)
    }

    #[test]
    fn each_resolver_is_read() {
        assert_eq!(resolver("resolve = \"last_update_wins\""), Some(Resolver::LastUpdateWins));
        assert_eq!(resolver("resolve = \"first_update_wins\""), Some(Resolver::FirstUpdateWins));
        let order = [NodeId(1), NodeId(0)].into();
        let found = resolver("resolve = \"origin_priority\"\npriority = [\"west\", \"east\"]");
        assert_eq!(found, Some(Resolver::OriginPriority(order)));
    }

    #[test]
    fn an_order_that_is_not_every_node_once_is_refused() {
        for (order, says) in [
            ("", "it lacks east, west"),
            ("priority = [\"west\"]", "it lacks east"),
            ("priority = [\"west\", \"east\", \"west\"]", "\"west\" is here twice"),
            ("priority = [\"west\", \"esat\"]", "did you mean `east`?"),
        ] {
            let shown = problems(&format!("[[rule]]\nname = \"a\"\nresolve = \"origin_priority\"\n{order}\n"));
            assert!(shown.contains(says), "{says}\n{shown}");
        }
        let shown = problems("[[rule]]\nname = \"a\"\nresolve = \"first_update_wins\"\npriority = [\"east\"]\n");
        assert!(shown.contains("`priority` has no meaning"), "{shown}");
    }

    #[test]
    fn only_the_last_update_may_win_by_type() {
        let rule =
            |resolve: &str| format!("[[rule]]\nname = \"a\"\ntypes = [\"insert_exists\"]\nresolve = \"{resolve}\"\n");
        assert!(problems(&rule("first_update_wins")).contains("remove `types`"));
        assert_eq!(problems(&rule("last_update_wins")), "");
    }

    #[test]
    fn a_slip_gets_a_suggestion() {
        let shown = problems(
            "[[rule]]\nname = \"a\"\nresolve = \"last_update_win\"\ntypes = [\"insert_exist\"]\ntabels = []\n",
        );
        for wanted in ["did you mean `last_update_wins`?", "did you mean `insert_exists`?", "did you mean `tables`?"] {
            assert!(shown.contains(wanted), "{wanted}\n{shown}");
        }
    }
}
