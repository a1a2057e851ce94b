//! How conflicts are resolved, as rules name it. What comes out of a set of changes is `conflict`'s.

use std::sync::Arc;

use crate::model::{Condition, Merge, NodeId, TableId};

/// How a table's conflicts are resolved: a function of the changes present and of who had seen whom (R1), but for those
/// by which rows differ on purpose, which look at the node, too.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Resolver {
    /// The greatest stamp: the latest commit time; the tie falls by node.
    #[default]
    LastUpdateWins,
    /// The smallest stamp.
    FirstUpdateWins,
    /// The row with the greatest value in this column, which is a number or a time; NULL is less than any. Equal values fall
    /// by the greatest stamp.
    LastByColumn(Arc<str>),
    /// The row with the least value in this column, which is a number or a time; NULL is greater than any. Equal values fall
    /// by the smallest stamp.
    FirstByColumn(Arc<str>),
    /// The change of the node that comes first here; every node is in it once.
    OriginPriority(Arc<[NodeId]>),
    /// A row made from all of them.
    Merge(Arc<Merge>),
    /// At each node the change that was made there, so that rows differ afterwards; where none was, the latest.
    KeepLocal,
    /// At each node the latest change that was made elsewhere, so that rows differ afterwards.
    ApplyRemote,
    /// As [`Resolver::KeepLocal`]; it is on record that the other change was passed over.
    Skip,
}

impl Resolver {
    /// The names that rules may write.
    pub const NAMES: [&str; 8] = [
        "last_update_wins",
        "first_update_wins",
        "origin_priority",
        "merge",
        "function",
        "keep_local",
        "apply_remote",
        "skip",
    ];

    /// Those by which rows differ.
    pub const DIVERGING: [&str; 3] = [Resolver::NAMES[5], Resolver::NAMES[6], Resolver::NAMES[7]];

    /// The name as rules write it.
    pub fn name(&self) -> &'static str {
        match self {
            Resolver::LastUpdateWins | Resolver::LastByColumn(_) => Resolver::NAMES[0],
            Resolver::FirstUpdateWins | Resolver::FirstByColumn(_) => Resolver::NAMES[1],
            Resolver::OriginPriority(_) => Resolver::NAMES[2],
            Resolver::Merge(merge) => match **merge {
                Merge::Columns(_) => Resolver::NAMES[3],
                Merge::Function(_) => Resolver::NAMES[4],
            },
            Resolver::KeepLocal => Resolver::NAMES[5],
            Resolver::ApplyRemote => Resolver::NAMES[6],
            Resolver::Skip => Resolver::NAMES[7],
        }
    }

    /// Whether what comes out depends on the node, so that rows differ.
    pub fn diverges(&self) -> bool {
        match self {
            Resolver::KeepLocal | Resolver::ApplyRemote | Resolver::Skip => true,
            Resolver::Merge(merge) => merge.diverges(),
            _ => false,
        }
    }

    /// The column whose values tell which row is the later one, if not the stamps do.
    pub fn by(&self) -> Option<&str> {
        match self {
            Resolver::LastByColumn(column) | Resolver::FirstByColumn(column) => Some(column),
            _ => None,
        }
    }
}

/// What counts where a row was deleted at one node and changed at another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Deletes {
    /// What the resolver says: a delete is a change like any other.
    #[default]
    ByResolver,
    /// The delete.
    DeleteWins,
    /// The row.
    UpdateWins,
}

impl Deletes {
    /// All of them, with the names that rules write.
    pub const ALL: [(&str, Deletes); 3] = [
        ("by_resolver", Deletes::ByResolver),
        ("delete_wins", Deletes::DeleteWins),
        ("update_wins", Deletes::UpdateWins),
    ];

    /// The name as rules write it.
    pub fn name(self) -> &'static str {
        Deletes::ALL.iter().find(|(_, each)| *each == self).map_or("", |(name, _)| name)
    }
}

/// Which of the rows that claim one unique value keeps it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum UniqueWinner {
    /// The one that was changed last.
    #[default]
    LastUpdateWins,
    /// The one of the node that comes first here; every node is in it once.
    OriginPriority(Arc<[NodeId]>),
}

impl UniqueWinner {
    /// The name as rules write it.
    pub fn name(&self) -> &'static str {
        match self {
            UniqueWinner::LastUpdateWins => Resolver::NAMES[0],
            UniqueWinner::OriginPriority(_) => Resolver::NAMES[2],
        }
    }
}

/// All that decides about a table's rows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TableRule {
    /// What decides instead where its condition holds, the first one of those that say something; none with
    /// [`Resolver::Merge`].
    pub cases: Vec<Case>,
    /// How conflicts are resolved.
    pub resolver: Resolver,
    /// What counts between a delete and another change; with [`Resolver::Merge`] a delete wins, whatever this says: it
    /// takes away every change of the row that had not seen it.
    pub deletes: Deletes,
    /// Which of two rows keeps a unique value.
    pub unique: UniqueWinner,
}

