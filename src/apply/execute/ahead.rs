//! A large transaction is written while it still comes, so that decoding and applying it go on at the same time.
//!
//! Only its statements are sent ahead. Nothing is decided: when all of it has come, the batch is planned like any other and
//! takes over what is written if the window says of each key that no other node has changed it, as it says of most keys of
//! most batches ([`Coordinator::decide_alone`]); otherwise all is rolled back and written as if nothing had been. What is
//! sent ahead is guarded by the horizon like everything else (R4), the progress row moves with the rest (R3), and only a
//! transaction that is known to have committed is begun, after the target's clock has passed its commit (R2).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::apply::batch::{Fetching, Pieces};
use crate::apply::error::ApplyError;
use crate::apply::execute::flight::{Flight, Underway};
use crate::apply::execute::piece::Piece;
use crate::apply::execute::{Execution, Opened, Part};
use crate::apply::manner::Manner;
use crate::apply::net::Net;
use crate::apply::record::Recorder;
use crate::apply::session::ApplySession;
use crate::apply::sets::Judging;
use crate::apply::shared::Shared;
use crate::conflict::Coordinator;
use crate::model::bloom::ScalableBloom;
use crate::model::{Growing, Growth, Link, Resolvers};

/// What has been written of a transaction of which more comes, in a transaction that is open at the target.
#[derive(Debug)]
pub struct Ahead {
    /// Which transaction.
    pub growth: Growth,
    /// Over which link.
    pub link: Link,
    /// How long writing has taken.
    pub wrote: Duration,
    /// When the last piece was written, and how long each had been waited for before.
    since: Instant,
    waited: Duration,
    /// A statement has been sent, whatever came of it.
    has_begun: bool,
    /// Offset of the first record that is not written.
    offset: u64,
    changes: u64,
    rows: u64,
    copied: bool,
    touched: ScalableBloom,
    resolvers: Arc<Resolvers>,
    opened: Opened,
    /// What has been sent and is not answered.
    flight: Flight<()>,
    /// What comes after the piece that was written last.
    next: Option<Fetching<Piece>>,
}

/// Whether a piece could be written ahead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// It is, or on its way.
    Written,
    /// It needs more than that: a decision, a lock, a value that was left out. What is open must be rolled back.
    Unfit,
}

impl Ahead {
    /// Nothing is written.
    pub fn new(link: Link, growth: Growth, coordinator: &Coordinator) -> Ahead {
        Ahead {
            growth,
            link,
            wrote: Duration::ZERO,
            since: Instant::now(),
            waited: Duration::ZERO,
            has_begun: false,
            offset: 0,
            changes: 0,
            rows: 0,
            copied: false,
            touched: ScalableBloom::default(),
            resolvers: coordinator.resolvers().clone(),
            opened: Opened::Nothing,
            flight: Flight::default(),
            next: None,
        }
    }

    /// Whether a transaction may be open at the target.
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// How long rows have been locked while nothing was written.
    pub fn waited(&self) -> Duration {
        self.waited + self.since.elapsed()
    }

    /// Whether more has come than is written.
    pub fn is_behind(&self, growing: &Growing) -> bool {
        growing.so_far.payload.len() > self.offset
    }

