use super::*;
use crate::model::table::Column;

fn table() -> Table {
    let mut table = Table::of_texts("t", &["id", "total", "note", "at", "day", "open", "tags", "doc", "n", "Größe"]);
    let types = ["int8", "numeric", "text", "timestamptz", "date", "bool", "_text", "jsonb", "int4", "float8"];
    for (Column { sql_type, .. }, name) in table.columns.iter_mut().zip(types) {
        *sql_type = format!("pg_catalog.{name}");
    }
    table
}

fn party(node: u8, cells: &[(&str, &str)]) -> Party {
    let row: Cells = cells.iter().map(|(name, text)| ((*name).to_owned(), Some((*text).to_owned()))).collect();
    let stamp = Stamp { micros: i64::from(node) * 1_000_000, node: NodeId(node) };
    Party { source: NodeId(node), stamp, row: Some(row), old: None }
}

fn holds(text: &str, remote: &Party, local: &Party) -> bool {
    let when = When::compile(text, &["east", "west"]).unwrap_or_else(|error| panic!("{text}: {error:?}"));
    when.holds(&table(), remote, local, ConflictType::UpdateOriginDiffers)
}

#[test]
fn values_are_of_the_type_of_their_column() {
    let cells = [
        ("id", "7"),
        ("total", "1000.50"),
        ("note", "it's"),
        ("at", "2026-11-27 03:00:00.5+00"),
        ("day", "2026-11-27"),
        ("open", "t"),
        ("tags", r#"{a,"b c","d\"e",NULL}"#),
        ("doc", r#"{"a": {"b": [1, 2.5]}, "a b": null}"#),
        ("n", "-3"),
        ("Größe", "1e3"),
    ];
    let (remote, local) = (party(0, &cells), party(1, &[("id", "7"), ("total", "10")]));
    for text in [
        "remote.total > 1000 && local.total < 1000.0",
        "remote.total > 10 && remote.n == -3 && remote.n + 1 == -2",
        "remote.note == \"it's\" && remote.note.startsWith('it') && remote.note.matches('^it.s$')",
        "remote.at < timestamp('2026-11-27T03:00:01Z') && remote.at.getFullYear() == 2026",
        "remote.at - timestamp('2026-11-27T03:00:00Z') < duration('1s')",
        "remote.day >= '2026-11-01'",
        "remote.open",
        "'b c' in remote.tags && 'd\"e' in remote.tags && size(remote.tags) == 4 && remote.tags[3] == null",
        "remote.tags.exists(tag, tag == 'a')",
        "remote.doc.a.b[1] == 2.5 && has(remote.doc.a) && !has(remote.doc.c) && remote.doc['a b'] == null",
        "remote['Größe'] == 1000.0",
        "key.id == 7 && type == 'update_origin_differs' && source == 'east' && target == 'west'",
        "remote_stamp < local_stamp && local_stamp == timestamp('2000-01-01T00:00:01Z')",
        "old == null",
    ] {
        assert!(holds(text, &remote, &local), "{text}");
    }
}

#[test]
fn what_has_no_answer_does_not_hold() {
    let remote = Party { row: Some([("total".to_owned(), None)].into()), ..party(0, &[]) };
    let gone = Party { row: None, ..party(1, &[]) };
    for text in ["remote.total > 10", "!(remote.total > 10)", "local.total > 10", "remote.note == 'a'", "size(source)"]
    {
        assert!(!holds(text, &remote, &gone), "{text}");
    }
    for text in ["remote.total == null", "local == null", "local.total > 10 || remote.total == null"] {
        assert!(holds(text, &remote, &gone), "{text}");
    }
}

#[test]
fn it_is_known_which_columns_an_expression_looks_at() {
    let columns = |text: &str| {
        let when = When::compile(text, &["east"]).expect(text);
        when.columns().map(|columns| columns.iter().cloned().collect::<Vec<_>>().join(","))
    };
    assert_eq!(columns("remote.a > local['b'] && old.c.d == 1 && key.id == 1").as_deref(), Some("a,b,c,id"));
    assert_eq!(columns("remote.a.exists(each, each == old.b)").as_deref(), Some("a,b"));
    assert_eq!(columns("{'x': [remote.a]}.x[0] == 1 && source == 'east'").as_deref(), Some("a"));
    assert_eq!(columns("remote == local"), None);
    assert_eq!(columns("remote[source] == 1"), None);
    assert_eq!(columns("remote != null && local.a == 1").as_deref(), Some("a"));
    assert!(When::compile("old.a == 1", &[]).expect("CEL").reads_old());
    assert!(!When::compile("remote.a == 1", &[]).expect("CEL").reads_old());
}

#[test]
fn what_is_no_expression_is_refused() {
    let wrong = |text: &str| When::compile(text, &["east"]).expect_err(text);
    assert!(matches!(wrong("remote.a >"), BadWhen::Syntax(..)));
    assert!(matches!(wrong(""), BadWhen::Syntax(..)));
    assert_eq!(wrong("remot.a > 1"), BadWhen::Variable("remot".into()));
    assert_eq!(wrong("[1].exists(x, y == x)"), BadWhen::Variable("y".into()));
    assert_eq!(wrong("lower(remote.a) == 'a'"), BadWhen::Function("lower".into()));
    assert_eq!(wrong("remote.a.trim() == 'a'"), BadWhen::Function("trim".into()));
    assert_eq!(wrong("_foo_(remote.a)"), BadWhen::Function("_foo_".into()));
    assert_eq!(wrong("source == 'esat'"), BadWhen::Node("esat".into()));
    assert_eq!(wrong("target in ['east', 'wset']"), BadWhen::Node("wset".into()));
    assert!(matches!(wrong("'update_exists' == type"), BadWhen::Type(name, _) if name == "update_exists"));
    for text in [
        "true",
        "1 == 1",
        "remote.a.matches('(')",
        "'a'.matches(remote.a)",
        "remote.at > timestamp('2026-01-01')",
        "remote.at - local.at > duration('1x')",
    ] {
        assert!(matches!(wrong(text), BadWhen::Other(..)), "{text}");
    }
    for long in [format!("{}1 > 2", "remote.a + ".repeat(2_000)), format!("remote{} == 1", ".a".repeat(2_000))] {
        assert!(matches!(wrong(&long), BadWhen::Other(..)));
    }
}

/// An object's names have no order, so nothing may depend on one.
#[test]
fn what_could_depend_on_an_order_that_is_not_there_is_refused() {
    for text in [
        "remote.doc.a.map(k, k)[0] == 'a'",
        "remote.map(k, k)[0] == 'id'",
        "remote.filter(k, k != 'x') == local.filter(k, k != 'x')",
        "{'a': 1, 'b': 2, string(remote.n): 3}.map(k, k)[0] == 'a'",
        "[remote.doc].exists(doc, doc.map(k, k)[0] == 'a')",
        "remote.tags.exists(one, local.tags.exists(other, one == other))",
    ] {
        assert!(matches!(When::compile(text, &["east"]), Err(BadWhen::Other(..))), "{text}");
    }
    let misfit = |text: &str| When::compile(text, &["east"]).expect(text).misfit(&table());
    assert!(misfit("remote.doc.map(k, k) == local.doc.map(k, k)").is_some(), "it may be an object");
    assert_eq!(misfit("remote.tags.map(tag, tag + 'x') == local.tags.filter(tag, tag != '')"), None);
    assert_eq!(misfit("remote.tags.filter(tag, tag != 'a').map(tag, tag)[0] == 'b'"), None);
    let names = (0..20).map(|at| format!("\"k{at}\": {at}")).collect::<Vec<_>>().join(", ");
    let remote = party(0, &[("doc", &format!("{{{names}}}"))]);
    for _ in 0..100 {
        assert!(holds(
            "remote.doc == local.doc && remote.doc.exists(k, k == 'k7')",
            &remote,
            &Party { source: NodeId(1), ..remote.clone() }
        ));
    }
}

#[test]
fn a_long_value_is_not_there() {
    let row = |length: usize| party(0, &[("note", &"a".repeat(length)), ("n", "1")]);
    let text = "has(remote.note) && remote.note.startsWith('a')";
    assert!(holds(text, &row(LONGEST_VALUE), &row(1)));
    assert!(!holds(text, &row(LONGEST_VALUE + 1), &row(1)));
    assert!(holds("remote.n == 1", &row(LONGEST_VALUE + 1), &row(1)));
}

/// Each of them is known to CEL itself.
#[test]
fn functions_are_those_of_cel() {
    let context = Context::with_env(ENVIRONMENT.clone());
    for name in FUNCTIONS {
        let is_known = |text: String| {
            let found = Program::compile(&text).expect("CEL").execute(&context);
            !matches!(found, Err(ExecutionError::UndeclaredReference(_)))
        };
        assert!(is_known(format!("{name}('a')")) || is_known(format!("'a'.{name}()")), "{name}");
    }
}

#[test]
fn an_expression_that_can_never_hold_is_found() {
    let misfit = |text: &str| When::compile(text, &["east", "west"]).expect(text).misfit(&table());
    for text in [
        "remote.total > 1000",
        "remote.open",
        "remote.doc.a.b > 1",
        "remote.doc > 5",
        "!remote.doc",
        "remote.tags[0][0] == 'a'",
        "remote.n / (local.n - 1) > 1",
        "key.id == 5 && remote.total == 5 && remote.note == 'a' && remote.open == true && remote.day == '2026-01-01'",
        "remote.doc == 'a' && remote.note == null && remote.n in [1, 2.5]",
    ] {
        assert_eq!(misfit(text), None, "{text}");
    }
    for text in [
        "remote.total",
        "key.note == 'a'",
        "remote.open == 'yes'",
        "remote.id == '5'",
        "remote.at == '2026-01-01'",
        "'a' != remote.tags",
        "remote.note in ['a', 1]",
        "remote.total > '1000'",
        "remote.note + 1 == 2",
        "source",
        "size(remote.n) > 2",
        "remote.at > '2026-01-01'",
    ] {
        assert!(misfit(text).is_some(), "{text}");
    }
}

#[test]
fn odd_text_never_panics() {
    let odd = [
        "{",
        "{a",
        "{\"",
        "{\"a\\",
        "{}",
        "{{1},{2}}",
        "[0:1]={1,2}",
        "[",
        "infinity",
        "-infinity",
        "NaN",
        "0044-03-15 BC",
        "",
    ];
    for column in &table().columns {
        for text in odd {
            let _ = typed(&column.sql_type, text);
        }
    }
    let array = typed("pg_catalog._int4", "[0:1]={1,2}");
    assert_eq!(array, Value::List(vec![Value::Int(1), Value::Int(2)].into()));
    assert_eq!(typed("pg_catalog._text", "{{a},{b}}"), typed("pg_catalog._text", "{{\"a\"},{\"b\"}}"));
    assert_eq!(typed("pg_catalog.timestamptz", "infinity"), Value::from("infinity"));
}
