//! How a rule decides: `resolve` and `deletes` with what belongs to them.

use std::ops::Range;
use std::sync::Arc;

use crate::config::reader::{Section, Typed, suggestion};
use crate::config::report::Problem;
use crate::config::rules::condition::node_ids;
use crate::config::rules::facet::{self, Facet, Facets};
use crate::config::rules::{Afterwards, Errors, merge, unique};
use crate::model::{ColumnMerge, ColumnMerges, Deletes, Merge, NodeId, Resolver, UniqueWinner};

/// As `diverges`: rows may differ between nodes.
pub(super) const ACCEPTED: &str = "accepted";
/// A column of rows can't tell whether a delete is later than a row.
const BY_NEEDS_DELETES: &str = "`by` compares rows, and a delete leaves none";
const WHICH_COUNTS: &str = "say which counts against a change: deletes = \"delete_wins\" or deletes = \"update_wins\"";
/// As `resolve`: the last update stands until a person has decided.
pub(super) const HOLD: &str = "hold";
/// As `resolve`: nothing is decided, and the link stops.
pub(super) const ERROR: &str = "error";

/// As `resolve` and as `unique`.
pub(super) const ORIGIN_PRIORITY: &str = "origin_priority";

/// What a rule says about each facet, and what becomes of what it decides.
pub(super) struct Decision {
    pub resolve: Option<Resolver>,
    pub deletes: Option<Deletes>,
    pub afterwards: Afterwards,
    pub errors: Option<Errors>,
    pub unique: Option<(UniqueWinner, Afterwards)>,
}

/// Reads all of a rule that decides: `types`, `resolve` and what belongs to it, `deletes`, `unique`, `hold` and `errors`. `None`
/// only with a problem noted.
pub(super) fn read(section: &mut Section<'_>, nodes: &[&str], problems: &mut Vec<Problem>) -> Option<Decision> {
    let before = problems.len();
    let facets = facet::read(section, problems);
    let deletes = choice(section, "deletes", &Deletes::ALL, problems);
    let errors = choice(section, "errors", &Errors::ALL, problems);
    let by_itself = ["mask", "errors", "unique", "rename"].iter().any(|key| section.get(key).is_some());
    let typed = section.text("resolve", problems);
    let wrong = typed.is_none() && section.get("resolve").is_some();
    let order = Order {
        span: section.get("priority").map(|value| value.span()),
        nodes: section.list("priority", problems),
        serves_unique: section.get("unique").is_some_and(|value| value.get_ref().as_str() == Some(ORIGIN_PRIORITY)),
    };
    let unique = unique::read(section, &order, nodes, problems);
    let resolver = resolver(section, typed.as_ref(), &order, nodes, problems);
    let afterwards = afterwards(section, typed.as_ref(), problems);
    let decides = typed.is_some() || deletes.is_some() || section.get("unique").is_some();
    if let Some(span) = section.get("hold").map(|value| value.span()).filter(|_| !decides) {
        let problem = Problem::error(span, "`hold` has no meaning for a rule that decides nothing");
        problems.push(problem.help("remove it, or write resolve = \"hold\""));
    }
    let facets = facets?;
    match &typed {
        Some(typed) if !facets.facets.contains(&Facet::Writes) && resolver.is_some() => {
            let title = format!("{} has no meaning for a delete against a change", typed.value);
            let help = "remove `resolve` and say which counts: deletes = \"delete_wins\" or deletes = \"update_wins\"";
            problems.push(Problem::error(typed.span.clone(), title).help(help));
        }
        Some(_) => {}
        None if wrong => {}
        None if facets.span.is_some() && facets.facets.contains(&Facet::Writes) => {
            section.need("resolve", "\"last_update_wins\"", problems);
        }
        None if deletes.is_none() && section.get("deletes").is_none() && (!by_itself || facets.span.is_some()) => {
            section.need("resolve", "\"last_update_wins\"", problems);
        }
        None => {}
    }
    check_deletes(section, &facets, resolver.as_ref(), deletes.as_ref(), problems);
    if let (Afterwards::Refused, Some(deletes)) = (afterwards, &deletes) {
        let problem = Problem::error(deletes.span.clone(), "`deletes` has no meaning for error, which decides nothing");
        problems.push(problem.help("remove it, or give `resolve` another value"));
    }
    if let (Afterwards::Held, Some(true), Some(span)) =
        (afterwards, resolver.as_ref().map(Resolver::diverges), section.get("hold").map(|value| value.span()))
    {
        let problem =
            Problem::error(span, "`hold` has no meaning where rows differ: nothing stands everywhere meanwhile");
        problems.push(problem.help("remove it, or write a resolver by which rows come out alike"));
    }
    if problems.len() > before {
        return None;
    }
    let by_resolver = facets.facets.contains(&Facet::Deletes) && resolver.is_some();
    let deletes = deletes.map(|typed| typed.value).or(by_resolver.then_some(Deletes::ByResolver));
    let errors = errors.map(|typed| typed.value);
    Some(Decision { resolve: resolver, deletes, afterwards, errors, unique })
}

