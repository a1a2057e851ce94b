//! The server's version, settings and capacity.

use crate::config::Config;
use crate::node::Finding;
use crate::node::doctor::facts::{Facts, Server};
use crate::node::setup::same_server;

/// The oldest version whose protocol and functions suffice, and the first that nobody has tried.
const OLDEST: i32 = 14_00_00;
const UNTRIED: i32 = 19_00_00;
/// Less than this, in MB, is used up by a busy night while a peer is down.
const SMALL_KEEP_SIZE: i64 = 1024;

pub(super) fn check(config: &Config, facts: &Facts) -> Vec<Finding> {
    let server = &facts.server;
    let mut findings = vec![version(server), wal_level(server), commit_timestamps(server)];
    findings.extend(recovery(server));
    findings.push(slots(facts));
    findings.push(senders(facts));
    findings.push(origins(config, facts));
    findings.push(keep_size(server));
    findings.push(synchronous(config, server));
    findings.extend(prepared(server));
    findings.extend(failover(config, server));
    findings
}

fn version(server: &Server) -> Finding {
    let shown = format!("PostgreSQL {}", server.version_text);
    match server.version {
        ..OLDEST => Finding::error("version", format!("{shown}: 14 or newer is needed")),
        UNTRIED.. => Finding::warning("version", format!("{shown}: pgconcord has been tried with 14 to 18")),
        _ => Finding::ok("version", shown),
    }
}

fn recovery(server: &Server) -> Option<Finding> {
    let what = "the server is a standby; a node must be writable";
    server.in_recovery.then(|| {
        Finding::error("recovery", what)
            .fix("name the primary in dsn, or add target_session_attrs=read-write with all hosts")
    })
}

fn wal_level(server: &Server) -> Finding {
    match server.wal_level.as_str() {
        "logical" => Finding::ok("wal_level", "logical"),
        other => Finding::error("wal_level", format!("is {other}; logical is needed"))
            .fix("ALTER SYSTEM SET wal_level = 'logical';  -- then restart the server"),
    }
}

fn commit_timestamps(server: &Server) -> Finding {
    const CHECK: &str = "track_commit_timestamp";
    match server.track_commit_timestamp {
        true => Finding::ok(CHECK, "on"),
        false => Finding::error(CHECK, "is off; conflicts are found by commit timestamps and origins")
            .fix("ALTER SYSTEM SET track_commit_timestamp = on;  -- then restart the server"),
    }
}

/// A check on something of which `used` of `max` are taken and `needed` more will be.
fn room(setting: &'static str, what: &str, max: i32, used: i32, needed: i32) -> Finding {
    let left = max - used;
    let shown = format!("{used} of {max} {what} used by others");
    if left >= needed {
        return Finding::ok(setting, shown);
    }
    Finding::error(setting, format!("{shown}; {needed} needed"))
        .fix(format!("ALTER SYSTEM SET {setting} = {};  -- then restart the server", used + needed + 4))
}

fn slots(facts: &Facts) -> Finding {
    let server = &facts.server;
    room("max_replication_slots", "replication slots", server.max_replication_slots, server.slots_used, 1)
}

fn senders(facts: &Facts) -> Finding {
    let server = &facts.server;
    room("max_wal_senders", "WAL senders", server.max_wal_senders, server.senders_used, 1)
}

fn origins(config: &Config, facts: &Facts) -> Finding {
    let server = &facts.server;
    let setting = if server.version < 18_00_00 { "max_replication_slots" } else { "max_active_replication_origins" };
    let ours = i32::try_from(facts.origins.len()).unwrap_or(i32::MAX);
    let needed = i32::try_from(config.nodes.len()).unwrap_or(i32::MAX) - 1;
    room(setting, "replication origins", server.max_origins, server.origins_used - ours, needed)
}

fn keep_size(server: &Server) -> Finding {
    const CHECK: &str = "max_slot_wal_keep_size";
    match server.max_slot_wal_keep_mb {
        -1 => Finding::warning(CHECK, "is unlimited: while a peer or pgconcord is down, the slot can fill the disk")
            .fix("ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf();  -- what the disk can spare"),
        mb @ ..SMALL_KEEP_SIZE => {
            Finding::warning(CHECK, format!("is {mb} MB: a short outage of a peer invalidates the slot, which needs a repair"))
                .fix("ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf();  -- what the disk can spare")
        }
        mb => Finding::ok(CHECK, format!("{} GB", mb / 1024)),
    }
}

/// A synchronous walsender of ours would make each commit wait until its change is applied elsewhere, which may
/// wait for a lock that this commit holds (R14).
fn synchronous(config: &Config, server: &Server) -> Finding {
    const CHECK: &str = "synchronous_standby_names";
    let names = &server.synchronous_standby_names;
    let quoted_apart = |c: char| !(c.is_alphanumeric() || c == '_' || c == '*' || c == '$');
    let ours = |name: &str| {
        name == "*" || name.eq_ignore_ascii_case("pgconcord") || name.eq_ignore_ascii_case(&config.object_name())
    };
    if names.split(quoted_apart).any(ours) {
        return Finding::error(CHECK, format!("is {names:?}, which makes pgconcord's reader a synchronous standby"))
            .fix("ALTER SYSTEM SET synchronous_standby_names = '...';  -- name the standbys one by one; then SELECT pg_reload_conf();");
    }
    Finding::ok(
        CHECK,
        if names.is_empty() { "empty".to_owned() } else { format!("{names:?} does not match pgconcord") },
    )
}

