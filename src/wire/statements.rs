//! Which statements the server has prepared for this session, by SQL and parameter types.
//!
//! What is remembered is what the server confirmed: a Parse that failed, or was skipped because an earlier statement
//! of its window failed, leaves nothing behind. Preparing outlives a rollback, so transactions do not matter here.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use smallvec::SmallVec;

/// Most statements that a session keeps prepared. One costs the server's session some ten to fifty kB (parse tree and
/// generic plan), so this stays below about 10 MB; a few statements a table make it enough for fifty tables at once.
pub(super) const MOST_STATEMENTS: usize = 256;

/// A prepared statement's number; its name is made of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct StatementId(u64);

impl StatementId {
    pub(super) fn name(self) -> String {
        format!("pgc{}", self.0)
    }
}

#[derive(Debug)]
struct Statement {
    sql: Arc<str>,
    types: Box<[u32]>,
    /// When it was used last, on the cache's own clock.
    used: u64,
    confirmed: Confirmed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Confirmed {
    /// Its Parse is in the window that is being built or on its way.
    Not,
    /// ParseComplete has come.
    Yes,
}

/// What to send for a statement.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Lookup {
    /// Nothing: it is prepared, or its Parse is in the window already.
    Known(StatementId),
    /// Parse it under this name; and close that one before, which was used longest ago.
    New(StatementId, Option<StatementId>),
}

/// Parses and Closes of a window, in the order in which their confirmations come.
#[derive(Debug, Default)]
struct Pending {
    parsing: VecDeque<StatementId>,
    closing: VecDeque<StatementId>,
}

/// The statements of one session.
#[derive(Debug, Default)]
pub(super) struct Statements {
    by_id: HashMap<StatementId, Statement>,
    by_sql: HashMap<Arc<str>, SmallVec<[StatementId; 2]>>,
    /// Of the window that is being built.
    building: Pending,
    /// Of those on their way, in order.
    sent: VecDeque<Pending>,
    /// Forgotten here, perhaps still at the server: closed with the next window.
    orphans: Vec<StatementId>,
    clock: u64,
}

impl Statements {
    /// A new window: what one left that was never sent is cleaned up. Returns the statements to close at its start.
    pub(super) fn begin_window(&mut self) -> Vec<StatementId> {
        let abandoned = std::mem::take(&mut self.building);
        self.settle(abandoned);
        let orphans = std::mem::take(&mut self.orphans);
        self.building.closing.extend(&orphans);
        orphans
    }

    /// A request is on its way: the window that was built, or one without statements of ours.
    pub(super) fn sent(&mut self) {
        self.sent.push_back(std::mem::take(&mut self.building));
    }

    /// Finds a statement, or makes a name for it.
    pub(super) fn find(&mut self, sql: &str, types: &[u32]) -> Lookup {
        self.clock += 1;
        let clock = self.clock;
        if let Some(ids) = self.by_sql.get(sql) {
            for id in ids {
                if let Some(statement) = self.by_id.get_mut(id).filter(|statement| *statement.types == *types) {
                    statement.used = clock;
                    return Lookup::Known(*id);
                }
            }
        }
        let evicted = (self.by_id.len() >= MOST_STATEMENTS).then(|| self.evict()).flatten();
        let id = StatementId(clock);
        let sql: Arc<str> = sql.into();
        self.by_sql.entry(sql.clone()).or_default().push(id);
        self.by_id.insert(id, Statement { sql, types: types.into(), used: clock, confirmed: Confirmed::Not });
        self.building.parsing.push_back(id);
        Lookup::New(id, evicted)
    }

    fn evict(&mut self) -> Option<StatementId> {
        let (id, _) = self.by_id.iter().min_by_key(|(_, statement)| statement.used)?;
        let id = *id;
        self.forget(id);
        self.building.closing.push_back(id);
        Some(id)
    }

