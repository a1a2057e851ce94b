//! Requests in turn and windows of statements: order, errors in the middle, what the session knows afterwards.

use std::time::Duration;

use pgconcord::model::BinaryType;
use pgconcord::model::{Class, Classify};
use pgconcord::wire::{CopiedRows, Param, Session, TransactionStatus, WireError};

use super::{info, session, shared};

/// Longest that any window here may take; a deadlock would take for ever.
const PATIENCE: Duration = Duration::from_secs(120);

const TEXT: u32 = 25;
const INT4: u32 = 23;

async fn number(session: &mut Session, sql: &str) -> u64 {
    session.simple(sql).await.unwrap()[0].one().unwrap().parse(0).unwrap()
}

#[tokio::test]
async fn a_hundred_thousand_statements_answer_in_order_without_a_deadlock() {
    a_hundred_thousand_statements(&mut session("large_window").await).await;
}

pub(super) async fn a_hundred_thousand_statements(session: &mut Session) {
    // Ten MB each way in small pieces: more than both directions' buffers hold.
    let mut window = session.pipeline();
    for i in 0..100_000_u32 {
        let value = format!("{i:0100}");
        assert_eq!(window.query("SELECT $1", &[TEXT], [Param::Text(value.as_bytes())]), i as usize);
    }
    assert!(window.batch_len() == 100_000 && window.bytes() > 10_000_000);
    let outcomes = tokio::time::timeout(PATIENCE, window.run()).await.expect("a deadlock").unwrap();
    assert_eq!(outcomes.len(), 100_000);
    for (i, outcome) in outcomes.iter().enumerate() {
        assert_eq!((&*outcome.tag.name, outcome.tag.rows), ("SELECT", 1));
        assert_eq!(outcome.rows[0].parse::<usize>(0).unwrap(), i);
    }
}

#[tokio::test]
async fn values_of_ten_megabytes_go_both_ways() {
    let mut session = session("large_value").await;
    let value = vec![b'x'; 10_000_000];
    let mut window = session.pipeline();
    for _ in 0..5 {
        window.query("SELECT $1, length($1)", &[TEXT], [Param::Text(&value)]);
    }
    let outcomes = tokio::time::timeout(PATIENCE, window.run()).await.expect("a deadlock").unwrap();
    for outcome in &outcomes {
        assert_eq!(outcome.rows[0].cell(0).unwrap(), value);
        assert_eq!(outcome.rows[0].parse::<usize>(1).unwrap(), value.len());
    }
    assert_eq!(outcomes.len(), 5);
}

#[tokio::test]
async fn parameters_in_every_form() {
    let mut session = session("forms").await;
    let mut window = session.pipeline();
    let params = [Param::Text(b"7"), Param::Binary(&[0, 0, 0, 9]), Param::Null];
    window.query("SELECT $1::int, $2::int, $3::text IS NULL", &[INT4, INT4], params);
    window.query("SELECT $1::bytea", &[], [Param::Binary(&[0, 255])]);
    window.query("", &[], []);
    let outcomes = window.run().await.unwrap();
    let row = &outcomes[0].rows[0];
    assert_eq!((row.parse::<i32>(0).unwrap(), row.parse::<i32>(1).unwrap(), row.flag(2).unwrap()), (7, 9, true));
    assert_eq!(outcomes[1].rows[0].text(0).unwrap(), "\\x00ff");
    assert_eq!(&*outcomes[2].tag.name, "");
}

#[tokio::test]
async fn an_error_in_the_middle_skips_the_rest() {
    let mut session = session("middle").await;
    session.simple("CREATE TABLE t (k int PRIMARY KEY)").await.unwrap();
    let insert = |key: &'static [u8]| [Param::Text(key)];
    let mut window = session.pipeline();
    window.query("BEGIN", &[], []);
    window.query("INSERT INTO t VALUES ($1)", &[INT4], insert(b"1"));
    window.query("INSERT INTO t VALUES ($1)", &[INT4], insert(b"1"));
    window.query("INSERT INTO t VALUES ($1)", &[INT4], insert(b"2"));
    window.query("COMMIT", &[], []);
    let failed = window.run().await.unwrap_err();
    assert_eq!((failed.at, failed.done.len(), failed.code()), (2, 2, Some("23505")));
    assert_eq!(failed.class(), Class::Conflict);
    let WireError::Server(error) = &failed.error else { panic!("{failed:?}") };
    assert_eq!((error.schema.as_deref(), error.table.as_deref()), (Some("middle"), Some("t")));
    assert_eq!(error.constraint.as_deref(), Some("t_pkey"));
    assert_eq!(session.transaction_status(), TransactionStatus::Failed);

    let refused = session.simple("SELECT 1").await.unwrap_err();
    assert_eq!(refused.code(), Some("25P02"));
    // COMMIT of a failed transaction succeeds, and says what it did.
    let outcomes = session.simple("COMMIT").await.unwrap();
    assert_eq!(&*outcomes[0].tag.name, "ROLLBACK");
    assert_eq!(session.transaction_status(), TransactionStatus::Idle);
    assert_eq!(number(&mut session, "SELECT count(*) FROM t").await, 0);
}

