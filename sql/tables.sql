-- The tables of a node, and what decides whether they can replicate. $1: the publication's name.
SELECT c.oid,
       n.nspname::text AS schema,
       c.relname::text AS name,
       c.relkind::text AS kind,
       c.relpersistence::text AS persistence,
       c.relreplident::text AS replica_identity,
       -- of a partition: what it is a part of, at every level
       ARRAY(SELECT a.relid::oid FROM pg_partition_ancestors(c.oid) a WHERE a.relid <> c.oid) AS partition_of,
       -- of a partitioned table: what its leaves are
       COALESCE((SELECT jsonb_agg(jsonb_build_object('name', format('%I.%I', ln.nspname, l.relname), 'kind', l.relkind,
                                                     'persistence', l.relpersistence, 'identity', l.relreplident))
                 FROM pg_partition_tree(c.oid) t JOIN pg_class l ON l.oid = t.relid
                 JOIN pg_namespace ln ON ln.oid = l.relnamespace
                 WHERE c.relkind = 'p' AND t.isleaf AND l.oid <> c.oid), '[]') ::text AS leaves,
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
       c.relrowsecurity AND row_security_active(c.oid) AS row_security_active
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f')
  AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgconcord')
  AND n.nspname !~ '^pg_(toast|temp_)'
ORDER BY n.nspname, c.relname;
