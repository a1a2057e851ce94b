use serde_json::json;

use super::*;
use crate::cli::conflicts::example;
use crate::config::Report;
use crate::config::rules::read;
use crate::journal::EntryLocal;
use crate::model::Table;
use crate::model::key::KeyHasher;

const NODES: [&str; 2] = ["east", "west"];

fn row(value: Value) -> Option<JsonRow> {
    value.as_object().cloned()
}

/// East's update came to west, where it met an earlier one.
fn update(old: Value, new: Value, local: Value) -> Entry {
    let mut entry = example();
    entry.remote.old = row(old);
    entry.remote.row = row(new);
    entry.result = entry.remote.row.clone();
    entry.local = entry.local.map(|side| EntryLocal { row: row(local), ..side });
    entry
}

fn stock() -> Entry {
    update(
        json!({ "id": "5", "qty": "3", "name": "a" }),
        json!({ "id": "5", "qty": "4", "name": "a" }),
        json!({ "id": "5", "qty": "1", "name": "b" }),
    )
}

fn by(rules: &str, entry: &Entry) -> Verdict {
    let mut table = Table::of_texts("stock", &["id", "qty", "name"]);
    table.columns[1].sql_type = "pg_catalog.int4".to_owned();
    by_tables(rules, entry, &Ok(Catalog::new(vec![table], KeyHasher::with_seed(1))))
}

fn by_tables(rules: &str, entry: &Entry, tables: &Result<Catalog, String>) -> Verdict {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a file");
    std::fs::write(file.path(), rules).expect("rules");
    let mut report = Report::default();
    let rules = read(file.path(), &NODES, &mut report).expect("rules");
    assert!(report.is_empty(), "{}", report.render(crate::config::report::Style::Plain));
    replay(entry, &rules, &NODES, tables)
}

fn rule(resolve: &str) -> String {
    format!("[[rule]]\nname = \"r\"\nresolve = {resolve}\n")
}

fn otherwise(verdict: Verdict) -> (Resolution, Option<JsonRow>) {
    match verdict {
        Verdict::Otherwise(outcome) => (outcome.resolution, outcome.row),
        other => panic!("{other:?}"),
    }
}

fn merged(columns: &str, entry: &Entry) -> Value {
    let verdict = by(&rule(&format!("\"merge\"\ncolumns = {{ {columns} }}")), entry);
    otherwise(verdict).1.map_or(Value::Null, Value::Object)
}

#[test]
fn each_resolver_chooses_between_the_two_sides() {
    let entry = stock();
    let local = entry.local.as_ref().and_then(|local| local.row.clone());
    assert_eq!(by("", &entry), Verdict::Alike);
    assert_eq!(by(&rule("\"last_update_wins\""), &entry), Verdict::Alike);
    let first = otherwise(by(&rule("\"first_update_wins\""), &entry));
    assert_eq!(first, (Resolution::KeepLocal, local.clone()));
    let east = rule("\"origin_priority\"\npriority = [\"east\", \"west\"]");
    assert_eq!(by(&east, &entry), Verdict::Alike);
    let west = rule("\"origin_priority\"\npriority = [\"west\", \"east\"]");
    assert_eq!(otherwise(by(&west, &entry)), (Resolution::KeepLocal, local));
    let elsewhere = rule("\"first_update_wins\"\ntables = [\"public.other\"]");
    assert_eq!(by(&elsewhere, &entry), Verdict::Alike, "the rule is for another table");
}