#[tokio::test]
async fn windows_behind_each_other_are_answered_in_turn() {
    let mut session = session("behind").await;
    session.simple("CREATE TABLE t (k int PRIMARY KEY)").await.unwrap();
    let window = async |session: &mut Session, sql: &str, keys: std::ops::Range<u32>| {
        let mut window = session.pipeline();
        for key in keys {
            window.query(sql, &[TEXT], [Param::Text(key.to_string().as_bytes())]);
        }
        let sent = tokio::time::timeout(PATIENCE, window.send()).await;
        sent.expect("a deadlock").unwrap();
    };
    let mut begin = session.pipeline();
    begin.query("BEGIN", &[], []);
    begin.send().await.unwrap();
    // More than both directions' buffers hold, both ways: what is answered is taken while the next window is sent.
    let insert = "INSERT INTO t VALUES ($1::int) RETURNING k, repeat('x', 1000)";
    for i in 0..10 {
        window(&mut session, insert, i * 5_000..(i + 1) * 5_000).await;
    }
    assert_eq!(session.unanswered(), 11);
    let refused = session.simple("SELECT 1").await.unwrap_err();
    assert!(refused.to_string().contains("has not been taken"), "{refused}");
    assert_eq!(&*session.answer().await.unwrap()[0].tag.name, "BEGIN");
    for i in 0..10 {
        let outcomes = session.answer().await.unwrap();
        let keys = outcomes.iter().map(|outcome| outcome.rows[0].parse::<usize>(0).unwrap());
        assert!(keys.eq(i * 5_000..(i + 1) * 5_000));
    }
    assert!(session.round_trip().is_some_and(|least| least < PATIENCE));

    // One fails: those behind it do nothing, and what they prepared is prepared again.
    window(&mut session, "INSERT INTO t VALUES ($1::int)", 49_999..50_002).await;
    window(&mut session, "DELETE FROM t WHERE k >= $1::int", 0..2).await;
    let failed = session.answer().await.unwrap_err();
    assert_eq!((failed.at, failed.code()), (0, Some("23505")));
    let failed = session.answer().await.unwrap_err();
    assert_eq!((failed.at, failed.code()), (0, Some("25P02")));
    assert_eq!(session.transaction_status(), TransactionStatus::Failed);
    session.simple("ROLLBACK").await.unwrap();
    window(&mut session, "DELETE FROM t WHERE k >= $1::int", 0..1).await;
    assert_eq!(session.answer().await.unwrap()[0].tag.rows, 0, "all was rolled back");
    let nothing = session.answer().await.unwrap_err();
    assert!(nothing.to_string().contains("nothing has been sent"), "{nothing}");
    assert_eq!(number(&mut session, "SELECT count(*) FROM t").await, 0);
}

#[tokio::test]
async fn rows_are_copied_within_a_window() {
    let mut session = session("rows_copied").await;
    session.simple("CREATE TEMP TABLE t (k int PRIMARY KEY, v text)").await.unwrap();
    let values = [Some("a\tb"), None, Some(""), Some("\\N"), Some("\\."), Some("line\r\nline"), Some("ß\\")];
    let mut window = session.pipeline();
    window.query("BEGIN", &[], []);
    let rows = CopiedRows::text(|copy| {
        for (i, value) in (0..20_000).zip(values.iter().cycle()) {
            copy.value(Some(i.to_string().as_bytes()));
            copy.value(value.map(str::as_bytes));
            copy.end_row();
        }
    });
    let at = window.copy_in("COPY t FROM STDIN", &rows);
    let none = window.copy_in("COPY t FROM STDIN", &CopiedRows::text(|_| {}));
    window.query("COMMIT", &[], []);
    let outcomes = tokio::time::timeout(PATIENCE, window.run()).await.expect("a deadlock").unwrap();
    let counts = [at, none].map(|at| (outcomes[at].tag.name.clone(), outcomes[at].tag.rows));
    assert_eq!(counts, [("COPY".into(), 20_000), ("COPY".into(), 0)]);
    let found = session.simple("SELECT v FROM t WHERE k >= 19999 - 19999 % 7 - 7 ORDER BY k LIMIT 7").await.unwrap();
    let found: Vec<_> = found[0].rows.iter().map(|row| row.optional_text(0).unwrap().map(str::to_owned)).collect();
    assert_eq!(found, values.map(|value| value.map(str::to_owned)));
}

