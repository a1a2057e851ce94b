//! A node's clock against ours.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::model::ids::POSTGRES_EPOCH_UNIX_SECONDS;
use crate::node::{Control, NodeError};

/// So many measurements are kept: RFC 5905 keeps as many (section 10, "clock filter").
const KEPT: usize = 8;
/// How far two clocks may drift apart in so many of their microseconds: one, 15 ppm (RFC 5905, PHI).
const DRIFT: u128 = 1_000_000 / 15;

/// A node's clock against ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClockOffset {
    /// Microseconds to add to our clock to have the node's.
    pub micros: i64,
    /// By how much that may be wrong, in microseconds: half the round trip of the measurement, and what the clocks may have
    /// drifted since.
    pub uncertainty: i64,
}

impl ClockOffset {
    /// Asks the node's server for its clock once.
    ///
    /// # Errors
    /// If it can't be asked.
    pub async fn measure(control: &Control) -> Result<ClockOffset, NodeError> {
        let (ours, asked) = (now_micros(), Instant::now());
        let server = control.clock_sample().await?;
        Ok(ClockOffset::sampled(ours, server, asked.elapsed()))
    }

    /// From a sample of the node's clock that was asked for at `asked` of ours, both in µs since 2000, and came after `round_trip`:
    /// it was taken half way (Cristian's algorithm).
    fn sampled(asked: i64, server: i64, round_trip: Duration) -> ClockOffset {
        let half = i64::try_from(round_trip.as_micros() / 2).unwrap_or(i64::MAX);
        ClockOffset { micros: server - asked - half, uncertainty: half.saturating_add(1) }
    }

    fn after(self, age: Duration) -> ClockOffset {
        let drift = i64::try_from(age.as_micros() / DRIFT).unwrap_or(i64::MAX);
        ClockOffset { uncertainty: self.uncertainty.saturating_add(drift), ..self }
    }

    fn agrees_with(self, other: ClockOffset) -> bool {
        (self.micros - other.micros).abs() <= self.uncertainty.saturating_add(other.uncertainty)
    }
}

/// The last measurements of a node's clock, of which the surest counts: what holds up an answer, often a busy machine, is
/// not the clock's.
#[derive(Debug, Default)]
pub struct ClockFilter(VecDeque<(Instant, ClockOffset)>);

impl ClockFilter {
    /// Takes what was measured at `now`, and gives what counts from now on. Earlier measurements that it rules out no longer do:
    /// one of the clocks was set.
    pub fn take(&mut self, now: Instant, measured: ClockOffset) -> ClockOffset {
        self.0.retain(|(at, earlier)| earlier.after(now - *at).agrees_with(measured));
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back((now, measured));
        self.best(now).expect("one was just taken")
    }

    /// The surest, if there is any.
    pub fn best(&self, now: Instant) -> Option<ClockOffset> {
        self.0.iter().map(|(at, offset)| offset.after(now - *at)).min_by_key(|offset| offset.uncertainty)
    }
}

/// Our clock, in microseconds since 2000-01-01 00:00 UTC.
pub fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX) - POSTGRES_EPOCH_UNIX_SECONDS * 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn offset(micros: i64, uncertainty: i64) -> ClockOffset {
        ClockOffset { micros, uncertainty }
    }

    #[test]
    fn a_sample_lies_in_the_middle_of_its_round_trip() {
        assert_eq!(ClockOffset::sampled(1_000, 1_700, Duration::from_micros(400)), offset(500, 201));
    }

    #[test]
    fn the_surest_of_the_last_measurements_counts_and_grows_less_sure() {
        let start = Instant::now();
        let mut filter = ClockFilter::default();
        assert_eq!(filter.best(start), None);
        assert_eq!(filter.take(start, offset(10, 40)), offset(10, 40));
        for second in 1..8 {
            filter.take(start + SECOND * second, offset(700, 1_000));
        }
        assert_eq!(filter.best(start + SECOND * 7), Some(offset(10, 40 + 105)));
        assert_eq!(filter.take(start + SECOND * 8, offset(700, 1_000)), offset(700, 1_000), "the ninth");
    }

    #[test]
    fn once_a_clock_is_set_only_what_was_measured_since_counts() {
        let start = Instant::now();
        let mut filter = ClockFilter::default();
        filter.take(start, offset(0, 50));
        assert_eq!(filter.take(start + SECOND, offset(-20_000, 400)), offset(-20_000, 400));
    }
}
