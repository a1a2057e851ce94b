//! Whether a resolver makes a table's rows come out alike everywhere, and whether columns can be merged as a rule says.

use std::collections::BTreeMap;

use crate::model::table::{Column, UniqueIndex};
use crate::model::{
    Case, ColumnMerge, ColumnMerges, Condition, Deletes, Merge, Rename, Resolver, Table, TableRule, When,
};

/// How far from a column's name another may be to be taken for a slip (Jaro–Winkler).
const LIKE: f64 = 0.75;
/// Types whose values add up exactly, in whatever order: not floats, and not money, whose text depends on the locale.
const ADDED: [&str; 4] = ["int2", "int4", "int8", "numeric"];
/// Types whose order is the same at every server, whatever its locale.
const ORDERED: [&str; 10] =
    ["int2", "int4", "int8", "numeric", "float4", "float8", "date", "time", "timestamp", "timestamptz"];
/// Types by whose values a row can be told to be the later one.
const TELLING: [&str; 7] = ["int2", "int4", "int8", "numeric", "date", "timestamp", "timestamptz"];
/// Types to whose values text can be added: not character(n), which is filled up with blanks.
const APPENDED: [&str; 2] = ["text", "varchar"];

/// What keeps a rule from holding for a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unfit {
    /// What is wrong, a sentence without the full stop.
    pub what: String,
    /// What to do.
    pub fix: String,
}

/// Why whole rows would not come out alike everywhere. What stands at a row's home may be superseded and come back later,
/// other than where the last update wins: so nothing may be taken from there, and no row may have to give way to
/// another by when it was changed.
pub(super) fn whole_rows(resolver: &Resolver, deletes: Deletes, table: &Table) -> Option<Unfit> {
    if (resolver, deletes) == (&Resolver::LastUpdateWins, Deletes::ByResolver) {
        return None;
    }
    let by = match (resolver, deletes) {
        (Resolver::LastUpdateWins, deletes) => format!("deletes = \"{}\"", deletes.name()),
        (Resolver::LastByColumn(column) | Resolver::FirstByColumn(column), _) => format!("by = {column:?}"),
        (resolver, _) => resolver.name().to_owned(),
    };
    if table.insert_only {
        let what = format!("{by} is not for a table of which nothing but the inserts replicate");
        return Some(Unfit { what, fix: "give it the last update, or take it out of [tables] insert_only".to_owned() });
    }
    if let Some(index) = table.unique.first() {
        let what = format!("{by} can't go with its unique index {}, for whose values the last update wins", index.name);
        return Some(Unfit { what, fix: "drop the index at every node, or give the table another rule".to_owned() });
    }
    let what = format!("{by} needs the whole old row of each change");
    let sql = format!("ALTER TABLE {} REPLICA IDENTITY FULL;", table.sql_name());
    let fix = format!("run {sql} at every node, or give the table another rule");
    (!table.sends_old_rows).then_some(Unfit { what, fix })
}

/// Why a column can't tell which row is the later one.
pub(super) fn by(resolver: &Resolver, deletes: Deletes, table: &Table) -> Vec<Unfit> {
    let Some(name) = resolver.by() else { return Vec::new() };
    let mut unfit: Vec<Unfit> = named(name, table, "write another column as `by`").into_iter().collect();
    if let Some(at) = table.column(name) {
        let column = &table.columns[at];
        let fix = || {
            let fits =
                table.columns.iter().enumerate().filter(|(at, each)| !table.key.contains(at) && is_of(each, &TELLING));
            let fits: Vec<_> = fits.map(|(_, each)| format!("`{}`", each.name)).collect();
            match fits.is_empty() {
                true => "remove `by`: the commit time tells then which row is the later one".to_owned(),
                false => format!("there is {}", fits.join(", ")),
            }
        };
        if table.key.contains(&at) {
            let what = format!("{name:?} is a key column, and alike in all rows that are compared");
            unfit.push(Unfit { what, fix: fix() });
        } else if !is_of(column, &TELLING) {
            let of_type = shown(&column.sql_type);
            let what = format!(
                "the column {name:?} is of type {of_type}, and `by` is for integers, numeric, dates and timestamps"
            );
            unfit.push(Unfit { what, fix: fix() });
        }
    }
    if deletes == Deletes::ByResolver {
        let what = "its rows are compared by a column, and a delete leaves none".to_owned();
        let fix =
            "say which counts against a change: deletes = \"delete_wins\" or deletes = \"update_wins\"".to_owned();
        unfit.push(Unfit { what, fix });
    }
    unfit
}