fn prepared(server: &Server) -> Option<Finding> {
    let what =
        format!("prepared transactions older than 10 minutes hold back every slot: {}", server.old_prepared.join(", "));
    let found = server.max_prepared_transactions > 0 && !server.old_prepared.is_empty();
    found.then(|| {
        Finding::warning("prepared_transactions", what).fix("COMMIT PREPARED or ROLLBACK PREPARED each of them")
    })
}

fn failover(config: &Config, server: &Server) -> Option<Finding> {
    let what = format!(
        "has {} physical slots, so probably standbys: the slot {} does not follow a failover, and the node then needs a repair",
        server.physical_slots,
        config.object_name()
    );
    (server.physical_slots > 0).then(|| Finding::warning("failover", what))
}

/// What must differ, or be alike, between nodes.
pub(super) fn check_distinct(nodes: &[Facts]) -> Vec<Finding> {
    let server = |facts: &Facts| (facts.server.system_id.clone(), facts.server.started.clone());
    let mut findings = Vec::new();
    for (i, facts) in nodes.iter().enumerate() {
        let before = &nodes[..i];
        if let Some(other) = before.iter().find(|other| server(other) == server(facts)) {
            findings.push(Finding::error("same_server", same_server(&other.node, &facts.node)).at(&facts.node));
        }
        if let Some(first) = before.first() {
            let (here, there) = (&facts.server.encoding, &first.server.encoding);
            findings.extend(encodings(here, &first.node, there).map(|finding| finding.at(&facts.node)));
        }
    }
    findings
}

/// What speaks against a database encoded in `here` beside one in `there` at the node `other`.
pub fn encodings(here: &str, other: &str, there: &str) -> Option<Finding> {
    if here == there {
        return None;
    }
    if [here, there].contains(&"SQL_ASCII") {
        let what = format!(
            "the database is encoded in {here}, that at {other} in {there}: bytes of SQL_ASCII are no text in particular, so \
             they have no meaning elsewhere"
        );
        let fix = "create both databases with the encoding that their applications use";
        return Some(Finding::error("encoding", what).fix(fix));
    }
    let what = format!(
        "the database is encoded in {here}, that at {other} in {there}: a character that one of them lacks stops the link"
    );
    Some(Finding::warning("encoding", what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Level;

    fn with(change: impl Fn(&mut Server)) -> Facts {
        let mut facts = Facts::sample();
        change(&mut facts.server);
        facts
    }

    #[test]
    fn a_sound_server_passes() {
        for finding in [
            version(&Facts::sample().server),
            wal_level(&Facts::sample().server),
            commit_timestamps(&Facts::sample().server),
            slots(&Facts::sample()),
            senders(&Facts::sample()),
            keep_size(&Facts::sample().server),
        ] {
            assert_eq!(finding.level, Level::Ok, "{finding:?}");
        }
        assert_eq!(recovery(&Facts::sample().server), None);
        assert_eq!(prepared(&Facts::sample().server), None);
    }

    #[test]
    fn each_setting_that_is_wrong_names_its_statement() {
        assert!(
            wal_level(&with(|s| s.wal_level = "replica".into()).server).fix.unwrap().contains("wal_level = 'logical'")
        );
        assert_eq!(commit_timestamps(&with(|s| s.track_commit_timestamp = false).server).level, Level::Error);
        assert_eq!(version(&with(|s| s.version = 13_00_22).server).level, Level::Error);
        assert_eq!(keep_size(&with(|s| s.max_slot_wal_keep_mb = -1).server).level, Level::Warning);
        assert_eq!(keep_size(&with(|s| s.max_slot_wal_keep_mb = 64).server).level, Level::Warning);
    }

    #[test]
    fn the_last_slot_must_be_free() {
        assert_eq!(slots(&with(|s| (s.max_replication_slots, s.slots_used) = (3, 2))).level, Level::Ok);
        let full = slots(&with(|s| (s.max_replication_slots, s.slots_used) = (3, 3)));
        assert!(full.level == Level::Error && full.fix.unwrap().contains("max_replication_slots = 8"));
    }

    #[test]
    fn bytes_that_are_no_text_go_to_their_like_only() {
        let level = |here, there| encodings(here, "east", there).map(|finding| finding.level);
        assert_eq!(level("SQL_ASCII", "SQL_ASCII"), None);
        assert_eq!(level("LATIN1", "UTF8"), Some(Level::Warning));
        assert_eq!(level("SQL_ASCII", "UTF8"), Some(Level::Error));
    }

    #[test]
    fn two_names_of_one_server_are_told() {
        let nodes = [Facts::sample(), Facts { node: "west".to_owned(), ..Facts::sample() }];
        assert_eq!(check_distinct(&nodes)[0].check, "same_server");
        let copy = with(|server| server.started = "2026-01-01 00:00:07+00".to_owned());
        assert_eq!(check_distinct(&[Facts::sample(), copy]), vec![]);
    }

    #[test]
    fn a_reader_that_would_be_a_synchronous_standby_is_found() {
        let config = crate::config::Config::sample();
        let level =
            |names: &str| synchronous(&config, &with(|s| s.synchronous_standby_names = names.into()).server).level;
        for names in ["*", "ANY 1 (*)", "FIRST 2 (s1, \"pgconcord_shop\")", "PGCONCORD"] {
            assert_eq!(level(names), Level::Error, "{names}");
        }
        for names in ["", "s1, s2", "ANY 1 (s1, my_pgconcord_shop2)"] {
            assert_eq!(level(names), Level::Ok, "{names}");
        }
    }
}
