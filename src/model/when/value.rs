//! A column's text → a value of CEL, by the column's type.
//!
//! Numbers of any width that are whole are `int`, others `double`, times are `timestamp` (in UTC where they have no zone), arrays
//! are lists, json and jsonb what they hold; everything else is the text that PostgreSQL shows.

use std::collections::HashMap;

use cel::Value;
use cel::objects::Key;
use chrono::{DateTime, NaiveDateTime};

use crate::model::Stamp;
use crate::model::ids::POSTGRES_EPOCH_UNIX_SECONDS;
use crate::model::when::look::Kind;

/// The value; one that CEL has nothing for stays text.
pub(super) fn typed(sql_type: &str, text: &str) -> Value {
    let plain = sql_type.replace('"', "");
    let name = plain.strip_prefix("pg_catalog.");
    let read = match name {
        Some("int2" | "int4" | "int8") => text.parse().ok().map(Value::Int),
        Some("float4" | "float8" | "numeric") => text.parse().ok().map(Value::Float),
        Some("bool") => match text {
            "t" => Some(Value::Bool(true)),
            "f" => Some(Value::Bool(false)),
            _ => None,
        },
        Some("timestamptz") => DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z").ok().map(Value::Timestamp),
        Some("timestamp") => {
            let read = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").ok();
            read.map(|at| Value::Timestamp(at.and_utc().fixed_offset()))
        }
        Some("json" | "jsonb") => serde_json::from_str(text).ok().map(|value: serde_json::Value| json(&value)),
        _ => element(sql_type).and_then(|of| Array { left: text, of: &of }.whole()),
    };
    read.unwrap_or_else(|| text.into())
}

/// To what kind of constant values of the type may be equal; `None` if that depends on the value.
pub(super) fn kind(sql_type: &str) -> Option<Kind> {
    let plain = sql_type.replace('"', "");
    match plain.strip_prefix("pg_catalog.") {
        Some("int2" | "int4" | "int8" | "float4" | "float8" | "numeric") => Some(Kind::Number),
        Some("bool") => Some(Kind::Truth),
        Some("timestamptz" | "timestamp") => Some(Kind::Other),
        Some("json" | "jsonb") => None,
        _ if is_array(sql_type) => Some(Kind::Other),
        _ => Some(Kind::Text),
    }
}

pub(super) fn is_array(sql_type: &str) -> bool {
    element(sql_type).is_some()
}

/// The type of an array's elements.
fn element(sql_type: &str) -> Option<String> {
    let (schema, name) = sql_type.rsplit_once('.')?;
    let name = name.trim_matches('"').strip_prefix('_')?;
    Some(format!("{schema}.{name}"))
}

/// Text of some value of the type.
pub(super) fn sample(sql_type: &str) -> String {
    let plain = sql_type.replace('"', "");
    let text = match plain.strip_prefix("pg_catalog.") {
        Some("int2" | "int4" | "int8" | "float4" | "float8" | "numeric") => "1",
        Some("bool") => "t",
        Some("timestamptz") => "2000-01-01 00:00:00+00",
        Some("timestamp") => "2000-01-01 00:00:00",
        Some("json" | "jsonb") => "{}",
        _ => return element(sql_type).map_or_else(|| "a".to_owned(), |of| format!("{{\"{}\"}}", sample(&of))),
    };
    text.to_owned()
}

pub(super) fn moment(stamp: Stamp) -> Value {
    let unix = stamp.micros.saturating_add(POSTGRES_EPOCH_UNIX_SECONDS * 1_000_000);
    Value::Timestamp(DateTime::from_timestamp_micros(unix).unwrap_or_default().fixed_offset())
}

fn json(value: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match value {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Value::Int(whole),
            None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => text.as_str().into(),
        Json::Array(items) => Value::List(items.iter().map(json).collect::<Vec<_>>().into()),
        Json::Object(entries) => {
            let entries = entries.iter().map(|(name, value)| (Key::from(name.as_str()), json(value)));
            entries.collect::<HashMap<Key, Value>>().into()
        }
    }
}

/// What is left of an array's text. <https://www.postgresql.org/docs/18/arrays.html#ARRAYS-IO>
struct Array<'a> {
    left: &'a str,
    of: &'a str,
}

impl Array<'_> {
    fn whole(mut self) -> Option<Value> {
        if self.left.starts_with('[') {
            self.left = self.left.split_once('=')?.1; // its bounds
        }
        let list = self.list()?;
        self.left.is_empty().then_some(list)
    }

    fn take(&mut self, expected: char) -> bool {
        let rest = self.left.strip_prefix(expected);
        self.left = rest.unwrap_or(self.left);
        rest.is_some()
    }

    fn list(&mut self) -> Option<Value> {
        if !self.take('{') {
            return None;
        }
        let mut items = Vec::new();
        while !self.take('}') {
            if !items.is_empty() && !self.take(',') {
                return None;
            }
            items.push(if self.left.starts_with('{') { self.list()? } else { self.item()? });
        }
        Some(Value::List(items.into()))
    }

    fn item(&mut self) -> Option<Value> {
        if !self.take('"') {
            let end = self.left.find([',', '}'])?;
            let (text, rest) = self.left.split_at(end);
            self.left = rest;
            return Some(if text == "NULL" { Value::Null } else { typed(self.of, text) });
        }
        let mut text = String::new();
        let mut each = self.left.chars();
        loop {
            match each.next()? {
                '"' => break,
                '\\' => text.push(each.next()?),
                other => text.push(other),
            }
        }
        self.left = each.as_str();
        Some(typed(self.of, &text))
    }
}