#[test]
fn a_column_tells_which_side_is_the_later_one() {
    let by_column =
        |name: &str, column: &str| rule(&format!("\"{name}\"\nby = \"{column}\"\ndeletes = \"delete_wins\""));
    let entry = update(
        json!({ "id": "5", "qty": "3", "at": "2026-01-01 00:00:00+00" }),
        json!({ "id": "5", "qty": "9", "at": "2026-01-02 00:00:00+00" }),
        json!({ "id": "5", "qty": "10", "at": null }),
    );
    let local = entry.local.as_ref().and_then(|local| local.row.clone());
    assert_eq!(otherwise(by(&by_column("last_update_wins", "qty"), &entry)), (Resolution::KeepLocal, local.clone()));
    assert_eq!(by(&by_column("first_update_wins", "qty"), &entry), Verdict::Alike);
    assert_eq!(by(&by_column("last_update_wins", "at"), &entry), Verdict::Alike, "NULL is less than any");
    assert_eq!(by(&by_column("first_update_wins", "at"), &entry), Verdict::Alike, "or greater");
    let open = |column| match by(&by_column("last_update_wins", column), &entry) {
        Verdict::Open(why) => why,
        other => panic!("{other:?}"),
    };
    assert!(open("none").contains("no column \"none\""));
    let masked = update(json!({}), json!({ "id": "5", "qty": MASK }), json!({ "id": "5", "qty": "1" }));
    let verdict = by(&by_column("last_update_wins", "qty"), &masked);
    assert!(matches!(&verdict, Verdict::Open(why) if why.contains("masked")), "{verdict:?}");
}

#[test]
fn a_conflict_that_would_be_held_or_no_longer_is_said() {
    let entry = stock();
    let held = otherwise(by(&rule("\"hold\""), &entry));
    assert_eq!(held, (Resolution::Hold, entry.result.clone()), "what stands is the same");
    assert_eq!(otherwise(by(&rule("\"error\""), &entry)), (Resolution::Error, None), "nothing would be decided");
    let was_held = Entry { resolution: Resolution::Hold, ..entry };
    assert_eq!(by(&rule("\"hold\""), &was_held), Verdict::Alike);
    assert_eq!(otherwise(by("", &was_held)).0, Resolution::ApplyRemote);
}

#[test]
fn what_a_function_makes_is_not_told() {
    let function = rule("\"function\"\nfunction = \"public.f\"");
    let open =
        |verdict: Verdict| matches!(verdict, Verdict::Open(why) if why.contains("what public.f makes of two rows"));
    assert!(open(by(&function, &stock())));
    let recorded = Entry { resolver: "function".into(), resolution: Resolution::Merge, ..stock() };
    assert!(open(by(&function, &recorded)));
    // what it had made of them is what one side has
    let other = by(&rule("\"last_update_wins\""), &recorded);
    assert_eq!(other, Verdict::Alike);
}

