//! The role that README.md tells people to create: no superuser.

use super::servers;

/// Creates `pgconcord` with what it needs, and no more, in a database whose tables `shop_owner` owns.
pub fn ordinary_role() -> String {
    let password = servers().password();
    let grants = include_str!("../../sql/role.sql");
    format!(
        "CREATE ROLE shop_owner;
         ALTER TABLE item OWNER TO shop_owner;
         ALTER TABLE marker OWNER TO shop_owner;
         CREATE ROLE pgconcord LOGIN REPLICATION PASSWORD '{password}';
         GRANT shop_owner TO pgconcord;
         GRANT CREATE ON DATABASE shop TO pgconcord;
         {grants}"
    )
}