/// Why some of a table's conflicts can't be decided so.
pub(super) fn case(case: &Case, table: &Table) -> Vec<Unfit> {
    let resolver = case.resolver.as_ref().unwrap_or(&Resolver::LastUpdateWins);
    let mut unfit = condition(&case.condition, table);
    unfit.extend(whole_rows(resolver, case.deletes.unwrap_or_default(), table));
    unfit
}

/// Why a condition can't be told of the table's conflicts.
fn condition(condition: &Condition, table: &Table) -> Vec<Unfit> {
    let when = condition.when.as_ref();
    let changed = condition.changed.iter().flat_map(|columns| columns.iter());
    let read = when.and_then(When::columns).into_iter().flatten();
    let mut unfit: Vec<Unfit> = changed.filter_map(|name| named(name, table, "remove it from `changed`")).collect();
    unfit.extend(read.filter_map(|name| named(name, table, "leave it out of `when`")));
    if unfit.is_empty()
        && let Some(why) = when.and_then(|when| when.misfit(table))
    {
        let fix = "write a condition that compares values of like types, or leave the table out of the rule's `tables`";
        unfit.push(Unfit { what: format!("its `when` can't hold for its rows: {why}"), fix: fix.to_owned() });
    }
    if condition.reads_old() && !table.sends_old_rows {
        let what = if condition.changed.is_some() { "`changed`" } else { "`old` in `when`" };
        let sql = format!("ALTER TABLE {} REPLICA IDENTITY FULL;", table.sql_name());
        let fix = format!("run {sql} at every node, or leave the table out of the rule's `tables`");
        unfit.push(Unfit { what: format!("{what} needs the whole old row of each change"), fix });
    }
    unfit
}

/// Why a node can't do without rows of the table that it refuses: a later change must bring the row whole.
pub(super) fn hold(rule: &TableRule, table: &Table) -> Option<Unfit> {
    let unfit = |what: &str, fix: String| Some(Unfit { what: format!("errors = \"hold\" {what}"), fix });
    let stop = || "write errors = \"stop\", or leave the table out of the rule's `tables`".to_owned();
    if table.insert_only {
        return unfit("is not for a table of which nothing but the inserts replicate", stop());
    }
    if matches!(rule.resolver, Resolver::Merge(_)) {
        return unfit("is not for a table whose rows are merged, for they are made of several changes", stop());
    }
    let sql = format!("ALTER TABLE {} REPLICA IDENTITY FULL;", table.sql_name());
    match table.sends_old_rows {
        true => None,
        false => unfit("needs the whole old row of each change", format!("run {sql} at every node, or {}", stop())),
    }
}

/// Why there are no rows of the table of which one loses a unique value.
pub(super) fn unique(table: &Table) -> Option<Unfit> {
    nothing_unique(table, "unique")
}

fn nothing_unique(table: &Table, key: &str) -> Option<Unfit> {
    if table.insert_only {
        let what = format!("`{key}` is not for a table of which nothing but the inserts replicate");
        return Some(Unfit { what, fix: "leave the table out of the rule's `tables`".to_owned() });
    }
    if table.unique.is_empty() {
        let what = "it has no unique index beside the key, so none of its rows loses a unique value".to_owned();
        return Some(Unfit { what, fix: format!("remove `{key}`, or leave the table out of the rule's `tables`") });
    }
    None
}