    fn forget(&mut self, id: StatementId) {
        let Some(statement) = self.by_id.remove(&id) else { return };
        if let Some(ids) = self.by_sql.get_mut(&statement.sql) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_sql.remove(&statement.sql);
            }
        }
    }

    /// ParseComplete.
    pub(super) fn parsed(&mut self) {
        let id = self.sent.front_mut().and_then(|window| window.parsing.pop_front());
        if let Some(statement) = id.and_then(|id| self.by_id.get_mut(&id)) {
            statement.confirmed = Confirmed::Yes;
        }
    }

    /// CloseComplete.
    pub(super) fn closed(&mut self) {
        if let Some(window) = self.sent.front_mut() {
            window.closing.pop_front();
        }
    }

    /// ReadyForQuery: what was not confirmed did not happen.
    pub(super) fn end_window(&mut self) {
        if let Some(window) = self.sent.pop_front() {
            self.settle(window);
        }
    }

    fn settle(&mut self, window: Pending) {
        for id in window.parsing {
            if self.by_id.get(&id).is_some_and(|statement| statement.confirmed == Confirmed::Not) {
                self.forget(id);
            }
        }
        self.orphans.extend(window.closing);
    }

    /// The server's error tells that prepared statements are not what they were: all are prepared again.
    ///
    /// 26000: one is unknown (somebody's DEALLOCATE). 0A000: among others "cached plan must not change result type",
    /// after a change of a table.
    pub(super) fn doubt(&mut self, code: &str) {
        if matches!(code, "26000" | "0A000") {
            self.orphans.extend(self.by_id.drain().map(|(id, _)| id));
            self.by_sql.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(statements: &mut Statements, sql: &str) -> (StatementId, Option<StatementId>) {
        match statements.find(sql, &[]) {
            Lookup::New(id, evicted) => (id, evicted),
            Lookup::Known(_) => panic!("{sql} was known"),
        }
    }

    #[test]
    fn a_statement_is_parsed_once() {
        let mut statements = Statements::default();
        statements.begin_window();
        let (id, _) = new(&mut statements, "a");
        assert_eq!(statements.find("a", &[]), Lookup::Known(id));
        statements.sent();
        statements.parsed();
        statements.end_window();
        assert_eq!(statements.find("a", &[]), Lookup::Known(id));
    }

    #[test]
    fn the_same_text_with_other_types_is_another_statement() {
        let mut statements = Statements::default();
        let Lookup::New(first, _) = statements.find("a", &[23]) else { panic!() };
        let Lookup::New(second, _) = statements.find("a", &[25]) else { panic!() };
        assert_ne!(first, second);
        assert_eq!(statements.find("a", &[23]), Lookup::Known(first));
    }

    #[test]
    fn a_parse_that_was_not_confirmed_is_forgotten() {
        let mut statements = Statements::default();
        statements.begin_window();
        let (kept, _) = new(&mut statements, "kept");
        let (failed, _) = new(&mut statements, "failed");
        statements.sent();
        statements.parsed();
        statements.end_window();
        assert_eq!(statements.find("kept", &[]), Lookup::Known(kept));
        assert_ne!(new(&mut statements, "failed").0, failed);
    }

    #[test]
    fn a_window_that_was_never_sent_leaves_nothing() {
        let mut statements = Statements::default();
        statements.begin_window();
        let (id, _) = new(&mut statements, "a");
        assert!(statements.begin_window().is_empty());
        assert_ne!(new(&mut statements, "a").0, id);
    }

    #[test]
    fn windows_on_their_way_are_confirmed_in_turn() {
        let mut statements = Statements::default();
        let mut window = |sql| {
            statements.begin_window();
            let (id, _) = new(&mut statements, sql);
            statements.sent();
            id
        };
        let (first, second) = (window("first"), window("second"));
        assert_eq!(statements.find("first", &[]), Lookup::Known(first));
        statements.parsed();
        statements.end_window();
        assert!(statements.begin_window().is_empty());
        assert_eq!(statements.find("second", &[]), Lookup::Known(second));
        statements.end_window(); // it was skipped
        assert_eq!(statements.find("first", &[]), Lookup::Known(first));
        assert_ne!(new(&mut statements, "second").0, second);
    }

    #[test]
    fn the_one_used_longest_ago_gives_way() {
        let mut statements = Statements::default();
        let ids: Vec<_> = (0..MOST_STATEMENTS).map(|i| new(&mut statements, &i.to_string()).0).collect();
        statements.sent();
        ids.iter().for_each(|_| statements.parsed());
        statements.find("0", &[]);
        assert_eq!(new(&mut statements, "one more").1, Some(ids[1]));
        assert_eq!(statements.by_id.len(), MOST_STATEMENTS);
        assert_eq!(statements.by_sql.len(), MOST_STATEMENTS);
    }

    #[test]
    fn a_close_that_was_skipped_is_sent_again() {
        let mut statements = Statements::default();
        for i in 0..MOST_STATEMENTS {
            new(&mut statements, &i.to_string());
            statements.sent();
            statements.parsed();
            statements.end_window();
        }
        let (_, evicted) = new(&mut statements, "one more");
        statements.sent();
        statements.end_window();
        assert_eq!(statements.begin_window(), [evicted.unwrap()]);
        statements.sent();
        statements.closed();
        statements.end_window();
        assert!(statements.begin_window().is_empty());
    }

    #[test]
    fn doubt_prepares_everything_again() {
        let mut statements = Statements::default();
        let (id, _) = new(&mut statements, "a");
        statements.sent();
        statements.parsed();
        statements.doubt("23505");
        assert_eq!(statements.find("a", &[]), Lookup::Known(id));
        statements.doubt("0A000");
        assert_eq!(statements.begin_window(), [id]);
        assert_ne!(new(&mut statements, "a").0, id);
    }
}
