//! The pages, and how old the snapshot may be that they show.

use std::future::{Future, IntoFuture};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::http::ask::{self, Ask, Request};
use crate::http::metrics;
use crate::status::Status;

/// The daemon makes a snapshot every second; one that is late by so much tells of a loop that hangs.
pub(super) const FRESH: Duration = Duration::from_secs(10);
/// For requests under way at shutdown; the daemon has 5 s to end in all.
pub(super) const GRACE: Duration = Duration::from_secs(1);

const INDEX: &str = "pgconcord

/status   what `pgconcord status` prints, as JSON
/metrics  OpenMetrics, for Prometheus
/healthz  200 while the daemon works
/readyz   200 while every node streams and every link applies

POST /rules/reload   reads the conflict rules again, as `pgconcord rules reload` does
POST /held/retry     tries rows again that nodes have refused, as `pgconcord conflicts retry` does
";

/// The latest snapshot and when it came.
#[derive(Clone)]
pub(super) struct Latest {
    status: watch::Receiver<Arc<Status>>,
    /// Kept on the monotonic clock: a step of the wall clock is no failure.
    came: Arc<Mutex<Instant>>,
}

impl Latest {
    /// Takes what is there as new.
    pub(super) fn new(status: watch::Receiver<Arc<Status>>) -> Latest {
        Latest { status, came: Arc::new(Mutex::new(Instant::now())) }
    }

    /// Notes when snapshots come, until the daemon makes no more.
    pub(super) async fn follow(mut self) {
        while self.status.changed().await.is_ok() {
            *self.came.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }

    fn get(&self) -> Arc<Status> {
        self.status.borrow().clone()
    }

    fn age(&self) -> Duration {
        self.came.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Why the snapshot is not to be trusted.
    pub(super) fn stale(&self) -> Option<String> {
        let age = self.age();
        if self.status.has_changed().is_err() {
            Some("the daemon's loop has ended\n".to_owned())
        } else if age > FRESH {
            Some(format!("the daemon's loop has not been heard of for {} s\n", age.as_secs()))
        } else {
            None
        }
    }
}

/// All pages over `latest`.
pub(super) fn router(latest: Latest, ask: Ask) -> Router {
    let asked = Router::new()
        .route(Request::ReloadRules.path(), post(ask::reload_rules))
        .route(Request::RetryHeld.path(), post(ask::retry_held))
        .with_state(ask);
    Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/metrics", get(metrics_page))
        .fallback(|| async { (StatusCode::NOT_FOUND, "no such page; / lists them\n") })
        .with_state(latest)
        .merge(asked)
}

pub(super) async fn serve(
    listener: TcpListener,
    status: watch::Receiver<Arc<Status>>,
    ask: Ask,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let latest = Latest::new(status);
    let follow = tokio::spawn(latest.clone().follow());
    let (stopping, stopped) = oneshot::channel();
    let server = axum::serve(listener, router(latest, ask)).with_graceful_shutdown(async move {
        shutdown.await;
        let _ = stopping.send(());
    });
    let done = tokio::select! {
        done = server.into_future() => done,
        () = grace_over(stopped) => Ok(()),
    };
    follow.abort();
    done
}

/// Completes [`GRACE`] after shutdown began.
async fn grace_over(stopped: oneshot::Receiver<()>) {
    let _ = stopped.await;
    tokio::time::sleep(GRACE).await;
}

async fn healthz(State(latest): State<Latest>) -> Response {
    match latest.stale() {
        None => "ok\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

async fn readyz(State(latest): State<Latest>) -> Response {
    let status = latest.get();
    let why = match latest.stale() {
        Some(why) => why,
        None if status.ready => return "ready\n".into_response(),
        None => {
            let complaints = status.complaints();
            if complaints.is_empty() { "starting\n".to_owned() } else { complaints.join("\n") + "\n" }
        }
    };
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

async fn status(State(latest): State<Latest>) -> Response {
    axum::Json(&*latest.get()).into_response()
}

async fn metrics_page(State(latest): State<Latest>) -> Response {
    match metrics::render(latest.get(), latest.age()) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