#[tokio::test]
async fn rows_are_copied_in_binary() {
    let mut session = session("rows_copied_in_binary").await;
    session.simple("CREATE TEMP TABLE t (k int PRIMARY KEY, v text)").await.unwrap();
    let rows = CopiedRows::binary(2, |copy| {
        for i in 0..20_000_u32 {
            copy.row();
            copy.value(|out| BinaryType::Int4.write(i.to_string().as_bytes(), out))?;
            match i % 3 {
                0 => copy.null(),
                _ => copy.value(|out| BinaryType::Text.write("ß\t".as_bytes(), out))?,
            }
        }
        Some(())
    });
    let mut window = session.pipeline();
    let at = window.copy_in("COPY t FROM STDIN (FORMAT binary)", &rows.unwrap());
    let outcomes = tokio::time::timeout(PATIENCE, window.run()).await.expect("a deadlock").unwrap();
    assert_eq!(outcomes[at].tag.rows, 20_000);
    let wrong = "SELECT count(*) FROM t WHERE v IS DISTINCT FROM CASE WHEN k % 3 > 0 THEN E'ß\\t' END";
    assert_eq!(number(&mut session, wrong).await, 0);
}

#[tokio::test]
async fn a_copy_that_fails_leaves_the_session_usable() {
    let mut session = session("rows_not_copied").await;
    session.simple("CREATE TEMP TABLE t (k int PRIMARY KEY)").await.unwrap();
    let rows = CopiedRows::text(|copy| {
        for i in (0..50_000).chain([7]) {
            copy.value(Some(i.to_string().as_bytes()));
            copy.end_row();
        }
    });
    // one of its rows is there; a statement before it fails; it can't be begun
    for (first, copy, code, place) in [
        ("SELECT 1", "COPY t FROM STDIN", "23505", 1),
        ("SELECT 1 / 0", "COPY t FROM STDIN", "22012", 0),
        ("SELECT 1", "COPY nothing FROM STDIN", "42P01", 1),
    ] {
        let mut window = session.pipeline();
        window.query(first, &[], []);
        window.copy_in(copy, &rows);
        window.query("SELECT 2", &[], []);
        let failed = tokio::time::timeout(PATIENCE, window.run()).await.expect("a deadlock").unwrap_err();
        assert_eq!((failed.code(), failed.at), (Some(code), place), "{failed}");
        assert_eq!(number(&mut session, "SELECT count(*) FROM t").await, 0);
    }
    // rows that nobody has are not waited for
    let error = session.simple("COPY t FROM STDIN").await.unwrap_err();
    assert!(matches!(error, WireError::Protocol(_)), "{error}");
}

#[tokio::test]
async fn three_transactions_in_a_window_stop_at_the_second() {
    let mut session = session("three").await;
    session.simple("CREATE TABLE t (k int PRIMARY KEY)").await.unwrap();
    let mut window = session.pipeline();
    for key in [b"1", b"1", b"3"] {
        window.query("BEGIN", &[], []);
        window.query("INSERT INTO t VALUES ($1)", &[INT4], [Param::Text(key)]);
        window.query("COMMIT", &[], []);
    }
    assert_eq!(window.run().await.unwrap_err().at, 4);
    session.simple("ROLLBACK").await.unwrap();
    assert_eq!(number(&mut session, "SELECT sum(k) FROM t").await, 1);
}

