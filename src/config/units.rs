//! Durations ("500ms", "90d") and sizes ("256MB") as people write them.

use std::time::Duration;

const DURATIONS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1_000), ("min", 60_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];
const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1 << 10),
    ("KB", 1 << 10),
    ("KiB", 1 << 10),
    ("MB", 1 << 20),
    ("MiB", 1 << 20),
    ("GB", 1 << 30),
    ("GiB", 1 << 30),
    ("TB", 1 << 40),
    ("TiB", 1 << 40),
];

/// Reads a whole number followed by ms, s, min (or m), h, d or w. The error is a sentence.
pub fn duration(text: &str) -> Result<Duration, String> {
    let hint = "write a whole number and a unit: ms, s, min, h, d or w, such as \"500ms\" or \"90d\"";
    amount(text, DURATIONS, hint).map(Duration::from_millis)
}

/// Reads a whole number followed by B, kB, MB, GB or TB, in steps of 1024 as PostgreSQL counts. The error is a
/// sentence.
pub fn size(text: &str) -> Result<u64, String> {
    amount(text, SIZES, "write a whole number and a unit: B, kB, MB, GB or TB, such as \"256MB\"")
}

fn amount(text: &str, units: &[(&str, u64)], hint: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = units.iter().find(|(name, _)| *name == unit.trim_start()).map(|(_, factor)| *factor);
    match (number.parse::<u64>(), factor) {
        (Ok(number), Some(factor)) => number.checked_mul(factor).ok_or_else(|| format!("{text:?} is too much")),
        _ => Err(hint.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(duration("2 min"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("90d"), Ok(Duration::from_secs(90 * 86_400)));
    }

    #[test]
    fn sizes_count_in_steps_of_1024() {
        assert_eq!(size("256MB"), Ok(256 << 20));
        assert_eq!(size("1 GB"), Ok(1 << 30));
        assert_eq!(size("512kB"), Ok(512 << 10));
    }

    #[test]
    fn what_has_no_number_or_no_unit_is_refused() {
        for text in ["", "1", "s", "1.5s", "-1s", "1 year", "99999999999999999999s", "18446744073709551615d"] {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in ["", "256", "MB", "256mb", "1e3MB", "18446744073709551615GB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
