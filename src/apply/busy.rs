//! Keys that users of the target write as well just now.
//!
//! The guard would refuse such a row, and by then the batch would hold locks on rows that its users lock later in
//! their transactions: each would wait for the other until `lock_timeout`. So busy keys are locked before anything
//! else is. A key that is not known as busy costs nothing but that wait; forgetting one is always safe.

use std::time::{Duration, Instant};

use crate::conflict::window::KeyMap;
use crate::model::KeyId;

/// A key is busy for so long after a local change of it was met.
const LASTING: Duration = Duration::from_secs(10);
/// More keys are not remembered: a table that is written all over is met by chance, not at hot rows.
const MOST: usize = 4_096;

/// How often those are looked for that are no longer busy, once there are that many.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The busy keys of one link's target.
#[derive(Debug, Default)]
pub struct BusyKeys {
    until: KeyMap<Instant>,
    /// When it was full and those that are no longer busy were last looked for.
    looked: Option<Instant>,
}

impl BusyKeys {
    /// A local change of the key was met.
    pub fn met(&mut self, key: KeyId, now: Instant) {
        if self.until.len() >= MOST && !self.until.contains_key(&key) {
            if self.looked.is_none_or(|at| now.saturating_duration_since(at) >= LOOK_EVERY) {
                self.until.retain(|_, until| *until > now);
                self.looked = Some(now);
            }
            if self.until.len() >= MOST {
                return;
            }
        }
        self.until.insert(key, now + LASTING);
    }

    /// Whether the key is busy.
    pub fn contains(&self, key: KeyId, now: Instant) -> bool {
        self.until.get(&key).is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_busy_for_a_while_after_each_meeting() {
        let (mut busy, start, key) = (BusyKeys::default(), Instant::now(), KeyId([1, 2]));
        assert!(!busy.contains(key, start));
        busy.met(key, start);
        assert!(busy.contains(key, start + LASTING / 2));
        busy.met(key, start + LASTING / 2);
        assert!(busy.contains(key, start + LASTING));
        assert!(!busy.contains(key, start + LASTING * 2));
    }

    #[test]
    fn memory_is_bounded_and_old_keys_make_room() {
        let (mut busy, start) = (BusyKeys::default(), Instant::now());
        let key = |i: usize| KeyId([i as u64, 0]);
        (0..MOST).for_each(|i| busy.met(key(i), start));
        busy.met(key(MOST), start);
        assert!(!busy.contains(key(MOST), start));
        let later = start + LASTING;
        busy.met(key(MOST), later);
        assert!(busy.contains(key(MOST), later));
        assert_eq!(busy.until.len(), 1);
    }
}
