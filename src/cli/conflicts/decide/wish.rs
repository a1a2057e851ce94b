//! What a person wants of a conflict → the row that is to be written, as far as the journal tells. Pure.

use crate::journal::{Entry, JsonRow, Status};
use crate::model::{ConflictType, Resolution, Resolver};

/// One of the two that met.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum Side {
    /// The change that arrived
    Remote,
    /// What it met
    Local,
}

/// What a person wants.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Wish {
    /// What a side had, with these values instead of its own.
    Keep(Side, JsonRow),
    /// These values of the row that is there.
    Set(JsonRow),
    /// What did not win.
    Undo,
    /// No row.
    Drop,
}

/// What is to be written, as far as the journal tells.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Decision<'e> {
    /// The node to write at, if no other one is named.
    pub at: &'e str,
    /// The row's key.
    pub key: JsonRow,
    /// The row that is to be there, if one is.
    pub row: Option<JsonRow>,
    /// If a row is there only these columns of it are written.
    pub only: Option<Vec<String>>,
    /// What the conflict left under that key.
    pub left: Option<JsonRow>,
    /// For people: `what west had`.
    pub what: String,
}

/// What the wish comes to, or why it can't be.
pub(super) fn decision<'e>(entry: &'e Entry, wish: &Wish) -> Result<Decision<'e>, String> {
    if entry.status == Status::Pending {
        return Err("whether its batch is committed is not known yet; try again once it is settled".to_owned());
    }
    if entry.key.is_empty() {
        return Err("it is about a whole table that was truncated; write its rows yourself".to_owned());
    }
    let no_values = JsonRow::new();
    let (row, only, what) = match wish {
        Wish::Keep(side, set) => kept(entry, *side, set)?,
        Wish::Undo => kept(entry, loser(entry)?, &no_values)?,
        Wish::Drop => (None, None, "no row".to_owned()),
        Wish::Set(set) => {
            let local = entry.local.as_ref().and_then(|local| local.row.as_ref());
            let base = entry.result.as_ref().or(entry.remote.row.as_ref()).or(local);
            let row = overlaid(base.unwrap_or(&entry.key), set);
            (Some(row), Some(set.keys().cloned().collect()), "what was set".to_owned())
        }
    };
    // a row that had to give way to another's unique value has a key of its own
    let of_key = |row: &JsonRow| -> JsonRow {
        entry.key.keys().map(|name| (name.clone(), row.get(name).cloned().unwrap_or_default())).collect()
    };
    let key = row.as_ref().map_or_else(|| entry.key.clone(), of_key);
    if let Wish::Keep(_, set) | Wish::Set(set) = wish
        && let Some(name) = set.keys().find(|name| key.contains_key(*name))
    {
        return Err(format!("{name} is a key column, which tells what row is meant; leave it out of --set"));
    }
    let left = entry.result.clone().filter(|result| of_key(result) == key);
    // where the target refused the row that is not to be, it stands at its source
    if is_refused(entry) && row.is_none() && left.is_none() {
        return Ok(Decision { at: &entry.source, key, row, only, left: entry.remote.row.clone(), what });
    }
    Ok(Decision { at: &entry.target, key, row, only, left, what })
}

/// Whether it is about a change that the target refused.
pub(super) fn is_refused(entry: &Entry) -> bool {
    entry.conflict_type == ConflictType::ApplyError
}

type Kept = (Option<JsonRow>, Option<Vec<String>>, String);

/// What the side had.
fn kept(entry: &Entry, side: Side, set: &JsonRow) -> Result<Kept, String> {
    let (node, row) = match (side, &entry.local) {
        (Side::Local, _) if is_refused(entry) => (entry.target.as_str(), entry.result.as_ref()),
        (Side::Remote, _) => (entry.remote.node.as_str(), entry.remote.row.as_ref()),
        (Side::Local, Some(local)) => (local.node.as_deref().unwrap_or(&entry.target), local.row.as_ref()),
        (Side::Local, None) => {
            return Err(format!("nothing is known of what {} had; give the values: --set", entry.target));
        }
    };
    match row {
        None if !set.is_empty() => Err(format!("{node} had deleted the row, so there is nothing to set")),
        None => Ok((None, None, format!("what {node} had, no row,"))),
        Some(row) => Ok((Some(overlaid(row, set)), None, format!("what {node} had"))),
    }
}

