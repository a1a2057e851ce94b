//! What rules are read, and what is refused with which sentence.

use super::*;
use crate::config::report::Style;
use crate::model::{ColumnMerge, ColumnMerges, ConflictType, Deciding, Merge, NodeId, UniqueWinner};

fn read(text: &str) -> (Vec<Rule>, String) {
    let mut problems = Vec::new();
    let rules = parse(Path::new("rules.toml"), text, &["east", "west"], &mut problems);
    let mut report = Report::default();
    report.add(Path::new("rules.toml"), text, problems);
    (rules, report.render(Style::Plain))
}

fn problems(text: &str) -> String {
    read(text).1
}

/// The rule of these lines, if nothing is wrong with them.
fn rule(lines: &str) -> Rule {
    let (mut rules, shown) = read(&format!("[[rule]]\nname = \"a\"\n{lines}\n"));
    assert_eq!(shown, "", "{lines}");
    rules.pop().expect("one rule")
}

/// What is wrong with these lines.
fn refused(lines: &str) -> String {
    let (rules, shown) = read(&format!("[[rule]]\nname = \"a\"\n{lines}\n"));
    assert!(rules.is_empty(), "{lines}");
    shown
}

fn examples() -> Vec<(PathBuf, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("conflict-rules/examples");
    let files = files(&directory).expect("examples");
    files.into_iter().map(|file| (file.clone(), fs::read_to_string(file).expect("a file"))).collect()
}

#[test]
fn the_default_rules_settle_every_conflict_of_every_table() {
    let (rules, shown) = read(include_str!("../../../conflict-rules/default.toml"));
    assert_eq!(shown, "");
    for facet in Facet::ALL {
        assert!(deciding(&rules, "sales", "orders", facet).is_some(), "{facet:?}");
    }
}

#[test]
fn each_example_is_read() {
    let examples = examples();
    assert!(examples.len() >= 5, "{examples:?}");
    for (file, text) in examples {
        let (rules, shown) = read(&text);
        assert!(shown.is_empty() && !rules.is_empty(), "{}\n{shown}", file.display());
    }
}

#[test]
fn a_rule_is_for_its_tables_and_types_only() {
    let types = "tables = [\"public.a\"]\ntypes = [\"update_origin_differs\"]\nresolve = \"first_update_wins\"";
    let rules = [rule(types), rule("resolve = \"last_update_wins\"")];
    let resolve = |table, facet| deciding(&rules, "public", table, facet).and_then(|rule| rule.resolve.clone());
    assert_eq!(resolve("a", Facet::Writes), Some(Resolver::FirstUpdateWins));
    assert_eq!(resolve("a", Facet::Deletes), Some(Resolver::LastUpdateWins), "the second rule says so");
    assert_eq!(resolve("b", Facet::Writes), Some(Resolver::LastUpdateWins));
    assert_eq!(rules[0].tables.matching("public", "a"), Some("public.a"));
}

fn columns(resolver: Resolver) -> ColumnMerges {
    match resolver {
        Resolver::Merge(merge) => match &*merge {
            Merge::Columns(columns) => columns.clone(),
            Merge::Function(function) => panic!("a function: {function}"),
        },
        other => panic!("no merge: {other:?}"),
    }
}

#[test]
fn each_resolver_is_read() {
    let resolver = |lines: &str| rule(lines).resolve.expect("it says so");
    assert_eq!(resolver("resolve = \"last_update_wins\""), Resolver::LastUpdateWins);
    assert_eq!(resolver("resolve = \"first_update_wins\""), Resolver::FirstUpdateWins);
    let order = [NodeId(1), NodeId(0)].into();
    let found = resolver("resolve = \"origin_priority\"\npriority = [\"west\", \"east\"]");
    assert_eq!(found, Resolver::OriginPriority(order));
    let lines = "resolve = \"merge\"\ncolumns = { qty = \"delta\", at = \"greatest\" }\nothers = \"least\"";
    let merge = columns(resolver(lines));
    let of = ["qty", "at", "x"].map(|column| merge.of(column));
    assert_eq!(of, [&ColumnMerge::Delta, &ColumnMerge::Greatest, &ColumnMerge::Least]);
    let merge = columns(resolver("resolve = \"merge\"\n[rule.columns]\nqty = \"delta\""));
    assert_eq!((merge.of("qty"), merge.of("x")), (&ColumnMerge::Delta, &ColumnMerge::LastUpdateWins));
}

