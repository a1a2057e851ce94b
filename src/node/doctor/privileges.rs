//! What the connected role may do; each thing that it may not comes with its GRANT.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::table::quote_identifier;
use crate::node::catalog::shape::{RowSecurity, TableShape};
use crate::node::doctor::facts::{Facts, ReplicaRole};
use crate::node::{Finding, Level};

const CHECK: &str = "privileges";

pub(super) fn check(facts: &Facts) -> Vec<Finding> {
    let mut findings = to_replicate(facts);
    findings.extend(to_set_up(facts));
    findings.extend(progress(facts));
    if findings.iter().all(|finding| finding.level == Level::Ok) {
        let kind = if facts.server.is_superuser { " (superuser)" } else { "" };
        findings.push(Finding::ok(CHECK, format!("{}{kind} has all that is needed", facts.server.role)));
    }
    findings
}

/// What `pgconcord run` needs and setup does not create.
pub(super) fn to_replicate(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(role(facts));
    findings.extend(origins(facts));
    findings.extend(replica_role(facts));
    findings.extend(writes(facts));
    findings.extend(facts.tables.iter().filter_map(|table| row_security(facts, table)));
    findings
}

fn quoted_role(facts: &Facts) -> String {
    quote_identifier(&facts.server.role)
}

fn role(facts: &Facts) -> Option<Finding> {
    let server = &facts.server;
    let finding = || {
        Finding::error(CHECK, format!("{} may not start replication", server.role))
            .fix(format!("ALTER ROLE {} REPLICATION;  -- on RDS: GRANT rds_replication TO it", quoted_role(facts)))
    };
    (!server.may_replicate && !server.is_superuser).then(finding)
}

fn origins(facts: &Facts) -> Option<Finding> {
    let (server, role) = (&facts.server, quoted_role(facts));
    let execute = server.missing_functions.iter().map(|f| format!("GRANT EXECUTE ON FUNCTION {f} TO {role};"));
    let select = (!server.may_read_origins)
        .then(|| format!("GRANT SELECT ON pg_catalog.pg_replication_origin_status TO {role};"));
    let grants: Vec<String> = execute.chain(select).collect();
    let what = format!("{} may not use replication origins", server.role);
    (!grants.is_empty()).then(|| Finding::error(CHECK, what).fix(grants.join("\n")))
}

fn replica_role(facts: &Facts) -> Option<Finding> {
    if facts.replica_role == ReplicaRole::Allowed {
        return None;
    }
    let what = format!(
        "{} may not set session_replication_role, so triggers and foreign keys fire again for replicated rows",
        facts.server.role
    );
    let finding = Finding::warning(CHECK, what);
    Some(match facts.server.version {
        15_00_00.. => {
            finding.fix(format!("GRANT SET ON PARAMETER session_replication_role TO {};", quoted_role(facts)))
        }
        _ => finding.fix("-- before PostgreSQL 15 only a superuser may"),
    })
}

/// What only `pgconcord setup` needs; an administrator can run `setup --print-sql` in its place.
fn to_set_up(facts: &Facts) -> Vec<Finding> {
    let (server, role) = (&facts.server, quoted_role(facts));
    let instead = "-- or let an administrator run what `pgconcord setup --print-sql` prints";
    let mut findings = Vec::new();
    let creates = server.missing_on_progress.is_none() || facts.publication.is_none();
    if creates && !server.may_create {
        let grant = format!("GRANT CREATE ON DATABASE {} TO {role};\n{instead}", quote_identifier(&server.database));
        let what = format!("{} may not create the schema and the publication", server.role);
        findings.push(Finding::error(CHECK, what).fix(grant));
    }
    if !server.is_superuser {
        findings.extend(ownership(facts, &role, instead));
    }
    findings
}

/// To publish a table takes its owner; one finding an owner.
fn ownership(facts: &Facts, role: &str, instead: &str) -> Vec<Finding> {
    let mut of_owners: BTreeMap<&str, Vec<&TableShape>> = BTreeMap::new();
    for table in facts.tables.iter().filter(|table| !table.owned && !table.published) {
        of_owners.entry(&table.owner).or_default().push(table);
    }
    let finding = |(owner, tables): (&str, Vec<&TableShape>)| {
        let names: Vec<String> = tables.iter().map(|table| table.shown()).collect();
        let what = format!("{} is not {owner}, so it can't publish {}", facts.server.role, names.join(", "));
        let fix = match tables.iter().any(|table| table.owner_is_superuser) {
            true => instead.trim_start_matches("-- or ").to_owned(),
            false => format!("GRANT {} TO {role};\n{instead}", quote_identifier(owner)),
        };
        Finding::error(CHECK, what).fix(fix)
    };
    of_owners.into_iter().map(finding).collect()
}

fn progress(facts: &Facts) -> Option<Finding> {
    let missing = facts.server.missing_on_progress.as_ref().filter(|missing| !missing.is_empty())?;
    let role = quoted_role(facts);
    let what = format!("{} lacks {} on pgconcord.progress", facts.server.role, missing.join(", "));
    Some(Finding::error(CHECK, what).fix(format!(
        "GRANT USAGE ON SCHEMA pgconcord TO {role};\nGRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA pgconcord TO {role};"
    )))
}

