-- The columns of the tables $1 (OIDs), in order.
SELECT a.attrelid AS relation,
       a.attname::text AS name,
       a.atttypid AS type,
       format_type(a.atttypid, a.atttypmod) AS shown_type,
       a.attnotnull AS not_null,
       a.atthasdef AS has_default,
       a.attgenerated::text AS generated,
       a.attidentity::text AS identity,
       -- no collation: nothing that could be nondeterministic
       COALESCE(co.collisdeterministic, true) AS deterministic
FROM pg_attribute a
LEFT JOIN pg_collation co ON co.oid = a.attcollation
WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum;
