//! Random schedules over the real modules, with rows in memory instead of servers.
//!
//! Nodes commit locally on clocks that are off; a daemon made of the real [`crate::conflict::Coordinator`] reads
//! their logs and applies them, in steps between which anything may happen: a local commit, a lost connection, a
//! crash, a restart. At the end every node must have the same rows, and the ones that the truth about who had seen
//! whom demands. A schedule is its seed: `PGCONCORD_SEED=… cargo test --lib simulate` tells one as a story.

pub mod ahead;
pub mod check;
pub mod complete;
pub mod daemon;
pub mod held;
pub mod job;
pub mod merge;
pub mod mood;
pub mod node;
pub mod notes;
pub mod oracle;
pub mod random;
pub mod rows;
pub mod slow;
pub mod switch;
pub mod wal;
pub mod workload;
pub mod world;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::model::{
    ColumnMerge, ColumnMerges, Condition, FunctionName, Lsn, Merge, NodeId, Resolver, TableId, TableRule, When,
};
use rows::{Key, Row};

/// A rule that is dropped, to see that the simulation finds out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutation {
    /// Takes over what is written ahead without asking the window.
    AheadUnasked,
    /// Trusts what stood before a batch where an earlier piece of the batch has written.
    TouchedStands,
    /// Writes over what was not decoded.
    NoGuard,
    /// Leaves decisions as they were when a change comes to light that they did not know.
    NoReopen,
    /// Decides with locks but without a barrier.
    NoBarrier,
    /// Forgets a change as soon as every peer has applied it.
    ForgetAtOnce,
    /// Our own commits do not appear when a stream is read again.
    ForgetMarks,
    /// Decides between the incoming change and the one that stands.
    Pairwise,
    /// Goes on after a start before the streams are read again.
    ResumeAtOnce,
    /// An omitted body is read from the source's row, whatever that is by now.
    AnyBody,
    /// A row that may still stand at its source is left out as if something else stood there.
    LeftOutInDoubt,
    /// A start takes each slot's position for itself.
    SlotsAlone,
    /// A start decides again whatever its window shows, also what was settled with changes that are forgotten.
    NothingSettled,
    /// A start decides nothing again.
    AllSettled,
    /// The loser of a unique value is deleted whatever has become of it.
    AnyLoser,
    /// Our deletes at home for unique values are not waited for before the target goes on.
    UnsettledLosers,
    /// A commit that wrote a reopened key counts as durable at once.
    RewrittenIsSafe,
    /// Other rules take over at once, whatever is under way.
    SwitchAtOnce,
    /// What is held is written when it is tried again, whatever came since.
    HeldIsLasting,
    /// A local change is forgotten while what it supersedes is on record.
    ForgetSuperseding,
    /// Rows that survive a truncation get the value that comes out by a commit of their own.
    SurvivorsLater,
}

/// A rule by which the simulated rows have a column that is merged so; of the others the last update wins.
pub fn merge_by(how: ColumnMerge) -> TableRule {
    let column = if matches!(how, ColumnMerge::Append(_)) { "notes" } else { "value" };
    let columns = [(column.to_owned(), how)].into();
    let merge = ColumnMerges { columns, others: ColumnMerge::LastUpdateWins };
    Resolver::Merge(Merge::Columns(merge).into()).into()
}

/// A rule by which the simulated rows are merged by a function: [`Row::called`].
pub fn by_function() -> TableRule {
    let function = FunctionName { schema: "simulated".into(), name: "called".into() };
    Resolver::Merge(Merge::Function(function).into()).into()
}

/// The resolver for which a column of the simulated rows tells which row is the later one.
pub fn by_column(resolver: fn(Arc<str>) -> Resolver) -> Resolver {
    resolver("value".into())
}

/// What simulated conditions ask of the values of the two rows; [`Truth`](oracle::Truth) knows it by itself.
pub const WHEN: &str = "int(remote.value) % 3 == 0 || int(local.value) % 5 == 1";

/// A condition on the simulated rows that is like this one: on nodes, on what changed, on values.
pub fn stand_in(condition: &Condition, nodes: usize) -> Condition {
    let simulated = |all: &Arc<[NodeId]>| all.iter().filter(|node| node.index() < nodes).copied().collect();
    let names: Vec<String> = NodeId::all(nodes).map(|node| format!("n{}", node.0)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Condition {
        source: condition.source.as_ref().map(simulated),
        target: condition.target.as_ref().map(simulated),
        changed: condition.changed.as_ref().map(|_| ["value".to_owned()].into()),
        when: condition.when.as_ref().map(|_| When::compile(WHEN, &names).expect("CEL")),
    }
}

/// Whether the simulated notes are merged by what is appended to them.
pub fn appends(rule: &TableRule) -> bool {
    let Resolver::Merge(merge) = &rule.resolver else { return false };
    matches!(&**merge, Merge::Columns(merge) if matches!(merge.of("notes"), ColumnMerge::Append(_)))
}

/// What a schedule has more of than others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Focus {
    /// Of everything a little.
    Nothing,
    /// TRUNCATE.
    Truncations,
    /// TOASTed values and few deletes.
    Toast,
    /// Crashes and restarts, and confirming between them.
    Starts,
    /// One key, changed at every node without a pause, and no faults.
    HotKey,
    /// One key, deleted often.
    OneKey,
}