/// Why rows that lose a unique value can't get other values of these columns.
pub(super) fn rename(rename: &Rename, table: &Table) -> Vec<Unfit> {
    let leave = |name: &str| format!("remove {name:?} from `rename`");
    if let Some(unfit) = nothing_unique(table, "rename") {
        return vec![unfit];
    }
    let of_column = |name: &String| {
        let Some(at) = table.column(name) else { return named(name, table, &leave(name)) };
        let is_looked_at = table.unique.iter().any(|index| index.columns.contains(&at));
        let what = match () {
            () if table.key.contains(&at) => "is a key column, and a row with another key would be another row",
            () if table.columns[at].identity_always => "is GENERATED ALWAYS AS IDENTITY and takes no other value",
            () if !is_looked_at => "is in no unique index, so another value of it would help nothing",
            () => return None,
        };
        Some(Unfit { what: format!("{name:?} {what}"), fix: leave(name) })
    };
    let is_named = |column: &usize| rename.0.contains_key(&table.columns[*column].name);
    let of_index = |index: &UniqueIndex| {
        let others = index.columns.iter().filter(|column| !table.key.contains(column));
        let names: Vec<_> = others.map(|column| format!("{:?}", table.columns[*column].name)).collect();
        let fix = match names.is_empty() {
            true => "it looks at the key alone: leave the table out of the rule's `tables`".to_owned(),
            false => format!("name in `rename` what it looks at, too: {}", names.join(" or ")),
        };
        (!index.columns.iter().any(is_named)).then(|| Unfit {
            what: format!(
                "a row can lose by its unique index {}, too, and `rename` gives nothing for that",
                index.name
            ),
            fix,
        })
    };
    rename.0.keys().filter_map(of_column).chain(table.unique.iter().filter_map(of_index)).collect()
}

/// The merge as far as it makes a difference for the table's columns, and what is wrong with it; of a function the nodes tell.
pub(super) fn merge(merge: &Merge, table: &Table) -> (Merge, Vec<Unfit>) {
    let merge = match merge {
        Merge::Columns(merge) => merge,
        Merge::Function(_) => return (merge.clone(), Vec::new()),
    };
    let mut unfit: Vec<Unfit> =
        merge.columns.keys().filter_map(|name| named(name, table, "remove it from `columns`")).collect();
    let mut columns = BTreeMap::new();
    for (at, column) in table.columns.iter().enumerate() {
        let said = merge.columns.get(&column.name);
        let is_key = table.key.contains(&at);
        let how = match said {
            Some(how) => how,
            None if is_key => &ColumnMerge::LastUpdateWins,
            None => &merge.others,
        };
        let is_default = *how == ColumnMerge::default();
        if is_key && !is_default {
            let what = format!(
                "{:?} is a key column, which tells rows apart and can't be merged by {}",
                column.name,
                how.name()
            );
            unfit.push(Unfit { what, fix: format!("remove {:?} from `columns`", column.name) });
        } else if let Some(what) = unfit_type(how, column) {
            let what = format!("the column {:?} is of type {} and {what}", column.name, shown(&column.sql_type));
            let fix = match said {
                Some(_) => format!("merge it otherwise: {}", fitting(column)),
                None => {
                    format!("`others` is {}: name the column in `columns` ({})", how.name(), fitting(column))
                }
            };
            unfit.push(Unfit { what, fix });
        }
        if !is_default {
            columns.insert(column.name.clone(), how.clone());
        }
    }
    (Merge::Columns(ColumnMerges { columns, others: ColumnMerge::default() }), unfit)
}

/// What is wrong with a column's name.
fn named(name: &str, table: &Table, otherwise: &str) -> Option<Unfit> {
    if table.column(name).is_some() {
        return None;
    }
    if table.local.iter().any(|local| local == name) {
        let what = format!("the column {name:?} is not there at every node and does not replicate");
        return Some(Unfit { what, fix: format!("add it at every node, or {otherwise}") });
    }
    let what = format!("there is no column {name:?}, or it is generated");
    Some(Unfit { what, fix: like(name, table) })
}

