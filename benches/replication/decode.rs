//! What the source alone takes: a reader that throws everything away. It reads with the daemon's own session and pauses as the
//! daemon does, for an eager reader makes the walsender two to three times slower.

use std::time::{Instant, SystemTime};

use anyhow::Context;
use pgconcord::model::Lsn;
use pgconcord::stream::message::{Frame, Reply};
use pgconcord::stream::pace::Pace;
use pgconcord::stream::{decode, feedback};
use pgconcord::wire::{Conninfo, Session};
use tokio::time::sleep;

/// What runs if no workload is asked for.
pub const WORKLOADS: [&str; 3] = ["a1", "a2", "a4"];

/// Reads a slot until the first commit that ends after `before_last`, and counts the rows that were changed.
///
/// # Errors
/// If the stream fails, or ends before that.
pub async fn read(dsn: &str, slot: &str, before_last: Lsn) -> anyhow::Result<u64> {
    let info = Conninfo::parse(dsn).context("the source's connection string")?;
    let session = Session::connect(&info, &[("replication", "database")]).await.context("the source")?;
    let command = format!(
        "START_REPLICATION SLOT \"{slot}\" LOGICAL 0/0 (proto_version '2', publication_names 'native', streaming 'on')"
    );
    let (mut reader, mut writer) = session.start_replication(&command).await.context("the stream")?;
    let (mut rows, mut pace) = (0, Pace::new(Instant::now()));
    loop {
        let mut next = reader.next().await.context("the stream")?;
        next.as_ref().context("the stream ended early")?;
        while let Some(bytes) = next {
            pace.count(&bytes);
            match decode::frame(bytes).context("the stream")? {
                Frame::XLogData { wal_start, body, .. } => match body.first() {
                    Some(b'I' | b'U' | b'D') => rows += 1,
                    Some(b'C' | b'c') if wal_start > before_last => return Ok(rows),
                    _ => {}
                },
                Frame::Keepalive { reply: Reply::AtOnce, .. } => {
                    writer.send(&feedback::status(Lsn::ZERO, SystemTime::now())).await.context("the stream")?;
                }
                Frame::Keepalive { .. } => {}
            }
            next = reader.try_next_buffered();
        }
        if let Some(pause) = pace.pause(Instant::now()) {
            sleep(pause).await;
        }
    }
}
