//! Values of built-in types in binary format, made of the text of their output functions: the server reads that in less
//! time than text, and it is the same in all versions.
//!
//! A text that is not as the output function writes it under the pinned settings has no binary format here, nor has one that
//! is rare and intricate (years before Christ): it goes as text. Formats: the `…recv` functions in src/backend/utils/adt,
//! `numeric_recv` in numeric.c, `timestamptz_recv` in timestamp.c.

use bytes::BufMut;
use chrono::{Datelike, NaiveDate};

/// A value that takes more bytes goes as text, which may be cut anywhere on its way.
const MOST_BYTES: usize = 16 << 20;
/// 1 January 2000 as chrono counts days.
const EPOCH_DAYS: i32 = 730_120;
const DAY_MICROS: i64 = 86_400_000_000;

/// A built-in type with a binary format that can be made of its text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BinaryType {
    /// `bool`
    Bool,
    /// `int2`
    Int2,
    /// `int4`
    Int4,
    /// `int8`
    Int8,
    /// `oid`
    Oid,
    /// `float4`
    Float4,
    /// `float8`
    Float8,
    /// `numeric`
    Numeric,
    /// `date`
    Date,
    /// `time`
    Time,
    /// `timestamp`
    Timestamp,
    /// `timestamptz`
    TimestampTz,
    /// `uuid`
    Uuid,
    /// `bytea`
    Bytea,
    /// `jsonb`
    Jsonb,
    /// `text`, `varchar`, `bpchar`, `json`: the text itself.
    Text,
}

/// The array type over a type, as src/include/catalog/pg_type.dat has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArrayType {
    /// The array's OID.
    pub oid: u32,
    /// The OID of its elements.
    pub element: u32,
}

impl BinaryType {
    /// Of a type's name as [`crate::model::Column::sql_type`] has it.
    pub fn of(sql_type: &str) -> Option<BinaryType> {
        let name = sql_type.strip_prefix("pg_catalog.")?;
        Some(match name.trim_matches('"') {
            "bool" => BinaryType::Bool,
            "int2" => BinaryType::Int2,
            "int4" => BinaryType::Int4,
            "int8" => BinaryType::Int8,
            "oid" => BinaryType::Oid,
            "float4" => BinaryType::Float4,
            "float8" => BinaryType::Float8,
            "numeric" => BinaryType::Numeric,
            "date" => BinaryType::Date,
            "time" => BinaryType::Time,
            "timestamp" => BinaryType::Timestamp,
            "timestamptz" => BinaryType::TimestampTz,
            "uuid" => BinaryType::Uuid,
            "bytea" => BinaryType::Bytea,
            "jsonb" => BinaryType::Jsonb,
            "text" | "varchar" | "bpchar" | "json" => BinaryType::Text,
            _ => return None,
        })
    }

    /// The array of such values; `None` where an array of text does as well.
    pub fn array(self) -> Option<ArrayType> {
        let (oid, element) = match self {
            BinaryType::Bool => (1000, 16),
            BinaryType::Int2 => (1005, 21),
            BinaryType::Int4 => (1007, 23),
            BinaryType::Int8 => (1016, 20),
            BinaryType::Oid => (1028, 26),
            BinaryType::Float4 => (1021, 700),
            BinaryType::Float8 => (1022, 701),
            BinaryType::Numeric => (1231, 1700),
            BinaryType::Date => (1182, 1082),
            BinaryType::Time => (1183, 1083),
            BinaryType::Timestamp => (1115, 1114),
            BinaryType::TimestampTz => (1185, 1184),
            BinaryType::Uuid => (2951, 2950),
            BinaryType::Bytea => (1001, 17),
            BinaryType::Jsonb => (3807, 3802),
            BinaryType::Text => return None,
        };
        Some(ArrayType { oid, element })
    }

    /// Writes the value's length (4 bytes) and the value; `None` if the text has no binary format here, and then what is in `out`
    /// behind what was there means nothing.
    pub fn write<O: BufMut + AsMut<[u8]>>(self, text: &[u8], out: &mut O) -> Option<()> {
        if text.len() > MOST_BYTES {
            return None;
        }
        let start = out.as_mut().len();
        out.put_i32(0);
        self.put(text, out)?;
        let written = out.as_mut();
        let length = i32::try_from(written.len() - start - 4).ok()?;
        written[start..start + 4].copy_from_slice(&length.to_be_bytes());
        Some(())
    }

