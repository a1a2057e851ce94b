//! How values compare where they identify rows: the one text that stands for all texts that a type calls equal.
//!
//! Texts are those of the types' output functions under the pinned session settings. Nested types are read as their
//! own output functions write them: `array_out`, `record_out`, `range_out` and `multirange_out` in
//! src/backend/utils/adt.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

/// How a key column's text is brought to one form for all values that its type calls equal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyForm {
    /// Equal values have equal bytes: integers, uuid, bool, text under a deterministic collation, dates and
    /// times under pinned settings, bytea, enums and the like.
    Bytes,
    /// `numeric`: scale does not count, 1.0 = 1.00.
    Numeric,
    /// `float4`, `float8`: −0 = 0.
    Float,
    /// `character(n)`: trailing blanks do not count.
    Blank,
    /// `interval`: a month is 30 days, a day 24 hours.
    Interval,
    /// `jsonb`: numbers in it compare as numeric.
    Jsonb,
    /// `citext`: texts compare in lower case.
    Folded(Arc<CaseMap>),
    /// An array: dimensions, lower bounds, elements.
    Array(Arc<KeyForm>),
    /// A range over the form of its bounds.
    Range(Arc<KeyForm>),
    /// A multirange over the form of its bounds.
    Multirange(Arc<KeyForm>),
    /// A composite type: column by column.
    Record(Arc<[KeyForm]>),
}

/// The characters that a server's `lower()` changes, each with what it makes of them.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct CaseMap(HashMap<char, String>);

impl CaseMap {
    /// From the pairs.
    pub fn new(pairs: impl IntoIterator<Item = (char, String)>) -> CaseMap {
        CaseMap(pairs.into_iter().collect())
    }

    /// A character that the two make different things of.
    pub fn first_difference(&self, other: &CaseMap) -> Option<char> {
        let differs = |c: &&char| self.0.get(c) != other.0.get(c);
        self.0.keys().chain(other.0.keys()).find(differs).copied()
    }

    fn fold<'a>(&self, text: &'a [u8]) -> Cow<'a, [u8]> {
        let Ok(text) = std::str::from_utf8(text) else { return Cow::Borrowed(text) };
        if !text.chars().any(|c| self.0.contains_key(&c)) {
            return Cow::Borrowed(text.as_bytes());
        }
        let mut folded = String::with_capacity(text.len());
        for c in text.chars() {
            match self.0.get(&c) {
                Some(lower) => folded.push_str(lower),
                None => folded.push(c),
            }
        }
        Cow::Owned(folded.into_bytes())
    }
}

/// The one text that stands for all texts that the column's type calls equal. A text that is not as the type's output
/// function writes it stands for itself.
pub fn canonical<'a>(text: &'a [u8], form: &KeyForm) -> Cow<'a, [u8]> {
    match form {
        KeyForm::Bytes => Cow::Borrowed(text),
        KeyForm::Blank => Cow::Borrowed(trim_end(text, b' ')),
        KeyForm::Float if text == b"-0" => Cow::Borrowed(b"0"),
        KeyForm::Float => Cow::Borrowed(text),
        KeyForm::Numeric => Cow::Borrowed(numeric(text)),
        KeyForm::Interval => interval(text).map_or(Cow::Borrowed(text), Cow::Owned),
        KeyForm::Jsonb => jsonb(text),
        KeyForm::Folded(map) => map.fold(text),
        KeyForm::Array(_) | KeyForm::Range(_) | KeyForm::Multirange(_) | KeyForm::Record(_) => {
            let mut nested = Nested { text, at: 0, out: Vec::with_capacity(text.len() + 16) };
            match nested.read(form) {
                Some(()) if nested.at == text.len() => Cow::Owned(nested.out),
                _ => Cow::Borrowed(text),
            }
        }
    }
}

fn trim_end(text: &[u8], byte: u8) -> &[u8] {
    &text[..text.iter().rposition(|b| *b != byte).map_or(0, |last| last + 1)]
}

fn numeric(text: &[u8]) -> &[u8] {
    if !text.contains(&b'.') {
        return text;
    }
    let trimmed = trim_end(text, b'0');
    trimmed.strip_suffix(b".").unwrap_or(trimmed)
}

/// Microseconds, as `interval_cmp_value` of src/backend/utils/adt/timestamp.c counts them, from IntervalStyle postgres.
fn interval(text: &[u8]) -> Option<Vec<u8>> {
    let mut words = std::str::from_utf8(text).ok()?.split(' ');
    let (mut days, mut micros) = (0i128, 0i128);
    while let Some(word) = words.next() {
        if word.contains(':') {
            micros += clock(word)?;
            continue;
        }
        let count: i128 = word.strip_prefix('+').unwrap_or(word).parse().ok()?;
        days += count
            * match words.next()? {
                "year" | "years" => 360,
                "mon" | "mons" => 30,
                "day" | "days" => 1,
                _ => return None,
            };
    }
    Some((days * 86_400_000_000 + micros).to_string().into_bytes())
}

