//! What is asked of the daemon: to read its rules again.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::sync::{mpsc, oneshot};

/// A daemon that has not reached all of its nodes yet does not answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// What a reload comes to: what changes, or what is wrong with the new rules.
pub type Answer = Result<String, String>;
/// Asks for the rules to be read again.
pub type Reload = mpsc::Sender<oneshot::Sender<Answer>>;
/// Where that is heard.
pub type Reloads = mpsc::Receiver<oneshot::Sender<Answer>>;

/// `POST /rules/reload`.
pub(super) async fn reload(State(reload): State<Reload>) -> Response {
    let (answer, answered) = oneshot::channel();
    let asked = async {
        reload.send(answer).await.ok()?;
        answered.await.ok()
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Some(Ok(said))) => (StatusCode::OK, said + "\n").into_response(),
        Ok(Some(Err(wrong))) => (StatusCode::UNPROCESSABLE_ENTITY, wrong + "\n").into_response(),
        Ok(None) | Err(_) => {
            let why = "the daemon is starting or ending, and reads no rules now; once it runs it has the latest\n";
            (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
        }
    }
}
