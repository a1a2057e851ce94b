//! The role that README.md tells people to create: no superuser.

use super::servers;

/// Creates `pgconcord` with what it needs, and no more, in a database whose tables `shop_owner` owns.
pub fn ordinary_role(major: u64) -> String {
    let password = servers().password();
    let set = if major >= 15 { "GRANT SET ON PARAMETER session_replication_role TO pgconcord;" } else { "" };
    format!(
        "CREATE ROLE shop_owner;
         ALTER TABLE item OWNER TO shop_owner;
         ALTER TABLE marker OWNER TO shop_owner;
         CREATE ROLE pgconcord LOGIN REPLICATION PASSWORD '{password}';
         GRANT shop_owner TO pgconcord;
         GRANT CREATE ON DATABASE shop TO pgconcord;
         GRANT SELECT ON pg_replication_origin_status TO pgconcord;
         {set}
         DO $$ DECLARE f regprocedure; BEGIN
             FOR f IN SELECT oid::regprocedure FROM pg_proc WHERE proname LIKE 'pg_replication_origin%' LOOP
                 EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO pgconcord', f);
             END LOOP;
         END $$;"
    )
}