#[test]
fn a_column_may_tell_which_row_is_the_later_one() {
    let deletes = "deletes = \"update_wins\"";
    for (name, resolver) in [
        ("last_update_wins", Resolver::LastByColumn("v".into())),
        ("first_update_wins", Resolver::FirstByColumn("v".into())),
        ("hold", Resolver::LastByColumn("v".into())),
    ] {
        let rule = rule(&format!("resolve = \"{name}\"\nby = \"v\"\n{deletes}"));
        assert_eq!((rule.resolve, rule.deletes), (Some(resolver), Some(Deletes::UpdateWins)));
    }
    let writes = "types = [\"update_origin_differs\"]\nresolve = \"last_update_wins\"\nby = \"v\"";
    assert_eq!(rule(writes).deletes, None, "another rule tells");
    for (lines, says, place) in [
        ("resolve = \"last_update_wins\"\nby = \"v\"", "a delete leaves none", "4:6"),
        ("resolve = \"last_update_wins\"\nby = \"v\"\ndeletes = \"by_resolver\"", "a delete leaves none", "5:11"),
        ("resolve = \"last_update_wins\"\nby = \"\"", "`by` is empty", "4:6"),
        ("resolve = \"last_update_wins\"\nby = 3", "`by` is a string", "4:6"),
        ("resolve = \"merge\"\nby = \"v\"", "`by` has no meaning for merge", "4:6"),
        ("by = \"v\"\ndeletes = \"delete_wins\"", "`by` has no meaning without `resolve`", "3:6"),
        ("resolve = \"lst_update_wins\"\nby = \"v\"", "did you mean `last_update_wins`?", "3:11"),
    ] {
        let shown = refused(lines);
        assert!(shown.contains(says) && shown.contains(&format!("rules.toml:{place}")), "{says} {place}\n{shown}");
        assert_eq!(shown.matches("error:").count(), 1, "{lines}\n{shown}");
    }
}

#[test]
fn what_appends_may_say_what_is_between_two_entries() {
    let by = |separator: &str| ColumnMerge::Append(separator.to_owned().into());
    for (lines, expected) in [
        ("columns = { n = \"append\" }", by("\n")),
        ("columns = { n = { append = \"; \" } }", by("; ")),
        ("[rule.columns]\nn = { append = \"\\n\\n\" }", by("\n\n")),
        ("[rule.columns.n]\nappend = \"|\"", by("|")),
        ("others = { append = \"|\" }", by("|")),
    ] {
        let resolver = rule(&format!("resolve = \"merge\"\n{lines}")).resolve;
        assert_eq!(columns(resolver.expect(lines)).of("n"), &expected, "{lines}");
    }
    for (columns, says, place) in [
        ("columns = { n = { append = \"\" } }", "the separator of `columns.n` is empty", "4:28"),
        ("columns = { n = { append = \"\\u0000\" } }", "has a NUL character", "4:28"),
        ("others = { append = \"\" }", "the separator of `others` is empty", "4:21"),
        ("columns = { n = \"sql\" }", "says that an SQL expression merges, and not which", "4:17"),
        ("columns = { n = { sql = \" \" } }", "the expression of `columns.n` is empty", "4:25"),
        ("columns = { n = { sql = \"a\", append = \"b\" } }", "is merged in one way, and here are two", "4:17"),
        ("columns = { n = { apend = \"; \" } }", "did you mean `append`?", "4:19"),
        ("columns = { n = { append = 3 } }", "`append` is a string", "4:28"),
        ("columns = { n = {} }", "`columns.n` needs `append`", "4:17"),
        ("columns = { n = { append = \";\", x = 1 } }", "unknown key `x` in `columns.n`", "4:33"),
    ] {
        let shown = refused(&format!("resolve = \"merge\"\n{columns}"));
        assert!(shown.contains(says) && shown.contains(&format!("rules.toml:{place}")), "{says} {place}\n{shown}");
        assert_eq!(shown.matches("error:").count(), 1, "{columns}\n{shown}");
    }
}

