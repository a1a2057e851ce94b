//! When a stream is read: at once, or with pauses in which messages gather.
//!
//! A reader that wakes for every message costs the machine more than the messages do, and has the server send each by
//! itself. So when messages come fast it pauses between reads, and what comes meanwhile comes in larger pieces, unless somebody
//! who may hold locks waits for a barrier. Pauses of 1, 3 and 6 ms, medians of three runs (benches/replication at scale 0.5,
//! PostgreSQL 15, 2 cores): A1 2.9, 2.8, 3.4 s, A2 1.0, 0.8, 0.9 s, A4 1.4, 1.5, 1.3 s; CPU of the daemon in A2 5.3, 3.2, 3.3 s
//! per million rows, and 19 without. One read a pause, not until nothing is left: what stays keeps the socket full, and messages
//! then gather at the sender (`wire/stream.rs`, NEAR_BUFFER). When messages come slowly each is taken at once.

use std::time::{Duration, Instant};

use bytes::Bytes;

/// Over this the rate of messages is taken.
const PACE: Duration = Duration::from_millis(4);
/// Messages a second from which on a stream is read with pauses: ten thousand small transactions. A backlog comes so fast,
/// and users hardly.
const FAST: f64 = 40_000.0;
/// And from which on it goes on to be: read without pauses a server in need of its processors may not send faster.
const STILL_FAST: f64 = FAST / 4.0;
/// How long a pause usually lasts. In twice that what a large transaction sends no longer fits in the socket's buffers.
const PAUSE: Duration = Duration::from_millis(3);
/// And where [`BRIMMING`] comes: then the server waits for us. A1 took 2.99 s with it and 3.58 without, A2 1.13 and 1.36
/// (medians of three, as above at full scale on a faster machine).
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
/// And at most, where less than [`FULL`] comes.
const LONGEST_PAUSE: Duration = Duration::from_millis(12);
/// So many bytes in one read mean that the socket was full.
const FULL: usize = 60 << 10;
/// And so many that more would hardly have found room.
const BRIMMING: usize = 100 << 10;

/// How fast messages come.
#[derive(Debug)]
pub struct Pace {
    since: Instant,
    /// Since then.
    messages: u32,
    /// Messages a second.
    rate: f64,
    /// Since the last pause.
    bytes: usize,
    /// How long pauses are, if there are any.
    pause: Option<Duration>,
}

impl Pace {
    /// Of a stream that begins at `now`.
    pub fn new(now: Instant) -> Pace {
        Pace { since: now, messages: 0, rate: 0.0, bytes: 0, pause: None }
    }

    /// Counts a message that was read.
    pub fn count(&mut self, message: &Bytes) {
        self.messages += 1;
        self.bytes += message.len();
    }

    /// How long to let messages gather from `now` on, if at all; to be asked after each read.
    pub fn pause(&mut self, now: Instant) -> Option<Duration> {
        let elapsed = now.duration_since(self.since);
        if elapsed >= PACE {
            self.rate = f64::from(self.messages) / elapsed.as_secs_f64();
            (self.since, self.messages) = (now, 0);
        }
        let fast = if self.pause.is_some() { STILL_FAST } else { FAST };
        self.pause = (self.rate >= fast).then(|| match self.bytes {
            BRIMMING.. => SHORTEST_PAUSE,
            ..FULL if self.rate >= FAST => (self.pause.unwrap_or(PAUSE).max(PAUSE) * 2).min(LONGEST_PAUSE),
            _ => PAUSE,
        });
        self.bytes = 0;
        self.pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `pace` says after reads of so many messages, 5 ms after one another.
    fn after_reads(pace: &mut Pace, reads: u32, messages: usize, bytes: usize) -> Option<Duration> {
        let mut said = None;
        for _ in 0..reads {
            (0..messages).for_each(|_| pace.count(&Bytes::from(vec![0; bytes])));
            said = pace.pause(pace.since + Duration::from_millis(5));
        }
        said
    }

    #[test]
    fn only_what_comes_fast_is_paused_for() {
        let mut pace = Pace::new(Instant::now());
        assert_eq!(after_reads(&mut pace, 10, 190, 62), None); // 38,000 a second
        assert!(after_reads(&mut pace, 1, 210, 62).is_some());
        assert_eq!(after_reads(&mut pace, 10, 60, 62), Some(PAUSE)); // 12,000: it has been fast
        assert_eq!(after_reads(&mut pace, 1, 40, 62), None);
        assert_eq!(after_reads(&mut pace, 1, 190, 62), None);
    }

    #[test]
    fn the_less_a_fast_stream_brings_the_longer_is_the_pause() {
        let mut pace = Pace::new(Instant::now());
        assert_eq!(after_reads(&mut pace, 1, 500, 62), Some(2 * PAUSE));
        assert_eq!(after_reads(&mut pace, 5, 500, 62), Some(LONGEST_PAUSE));
        assert_eq!(after_reads(&mut pace, 1, 1000, 62), Some(PAUSE)); // the socket was full
        assert_eq!(after_reads(&mut pace, 1, 2000, 62), Some(SHORTEST_PAUSE)); // and the server waited
        assert_eq!(after_reads(&mut pace, 1, 500, 62), Some(2 * PAUSE));
    }
}
