//! A jsonb value as registers, one for each top-level key: what a change did to each, and the value with such changes.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::conflict::merge::Value;

/// A top-level key; `None` stands for a value that is no object, NULL included.
pub type Name = Option<String>;
/// For each key its text, or that it is not there. The inner `None` is SQL's NULL.
pub type Keys = BTreeMap<Name, Option<Option<String>>>;

/// What is not alike in two values; `old` is missing where there was no row.
pub fn changed(old: Option<Value>, new: Value) -> Keys {
    let (old, new) = (old.map_or_else(Registers::new, |old| registers(&old)), registers(&new));
    let gone = old.keys().filter(|name| !new.contains_key(*name)).map(|name| (name.clone(), None));
    let differs = new.iter().filter(|(name, value)| old.get(*name) != Some(value));
    gone.chain(differs.map(|(name, value)| (name.clone(), Some(value.clone())))).collect()
}

/// The value with its keys set and removed; begins with nothing if `base` is missing.
pub fn with(base: Option<&Value>, keys: &Keys) -> Value {
    let mut made = base.map(registers).unwrap_or_default();
    for (name, value) in keys {
        match value {
            Some(value) => made.insert(name.clone(), value.clone()),
            None => made.remove(name),
        };
    }
    if let Some(whole) = made.get(&None) {
        return whole.clone().map(String::into_bytes);
    }
    let member = |(name, value): (&Name, &Option<String>)| {
        let name = serde_json::Value::from(name.clone().unwrap_or_default());
        format!("{name}: {}", value.as_deref().unwrap_or("null"))
    };
    Some(format!("{{{}}}", made.iter().map(member).collect::<Vec<_>>().join(", ")).into_bytes())
}

type Registers = BTreeMap<Name, Option<String>>;

fn registers(value: &Value) -> Registers {
    let Some(text) = value else { return Registers::from([(None, None)]) };
    match serde_json::from_slice::<BTreeMap<String, &RawValue>>(text) {
        Ok(object) => object.into_iter().map(|(name, raw)| (Some(name), Some(raw.get().to_owned()))).collect(),
        Err(_) => Registers::from([(None, Some(String::from_utf8_lossy(text).into_owned()))]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        Some(text.as_bytes().to_vec())
    }

    fn text(value: Value) -> String {
        value.map_or("NULL".into(), |text| String::from_utf8(text).expect("UTF-8"))
    }

    #[test]
    fn keys_that_two_changes_set_are_both_kept() {
        let before = value(r#"{"a": 1, "b": [1, 2]}"#);
        let one = changed(Some(before.clone()), value(r#"{"a": 123456789012345678901234567890, "b": [1, 2]}"#));
        assert_eq!(one.len(), 1, "{one:?}");
        let other = value(r#"{"a": 1, "c": {"d": "\u00e9"}}"#);
        let made = text(with(Some(&other), &one));
        assert_eq!(made, r#"{"a": 123456789012345678901234567890, "c": {"d": "\u00e9"}}"#);
        let removed = changed(Some(before.clone()), other);
        assert_eq!(text(with(Some(&before), &removed)), r#"{"a": 1, "c": {"d": "\u00e9"}}"#);
    }

    #[test]
    fn what_is_no_object_is_one_value() {
        let set = changed(Some(None), value(r#"{"a": 1}"#));
        assert_eq!(text(with(Some(&None), &set)), r#"{"a": 1}"#);
        let array = changed(Some(value(r#"{"a": 1}"#)), value("[1]"));
        assert_eq!(text(with(Some(&value(r#"{"a": 1}"#)), &array)), "[1]");
        let null = changed(Some(value("{}")), None);
        assert_eq!(text(with(Some(&value("{}")), &null)), "NULL");
        assert_eq!(text(with(None, &changed(None, value("{}")))), "{}");
    }
}
