//! The names of conflicts and of what was done about them, as PostgreSQL 18 and 19 use them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! named {
    ($(#[$doc:meta])* $name:ident, $what:literal: $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $text)] $variant,)+ }

        impl $name {
            /// All of them, in the order of the documentation.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The name as users write it.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<$name, String> {
                $name::ALL.iter().copied().find(|each| each.name() == text).ok_or_else(|| {
                    let names: Vec<_> = $name::ALL.iter().map(|each| each.name()).collect();
                    format!("{text:?} is no {}; it is one of {}", $what, names.join(", "))
                })
            }
        }
    };
}

named! {
    /// What kind of conflict was found; see the PostgreSQL documentation, "Logical Replication: Conflicts".
    ConflictType, "conflict type":
    /// An inserted row's key (or unique value) is already there.
    InsertExists = "insert_exists",
    /// An updated row was changed at the target by a change that the author had not seen.
    UpdateOriginDiffers = "update_origin_differs",
    /// An updated row's new key (or unique value) is already there.
    UpdateExists = "update_exists",
    /// An updated row is not there, and nothing tells why.
    UpdateMissing = "update_missing",
    /// An updated row was deleted at the target by a change that the author had not seen.
    UpdateDeleted = "update_deleted",
    /// A deleted row was changed at the target by a change that the author had not seen.
    DeleteOriginDiffers = "delete_origin_differs",
    /// A deleted row is not there.
    DeleteMissing = "delete_missing",
    /// A row's values of several unique indexes are held by other rows.
    MultipleUniqueConflicts = "multiple_unique_conflicts",
    /// The target refused a change that is in conflict with nothing: a constraint, a type, a privilege, a trigger. The name
    /// is ours.
    ApplyError = "apply_error",
}

named! {
    /// What was done about a conflict.
    Resolution, "resolution":
    /// The incoming change was written.
    ApplyRemote = "apply_remote",
    /// The target's row stayed, or was written again.
    KeepLocal = "keep_local",
    /// A row made from both was written.
    Merge = "merge",
    /// Nothing had to be written: both ends wanted the same, or a rule passes the change over.
    Skip = "skip",
    /// The change waits for a person.
    Hold = "hold",
    /// The link stopped.
    Error = "error",
}
