//! The session that applies one link's batches: pinned settings, the replication origin, progress (R3, R14).
//!
//! The origin marks our commits for every peer's stream and fences: the server gives it to one session only.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use crate::apply::busy::BusyKeys;
use crate::apply::error::ApplyError;
use crate::apply::sql::oid_array;
use crate::model::table::quote_literal;
use crate::model::{Class, Classify, Link, Lsn, NodeId, Stamp};
use crate::wire::{Conninfo, Outcome, Param, Pipeline, PipelineError, Session, WireError, pin};

/// What the session pins beside the values' settings: plans must use the index, and whoever waits for us must not wait
/// long.
const PINS: [(&str, &str); 12] = [
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_deferrable", "off"),
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("synchronous_commit", "off"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_material", "off"),
    ("enable_indexscan", "on"),
    ("plan_cache_mode", "force_generic_plan"),
];

/// Neither triggers nor foreign keys act on what we write.
const REPLICA: &str = "SET session_replication_role = 'replica'";

/// Moves the progress row if it is where we left it (R3).
const MOVE_PROGRESS: &str = "UPDATE pgconcord.progress SET lsn = $5::pg_lsn, batch = batch + 1, updated_at = clock_timestamp() \
     WHERE cluster = $1 AND source = $2 AND lsn = $3::pg_lsn AND batch = $4::int8";
/// The same with an error if it is not, and how long the rest of the transaction waits for locks: while COMMIT is on its way the
/// node's stream is held back. In one statement, since a lone transaction waits for each.
static OPEN_AT_ONCE: LazyLock<String> = LazyLock::new(|| {
    let other = "('pgconcord: its progress is not where it was, rows ' || count(*))::int4";
    format!(
        "WITH moved AS ({MOVE_PROGRESS} RETURNING 1) SELECT CASE WHEN count(*) = 1 THEN 1 ELSE {other} END, \
         set_config('lock_timeout', '20ms', true) FROM moved"
    )
});

/// How a link's session is opened.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// The target.
    pub conninfo: Conninfo,
    /// The link.
    pub link: Link,
    /// The cluster's name.
    pub cluster: String,
    /// The source's name.
    pub source_name: String,
    /// The target's name.
    pub target_name: String,
    /// The link's origin at the target.
    pub origin: String,
    /// All our origins at the target.
    pub all_origins: Vec<String>,
    /// For each of these the node whose changes it marks.
    pub origin_nodes: Vec<NodeId>,
    /// Shorter than the server's deadlock_timeout, so that we give way to users.
    pub lock_timeout: Duration,
}

/// The progress row of a link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// The source's system identifier.
    pub system_id: String,
    /// The source's timeline.
    pub timeline: i32,
    /// Everything of the source that ends at or before this is applied.
    pub lsn: Lsn,
    /// Number of the last batch.
    pub batch: u64,
}

/// One link's session at its target.
pub struct ApplySession {
    pub(crate) session: Session,
    /// How it was opened.
    pub settings: SessionSettings,
    /// The progress row as it is now.
    pub progress: Progress,
    /// Our origins' ids at the target, as the text of an `oid[]`.
    pub(crate) ours: String,
    /// Keys that the target's users write as well.
    pub(crate) busy: BusyKeys,
}

impl std::fmt::Debug for ApplySession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApplySession").field("settings", &self.settings).field("progress", &self.progress).finish()
    }
}

impl ApplySession {
    /// Connects, pins the session's settings, takes the origin, and reads the progress row. Everything is asked at once: to a
    /// distant server each question would take a round trip.
    ///
    /// # Errors
    /// If the node can't be reached or refuses the login; transient while another session holds the origin; operator if the node
    /// is not set up.
    pub async fn connect(settings: SessionSettings) -> Result<ApplySession, ApplyError> {
        let target = &settings.target_name;
        let name = format!("pgconcord apply {} to {target}", settings.source_name);
        let connecting = || ApplyError::wire(format!("connecting to {target}"));
        let session = Session::connect(&settings.conninfo, &[("application_name", &name)]).await;
        let mut session = session.map_err(connecting())?;
        let timeout = settings.lock_timeout.as_millis().to_string();
        let pinned = pin(&[&PINS[..], &[("lock_timeout", &timeout)]].concat());
        let (origin, origins, progress) = (take_origin(&settings), our_origins(&settings), read_progress(&settings));
        let asked_at = Instant::now();
        for question in [&pinned, REPLICA, &origin, &origins, &progress] {
            session.send_simple(question).await.map_err(connecting())?;
        }
        let pinning = || ApplyError::wire(format!("pinning the session's settings at {target}"));
        answer(&mut session).await.map_err(pinning())?;
        session.took(asked_at.elapsed());
        match answer(&mut session).await {
            Err(error) if error.code() == Some("42501") => tracing::warn!(
                node = target,
                "not allowed to set session_replication_role: triggers and foreign keys act on replicated rows here"
            ),
            set => drop(set.map_err(pinning())?),
        }
        let taken = answer(&mut session).await;
        taken.map_err(|error| origin_error(&settings, error))?;
        let ours = answer(&mut session).await;
        let ours = origin_ids(&ours.map_err(ApplyError::wire(format!("reading origins at {target}")))?);
        let progress = answer(&mut session).await.map_err(|error| progress_error(&settings, error))?;
        let progress = Progress::of(&progress)
            .ok_or_else(|| not_set_up(format!("{target} has no progress row for {}", settings.source_name)))?;
        Ok(ApplySession { session, settings, progress, ours, busy: BusyKeys::default() })
    }

