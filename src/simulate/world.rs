//! Everything there is in one simulation: the nodes, the applications, the daemon, and one step of a schedule.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::model::{Cut, Link, Lsn, NodeId, TableId, TableRule, UniqueWinner};
use crate::simulate::ahead::Ahead;
use crate::simulate::daemon::Daemon;
use crate::simulate::job::Job;
use crate::simulate::mood::{Action, Mood};
use crate::simulate::node::{Done, Node};
use crate::simulate::random::Random;
use crate::simulate::rows::{Identity, Key, Row, Schema};
use crate::simulate::workload::{Local, Statement, Workload, run};
use crate::simulate::{Failure, Focus, Mutation, Settings, appends};

/// A row that lost its unique value to another, to be deleted at its home node, or to get another one there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Loser {
    /// Where.
    pub node: NodeId,
    /// The row.
    pub key: Key,
    /// The value that it must still have.
    pub unique: u8,
    /// Where the change committed that lost, if the window had it.
    pub at: Lsn,
}

/// See the module.
#[derive(Debug)]
pub struct World {
    /// How it was made.
    pub settings: Settings,
    /// Where every choice comes from.
    pub random: Random,
    /// The true time.
    pub now: i64,
    /// The tables.
    pub schema: Schema,
    /// The servers.
    pub nodes: Vec<Node>,
    /// The daemon.
    pub daemon: Daemon,
    /// What its sessions at each node are doing.
    pub jobs: Vec<Option<Job>>,
    /// What is written at each node of transactions whose end is to come.
    pub aheads: Vec<Option<Ahead>>,
    /// Applications' transactions in progress.
    pub locals: Vec<Local>,
    /// What new ones do.
    pub workload: Workload,
    /// Rows to be deleted or renamed at home.
    pub losers: Vec<Loser>,
    /// Those that were, or were about to be.
    pub settled: HashSet<Loser>,
    /// The commits that did so, and for which value.
    pub removals: HashMap<(NodeId, Lsn), u8>,
    /// How reluctant each link is, of a thousand.
    pub lag: Vec<usize>,
    /// Nodes where a change had to wait for later ones.
    pub eager: Vec<bool>,
    /// What happened, if anybody wants to read it.
    pub story: Vec<String>,
    /// Numbers barriers.
    pub nonce: u64,
    /// How much was decided.
    pub decisions: u64,
    /// How many conflicts were found.
    pub conflicts: u64,
    /// See [`crate::simulate::Tally`].
    pub most_kept: u64,
    /// What the nodes keep of rules, by table.
    pub rules: Vec<TableRule>,
    /// Tables that are between two rules.
    pub switching: Vec<TableId>,
    /// See [`crate::simulate::Tally`].
    pub switched: u64,
    /// See [`crate::simulate::Tally`].
    pub taken_over: u64,
    /// See [`crate::simulate::Tally`].
    pub held_numbers: i64,
    /// Some node's clock was set back.
    pub stepped_back: bool,
    /// Steps that have been done.
    pub steps: usize,
    set_up: Vec<Lsn>,
    /// How likely each step is.
    pub mood: Mood,
}

macro_rules! tell {
    ($world:expr, $($what:tt)*) => {
        if $world.settings.story { let line = format!($($what)*); let now = $world.now; $world.story.push(format!("{now:5} {line}")); }
    };
}
pub(crate) use tell;

const SKEWS: [i64; 8] = [0, 0, 0, -30, 30, -100, 200, -400];

