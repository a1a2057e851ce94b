//! What rules come to for tables, and what is refused.

use super::*;
use crate::config::rules::{Afterwards, Place};
use crate::config::{TableFilter, tables};
use crate::model::key::KeyHasher;
use crate::model::{ColumnMerge, ColumnMerges, Condition, Deletes, Merge, NodeId, Rename, TableId, UniqueIndex};

fn rule(name: &str, tables: &str, resolve: Option<Resolver>, deletes: Option<Deletes>) -> Rule {
    let globs = vec![tables::glob(tables).expect("a pattern")];
    let tables = TableFilter::new(globs, vec![]).expect("a filter");
    let place = Place { file: "rules.toml".into(), line: 1 };
    Rule {
        name: name.into(),
        place,
        tables,
        condition: Condition::default(),
        resolve,
        deletes,
        afterwards: Afterwards::default(),
        errors: None,
        unique: None,
        rename: None,
        mask: Vec::new(),
    }
}

fn when(condition: Condition, resolve: Option<Resolver>, deletes: Option<Deletes>) -> Rule {
    Rule { condition, ..rule("when", "public.a", resolve, deletes) }
}

fn made_at(node: u8) -> Condition {
    Condition { source: Some([NodeId(node)].into()), ..Condition::default() }
}

/// Which of them count together depends on which conditions hold.
#[test]
fn a_column_decides_nowhere_beside_a_delete_that_is_like_any_change() {
    let by = || Some(Resolver::LastByColumn("v".into()));
    let found = |rules: &[Rule]| {
        let rule = rules::table_rule(rules, "public", "a");
        by_column(&rule).iter().map(|compared| (compared.place, compared.deletes)).collect::<Vec<_>>()
    };
    let (stays, like_any) = (Some(Deletes::UpdateWins), Some(Deletes::ByResolver));
    let latest = || Some(Resolver::LastUpdateWins);
    let gone = || rule("gone", "public.a", latest(), Some(Deletes::DeleteWins));
    assert_eq!(found(&[when(made_at(0), by(), stays)]), [(Some(0), Deletes::UpdateWins)], "its own");
    let silent = || when(made_at(1), None, like_any);
    assert_eq!(found(&[silent(), when(made_at(0), by(), stays)]), [(Some(1), Deletes::ByResolver)]);
    let other = || when(made_at(1), latest(), like_any);
    assert_eq!(
        found(&[other(), when(made_at(0), by(), stays)]),
        [(Some(1), Deletes::UpdateWins)],
        "then that resolves"
    );
    assert_eq!(found(&[when(made_at(0), by(), None), other(), gone()]), [(Some(0), Deletes::ByResolver)]);
    assert_eq!(found(&[when(made_at(0), by(), None), gone()]), [(Some(0), Deletes::DeleteWins)]);
    let last = || rule("by", "public.a", by(), stays);
    assert_eq!(found(&[silent(), last()]), [(None, Deletes::ByResolver)]);
    assert_eq!(found(&[other(), last()]), [(None, Deletes::UpdateWins)]);
}

#[test]
fn rules_by_which_the_latest_change_comes_out_come_to_the_same() {
    let of = |rules: &[Rule]| rules::table_rule(rules, "public", "a");
    let latest = |node| when(made_at(node), Some(Resolver::LastUpdateWins), Some(Deletes::ByResolver));
    let first = when(made_at(0), Some(Resolver::FirstUpdateWins), None);
    assert!(of(&[latest(0)]).comes_to_the_same(&of(&[latest(1)])));
    assert!(of(&[latest(0)]).comes_to_the_same(&TableRule::default()));
    assert!(of(std::slice::from_ref(&first)).comes_to_the_same(&of(std::slice::from_ref(&first))));
    assert!(!of(&[first]).comes_to_the_same(&TableRule::default()));
    let stays = when(made_at(0), None, Some(Deletes::UpdateWins));
    assert!(!of(&[stays]).comes_to_the_same(&TableRule::default()));
}

fn whole(name: &str, tables: &str, resolve: Resolver) -> Rule {
    rule(name, tables, Some(resolve), Some(Deletes::ByResolver))
}

