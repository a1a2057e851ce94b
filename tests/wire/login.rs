//! Getting in, or being told why not, without TLS.

use std::time::Duration;

use pgconcord::model::{Class, Classify};
use pgconcord::wire::{Session, WireError};

use super::{info, shared};

async fn refusal(text: &str) -> WireError {
    match Session::connect(&info(text), &[]).await {
        Ok(_) => panic!("{text} was let in"),
        Err(error) => error,
    }
}

/// A port of this machine that nobody listens at.
fn silent_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn scram_over_tcp() {
    let session = Session::connect(&info(&shared().dsn("postgres", "postgres")), &[]).await.unwrap();
    assert!(session.server_version() >= 140_000 && session.process_id() > 0 && !session.is_encrypted());
    assert_eq!(session.parameter("client_encoding"), Some("UTF8"));
    session.close().await;
}

#[tokio::test]
async fn scram_over_a_unix_socket_even_if_tls_is_demanded() {
    let text =
        format!("host={} {} sslmode=require", shared().socket_dir().display(), shared().dsn("postgres", "postgres"));
    let text = text.replace("host=127.0.0.1", "");
    // The socket's directory belongs to the server's user; only root and that user get in.
    match Session::connect(&info(&text), &[]).await {
        Ok(mut session) => {
            let outcomes = session.simple("SELECT inet_server_addr() IS NULL").await.unwrap();
            assert!(outcomes[0].rows[0].flag(0).unwrap());
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_wrong_password_says_where_it_came_from() {
    let error =
        refusal(&format!("host=127.0.0.1 port={} user=postgres password=wrong sslmode=disable", shared().port())).await;
    assert_eq!((error.code(), error.class()), (Some("28P01"), Class::Operator));
    let text = error.to_string();
    assert!(
        text.contains("password authentication failed") && text.contains("came from the connection string"),
        "{text}"
    );
    assert!(!text.contains("wrong"), "{text}");
}

#[tokio::test]
async fn a_missing_password_says_where_to_put_one() {
    let error = refusal(&format!("host=127.0.0.1 port={} user=postgres sslmode=disable", shared().port())).await;
    assert!(matches!(&error, WireError::Auth { .. }) && error.class() == Class::Operator, "{error:?}");
    assert!(error.to_string().contains("PGPASSWORD"), "{error}");
}

#[tokio::test]
async fn an_unknown_database_is_the_operators() {
    let error = refusal(&shared().dsn("postgres", "nowhere")).await;
    assert_eq!((error.code(), error.class()), (Some("3D000"), Class::Operator));
    assert!(error.to_string().contains("/nowhere"), "{error}");
}

#[tokio::test]
async fn nobody_listening_is_transient_and_names_the_address() {
    let port = silent_port();
    let error = refusal(&format!("host=127.0.0.1 port={port} user=u")).await;
    assert_eq!(error.class(), Class::Transient);
    assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let start = std::time::Instant::now();
    let error = refusal(&format!("host=127.0.0.1 port={port} user=u connect_timeout=1")).await;
    assert!(matches!(&error, WireError::Timeout { .. }) && error.class() == Class::Transient, "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn hosts_are_tried_in_turn() {
    let dead = silent_port();
    let both = |attributes: &str| {
        let dsn = shared().dsn("postgres", "postgres").replace("host=127.0.0.1", "host=127.0.0.1,127.0.0.1");
        let ports = format!("port={dead},{}", shared().port());
        format!("{} target_session_attrs={attributes}", dsn.replace(&format!("port={}", shared().port()), &ports))
    };
    for attributes in ["any", "read-write", "primary", "prefer-standby"] {
        let session = Session::connect(&info(&both(attributes)), &[]).await.unwrap();
        assert_eq!(session.peer(), format!("127.0.0.1:{}", shared().port()), "{attributes}");
    }
    let error = refusal(&both("standby")).await;
    assert!(matches!(&error, WireError::NoHost(errors) if errors.len() == 2), "{error:?}");
    assert!(error.to_string().contains("it is a primary"), "{error}");
}

#[tokio::test]
async fn a_read_only_server_is_not_read_write() {
    let dsn = format!("{} options='-c default_transaction_read_only=on'", shared().dsn("postgres", "postgres"));
    let error = refusal(&format!("{dsn} target_session_attrs=read-write")).await;
    assert!(matches!(&error, WireError::WrongServer { .. }) && error.class() == Class::Transient, "{error:?}");
    Session::connect(&info(&format!("{dsn} target_session_attrs=read-only")), &[]).await.unwrap();
}

#[tokio::test]
async fn startup_parameters_reach_the_server() {
    let dsn =
        format!("{} options='-c statement_timeout=7s' application_name=string", shared().dsn("postgres", "postgres"));
    let parameters = [("application_name", "pgconcord test"), ("lock_timeout", "1s")];
    let mut session = Session::connect(&info(&dsn), &parameters).await.unwrap();
    let sql = "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'), application_name \
               FROM pg_stat_activity WHERE pid = pg_backend_pid()";
    let outcomes = session.simple(sql).await.unwrap();
    let cells: Vec<_> = (0..3).map(|i| outcomes[0].rows[0].text(i).unwrap()).collect();
    assert_eq!(cells, ["7s", "1s", "pgconcord test"]);
}

#[tokio::test]
async fn a_session_that_replicates_needs_the_attribute() {
    shared().sql("postgres", "CREATE ROLE not_replicating LOGIN PASSWORD 'sesame'").await.unwrap();
    let text = format!("host=127.0.0.1 port={} user=not_replicating dbname=postgres password=sesame", shared().port());
    let error = Session::connect(&info(&text), &[("replication", "database")]).await.err().unwrap();
    assert_eq!(error.class(), Class::Operator);
    assert!(error.to_string().contains("REPLICATION"), "{error}");
}