impl World {
    /// The world of a seed.
    pub fn new(settings: Settings) -> World {
        let mut random = Random::new(settings.seed);
        let tables = 1 + u32::from(random.permille(300));
        let drawn = if random.permille(200) { Identity::Full } else { Identity::Default };
        // What other resolvers do not take: see daemon/resolvers.rs.
        let newest = settings
            .later
            .iter()
            .chain([&settings.rule])
            .all(|rule| TableRule { unique: UniqueWinner::default(), ..(*rule).clone() } == TableRule::default());
        let identity = if newest && settings.refusals == 0 { drawn } else { Identity::Full };
        let large = if random.permille(300) { 1 + random.below(3) } else { usize::MAX };
        let schema = Schema::new(tables, identity, large);
        let often = |random: &mut Random, often: usize| if random.permille(500) { often } else { 0 };
        let mut workload = Workload {
            keys: 2 + random.below(4) as u8,
            tables: (0..tables).map(TableId).collect(),
            uniques: if random.permille(500) { 2 + random.below(4) as u8 } else { 0 },
            moves: often(&mut random, 100),
            truncates: often(&mut random, 25),
            toasted: often(&mut random, 600),
            deletes: 25,
            appends: settings.later.iter().chain([&settings.rule]).any(appends),
            last: 0,
        };
        if !newest {
            workload.uniques = 0;
        }
        match settings.focus {
            Focus::Truncations => workload.truncates = 80,
            Focus::Toast => (workload.toasted, workload.deletes) = (900, 5),
            Focus::HotKey => {
                workload = Workload { keys: 1, moves: 0, truncates: 0, deletes: 0, toasted: 0, ..workload }
            }
            Focus::OneKey => workload = Workload { keys: 1, moves: 0, truncates: 0, deletes: 30, ..workload },
            Focus::Starts | Focus::Nothing => {}
        }
        let base = base_rows(&mut workload, &mut random);
        let count = settings.nodes;
        let mut nodes: Vec<_> = NodeId::all(count).map(|id| Node::new(id, count, &base)).collect();
        let start: Vec<Lsn> = nodes.iter().map(|node| node.slot).collect();
        for node in &mut nodes {
            node.set_up(start.clone());
            node.skew = *random.pick(&SKEWS);
        }
        let rules = vec![settings.rule.clone(); tables as usize];
        let slowest = if settings.focus == Focus::HotKey { 500 } else { 950 }; // else what is kept is what is queued
        let lag = (0..count * count).map(|_| random.below(slowest)).collect();
        let mood = Mood::new(settings.focus, &mut random);
        World {
            daemon: Daemon::new(Cut::at(start.clone()), rules.clone(), &mut random),
            rules,
            switching: Vec::new(),
            switched: 0,
            held_numbers: 0,
            stepped_back: false,
            steps: 0,
            jobs: (0..count).map(|_| None).collect(),
            aheads: (0..count).map(|_| None).collect(),
            taken_over: 0,
            now: 1000,
            locals: Vec::new(),
            losers: Vec::new(),
            settled: HashSet::new(),
            removals: HashMap::new(),
            story: Vec::new(),
            eager: vec![false; count],
            nonce: 0,
            decisions: 0,
            conflicts: 0,
            most_kept: 0,
            set_up: start,
            mood,
            settings,
            random,
            schema,
            nodes,
            workload,
            lag,
        }
    }

    /// Runs the schedule, lets everything come to rest and looks at what came out.
    ///
    /// # Errors
    /// With what is wrong.
    pub fn run(&mut self) -> Result<(), Failure> {
        for node in NodeId::all(self.nodes.len()) {
            self.connect(node)?;
        }
        for _ in 0..self.settings.steps {
            self.step()?;
        }
        self.come_to_rest()?;
        self.check()
    }

    fn step(&mut self) -> Result<(), Failure> {
        self.now += self.random.below(5) as i64;
        self.steps += 1;
        if !self.switching.is_empty() && self.random.permille(150) {
            self.end_switch();
        }
        let node = NodeId(self.random.below(self.nodes.len()) as u8);
        let burst = 1 + self.random.below(4);
        match self.mood.draw(&mut self.random) {
            Action::BeginLocal if self.locals.len() < 6 => self.begin_local(node),
            Action::BeginLocal | Action::StepLocal => self.step_local(),
            Action::Deliver => (0..burst).try_for_each(|_| self.deliver(node).map(drop))?,
            Action::StepJob => (0..burst).try_for_each(|_| self.step_job(node).map(drop))?,
            Action::ReadHorizon => self.read_horizon(node),
            Action::Flush => self.nodes[node.index()].wal.flush(),
            Action::Forget => self.forget()?,
            Action::Connect => self.connect(node)?,
            Action::SettleLoser => self.settle_loser()?,
            Action::LoseConnection => self.lose_connection(node),
            Action::Crash => self.crash(node),
            Action::Restart => self.restart(),
            Action::StepClock => self.step_clock(node),
            Action::SaveSlot => self.nodes[node.index()].slot_saved = self.nodes[node.index()].slot,
        }
        Ok(())
    }

    fn step_clock(&mut self, node: NodeId) {
        let before = std::mem::replace(&mut self.nodes[node.index()].skew, *self.random.pick(&SKEWS));
        self.stepped_back |= self.nodes[node.index()].skew < before;
        tell!(self, "n{}: clock is off by {}", node.0, self.nodes[node.index()].skew);
    }

    fn begin_local(&mut self, node: NodeId) {
        let count = 1 + self.random.below(3);
        let statements = (0..count).map(|_| self.workload.statement(&mut self.random)).collect();
        let xid = self.nodes[node.index()].begin();
        self.locals.push(Local { node, xid, statements, blocked: 0 });
    }

    /// Lets one of the applications' transactions do something.
    pub fn step_local(&mut self) {
        if self.locals.is_empty() {
            return;
        }
        let i = self.random.below(self.locals.len());
        let local = &mut self.locals[i];
        let node = &mut self.nodes[local.node.index()];
        let Some(statement) = local.statements.front() else {
            let local = self.locals.swap_remove(i);
            self.commit_local(&local);
            return;
        };
        match run(node, local.xid, statement) {
            Done::Blocked(_) => {
                local.blocked += 1;
                if local.blocked > 15 {
                    node.roll_back(local.xid);
                    self.locals.swap_remove(i);
                }
            }
            _ => {
                local.statements.pop_front();
                local.blocked = 0;
            }
        }
    }

