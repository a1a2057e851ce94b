-- What a role needs beside REPLICATION and the tables' privileges, so that it need be no superuser.
-- Run as superuser. The functions' arguments differ between versions, hence the loop.
DO $grants$
DECLARE
    name text := @ROLE@;
    f regprocedure;
BEGIN
    FOR f IN SELECT p.oid::regprocedure FROM pg_proc p
             WHERE p.pronamespace = 'pg_catalog'::regnamespace
               AND (p.proname ~ '^pg_replication_origin_' OR p.proname = 'pg_show_replication_origin_status')
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', f, name);
    END LOOP;
    EXECUTE format('GRANT SELECT ON pg_catalog.pg_replication_origin_status TO %I', name);
    IF current_setting('server_version_num')::int >= 150000 THEN
        EXECUTE format('GRANT SET ON PARAMETER session_replication_role TO %I', name);
    END IF;
END
$grants$;
