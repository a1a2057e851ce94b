//! Values of every type, as SQL expressions: the extremes, and random ones by proptest.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// A type and how to make values of it.
pub struct Type {
    /// As SQL.
    pub name: &'static str,
    /// Its extremes, each an expression that is cast to the type.
    pub extremes: &'static [&'static str],
    /// Random ones.
    pub random: Option<BoxedStrategy<String>>,
    /// It can be a key.
    pub is_key: bool,
    /// Its binary form is the same at every node: no OIDs of user types in it, and it has one.
    pub is_binary: bool,
}

impl Type {
    fn random(mut self, strategy: impl Strategy<Value = String> + 'static) -> Type {
        self.random = Some(strategy.boxed());
        self
    }

    fn text_only(mut self) -> Type {
        self.is_binary = false;
        self
    }
}

fn key(name: &'static str, extremes: &'static [&'static str]) -> Type {
    Type { name, extremes, random: None, is_key: true, is_binary: true }
}

fn value(name: &'static str, extremes: &'static [&'static str]) -> Type {
    Type { is_key: false, ..key(name, extremes) }
}

/// Draws from strategies, the same for the same seed.
pub struct Draw(TestRunner);

impl Draw {
    /// From a seed.
    pub fn new(seed: u8) -> Draw {
        Draw(TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32])))
    }

    /// Values of the type: the extremes, and `count` random ones if it has them.
    pub fn values(&mut self, of: &Type, count: usize) -> Vec<String> {
        let fixed = of.extremes.iter().map(|text| (*text).to_owned());
        let random = of.random.iter().flat_map(|strategy| std::iter::repeat_n(strategy, count));
        fixed.chain(random.map(|strategy| strategy.new_tree(&mut self.0).expect("a value").current())).collect()
    }
}

/// A text as an SQL literal.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn text() -> impl Strategy<Value = String> {
    "[^\u{0}]{0,60}".prop_map(|text: String| literal(&text))
}

fn number<T: std::fmt::Display + std::fmt::Debug + Arbitrary + 'static>() -> impl Strategy<Value = String> {
    any::<T>().prop_map(|n| format!("'{n}'"))
}

fn like(regex: &'static str) -> impl Strategy<Value = String> {
    regex.prop_map(|text: String| literal(&text))
}

fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,20})?",
        "[a-zA-Zü\\u4e2d '-]{0,12}".prop_map(|text| format!("\"{text}\"")),
    ];
    let nested = leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|of| format!("[{}]", of.join(", "))),
            prop::collection::vec(("[a-c]{1,2}", inner), 0..4).prop_map(|of| {
                let members: Vec<_> = of.into_iter().map(|(name, value)| format!("\"{name}\" : {value}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    });
    nested.prop_map(|text| literal(&text))
}

fn point() -> impl Strategy<Value = String> {
    (any::<f64>(), any::<f64>()).prop_map(|(x, y)| format!("({x:e},{y:e})"))
}

fn points(before: &'static str, count: std::ops::Range<usize>, after: &'static str) -> impl Strategy<Value = String> {
    prop::collection::vec(point(), count).prop_map(move |points| format!("'{before}{}{after}'", points.join(",")))
}

fn bounds(make: &'static str) -> impl Strategy<Value = String> {
    (any::<i16>(), 0..1000i32, prop::sample::select(vec!["[]", "[)", "(]", "()"]), any::<(bool, bool)>()).prop_map(
        move |(low, length, brackets, (no_low, no_high))| {
            let bound = |missing: bool, n: i32| if missing { "NULL".to_owned() } else { n.to_string() };
            let (low, high) = (bound(no_low, low.into()), bound(no_high, i32::from(low) + length));
            format!("{make}({low}, {high}, '{brackets}')")
        },
    )
}

/// What every server has.
pub fn built_in() -> Vec<Type> {
    let ranges: &[(&str, &str, &[&str], &[&str])] = &[
        ("int4range", "int4multirange", &["'empty'", "'(,)'", "'[1,5]'"], &["'{}'", "'{[1,2),[5,9)}'", "'{(,)}'"]),
        ("int8range", "int8multirange", &["'empty'", "'[-9223372036854775808,)'"], &["'{}'", "'{(,0),[5,9)}'"]),
        ("numrange", "nummultirange", &["'empty'", "'[1.0,2.50)'", "'(NaN,)'"], &["'{}'", "'{[1.0,2.00),(3,4]}'"]),
    ];
    let mut types = vec![
        key("int2", &["-32768", "32767", "0"]).random(number::<i16>()),
        key("int4", &["-2147483648", "2147483647"]).random(number::<i32>()),
        key("int8", &["'-9223372036854775808'", "'9223372036854775807'"]).random(number::<i64>()),
        key(
            "numeric",
            &[
                "'NaN'",
                "'Infinity'",
                "'-Infinity'",
                "repeat('9', 1000)::numeric",
                "('0.' || repeat('1', 1000))::numeric",
                "-1.000",
                "0.00",
                "(1 || repeat('0', 130000))::numeric",
            ],
        )
        .random(like("-?[0-9]{1,40}(\\.[0-9]{1,40})?")),
        key("numeric(20,5)", &["'99999999999.99999'", "1.1"]).random(like("-?[0-9]{1,12}(\\.[0-9]{1,8})?")),
        key("float4", &["'NaN'", "'Infinity'", "'-Infinity'", "'-0'", "'1e-45'", "'3.4028235e38'", "0.1"])
            .random(number::<f32>()),
        key("float8", &["'NaN'", "'Infinity'", "'-Infinity'", "'-0'", "'5e-324'", "'1.7976931348623157e308'", "0.1"])
            .random(number::<f64>()),
        key("money", &["'-92233720368547758.08'", "'92233720368547758.07'", "'1,000.50'"]),
        key("bool", &["true", "false"]),
        key("name", &["'x'", "repeat('ü', 31)::name", "'a \"b\"'"]),
        key("text", &["''", "repeat('long ü', 5000)", "E'tab\\tand \\\\ and \"quotes\"\\r\\n'", "'NULL'", "'{}'"])
            .random(text()),
        key("varchar(60)", &["''", "'  both  '"]).random(text()),
        key("char(60)", &["''", "'trailing   '", "'ü'"]).random(like("[a-zü ]{0,60}")),
        key("bytea", &["''", "'\\x00ff5c27'", "convert_to(repeat('b', 9000), 'UTF8')"])
            .random(like("\\\\x([0-9a-f]{2}){0,40}")),
        key("bit(8)", &["B'00000000'", "B'11111111'"]).random(like("[01]{8}")),
        key("varbit", &["B''", "B'1'", "repeat('01', 500)::varbit"]).random(like("[01]{0,70}")),
        key("date", &["'infinity'", "'-infinity'", "'4714-11-24 BC'", "'5874897-12-31'", "'0001-01-01 BC'"])
            .random((-700_000..700_000i32).prop_map(|n| format!("date '2000-01-01' + ({n})"))),
        key("time", &["'24:00:00'", "'00:00:00'", "'23:59:59.999999'"])
            .random(like("(0[0-9]|1[0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\\.[0-9]{6}")),
        key("timetz", &["'24:00:00-15:59'", "'00:00:00+15:59'", "'12:00:00.5+02'"])
            .random(like("(0[0-9]|1[0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\\.[0-9]{6}[+-]0[0-9]:30")),
        key("timestamp", &["'infinity'", "'-infinity'", "'4714-11-24 00:00:00 BC'", "'294276-12-31 23:59:59.999999'"])
            .random(any::<i32>().prop_map(|n| format!("timestamp '2000-01-01' + interval '1 s' * {n} * 1.000001"))),
        key(
            "timestamptz",
            &["'infinity'", "'-infinity'", "'4714-11-24 00:00:00+00 BC'", "'294276-12-31 23:59:59.999999+00'"],
        )
        .random(any::<i32>().prop_map(|n| format!("timestamptz '2000-01-01 00:00+00' + interval '1 s' * {n} * 1.01"))),
        key(
            "interval",
            &["'178000000 years'", "'-178000000 years'", "'1 mon -1 day 00:00:00.000001'", "'0'", "'-1 us'"],
        )
        .random((-9999..9999i32, -9999..9999i32, any::<i32>()).prop_map(|(months, days, ms)| {
            format!("interval '1 mon' * {months} + interval '1 day' * {days} + interval '1 ms' * {ms}")
        })),
        key("uuid", &["'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"])
            .random(like("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")),
        key("inet", &["'::1'", "'10.0.0.1/8'", "'fe80::1/10'", "'255.255.255.255'"])
            .random(any::<u32>().prop_map(|n| format!("'0.0.0.0'::inet + {n}"))),
        key("cidr", &["'::/0'", "'10.0.0.0/8'", "'0.0.0.0/32'"]),
        key("macaddr", &["'00:00:00:00:00:00'", "'ff:ff:ff:ff:ff:ff'"]).random(like("([0-9a-f]{2}:){5}[0-9a-f]{2}")),
        key("macaddr8", &["'ff:ff:ff:ff:ff:ff:ff:ff'"]).random(like("([0-9a-f]{2}:){7}[0-9a-f]{2}")),
        value("json", &["'{\"a\":1,\"a\":2, \"b\" : [1.00, null]}'", "'null'", "' 1.0e5 '"]).random(json()),
        key("jsonb", &["'{\"a\":1,\"a\":2, \"b\" : [1.00, null]}'", "'null'", "'1.00'", "'\"\\u00fc\\\"\"'"])
            .random(json()),
        value("jsonpath", &["'$.a[*] ? (@.b > 1)'", "'strict $'"]),
        value("tsvector", &["''", "'a:1A b:2,3 ''c d'':5C'", "'ü'"]).random(like("[a-e]{1,3}( [a-e]{1,3}){0,5}")),
        value("tsquery", &["'a & !b <-> c:*A'", "'(a | b) & ''c d'''"]),
        value("point", &["'(0,0)'", "'(NaN,Infinity)'", "'(-0,5e-324)'"]).random(points("", 1..2, "")),
        value("line", &["'{1,2,3}'", "'{0,-1,0.1}'"]),
        value("lseg", &["'[(0,0),(1,1)]'"]).random(points("[", 2..3, "]")),
        value("box", &["'(1,1),(0,0)'", "'(Infinity,1),(-Infinity,0)'"]).random(points("", 2..3, "")),
        value("path", &["'[(0,0),(1,1)]'", "'((0,0),(1,1))'"]).random(points("(", 1..6, ")")),
        value("polygon", &["'((0,0),(1,1),(0.1,2))'"]).random(points("(", 1..6, ")")),
        value("circle", &["'<(0,0),0>'", "'<(1,-1),Infinity>'"]),
        key("pg_lsn", &["'0/0'", "'FFFFFFFF/FFFFFFFF'"]),
        key("oid", &["0", "'4294967295'"]).random(number::<u32>()),
        value("xid", &["'0'", "'4294967295'"]),
        key("xid8", &["'0'", "'18446744073709551615'"]),
        value("cid", &["'7'"]),
        value("tid", &["'(0,1)'", "'(4294967295,65535)'"]),
        value("oidvector", &["'1 2 3'", "''"]),
        value("int2vector", &["'1 -2 3'", "''"]),
        value("txid_snapshot", &["'10:20:10,14,15'"]),
        value("pg_snapshot", &["'10:20:10,14,15'"]),
        key("\"char\"", &["'a'", "''", "10::\"char\"", "92::\"char\"", "39::\"char\""]),
        value("regclass", &["'pg_class'", "'plain'", "'0'"]).text_only(),
        value("regtype", &["'integer'", "'pg_class'"]).text_only(),
        value("regproc", &["'now'"]).text_only(),
        value("regprocedure", &["'lower(text)'"]).text_only(),
        value("regoperator", &["'+(integer,integer)'"]).text_only(),
        value("regrole", &["'postgres'"]).text_only(),
        value("regnamespace", &["'public'"]).text_only(),
        value("regconfig", &["'english'"]).text_only(),
        value("regdictionary", &["'simple'"]).text_only(),
        value("regcollation", &["'\"C\"'"]).text_only(),
        value("aclitem", &["'postgres=arwd*/postgres'", "'=r/postgres'"]).text_only(),
        value("refcursor", &["'a cursor'"]),
        key("tsrange", &["'empty'", "'[2000-01-01 00:00,infinity)'"]),
        key("tstzrange", &["'(,2000-01-01 00:00:00.5+02]'"]),
        key("daterange", &["'[2000-01-01,2000-02-01]'", "'[-infinity,infinity]'"]),
        key("datemultirange", &["'{[2000-01-01,2000-02-01],[2001-01-01,)}'"]),
        key("tsmultirange", &["'{}'", "'{[2000-01-01 00:00,infinity)}'"]),
        key("tstzmultirange", &["'{(,2000-01-01 00:00:00.5+02]}'"]),
    ];
    for (range, multirange, values, multis) in ranges {
        types.push(key(range, values).random(bounds(range)));
        types.push(key(multirange, multis));
    }
    types
}

/// What users make, by [`USER_TYPES`].
pub fn users() -> Vec<Type> {
    let mut types = vec![
        key("mood", &["'sad'", "'very \"happy\", {or} not'", "'ünsure'"]),
        key("positive", &["1", "2147483647"]),
        key("short", &["'abcde'", "''"]),
        key("words", &["'{a,NULL,\"b c\"}'", "'{}'", "'[0:1]={x,y}'"]),
        key(
            "address",
            &["ROW('a \"b\", (c)\\', NULL, '{x,NULL}', 'sad')::address", "ROW('', 1.0, '{}', NULL)::address"],
        ),
        key(
            "household",
            &["ROW(ROW('s', 1.50, NULL, 'sad')::address, ARRAY[ROW(NULL, 2, NULL, NULL)::address])::household"],
        ),
        key("textrange", &["textrange('a', 'b,\"c')", "textrange('', NULL, '[]')", "'empty'"]),
        key("textmultirange", &["textmultirange(textrange('a', 'b'), textrange('c', 'd'))"]),
        key("\"Sch\"\"ema\".\"Type, With\"", &["'a'", "'b''b'"]),
    ];
    types.iter_mut().for_each(|of| of.is_binary = false);
    types
}

/// The statements that make them.
pub const USER_TYPES: &str = r#"
    CREATE TYPE mood AS ENUM ('sad', 'very "happy", {or} not', 'ünsure');
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE DOMAIN short AS varchar(5) CHECK (VALUE <> 'no');
    CREATE DOMAIN words AS text[];
    CREATE TYPE address AS (street text, no numeric, tags text[], mood mood);
    CREATE TYPE household AS (home address, others address[]);
    CREATE TYPE textrange AS RANGE (subtype = text, collation = "C", multirange_type_name = textmultirange);
    CREATE SCHEMA "Sch""ema";
    CREATE TYPE "Sch""ema"."Type, With" AS ENUM ('a', 'b''b');
"#;

/// What extensions bring; only where they are installed.
pub fn extensions() -> Vec<Type> {
    let mut types = vec![
        key("citext", &["'Straße'", "'ÄÖÜ'", "''"]).random(text()),
        key("hstore", &["'a=>1, \"b c\"=>NULL'", "''"]),
        key("ltree", &["'Top.Science'", "''"]),
    ];
    types.iter_mut().for_each(|of| of.is_binary = false);
    types
}
