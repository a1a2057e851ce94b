//! The one thread that writes: takes what callers ask for, joins what waits into one transaction (one flush for
//! all links), answers when it is on disk, and prunes when nobody waits.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::Utc;
use rusqlite::Transaction;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

use crate::journal::Retention;
use crate::journal::entry::{JsonRow, Lane, NewEntry};
use crate::journal::error::JournalError;
use crate::journal::keys;
use crate::journal::prune::{After, PORTION, Pruning};
use crate::journal::record::{self, Tally};
use crate::journal::store::Store;

/// Requests waiting: each link waits for its answer, so a cluster of eight nodes (56 links) never fills this; more
/// links wait at the queue's door.
pub(super) const QUEUE: usize = 64;
/// Age is counted in days; an hour late does not matter. Size is looked at after every write.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);
/// How long keys are not taken in after that failed: on a full disk it would at every request.
const TRY_KEYS_AGAIN: Duration = Duration::from_secs(60);
/// How often what is held is counted.
const LOOK_EVERY: Duration = Duration::from_secs(2);

type Reply = oneshot::Sender<Result<u64, JournalError>>;

/// What a caller wants done; the answer is the number of entries that it changed.
pub(super) enum Command {
    Pending(Vec<NewEntry>),
    Settle(Lane, u64),
    DiscardAfter(Lane, u64),
    StillHeld(String, Vec<(String, String, JsonRow)>),
    Prune,
    Close,
    /// Lets a test set a limit on the writer's connection.
    #[cfg(test)]
    Pragma(&'static str),
}

/// A command and who waits for it.
pub(super) struct Request {
    pub(super) command: Command,
    pub(super) reply: Reply,
}

/// What the writer tells about the file.
#[derive(Clone, Default, Debug)]
pub(super) struct Shared {
    pub(super) entries: u64,
    pub(super) pending: u64,
    pub(super) held: u64,
    /// Why the last request failed; `None` once one succeeds.
    pub(super) error: Option<String>,
}

/// The thread's state.
pub(super) struct Writer {
    file: Journaled,
    retention: Retention,
    requests: mpsc::Receiver<Request>,
    next_prune: Instant,
    pruning: Option<UnderWay>,
    /// Whether the file is too large and nothing in it may go; looked at again when pruning is due or
    /// something was settled.
    stuck: bool,
}

/// Pruning under way, and who waits for its end.
#[derive(Default)]
struct UnderWay {
    stage: Stage,
    removed: u64,
    waiting: Vec<Reply>,
}

/// How far pruning has come.
#[derive(Clone, Copy, Default)]
enum Stage {
    #[default]
    Begun,
    Removing(Pruning),
    /// Free pages go back to the file system.
    GivingBack,
}

/// What there is to do next.
enum Next {
    Requests(Vec<Request>),
    Prune,
    Look,
    Stop,
}

impl Writer {
    /// A writer over the open `store`; prunes first.
    pub(super) fn new(
        path: PathBuf,
        store: Store,
        retention: Retention,
        requests: mpsc::Receiver<Request>,
    ) -> Result<(Writer, Arc<Mutex<Shared>>), JournalError> {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let mut file = Journaled {
            path,
            store: Some(store),
            shared: shared.clone(),
            held: Held::Stale,
            looked: None,
            keys_failed: None,
        };
        file.recount()?;
        file.look();
        Ok((Writer { file, retention, requests, next_prune: Instant::now(), pruning: None, stuck: false }, shared))
    }

    /// The thread: until it is told to close or every handle is gone. `runtime` keeps time while it waits.
    pub(super) fn run(mut self, runtime: &Runtime) {
        let mut closing = Vec::new();
        while closing.is_empty() {
            match self.next(runtime) {
                Next::Requests(requests) => {
                    let mut work = Vec::with_capacity(requests.len());
                    for request in requests {
                        match request.command {
                            Command::Prune => self.pruning.get_or_insert_default().waiting.push(request.reply),
                            Command::Close => closing.push(request.reply),
                            _ => work.push(request),
                        }
                    }
                    if !work.is_empty() {
                        let before = self.file.shared().clone();
                        self.file.serve(work);
                        self.file.take_keys_in(keys::WAITING);
                        self.make_room(&before);
                    }
                }
                Next::Prune => self.prune(PORTION),
                Next::Look => self.file.take_keys_in(keys::WORTH_IT),
                Next::Stop => break,
            }
            self.file.look();
        }
        self.file.take_keys_in(0);
        self.file.store = None; // the last connection that closes folds the -wal file into the database
        answer(closing, || Ok(0));
    }