    fn put(self, text: &[u8], out: &mut impl BufMut) -> Option<()> {
        match self {
            BinaryType::Bool if text == b"t" => out.put_u8(1),
            BinaryType::Bool if text == b"f" => out.put_u8(0),
            BinaryType::Bool => return None,
            BinaryType::Int2 => out.put_i16(number(text)?),
            BinaryType::Int4 => out.put_i32(number(text)?),
            BinaryType::Int8 => out.put_i64(number(text)?),
            BinaryType::Oid => out.put_u32(number(text)?),
            BinaryType::Float4 => out.put_f32(number(text).filter(|n: &f32| n.is_finite() || is_special(text))?),
            BinaryType::Float8 => out.put_f64(number(text).filter(|n: &f64| n.is_finite() || is_special(text))?),
            BinaryType::Numeric => return numeric(text, out),
            BinaryType::Date => out.put_i32(match text {
                b"infinity" => i32::MAX,
                b"-infinity" => i32::MIN,
                _ => date(text)?,
            }),
            BinaryType::Time => out.put_i64(time(text)?),
            BinaryType::Timestamp => out.put_i64(timestamp(text, b"")?),
            BinaryType::TimestampTz => out.put_i64(timestamp(text, b"+00")?),
            BinaryType::Uuid => return uuid(text, out),
            BinaryType::Bytea => return hex(text.strip_prefix(b"\\x")?, out),
            BinaryType::Jsonb => {
                out.put_u8(1); // the version of the format
                out.put_slice(text);
            }
            BinaryType::Text => out.put_slice(text),
        }
        Some(())
    }
}