#[test]
fn a_rule_may_hold_what_it_decides() {
    let hold = rule("resolve = \"hold\"");
    assert_eq!((hold.resolve, hold.afterwards), (Some(Resolver::LastUpdateWins), Afterwards::Held));
    let first = rule("resolve = \"first_update_wins\"\nhold = true");
    assert_eq!((first.resolve, first.afterwards), (Some(Resolver::FirstUpdateWins), Afterwards::Held));
    assert_eq!(rule("deletes = \"update_wins\"\nhold = true").afterwards, Afterwards::Held);
    assert_eq!(rule("resolve = \"last_update_wins\"\nhold = false").afterwards, Afterwards::Resolved);
    for (lines, says) in [
        ("resolve = \"hold\"\nhold = false", "says that nothing is held"),
        ("mask = [\"email\"]\nhold = true", "a rule that decides nothing"),
        ("resolve = \"hold\"\nhold = \"yes\"", "true or false"),
        ("resolve = \"hold\"\npriority = [\"east\"]", "`priority` has no meaning for hold"),
    ] {
        assert!(refused(lines).contains(says), "{lines}: {}", refused(lines));
    }
}

#[test]
fn a_rule_may_refuse_to_decide() {
    let error = rule("resolve = \"error\"");
    assert_eq!((error.resolve, error.afterwards), (Some(Resolver::LastUpdateWins), Afterwards::Refused));
    let writes = rule("types = [\"update_origin_differs\"]\nresolve = \"error\"");
    assert_eq!((writes.deletes, writes.afterwards), (None, Afterwards::Refused));
    for (lines, says) in [
        ("resolve = \"error\"\nhold = true", "`hold` has no meaning for error"),
        ("resolve = \"error\"\ndeletes = \"delete_wins\"", "`deletes` has no meaning for error"),
        ("resolve = \"error\"\nby = \"v\"", "`by` has no meaning for error"),
    ] {
        let shown = refused(lines);
        assert!(shown.contains(says) && shown.matches("error:").count() == 1, "{lines}: {shown}");
    }
}

#[test]
fn what_a_node_refuses_may_be_held() {
    let by_itself = rule("errors = \"hold\"");
    assert_eq!((by_itself.resolve, by_itself.errors), (None, Some(Errors::Hold)));
    assert_eq!(rule("resolve = \"last_update_wins\"\nerrors = \"stop\"").errors, Some(Errors::Stop));
    assert!(refused("errors = \"skip\"").contains("`errors` can't be \"skip\""));
    let rules = [rule("tables = [\"public.a\"]\nerrors = \"stop\""), rule("errors = \"hold\"")];
    let of = |table| on_errors(&rules, "public", table).and_then(|rule| rule.errors);
    assert_eq!((of("a"), of("b")), (Some(Errors::Stop), Some(Errors::Hold)));
}

#[test]
fn a_row_that_loses_a_unique_value_may_get_another_one() {
    let first = rule("tables = [\"public.a\"]\nrename = { email = \"email || id\", name = \"NULL\" }");
    assert_eq!(first.resolve, None);
    let rules = [rule("resolve = \"last_update_wins\""), first, rule("rename.name = \"'x' || id\"")];
    let of = |table| renaming(&rules, "public", table).map(|(_, rename)| rename.0.len());
    assert_eq!((of("a"), of("b")), (Some(2), Some(1)));
    for (lines, says) in [
        ("rename = {}", "`rename` names no column"),
        ("rename = \"email\"", "`rename` is a table of names and strings"),
        ("rename = { email = 1 }", "`rename.email` is a string"),
        ("rename = { email = \" \" }", "`rename.email` is empty"),
        ("rename = { email = \"\\u0000\" }", "`rename.email` has a NUL character"),
    ] {
        let shown = refused(lines);
        assert!(shown.contains(says) && shown.matches("error:").count() == 1, "{lines}: {shown}");
    }
}

