//! Texts to which nodes appended without seeing each other → one text with all of their entries.
//!
//! An entry is what stands between two separators. The texts have most of them in common: what stood there before, and
//! what one author already had of another's. So the earliest text stands as it is, and each later one adds those of its
//! entries that are not there as often already. This counts no entry twice that came to an author by replication,
//! wherever in his text it stands; and of an entry that two authors wrote word for word alike there is one.

use std::collections::HashMap;

use crate::conflict::merge::Value;

/// One text from several, in the order of their stamps. NULL and empty texts add nothing; what ends in a separator keeps
/// it at the end.
pub fn together(values: &[Value], separator: &str) -> Value {
    let separator = separator.as_bytes();
    let texts = || values.iter().flatten().filter(|text| !text.is_empty());
    if texts().next().is_none() {
        return values.iter().flatten().next().cloned();
    }
    let mut entries: Vec<&[u8]> = Vec::new();
    let mut there: HashMap<&[u8], usize> = HashMap::new();
    for text in texts() {
        let mut own: HashMap<&[u8], usize> = HashMap::new();
        for entry in split(text.strip_suffix(separator).unwrap_or(text), separator) {
            let own = own.entry(entry).or_default();
            let there = there.entry(entry).or_default();
            *own += 1;
            if *own > *there {
                *there = *own;
                entries.push(entry);
            }
        }
    }
    let mut whole = entries.join(separator);
    if texts().any(|text| text.ends_with(separator)) {
        whole.extend_from_slice(separator);
    }
    Some(whole)
}

fn split<'t>(text: &'t [u8], separator: &[u8]) -> Vec<&'t [u8]> {
    let mut entries = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(separator.len()).position(|bytes| bytes == separator) {
        entries.push(&rest[..at]);
        rest = &rest[at + separator.len()..];
    }
    entries.push(rest);
    entries
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(text: &str) -> Value {
        Some(text.as_bytes().to_vec())
    }

    fn made(texts: &[&str], separator: &str) -> String {
        let values: Vec<Value> = texts.iter().map(|text| value(text)).collect();
        String::from_utf8(together(&values, separator).expect("not NULL")).expect("UTF-8")
    }

    #[test]
    fn what_each_appended_follows_what_they_had_in_common() {
        assert_eq!(made(&["x\na", "x\nb", "x\nc\nd"], "\n"), "x\na\nb\nc\nd");
        assert_eq!(made(&["x; a", "x; b"], "; "), "x; a; b");
        assert_eq!(made(&["x; a", "x; b"], "\n"), "x; a\nx; b");
        assert_eq!(made(&["a", "b"], "\n"), "a\nb");
        assert_eq!(made(&["größe·ä", "größe·ö"], "·"), "größe·ä·ö");
    }

    /// East appended a, west b and then c; east had seen b when it appended d, west had seen neither a nor d.
    #[test]
    fn an_entry_that_an_author_had_from_another_is_there_once() {
        assert_eq!(made(&["x\nb\nc", "x\na\nb\nd"], "\n"), "x\nb\nc\na\nd");
        assert_eq!(made(&["x\na\nb\nd", "x\nb\nc"], "\n"), "x\na\nb\nd\nc");
    }

    #[test]
    fn an_entry_is_there_as_often_as_any_has_it() {
        assert_eq!(made(&["x\nok", "x\nok"], "\n"), "x\nok");
        assert_eq!(made(&["ok\nok", "ok\nno\nok\nok"], "\n"), "ok\nok\nno\nok");
    }

    #[test]
    fn a_text_that_was_replaced_takes_nothing_away() {
        assert_eq!(made(&["new", "x\na"], "\n"), "new\nx\na");
        assert_eq!(made(&["x\na", "", "new"], "\n"), "x\na\nnew");
    }

    #[test]
    fn separators_at_the_end_stay_there() {
        assert_eq!(made(&["x\na\n", "x\nb\n"], "\n"), "x\na\nb\n");
        assert_eq!(made(&["; a", "; b"], "; "), "; a; b");
    }

    #[test]
    fn nothing_comes_of_nothing() {
        assert_eq!(together(&[None, None], "\n"), None);
        assert_eq!(together(&[None, value("")], "\n"), value(""));
        assert_eq!(together(&[None, value("x\na"), value("")], "\n"), value("x\na"));
    }

    /// Authors at three nodes who append, or receive what there is and append to that.
    fn histories() -> impl Strategy<Value = (Vec<String>, Vec<(usize, Option<usize>)>)> {
        let base = prop::collection::vec("[xy]", 0..3);
        (base, prop::collection::vec((0..3_usize, prop::option::of(0..3_usize)), 1..12))
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_is_there_twice((base, steps) in histories(), at_end in any::<bool>()) {
            let ended = |entries: &[String]| {
                let text = entries.join("; ");
                value(&if at_end && !text.is_empty() { format!("{text}; ") } else { text })
            };
            let mut nodes: [Vec<String>; 3] = [const { Vec::new() }; 3];
            nodes.fill(base.clone());
            for (number, (at, from)) in steps.iter().enumerate() {
                if let Some(from) = from {
                    let both = together(&[ended(&nodes[*at]), ended(&nodes[*from])], "; ").expect("a text");
                    let both = String::from_utf8(both).expect("UTF-8");
                    let both = both.strip_suffix("; ").unwrap_or(&both);
                    nodes[*at] = both.split("; ").filter(|entry| !entry.is_empty()).map(str::to_owned).collect();
                }
                nodes[*at].push(format!("e{number}"));
            }
            let values: Vec<Value> = nodes.iter().map(|entries| ended(entries)).collect();
            let whole = String::from_utf8(together(&values, "; ").expect("a text")).expect("UTF-8");
            let found: Vec<&str> = whole.split("; ").filter(|entry| !entry.is_empty()).collect();
            prop_assert_eq!(&found[..base.len()], &base[..], "what they had in common comes first");
            let mut added: Vec<String> = found[base.len()..].iter().map(|entry| (*entry).to_owned()).collect();
            added.sort();
            let mut expected: Vec<String> = (0..steps.len()).map(|number| format!("e{number}")).collect();
            expected.sort();
            prop_assert_eq!(added, expected);
        }

        #[test]
        fn whatever_the_texts_every_entry_is_there_as_often_as_any_has_it(
            texts in prop::collection::vec("[ab;]{0,8}", 1..5),
        ) {
            let whole = made(&texts.iter().map(String::as_str).collect::<Vec<_>>(), ";");
            let count = |text: &str, entry: &str| {
                let text = text.strip_suffix(';').unwrap_or(text);
                text.split(';').filter(|each| *each == entry).count()
            };
            for entry in texts.iter().chain([&whole]).flat_map(|text| text.split(';')).filter(|entry| !entry.is_empty()) {
                let most = texts.iter().map(|text| count(text, entry)).max();
                prop_assert_eq!(Some(count(&whole, entry)), most, "{:?} of {:?}: {:?}", entry, texts, whole);
            }
        }
    }
}