/// A float beyond all numbers; one that is only too large is an error, which is the server's to tell.
fn is_special(text: &[u8]) -> bool {
    matches!(text, b"NaN" | b"Infinity" | b"-Infinity")
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Digits and nothing else.
fn digits(text: &[u8]) -> Option<u32> {
    let digit = |so_far: u32, byte: &u8| match byte {
        b'0'..=b'9' => so_far.checked_mul(10)?.checked_add(u32::from(byte - b'0')),
        _ => None,
    };
    if text.is_empty() { None } else { text.iter().try_fold(0, digit) }
}

/// Days since 2000: `2026-11-28`.
fn date(text: &[u8]) -> Option<i32> {
    let (year, rest) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let [b'-', m1, m2, b'-', d1, d2] = *rest else { return None };
    let day = NaiveDate::from_ymd_opt(i32::try_from(digits(year)?).ok()?, digits(&[m1, m2])?, digits(&[d1, d2])?)?;
    (year.len() >= 4).then(|| day.num_days_from_ce() - EPOCH_DAYS)
}

/// Microseconds since midnight: `14:20:11.1234`.
fn time(text: &[u8]) -> Option<i64> {
    let (clock, fraction) = text.split_at_checked(8)?;
    let [h1, h2, b':', m1, m2, b':', s1, s2] = *clock else { return None };
    let seconds = digits(&[h1, h2])? * 3600 + digits(&[m1, m2])? * 60 + digits(&[s1, s2])?;
    let micros = match fraction {
        [] => 0,
        [b'.', places @ ..] if places.len() <= 6 => digits(places)? * 10_u32.pow(6 - u32::try_from(places.len()).ok()?),
        _ => return None,
    };
    Some(i64::from(seconds) * 1_000_000 + i64::from(micros))
}

/// Microseconds since 2000: `2026-11-28 14:20:11.1234` and what follows.
fn timestamp(text: &[u8], zone: &[u8]) -> Option<i64> {
    match text {
        b"infinity" => return Some(i64::MAX),
        b"-infinity" => return Some(i64::MIN),
        _ => {}
    }
    let text = text.strip_suffix(zone)?;
    let space = text.iter().position(|byte| *byte == b' ')?;
    i64::from(date(&text[..space])?).checked_mul(DAY_MICROS)?.checked_add(time(&text[space + 1..])?)
}

fn uuid(text: &[u8], out: &mut impl BufMut) -> Option<()> {
    let mut groups = text.split(|byte| *byte == b'-');
    for length in [8, 4, 4, 4, 12] {
        hex(groups.next().filter(|group| group.len() == length)?, out)?;
    }
    groups.next().is_none().then_some(())
}

fn hex(text: &[u8], out: &mut impl BufMut) -> Option<()> {
    let nibble = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_chunks::<2>();
    for [high, low] in pairs {
        out.put_u8(nibble(*high)? << 4 | nibble(*low)?);
    }
    rest.is_empty().then_some(())
}

/// Digits to the base of 10,000, of which `weight` + 1 stand before the point; and how many decimals are shown.
fn numeric(text: &[u8], out: &mut impl BufMut) -> Option<()> {
    const NEGATIVE: u16 = 0x4000;
    let mut put = |count: u16, weight: i16, sign: u16, scale: u16| {
        out.put_u16(count);
        out.put_i16(weight);
        out.put_u16(sign);
        out.put_u16(scale);
    };
    let special = match text {
        b"NaN" => Some((0xC000, 0)),
        b"Infinity" => Some((0xD000, 0x20)), // a scale as the server sends it, and does not read
        b"-Infinity" => Some((0xF000, 0x20)),
        _ => None,
    };
    if let Some((sign, scale)) = special {
        put(0, 0, sign, scale);
        return Some(());
    }
    let (sign, text) = text.strip_prefix(b"-").map_or((0, text), |rest| (NEGATIVE, rest));
    let point = text.iter().position(|byte| *byte == b'.').unwrap_or(text.len());
    let (whole, fraction) = (&text[..point], text.get(point + 1..).unwrap_or_default());
    if whole.is_empty() || (point < text.len()) == fraction.is_empty() {
        return None;
    }
    let (first, aligned) = whole.split_at(whole.len() % 4);
    let mut groups = Vec::with_capacity(text.len() / 4 + 2);
    if !first.is_empty() {
        groups.push(digits(first)?);
    }
    for group in aligned.chunks(4) {
        groups.push(digits(group)?);
    }
    let before_point = groups.len();
    for group in fraction.chunks(4) {
        groups.push(digits(group)? * 10_u32.pow(4 - u32::try_from(group.len()).ok()?));
    }
    let zeros = groups.iter().take_while(|group| **group == 0).count();
    while groups.last() == Some(&0) {
        groups.pop();
    }
    let groups = groups.get(zeros..).unwrap_or_default();
    let (sign, weight) = match groups {
        [] => (0, 0),
        _ => (sign, i16::try_from(before_point).ok()?.checked_sub(i16::try_from(zeros).ok()?)? - 1),
    };
    put(u16::try_from(groups.len()).ok()?, weight, sign, u16::try_from(fraction.len()).ok()?);
    for group in groups {
        out.put_u16(u16::try_from(*group).ok()?);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(sql_type: &str, text: &str) -> Option<Vec<u8>> {
        let mut out = b"before".to_vec();
        BinaryType::of(sql_type)?.write(text.as_bytes(), &mut out)?;
        let length = u32::from_be_bytes(out[6..10].try_into().unwrap());
        assert_eq!((&out[..6], length as usize), (&b"before"[..], out.len() - 10), "{text}");
        Some(out[10..].to_vec())
    }

    fn words(words: &[i16]) -> Option<Vec<u8>> {
        Some(words.iter().flat_map(|word| word.to_be_bytes()).collect())
    }

    #[test]
    fn numbers() {
        assert_eq!(binary("pg_catalog.int2", "-32768"), Some(i16::MIN.to_be_bytes().to_vec()));
        assert_eq!(binary("pg_catalog.int2", "32768"), None);
        assert_eq!(binary("pg_catalog.int4", "7"), Some(vec![0, 0, 0, 7]));
        assert_eq!(binary("pg_catalog.int8", "-1"), Some(vec![255; 8]));
        assert_eq!(binary("pg_catalog.oid", "4294967295"), Some(vec![255; 4]));
        assert_eq!(binary("pg_catalog.float8", "-0"), Some((-0.0_f64).to_be_bytes().to_vec()));
        assert_eq!(binary("pg_catalog.float4", "Infinity"), Some(f32::INFINITY.to_be_bytes().to_vec()));
        assert_eq!(binary("pg_catalog.float8", "1e400"), None);
        assert_eq!(binary("pg_catalog.float4", "inf"), None);
        assert_eq!(binary("pg_catalog.bool", "t"), Some(vec![1]));
        assert_eq!(binary("pg_catalog.bool", "true"), None);
    }

    #[test]
    fn numerics() {
        let numeric = |text| binary("pg_catalog.\"numeric\"", text);
        assert_eq!(numeric("0"), words(&[0, 0, 0, 0]));
        assert_eq!(numeric("-0.00"), words(&[0, 0, 0, 2]));
        assert_eq!(numeric("123.4500"), words(&[2, 0, 0, 4, 123, 4500]));
        assert_eq!(numeric("-12345.6"), words(&[3, 1, 0x4000, 1, 1, 2345, 6000]));
        assert_eq!(numeric("0.00001"), words(&[1, -2, 0, 5, 1000]));
        assert_eq!(numeric("120000000"), words(&[2, 2, 0, 0, 1, 2000]));
        assert_eq!(numeric("NaN").map(|of| of[4]), Some(0xC0));
        for text in ["", "-", ".5", "5.", "1e5", "--1", "1.2.3", "Infinity "] {
            assert_eq!(numeric(text), None, "{text}");
        }
    }

    #[test]
    fn times() {
        let micros = |of: &str, text| binary(of, text).map(|of| i64::from_be_bytes(of.try_into().unwrap()));
        assert_eq!(micros("pg_catalog.timestamptz", "2000-01-02 00:00:01.5+00"), Some(DAY_MICROS + 1_500_000));
        assert_eq!(micros("pg_catalog.\"timestamp\"", "1999-12-31 23:59:59.999999"), Some(-1));
        assert_eq!(micros("pg_catalog.timestamptz", "infinity"), Some(i64::MAX));
        assert_eq!(micros("pg_catalog.\"timestamp\"", "-infinity"), Some(i64::MIN));
        assert_eq!(micros("pg_catalog.\"time\"", "24:00:00"), Some(DAY_MICROS));
        assert_eq!(binary("pg_catalog.date", "2000-03-01"), Some(60_i32.to_be_bytes().to_vec()));
        assert_eq!(binary("pg_catalog.date", "10000-01-01"), Some(2_921_940_i32.to_be_bytes().to_vec()));
        for text in
            ["2026-02-30 00:00:00+00", "2026-01-01 00:00:00+01", "2026-01-01 00:00:00", "0044-03-15 12:00:00+00 BC"]
        {
            assert_eq!(micros("pg_catalog.timestamptz", text), None, "{text}");
        }
        assert_eq!(binary("pg_catalog.date", "26-01-01"), None);
    }

    #[test]
    fn bytes_and_texts() {
        let uuid = "00112233-4455-6677-8899-aabbccddeeff";
        let expected: Vec<u8> = (0..16).map(|i| i * 0x11).collect();
        assert_eq!(binary("pg_catalog.uuid", uuid), Some(expected));
        assert_eq!(binary("pg_catalog.uuid", &uuid[1..]), None);
        assert_eq!(binary("pg_catalog.bytea", "\\x00ff"), Some(vec![0, 255]));
        assert_eq!(binary("pg_catalog.bytea", "\\x0"), None);
        assert_eq!(binary("pg_catalog.jsonb", "{}"), Some(b"\x01{}".to_vec()));
        assert_eq!(binary("pg_catalog.\"varchar\"", ""), Some(Vec::new()));
        assert_eq!(binary("pg_catalog.text", &"x".repeat(MOST_BYTES + 1)), None);
    }

    #[test]
    fn other_types_have_none() {
        for of in ["public.int4", "pg_catalog.\"char\"", "pg_catalog._int4", "pg_catalog.timetz", "public.\"Mood\""] {
            assert_eq!(BinaryType::of(of), None, "{of}");
        }
    }
}
