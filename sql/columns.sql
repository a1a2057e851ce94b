-- The columns of the tables $1 (OIDs), in order.
SELECT a.attrelid AS relation,
       a.attname::text AS name,
       a.atttypid AS type,
       format_type(a.atttypid, a.atttypmod) AS shown_type,
       EXISTS (
           WITH RECURSIVE under (type, modifier) AS (
               SELECT a.atttypid, a.atttypmod
               UNION ALL
               SELECT d.typbasetype, d.typtypmod FROM under JOIN pg_type d ON d.oid = under.type WHERE d.typtype = 'd'
           )
           SELECT FROM under WHERE modifier >= 0
       ) AS has_modifier,
       a.attnotnull AS not_null,
       ty.typtype = 'd' AND EXISTS (
           WITH RECURSIVE under (type) AS (
               SELECT a.atttypid
               UNION ALL
               SELECT d.typbasetype FROM under JOIN pg_type d ON d.oid = under.type WHERE d.typtype = 'd'
           )
           SELECT FROM under JOIN pg_type d ON d.oid = under.type WHERE d.typnotnull
       ) AS domain_not_null,
       -- a domain takes over the default of the one under it when it is created
       a.atthasdef OR ty.typdefault IS NOT NULL AS has_default,
       a.attgenerated::text AS generated,
       a.attidentity::text AS identity,
       -- no collation: nothing that could be nondeterministic
       COALESCE(co.collisdeterministic, true) AS deterministic
FROM pg_attribute a
JOIN pg_type ty ON ty.oid = a.atttypid
LEFT JOIN pg_collation co ON co.oid = a.attcollation
WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum;