/// `[+-]hours:minutes:seconds[.fraction]` in microseconds.
fn clock(word: &str) -> Option<i128> {
    let (sign, word) = match word.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, word.strip_prefix('+').unwrap_or(word)),
    };
    let mut parts = word.split(':');
    let (hours, minutes, seconds) = (parts.next()?, parts.next()?, parts.next()?);
    let (seconds, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
    let number = |digits: &str| digits.parse::<i128>().ok();
    let fraction = number(&format!("{fraction:0<6}"))?;
    Some(sign * ((number(hours)? * 3_600 + number(minutes)? * 60 + number(seconds)?) * 1_000_000 + fraction))
}

/// Numbers outside strings without their scale; the rest of `jsonb_out`'s text is the same for equal values.
fn jsonb(text: &[u8]) -> Cow<'_, [u8]> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let start = at;
        match byte {
            b'"' => {
                at += 1;
                while text.get(at).is_some_and(|b| *b != b'"') {
                    at += if text[at] == b'\\' { 2 } else { 1 };
                }
                at = (at + 1).min(text.len());
                out.extend_from_slice(&text[start..at]);
            }
            b'-' | b'0'..=b'9' => {
                let end = |b: &u8| !matches!(b, b'-' | b'.' | b'0'..=b'9');
                at = text[start..].iter().position(end).map_or(text.len(), |length| start + length);
                out.extend_from_slice(numeric(&text[start..at]));
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    Cow::Owned(out)
}

/// A nested value that is being read: its structure as it is, each part by its length and its canonical text.
struct Nested<'a> {
    text: &'a [u8],
    at: usize,
    out: Vec<u8>,
}

