-- What the role `pgconcord` needs beside REPLICATION and the rights of the tables' owner. Run it as a superuser (or
-- what your provider calls its administrator) in each database that replicates, after
--
--     CREATE ROLE pgconcord LOGIN REPLICATION PASSWORD '...';
--     GRANT owner_of_the_tables TO pgconcord;

-- For the schema `pgconcord` and the publication.
DO $$
BEGIN
    EXECUTE format('GRANT CREATE ON DATABASE %I TO pgconcord', current_database());
END $$;

-- Replication origins mark what pgconcord itself has written. The functions' arguments differ between versions.
GRANT SELECT ON pg_replication_origin_status TO pgconcord;
DO $$
DECLARE
    origin_function regprocedure;
BEGIN
    FOR origin_function IN SELECT oid FROM pg_proc
        WHERE proname LIKE 'pg\_replication\_origin\_%' OR proname = 'pg_show_replication_origin_status'
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO pgconcord', origin_function);
    END LOOP;
END $$;

-- Keeps foreign keys and triggers from running a second time on rows that come from a peer. Before PostgreSQL 15
-- only a superuser may set it.
DO $$
BEGIN
    IF current_setting('server_version_num')::int >= 150000 THEN
        EXECUTE 'GRANT SET ON PARAMETER session_replication_role TO pgconcord';
    END IF;
END $$;