/// What becomes of what `resolve` or `unique` decides.
pub(super) fn afterwards(
    section: &mut Section<'_>,
    resolve: Option<&Typed<String>>,
    problems: &mut Vec<Problem>,
) -> Afterwards {
    if resolve.is_some_and(|typed| typed.value == ERROR) {
        if let Some(typed) = section.flag("hold", problems) {
            let problem = Problem::error(typed.span, "`hold` has no meaning for error, which decides nothing");
            problems.push(problem.help("remove it, or write resolve = \"hold\""));
        }
        return Afterwards::Refused;
    }
    let by_resolver = resolve.is_some_and(|typed| typed.value == HOLD);
    match section.flag("hold", problems) {
        Some(Typed { value: false, span }) if by_resolver => {
            let problem = Problem::error(span, "the rule resolves by hold and says that nothing is held");
            problems.push(problem.help("remove it, or write resolve = \"last_update_wins\""));
            Afterwards::Held
        }
        Some(typed) if typed.value => Afterwards::Held,
        _ if by_resolver => Afterwards::Held,
        _ => Afterwards::Resolved,
    }
}

/// The one of `all` that is named under `key`.
fn choice<T: Copy>(
    section: &mut Section<'_>,
    key: &'static str,
    all: &[(&str, T)],
    problems: &mut Vec<Problem>,
) -> Option<Typed<T>> {
    let typed = section.text(key, problems)?;
    let found = all.iter().find(|(name, _)| *name == typed.value);
    if found.is_none() {
        let names: Vec<_> = all.iter().map(|(name, _)| *name).collect();
        let title = format!("`{key}` can't be {:?}", typed.value);
        problems.push(Problem::error(typed.span.clone(), title).help(suggestion(&typed.value, &names)));
    }
    found.map(|(_, value)| Typed { value: *value, span: typed.span })
}

/// Whether `deletes` goes with the types and the resolver.
fn check_deletes(
    section: &mut Section<'_>,
    facets: &Facets,
    resolver: Option<&Resolver>,
    deletes: Option<&Typed<Deletes>>,
    problems: &mut Vec<Problem>,
) {
    let by_column = resolver.is_some_and(|resolver| resolver.by().is_some());
    let Some(deletes) = deletes else {
        if by_column && facets.facets.contains(&Facet::Deletes) && section.get("deletes").is_none() {
            let span = section.get("by").map_or_else(|| section.span.clone(), |value| value.span());
            problems.push(Problem::error(span, BY_NEEDS_DELETES).help(WHICH_COUNTS));
        }
        return;
    };
    let problem = |title: &str, help: &str| Problem::error(deletes.span.clone(), title).help(help);
    if !facets.facets.contains(&Facet::Deletes) {
        let help = "add \"update_deleted\" and \"delete_origin_differs\" to them, or remove `deletes`";
        problems.push(problem("`deletes` has no meaning for these types", help));
    } else if matches!(resolver, Some(Resolver::Merge(_))) && deletes.value != Deletes::DeleteWins {
        let title = "in a merged table a delete always wins: what it takes away can't be merged with what comes after";
        problems.push(problem(title, "write deletes = \"delete_wins\", or remove it"));
    } else if deletes.value == Deletes::ByResolver && by_column {
        problems.push(problem(BY_NEEDS_DELETES, WHICH_COUNTS));
    } else if resolver.is_none() && deletes.value == Deletes::ByResolver && facets.facets.contains(&Facet::Writes) {
        let help = "add `resolve`, or write deletes = \"delete_wins\" or deletes = \"update_wins\"";
        problems.push(problem("the rule has no resolver to go by", help));
    }
}

