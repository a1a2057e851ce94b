//! Statements that are on their way: the next piece's are sent before it is known what those before did, so that the server need
//! not wait for the round trip.
//!
//! That is in order as long as all goes as expected. What the guard refused is settled when everything is answered, and in order
//! only if nothing that was sent later changes the same keys: otherwise the batch is rolled back and sent in turn.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::apply::batch::PIECE_BYTES;
use crate::apply::error::ApplyError;
use crate::apply::execute::{Execution, Opened, Part, is_for_statements};
use crate::apply::manner::Sending;
use crate::apply::net::Folded;
use crate::apply::record::Recorder;
use crate::apply::session::ApplySession;
use crate::apply::sets::{Kind, Statement, missed, rows_written};
use crate::apply::slow::Refused;
use crate::apply::sql;
use crate::model::Xid;
use crate::wire::{Outcome, WireError};

/// The most windows that are on their way at once.
const MOST: usize = 16;
/// What they may hold, in bytes, if they are several.
const MOST_BYTES: usize = PIECE_BYTES;

/// A window of guarded statements that is on its way.
#[derive(Debug)]
pub(super) struct Underway {
    statements: Vec<Expected>,
    /// It begins the transaction: if that fails, what is sent behind it would be done by itself.
    opens: bool,
    /// Where it moves the progress row, if it does.
    moves: Option<usize>,
}

/// A statement of such a window.
#[derive(Debug)]
struct Expected {
    at: usize,
    kind: Kind,
    nets: Vec<usize>,
    table: String,
    copies: bool,
}

/// Windows that are on their way, oldest first, each with what it is of.
#[derive(Debug)]
pub(super) struct Flight<T> {
    windows: VecDeque<(T, Underway, usize)>,
    /// What is held of them in memory, or of their tuples if nothing is.
    bytes: usize,
    /// When the last answer came, or the first window was sent.
    since: Option<Instant>,
    /// How long one takes when several are on their way: the average of the last few.
    pace: Duration,
}

impl<T> Default for Flight<T> {
    fn default() -> Flight<T> {
        Flight { windows: VecDeque::new(), bytes: 0, since: None, pace: Duration::MAX }
    }
}

impl<T> Flight<T> {
    /// A window has been sent of which so many bytes are held.
    pub fn push(&mut self, of: T, window: Underway, bytes: usize) {
        self.since.get_or_insert_with(Instant::now);
        self.bytes += bytes;
        self.windows.push_back((of, window, bytes));
    }

    /// The oldest window, to be asked what became of it.
    pub fn pop(&mut self) -> Option<(T, Underway)> {
        let (of, window, bytes) = self.windows.pop_front()?;
        self.bytes -= bytes;
        Some((of, window))
    }

    /// The answer to one has come.
    pub fn landed(&mut self) {
        let now = Instant::now();
        if let Some(since) = self.since.replace(now) {
            let took = now - since;
            self.pace = if self.pace == Duration::MAX { took } else { (self.pace * 3 + took) / 4 };
        }
    }

    /// Whether the oldest is to be waited for before another one is sent: one is on its way while the next is made, more if the
    /// way takes longer than the server does.
    pub fn is_full(&self, round_trip: Option<Duration>) -> bool {
        let far = round_trip.map_or(0, |way| way.as_micros() / self.pace.as_micros().max(1));
        let most = usize::try_from(far).unwrap_or(MOST).saturating_add(1).min(MOST - 1);
        let opens = self.windows.front().is_some_and(|(_, window, _)| window.opens);
        opens || self.windows.len() > most || self.windows.len() > 1 && self.bytes > MOST_BYTES
    }
}