#[tokio::test]
async fn a_deferred_constraint_fails_the_sync_itself() {
    let mut session = session("deferred").await;
    session.simple("CREATE TABLE t (k int UNIQUE DEFERRABLE INITIALLY DEFERRED)").await.unwrap();
    let mut window = session.pipeline();
    window.query("INSERT INTO t VALUES (1), (1)", &[], []);
    let failed = window.run().await.unwrap_err();
    assert_eq!((failed.at, failed.code()), (1, Some("23505")));
    assert_eq!(number(&mut session, "SELECT count(*) FROM t").await, 0);
}

#[tokio::test]
async fn only_what_the_server_confirmed_is_remembered() {
    let mut session = session("remembered").await;
    let mut window = session.pipeline();
    window.query("SELECT 'good'", &[], []);
    window.query("SELECT v FROM later", &[], []);
    window.query("SELECT 'skipped'", &[], []);
    let failed = window.run().await.unwrap_err();
    assert_eq!((failed.at, failed.code()), (1, Some("42P01")));
    assert_eq!(number(&mut session, "SELECT count(*) FROM pg_prepared_statements").await, 1);

    session.simple("CREATE TABLE later (v int)").await.unwrap();
    for _ in 0..3 {
        let mut window = session.pipeline();
        for sql in ["SELECT 'good'", "SELECT v FROM later", "SELECT 'skipped'"] {
            window.query(sql, &[], []);
        }
        window.run().await.unwrap();
    }
    assert_eq!(number(&mut session, "SELECT count(*) FROM pg_prepared_statements").await, 3);
}

#[tokio::test]
async fn a_window_that_is_dropped_unsent_leaves_nothing() {
    let mut session = session("unsent").await;
    session.pipeline().query("SELECT 'never sent'", &[], []);
    let mut window = session.pipeline();
    window.query("SELECT 'never sent'", &[], []);
    assert_eq!(window.run().await.unwrap()[0].rows[0].text(0).unwrap(), "never sent");
    assert!(session.pipeline().run().await.unwrap().is_empty());
}

#[tokio::test]
async fn prepared_statements_are_bounded() {
    let mut session = session("bounded").await;
    for round in 0..3 {
        let mut window = session.pipeline();
        for i in 0..400 {
            window.query(&format!("SELECT {i}"), &[], []);
            window.query("SELECT 'often used'", &[], []);
        }
        // An error in the middle leaves some Closes undone.
        if round == 1 {
            window.query("SELECT 1/0", &[], []);
            for i in 400..500 {
                window.query(&format!("SELECT {i}"), &[], []);
            }
        }
        assert_eq!(window.run().await.is_err(), round == 1);
    }
    assert_eq!(number(&mut session, "SELECT count(*) FROM pg_prepared_statements").await, 256);
}