fn resolver(
    section: &mut Section<'_>,
    typed: Option<&Typed<String>>,
    order: &Order,
    nodes: &[&str],
    problems: &mut Vec<Problem>,
) -> Option<Resolver> {
    let columns = merge::columns(section, problems);
    let function = merge::function(section, problems);
    let by = by(section, problems);
    let name = typed.map(|typed| typed.value.as_str());
    let belongs = [
        ("priority", order.span.clone().filter(|_| !order.serves_unique), ORIGIN_PRIORITY),
        ("columns", section.get("columns").map(|value| value.span()), "merge"),
        ("others", section.get("others").map(|value| value.span()), "merge"),
        ("function", section.get("function").map(|value| value.span()), "function"),
    ];
    for (key, span, resolver) in belongs {
        if let Some(span) = span.filter(|_| name.is_none_or(|name| name != resolver && known(name))) {
            let title = match name {
                Some(name) => format!("`{key}` has no meaning for {name}"),
                None => format!("`{key}` has no meaning without `resolve`"),
            };
            problems.push(Problem::error(span, title).help(format!("remove it, or write resolve = \"{resolver}\"")));
        }
    }
    if let Some(span) = section.get("by").map(|value| value.span()).filter(|_| name.is_none_or(|name| !takes_by(name)))
    {
        let title = match name {
            Some(name) => format!("`by` has no meaning for {name}"),
            None => "`by` has no meaning without `resolve`".to_owned(),
        };
        let help = "remove it, or write resolve = \"last_update_wins\" or resolve = \"first_update_wins\"";
        problems.push(Problem::error(span, title).help(help));
    }
    check_diverges(section, typed, columns.as_ref(), problems);
    let typed = typed?;
    match (typed.value.as_str(), by?) {
        ("last_update_wins" | HOLD | ERROR, None) => Some(Resolver::LastUpdateWins),
        ("last_update_wins" | HOLD, Some(column)) => Some(Resolver::LastByColumn(column.into())),
        (ERROR, Some(_)) => None, // said above
        ("first_update_wins", None) => Some(Resolver::FirstUpdateWins),
        ("first_update_wins", Some(column)) => Some(Resolver::FirstByColumn(column.into())),
        (ORIGIN_PRIORITY, _) => order.whole(typed, nodes, problems).map(Resolver::OriginPriority),
        ("merge", _) => columns.map(|columns| Resolver::Merge(Merge::Columns(columns).into())),
        ("function", _) => {
            if section.get("function").is_none() {
                let problem =
                    Problem::error(typed.span.clone(), "the rule resolves by a function and does not say which");
                problems.push(problem.help(merge::FUNCTION_EXAMPLE));
            }
            function.map(|function| Resolver::Merge(Merge::Function(function).into()))
        }
        ("keep_local", _) => Some(Resolver::KeepLocal),
        ("apply_remote", _) => Some(Resolver::ApplyRemote),
        ("skip", _) => Some(Resolver::Skip),
        (other, _) => {
            problems.push(unknown(typed, other));
            None
        }
    }
}