#[test]
fn a_rule_may_say_which_row_keeps_a_unique_value() {
    let unique = |lines: &str| rule(lines).unique;
    let newest = |afterwards| Some((UniqueWinner::LastUpdateWins, afterwards));
    assert_eq!(unique("unique = \"last_update_wins\""), newest(Afterwards::Resolved));
    assert_eq!(unique("unique = \"hold\""), newest(Afterwards::Held));
    assert_eq!(unique("unique = \"error\"\nresolve = \"hold\""), newest(Afterwards::Refused));
    let order = "priority = [\"west\", \"east\"]";
    let ordered = || UniqueWinner::OriginPriority([NodeId(1), NodeId(0)].into());
    let held = unique(&format!("unique = \"origin_priority\"\nhold = true\n{order}"));
    assert_eq!(held, Some((ordered(), Afterwards::Held)));
    let both = rule(&format!("resolve = \"origin_priority\"\nunique = \"origin_priority\"\n{order}"));
    assert_eq!(both.resolve, Some(Resolver::OriginPriority([NodeId(1), NodeId(0)].into())));
    let rules =
        [rule(&format!("tables = [\"public.a\"]\nunique = \"origin_priority\"\n{order}")), rule("unique = \"hold\"")];
    let of = |table| table_rule(&rules, "public", table).unique;
    assert_eq!((of("a"), of("b")), (ordered(), UniqueWinner::LastUpdateWins));
    let after = |table| deciding_unique(&rules, "public", table).map(|(_, afterwards)| afterwards);
    assert_eq!((after("a"), after("b")), (Some(Afterwards::Resolved), Some(Afterwards::Held)));
    for (lines, says) in [
        ("unique = \"origin_priority\"", "origin_priority needs `priority` with every node once"),
        ("unique = \"origin_priority\"\npriority = [\"east\"]", "it lacks west"),
        ("unique = \"last_update_wins\"\npriority = [\"east\", \"west\"]", "`priority` has no meaning"),
        ("unique = \"last_update\"", "did you mean"),
        ("unique = \"rename\"", "`unique` says which row keeps a value"),
        ("unique = \"error\"\nhold = true", "`hold` has no meaning for error"),
        ("unique = \"hold\"\nsource = \"east\"", "`unique` is for all rows of a table"),
        ("unique = 1", "`unique` is a string"),
    ] {
        let shown = refused(lines);
        assert!(shown.contains(says) && shown.matches("error:").count() == 1, "{lines}: {shown}");
    }
}

#[test]
fn deletes_are_read_by_themselves_and_beside_a_resolver() {
    for (lines, resolve, deletes) in [
        ("resolve = \"last_update_wins\"", true, Some(Deletes::ByResolver)),
        ("resolve = \"last_update_wins\"\ndeletes = \"update_wins\"", true, Some(Deletes::UpdateWins)),
        ("deletes = \"delete_wins\"", false, Some(Deletes::DeleteWins)),
        (
            "types = [\"delete_origin_differs\", \"update_deleted\"]\ndeletes = \"delete_wins\"",
            false,
            Some(Deletes::DeleteWins),
        ),
        ("types = [\"update_origin_differs\"]\nresolve = \"first_update_wins\"", true, None),
        ("mask = [\"email\"]", false, None),
    ] {
        let rule = rule(lines);
        assert_eq!((rule.resolve.is_some(), rule.deletes), (resolve, deletes), "{lines}");
    }
}

#[test]
fn masks_of_all_rules_for_a_table_hold() {
    let rules = [
        rule("tables = [\"public.a\"]\nmask = [\"email\"]"),
        rule("resolve = \"last_update_wins\"\nmask = [\"phone\"]"),
    ];
    assert_eq!(masked(&rules, "public", "a").collect::<Vec<_>>(), ["email", "phone"]);
    assert_eq!(masked(&rules, "public", "b").collect::<Vec<_>>(), ["phone"]);
}

