//! Rule files with slips in them: whatever is wrong, it is told at its place, and nothing panics.

use std::path::Path;

use proptest::prelude::*;

use crate::config::report::{Report, Style};

const VALID: [&str; 3] = [
    include_str!("../../../conflict-rules/default.toml"),
    include_str!("../../../conflict-rules/examples/inventory.toml"),
    r#"
[[rule]]
name = "ä name"
tables = ["public.{a,b}", "sales.*"]
types = ["update_origin_differs", "update_deleted", "delete_origin_differs"]
resolve = "origin_priority"
priority = ["east", "west"]
deletes = "update_wins"
mask = ["email"]
rename = { email = "email || id" }
[[rule]]
name = "b"
resolve = "merge"
others = "last_update_wins"
[rule.columns]
tags = "union"
doc = "json_merge"
note = { append = "; " }
price = { sql = "(local + remote) / 2" }
[[rule]]
name = "c"
resolve = "first_update_wins"
by = "version"
deletes = "delete_wins"
[[rule]]
name = "d"
source = ["east"]
target = "west"
changed = ["price"]
when = "remote.total > 1000.0 || local['a'].matches('x+') && key.id in [1, 2].map(n, n * 2) && old != null"
resolve = "hold"
[[rule]]
name = "e"
resolve = "function"
function = "public.\"Price\""
"#,
];

/// A slip: where (by share of the text) and what.
#[derive(Clone, Debug)]
enum Slip {
    Replace(usize, u8),
    Insert(usize, u8),
    Remove(usize, usize),
    SwapLines(usize, usize),
    RepeatLine(usize),
}

fn slip() -> impl Strategy<Value = Slip> {
    let odd = prop_oneof![prop::sample::select(b"[]{}=\"',.*#\n\\x0\xc3\xff".to_vec()), any::<u8>()];
    prop_oneof![
        (any::<usize>(), odd.clone()).prop_map(|(at, byte)| Slip::Replace(at, byte)),
        (any::<usize>(), odd).prop_map(|(at, byte)| Slip::Insert(at, byte)),
        (any::<usize>(), 1..12_usize).prop_map(|(at, length)| Slip::Remove(at, length)),
        (any::<usize>(), any::<usize>()).prop_map(|(a, b)| Slip::SwapLines(a, b)),
        any::<usize>().prop_map(Slip::RepeatLine),
    ]
}

fn with(text: &[u8], slip: &Slip) -> Vec<u8> {
    let mut bytes = text.to_vec();
    let lines = || text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>();
    let at = |place: usize| place % text.len().max(1);
    match slip {
        Slip::Replace(place, byte) => {
            if let Some(there) = bytes.get_mut(at(*place)) {
                *there = *byte;
            }
        }
        Slip::Insert(place, byte) => bytes.insert(at(*place), *byte),
        Slip::Remove(place, length) => {
            let end = (at(*place) + length).min(bytes.len());
            bytes.drain(at(*place).min(end)..end);
        }
        Slip::SwapLines(a, b) => {
            let mut lines = lines();
            let count = lines.len();
            lines.swap(a % count, b % count);
            bytes = lines.join(&b'\n');
        }
        Slip::RepeatLine(place) => {
            let mut lines = lines();
            let line = place % lines.len();
            lines.insert(line, lines[line].clone());
            bytes = lines.join(&b'\n');
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn a_malformed_file_is_told_by_line_and_column(
        which in 0..VALID.len(),
        slips in prop::collection::vec(slip(), 1..5),
    ) {
        let bytes = slips.iter().fold(VALID[which].as_bytes().to_vec(), |text, slip| with(&text, slip));
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let mut problems = Vec::new();
        let rules = super::parse(Path::new("a.toml"), &text, &["east", "west"], &mut problems);
        let count = problems.len();
        let mut report = Report::default();
        report.add(Path::new("a.toml"), &text, problems);
        let lines = text.split('\n').count();
        for each in report.located() {
            prop_assert!((1..=lines).contains(&each.line), "line {} of {lines}", each.line);
            let length = text.split('\n').nth(each.line - 1).map_or(0, |line| line.chars().count());
            prop_assert!((1..=length + 1).contains(&each.column), "column {} of {length}", each.column);
        }
        let shown = report.render(Style::Plain);
        prop_assert_eq!(shown.matches("--> a.toml:").count(), count, "{}", shown);
        for rule in rules {
            let place = rule.place.line;
            prop_assert!(text.lines().nth(place - 1).is_some_and(|line| line.contains("rule")), "{place}");
        }
    }
}
