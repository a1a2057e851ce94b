//! The rules in force, and those that take over while the daemon runs: on SIGHUP or `pgconcord rules reload`.
//!
//! A table takes its new rule when nothing that was decided by the old one is under way ([`crate::conflict::switch`]). Until
//! the nodes keep the new rule nothing is decided, so a crash leaves no doubt about which rule has decided what.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::apply::shared::{NodeShared, lock};
use crate::config::report::{Report, Style};
use crate::config::rules::{self, Rule};
use crate::daemon::Daemon;
use crate::daemon::error::DaemonError;
use crate::daemon::resolvers;
use crate::http::{Answer, Asked, Request};
use crate::model::{NodeId, Resolvers, Table, TableId};

/// How often tables that wait are looked at.
const EVERY: Duration = Duration::from_millis(250);
/// So many tables are named in a message.
const NAMED: usize = 5;

/// The rules, as far as the journal and the status have to do with them.
#[derive(Debug)]
pub struct RuleBook(Mutex<Book>);

#[derive(Debug)]
struct Book {
    rules: Arc<Vec<Rule>>,
    /// What decides about each table by `rules`.
    target: Resolvers,
    /// The tables that wait, and what each is still decided by.
    pending: BTreeMap<TableId, Arc<Vec<Rule>>>,
}

impl RuleBook {
    /// The rules of the start; what decided before about tables that wait is known to the nodes only.
    pub fn new(rules: Vec<Rule>, target: Resolvers, pending: BTreeSet<TableId>) -> RuleBook {
        let pending = pending.into_iter().map(|table| (table, Arc::default())).collect();
        RuleBook(Mutex::new(Book { rules: Arc::new(rules), target, pending }))
    }

    /// The rules by which conflicts of the table are decided now.
    pub fn of(&self, table: TableId) -> Arc<Vec<Rule>> {
        let book = lock(&self.0);
        book.pending.get(&table).unwrap_or(&book.rules).clone()
    }

    /// Columns of the table whose values are written nowhere: a new mask holds at once, an old one until its table has
    /// taken the new rules.
    pub fn masked(&self, table: &Table) -> BTreeSet<String> {
        let book = lock(&self.0);
        let masks = |rules: &[Rule]| -> Vec<String> {
            rules::masked(rules, &table.schema, &table.name).map(str::to_owned).collect()
        };
        let before = book.pending.get(&table.id).map_or_else(Vec::new, |before| masks(before));
        masks(&book.rules).into_iter().chain(before).collect()
    }

    /// Tables that wait.
    pub fn pending(&self) -> Vec<TableId> {
        lock(&self.0).pending.keys().copied().collect()
    }
}

/// Does what is asked: reads rules again and has tables take them, has held rows tried again.
#[derive(Debug)]
pub struct Reloader {
    daemon: Arc<Daemon>,
    asked: Asked,
}

/// What became of an attempt to have the nodes keep other rules.
enum Kept {
    /// By all of them.
    Everywhere,
    /// Not by the last one, which counts; why.
    Not(String),
    /// That is not known; why.
    InDoubt(String),
}

impl Reloader {
    /// Hears by `asked`.
    pub fn new(daemon: Arc<Daemon>, asked: Asked) -> Reloader {
        Reloader { daemon, asked }
    }

    /// Runs until it is dropped.
    ///
    /// # Errors
    /// If a spilled transaction can't be read.
    pub async fn run(mut self) -> Result<(), DaemonError> {
        let mut tick = tokio::time::interval(EVERY);
        loop {
            tokio::select! {
                Some((request, answer)) = self.asked.recv() => {
                    let said = match request {
                        Request::RetryHeld => Ok(self.retry_held()),
                        Request::ReloadRules => self.reload().await?,
                    };
                    match &said {
                        Ok(said) => tracing::info!("{said}"),
                        Err(said) => tracing::error!("the rules stay as they are, for the new ones are wrong\n{said}"),
                    }
                    let _ = answer.send(said);
                }
                _ = tick.tick() => self.switch().await?,
            }
        }
    }