#[test]
fn rows_may_be_merged_by_a_function() {
    for (name, expected) in [("public.resolve_price", "public.resolve_price"), ("Shop.\\\"Price\\\"", "shop.\"Price\"")]
    {
        let read = rule(&format!("resolve = \"function\"\nfunction = \"{name}\"\ndeletes = \"delete_wins\""));
        let function = Merge::Function(expected.parse().expect("a name"));
        assert_eq!(read.resolve, Some(Resolver::Merge(function.into())), "{name}");
    }
    let by = "resolve = \"function\"\nfunction = \"a.b\"";
    for (lines, says, help) in [
        ("resolve = \"function\"", "resolves by a function and does not say which", "function = \"public."),
        ("resolve = \"function\"\nfunction = \"price\"", "`function` has no schema", "function = \"public.price\""),
        ("resolve = \"function\"\nfunction = \"a.b(jsonb, jsonb)\"", "no name of a function", "without arguments"),
        ("resolve = \"function\"\nfunction = 3", "`function` is a string", ""),
        ("resolve = \"merge\"\nfunction = \"a.b\"", "`function` has no meaning for merge", "resolve = \"function\""),
        (
            "function = \"a.b\"\ndeletes = \"delete_wins\"",
            "`function` has no meaning without `resolve`",
            "\"function\"",
        ),
        (&format!("{by}\nothers = \"delta\""), "`others` has no meaning for function", "\"merge\""),
        (&format!("{by}\nby = \"v\""), "`by` has no meaning for function", "remove it"),
        (&format!("{by}\npriority = [\"east\", \"west\"]"), "`priority` has no meaning for function", "remove it"),
        (&format!("{by}\ndeletes = \"update_wins\""), "a delete always wins", "delete_wins"),
        (&format!("{by}\nchanged = [\"v\"]"), "function can't go with `changed`", "remove `changed`"),
    ] {
        let shown = refused(lines);
        assert!(shown.contains(says) && shown.contains(help), "{lines}: {says}, {help}\n{shown}");
        assert_eq!(shown.matches("error:").count(), 1, "{lines}\n{shown}");
    }
}

#[test]
fn rows_differ_only_where_a_rule_accepts_it() {
    let accepted = "diverges = \"accepted\"";
    for (name, resolver) in
        [("keep_local", Resolver::KeepLocal), ("apply_remote", Resolver::ApplyRemote), ("skip", Resolver::Skip)]
    {
        assert_eq!(rule(&format!("resolve = \"{name}\"\n{accepted}")).resolve, Some(resolver));
        let shown = refused(&format!("resolve = \"{name}\""));
        assert!(shown.contains(&format!("by {name} the row differs afterwards")), "{shown}");
        assert!(shown.contains(accepted), "{shown}");
    }
    let merge = rule(&format!("resolve = \"merge\"\ncolumns = {{ a = \"keep_local\", b = \"delta\" }}\n{accepted}"));
    assert!(merge.resolve.is_some_and(|resolver| resolver.diverges()));
    for (lines, says) in [
        ("resolve = \"hold\"\ndiverges = \"accepted\"", "`diverges` has no meaning for hold"),
        (
            "resolve = \"merge\"\ncolumns = { a = \"delta\" }\ndiverges = \"accepted\"",
            "where all columns come out alike",
        ),
        ("resolve = \"merge\"\ncolumns = { a = \"keep_local\" }", "a column differs afterwards"),
        ("resolve = \"merge\"\nothers = \"apply_remote\"", "a column differs afterwards"),
        (
            "resolve = \"merge\"\ncolumns = { a = \"keep\" }\ndiverges = \"accepted\"",
            "columns can't be merged by \"keep\"",
        ),
        ("resolve = \"skip\"\ndiverges = \"accepted\"\nhold = true", "`hold` has no meaning where rows differ"),
        ("resolve = \"skip\"\ndiverges = \"yes\"", "`diverges` can't be \"yes\""),
        ("resolve = \"skip\"\ndiverges = true", "`diverges` is a string"),
        ("deletes = \"delete_wins\"\ndiverges = \"accepted\"", "`diverges` has no meaning without `resolve`"),
    ] {
        let shown = refused(lines);
        assert!(shown.contains(says) && shown.matches("error:").count() == 1, "{lines}: {shown}");
    }
}

#[test]
fn a_condition_is_read() {
    let condition = rule("resolve = \"hold\"\nwhen = \"remote.total > 1000\"").condition;
    assert_eq!(condition.when.expect("an expression").text(), "remote.total > 1000");
    let lines = "source = \"west\"\ntarget = [\"east\", \"west\"]\nchanged = [\"price\"]";
    let condition = rule(&format!("resolve = \"first_update_wins\"\n{lines}")).condition;
    assert_eq!(condition.source.as_deref(), Some(&[NodeId(1)][..]));
    assert_eq!(condition.target.as_deref(), Some(&[NodeId(0), NodeId(1)][..]));
    assert_eq!(condition.changed.as_deref(), Some(&["price".to_owned()][..]));
    assert!(rule("resolve = \"hold\"").condition.is_empty());
}

