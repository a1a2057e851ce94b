//! What a rule can decide by itself about a table.
//!
//! What comes out for a row must be a function of the changes (R1), and one set of changes is an `insert_exists` to one
//! node and an `update_origin_differs` to another. So `types` can only choose between whole groups of types.

use std::ops::Range;

use crate::config::reader::{Section, suggestion};
use crate::config::report::Problem;
use crate::model::ConflictType;

/// A group of conflict types that can only be decided together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Facet {
    /// Two nodes wrote one row.
    Writes,
    /// One node deleted a row that another changed.
    Deletes,
}

impl Facet {
    /// Both.
    pub const ALL: [Facet; 2] = [Facet::Writes, Facet::Deletes];

    /// What it is about, for sentences.
    pub fn describe(self) -> &'static str {
        match self {
            Facet::Writes => "two nodes wrote one row",
            Facet::Deletes => "one node deleted a row that another changed",
        }
    }

    /// The types under which conflicts of it are on record.
    pub fn types(self) -> &'static [ConflictType] {
        match self {
            Facet::Writes => {
                &[ConflictType::UpdateOriginDiffers, ConflictType::InsertExists, ConflictType::UpdateExists]
            }
            Facet::Deletes => &[ConflictType::UpdateDeleted, ConflictType::DeleteOriginDiffers],
        }
    }

    /// Which of them conflicts of this type belong to; `None` for those that leave nothing to decide: the change is
    /// written or has no row. What unique values have to do with is not among them.
    pub fn of(conflict: ConflictType) -> Option<Facet> {
        Facet::ALL.into_iter().find(|facet| facet.types().contains(&conflict))
    }
}

/// What `types` of a rule comes to.
pub(super) struct Facets {
    /// Where it stands, if it is there.
    pub span: Option<Range<usize>>,
    /// Those that it names; both where it is not there.
    pub facets: Vec<Facet>,
}

/// Reads `types`; `None` with a problem noted.
pub(super) fn read(section: &mut Section<'_>, problems: &mut Vec<Problem>) -> Option<Facets> {
    let Some(span) = section.get("types").map(|value| value.span()) else {
        return Some(Facets { span: None, facets: Facet::ALL.to_vec() });
    };
    let before = problems.len();
    let names: Vec<&str> = ConflictType::ALL.iter().map(|each| each.name()).collect();
    let mut types: Vec<ConflictType> = Vec::new();
    for text in section.list("types", problems) {
        match text.value.parse() {
            Ok(conflict) => types.push(conflict),
            Err(_) => {
                let problem = Problem::error(text.span, format!("{:?} is no conflict type", text.value));
                problems.push(problem.help(suggestion(&text.value, &names)));
            }
        }
    }
    if problems.len() > before {
        return None;
    }
    match facets(&types) {
        Ok(facets) => Some(Facets { span: Some(span), facets }),
        Err((title, help)) => {
            problems.push(Problem::error(span, title).help(help));
            None
        }
    }
}

/// The facets that these types name, or what is wrong and what to write.
fn facets(types: &[ConflictType]) -> Result<Vec<Facet>, (&'static str, &'static str)> {
    let has = |conflict: ConflictType| types.contains(&conflict);
    let any = |facet: Facet| facet.types().iter().any(|conflict| has(*conflict));
    if types.is_empty() {
        return Err(("`types` is empty, so the rule decides nothing", "remove it: the rule decides all types then"));
    }
    if any(Facet::Writes) && !has(ConflictType::UpdateOriginDiffers) {
        return Err((
            "what is insert_exists or update_exists at one node is update_origin_differs at another, and a row must come \
             out alike at both",
            "add \"update_origin_differs\" to `types`: the rule then decides wherever two nodes wrote one row",
        ));
    }
    if any(Facet::Deletes) && !Facet::Deletes.types().iter().all(|conflict| has(*conflict)) {
        return Err((
            "what is update_deleted at one node is delete_origin_differs at another, and a row must come out alike at both",
            "write both: types = [\"update_deleted\", \"delete_origin_differs\"]",
        ));
    }
    let facets: Vec<Facet> = Facet::ALL.into_iter().filter(|facet| any(*facet)).collect();
    if facets.is_empty() {
        return Err((
            "there is nothing to decide about these types: they are only put on record",
            "remove `types`, or name \"update_origin_differs\" (two nodes wrote one row) or both \"update_deleted\" and \
             \"delete_origin_differs\"",
        ));
    }
    Ok(facets)
}