    fn retry_held(&self) -> String {
        let shared = &self.daemon.shared;
        let held: usize = {
            let coordinator = shared.coordinator();
            shared.nodes.iter().map(|node| coordinator.all_held(node.id).len()).sum()
        };
        shared.nodes.iter().for_each(NodeShared::retry_held);
        match held {
            0 => "no row is held that a node has refused".to_owned(),
            1 => "1 row is tried again; pgconcord conflicts list --status held shows whether it is refused again"
                .to_owned(),
            _ => format!(
                "{held} rows are tried again; pgconcord conflicts list --status held shows those that are refused again"
            ),
        }
    }

    async fn reload(&self) -> Result<Answer, DaemonError> {
        let (rules, target) = match self.read() {
            Ok(read) => read,
            Err(wrong) => return Ok(Err(wrong)),
        };
        let limit = self.daemon.config.limits.barrier_timeout;
        for (node, connected) in self.daemon.config.nodes.iter().zip(&self.daemon.shared.nodes) {
            // what a node that is down does not take it says when it is to do it
            if connected.control().is_none() {
                continue;
            }
            let checking = resolvers::check_expressions(&rules, &self.daemon.shared.catalog, node);
            match tokio::time::timeout(limit, checking).await {
                Ok(Err(DaemonError::Operator(wrong))) => return Ok(Err(wrong)),
                Ok(Err(error)) => tracing::warn!(%error, "the expressions of rules are not checked"),
                Err(_) => {
                    tracing::warn!(node = node.name, "the expressions of rules are not checked: no answer in time")
                }
                Ok(Ok(())) => {}
            }
        }
        let count = rules.len();
        let renamed = {
            let book = lock(&self.daemon.rules.0);
            resolvers::renamed_otherwise(&book.rules, &rules, &self.daemon.shared.catalog)
        };
        let catalog = &self.daemon.shared.catalog;
        let changed: BTreeSet<TableId> = {
            let coordinator = self.daemon.shared.coordinator();
            let now = coordinator.resolvers();
            let differs = |table: &&Arc<Table>| now.rule(table.id) != target.rule(table.id);
            catalog.tables().iter().filter(differs).map(|table| table.id).collect()
        };
        {
            let mut book = lock(&self.daemon.rules.0);
            // what a table that waits already is decided by is older still
            let before = |table: &TableId| (*table, book.pending.get(table).unwrap_or(&book.rules).clone());
            let pending = changed.iter().map(before).collect();
            *book = Book { rules: Arc::new(rules), target, pending };
        }
        self.switch().await?;
        let waiting = self.daemon.rules.pending();
        let mut said = format!("read {count} rules");
        let done: Vec<TableId> = changed.iter().filter(|table| !waiting.contains(table)).copied().collect();
        if changed.is_empty() {
            said += "; every table is decided as before";
        }
        if !renamed.is_empty() {
            let named = self.named(&renamed);
            write!(said, "; rows that lose a unique value get something else than before in {named}")
                .expect("a String");
        }
        if !done.is_empty() {
            write!(said, "; other conflicts than before come out of {}", self.named(&done)).expect("a String");
        }
        if !waiting.is_empty() {
            let named = self.named(&waiting);
            write!(said, "; decided as before until nothing of that is under way: {named}").expect("a String");
        }
        Ok(Ok(said))
    }

    /// The rules as the files have them now, and what they come to.
    fn read(&self) -> Result<(Vec<Rule>, Resolvers), String> {
        let daemon = &self.daemon;
        let path = &daemon.config.rules_path;
        let mut report = Report::default();
        let nodes = daemon.config.node_names();
        let had = !lock(&daemon.rules.0).rules.is_empty();
        let rules = match path.exists() || had {
            true => rules::read(path, &nodes, &mut report)?,
            false => Vec::new(), // a configuration that names none, as at the start
        };
        if report.has_errors() {
            return Err(report.render(Style::Plain));
        }
        if !report.is_empty() {
            tracing::warn!("{}", report.render(Style::Plain));
        }
        let target = resolvers::resolvers(&rules, &daemon.shared.catalog).map_err(|error| error.to_string())?;
        Ok((rules, target))
    }

