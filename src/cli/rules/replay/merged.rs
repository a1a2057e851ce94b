//! What a merge makes of the two sides of a conflict on record, as far as that can be told without the server, which knows
//! the columns' types.

use std::cmp::Ordering;

use bigdecimal::BigDecimal;
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use serde_json::Value;

use crate::apply::merge::add;
use crate::cli::conflicts::is_unchanged;
use crate::conflict::{append, json};
use crate::journal::{Entry, EntryLocal, JsonRow, MASK, Operation};
use crate::model::{ColumnMerge, ColumnMerges, Merge};

/// A row.
pub(super) struct Merged {
    /// By column; as it stood locally where it can't be told.
    pub row: JsonRow,
    /// Why a column can't be told, if one can't.
    pub open: Option<String>,
}

/// One column at both sides.
struct Cell<'a> {
    how: &'a ColumnMerge,
    /// Before the incoming change; `None` if it made the row.
    old: Option<&'a Value>,
    new: &'a Value,
    local: &'a Value,
    /// Whether the incoming change is the later one.
    later: bool,
}

/// The incoming change onto the row that it met. `later`: it was committed after what it met.
pub(super) fn merge(entry: &Entry, local: &EntryLocal, merge: &Merge, later: bool) -> Merged {
    let mut made = Merged { row: local.row.clone().unwrap_or_default(), open: None };
    let merge: &ColumnMerges = match merge {
        Merge::Columns(merge) => merge,
        Merge::Function(function) => {
            made.open = Some(format!("only the server can tell what {function} makes of two rows"));
            return made;
        }
    };
    let birth = entry.remote.operation == Operation::Insert;
    let nothing = JsonRow::new();
    let (remote, before) =
        (entry.remote.row.as_ref().unwrap_or(&nothing), entry.remote.old.as_ref().unwrap_or(&nothing));
    for (name, new) in remote.iter().filter(|(_, new)| !is_unchanged(new)) {
        let old = if birth { None } else { before.get(name) };
        let standing = made.row.get(name);
        let known = [Some(new), old, standing].into_iter().flatten().all(|value| value != MASK && !is_unchanged(value));
        let value = match (standing, old) {
            (None, _) => continue, // a column that the local node does not have
            (Some(local), _) if local == new && known => continue,
            (Some(_), _) if !known => Err(format!("a value of {name} is masked or was left out")),
            (Some(_), None) if !birth => {
                Err(format!("{name} before the change is not on record, for want of REPLICA IDENTITY FULL"))
            }
            (Some(local), old) => {
                let how = if entry.key.contains_key(name) { &ColumnMerge::LastUpdateWins } else { merge.of(name) };
                let cell = Cell { how, old, new, local, later };
                cell.merged().map_err(|why| format!("{name}: {why}"))
            }
        };
        match value {
            Ok(value) => drop(made.row.insert(name.clone(), value)),
            Err(why) => made.open = made.open.or(Some(why)),
        }
    }
    made
}

impl Cell<'_> {
    fn merged(&self) -> Result<Value, String> {
        if self.old == Some(self.new) {
            return Ok(self.local.clone()); // the incoming change did not touch it
        }
        if self.old == Some(self.local) {
            return Ok(self.new.clone()); // what it met had not
        }
        let by_time = || if self.later { self.new.clone() } else { self.local.clone() };
        match self.how {
            ColumnMerge::LastUpdateWins => Ok(by_time()),
            ColumnMerge::KeepLocal => Ok(self.local.clone()),
            ColumnMerge::ApplyRemote => Ok(self.new.clone()),
            ColumnMerge::Delta => match self.old {
                None => Ok(by_time()), // the later insert gives the base
                Some(old) => {
                    let sum = add(Some(&text(self.local)), &[(text(old), text(self.new))]);
                    sum.map(value).map_err(|what| format!("nothing can be added to {what}"))
                }
            },
            ColumnMerge::Greatest => self.extreme(Ordering::Greater),
            ColumnMerge::Least => self.extreme(Ordering::Less),
            ColumnMerge::JsonMerge => Ok(self.json()),
            ColumnMerge::Append(separator) => {
                let (first, last) = if self.later { (self.local, self.new) } else { (self.new, self.local) };
                Ok(value(append::together(&[text(first), text(last)], separator)))
            }
            ColumnMerge::Sql(_) => {
                Err("only the server can tell what the SQL expression makes of two values".to_owned())
            }
            ColumnMerge::Union | ColumnMerge::Intersection => {
                Err(format!("only the server can make the {} of two values", self.how.name()))
            }
        }
    }

    fn extreme(&self, wanted: Ordering) -> Result<Value, String> {
        let (new, local) = match (self.new, self.local) {
            (Value::Null, other) | (other, Value::Null) => return Ok(other.clone()),
            (Value::String(new), Value::String(local)) => (new, local),
            _ => return Err("only the server can compare the values".to_owned()),
        };
        let order = compare(new, local).ok_or_else(|| "only the server can compare the values".to_owned())?;
        Ok(if order == wanted { self.new.clone() } else { self.local.clone() })
    }

    /// Each top-level key by itself.
    fn json(&self) -> Value {
        let mut keys = json::changed(self.old.map(text), text(self.new));
        let theirs = json::changed(self.old.map(text), text(self.local));
        keys.retain(|name, _| self.later || !theirs.contains_key(name));
        value(json::with(Some(&text(self.local)), &keys))
    }
}

/// Numbers, dates and times in the form in which the sessions have them written.
fn compare(one: &str, other: &str) -> Option<Ordering> {
    let number = |text: &str| text.parse::<BigDecimal>().ok();
    if let (Some(one), Some(other)) = (number(one), number(other)) {
        return Some(one.cmp(&other));
    }
    let date = |text: &str| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok();
    if let (Some(one), Some(other)) = (date(one), date(other)) {
        return Some(one.cmp(&other));
    }
    let time = |text: &str| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").ok();
    if let (Some(one), Some(other)) = (time(one), time(other)) {
        return Some(one.cmp(&other));
    }
    let zoned = |text: &str| DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z").ok();
    Some(zoned(one)?.cmp(&zoned(other)?))
}

/// Whether two values are one, however they are spelled: numbers and JSON, of which the server keeps no spelling.
pub(super) fn are_equal(one: &Value, other: &Value) -> bool {
    if one == other {
        return true;
    }
    let (Value::String(one), Value::String(other)) = (one, other) else { return false };
    let number = |text: &str| text.parse::<BigDecimal>().ok();
    let json =
        |text: &str| serde_json::from_str::<Value>(text).ok().filter(|value| value.is_object() || value.is_array());
    matches!((number(one), number(other)), (Some(one), Some(other)) if one == other)
        || matches!((json(one), json(other)), (Some(one), Some(other)) if one == other)
}

fn text(value: &Value) -> crate::conflict::merge::Value {
    value.as_str().map(|text| text.as_bytes().to_vec())
}

fn value(text: crate::conflict::merge::Value) -> Value {
    text.map_or(Value::Null, |text| Value::String(String::from_utf8_lossy(&text).into_owned()))
}