    /// A window of statements with one Sync.
    pub fn pipeline(&mut self) -> Pipeline<'_> {
        self.session.pipeline()
    }

    /// What became of the first of the windows that were sent ([`Pipeline::send`]) and of which that has not been asked.
    ///
    /// # Errors
    /// If a statement failed or the session is lost.
    pub(crate) async fn answer(&mut self) -> Result<Vec<Outcome>, PipelineError> {
        self.session.answer().await
    }

    /// About a round trip to the target.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.session.round_trip()
    }

    /// Adds BEGIN.
    pub(crate) fn queue_begin(pipeline: &mut Pipeline<'_>) {
        pipeline.query("BEGIN", &[], []);
    }

    /// Adds the compare-and-set of the progress row, whose tag must be `UPDATE 1`.
    pub(crate) fn queue_progress(
        pipeline: &mut Pipeline<'_>,
        settings: &SessionSettings,
        progress: &Progress,
        to: Lsn,
    ) {
        queue_progress_as(MOVE_PROGRESS, pipeline, settings, progress, to);
    }

    /// Begins, writes and commits in one window; the statements that `write` adds must fail where the batch must not be
    /// committed. Returns where the commit record ends; `mark` as in [`ApplySession::commit`].
    ///
    /// # Errors
    /// As [`ApplySession::commit`]; [`ApplyError::NotAtOnce`] if the server refused something before COMMIT.
    pub(crate) async fn write_and_commit(
        &mut self,
        to: Lsn,
        stamp: Stamp,
        mark: bool,
        write: impl FnOnce(&mut Pipeline<'_>),
    ) -> Result<Lsn, ApplyError> {
        let ApplySession { session, settings, progress, .. } = self;
        let mut pipeline = session.pipeline();
        ApplySession::queue_begin(&mut pipeline);
        queue_progress_as(&OPEN_AT_ONCE, &mut pipeline, settings, progress, to);
        write(&mut pipeline);
        let commit = queue_commit(&mut pipeline, settings, to, stamp, mark);
        let sent = pipeline.run().await;
        match self.committed(sent, commit, to) {
            Err(error) if !error.loses_session() => Err(ApplyError::NotAtOnce(Box::new(error))),
            committed => committed,
        }
    }

    /// Commits with the origin's position and commit time set last; returns where the commit record ends.
    ///
    /// `mark` makes a transaction that wrote no row of a published table appear in the stream all the same.
    ///
    /// # Errors
    /// [`ApplyError::NotCommitted`] if the server answered ROLLBACK; see [`ApplyError::loses_session`] for doubt.
    pub(crate) async fn commit(&mut self, to: Lsn, stamp: Stamp, mark: bool) -> Result<Lsn, ApplyError> {
        let mut pipeline = self.session.pipeline();
        let commit = queue_commit(&mut pipeline, &self.settings, to, stamp, mark);
        let sent = pipeline.run().await;
        self.committed(sent, commit, to)
    }

    /// What became of the COMMIT at that place of a window that [`queue_commit`] ended.
    fn committed(
        &mut self,
        sent: Result<Vec<Outcome>, PipelineError>,
        commit: usize,
        to: Lsn,
    ) -> Result<Lsn, ApplyError> {
        let target = self.settings.target_name.clone();
        let outcomes = match sent {
            Ok(outcomes) => outcomes,
            Err(failed) if failed.done.get(commit).is_some_and(|done| done.tag.name == "COMMIT") => {
                tracing::error!(error = %failed.error, "reading where our commit ended");
                return Err(ApplyError::Unmarked(target));
            }
            Err(failed) => return Err(ApplyError::pipeline(format!("committing at {target}"))(failed)),
        };
        let tag = &outcomes[commit].tag;
        if tag.name != "COMMIT" {
            return Err(ApplyError::NotCommitted(tag.name.to_string()));
        }
        self.progress.lsn = to;
        self.progress.batch += 1;
        first_cell(outcomes.last()).and_then(|text| text.parse().ok()).ok_or(ApplyError::Unmarked(target))
    }

    /// Rolls back whatever is open, once all that was sent is answered.
    ///
    /// # Errors
    /// If the session is lost.
    pub(crate) async fn rollback(&mut self) -> Result<(), ApplyError> {
        let target = self.settings.target_name.clone();
        while self.session.unanswered() > 0 {
            if let Err(failed) = self.session.answer().await
                && failed.code().is_none()
            {
                return Err(ApplyError::pipeline(format!("rolling back at {target}"))(failed));
            }
        }
        self.session.simple("ROLLBACK").await.map_err(ApplyError::wire(format!("rolling back at {target}")))?;
        Ok(())
    }
}