    /// All that waits. Pruning goes on while nothing waits, and begins when it is due.
    fn next(&mut self, runtime: &Runtime) -> Next {
        let first = if self.pruning.is_some() {
            self.requests.try_recv()
        } else {
            let due = tokio::time::Instant::from_std(self.next_prune.min(Instant::now() + LOOK_EVERY));
            let waited = runtime.block_on(async { tokio::time::timeout_at(due, self.requests.recv()).await });
            match waited {
                Ok(request) => request.ok_or(TryRecvError::Disconnected),
                Err(_) => Err(TryRecvError::Empty),
            }
        };
        match first {
            Ok(request) => {
                let rest = std::iter::from_fn(|| self.requests.try_recv().ok()).take(QUEUE - 1);
                Next::Requests(std::iter::once(request).chain(rest).collect())
            }
            Err(TryRecvError::Empty) if self.pruning.is_none() && self.next_prune > Instant::now() => Next::Look,
            Err(TryRecvError::Empty) => Next::Prune,
            Err(TryRecvError::Disconnected) => Next::Stop,
        }
    }

    /// Where the file is too large, removes about twice as many entries as came since `before`: requests that never
    /// leave the thread a free moment must not let it grow.
    fn make_room(&mut self, before: &Shared) {
        let Some(size) = self.retention.size else { return };
        let (entries, pending) = {
            let now = self.file.shared();
            (now.entries, now.pending)
        };
        self.stuck &= pending >= before.pending; // what has been settled since may go
        let added = entries.saturating_sub(before.entries);
        let used = self.file.store.as_ref().and_then(|store| record::used(store.connection()).ok());
        if used.is_some_and(|used| used > size) && !self.stuck {
            self.prune(u32::try_from(added.saturating_mul(2)).unwrap_or(u32::MAX).max(PORTION));
        }
    }

    /// One portion of at most `most`; answers those who wait when there is no more.
    fn prune(&mut self, most: u32) {
        self.next_prune = Instant::now() + PRUNE_EVERY;
        let mut pruning = self.pruning.take().unwrap_or_default();
        let (stage, retention) = (pruning.stage, self.retention);
        let done = self.file.transact(|transaction| {
            let what = match stage {
                Stage::Removing(what) => what,
                Stage::Begun | Stage::GivingBack => Pruning::new(Utc::now(), retention, record::used(transaction)?),
            };
            Ok((what, what.portion(transaction, most)?, record::length(transaction)?))
        });
        match done {
            Ok((what, portion, length)) => {
                self.file.note(&[portion.tally]);
                pruning.removed += portion.tally.changed;
                if portion.after == After::More {
                    self.pruning = Some(UnderWay { stage: Stage::Removing(what), ..pruning });
                    return;
                }
                let stuck = portion.after == After::Stuck;
                if stuck && !self.stuck {
                    tracing::warn!(
                        path = %self.file.path.display(),
                        "the conflict journal stays larger than [journal] max_size: all that is in it is pending or held"
                    );
                }
                self.stuck = stuck;
                if pruning.removed > 0
                    && (matches!(stage, Stage::GivingBack) || what.gives_back(retention, length))
                    && self.file.store.as_ref().is_some_and(Store::shrink)
                {
                    self.pruning = Some(UnderWay { stage: Stage::GivingBack, ..pruning });
                    return;
                }
                answer(pruning.waiting, || self.file.recount().map(|()| pruning.removed));
            }
            Err(error) => {
                tracing::warn!(%error, "the conflict journal is not pruned");
                let path = self.file.path.clone();
                answer(pruning.waiting, || {
                    Err(JournalError::NotPruned { path: path.clone(), reason: error.to_string() })
                });
            }
        }
    }
}

fn answer(waiting: Vec<Reply>, with: impl Fn() -> Result<u64, JournalError>) {
    waiting.into_iter().for_each(|reply| drop(reply.send(with())));
}

/// The file as the thread has it.
struct Journaled {
    path: PathBuf,
    /// `None` after a failure that a new connection may get over.
    store: Option<Store>,
    shared: Arc<Mutex<Shared>>,
    held: Held,
    looked: Option<Instant>,
    /// When keys could not be taken in the last time.
    keys_failed: Option<Instant>,
}

/// Whether the number of rows that wait for a person is right.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    /// Entries were settled since.
    Stale,
    /// While others leave the file at this `data_version`.
    Counted(u64),
}

