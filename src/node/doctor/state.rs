//! What setup has made: whether it is there, whole, and still tells the truth (R6).

use crate::config::Config;
use crate::node::Finding;
use crate::node::doctor::facts::Facts;

const CHECK: &str = "setup";
const RUN_SETUP: &str = "pgconcord setup";
const REPAIR: &str = "pgconcord teardown, compare and copy the tables, then pgconcord setup";

/// At one node, given all of them.
pub(super) fn check(config: &Config, facts: &Facts, nodes: &[Facts]) -> Vec<Finding> {
    let remembered = nodes.iter().any(|node| node.progress.iter().any(|row| row.source == facts.node));
    let unmade = facts.slot.is_none() && facts.publication.is_none() && facts.progress.is_empty();
    let nothing = unmade && !remembered;
    if nothing {
        return vec![Finding::warning(CHECK, "not set up yet").fix(RUN_SETUP)];
    }
    let mut findings = Vec::new();
    findings.extend(publication(config, facts));
    findings.extend(slot(config, facts).filter(|_| facts.slot.is_some() || !remembered));
    let others = config.nodes.iter().filter(|node| node.name != facts.node);
    for other in others {
        let origin = config.origin_name(&other.name);
        if !facts.origins.contains(&origin) {
            findings.push(Finding::error(CHECK, format!("the replication origin {origin} is missing")).fix(RUN_SETUP));
        }
        if facts.progress.iter().all(|row| row.source != other.name) {
            findings.push(
                Finding::error(CHECK, format!("pgconcord.progress has no row for {}", other.name)).fix(RUN_SETUP),
            );
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, "schema, publication, slot, origins and progress are there"));
    }
    findings
}

fn publication(config: &Config, facts: &Facts) -> Option<Finding> {
    let name = config.object_name();
    match &facts.publication {
        None => Some(
            Finding::error(CHECK, format!("the publication {name} is missing: nothing written here replicates"))
                .fix(RUN_SETUP),
        ),
        Some(found) if found.filtered || !found.whole || found.all_tables => {
            let what = format!("the publication {name} was changed: it hides rows, columns or operations");
            Some(Finding::error(CHECK, what).fix(RUN_SETUP))
        }
        Some(_) => {
            let missing: Vec<String> =
                facts.tables.iter().filter(|table| !table.published).map(|table| table.shown()).collect();
            let what = format!("the publication {name} lacks {}", missing.join(", "));
            (!missing.is_empty()).then(|| Finding::warning(CHECK, what).fix(RUN_SETUP))
        }
    }
}

fn slot(config: &Config, facts: &Facts) -> Option<Finding> {
    let name = config.object_name();
    match &facts.slot {
        None => Some(Finding::error(CHECK, format!("the slot {name} is missing")).fix(RUN_SETUP)),
        Some(slot) if slot.is_lost() => {
            let why = slot.invalidation_reason.as_deref().unwrap_or("wal_removed");
            let what =
                format!("the slot {name} was invalidated ({why}): changes written here may be missing elsewhere");
            Some(Finding::error(CHECK, what).fix(REPAIR))
        }
        Some(slot) if slot.wal_status.as_deref() == Some("unreserved") => {
            let what =
                format!("the slot {name} is about to be invalidated: it retains more than max_slot_wal_keep_size");
            Some(Finding::warning(CHECK, what).fix("start `pgconcord run`, or raise max_slot_wal_keep_size"))
        }
        Some(_) => None,
    }
}

/// What each node remembers of its sources, against what the sources are now.
pub(super) fn check_sources(nodes: &[Facts]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for facts in nodes {
        for row in &facts.progress {
            let Some(source) = nodes.iter().find(|node| node.node == row.source) else { continue };
            let changed = if source.server.system_id != row.system_id {
                "is another server now (its system identifier changed)"
            } else if source.timeline != row.timeline {
                "has been promoted or restored since (its timeline changed)"
            } else if source.slot.is_none() {
                "has lost its slot"
            } else {
                continue;
            };
            let what = format!("{} {changed}: changes may be missing here or there", row.source);
            findings.push(Finding::error("identity", what).at(&facts.node).fix(REPAIR));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Lsn;
    use crate::node::Level;
    use crate::node::control::{ProgressRow, SlotInfo};

    fn slot_info() -> SlotInfo {
        SlotInfo {
            confirmed_flush_lsn: Some(Lsn(1)),
            restart_lsn: Some(Lsn(1)),
            active_pid: None,
            wal_status: Some("reserved".to_owned()),
            invalidation_reason: None,
            safe_wal_size: None,
            plugin: Some("pgoutput".to_owned()),
            database: Some("shop".to_owned()),
        }
    }

    fn row(system_id: &str, timeline: i32) -> ProgressRow {
        ProgressRow { source: "west".to_owned(), system_id: system_id.to_owned(), timeline, lsn: Lsn(1), batch: 1 }
    }

    #[test]
    fn before_setup_there_is_one_warning() {
        let findings = check(&Config::sample(), &Facts::sample(), &[]);
        assert_eq!(findings.iter().map(|finding| finding.level).collect::<Vec<_>>(), [Level::Warning]);
    }

    #[test]
    fn what_is_missing_after_setup_is_an_error_each() {
        let facts = Facts { slot: Some(slot_info()), ..Facts::sample() };
        let errors = check(&Config::sample(), &facts, &[]);
        assert_eq!(errors.len(), 3, "publication, origin, progress: {errors:?}");
    }

    #[test]
    fn a_slot_that_others_remember_is_no_matter_for_setup() {
        let west = Facts { node: "west".to_owned(), slot: Some(slot_info()), ..Facts::sample() };
        let east = Facts { progress: vec![row("77", 1)], ..Facts::sample() };
        let gone = Facts { slot: None, ..west };
        let nodes = [east, gone];
        assert!(!check(&Config::sample(), &nodes[1], &nodes).iter().any(|finding| finding.what.contains("slot")));
        assert_eq!(check_sources(&nodes)[0].fix.as_deref(), Some(REPAIR));
    }

    #[test]
    fn a_lost_slot_needs_a_repair() {
        let lost = SlotInfo { wal_status: Some("lost".to_owned()), ..slot_info() };
        let found = slot(&Config::sample(), &Facts { slot: Some(lost), ..Facts::sample() }).unwrap();
        assert_eq!((found.level, found.fix.as_deref()), (Level::Error, Some(REPAIR)));
    }

    #[test]
    fn a_source_that_became_another_is_found() {
        let west = Facts { node: "west".to_owned(), slot: Some(slot_info()), ..Facts::sample() };
        let found = |row| check_sources(&[Facts { progress: vec![row], ..Facts::sample() }, west.clone()]).len();
        assert_eq!(found(row("77", 1)), 0);
        assert_eq!(found(row("78", 1)), 1);
        assert_eq!(found(row("77", 2)), 1);
    }
}