    /// Writes the next piece of what has come.
    ///
    /// # Errors
    /// If a statement fails: what is open must be rolled back.
    pub async fn write<R: Recorder>(
        &mut self,
        shared: &Shared,
        session: &mut ApplySession,
        recorder: &R,
        growing: &Growing,
        manner: Manner,
    ) -> Result<Sent, ApplyError> {
        let batch = shared.coordinator().beginning(self.link, growing.so_far.clone());
        let fetch = |offset| {
            let (resolvers, inserting) = (self.resolvers.clone(), manner.inserting);
            let pieces = Pieces::from(&batch, shared.settings.batch_changes, offset);
            pieces
                .fetch(shared.catalog.hasher, move |folded| Piece::of(folded, &resolvers, inserting, Judging::Counted))
        };
        self.waited = self.waited();
        let began = Instant::now();
        let (pieces, piece) = self.next.take().unwrap_or_else(|| fetch(self.offset)).piece().await?;
        let Some(piece) = piece else { return Ok(Sent::Written) };
        let reached = pieces.reached();
        self.next = (growing.so_far.payload.len() > reached).then(|| fetch(reached));
        let mut execution = Execution::new(shared, session, recorder, &batch);
        (execution.manner, execution.part, execution.opened) = (manner, Part::Beginning, self.opened);
        self.has_begun = true;
        let sent = self.send(&mut execution, &piece).await;
        self.opened = execution.opened;
        self.rows += execution.rows;
        self.copied |= execution.applied.copied;
        piece.folded.nets.iter().for_each(|net| self.touched.insert(net.key));
        self.changes += piece.folded.changes;
        self.offset = reached;
        self.wrote += began.elapsed();
        self.since = Instant::now();
        sent
    }

    /// Sends the piece, and waits for those before it until there is room for another one.
    async fn send<R: Recorder>(&mut self, execution: &mut Execution<'_, R>, piece: &Piece) -> Result<Sent, ApplyError> {
        let Some(window) = execution.send_ahead(piece).await? else { return Ok(Sent::Unfit) };
        self.flight.push((), window, piece.folded.bytes);
        while self.flight.is_full(execution.session.round_trip())
            && let Some(((), window)) = self.flight.pop()
        {
            if !execution.answer(window).await?.is_empty() {
                return Ok(Sent::Unfit);
            }
            self.flight.landed();
        }
        Ok(Sent::Written)
    }
}

impl<R: Recorder> Execution<'_, R> {
    /// `None` if it takes more than statements.
    async fn send_ahead(&mut self, piece: &Piece) -> Result<Option<Underway>, ApplyError> {
        // Whatever is older is in the window when that is asked.
        let horizon = self.shared.node(self.batch.link.target).horizon();
        let now = Instant::now();
        let is_busy = |net: &Net| self.session.busy.contains(net.key, now);
        match &piece.statements {
            Some(statements) if !piece.folded.nets.iter().any(is_busy) => {
                self.send_on(statements, horizon).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Takes over what is written of the batch's first transaction, if that is what the batch would write; otherwise it is
    /// rolled back. Returns the offset of the first record that is not written.
    ///
    /// # Errors
    /// [`ApplyError::CopyFailed`], or if the session is lost.
    pub(super) async fn take_over(&mut self, mut ahead: Ahead) -> Result<u64, ApplyError> {
        let fits = match self.land_ahead(&mut ahead.flight).await {
            Err(error) if !error.loses_session() && !matches!(error, ApplyError::CopyFailed(_)) => {
                tracing::debug!(link = ?self.batch.link, %error, "what was written ahead failed");
                false
            }
            landed => landed?,
        };
        let stands = fits
            && Arc::ptr_eq(&self.resolvers, &ahead.resolvers)
            && self.deciding()?.is_alone_up_to(self.batch.link, ahead.offset)?;
        if !stands {
            tracing::debug!(link = ?self.batch.link, "what was written ahead needs a decision");
            self.session.rollback().await?;
            (self.rows, self.applied.copied) = (0, false);
            return Ok(0);
        }
        self.opened = ahead.opened;
        self.rows += ahead.rows;
        self.touched = ahead.touched;
        self.applied.changes = ahead.changes;
        self.applied.copied |= ahead.copied;
        self.applied.ahead = true;
        Ok(ahead.offset)
    }

    /// Whether all went as expected that was on its way.
    async fn land_ahead(&mut self, flight: &mut Flight<()>) -> Result<bool, ApplyError> {
        let mut fits = true;
        while let Some(((), window)) = flight.pop() {
            fits &= self.answer(window).await?.is_empty();
        }
        Ok(fits)
    }
}