#[test]
fn rules_with_a_condition_decide_before_those_behind_them() {
    let types = "types = [\"update_origin_differs\"]";
    let rules = [
        rule("source = \"east\"\nresolve = \"first_update_wins\""),
        rule("tables = [\"public.b\"]\nchanged = [\"x\"]\nresolve = \"last_update_wins\""),
        rule(&format!("{types}\nresolve = \"last_update_wins\"")),
        rule("source = \"west\"\nresolve = \"first_update_wins\"\ndeletes = \"update_wins\""),
        rule("resolve = \"first_update_wins\"\ndeletes = \"delete_wins\""),
        rule("source = \"west\"\nresolve = \"first_update_wins\""),
    ];
    let decided = table_rule(&rules, "public", "a");
    let said: Vec<_> = decided.cases.iter().map(|case| (case.resolver.clone(), case.deletes)).collect();
    let first = Some(Resolver::FirstUpdateWins);
    // the third has decided about writes before the fourth
    assert_eq!(said, [(first, Some(Deletes::ByResolver)), (None, Some(Deletes::UpdateWins))]);
    assert_eq!((decided.resolver, decided.deletes), (Resolver::LastUpdateWins, Deletes::DeleteWins));
    let by = Deciding { resolver: None, deletes: Some(1) };
    let place = |facet| {
        let found = deciding_in(&rules, "public", "a", facet, by).expect("a rule");
        rules.iter().position(|rule| std::ptr::eq(rule, found))
    };
    assert_eq!((place(Facet::Writes), place(Facet::Deletes)), (Some(2), Some(3)));
}

#[test]
fn what_is_wrong_in_a_condition_is_told_with_what_to_write() {
    for (lines, says, help) in [
        ("source = \"esat\"", "there is no node \"esat\"", "did you mean `east`?"),
        ("target = [\"east\", \"east\"]", "\"east\" is here twice", ""),
        ("target = []", "`target` is empty", "remove it"),
        ("target = 3", "`target` is a list of strings", "write target = "),
        ("changed = []", "`changed` is empty", "remove it"),
        ("when = \"\"", "`when` is empty", "remote.total > 1000"),
        ("when = \"remote.total >\"", "`when` can't be read at its character ", "an expression of CEL"),
        ("when = \"remot.total > 1\"", "`when` knows no \"remot\"", "did you mean `remote`?"),
        ("when = \"starts(remote.a)\"", "CEL has no function \"starts\"", "did you mean `startsWith`?"),
        ("when = 1", "`when` is a string", ""),
        ("when = \"source == 'esat'\"", "there is no such node", "did you mean `east`?"),
        ("when = \"type == 'update_existed'\"", "no two changes are of that type", "did you mean `"),
        ("when = \"remote.a = 1\"", "`when` can't be read", "== to compare"),
        ("when = \"remote.a.map(k, k.map(l, l)) == []\"", "has a loop within a loop", "take them apart"),
        ("source = \"east\"\ntarget = \"east\"", "are one node", "name another node"),
        ("source = \"east\"\nmask = [\"a\"]", "`mask` is for all rows of a table", "a rule of its own"),
        ("when = \"remote.a\"\nerrors = \"hold\"", "can't go with `when`", "a rule of its own"),
    ] {
        let shown = refused(&format!("resolve = \"last_update_wins\"\n{lines}"));
        assert!(shown.contains(says) && shown.contains(help), "{lines}: {says}, {help}\n{shown}");
        assert_eq!(shown.matches("error:").count(), 1, "{lines}\n{shown}");
    }
    let shown = refused("resolve = \"merge\"\nsource = \"east\"");
    assert!(shown.contains("merge can't go with `source`"), "{shown}");
    let shown = refused("source = \"east\"");
    assert!(shown.contains("needs `resolve`"), "{shown}");
}