#[test]
fn a_merge_has_what_both_sides_changed() {
    let entry = stock();
    assert_eq!(merged("qty = \"delta\"", &entry), json!({ "id": "5", "qty": "2", "name": "b" }));
    assert_eq!(merged("qty = \"least\"", &entry), json!({ "id": "5", "qty": "1", "name": "b" }));
    assert_eq!(merged("qty = \"greatest\"", &entry), json!({ "id": "5", "qty": "4", "name": "b" }));
    let numbers =
        update(json!({ "id": "5", "qty": "3" }), json!({ "id": "5", "qty": "10" }), json!({ "id": "5", "qty": "9" }));
    assert_eq!(by(&rule("\"merge\"\ncolumns = { qty = \"greatest\" }"), &numbers), Verdict::Alike, "10 is above 9");
    let note = update(
        json!({ "id": "5", "name": "a" }),
        json!({ "id": "5", "name": "a; later" }),
        json!({ "id": "5", "name": "a; earlier" }),
    );
    assert_eq!(merged("name = { append = \"; \" }", &note), json!({ "id": "5", "name": "a; earlier; later" }));
    let document = update(
        json!({ "id": "5", "doc": r#"{"a": 1, "b": 1}"# }),
        json!({ "id": "5", "doc": r#"{"a": 2, "b": 1}"# }),
        json!({ "id": "5", "doc": r#"{"a": 3, "b": 3}"# }),
    );
    assert_eq!(merged("doc = \"json_merge\"", &document), json!({ "id": "5", "doc": r#"{"a": 2, "b": 3}"# }));
}

#[test]
fn what_a_merge_left_on_record_comes_out_alike_again() {
    let merge = rule("\"merge\"\ncolumns = { qty = \"delta\" }");
    let mut entry = stock();
    entry.resolution = Resolution::Merge;
    entry.resolver = "merge".into();
    entry.result = row(json!({ "id": "5", "qty": "2", "name": "b" }));
    assert_eq!(by(&merge, &entry), Verdict::Alike);
    let last = otherwise(by("", &entry));
    assert_eq!(last, (Resolution::ApplyRemote, entry.remote.row.clone()));
}

#[test]
fn a_delete_counts_as_the_rules_say() {
    let mut entry = stock();
    entry.conflict_type = ConflictType::DeleteOriginDiffers;
    entry.remote.operation = Operation::Delete;
    (entry.remote.row, entry.result) = (None, None);
    assert_eq!(by("", &entry), Verdict::Alike);
    let stays = otherwise(by("[[rule]]\nname = \"r\"\ndeletes = \"update_wins\"\n", &entry));
    assert_eq!(stays, (Resolution::KeepLocal, entry.local.as_ref().and_then(|local| local.row.clone())));
    assert_eq!(by(&rule("\"merge\""), &entry), Verdict::Alike, "in a merged table a delete wins");
}

#[test]
fn what_the_journal_does_not_tell_is_open() {
    let open = |rules: &str, entry: &Entry| match by(rules, entry) {
        Verdict::Open(why) => why,
        other => panic!("{other:?}"),
    };
    let merge = rule("\"merge\"\ncolumns = { qty = \"delta\" }");
    let mut short = stock();
    short.remote.old = row(json!({ "id": "5" }));
    assert!(open(&merge, &short).contains("REPLICA IDENTITY FULL"));
    let mut gone = stock();
    gone.remote.node = "north".into();
    let priority = rule("\"origin_priority\"\npriority = [\"west\", \"east\"]");
    assert_eq!(open(&priority, &gone), "the node north is not in the configuration");
    let arrays =
        update(json!({ "id": "5", "a": "{1}" }), json!({ "id": "5", "a": "{1,2}" }), json!({ "id": "5", "a": "{3}" }));
    assert!(open(&rule("\"merge\"\ncolumns = { a = \"union\" }"), &arrays).contains("only the server"));
    let masked =
        update(json!({ "id": "5", "a": MASK }), json!({ "id": "5", "a": MASK }), json!({ "id": "5", "a": MASK }));
    assert!(open(&rule("\"first_update_wins\""), &masked).contains("masked"));
    let mut third = stock();
    third.resolution = Resolution::KeepLocal;
    third.result = row(json!({ "id": "5", "qty": "99", "name": "c" }));
    assert!(open("", &third).contains("third change"));
}

#[test]
fn what_no_rule_decides_stays() {
    let first = rule("\"first_update_wins\"");
    let mut unique = stock();
    unique.local = unique.local.map(|local| EntryLocal { row: row(json!({ "id": "6", "qty": "1" })), ..local });
    assert_eq!(by(&first, &unique), Verdict::Alike, "the row of another key has the unique value");
    assert_eq!(otherwise(by(&rule("\"hold\""), &unique)), (Resolution::Hold, unique.result.clone()));
    unique.resolution = Resolution::Hold;
    assert_eq!(otherwise(by("", &unique)), (Resolution::ApplyRemote, unique.result.clone()));
    unique.resolution = Resolution::ApplyRemote;
    let priority =
        |nodes: &str| format!("[[rule]]\nname = \"r\"\nunique = \"origin_priority\"\npriority = [{nodes}]\n");
    assert_eq!(by(&priority("\"east\", \"west\""), &unique), Verdict::Alike);
    let local = unique.local.as_ref().and_then(|local| local.row.clone());
    assert_eq!(otherwise(by(&priority("\"west\", \"east\""), &unique)), (Resolution::KeepLocal, local));
    let error = otherwise(by("[[rule]]\nname = \"r\"\nunique = \"error\"\n", &unique));
    assert_eq!(error, (Resolution::Error, None));
    unique.conflict_type = ConflictType::MultipleUniqueConflicts;
    assert!(matches!(by(&priority("\"west\", \"east\""), &unique), Verdict::Open(_)));
    let missing = Entry { conflict_type: ConflictType::UpdateMissing, local: None, ..stock() };
    assert_eq!(by(&first, &missing), Verdict::Alike);
    let refused = Entry { conflict_type: ConflictType::ApplyError, resolution: Resolution::Hold, ..stock() };
    assert_eq!(by("[[rule]]\nname = \"r\"\nerrors = \"hold\"\n", &refused), Verdict::Alike);
    assert_eq!(otherwise(by(&first, &refused)), (Resolution::Error, None));
}
