//! What is asked of the daemon, which answers when it is done.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::sync::{mpsc, oneshot};

/// A daemon that has not reached all of its nodes yet does not answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// What can be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// To read the rules again.
    ReloadRules,
    /// To try rows again that nodes have refused.
    RetryHeld,
}

impl Request {
    /// Where it is posted.
    pub fn path(self) -> &'static str {
        match self {
            Request::ReloadRules => "/rules/reload",
            Request::RetryHeld => "/held/retry",
        }
    }
}

/// What came of it, or what is wrong.
pub type Answer = Result<String, String>;
/// Asks.
pub type Ask = mpsc::Sender<(Request, oneshot::Sender<Answer>)>;
/// Where that is heard.
pub type Asked = mpsc::Receiver<(Request, oneshot::Sender<Answer>)>;

/// `POST /rules/reload`.
pub(super) async fn reload_rules(State(ask): State<Ask>) -> Response {
    answer(ask, Request::ReloadRules).await
}

/// `POST /held/retry`.
pub(super) async fn retry_held(State(ask): State<Ask>) -> Response {
    answer(ask, Request::RetryHeld).await
}

async fn answer(ask: Ask, request: Request) -> Response {
    let (answer, answered) = oneshot::channel();
    let asked = async {
        ask.send((request, answer)).await.ok()?;
        answered.await.ok()
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Some(Ok(said))) => (StatusCode::OK, said + "\n").into_response(),
        Ok(Some(Err(wrong))) => (StatusCode::UNPROCESSABLE_ENTITY, wrong + "\n").into_response(),
        Ok(None) | Err(_) => {
            let why =
                "the daemon is starting or ending, and does not listen now; ask again once `pgconcord status` works\n";
            (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
        }
    }
}