#[tokio::test]
async fn a_statement_is_prepared_again_after_a_change_of_its_table() {
    let mut session = session("changed").await;
    session.simple("CREATE TABLE t (a int); INSERT INTO t VALUES (1)").await.unwrap();
    let select = async |session: &mut Session| {
        let mut window = session.pipeline();
        window.query("SELECT * FROM t", &[], []);
        window.run().await
    };
    select(&mut session).await.unwrap();
    session.simple("ALTER TABLE t ADD b int").await.unwrap();
    assert_eq!(select(&mut session).await.unwrap_err().code(), Some("0A000"));
    assert_eq!(select(&mut session).await.unwrap()[0].rows[0].len(), 2);
    session.simple("DEALLOCATE ALL").await.unwrap();
    assert_eq!(select(&mut session).await.unwrap_err().code(), Some("26000"));
    select(&mut session).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_whole() {
    let mut session = session("refused").await;
    session.simple("CREATE TABLE t (k int)").await.unwrap();
    let mut window = session.pipeline();
    window.query("INSERT INTO t VALUES (1)", &[], []);
    window.query("SELECT '\0'", &[], []);
    let failed = window.run().await.unwrap_err();
    assert!(failed.at == 1 && matches!(failed.error, WireError::Protocol(_)), "{failed:?}");
    assert_eq!(number(&mut session, "SELECT count(*) FROM t").await, 0);
    assert!(session.simple("SELECT '\0'").await.is_err() && session.is_usable());
}

#[tokio::test]
async fn an_abandoned_window_makes_the_session_unusable() {
    let mut session = session("abandoned").await;
    let mut window = session.pipeline();
    window.query("SELECT pg_sleep(30)", &[], []);
    assert!(tokio::time::timeout(Duration::from_millis(200), window.run()).await.is_err());
    assert!(!session.is_usable());
    let error = session.simple("SELECT 1").await.unwrap_err();
    assert!(matches!(error, WireError::Unusable { .. }) && error.to_string().contains("abandoned"), "{error:?}");
    let mut window = session.pipeline();
    window.query("SELECT 1", &[], []);
    assert!(matches!(window.run().await.unwrap_err().error, WireError::Unusable { .. }));
    session.cancel_handle().cancel().await.unwrap();
}

#[tokio::test]
async fn a_terminated_session_says_so() {
    let mut session = session("terminated").await;
    let other = async |pid: i32| {
        tokio::time::sleep(Duration::from_millis(200)).await;
        shared().sql("postgres", &format!("SELECT pg_terminate_backend({pid})")).await.unwrap();
    };
    let pid = session.process_id();
    let mut window = session.pipeline();
    window.query("SELECT 1", &[], []);
    window.query("SELECT pg_sleep(60)", &[], []);
    let (result, ()) = tokio::join!(window.run(), other(pid));
    let failed = result.unwrap_err();
    assert!(matches!(&failed.error, WireError::Terminated(_)), "{failed:?}");
    assert_eq!((failed.at, failed.code(), failed.class()), (1, Some("57P01"), Class::Transient));
    assert!(matches!(session.simple("SELECT 1").await.unwrap_err(), WireError::Unusable { .. }));
}

#[tokio::test]
async fn a_session_that_was_terminated_while_idle_says_so() {
    let mut session = session("terminated_idle").await;
    shared().sql("postgres", &format!("SELECT pg_terminate_backend({})", session.process_id())).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let error = session.simple("SELECT 1").await.unwrap_err();
    assert_eq!((error.code(), error.class()), (Some("57P01"), Class::Transient), "{error:?}");
}

#[tokio::test]
async fn a_statement_is_cancelled_from_elsewhere() {
    let mut session = session("cancelled").await;
    let handle = session.cancel_handle();
    let (slept, cancelled) = tokio::join!(session.simple("SELECT pg_sleep(60)"), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        handle.cancel().await
    });
    cancelled.unwrap();
    let error = slept.unwrap_err();
    assert_eq!((error.code(), error.class()), (Some("57014"), Class::Transient));
    assert_eq!(number(&mut session, "SELECT 5").await, 5);
}

#[tokio::test]
async fn notices_and_parameters_between_the_answers() {
    let mut session = session("between").await;
    let sql = "DO $$BEGIN RAISE WARNING 'careful'; END$$; SET TimeZone = 'Asia/Tokyo'; SELECT 1";
    let outcomes = session.simple(sql).await.unwrap();
    let tags: Vec<_> = outcomes.iter().map(|outcome| outcome.tag.name.to_string()).collect();
    assert_eq!(tags, ["DO", "SET", "SELECT"]);
    assert_eq!(session.parameter("TimeZone"), Some("Asia/Tokyo"));
}

#[tokio::test]
async fn command_tags_carry_the_rows() {
    let mut session = session("tags").await;
    session.simple("CREATE TABLE t (k int)").await.unwrap();
    let mut window = session.pipeline();
    for sql in [
        "BEGIN",
        "INSERT INTO t SELECT generate_series(1, 5)",
        "UPDATE t SET k = k + 10 WHERE k < 4",
        "DELETE FROM t WHERE k = 99",
        "SELECT k FROM t",
        "COMMIT",
    ] {
        window.query(sql, &[], []);
    }
    let outcomes = window.run().await.unwrap();
    let tags: Vec<_> = outcomes.iter().map(|outcome| (outcome.tag.name.to_string(), outcome.tag.rows)).collect();
    let expected = [("BEGIN", 0), ("INSERT", 5), ("UPDATE", 3), ("DELETE", 0), ("SELECT", 5), ("COMMIT", 0)];
    assert_eq!(tags, expected.map(|(name, rows)| (name.to_owned(), rows)));
    assert_eq!(outcomes[4].rows.len(), 5);
}

#[tokio::test]
async fn a_copy_that_is_not_expected_ends_the_session() {
    let mut session = session("copy").await;
    let error = session.simple("COPY (SELECT 1) TO STDOUT").await.unwrap_err();
    assert!(matches!(error, WireError::Protocol(_)), "{error:?}");
    assert!(!session.is_usable());
    Session::connect(&info(&shared().dsn("postgres", "postgres")), &[]).await.unwrap();
}