/// One simulation.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Everything random comes from it.
    pub seed: u64,
    /// How many nodes.
    pub nodes: usize,
    /// How many steps before everything comes to rest.
    pub steps: usize,
    /// The skew up to which a batch waits for the target's clock, in the clock's units.
    pub max_skew: i64,
    /// How conflicts are resolved.
    pub rule: TableRule,
    /// How they are after some time: the rules are changed while changes are under way.
    pub later: Option<TableRule>,
    /// How often a node refuses what our sessions write, of a thousand.
    pub refusals: usize,
    /// Some batches go to the node and are committed in one window.
    pub at_once: bool,
    /// Some transactions are written before their end has come.
    pub ahead: bool,
    /// A row that loses a unique value gets another one and is not deleted.
    pub renames: bool,
    /// What there is more of.
    pub focus: Focus,
    /// What is broken.
    pub mutation: Option<Mutation>,
    /// Keeps a record of what happens.
    pub story: bool,
}

impl Settings {
    /// A whole and sound system.
    pub fn new(nodes: usize, seed: u64) -> Settings {
        let max_skew = if seed.is_multiple_of(3) { 0 } else { 150 };
        let focus = match seed % 7 {
            0 => Focus::Truncations,
            1 => Focus::Toast,
            2 => Focus::Starts,
            _ => Focus::Nothing,
        };
        Settings {
            seed,
            nodes,
            steps: 1500,
            max_skew,
            rule: TableRule::default(),
            later: None,
            refusals: 0,
            at_once: false,
            ahead: false,
            renames: false,
            focus,
            mutation: None,
            story: false,
        }
    }
}

/// What a schedule came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// How many decisions were taken.
    pub decisions: u64,
    /// How many of them were about rivals.
    pub conflicts: u64,
    /// How many transactions applications committed.
    pub transactions: u64,
    /// How many of them the window held at most, when it had just forgotten what it could and no link
    /// had many queued.
    pub most_kept: u64,
    /// How many tables took a later rule.
    pub switched: u64,
    /// How many rows were refused.
    pub held: i64,
    /// How many batches took over what was written ahead.
    pub taken_over: u64,
}

/// What is wrong.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Failure {
    /// Nodes hold different rows.
    #[error("the nodes differ at {key}: {rows:?}")]
    Diverged {
        /// Where.
        key: Key,
        /// What each node has.
        rows: Vec<Option<Row>>,
    },
    /// A node has another row than the one that comes out of the set.
    #[error("{key} is {row:?} at n{} and should be {expected:?}", node.0)]
    Lost {
        /// Where.
        node: NodeId,
        /// The row.
        key: Key,
        /// What the node has.
        row: Option<Box<Row>>,
        /// What it should have.
        expected: Option<Box<Row>>,
    },
    /// Every row that had a unique value was removed for the sake of another.
    #[error("no row of t{} has u{unique} any more", table.0)]
    NobodyHas {
        /// Where.
        table: TableId,
        /// The value.
        unique: u8,
    },
    /// Changes made one after the other were called rivals.
    #[error("n{}: {incoming:?} and {rival:?} of {key} are no rivals", target.0)]
    FalseConflict {
        /// Where it was decided.
        target: NodeId,
        /// The key.
        key: Key,
        /// Source and place of the incoming change.
        incoming: (NodeId, Lsn),
        /// Those of the one it was held against.
        rival: (NodeId, Lsn),
    },
    /// What was appended is gone, and nobody took it away.
    #[error("{key} has lost the entry {entry}: {row}")]
    LostEntry {
        /// The key.
        key: Key,
        /// What the row is.
        row: Box<Row>,
        /// What is not in it.
        entry: u32,
    },
    /// A value that must come back is nowhere any more: no failure, a person decides (R8).
    #[error("{key} is held")]
    Held {
        /// The key.
        key: Key,
    },
    /// It does not come to rest.
    #[error("it does not come to rest")]
    Stuck,
    /// What is stable is not forgotten.
    #[error("{transactions} transactions and {keys} keys are never forgotten")]
    Leak {
        /// Transactions left in the window.
        transactions: usize,
        /// Keys left in its index.
        keys: usize,
    },
    /// The coordinator had an error.
    #[error("{0}")]
    Error(String),
}

/// Runs one schedule.
///
/// # Errors
/// With what is wrong, and the story if the settings ask for one.
pub fn run(settings: &Settings) -> Result<Tally, (Failure, Vec<String>)> {
    let mut world = world::World::new(settings.clone());
    let came_to = world.run();
    match came_to {
        Ok(()) => {
            let local = |entry: &&wal::Entry| matches!(entry.kind, wal::Kind::Local(_));
            let count = |node: &node::Node| node.wal.entries().iter().filter(local).count() as u64;
            let transactions = world.nodes.iter().map(count).sum();
            Ok(Tally {
                decisions: world.decisions,
                conflicts: world.conflicts,
                transactions,
                most_kept: world.most_kept,
                switched: world.switched,
                held: world.held_numbers,
                taken_over: world.taken_over,
            })
        }
        Err(failure) => Err((failure, world.story)),
    }
}
