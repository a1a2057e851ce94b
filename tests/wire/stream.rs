//! Replication streams: both halves at once, cancellation, the end.

use std::time::Duration;

use bytes::Bytes;
use pgconcord::model::Classify;
use pgconcord::throwaway::{Server, Stop};
use pgconcord::wire::{CopyReader, CopyWriter, Session, WireError};

use super::{info, options, shared};
use crate::harness::servers;

/// XLogData; the walsender's keepalive is `k`.
const DATA: u8 = b'w';

async fn replicating(server: &Server) -> Session {
    let info = info(&server.dsn("postgres", "postgres"));
    Session::connect(&info, &[("replication", "database")]).await.expect("a walsender")
}

/// Publishes `name`'s table of the same name and starts reading its slot.
async fn stream(server: &Server, name: &str) -> (CopyReader, CopyWriter) {
    let sql = format!("CREATE TABLE {name} (k int PRIMARY KEY, v text); CREATE PUBLICATION {name} FOR TABLE {name}");
    server.sql("postgres", &sql).await.unwrap();
    let mut session = replicating(server).await;
    let outcomes = session.simple("IDENTIFY_SYSTEM").await.unwrap();
    assert_eq!(outcomes[0].rows[0].text(3).unwrap(), "postgres");
    session.simple(&format!("CREATE_REPLICATION_SLOT {name} LOGICAL pgoutput NOEXPORT_SNAPSHOT")).await.unwrap();
    let sql = format!("START_REPLICATION SLOT {name} LOGICAL 0/0 (proto_version '1', publication_names '{name}')");
    session.start_replication(&sql).await.unwrap()
}

/// The letter of the pgoutput message in a payload: after the letter, two positions and a time.
fn letter(payload: &Bytes) -> Option<u8> {
    (payload[0] == DATA).then(|| payload[25])
}

/// A standby status update that confirms nothing and asks for an answer.
fn status() -> Vec<u8> {
    let mut status = vec![b'r'];
    status.extend([0; 32]);
    status.push(1);
    status
}

#[tokio::test]
async fn changes_come_and_reports_go_at_the_same_time() {
    both_ways(shared()).await;
}

/// Reads changes in one task while another sends reports, then ends the stream.
pub(super) async fn both_ways(server: &Server) {
    let (mut reader, mut writer) = stream(server, "both_ways").await;
    let reports = tokio::spawn(async move {
        for _ in 0..50 {
            writer.send(&status()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        writer
    });
    server
        .sql("postgres", "INSERT INTO both_ways SELECT i, repeat('x', i) FROM generate_series(1, 3000) i")
        .await
        .unwrap();
    let (mut inserts, mut answers, mut committed) = (0, 0, false);
    while !committed || answers < 50 {
        // Half of them by the way that does not wait.
        let payload = match reader.try_next_buffered() {
            Some(payload) => payload,
            None => tokio::time::timeout(Duration::from_secs(30), reader.next()).await.unwrap().unwrap().unwrap(),
        };
        match letter(&payload) {
            Some(b'I') => inserts += 1,
            Some(b'C') => committed = true,
            Some(_) => {}
            None => answers += 1,
        }
    }
    assert_eq!(inserts, 3000);
    let mut writer = reports.await.unwrap();
    writer.finish().await.unwrap();
    while reader.next().await.unwrap().is_some() {}
    assert!(reader.next().await.unwrap().is_none() && reader.try_next_buffered().is_none());
}

#[tokio::test]
async fn a_reader_that_is_cancelled_again_and_again_loses_nothing() {
    let server = shared();
    let (mut reader, _writer) = stream(server, "cancelled_reader").await;
    // Values around the size of a read, so that messages are cut at every place.
    let sql = "INSERT INTO cancelled_reader SELECT i, repeat('x', i * 400) FROM generate_series(1, 1000) i";
    server.sql("postgres", sql).await.unwrap();
    let (mut sizes, mut cancelled) = (Vec::new(), 0);
    while sizes.len() < 1000 {
        tokio::select! {
            biased;
            // Ready every second time, before the reader is.
            () = tokio::task::yield_now(), if cancelled % 2 == 0 => cancelled += 1,
            payload = reader.next() => {
                let payload = payload.unwrap().unwrap();
                if letter(&payload) == Some(b'I') {
                    sizes.push(payload.len());
                }
                cancelled += 1;
            }
            () = tokio::time::sleep(Duration::from_micros(50)) => cancelled += 2,
        }
    }
    assert!(sizes.windows(2).all(|pair| pair[0] < pair[1]), "in order, none twice");
    assert!(*sizes.last().unwrap() > 400_000 && cancelled > 1000);
}

#[tokio::test]
async fn a_missing_slot_and_a_slot_in_use() {
    let server = shared();
    let start = "START_REPLICATION SLOT no_such LOGICAL 0/0 (proto_version '1', publication_names 'p')";
    let error = replicating(server).await.start_replication(start).await.err().unwrap();
    assert_eq!(error.code(), Some("42704"));

    let (_reader, _writer) = stream(server, "in_use").await;
    let start = start.replace("no_such", "in_use");
    let error = replicating(server).await.start_replication(&start).await.err().unwrap();
    assert_eq!((error.code(), error.class()), (Some("55006"), pgconcord::model::Class::Transient));
}

#[tokio::test]
async fn what_is_no_stream_is_told_from_one() {
    let error = replicating(shared()).await.start_replication("IDENTIFY_SYSTEM").await.err().unwrap();
    assert!(matches!(&error, WireError::Protocol(_)), "{error:?}");
}

#[tokio::test]
async fn a_shutdown_ends_the_stream_and_a_crash_breaks_it() {
    let mut server = servers().start("wire-stopping", options()).unwrap();
    let (mut reader, mut writer) = stream(&server, "stopping").await;
    // The walsender waits for us to report what it sent.
    let reading = tokio::spawn(async move {
        let mut last = 0_u64;
        loop {
            match reader.next().await {
                Ok(Some(payload)) => {
                    let position = u64::from_be_bytes(payload[1..9].try_into().unwrap());
                    last = last.max(position);
                    let mut report = vec![b'r'];
                    for _ in 0..3 {
                        report.extend(last.to_be_bytes());
                    }
                    report.extend([0; 9]);
                    writer.send(&report).await.unwrap();
                }
                end => return end,
            }
        }
    });
    let server = tokio::task::spawn_blocking(move || {
        server.stop(Stop::Fast).unwrap();
        server.start().unwrap();
        server
    });
    let end = tokio::time::timeout(Duration::from_secs(60), reading).await.unwrap().unwrap();
    assert!(matches!(end, Ok(None)), "{end:?}");

    let mut server = server.await.unwrap();
    let start = "START_REPLICATION SLOT stopping LOGICAL 0/0 (proto_version '1', publication_names 'stopping')";
    let (mut reader, _writer) = replicating(&server).await.start_replication(start).await.unwrap();
    let killing = tokio::task::spawn_blocking(move || server.stop(Stop::Immediate).unwrap());
    let error = loop {
        match tokio::time::timeout(Duration::from_secs(60), reader.next()).await.unwrap() {
            Ok(payload) => assert!(payload.is_some(), "a crash is no end in good order"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.class(), pgconcord::model::Class::Transient, "{error:?}");
    killing.await.unwrap();
}
