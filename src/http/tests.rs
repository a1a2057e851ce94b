//! The pages over a real socket.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::*;
use crate::status::tests::example;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

struct Server {
    address: SocketAddr,
    status: watch::Sender<Arc<Status>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), HttpError>>,
    asked: Asked,
}

async fn server() -> Server {
    let listener = bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (status, receiver) = watch::channel(Arc::new(example()));
    let (stop, stopped) = oneshot::channel::<()>();
    let (ask, asked) = mpsc::channel(1);
    let task = tokio::spawn(serve(listener, receiver, ask, async {
        let _ = stopped.await;
    }));
    Server { address, status, stop, task, asked }
}

impl Server {
    /// Status code, headers and body of a page, by a client that knows nothing of ours.
    async fn get(&self, path: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), head.to_owned(), body.to_owned())
    }

    fn change(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(|status| change(Arc::make_mut(status)));
    }
}

#[tokio::test]
async fn status_is_the_snapshot_as_the_client_reads_it() {
    let server = server().await;
    assert_eq!(client::status(server.address).await.unwrap(), example());
    server.change(|status| status.window.keys = 99);
    assert_eq!(client::status(server.address).await.unwrap().window.keys, 99);
}

#[tokio::test]
async fn whoever_asks_for_a_reload_is_told_what_came_of_it() {
    let mut server = server().await;
    for said in [Ok("read 2 rules".to_owned()), Err("rules.toml:3:1: no".to_owned())] {
        let asking = tokio::spawn(client::request(server.address, Request::ReloadRules));
        server.asked.recv().await.expect("a request").1.send(said.clone()).expect("somebody waits");
        assert_eq!(asking.await.unwrap().unwrap(), said);
    }
    drop(server.asked);
    let error = client::request(server.address, Request::ReloadRules).await.unwrap_err().to_string();
    assert!(error.contains("starting or ending"), "{error}");
}

#[tokio::test]
async fn readyz_tells_what_is_missing() {
    let server = server().await;
    let (code, _, body) = server.get("/readyz").await;
    assert_eq!(code, 503);
    assert!(body.contains("node west is down: connection refused: start the server"), "{body}");
    server.change(|status| status.ready = true);
    assert_eq!(server.get("/readyz").await.0, 200);
}

#[tokio::test]
async fn healthz_fails_when_the_daemon_makes_no_more_snapshots() {
    let Server { address, status, stop, task, asked } = server().await;
    let (other, _) = watch::channel(Arc::new(example()));
    let server = Server { address, status: other, stop, task, asked };
    assert_eq!(server.get("/healthz").await.0, 200);
    drop(status);
    let (code, _, body) = server.get("/healthz").await;
    assert_eq!((code, body.as_str()), (503, "the daemon's loop has ended\n"));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_is_late_is_no_health() {
    let (sender, receiver) = watch::channel(Arc::new(example()));
    let latest = routes::Latest::new(receiver);
    tokio::spawn(latest.clone().follow());
    tokio::time::advance(routes::FRESH).await;
    assert_eq!(latest.stale(), None);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(latest.stale().unwrap().contains("for 11 s"));
    sender.send_replace(Arc::new(example()));
    tokio::task::yield_now().await;
    assert_eq!(latest.stale(), None);
}

#[tokio::test]
async fn metrics_are_open_metrics_with_every_number() {
    let server = server().await;
    server.change(|status| status.cluster = "sh\"op".into());
    let (code, head, body) = server.get("/metrics").await;
    assert_eq!(code, 200);
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    for line in [
        r#"pgconcord_build_info{version="0.1.0",cluster="sh\"op"} 1"#,
        "pgconcord_ready 0.0",
        r#"pgconcord_node_state{node="west",state="down"} 1.0"#,
        r#"pgconcord_node_state{node="west",state="streaming"} 0.0"#,
        r#"pgconcord_node_retained_bytes{node="east"} 5242880.0"#,
        r#"pgconcord_node_retained_for_bytes{node="east",for="west"} 55368.0"#,
        r#"pgconcord_node_clock_skew_seconds{node="east"} -0.0015"#,
        r#"pgconcord_link_state{source="east",target="west",state="retrying"} 1.0"#,
        r#"pgconcord_link_lag_bytes{source="east",target="west"} 55368.0"#,
        r#"pgconcord_link_lag_seconds{source="east",target="west"} 12.5"#,
        "# TYPE pgconcord_link_conflicts counter",
        r#"pgconcord_link_conflicts_total{source="west",target="east"} 7"#,
        "pgconcord_window_memory_bytes 2048.0",
        "pgconcord_journal_pending 1.0",
    ] {
        assert!(body.lines().any(|each| each == line), "{line} is not in\n{body}");
    }
    assert!(!body.contains(r#"node_received_lsn_bytes{node="west"}"#), "an unknown number has no line\n{body}");
    assert!(body.ends_with("# EOF\n"));
    let mut families: Vec<&str> = body.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let all = families.len();
    families.sort_unstable();
    families.dedup();
    assert_eq!(families.len(), all, "a family is described once");
}

#[tokio::test]
async fn the_index_lists_the_pages_and_others_are_not_there() {
    let server = server().await;
    let (code, _, body) = server.get("/").await;
    assert_eq!(code, 200);
    for page in ["/status", "/metrics", "/healthz", "/readyz"] {
        assert!(body.contains(page));
        assert_ne!(server.get(page).await.0, 404, "{page}");
    }
    assert_eq!(server.get("/nosuch").await.0, 404);
}

#[tokio::test]
async fn shutdown_waits_for_nobody_who_only_holds_a_connection() {
    let server = server().await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"GET /sta").await.unwrap();
    server.get("/").await;
    server.stop.send(()).unwrap();
    tokio::time::timeout(routes::GRACE * 3, server.task).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let listener = bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    let error = bind(address).await.unwrap_err();
    assert!(matches!(error, HttpError::InUse(in_use) if in_use == address));
    let elsewhere = bind("192.0.2.1:7432".parse().unwrap()).await.unwrap_err().to_string();
    assert!(elsewhere.contains("cannot listen on 192.0.2.1:7432"), "{elsewhere}");
}

#[tokio::test]
async fn the_client_says_when_no_daemon_or_something_else_answers() {
    let listener = bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    let other = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        let read = stream.read(&mut request).await.unwrap();
        assert!(request[..read].starts_with(b"GET /status HTTP/1.1\r\n"));
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
    });
    let error = client::status(address).await.unwrap_err();
    assert!(matches!(error, client::ClientError::NotADaemon { .. }), "{error}");
    other.await.unwrap();
    let error = client::status(address).await.unwrap_err();
    assert!(matches!(error, client::ClientError::NoAnswer { .. }), "{error}");
    assert!(error.to_string().contains("pgconcord run"));
}