fn merge(columns: &[(&str, ColumnMerge)], others: ColumnMerge) -> Resolver {
    let columns = columns.iter().map(|(name, how)| ((*name).to_owned(), how.clone())).collect();
    Resolver::Merge(Merge::Columns(ColumnMerges { columns, others }).into())
}

/// A table with a key, a number, a text, an array and a jsonb.
fn table(name: &str) -> Table {
    let mut table = Table { sends_old_rows: true, ..Table::of_texts(name, &["id", "qty", "note", "tags", "doc"]) };
    for (column, of_type) in
        [(1, r#""pg_catalog"."int4""#), (3, r#""pg_catalog"."_text""#), (4, r#""pg_catalog"."jsonb""#)]
    {
        table.columns[column].sql_type = of_type.to_owned();
    }
    table
}

fn catalog() -> Catalog {
    Catalog::new(vec![table("a"), table("b")], KeyHasher::with_seed(1))
}

fn refused(rules: &[Rule], table: Table) -> String {
    let catalog = Catalog::new(vec![table], KeyHasher::with_seed(1));
    resolvers(rules, &catalog).expect_err("refused").to_string()
}

#[test]
fn the_first_rule_for_a_facet_of_a_table_decides() {
    let order = Resolver::OriginPriority([NodeId(1), NodeId(0)].into());
    let rules = [
        rule("deletes", "public.*", None, Some(Deletes::DeleteWins)),
        whole("b by region", "public.b", order.clone()),
        whole("others", "public.*", Resolver::FirstUpdateWins),
    ];
    let found = resolvers(&rules, &catalog()).expect("one resolver each");
    let expected = |resolver: Resolver| TableRule { deletes: Deletes::DeleteWins, ..resolver.into() };
    assert_eq!(found.rule(TableId(0)), &expected(Resolver::FirstUpdateWins));
    assert_eq!(found.rule(TableId(1)), &expected(order));
    assert_eq!(resolvers(&[], &catalog()).expect("the default").rule(TableId(1)), &TableRule::default());
}

#[test]
fn a_merge_names_what_differs_from_the_default_and_spares_the_key() {
    let columns = [("qty", ColumnMerge::Delta), ("note", ColumnMerge::LastUpdateWins), ("doc", ColumnMerge::JsonMerge)];
    let mut of_tags = table("a");
    of_tags.columns[2].sql_type = r#""pg_catalog"."_int8""#.to_owned();
    let rules = [whole(
        "m",
        "public.*",
        merge(&[("qty", ColumnMerge::Delta), ("doc", ColumnMerge::JsonMerge)], ColumnMerge::Union),
    )];
    let (found, misfits) = compile(&rules, &of_tags);
    assert_eq!(misfits, []);
    let all = [
        ("qty", ColumnMerge::Delta),
        ("note", ColumnMerge::Union),
        ("tags", ColumnMerge::Union),
        ("doc", ColumnMerge::JsonMerge),
    ];
    assert_eq!(found.resolver, merge(&all, ColumnMerge::LastUpdateWins));
    let (found, misfits) =
        compile(&[whole("m", "public.*", merge(&columns, ColumnMerge::LastUpdateWins))], &table("a"));
    assert_eq!(misfits, []);
    let named = [("qty", ColumnMerge::Delta), ("doc", ColumnMerge::JsonMerge)];
    assert_eq!(found, merge(&named, ColumnMerge::LastUpdateWins).into());
    let names = Config::sample();
    let record = rules::record(&found, &names.node_names());
    assert_eq!(rules::recorded(&record, &names.node_names()), Some(found));
}

#[test]
fn a_column_that_can_t_tell_which_row_is_later_is_refused_with_what_to_do() {
    let by = |column: &str, deletes| [rule("v", "public.a", Some(Resolver::LastByColumn(column.into())), deletes)];
    assert_eq!(compile(&by("qty", Some(Deletes::UpdateWins)), &table("a")).1, []);
    for (column, says) in [
        ("qtty", r#"there is no column "qtty", or it is generated; did you mean `qty`?"#),
        (
            "note",
            r#"the column "note" is of type text, and `by` is for integers, numeric, dates and timestamps; there is `qty`"#,
        ),
        ("id", r#""id" is a key column, and alike in all rows that are compared; there is `qty`"#),
    ] {
        let text = refused(&by(column, Some(Deletes::UpdateWins)), table("a"));
        assert!(text.contains(says) && text.contains("\"v\" (rules.toml:1)"), "{says}\n{text}");
    }
    let text = refused(&by("qty", None), table("a"));
    assert!(text.contains("a delete leaves none; say which counts"), "{text}");
    let text = refused(&by("qty", Some(Deletes::UpdateWins)), Table { sends_old_rows: false, ..table("a") });
    assert!(text.contains("by = \"qty\" needs the whole old row of each change"), "{text}");
    let texts = Table { sends_old_rows: true, ..Table::of_texts("a", &["id", "note"]) };
    let text = refused(&by("note", Some(Deletes::UpdateWins)), texts);
    assert!(text.contains("remove `by`: the commit time tells"), "{text}");
}

#[test]
fn merges_that_can_t_be_are_refused_with_what_to_do() {
    use ColumnMerge::{Append, Delta, Greatest, Intersection, JsonMerge, LastUpdateWins, Union};
    for (columns, others, says) in [
        (
            vec![("qtty", Delta)],
            LastUpdateWins,
            r#"there is no column "qtty", or it is generated; did you mean `qty`?"#,
        ),
        (vec![("id", Greatest)], LastUpdateWins, r#""id" is a key column"#),
        (vec![("note", Delta)], LastUpdateWins, "is of type text and delta adds only smallint"),
        (vec![("note", Union)], LastUpdateWins, "union is for arrays; merge it otherwise: last_update_wins"),
        (vec![("qty", Intersection)], LastUpdateWins, "is of type integer and intersection is for arrays"),
        (vec![("tags", JsonMerge)], LastUpdateWins, "is of type text[] and json_merge is for jsonb"),
        (vec![("doc", Append("; ".into()))], LastUpdateWins, "is of type jsonb and append is for text and varchar"),
        (vec![("doc", Greatest)], LastUpdateWins, "the order of others may differ"),
        (vec![], Union, "`others` is union: name the column in `columns` (last_update_wins, delta, greatest, least)"),
    ] {
        let says_so = refused(&[whole("m", "public.a", merge(&columns, others))], table("a"));
        assert!(says_so.contains(says) && says_so.contains("\"m\" (rules.toml:1)"), "{says}\n{says_so}");
    }
    let mut limited = table("a");
    limited.columns[2].has_modifier = true;
    let says = refused(&[whole("m", "public.a", merge(&[("note", Append("; ".into()))], LastUpdateWins))], limited);
    assert!(says.contains("has a greatest length") && says.contains("make it text at every node"), "{says}");
    let appended = [whole("m", "public.a", merge(&[("note", Append("; ".into()))], LastUpdateWins))];
    assert_eq!(compile(&appended, &table("a")).1, []);
    let local = Table { local: vec!["here".to_owned()], ..table("a") };
    let says = refused(&[whole("m", "public.a", merge(&[("here", Delta)], LastUpdateWins))], local);
    assert!(says.contains("not there at every node"), "{says}");
    let rules =
        [rule("d", "public.*", None, Some(Deletes::UpdateWins)), whole("m", "public.a", merge(&[], LastUpdateWins))];
    let says = refused(&rules, table("a"));
    assert!(says.contains("a delete always wins") && says.contains("\"d\""), "{says}");
}

fn function() -> Resolver {
    Resolver::Merge(Merge::Function("public.f".parse().expect("a name")).into())
}

#[test]
fn a_function_decides_alone_and_a_delete_wins() {
    let (found, misfits) = compile(
        &[whole("f", "public.a", function()), rule("d", "public.a", None, Some(Deletes::DeleteWins))],
        &table("a"),
    );
    assert_eq!((found, misfits), (function().into(), vec![]));
    let says = refused(
        &[rule("d", "public.*", None, Some(Deletes::UpdateWins)), whole("f", "public.a", function())],
        table("a"),
    );
    assert!(says.contains("a delete always wins") && says.contains("\"d\""), "{says}");
    let condition = when(made_at(0), Some(Resolver::FirstUpdateWins), None);
    let says = refused(&[condition, whole("f", "public.a", function())], table("a"));
    assert!(says.contains("no conflict of theirs is decided otherwise"), "{says}");
    let held = Rule { errors: Some(rules::Errors::Hold), ..whole("f", "public.a", function()) };
    let says = refused(&[held], table("a"));
    assert!(says.contains("errors = \"hold\" is not for a table whose rows are merged"), "{says}");
}

#[test]
fn several_misfits_are_counted() {
    let columns = [("note", ColumnMerge::Delta), ("tags", ColumnMerge::Delta)];
    let says = refused(&[whole("m", "public.a", merge(&columns, ColumnMerge::LastUpdateWins))], table("a"));
    assert!(says.contains("and 1 more: `pgconcord rules check` shows all"), "{says}");
}

#[test]
fn what_does_not_converge_is_refused_with_what_to_do() {
    let rules = [
        vec![whole("first", "public.a", Resolver::FirstUpdateWins)],
        vec![rule("deletes", "public.a", None, Some(Deletes::DeleteWins))],
        vec![whole("merge", "public.a", merge(&[], ColumnMerge::LastUpdateWins))],
        vec![whole("function", "public.a", function())],
    ];
    for rules in rules {
        let says = refused(&rules, Table { sends_old_rows: false, ..table("a") });
        assert!(says.contains(r#"ALTER TABLE "public"."a" REPLICA IDENTITY FULL;"#), "{says}");
        let index = UniqueIndex {
            name: "a_email".into(),
            columns: vec![1],
            nulls_not_distinct: false,
            deferrable: false,
            rule: None,
        };
        let says = refused(&rules, Table { unique: vec![index], ..table("a") });
        assert!(says.contains("a_email"), "{says}");
        let says = refused(&rules, Table { insert_only: true, ..table("a") });
        assert!(says.contains("insert_only"), "{says}");
    }
}

#[test]
fn only_what_a_unique_index_looks_at_gets_another_value() {
    let renames = |column: &str| {
        let rename = Rename([(column.to_owned(), "NULL".to_owned())].into());
        [Rule { rename: Some(rename), ..rule("r", "public.a", None, None) }]
    };
    let index = |columns: &[usize]| {
        let columns = columns.to_vec();
        UniqueIndex { name: "a_note".into(), columns, nulls_not_distinct: false, deferrable: false, rule: None }
    };
    let note = table("a").column("note").expect("a column");
    let unique = |columns: &[usize]| Table { unique: vec![index(columns)], ..table("a") };
    let catalog = Catalog::new(vec![unique(&[note])], KeyHasher::with_seed(1));
    assert!(resolvers(&renames("note"), &catalog).is_ok());
    for (column, table, expected) in [
        ("note", table("a"), "has no unique index beside the key"),
        ("note", Table { insert_only: true, ..unique(&[note]) }, "nothing but the inserts replicate"),
        ("note", unique(&[0]), "\"note\" is in no unique index"),
        ("id", unique(&[0, note]), "\"id\" is a key column"),
        ("nite", unique(&[note]), "did you mean `note`?"),
        (
            "note",
            Table { unique: vec![index(&[note]), UniqueIndex { name: "other".into(), ..index(&[0]) }], ..table("a") },
            "a row can lose by its unique index other, too",
        ),
    ] {
        let says = refused(&renames(column), table);
        assert!(says.contains(expected), "{says}");
    }
}

#[test]
fn a_mask_names_a_column_that_is_no_key() {
    let masked = |tables: &str, column: &str| Rule { mask: vec![column.to_owned()], ..rule("m", tables, None, None) };
    assert!(resolvers(&[masked("public.*", "note")], &catalog()).is_ok());
    let says = refused(&[masked("public.a", "id")], table("a"));
    assert!(says.contains("is a key column and can't be masked"), "{says}");
    let says = refused(&[masked("public.a", "nite")], table("a"));
    assert!(says.contains("no column \"nite\" to mask") && says.contains("did you mean `note`?"), "{says}");
    let mut other = table("b");
    other.columns.remove(2);
    let catalog = Catalog::new(vec![table("a"), other], KeyHasher::with_seed(1));
    assert!(resolvers(&[masked("public.*", "note")], &catalog).is_ok(), "one of its tables has it");
}