/// Why the column can't be masked, if the table has it.
pub(super) fn mask(name: &str, table: &Table) -> Option<Unfit> {
    let at = table.column(name)?;
    let what = format!("{name:?} is a key column and can't be masked: the journal tells rows by it");
    table.key.contains(&at).then(|| Unfit { what, fix: "remove it from `mask`".to_owned() })
}

/// Why a column of its type can't be merged so, as the end of a sentence.
fn unfit_type(how: &ColumnMerge, column: &Column) -> Option<String> {
    let is_one = |of: &[&str]| is_of(column, of);
    let is_array = local_name(&column.sql_type).starts_with('_');
    match how {
        ColumnMerge::LastUpdateWins | ColumnMerge::KeepLocal | ColumnMerge::ApplyRemote => None,
        ColumnMerge::Sql(_) => None, // the nodes tell
        ColumnMerge::Delta => (!is_one(&ADDED)).then(|| {
            "delta adds only smallint, integer, bigint and numeric (the sum of others would depend on order or locale)"
                .to_owned()
        }),
        ColumnMerge::Greatest | ColumnMerge::Least => (!is_one(&ORDERED)).then(|| {
            let name = how.name();
            format!("{name} is for numbers, dates and times (the order of others may differ between servers)")
        }),
        ColumnMerge::Union | ColumnMerge::Intersection => (!is_array).then(|| format!("{} is for arrays", how.name())),
        ColumnMerge::JsonMerge => (!is_one(&["jsonb"])).then(|| "json_merge is for jsonb".to_owned()),
        ColumnMerge::Append(_) if !is_one(&APPENDED) => Some("append is for text and varchar".to_owned()),
        ColumnMerge::Append(_) => column.has_modifier.then(|| {
            "has a greatest length, which what several nodes append could pass (make it text at every node to append)"
                .to_owned()
        }),
    }
}

/// Whether the column is of one of these built-in types.
fn is_of(column: &Column, types: &[&str]) -> bool {
    column.sql_type.replace('"', "").strip_prefix("pg_catalog.").is_some_and(|name| types.contains(&name))
}

/// The name behind the schema, unquoted.
fn local_name(sql_type: &str) -> &str {
    sql_type.rsplit_once('.').map_or(sql_type, |(_, name)| name).trim_matches('"')
}

/// The type as people write it.
fn shown(sql_type: &str) -> String {
    let known = [
        ("int2", "smallint"),
        ("int4", "integer"),
        ("int8", "bigint"),
        ("float4", "real"),
        ("float8", "double precision"),
        ("bool", "boolean"),
    ];
    let plain = sql_type.replace('"', "");
    let name = plain.strip_prefix("pg_catalog.").unwrap_or(&plain);
    let (name, array) = match name.strip_prefix('_') {
        Some(element) => (element, "[]"),
        None => (name, ""),
    };
    let name = known.iter().find(|(each, _)| *each == name).map_or(name, |(_, shown)| shown);
    format!("{name}{array}")
}

/// The ways in which the column can be merged.
fn fitting(column: &Column) -> String {
    let fits = ColumnMerge::ALL.into_iter().filter(|(_, how)| !how.diverges() && unfit_type(how, column).is_none());
    fits.map(|(name, _)| name).collect::<Vec<_>>().join(", ")
}

/// "did you mean `x`?", or the columns that there are.
pub fn like(name: &str, table: &Table) -> String {
    let names = || table.columns.iter().map(|column| column.name.as_str());
    let near = names().map(|each| (strsim::jaro_winkler(name, each), each)).max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((likeness, each)) if likeness >= LIKE => format!("did you mean `{each}`?"),
        _ => format!("there is {}", names().map(|each| format!("`{each}`")).collect::<Vec<_>>().join(", ")),
    }
}