    fn named(&self, tables: &[TableId]) -> String {
        let catalog = &self.daemon.shared.catalog;
        let names: Vec<String> = tables.iter().take(NAMED).map(|table| catalog.table(*table).to_string()).collect();
        let more = tables.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        names.join(", ") + &more
    }

    /// Has the tables take the new rules that can now.
    async fn switch(&self) -> Result<(), DaemonError> {
        let shared = &self.daemon.shared;
        let pending = self.daemon.rules.pending();
        if pending.is_empty() {
            shared.coordinator().withdraw_switch();
        }
        if pending.is_empty() || shared.nodes.iter().any(|node| node.control().is_none()) {
            return Ok(());
        }
        let target = lock(&self.daemon.rules.0).target.clone();
        let free = {
            let mut coordinator = shared.coordinator();
            // A start goes back to the cut that was written last: what it would find must not be decided by two rules.
            let is_written = |node: NodeId| {
                coordinator.window().log(node).forgotten() <= *self.daemon.confirmed[node.index()].borrow()
            };
            match coordinator.nodes().all(is_written) {
                true => coordinator.begin_switch(&pending, &target)?,
                false => Vec::new(),
            }
        };
        if free.is_empty() {
            return Ok(());
        }
        let next = {
            let (coordinator, book) = (shared.coordinator(), lock(&self.daemon.rules.0));
            let rule = |table: &Arc<Table>| match free.contains(&table.id) {
                true => book.target.rule(table.id).clone(),
                false => coordinator.resolvers().rule(table.id).clone(),
            };
            Resolvers::new(shared.catalog.tables().iter().map(rule).collect())
        };
        let switched = self.keep(&free, &next).await;
        if switched {
            resolvers::warn_of_divergence(&next, &shared.catalog);
        }
        shared.coordinator().end_switch(switched.then_some(next));
        if switched {
            lock(&self.daemon.rules.0).pending.retain(|table, _| !free.contains(table));
            tracing::info!(tables = %self.named(&free), "conflicts are decided by the new rules");
        }
        shared.wake_all();
        Ok(())
    }

    /// Has the nodes keep the rules of these tables. While it is not known whether they do, nothing can be decided: not until
    /// the node answers.
    async fn keep(&self, tables: &[TableId], next: &Resolvers) -> bool {
        let names = self.daemon.config.node_names();
        let catalog = &self.daemon.shared.catalog;
        let record = |table: &TableId| (catalog.table(*table).to_string(), rules::record(next.rule(*table), &names));
        let records: BTreeMap<String, String> = tables.iter().map(record).collect();
        let mut in_doubt = false;
        loop {
            match self.write(&records).await {
                Kept::Everywhere => return true,
                Kept::Not(why) if !in_doubt => {
                    tracing::warn!(why, "the new rules wait: not every node can keep them");
                    return false;
                }
                Kept::Not(why) | Kept::InDoubt(why) => {
                    in_doubt = true;
                    tracing::error!(why, "nothing is applied until it is known whether the node keeps the new rules");
                    tokio::time::sleep(EVERY).await;
                }
            }
        }
    }

    /// One node after the other; the last one counts.
    async fn write(&self, records: &BTreeMap<String, String>) -> Kept {
        let daemon = &self.daemon;
        let nodes = &daemon.shared.nodes;
        let mut sent_to_last = false;
        let mut failed = String::new();
        for (at, node) in nodes.iter().enumerate() {
            let Some(control) = node.control() else {
                failed = format!("{} is not connected", node.name);
                break;
            };
            sent_to_last = at + 1 == nodes.len();
            let writing = control.write_rules(&daemon.config.cluster, records);
            match tokio::time::timeout(daemon.config.limits.barrier_timeout, writing).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failed = format!("{}: {error}", node.name),
                Err(_) => failed = format!("{} does not answer", node.name),
            }
            if !failed.is_empty() {
                break;
            }
        }
        match (failed.is_empty(), sent_to_last) {
            (true, _) => Kept::Everywhere,
            (false, true) => Kept::InDoubt(failed),
            (false, false) => Kept::Not(failed),
        }
    }
}
