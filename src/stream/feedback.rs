//! What we tell the server: that we live, and what it may forget.
//!
//! Invariant: the position is the one that the daemon gave as confirmed, never anything else (R5).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::BufMut;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use crate::model::Lsn;
use crate::model::ids::POSTGRES_EPOCH_UNIX_SECONDS;
use crate::wire::{CopyWriter, WireError};

/// A new position is told at most this much later.
const WHEN_NEW: Duration = Duration::from_secs(1);
/// Something is told at least this often, or three times within the server's patience: its own reminder is not read
/// while nobody takes the events. Two of some 300 runs of a backlog stood still, read with pauses of 1 ms, until a status of 10 s
/// was sent (why is not known): so it is sent more often than the server needs.
const ALWAYS: Duration = Duration::from_secs(2);

/// Tells until the connection fails, or until the other end of `stop` is dropped; then once more, and ends our side.
///
/// `patience` is the server's `wal_sender_timeout`.
pub async fn run(
    mut writer: CopyWriter,
    patience: Option<Duration>,
    mut confirmed: watch::Receiver<Lsn>,
    asked: Arc<Notify>,
    mut stop: oneshot::Receiver<()>,
) -> Result<(), WireError> {
    let always = patience.map_or(ALWAYS, |patience| ALWAYS.min(patience / 3));
    loop {
        let told = *confirmed.borrow_and_update();
        writer.send(&status(told, SystemTime::now())).await?;
        tokio::select! {
            () = wait(told, always, &mut confirmed, &asked) => {}
            _ = &mut stop => break,
        }
    }
    let last = *confirmed.borrow();
    writer.send(&status(last, SystemTime::now())).await?;
    writer.finish().await
}

/// Returns when it is time to tell again.
async fn wait(told: Lsn, always: Duration, confirmed: &mut watch::Receiver<Lsn>, asked: &Notify) {
    let begin = Instant::now();
    let mut due = begin + always;
    let mut open = true;
    loop {
        tokio::select! {
            () = asked.notified() => return,
            () = sleep_until(due) => return,
            changed = confirmed.changed(), if open => {
                open = changed.is_ok();
                if *confirmed.borrow_and_update() != told {
                    due = due.min(begin + WHEN_NEW);
                }
            }
        }
    }
}

/// Standby status update, with `confirmed` as written, flushed and applied.
pub fn status(confirmed: Lsn, now: SystemTime) -> Vec<u8> {
    let mut out = Vec::with_capacity(34);
    out.put_u8(b'r');
    for _ in ["written", "flushed", "applied"] {
        out.put_u64(confirmed.0);
    }
    out.put_i64(postgres_micros(now));
    out.put_u8(0); // we ask for no answer
    out
}

/// Microseconds since 2000-01-01 00:00 UTC, 0 for a clock before that.
fn postgres_micros(now: SystemTime) -> i64 {
    let epoch = UNIX_EPOCH + Duration::from_secs(POSTGRES_EPOCH_UNIX_SECONDS.unsigned_abs());
    now.duration_since(epoch).ok().and_then(|since| i64::try_from(since.as_micros()).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_reports_the_confirmed_position_three_times() {
        let now =
            UNIX_EPOCH + Duration::from_secs(POSTGRES_EPOCH_UNIX_SECONDS.unsigned_abs()) + Duration::from_micros(5);
        let lsn = 0x0102_0304_0506_0708_u64.to_be_bytes();
        let expected = [b"r", &lsn[..], &lsn, &lsn, &5_i64.to_be_bytes(), &[0]].concat();
        assert_eq!(status(Lsn(0x0102_0304_0506_0708), now), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_position_is_told_within_a_second_and_life_within_two() {
        let (give, mut confirmed) = watch::channel(Lsn(1));
        let asked = Notify::new();
        let begin = Instant::now();
        wait(Lsn(1), ALWAYS, &mut confirmed, &asked).await;
        assert_eq!(begin.elapsed().as_secs(), 2);
        let begin = Instant::now();
        give.send(Lsn(2)).unwrap();
        wait(Lsn(1), ALWAYS, &mut confirmed, &asked).await;
        assert_eq!(begin.elapsed().as_secs(), 1);
        // the one who confirms has gone: the last position goes on being told
        drop(give);
        let begin = Instant::now();
        wait(Lsn(2), ALWAYS, &mut confirmed, &asked).await;
        assert_eq!(begin.elapsed().as_secs(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_asks_is_told_at_once() {
        let (_give, mut confirmed) = watch::channel(Lsn(1));
        let asked = Notify::new();
        asked.notify_one();
        let begin = Instant::now();
        wait(Lsn(1), ALWAYS, &mut confirmed, &asked).await;
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }
}