    /// Where it committed, if it changed anything.
    fn commit_local(&mut self, local: &Local) -> Option<Lsn> {
        let node = &mut self.nodes[local.node.index()];
        let entry = node.commit_local(local.xid, self.now, &self.schema, &mut self.random)?;
        let what: Vec<_> = entry.writes.iter().map(ToString::to_string).collect();
        let (end, xid, seen) = (entry.begin, entry.xid, entry.seen.clone());
        let micros = self.now + node.skew;
        if !self.random.permille(self.mood.lazy_commits) {
            node.wal.flush();
        }
        tell!(self, "n{}: commits {end} x{xid} at {micros}: {} (saw {seen:?})", local.node.0, what.join("; "));
        Some(end)
    }

    /// Deletes or renames a loser at its home, as an application would, if it is still the change that lost.
    ///
    /// # Errors
    /// If what stands there can't be read.
    pub fn settle_loser(&mut self) -> Result<(), Failure> {
        if self.losers.is_empty() {
            return Ok(());
        }
        let i = self.random.below(self.losers.len());
        let loser = self.losers[i];
        match self.has_moved_on(loser)? {
            Some(false) => {}
            Some(true) => {
                self.losers.swap_remove(i);
                return Ok(());
            }
            None => return Ok(()),
        }
        let node = &mut self.nodes[loser.node.index()];
        let xid = node.begin();
        let statement = match self.settings.renames {
            true => Statement::RenameIf(loser.key, loser.unique),
            false => Statement::DeleteIf(loser.key, loser.unique),
        };
        if let Done::Blocked(_) = run(node, xid, &statement) {
            node.roll_back(xid);
            return Ok(());
        }
        self.losers.swap_remove(i);
        tell!(self, "n{}: {} loses u{}", loser.node.0, loser.key, loser.unique);
        let local = Local { node: loser.node, xid, statements: [].into(), blocked: 0 };
        let at = self.commit_local(&local);
        self.removals.extend(at.map(|at| ((loser.node, at), loser.unique)));
        self.nodes[loser.node.index()].wal.flush();
        Ok(())
    }

    /// Whether another change stands at the loser's home than the one that lost; nothing while a barrier is waited for.
    fn has_moved_on(&self, loser: Loser) -> Result<Option<bool>, Failure> {
        if self.settings.mutation == Some(Mutation::AnyLoser) {
            return Ok(Some(false));
        }
        let coordinator = &self.daemon.coordinator;
        let wal = &self.nodes[loser.node.index()].wal;
        let last = wal.entries().iter().rfind(|entry| entry.redo.iter().any(|(key, _)| *key == loser.key));
        let decoded = coordinator.window().log(loser.node).decoded;
        if !coordinator.is_ready(loser.node) || last.is_some_and(|entry| entry.begin >= decoded) {
            return Ok(None);
        }
        let key = self.schema.key_id(loser.key);
        let lsn = Some(loser.at).filter(|at| *at > Lsn::ZERO);
        Ok(Some(coordinator.has_moved_on(loser.node, loser.key.table, key, lsn)?))
    }

    /// The server stops at once and starts again.
    pub fn crash(&mut self, node: NodeId) {
        tell!(self, "n{}: crashes, flushed up to {}", node.0, self.nodes[node.index()].wal.flush_lsn());
        self.lose_connection(node);
        self.locals.retain(|local| local.node != node);
        let server = &mut self.nodes[node.index()];
        server.crash(self.set_up.clone());
        server.slot = server.slot_saved;
    }

    /// The daemon is killed and started again.
    pub fn restart(&mut self) {
        tell!(self, "the daemon restarts");
        for node in NodeId::all(self.nodes.len()) {
            self.drop_session(node);
        }
        let slots = self.nodes.iter().map(|node| node.slot).collect();
        let cuts = self.nodes.iter().filter_map(|node| node.cut.clone());
        let cuts = cuts.filter(|_| self.settings.mutation != Some(Mutation::SlotsAlone));
        let mut start = Cut::latest(slots, cuts);
        match self.settings.mutation {
            Some(Mutation::NothingSettled) => start.settled.fill(Lsn::ZERO),
            Some(Mutation::AllSettled) => start.settled.fill(Lsn::MAX),
            _ => {}
        }
        self.losers.clear();
        self.settled.clear();
        self.switching.clear();
        self.daemon = Daemon::new(start, self.rules.clone(), &mut self.random);
    }

    /// How reluctant a link is.
    pub fn lag_of(&self, link: Link) -> usize {
        self.lag[link.source.index() * self.nodes.len() + link.target.index()]
    }
}

fn base_rows(workload: &mut Workload, random: &mut Random) -> BTreeMap<Key, Row> {
    let mut base: BTreeMap<Key, Row> = BTreeMap::new();
    for table in workload.tables.clone() {
        for id in 0..workload.keys {
            let mut row = workload.row(random);
            let taken = |(key, other): (&Key, &Row)| key.table == table && other.unique == row.unique;
            if base.iter().any(taken) {
                row.unique = None;
            }
            if random.permille(500) {
                base.insert(Key { table, id }, row);
            }
        }
    }
    base
}