/// Adds that statement, which moves the progress row.
fn queue_progress_as(
    statement: &str,
    pipeline: &mut Pipeline<'_>,
    settings: &SessionSettings,
    progress: &Progress,
    to: Lsn,
) {
    let (from, to, batch) = (progress.lsn.to_string(), to.to_string(), progress.batch.to_string());
    let params = [&settings.cluster, &settings.source_name, &from, &batch, &to].map(|p| Param::Text(p.as_bytes()));
    pipeline.query(statement, &[], params);
}

/// Adds COMMIT with what belongs to it, see [`ApplySession::commit`]; returns the place of COMMIT. What is last tells where the
/// commit record ends.
fn queue_commit(pipeline: &mut Pipeline<'_>, settings: &SessionSettings, to: Lsn, stamp: Stamp, mark: bool) -> usize {
    let (lsn, micros) = (to.to_string(), stamp.micros.to_string());
    if mark {
        pipeline.query("SELECT pg_logical_emit_message(true, 'pgconcord', '')", &[], []);
    }
    pipeline.query(
        "SELECT pg_replication_origin_xact_setup($1::pg_lsn, \
         '2000-01-01 00:00:00+00'::timestamptz + $2::int8 * interval '1 microsecond')",
        &[],
        [Param::Text(lsn.as_bytes()), Param::Text(micros.as_bytes())],
    );
    let commit = pipeline.query("COMMIT", &[], []);
    pipeline.query(
        "SELECT local_lsn FROM pg_replication_origin_status WHERE external_id = $1",
        &[],
        [Param::Text(settings.origin.as_bytes())],
    );
    commit
}

fn first_cell(outcome: Option<&Outcome>) -> Option<&str> {
    outcome?.rows.first()?.optional_text(0).ok().flatten()
}

/// What became of the first question that has not been looked at.
async fn answer(session: &mut Session) -> Result<Vec<Outcome>, WireError> {
    session.answer().await.map_err(|failed| failed.error)
}

fn not_set_up(what: String) -> ApplyError {
    ApplyError::Operator { what, advice: "run `pgconcord setup`".into() }
}

fn take_origin(settings: &SessionSettings) -> String {
    format!("SELECT pg_replication_origin_session_setup({})", quote_literal(&settings.origin))
}

fn origin_error(settings: &SessionSettings, error: WireError) -> ApplyError {
    let (origin, target) = (&settings.origin, &settings.target_name);
    match (error.class(), error.code()) {
        (Class::Operator, Some("42704")) => not_set_up(format!("{target} has no replication origin {origin}")),
        _ => ApplyError::wire(format!("taking the origin {origin} at {target}"))(error),
    }
}

fn our_origins(settings: &SessionSettings) -> String {
    let names: Vec<_> = settings.all_origins.iter().map(|name| quote_literal(name)).collect();
    format!("SELECT roident FROM pg_replication_origin WHERE roname IN ({})", names.join(", "))
}

fn origin_ids(outcomes: &[Outcome]) -> String {
    let ids = outcomes.iter().flat_map(|outcome| &outcome.rows).filter_map(|row| row.optional_text(0).ok().flatten());
    oid_array(&ids.filter_map(|id| id.parse().ok()).collect::<Vec<u32>>())
}

fn read_progress(settings: &SessionSettings) -> String {
    format!(
        "SELECT system_id, timeline, lsn, batch FROM pgconcord.progress WHERE cluster = {} AND source = {}",
        quote_literal(&settings.cluster),
        quote_literal(&settings.source_name)
    )
}

fn progress_error(settings: &SessionSettings, error: WireError) -> ApplyError {
    let target = &settings.target_name;
    match error.code() {
        Some("42P01" | "3F000") => not_set_up(format!("{target} has no table pgconcord.progress")),
        _ => ApplyError::wire(format!("reading progress at {target}"))(error),
    }
}

impl Progress {
    /// What [`read_progress`] has found.
    fn of(outcomes: &[Outcome]) -> Option<Progress> {
        let row = outcomes.iter().flat_map(|outcome| &outcome.rows).next()?;
        let cell = |i: usize| row.optional_text(i).ok().flatten();
        Some(Progress {
            system_id: cell(0)?.to_owned(),
            timeline: cell(1)?.parse().ok()?,
            lsn: cell(2)?.parse().ok()?,
            batch: cell(3)?.parse().ok()?,
        })
    }
}