fn overlaid(row: &JsonRow, values: &JsonRow) -> JsonRow {
    let mut row = row.clone();
    row.extend(values.iter().map(|(name, value)| (name.clone(), value.clone())));
    row
}

/// The side that did not win.
fn loser(entry: &Entry) -> Result<Side, String> {
    if is_refused(entry) {
        let target = &entry.target;
        return Err(format!(
            "nothing was decided: {target} refused the change; say what is to stand: conflicts resolve, with --keep remote once \
             {target} takes it, --keep local, --set or --drop"
        ));
    }
    match entry.resolution {
        Resolution::ApplyRemote => Ok(Side::Local),
        Resolution::KeepLocal => Ok(Side::Remote),
        Resolution::Skip if entry.resolver == Resolver::Skip.name() => Ok(Side::Remote),
        Resolution::Hold if entry.result == entry.remote.row => Ok(Side::Local),
        Resolution::Hold if entry.local.as_ref().is_some_and(|local| local.row == entry.result) => Ok(Side::Remote),
        Resolution::Hold | Resolution::Merge => {
            Err("a row was made from both, so neither lost; say which to keep: conflicts resolve".to_owned())
        }
        Resolution::Skip | Resolution::Error => Err("nothing was lost, so there is nothing to bring back".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cli::conflicts::show::tests::example;

    fn row(value: Value) -> JsonRow {
        value.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn undo_brings_back_what_did_not_win() {
        let mut entry = example();
        let undone = decision(&entry, &Wish::Undo).unwrap();
        assert_eq!(undone.row, entry.local.as_ref().unwrap().row);
        assert_eq!((undone.left, undone.what.as_str()), (entry.result.clone(), "what west had"));
        entry.resolution = Resolution::KeepLocal;
        assert_eq!(decision(&entry, &Wish::Undo).unwrap().row, entry.remote.row);
        entry.resolution = Resolution::Hold;
        entry.result.clone_from(&entry.remote.row);
        assert_eq!(decision(&entry, &Wish::Undo).unwrap().row, entry.local.as_ref().unwrap().row);
        for (resolution, says) in [(Resolution::Merge, "neither lost"), (Resolution::Skip, "nothing was lost")] {
            entry.resolution = resolution;
            assert!(decision(&entry, &Wish::Undo).unwrap_err().contains(says));
        }
    }

    #[test]
    fn a_deleted_side_is_kept_by_deleting() {
        let mut entry = example();
        entry.remote.row = None;
        let keep = |set| decision(&entry, &Wish::Keep(Side::Remote, set));
        assert_eq!(
            keep(JsonRow::new()).map(|decision| (decision.row, decision.key)),
            Ok((None, row(json!({"id": "5"}))))
        );
        assert!(keep(row(json!({"qty": "1"}))).unwrap_err().contains("nothing to set"));
    }

    #[test]
    fn values_that_are_set_go_over_those_of_the_side() {
        let entry = example();
        let keep = decision(&entry, &Wish::Keep(Side::Local, row(json!({"qty": "9"})))).unwrap();
        assert_eq!(keep.row, Some(row(json!({ "id": "5", "qty": "9", "name": null, "doc": "x" }))));
        let set = decision(&entry, &Wish::Set(row(json!({"qty": "9"})))).unwrap();
        assert_eq!(set.only, Some(vec!["qty".to_owned()]));
        assert!(decision(&entry, &Wish::Set(row(json!({"id": "6"})))).unwrap_err().contains("key column"));
    }

    #[test]
    fn a_row_that_gave_way_to_a_unique_value_comes_back_under_its_own_key() {
        let mut entry = example();
        let local = entry.local.as_mut().unwrap();
        local.row = Some(row(json!({ "id": "7", "qty": "4" })));
        let undone = decision(&entry, &Wish::Undo).unwrap();
        assert_eq!((undone.key, undone.left), (row(json!({ "id": "7" })), None));
    }

    #[test]
    fn what_is_pending_or_unknown_is_refused() {
        let mut entry = example();
        entry.local = None;
        assert!(decision(&entry, &Wish::Keep(Side::Local, JsonRow::new())).unwrap_err().contains("nothing is known"));
        entry.status = Status::Pending;
        assert!(decision(&entry, &Wish::Drop).unwrap_err().contains("not known yet"));
        entry.status = Status::Held;
        assert!(decision(&entry, &Wish::Drop).is_ok());
        entry.key.clear();
        assert!(decision(&entry, &Wish::Drop).unwrap_err().contains("truncated"));
    }
}
