//! Encryption, trust, channel binding, certificates of clients.

use pgconcord::model::{Class, Classify};
use pgconcord::wire::{Session, WireError};

use super::{Certificate, TlsServer, info, shared};
use crate::harness::Version;

async fn admitted(text: &str) -> Session {
    Session::connect(&info(text), &[]).await.unwrap_or_else(|error| panic!("{text}: {error}"))
}

async fn refusal(text: &str) -> WireError {
    match Session::connect(&info(text), &[]).await {
        Ok(_) => panic!("{text} was let in"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_server_with_a_signed_certificate() {
    let server = TlsServer::start("tls", Certificate::Signed).await;
    every_mode(&server).await;
    every_login(&server).await;
    channel_binding(&server).await;
    client_certificates(&server).await;
    what_needs_no_encryption_falls_back(&server).await;
    a_cancel_goes_under_tls(&server).await;
    super::pipeline::a_hundred_thousand_statements(&mut admitted(&server.dsn("trusted", "sslmode=require")).await)
        .await;
    super::stream::both_ways(&server.server).await;
}

#[tokio::test]
async fn tls_begins_at_once_where_the_server_can() {
    let server = TlsServer::start_as("tls-direct", Certificate::Signed, Version::V18).await;
    let direct = "sslmode=require sslnegotiation=direct";
    assert!(admitted(&server.dsn("scrambled", &format!("{direct} channel_binding=require"))).await.is_encrypted());
    // PostgreSQL 15 takes a handshake for a startup message of nonsense and hangs up.
    let error = refusal(&shared().dsn("postgres", &format!("postgres {direct}"))).await;
    assert_eq!(error.class(), Class::Transient, "{error:?}");
}

async fn every_mode(server: &TlsServer) {
    let (root, other) = (server.file("root.crt"), server.file("other.crt"));
    for (more, encrypted) in [
        ("sslmode=disable".to_owned(), false),
        ("sslmode=allow".to_owned(), true),
        ("sslmode=prefer".to_owned(), true),
        ("sslmode=require".to_owned(), true),
        ("sslmode=require ssl_max_protocol_version=TLSv1.2".to_owned(), true),
        (format!("sslmode=require sslrootcert={root}"), true),
        (format!("sslmode=verify-ca host=elsewhere sslrootcert={root}"), true),
        (format!("sslmode=verify-full host=localhost sslrootcert={root}"), true),
        (format!("sslmode=verify-full sslrootcert={root}"), true),
    ] {
        let mut session = admitted(&server.dsn("scrambled", &more)).await;
        let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let seen = session.simple(sql).await.unwrap()[0].rows[0].flag(0).unwrap();
        assert_eq!((session.is_encrypted(), seen), (encrypted, encrypted), "{more}");
    }
    for (more, words) in [
        (format!("sslmode=verify-full host=elsewhere sslrootcert={root}"), "localhost, 127.0.0.1"),
        (format!("sslmode=verify-ca sslrootcert={other}"), "vouches"),
        (format!("sslmode=require sslrootcert={other}"), "vouches"),
        ("sslmode=verify-full sslrootcert=/nonexistent/root.crt".to_owned(), "/nonexistent/root.crt"),
        (format!("sslmode=verify-ca sslrootcert={}", server.file("root.key")), "no PEM certificate"),
    ] {
        let error = refusal(&server.dsn("scrambled", &more)).await;
        assert!(matches!(&error, WireError::Tls { .. }) && error.class() == Class::Operator, "{more}: {error:?}");
        assert!(error.to_string().contains(words), "{more}: {error}");
    }
}

async fn every_login(server: &TlsServer) {
    for user in ["trusted", "clear", "hashed", "scrambled"] {
        for mode in ["disable", "require"] {
            let mut session = admitted(&server.dsn(user, &format!("sslmode={mode}"))).await;
            let outcomes = session.simple("SELECT current_user").await.unwrap();
            assert_eq!(outcomes[0].rows[0].text(0).unwrap(), user);
        }
        if user != "trusted" {
            let text = server.dsn(user, "").replace("sesame", "wrong");
            let error = refusal(&text).await;
            assert_eq!(error.code(), Some("28P01"), "{user}: {error}");
        }
    }
}

async fn channel_binding(server: &TlsServer) {
    admitted(&server.dsn("scrambled", "sslmode=require channel_binding=require")).await;
    admitted(&server.dsn("scrambled", "sslmode=require channel_binding=disable")).await;
    for (user, more, words) in [
        ("scrambled", "sslmode=disable channel_binding=require", "needs TLS"),
        ("hashed", "sslmode=require channel_binding=require", "md5"),
        ("clear", "sslmode=require channel_binding=require", "clear text"),
        ("trusted", "sslmode=require channel_binding=require", "without SCRAM"),
    ] {
        let error = refusal(&server.dsn(user, more)).await;
        assert!(
            matches!(&error, WireError::Auth { .. }) && error.to_string().contains(words),
            "{user} {more}: {error}"
        );
    }
}

async fn client_certificates(server: &TlsServer) {
    let pair = format!("sslmode=require sslcert={} sslkey={}", server.file("client.crt"), server.file("client.key"));
    let mut session = admitted(&server.dsn("certified", &pair)).await;
    let sql = "SELECT client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert_eq!(session.simple(sql).await.unwrap()[0].rows[0].text(0).unwrap(), "/CN=certified");

    let error = refusal(&server.dsn("certified", "sslmode=require")).await;
    assert_eq!((error.code(), error.class()), (Some("28000"), Class::Operator));
    let error = refusal(&server.dsn("certified", &pair.replace("client.key", "root.key"))).await;
    assert!(error.to_string().contains("client.crt"), "{error}");

    let open = server.directory.join("open.key");
    std::fs::copy(server.directory.join("client.key"), &open).unwrap();
    std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let error = refusal(&server.dsn("certified", &pair.replace("client.key", "open.key"))).await;
    assert!(error.to_string().contains("chmod 600"), "{error}");
}

async fn what_needs_no_encryption_falls_back(server: &TlsServer) {
    assert!(!admitted(&server.dsn("plain", "sslmode=prefer")).await.is_encrypted());
    let error = refusal(&server.dsn("plain", "sslmode=require")).await;
    assert_eq!(error.code(), Some("28000"), "{error}");
    // A certificate that nobody vouches for does not stop "prefer" either.
    let other = server.file("other.crt");
    assert!(!admitted(&server.dsn("trusted", &format!("sslmode=prefer sslrootcert={other}"))).await.is_encrypted());
}

async fn a_cancel_goes_under_tls(server: &TlsServer) {
    let mut session = admitted(&server.dsn("trusted", "sslmode=require")).await;
    let handle = session.cancel_handle();
    let (slept, cancelled) = tokio::join!(session.simple("SELECT pg_sleep(60)"), async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        handle.cancel().await
    });
    cancelled.unwrap();
    assert_eq!(slept.unwrap_err().code(), Some("57014"));
}

#[tokio::test]
async fn a_certificate_made_as_postgresqls_documentation_says() {
    let server = TlsServer::start("tls-v1", Certificate::Version1).await;
    let (root, other) = (server.file("root.crt"), server.file("other.crt"));
    admitted(&server.dsn("scrambled", "sslmode=require channel_binding=require")).await;
    admitted(&server.dsn("scrambled", &format!("sslmode=verify-ca sslrootcert={root}"))).await;
    admitted(&server.dsn("scrambled", &format!("sslmode=verify-full host=localhost sslrootcert={root}"))).await;
    let error = refusal(&server.dsn("scrambled", &format!("sslmode=verify-ca sslrootcert={other}"))).await;
    assert!(error.to_string().contains("vouches"), "{error}");
    let error = refusal(&server.dsn("scrambled", &format!("sslmode=verify-full host=nohost sslrootcert={root}"))).await;
    assert!(error.to_string().contains("localhost"), "{error}");
}

#[tokio::test]
async fn a_self_signed_certificate_is_its_own_root() {
    let server = TlsServer::start("tls-self", Certificate::SelfSigned).await;
    let own = server.file("server.crt");
    let full = format!("sslmode=verify-full sslrootcert={own} channel_binding=require");
    admitted(&server.dsn("scrambled", &format!("{full} host=localhost"))).await;
    let error = refusal(&server.dsn("scrambled", &format!("{full} host=elsewhere"))).await;
    assert!(error.to_string().contains("localhost"), "{error}");
    let root = server.file("root.crt");
    let error = refusal(&server.dsn("scrambled", &format!("sslmode=verify-ca sslrootcert={root}"))).await;
    assert!(error.to_string().contains("vouches"), "{error}");
}

#[tokio::test]
async fn a_server_without_tls_says_what_to_set() {
    let error = refusal(&format!("{} sslmode=require", shared().dsn("postgres", "postgres"))).await;
    assert!(error.to_string().contains("ssl=on"), "{error}");
    assert!(!admitted(&format!("{} sslmode=prefer", shared().dsn("postgres", "postgres"))).await.is_encrypted());
}