impl<R: Recorder> Execution<'_, R> {
    /// Sends guarded statements behind those on their way; `horizon` is from before the look at the window that allows them.
    pub(super) async fn send_on(
        &mut self,
        statements: &[Statement],
        horizon: Option<Xid>,
    ) -> Result<Underway, ApplyError> {
        let (horizon, ours) = (sql::xid_text(horizon.unwrap_or(Xid(3))), self.session.ours.clone());
        let guard = Some((horizon.as_str(), ours.as_str()));
        let (opens, moves) = (self.opened == Opened::Nothing, self.moves());
        let mut pipeline = self.begin();
        let queue = |statement: &Statement| Expected {
            at: statement.queue(&mut pipeline, guard),
            kind: statement.kind,
            nets: statement.nets.clone(),
            table: statement.table.clone(),
            copies: statement.copies(),
        };
        let statements = statements.iter().map(queue).collect();
        pipeline.send().await.map_err(ApplyError::pipeline("sending a batch"))?;
        self.mark_opened();
        Ok(Underway { statements, opens, moves })
    }

    /// What became of the window that was sent first of those on their way.
    pub(super) async fn answer(&mut self, window: Underway) -> Result<Refused, ApplyError> {
        let outcomes = self.session.answer().await.map_err(|failed| {
            // a COPY is followed by a check that belongs to it
            let culprit = window.statements.iter().rfind(|statement| statement.at <= failed.at);
            let doing = culprit.map_or_else(
                || "beginning a batch".to_owned(),
                |statement| format!("{} {}", statement.kind.doing(), statement.table),
            );
            let by_copy = culprit.is_some_and(|statement| statement.copies);
            let error = ApplyError::pipeline(doing)(failed);
            if by_copy && is_for_statements(&error) { ApplyError::CopyFailed(Box::new(error)) } else { error }
        })?;
        let places = window.statements.iter().map(|statement| statement.at).chain(window.moves);
        if let Some(last) = places.max().filter(|last| *last >= outcomes.len()) {
            let problem = format!("statement {last} of a window was sent and {} are answered", outcomes.len());
            let error = WireError::Protocol(problem);
            return Err(ApplyError::Wire { context: "writing a batch".to_owned(), error });
        }
        self.check_moved(window.moves, &outcomes)?;
        let mut refused = Refused::default();
        for Expected { at, kind, nets, copies, .. } in window.statements {
            let outcome: &Outcome = &outcomes[at];
            self.rows += rows_written(outcome);
            self.applied.copied |= copies;
            if outcome.tag.rows < nets.len() as u64 {
                match kind {
                    Kind::Insert => refused.maybe.extend(nets),
                    Kind::Update | Kind::Delete => refused.keys.extend(missed(outcome, nets.into_iter())?),
                }
            }
        }
        Ok(refused)
    }

    /// Has the oldest pieces on their way answered until there is room for another one, and settles what was refused.
    pub(super) async fn make_room(&mut self, flight: &mut Flight<Folded>) -> Result<(), ApplyError> {
        let in_turn = self.manner.sending == Sending::InTurn;
        while in_turn || flight.is_full(self.session.round_trip()) {
            if !self.land(flight).await? {
                break;
            }
        }
        Ok(())
    }

    /// Has all pieces on their way answered, and settles what was refused.
    pub(super) async fn land_all(&mut self, flight: &mut Flight<Folded>) -> Result<(), ApplyError> {
        while self.land(flight).await? {}
        Ok(())
    }

    /// The same for the oldest, if there is one; for all if something of it was refused.
    async fn land(&mut self, flight: &mut Flight<Folded>) -> Result<bool, ApplyError> {
        let Some((folded, window)) = flight.pop() else { return Ok(false) };
        let refused = self.answer(window).await?;
        flight.landed();
        if refused.is_empty() {
            self.touched(&folded);
            return Ok(true);
        }
        // All of them first: settling takes statements of its own.
        let mut landed = vec![(folded, refused)];
        while let Some((folded, window)) = flight.pop() {
            match self.answer(window).await {
                Ok(refused) => landed.push((folded, refused)),
                // in turn it may go well: what was refused may have had the unique value, or the row that a foreign key names
                Err(error) if !error.loses_session() => {
                    let table = folded.nets.first().map_or_else(String::new, |net| net.table.to_string());
                    tracing::debug!(%error, table, "behind a row that was not as expected");
                    return Err(ApplyError::Overtaken { table });
                }
                Err(error) => return Err(error),
            }
        }
        for (at, (folded, refused)) in landed.iter().enumerate() {
            let mut unsettled = refused.keys.iter().chain(&refused.maybe).map(|net| &folded.nets[*net]);
            let is_overtaken = |key| landed[at + 1..].iter().any(|(later, _)| later.get(key).is_some());
            if let Some(net) = unsettled.find(|net| is_overtaken(net.key)) {
                return Err(ApplyError::Overtaken { table: net.table.to_string() });
            }
        }
        for (folded, refused) in landed {
            self.settle_refused(&folded, refused).await?;
            self.touched(&folded);
        }
        Ok(true)
    }

    /// Where a window that is begun now moves the progress row, if it does.
    pub(super) fn moves(&self) -> Option<usize> {
        let is_due = self.opened != Opened::Progress && self.part == Part::Whole;
        is_due.then(|| usize::from(self.opened == Opened::Nothing))
    }

    /// Checks that the progress row was where we left it (R3).
    pub(super) fn check_moved(&self, moves: Option<usize>, outcomes: &[Outcome]) -> Result<(), ApplyError> {
        let ApplySession { settings, progress, .. } = &*self.session;
        match moves {
            Some(at) if outcomes[at].tag.rows != 1 => Err(ApplyError::Fenced {
                source_name: settings.source_name.clone(),
                target: settings.target_name.clone(),
                expected: progress.lsn,
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> Underway {
        Underway { statements: Vec::new(), opens: false, moves: None }
    }

    fn windows(flight: &mut Flight<()>, round_trip: Duration) -> usize {
        while !flight.is_full(Some(round_trip)) {
            flight.push((), window(), 0);
        }
        flight.windows.len()
    }

    #[test]
    fn the_longer_the_way_the_more_is_on_it() {
        let mut flight = Flight::default();
        let far = Duration::from_millis(100);
        assert_eq!(windows(&mut flight, far), 2, "before it is known how long one takes");
        flight.pace = Duration::from_millis(20);
        assert_eq!(windows(&mut flight, far), 7);
        flight.pace = Duration::from_millis(1);
        assert_eq!(windows(&mut flight, far), MOST);
        let mut near = Flight { pace: Duration::from_millis(20), ..Flight::default() };
        assert_eq!(windows(&mut near, Duration::from_micros(100)), 2);
        assert!(!Flight::<()>::default().is_full(None));
    }

    #[test]
    fn nothing_is_sent_behind_what_begins_the_transaction() {
        let mut flight = Flight { pace: Duration::from_millis(1), ..Flight::default() };
        flight.push((), Underway { opens: true, ..window() }, 0);
        assert!(flight.is_full(Some(Duration::from_millis(100))));
    }

    #[test]
    fn many_bytes_are_not_on_their_way_at_once() {
        let mut flight = Flight { pace: Duration::from_millis(1), ..Flight::default() };
        let far = Some(Duration::from_millis(100));
        flight.push((), window(), 3 * MOST_BYTES);
        assert!(!flight.is_full(far), "one may always be");
        flight.push((), window(), 1);
        assert!(flight.is_full(far));
        flight.pop();
        assert!(!flight.is_full(far));
    }
}