/// Whether rows may differ by the resolver or by a column of a merge, and the rule says so.
fn check_diverges(
    section: &mut Section<'_>,
    typed: Option<&Typed<String>>,
    columns: Option<&ColumnMerges>,
    problems: &mut Vec<Problem>,
) {
    let is_merge = typed.is_some_and(|typed| typed.value == "merge");
    let differs = typed.filter(|typed| match is_merge {
        true => columns.is_none_or(ColumnMerges::diverges), // what is wrong with them is told by itself
        false => Resolver::DIVERGING.contains(&typed.value.as_str()),
    });
    match (section.text("diverges", problems), differs) {
        (Some(said), _) if said.value != ACCEPTED => {
            let problem = Problem::error(said.span, format!("`diverges` can't be {:?}", said.value));
            problems.push(problem.help(format!("write diverges = {ACCEPTED:?} if rows may differ, or remove it")));
        }
        (Some(said), None) if typed.is_none_or(|typed| known(&typed.value)) => {
            let title = match typed {
                Some(_) if is_merge => "`diverges` has no meaning where all columns come out alike".to_owned(),
                Some(typed) => format!("`diverges` has no meaning for {}, by which rows come out alike", typed.value),
                None => "`diverges` has no meaning without `resolve`".to_owned(),
            };
            problems.push(Problem::error(said.span, title).help("remove it"));
        }
        (None, Some(typed)) if section.get("diverges").is_none() && (!is_merge || columns.is_some()) => {
            let accept = format!("or diverges = {ACCEPTED:?} beside it, if that is what you want");
            let (title, help) = match is_merge {
                true => (
                    "by keep_local or apply_remote a column differs afterwards: each node decides for itself"
                        .to_owned(),
                    format!("merge the column by last_update_wins; {accept}"),
                ),
                false => (
                    format!("by {} the row differs afterwards: each node decides for itself", typed.value),
                    format!("write resolve = \"last_update_wins\" or resolve = \"origin_priority\"; {accept}"),
                ),
            };
            problems.push(Problem::error(typed.span.clone(), title).help(help));
        }
        _ => {}
    }
}

/// The column of `by`, if there is one; `None` with a problem noted.
fn by(section: &mut Section<'_>, problems: &mut Vec<Problem>) -> Option<Option<String>> {
    let before = problems.len();
    let typed = section.text("by", problems);
    if let Some(typed) = typed.as_ref().filter(|typed| typed.value.is_empty()) {
        let help = "write the column that says which row is the later one, by = \"updated_at\", or remove it";
        problems.push(Problem::error(typed.span.clone(), "`by` is empty").help(help));
    }
    (problems.len() == before).then(|| typed.map(|typed| typed.value))
}

/// Whether a column can tell which row is the later one; also where the name is wrong, for that is told by itself.
fn takes_by(name: &str) -> bool {
    !known(name) || ["last_update_wins", "first_update_wins", HOLD].contains(&name)
}

fn known(name: &str) -> bool {
    names().contains(&name)
}

/// What `resolve` may be.
fn names() -> Vec<&'static str> {
    Resolver::NAMES.into_iter().chain([HOLD, ERROR]).collect()
}

fn unknown(typed: &Typed<String>, name: &str) -> Problem {
    let (title, help) = if Deletes::ALL.iter().any(|(each, _)| *each == name) {
        (format!("{name:?} is no resolver: it says what counts against a delete"), format!("write deletes = {name:?}"))
    } else if ColumnMerge::ALL.iter().any(|(each, _)| *each == name) {
        let help = format!("write resolve = \"merge\" and columns = {{ a_column = {name:?} }}");
        (format!("{name:?} merges a column, not a row"), help)
    } else {
        (format!("there is no resolver {name:?}"), suggestion(name, &names()))
    };
    Problem::error(typed.span.clone(), title).help(help)
}

/// `priority = […]`.
pub(super) struct Order {
    span: Option<Range<usize>>,
    nodes: Vec<Typed<String>>,
    /// It is at least for unique values.
    serves_unique: bool,
}

impl Order {
    /// Every node once, the one that wins over all others first; `typed` asks for it.
    pub(super) fn whole(
        &self,
        typed: &Typed<String>,
        nodes: &[&str],
        problems: &mut Vec<Problem>,
    ) -> Option<Arc<[NodeId]>> {
        let before = problems.len();
        let places = node_ids(&self.nodes, nodes, problems);
        let left: Vec<&str> =
            NodeId::all(nodes.len()).filter(|node| !places.contains(node)).map(|node| nodes[node.index()]).collect();
        if problems.len() == before && !left.is_empty() {
            let title =
                format!("{ORIGIN_PRIORITY} needs `priority` with every node once; it lacks {}", left.join(", "));
            let all: Vec<String> = nodes.iter().map(|node| format!("{node:?}")).collect();
            let help = format!("write priority = [{}], the node that wins over all others first", all.join(", "));
            let span = self.span.clone().unwrap_or_else(|| typed.span.clone());
            problems.push(Problem::error(span, title).help(help));
        }
        (problems.len() == before).then(|| places.into())
    }
}
