//! Cancelling another session's statement: a second connection that says one thing and hangs up.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::conninfo::{Conninfo, Host};
use super::error::WireError;
use super::stream::{Endpoint, Stream};
use super::tls;

/// Longest wait for the server to take a request: the postmaster has nothing to compute for it.
const LONGEST_CANCEL: Duration = Duration::from_secs(10);

/// Where a session came from and the number that lets it be cancelled; may be sent to other tasks.
#[derive(Clone)]
pub struct CancelHandle {
    pub(super) info: Arc<Conninfo>,
    pub(super) host: Host,
    pub(super) endpoint: Endpoint,
    pub(super) encrypted: bool,
    pub(super) process_id: i32,
    pub(super) secret_key: i32,
}

impl CancelHandle {
    /// Asks the server to cancel what the session is doing. Success means that it was asked, not that there was
    /// anything to cancel.
    pub async fn cancel(&self) -> Result<(), WireError> {
        let doing = || format!("cancelling a statement at {}", self.host);
        tokio::time::timeout(LONGEST_CANCEL, self.request())
            .await
            .unwrap_or_else(|_| Err(WireError::Timeout { doing: doing(), after: LONGEST_CANCEL }))
    }

    async fn request(&self) -> Result<(), WireError> {
        let failed = |error| WireError::io(format!("cancelling a statement at {}", self.host), error);
        let mut stream = match self.endpoint.open(self.info.keepalive()).await.map_err(failed)? {
            Stream::Tcp(tcp) if self.encrypted => tls::secure(tcp, self.info.ssl(), &self.host).await?,
            stream => stream,
        };
        let mut request = BytesMut::new();
        frontend::cancel_request(self.process_id, self.secret_key, &mut request);
        stream.write_all(&request).await.map_err(failed)?;
        stream.flush().await.map_err(failed)?;
        // The server hangs up once it has passed the request on; however it does so, the request was taken.
        let _ = stream.read(&mut [0]).await;
        Ok(())
    }
}

impl std::fmt::Debug for CancelHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CancelHandle({}, process {})", self.host, self.process_id)
    }
}
