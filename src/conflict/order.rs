//! The order of a column's values by which rows are told apart: numbers and times, as text of a server whose DateStyle is ISO
//! and whose TimeZone is UTC.
//!
//! <https://www.postgresql.org/docs/18/datatype-datetime.html>, <https://www.postgresql.org/docs/18/datatype-numeric.html>

use std::str::FromStr;

use bigdecimal::BigDecimal;

/// A value in the order of its type. Only values of one type compare.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Ordered {
    /// Before all others, of numbers and of times.
    NegativeInfinity,
    /// A number.
    Number(BigDecimal),
    /// A date or a time: the year, negative before Christ, and the rest, which is in order as text.
    Moment(i64, String),
    /// After all others but NaN.
    Infinity,
    /// Of numerics, the greatest: as PostgreSQL sorts it.
    NaN,
}

impl Ordered {
    /// Reads a value; `None` if it is neither a number nor a time.
    pub fn read(text: &str) -> Option<Ordered> {
        match text.to_ascii_lowercase().as_str() {
            "-infinity" => return Some(Ordered::NegativeInfinity),
            "infinity" => return Some(Ordered::Infinity),
            "nan" => return Some(Ordered::NaN),
            _ => {}
        }
        if let Ok(number) = BigDecimal::from_str(text) {
            return Some(Ordered::Number(number));
        }
        let (moment, is_before_christ) = match text.strip_suffix(" BC") {
            Some(moment) => (moment, true),
            None => (text, false),
        };
        // In JSON there is a T between date and time.
        let (year, rest) = moment.split_once('-')?;
        let year: i64 = year.parse().ok().filter(|year| *year >= 0)?;
        Some(Ordered::Moment(if is_before_christ { -year } else { year }, rest.replacen('T', " ", 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_in_the_order_of_their_type() {
        for sorted in [
            &["-Infinity", "-12.5", "-3", "0", "0.10", "7", "10", "123456789012345678901234567890", "Infinity", "NaN"]
                [..],
            &["-infinity", "0044-03-15 BC", "0043-03-15 BC", "0001-01-01", "2026-11-27", "12026-01-01", "infinity"],
            &[
                "0044-03-15 12:00:00+00 BC",
                "1999-12-31 23:59:59.999999+00",
                "2026-11-27 03:00:00+00",
                "2026-11-27 03:00:00.05+00",
                "2026-11-27 03:00:00.5+00",
                "2026-11-27 03:00:01+00",
            ],
            &["2026-11-27 03:00:00", "2026-11-27T03:00:00.000001", "2026-11-27 03:00:00.1"],
        ] {
            let read: Vec<Ordered> = sorted.iter().map(|text| Ordered::read(text).expect(text)).collect();
            assert!(read.is_sorted_by(|a, b| a < b), "{sorted:?}\n{read:?}");
        }
        assert_eq!(Ordered::read("1.0"), Ordered::read("1.00"));
        assert_eq!(["", "x", "-", "t-x", "12:30:00"].map(Ordered::read), [None, None, None, None, None]);
    }
}
