//! How one row is made from several changes, as rules name it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::mem;
use std::sync::Arc;

use crate::model::FunctionName;

/// How a row is made from changes that did not see each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Merge {
    /// Column by column.
    Columns(ColumnMerges),
    /// What this function makes of their rows, one after the other in the order of their stamps: of what came out of those
    /// before and of the next one, both as jsonb. Every change counts, whatever it changed.
    Function(FunctionName),
}

impl Merge {
    /// Whether columns depend on the node, so that rows differ.
    pub fn diverges(&self) -> bool {
        matches!(self, Merge::Columns(columns) if columns.diverges())
    }
}

/// How each column of a table is merged. A change *touches* a column if the value after it is another than before, or if
/// there was no row before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ColumnMerges {
    /// By column name.
    pub columns: BTreeMap<String, ColumnMerge>,
    /// Of the columns that are not named.
    pub others: ColumnMerge,
}

impl ColumnMerges {
    /// Whether the value of a column depends on the node, so that rows differ.
    pub fn diverges(&self) -> bool {
        self.columns.values().chain([&self.others]).any(ColumnMerge::diverges)
    }

    /// How the column is merged.
    pub fn of(&self, column: &str) -> &ColumnMerge {
        self.columns.get(column).unwrap_or(&self.others)
    }
}

/// What a column's value is after changes that did not see each other.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum ColumnMerge {
    /// The value of the touch with the greatest stamp.
    #[default]
    LastUpdateWins,
    /// Every change's new − old is added, whoever saw whom (R13).
    Delta,
    /// The greatest of the values.
    Greatest,
    /// The least of the values.
    Least,
    /// An array of the elements of any.
    Union,
    /// An array of the elements of all.
    Intersection,
    /// A jsonb object: of each top-level key the value of the touch of that key with the greatest stamp.
    JsonMerge,
    /// A text of the entries of all, with this separator between two; it is not empty.
    Append(Cow<'static, str>),
    /// What this SQL expression makes of the values, one after the other in the order of their stamps: of `local`, what came out of
    /// those before, of `remote`, the next one, and of `old`, the value before that was written.
    Sql(Arc<str>),
    /// At each node the value that was written there, so that rows differ afterwards; where none was, the latest.
    KeepLocal,
    /// At each node the latest value that was written elsewhere, so that rows differ afterwards.
    ApplyRemote,
}

impl ColumnMerge {
    /// All that rules write as a name alone.
    pub const ALL: [(&str, ColumnMerge); 10] = [
        ("last_update_wins", ColumnMerge::LastUpdateWins),
        ("delta", ColumnMerge::Delta),
        ("greatest", ColumnMerge::Greatest),
        ("least", ColumnMerge::Least),
        ("union", ColumnMerge::Union),
        ("intersection", ColumnMerge::Intersection),
        ("json_merge", ColumnMerge::JsonMerge),
        ("append", ColumnMerge::Append(Cow::Borrowed(ColumnMerge::NEW_LINE))),
        ("keep_local", ColumnMerge::KeepLocal),
        ("apply_remote", ColumnMerge::ApplyRemote),
    ];

    /// What is between two entries of [`ColumnMerge::Append`] if a rule does not say.
    pub const NEW_LINE: &str = "\n";
    /// The name of [`ColumnMerge::Sql`], which is never written alone.
    pub const SQL: &str = "sql";

    /// Whether what comes out depends on the node.
    pub fn diverges(&self) -> bool {
        matches!(self, ColumnMerge::KeepLocal | ColumnMerge::ApplyRemote)
    }

    /// The name as rules write it.
    pub fn name(&self) -> &'static str {
        if let ColumnMerge::Sql(_) = self {
            return ColumnMerge::SQL;
        }
        let is_it = |each: &ColumnMerge| mem::discriminant(each) == mem::discriminant(self);
        ColumnMerge::ALL.iter().find(|(_, each)| is_it(each)).map_or("", |(name, _)| name)
    }
}

impl fmt::Display for ColumnMerge {
    /// For people: the name, and the separator where it is not a new line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ColumnMerge::Append(separator) if separator != ColumnMerge::NEW_LINE => {
                write!(f, "{} (between two: {separator:?})", self.name())
            }
            ColumnMerge::Sql(expression) => write!(f, "{} ({expression})", self.name()),
            _ => f.write_str(self.name()),
        }
    }
}
