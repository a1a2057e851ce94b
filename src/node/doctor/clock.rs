//! How far the nodes' clocks are apart. Last-update-wins is only as just as they are, and beyond
//! `max_clock_skew` batches no longer wait for the target's clock (R2).

use std::time::Duration;

use crate::node::Finding;
use crate::node::doctor::facts::Facts;

const CHECK: &str = "clock";

pub(super) fn check(nodes: &[Facts], limit: Duration) -> Option<Finding> {
    let ahead = nodes.iter().max_by_key(|facts| facts.clock.micros)?;
    let behind = nodes.iter().min_by_key(|facts| facts.clock.micros)?;
    if ahead.node == behind.node {
        return None;
    }
    let skew = Duration::from_micros(ahead.clock.micros.abs_diff(behind.clock.micros));
    let uncertainty = ahead.clock.uncertainty.saturating_add(behind.clock.uncertainty);
    let uncertainty = Duration::from_micros(uncertainty.unsigned_abs());
    let what = format!(
        "the clocks of {} and {} are {:.1} ms apart (±{:.1} ms); max_clock_skew is {limit:?}",
        ahead.node,
        behind.node,
        skew.as_secs_f64() * 1e3,
        uncertainty.as_secs_f64() * 1e3
    );
    let mend = "synchronise both with NTP (chronyd), or raise [limits] max_clock_skew";
    Some(match skew {
        skew if skew.saturating_sub(uncertainty) > limit => Finding::error(CHECK, what).fix(mend),
        skew if skew > limit / 2 => Finding::warning(CHECK, what).fix(mend),
        _ => Finding::ok(CHECK, what),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Level;
    use crate::node::clock::ClockOffset;

    fn level(offset_ms: i64, uncertainty_ms: i64) -> Level {
        let clock = |micros| ClockOffset { micros, uncertainty: uncertainty_ms * 1_000 / 2 };
        let node = |name: &str, offset| Facts { node: name.to_owned(), clock: clock(offset), ..Facts::sample() };
        check(&[node("east", 0), node("west", offset_ms * 1000)], Duration::from_secs(1)).unwrap().level
    }

    #[test]
    fn clocks_beyond_the_limit_are_an_error_unless_the_measure_is_too_coarse() {
        assert_eq!(level(3, 1), Level::Ok);
        assert_eq!(level(-700, 1), Level::Warning);
        assert_eq!(level(5_000, 1), Level::Error);
        assert_eq!(level(1_200, 500), Level::Warning);
    }

    #[test]
    fn one_node_alone_has_no_skew() {
        assert_eq!(check(&[Facts::sample()], Duration::from_secs(1)), None);
    }
}