/// One finding for all tables that lack the same.
fn writes(facts: &Facts) -> Vec<Finding> {
    let mut lacking: BTreeMap<&[String], Vec<&TableShape>> = BTreeMap::new();
    for table in facts.tables.iter().filter(|table| !table.missing_privileges.is_empty()) {
        lacking.entry(&table.missing_privileges).or_default().push(table);
    }
    lacking.into_iter().map(|(missing, tables)| write_grants(facts, missing, &tables)).collect()
}

fn write_grants(facts: &Facts, missing: &[String], tables: &[&TableShape]) -> Finding {
    let role = quoted_role(facts);
    let (schema, rest): (Vec<&str>, Vec<&str>) =
        missing.iter().map(String::as_str).partition(|privilege| *privilege == "USAGE");
    let schemas: BTreeSet<String> = tables.iter().map(|table| quote_identifier(&table.schema)).collect();
    let mut grants = Vec::new();
    if !schema.is_empty() {
        let schemas: Vec<String> = schemas.into_iter().collect();
        grants.push(format!("GRANT USAGE ON SCHEMA {} TO {role};", schemas.join(", ")));
    }
    if !rest.is_empty() {
        let names: Vec<String> = tables.iter().map(|table| table.sql_name()).collect();
        grants.push(format!("GRANT {} ON {} TO {role};", rest.join(", "), names.join(", ")));
    }
    let names: Vec<String> = tables.iter().map(|table| table.shown()).collect();
    let what = format!("{} lacks {} on {}", facts.server.role, missing.join(", "), names.join(", "));
    Finding::error(CHECK, what).fix(grants.join("\n"))
}

/// Under row level security an UPDATE silently hits no row.
fn row_security(facts: &Facts, table: &TableShape) -> Option<Finding> {
    let role = &facts.server.role;
    let finding = match table.row_security {
        RowSecurity::Off => return None,
        RowSecurity::Bypassed => Finding::ok("row_security", format!("is on, and {role} sees all rows")),
        RowSecurity::Active => Finding::error("row_security", format!("hides rows from {role}"))
            .fix(format!("ALTER ROLE {} BYPASSRLS;", quoted_role(facts))),
    };
    Some(finding.about(table.shown()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_with_everything_passes() {
        let findings = check(&Facts::sample());
        assert_eq!(findings.iter().map(|finding| finding.level).collect::<Vec<_>>(), [Level::Ok]);
    }

    #[test]
    fn each_missing_privilege_comes_with_its_grant() {
        let mut facts = Facts::sample();
        facts.server.is_superuser = false;
        facts.server.may_replicate = false;
        facts.server.missing_functions = vec!["pg_replication_origin_oid(text)".to_owned()];
        facts.server.may_read_origins = false;
        facts.server.may_create = false;
        facts.replica_role = ReplicaRole::Denied;
        facts.tables = vec![TableShape {
            missing_privileges: vec!["INSERT".to_owned(), "USAGE".to_owned()],
            owned: false,
            row_security: RowSecurity::Active,
            ..TableShape::sample()
        }];
        let fixes: String =
            check(&facts).iter().filter_map(|finding| finding.fix.clone()).collect::<Vec<_>>().join("\n");
        for wanted in [
            r#"ALTER ROLE "pgc" REPLICATION"#,
            r#"GRANT EXECUTE ON FUNCTION pg_replication_origin_oid(text) TO "pgc";"#,
            r#"GRANT SELECT ON pg_catalog.pg_replication_origin_status TO "pgc";"#,
            r#"GRANT SET ON PARAMETER session_replication_role TO "pgc";"#,
            r#"GRANT CREATE ON DATABASE "shop" TO "pgc";"#,
            r#"GRANT "app" TO "pgc";"#,
            r#"GRANT USAGE ON SCHEMA "public" TO "pgc";"#,
            r#"GRANT INSERT ON "public"."t" TO "pgc";"#,
            r#"ALTER ROLE "pgc" BYPASSRLS;"#,
        ] {
            assert!(fixes.contains(wanted), "{wanted}\n{fixes}");
        }
    }

    #[test]
    fn nobody_is_made_a_member_of_a_superuser() {
        let mut facts = Facts::sample();
        facts.server.is_superuser = false;
        facts.tables = vec![TableShape { owned: false, owner_is_superuser: true, ..TableShape::sample() }];
        let findings = to_set_up(&facts);
        assert_eq!(findings.len(), 1);
        assert!(!findings[0].fix.as_deref().unwrap().contains("GRANT"));
    }

    #[test]
    fn a_table_that_is_published_already_needs_no_owner() {
        let mut facts = Facts::sample();
        facts.server.is_superuser = false;
        facts.tables = vec![TableShape { owned: false, published: true, ..TableShape::sample() }];
        assert!(to_set_up(&facts).is_empty());
    }
}