impl Nested<'_> {
    fn read(&mut self, form: &KeyForm) -> Option<()> {
        match form {
            KeyForm::Array(element) => self.array(element),
            KeyForm::Record(columns) => self.record(columns),
            KeyForm::Range(bound) => self.range(bound),
            KeyForm::Multirange(bound) => self.multirange(bound),
            _ => None,
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Takes the next byte if it is `byte`.
    fn skip(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn structure(&mut self) -> Option<()> {
        self.out.push(self.peek()?);
        self.at += 1;
        Some(())
    }

    fn part(&mut self, text: &[u8], form: &KeyForm) {
        let text = canonical(text, form);
        self.out.push(b'=');
        self.out.extend_from_slice(&(text.len() as u64).to_be_bytes());
        self.out.extend_from_slice(&text);
    }

    /// A text up to one of `ends`, quotes taken away; and whether there were any.
    fn word(&mut self, ends: &[u8]) -> Option<(Vec<u8>, bool)> {
        let (mut word, mut quoted, mut inside) = (Vec::new(), false, false);
        loop {
            let byte = self.peek()?;
            match byte {
                b'"' if inside && self.text.get(self.at + 1) == Some(&b'"') => {
                    word.push(b'"');
                    self.at += 1;
                }
                b'"' => (inside, quoted) = (!inside, true),
                b'\\' => {
                    self.at += 1;
                    word.push(self.peek()?);
                }
                _ if !inside && ends.contains(&byte) => return Some((word, quoted)),
                _ => word.push(byte),
            }
            self.at += 1;
        }
    }

    fn array(&mut self, element: &KeyForm) -> Option<()> {
        if self.peek()? == b'[' {
            while self.peek()? != b'=' {
                self.structure()?;
            }
            self.skip(b'=')?;
        }
        let mut depth = 0;
        loop {
            match self.peek()? {
                b'{' => depth += 1,
                b'}' => depth -= 1,
                b',' => {}
                _ => {
                    let (word, quoted) = self.word(b",}")?;
                    match !quoted && word.eq_ignore_ascii_case(b"NULL") {
                        true => self.out.push(b'N'),
                        false => self.part(&word, element),
                    }
                    continue;
                }
            }
            self.structure()?;
            if depth == 0 {
                return Some(());
            }
        }
    }

    fn record(&mut self, columns: &[KeyForm]) -> Option<()> {
        self.skip(b'(')?;
        for (i, form) in columns.iter().enumerate() {
            if i > 0 {
                self.skip(b',')?;
            }
            let (word, quoted) = self.word(b",)")?;
            match word.is_empty() && !quoted {
                true => self.out.push(b'N'),
                false => self.part(&word, form),
            }
        }
        self.skip(b')')
    }

    fn range(&mut self, bound: &KeyForm) -> Option<()> {
        if self.text[self.at..].starts_with(b"empty") {
            self.at += 5;
            self.out.push(b'E');
            return Some(());
        }
        self.structure()?;
        for ends in [b",", b")]".as_slice()] {
            let (word, quoted) = self.word(ends)?;
            match word.is_empty() && !quoted {
                true => self.out.push(b'N'),
                false => self.part(&word, bound),
            }
            self.structure()?;
        }
        Some(())
    }

    fn multirange(&mut self, bound: &KeyForm) -> Option<()> {
        self.skip(b'{')?;
        while self.peek()? != b'}' {
            self.range(bound)?;
            if self.peek()? == b',' {
                self.at += 1;
            }
        }
        self.skip(b'}')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(form: &KeyForm, a: &str, b: &str) -> bool {
        canonical(a.as_bytes(), form) == canonical(b.as_bytes(), form)
    }

    fn array(element: KeyForm) -> KeyForm {
        KeyForm::Array(Arc::new(element))
    }

    #[test]
    fn values_that_their_type_calls_equal_have_one_form() {
        let folded = KeyForm::Folded(Arc::new(CaseMap::new([('A', "a".to_owned()), ('Ä', "ä".to_owned())])));
        let range = KeyForm::Range(Arc::new(KeyForm::Numeric));
        let record = KeyForm::Record([KeyForm::Bytes, KeyForm::Numeric].into());
        for (form, a, b) in [
            (KeyForm::Numeric, "1.0", "1.00"),
            (KeyForm::Numeric, "1", "1.0"),
            (KeyForm::Numeric, "0.0", "0"),
            (KeyForm::Numeric, "-10.50", "-10.5"),
            (KeyForm::Float, "-0", "0"),
            (KeyForm::Blank, "ab  ", "ab"),
            (KeyForm::Interval, "1 mon", "30 days"),
            (KeyForm::Interval, "1 day", "24:00:00"),
            (KeyForm::Interval, "-1 years -2 mons +3 days -04:05:06.7", "-417 days -04:05:06.7"),
            (KeyForm::Interval, "00:00:00", "00:00:00.0"),
            (KeyForm::Jsonb, r#"{"a": 1.0, "b": [-2.50, "1.0"]}"#, r#"{"a": 1.00, "b": [-2.5, "1.0"]}"#),
            (folded, "Äa", "äA"),
            (array(KeyForm::Numeric), "{1.0,NULL}", "{1,NULL}"),
            (array(KeyForm::Numeric), "[0:1]={1.0,2}", "[0:1]={1,2.0}"),
            (range.clone(), "[1.0,2.50)", "[1,2.5)"),
            (KeyForm::Multirange(Arc::new(KeyForm::Numeric)), "{[1.0,2),[3,)}", "{[1,2.0),[3.0,)}"),
            (array(range), r#"{"[1.0,2)",empty}"#, r#"{"[1,2.0)",empty}"#),
            (record.clone(), "(a,1.0)", "(a,1)"),
            (array(record), r#"{"(\"a b\",1.0)"}"#, r#"{"(\"a b\",1)"}"#),
        ] {
            assert!(same(&form, a, b), "{form:?} {a} {b}");
        }
    }

    #[test]
    fn values_that_differ_have_different_forms() {
        for (form, a, b) in [
            (KeyForm::Numeric, "100", "1"),
            (KeyForm::Numeric, "NaN", "Infinity"),
            (KeyForm::Bytes, "ab ", "ab"),
            (KeyForm::Blank, " ab", "ab"),
            (KeyForm::Interval, "1 day", "1 day 00:00:00.000001"),
            (KeyForm::Interval, "infinity", "-infinity"),
            (KeyForm::Jsonb, r#"{"a": "1.0"}"#, r#"{"a": "1.00"}"#),
            (array(KeyForm::Bytes), "{a,b}", r#"{"a,b"}"#),
            (array(KeyForm::Bytes), "{NULL}", r#"{"NULL"}"#),
            (array(KeyForm::Bytes), "{a}", "[0:0]={a}"),
            (array(KeyForm::Bytes), "{{a,b}}", "{a,b}"),
            (array(KeyForm::Bytes), "{}", r#"{""}"#),
            (KeyForm::Range(Arc::new(KeyForm::Bytes)), "[a,b)", "[a,b]"),
            (KeyForm::Range(Arc::new(KeyForm::Bytes)), r#"("",b)"#, "(,b)"),
            (KeyForm::Record([KeyForm::Bytes, KeyForm::Bytes].into()), "(a,)", r#"(a,"")"#),
        ] {
            assert!(!same(&form, a, b), "{form:?} {a} {b}");
        }
    }

    proptest::proptest! {
        /// Whatever the text is: no panic, and what can't be read stands for itself.
        #[test]
        fn any_text_has_a_form(text in r#"[-+\[\]{}(),"\\ 0-9a-zN:.=]{0,40}"#) {
            let record = KeyForm::Record([KeyForm::Interval, KeyForm::Jsonb].into());
            for form in [
                KeyForm::Interval,
                KeyForm::Jsonb,
                array(record.clone()),
                record,
                KeyForm::Multirange(Arc::new(KeyForm::Numeric)),
                KeyForm::Range(Arc::new(KeyForm::Numeric)),
            ] {
                proptest::prop_assert!(same(&form, &text, &text));
            }
        }
    }
}
