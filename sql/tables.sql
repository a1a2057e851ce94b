-- The tables of a node, and what decides whether they can replicate. $1: the publication's name.
SELECT c.oid,
       n.nspname::text AS schema,
       c.relname::text AS name,
       c.relkind::text AS kind,
       c.relpersistence::text AS persistence,
       c.relreplident::text AS replica_identity,
       c.relispartition AS is_partition,
       EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid) AS has_children,
       EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid) AS is_child,
       EXISTS (SELECT FROM pg_depend d
               WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') AS of_extension,
       EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
               WHERE p.pubname = $1 AND r.prrelid = c.oid) AS published,
       -- has_schema_privilege first: without USAGE the other tests would fail, not answer
       has_schema_privilege(n.oid, 'USAGE') AS schema_usage,
       ARRAY(SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) p
             WHERE NOT has_table_privilege(c.oid, p)) AS missing_privileges,
       pg_has_role(c.relowner, 'USAGE') AS owned,
       pg_get_userbyid(c.relowner)::text AS owner,
       COALESCE((SELECT o.rolsuper FROM pg_roles o WHERE o.oid = c.relowner), false) AS owner_is_superuser,
       c.relrowsecurity AS row_security,
       c.relrowsecurity AND row_security_active(c.oid) AS row_security_active,
       ARRAY(SELECT x.conname::text FROM pg_constraint x
             WHERE x.conrelid = c.oid AND x.contype = 'x' ORDER BY 1) AS exclusions
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f')
  AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgconcord')
  AND n.nspname !~ '^pg_(toast|temp_)'
ORDER BY n.nspname, c.relname;
