-- What doctor wants to know of a server and of the connected role, in one row. $1: the cluster's slot.
SELECT current_setting('server_version_num')::int AS version,
       current_setting('server_version') AS version_text,
       current_database()::text AS database,
       (SELECT system_identifier::text FROM pg_control_system()) AS system_id,
       pg_postmaster_start_time()::text AS started,
       pg_is_in_recovery() AS in_recovery,
       current_setting('wal_level') AS wal_level,
       current_setting('track_commit_timestamp') = 'on' AS track_commit_timestamp,
       current_setting('max_replication_slots')::int AS max_replication_slots,
       (SELECT count(*)::int FROM pg_replication_slots) AS slots_used,
       EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1) AS slot_exists,
       (SELECT count(*)::int FROM pg_replication_slots WHERE slot_type = 'physical') AS physical_slots,
       current_setting('max_wal_senders')::int AS max_wal_senders,
       (SELECT count(*)::int FROM pg_stat_replication) AS senders_used,
       EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1 AND active) AS slot_active,
       -- from 18 on origins have a limit of their own
       COALESCE(current_setting('max_active_replication_origins', true),
                current_setting('max_replication_slots'))::int AS max_origins,
       (SELECT count(*)::int FROM pg_replication_origin) AS origins_used,
       (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS max_slot_wal_keep_mb,
       current_setting('synchronous_standby_names') AS synchronous_standby_names,
       current_setting('max_prepared_transactions')::int AS max_prepared_transactions,
       ARRAY(SELECT format('%s (since %s)', gid, date_trunc('second', prepared)) FROM pg_prepared_xacts
             WHERE prepared < now() - interval '10 minutes' ORDER BY prepared) AS old_prepared,
       pg_encoding_to_char(d.encoding)::text AS encoding,
       r.rolname::text AS role,
       r.rolsuper AS is_superuser,
       r.rolreplication
       -- managed services give replication by membership
       OR EXISTS (SELECT FROM pg_roles m WHERE m.rolname IN ('rds_replication', 'rds_superuser')
                  AND pg_has_role(r.oid, m.oid, 'USAGE')) AS may_replicate,
       has_database_privilege(current_database(), 'CREATE') AS may_create,
       ARRAY(SELECT p.oid::regprocedure::text FROM pg_proc p
             WHERE p.pronamespace = 'pg_catalog'::regnamespace
               AND p.proname IN ('pg_replication_origin_create', 'pg_replication_origin_drop',
                                 'pg_replication_origin_oid', 'pg_replication_origin_session_setup',
                                 'pg_replication_origin_session_reset', 'pg_replication_origin_xact_setup',
                                 'pg_show_replication_origin_status')
               AND NOT has_function_privilege(p.oid, 'EXECUTE') ORDER BY 1) AS missing_functions,
       has_table_privilege('pg_catalog.pg_replication_origin_status', 'SELECT') AS may_read_origins,
       CASE WHEN to_regclass('pgconcord.progress') IS NULL THEN NULL
            WHEN NOT has_schema_privilege('pgconcord', 'USAGE') THEN ARRAY['USAGE']
            ELSE ARRAY(SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p
                       WHERE NOT has_table_privilege('pgconcord.progress', p)) END AS missing_on_progress
FROM pg_roles r, pg_database d
WHERE r.rolname = current_user AND d.datname = current_database();