impl Journaled {
    /// One transaction for all; if it fails, one each, so that everybody gets the answer to what they asked.
    fn serve(&mut self, mut work: Vec<Request>) {
        let done: Result<Vec<Tally>, _> =
            self.transact(|transaction| work.iter().map(|request| run(transaction, &request.command)).collect());
        match done {
            Ok(tallies) => {
                self.shared().error = None; // pruning that finds nothing to do says nothing about the disk
                self.note(&tallies);
                if work.iter().any(|request| matches!(request.command, Command::Settle(..) | Command::StillHeld(..))) {
                    self.held = Held::Stale;
                }
                work.into_iter().zip(tallies).for_each(|(it, tally)| drop(it.reply.send(Ok(tally.changed))));
            }
            Err(_) if work.len() > 1 => work.into_iter().for_each(|request| self.serve(vec![request])),
            Err(error) => {
                if let Some(request) = work.pop() {
                    let _ = request.reply.send(Err(error));
                }
            }
        }
    }

    /// Runs `work` in a transaction on the file that the path names now: one that was moved away, or whose disk
    /// failed, is opened anew.
    fn transact<T>(&mut self, work: impl Fn(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T, JournalError> {
        let done = self.reopen().and_then(|store| store.write(work));
        if let Err(error) = &done {
            self.shared().error = Some(error.to_string());
            if matches!(error, JournalError::Failed { .. } | JournalError::Damaged { .. }) {
                self.store = None;
            }
        }
        done
    }

    fn reopen(&mut self) -> Result<&mut Store, JournalError> {
        if let Some(store) = self.store.take_if(|store| !store.is_in_place()) {
            tracing::warn!(path = %self.path.display(), "the conflict journal was moved or removed; a new one is begun");
            store.fold(); // before the new one is made, beside which the -wal file still lies by name
        }
        if self.store.is_none() {
            self.store = Some(Store::open(&self.path)?);
            self.recount()?;
        }
        self.store.as_mut().ok_or_else(|| JournalError::Closed(self.path.clone()))
    }

    /// Takes the keys in if more than `most` wait. Best effort, and not in a transaction with entries, which must go in
    /// where there is room for no more than that: keys are found without it, too.
    fn take_keys_in(&mut self, most: i64) {
        let Some(store) = &mut self.store else { return };
        if self.keys_failed.is_some_and(|at| at.elapsed() < TRY_KEYS_AGAIN)
            || !keys::waiting(store.connection()).is_ok_and(|waiting| waiting > most)
        {
            return;
        }
        let taken = store.write(keys::take_in);
        self.keys_failed = taken.is_err().then(Instant::now);
        if let Err(error) = taken {
            tracing::debug!(%error, path = %self.path.display(), "keys are not taken in");
        }
    }

    /// Takes the numbers from the file, where another process may have changed them.
    fn recount(&self) -> Result<(), JournalError> {
        if let Some(store) = &self.store {
            let counted = record::count(store.connection());
            let (entries, pending) = counted.map_err(|error| JournalError::sqlite(&self.path, error))?;
            let mut shared = self.shared();
            (shared.entries, shared.pending) = (entries, pending);
        }
        Ok(())
    }

    /// Counts what is held, if it is time and that may have changed, be it by another process.
    fn look(&mut self) {
        if self.looked.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        let Some(store) = &self.store else { return };
        let Ok(version) = record::data_version(store.connection()) else { return };
        if self.held != Held::Counted(version)
            && let Ok(held) = record::held(store.connection())
        {
            self.shared().held = held;
            self.held = Held::Counted(version);
        }
    }

    fn note(&self, tallies: &[Tally]) {
        let mut shared = self.shared();
        for tally in tallies {
            shared.entries = shared.entries.saturating_add_signed(tally.entries);
            shared.pending = shared.pending.saturating_add_signed(tally.pending);
        }
    }

    fn shared(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(transaction: &Transaction<'_>, command: &Command) -> rusqlite::Result<Tally> {
    match command {
        Command::Pending(entries) => record::pending(transaction, entries),
        Command::Settle(lane, batch) => record::settle(transaction, lane, *batch),
        Command::StillHeld(target, rows) => record::release_but(transaction, target, rows),
        Command::DiscardAfter(lane, batch) => record::discard_after(transaction, lane, *batch),
        Command::Prune | Command::Close => Ok(Tally::default()), // the loop has taken these out
        #[cfg(test)]
        Command::Pragma(sql) => transaction.execute_batch(sql).map(|()| Tally::default()),
    }
}
