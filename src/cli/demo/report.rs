//! What the conflict journal has to tell about the demo: counts by type and resolution, and an example of each type.

use std::collections::BTreeMap;

use serde_json::Value;

/// So many examples are shown, each of another type.
const EXAMPLES: usize = 4;

/// Lines for people from the entries of `conflicts list --json`.
pub fn lines(entries: &[Value]) -> Vec<String> {
    let mut kinds: BTreeMap<(&str, &str), Vec<&Value>> = BTreeMap::new();
    for entry in entries {
        kinds.entry((text(&entry["type"]), text(&entry["resolution"]))).or_default().push(entry);
    }
    let mut lines = vec![format!("{} on record, one for each side that had to decide", entries.len())];
    lines
        .extend(kinds.iter().map(|((kind, resolution), found)| format!("{:>6}  {kind:<26} {resolution}", found.len())));
    let mut shown = Vec::new();
    for ((kind, _), found) in &kinds {
        if shown.len() < EXAMPLES && !shown.contains(kind) {
            shown.push(*kind);
            lines.push(String::new());
            lines.extend(example(found[found.len() / 2]));
        }
    }
    lines
}

/// One entry, told in a few lines.
fn example(entry: &Value) -> Vec<String> {
    let (source, target) = (text(&entry["source"]), text(&entry["target"]));
    let (remote, local) = (&entry["remote"], &entry["local"]);
    let state = |row: &Value| if row.is_null() { "no row".to_owned() } else { cells(row) };
    vec![
        format!("no. {}: {} on {} {}", entry["id"], text(&entry["type"]), text(&entry["table"]), cells(&entry["key"])),
        format!("    from {source}, committed {}: {}", text(&remote["stamp"]), state(&remote["row"])),
        format!("    at {target}, committed {}: {}", text(&local["stamp"]), state(&local["row"])),
        format!(
            "    {} ({}), afterwards: {}",
            text(&entry["resolution"]),
            text(&entry["resolver"]),
            state(&entry["result"])
        ),
    ]
}

/// `{"a": "1", "b": null}` → `a=1 b=NULL`, cut to a readable length.
fn cells(row: &Value) -> String {
    const WIDE: usize = 100;
    let Some(row) = row.as_object() else { return "?".to_owned() };
    let cell = |(name, value): (&String, &Value)| match value {
        Value::Null => format!("{name}=NULL"),
        Value::String(text) => format!("{name}={text}"),
        other => format!("{name}={other}"),
    };
    let text = row.iter().map(cell).collect::<Vec<_>>().join(" ");
    if text.chars().count() <= WIDE {
        return text;
    }
    text.chars().take(WIDE).chain("…".chars()).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn kinds_are_counted_and_each_type_has_one_example() {
        let entry = |kind: &str, resolution: &str| {
            json!({"id": 7, "type": kind, "resolution": resolution, "resolver": "last_update_wins",
                "table": "public.cart", "key": {"customer": "c1"}, "source": "east", "target": "west",
                "remote": {"stamp": "then", "row": null}, "local": {"stamp": null, "row": {"items": "[]"}},
                "result": {"items": "[]", "note": null}})
        };
        let lines = lines(&[
            entry("update_deleted", "keep_local"),
            entry("update_deleted", "apply_remote"),
            entry("update_deleted", "keep_local"),
            entry("insert_exists", "keep_local"),
        ]);
        assert_eq!(lines[0], "4 on record, one for each side that had to decide");
        assert_eq!(lines[1], "     1  insert_exists              keep_local");
        assert_eq!(lines[3], "     2  update_deleted             keep_local");
        let examples: Vec<_> = lines.iter().filter(|line| line.starts_with("no. ")).collect();
        assert_eq!(
            examples,
            ["no. 7: insert_exists on public.cart customer=c1", "no. 7: update_deleted on public.cart customer=c1"]
        );
        assert!(lines.contains(&"    from east, committed then: no row".to_owned()));
        assert!(lines.contains(&"    keep_local (last_update_wins), afterwards: items=[] note=NULL".to_owned()));
    }
}