/// What decides about some of a table's conflicts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Case {
    /// About which.
    pub condition: Condition,
    /// How they are resolved; `None` if it says nothing about that.
    pub resolver: Option<Resolver>,
    /// What counts between a delete and another change; `None` if it says nothing about that.
    pub deletes: Option<Deletes>,
}

/// Which of a table's cases decide about a conflict: places in [`TableRule::cases`], `None` where no case does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Deciding {
    /// How it is resolved.
    pub resolver: Option<u16>,
    /// What counts against a delete.
    pub deletes: Option<u16>,
}

impl TableRule {
    /// What decides about a conflict of which these conditions hold.
    pub fn deciding(&self, mut holds: impl FnMut(&Condition) -> bool) -> Deciding {
        let mut deciding = Deciding::default();
        for (place, case) in (0..).zip(&self.cases) {
            let says = |said: bool, found: Option<u16>| said && found.is_none();
            let resolves = says(case.resolver.is_some(), deciding.resolver);
            let deletes = says(case.deletes.is_some(), deciding.deletes);
            if (resolves || deletes) && holds(&case.condition) {
                deciding.resolver = deciding.resolver.or(resolves.then_some(place));
                deciding.deletes = deciding.deletes.or(deletes.then_some(place));
            }
        }
        deciding
    }

    /// How such a conflict is resolved.
    pub fn resolver_of(&self, deciding: Deciding) -> &Resolver {
        let case = deciding.resolver.and_then(|place| self.cases.get(usize::from(place)));
        case.and_then(|case| case.resolver.as_ref()).unwrap_or(&self.resolver)
    }

    /// What counts in such a conflict between a delete and another change.
    pub fn deletes_of(&self, deciding: Deciding) -> Deletes {
        let case = deciding.deletes.and_then(|place| self.cases.get(usize::from(place)));
        case.and_then(|case| case.deletes).unwrap_or(self.deletes)
    }

    /// Whether rows may differ by it.
    pub fn diverges(&self) -> bool {
        let of_cases = self.cases.iter().filter_map(|case| case.resolver.as_ref());
        of_cases.chain([&self.resolver]).any(Resolver::diverges)
    }

    /// Whether every conflict is sure to come out by the one as by the other.
    pub fn comes_to_the_same(&self, other: &TableRule) -> bool {
        self == other || self.unique == other.unique && self.is_by_stamp_alone() && other.is_by_stamp_alone()
    }

    /// Whether the latest change comes out of every conflict about a row, whatever the cases are.
    fn is_by_stamp_alone(&self) -> bool {
        let is_latest = |resolver: &Resolver| *resolver == Resolver::LastUpdateWins;
        let by_stamp = |case: &Case| {
            case.resolver.as_ref().is_none_or(is_latest)
                && case.deletes.is_none_or(|deletes| deletes == Deletes::ByResolver)
        };
        is_latest(&self.resolver) && self.deletes == Deletes::ByResolver && self.cases.iter().all(by_stamp)
    }
}

impl From<Resolver> for TableRule {
    fn from(resolver: Resolver) -> TableRule {
        TableRule { resolver, ..TableRule::default() }
    }
}

/// What decides about each table.
#[derive(Clone, Debug, Default)]
pub struct Resolvers {
    by_table: Vec<TableRule>,
    default: TableRule,
}

impl Resolvers {
    /// By [`TableId`]; the last update wins in tables beyond the list.
    pub fn new(by_table: Vec<TableRule>) -> Resolvers {
        Resolvers { by_table, default: TableRule::default() }
    }

    /// What decides about the table.
    pub fn rule(&self, table: TableId) -> &TableRule {
        self.by_table.get(table.0 as usize).unwrap_or(&self.default)
    }

    /// The tables whose rows may differ by their rules.
    pub fn diverging(&self) -> impl Iterator<Item = TableId> + '_ {
        (0..).zip(&self.by_table).filter(|(_, rule)| rule.diverges()).map(|(table, _)| TableId(table))
    }

    /// How conflicts of the table are resolved.
    pub fn of(&self, table: TableId) -> &Resolver {
        &self.rule(table).resolver
    }

    /// Whether any table's rows are merged.
    pub fn any_merges(&self) -> bool {
        self.by_table.iter().any(|rule| matches!(rule.resolver, Resolver::Merge(_)))
    }

    /// How the table's rows are merged, if they are.
    pub fn merge(&self, table: TableId) -> Option<&Arc<Merge>> {
        match self.of(table) {
            Resolver::Merge(merge) => Some(merge),
            _ => None,
        }
    }
}