#[test]
fn an_order_that_is_not_every_node_once_is_refused() {
    for (order, says) in [
        ("", "it lacks east, west"),
        ("priority = [\"west\"]", "it lacks east"),
        ("priority = [\"west\", \"east\", \"west\"]", "\"west\" is here twice"),
        ("priority = [\"west\", \"esat\"]", "did you mean `east`?"),
    ] {
        let shown = refused(&format!("resolve = \"origin_priority\"\n{order}"));
        assert!(shown.contains(says), "{says}\n{shown}");
    }
}

#[test]
fn what_does_not_go_together_is_refused_with_what_to_write() {
    for (lines, says, help) in [
        (
            "resolve = \"first_update_wins\"\npriority = [\"east\"]",
            "`priority` has no meaning for first_update_wins",
            "origin_priority",
        ),
        (
            "resolve = \"last_update_wins\"\ncolumns = { a = \"delta\" }",
            "`columns` has no meaning for last_update_wins",
            "\"merge\"",
        ),
        ("others = \"greatest\"\ndeletes = \"delete_wins\"", "`others` has no meaning without `resolve`", "\"merge\""),
        ("resolve = \"merge\"\ndeletes = \"update_wins\"", "a delete always wins", "delete_wins"),
        ("resolve = \"delta\"", "merges a column, not a row", "resolve = \"merge\""),
        ("resolve = \"delete_wins\"", "is no resolver", "deletes = \"delete_wins\""),
        ("deletes = \"by_resolver\"", "no resolver to go by", "add `resolve`"),
        (
            "types = [\"insert_exists\"]\nresolve = \"last_update_wins\"",
            "update_origin_differs at another",
            "add \"update_origin_differs\"",
        ),
        ("types = [\"update_deleted\"]\ndeletes = \"delete_wins\"", "delete_origin_differs at another", "write both"),
        ("types = [\"delete_missing\"]\nresolve = \"last_update_wins\"", "nothing to decide", "remove `types`"),
        (
            "types = [\"update_deleted\", \"delete_origin_differs\"]\nresolve = \"first_update_wins\"",
            "no meaning for a delete",
            "deletes = ",
        ),
        (
            "types = [\"update_origin_differs\"]\nresolve = \"first_update_wins\"\ndeletes = \"delete_wins\"",
            "`deletes` has no meaning for these types",
            "update_deleted",
        ),
        ("types = [\"update_origin_differs\"]\nmask = [\"a\"]", "needs `resolve`", "last_update_wins"),
        ("types = []\nresolve = \"last_update_wins\"", "`types` is empty", "remove it"),
        ("tables = []\nresolve = \"last_update_wins\"", "`tables` is empty", "remove it"),
        ("tables = [\"public.a\"]", "needs `resolve`", "last_update_wins"),
    ] {
        let shown = refused(lines);
        assert!(shown.contains(says) && shown.contains(help), "{lines}: {says}, {help}\n{shown}");
        assert_eq!(shown.matches("error:").count(), 1, "{lines}\n{shown}");
    }
}

#[test]
fn all_slips_of_a_file_get_their_suggestions_at_their_places() {
    let text = "[[rule]]\nname = \"a\"\nresolve = \"last_update_win\"\ntypes = [\"insert_exist\"]\ntabels = []\n\
                [[rule]]\nname = \"b\"\nresolve = \"merge\"\ncolumns = { qty = \"dleta\", n = 3 }\ndeletes = \"delete_win\"\n";
    let shown = problems(text);
    for wanted in [
        "rules.toml:3:11",
        "did you mean `last_update_wins`?",
        "did you mean `insert_exists`?",
        "did you mean `tables`?",
        "rules.toml:9:19",
        "did you mean `delta`?",
        "`columns.n` is a string",
        "rules.toml:10:11",
        "did you mean `delete_wins`?",
    ] {
        assert!(shown.contains(wanted), "{wanted}\n{shown}");
    }
}

#[test]
fn every_type_is_of_a_facet_or_leaves_nothing_to_decide() {
    let loose: Vec<_> =
        ConflictType::ALL.iter().filter(|each| Facet::of(**each).is_none()).map(|each| each.name()).collect();
    assert_eq!(loose, ["update_missing", "delete_missing", "multiple_unique_conflicts", "apply_error"]);
}
