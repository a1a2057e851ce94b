-- The columns of the tables $1 (OIDs), in order.
WITH RECURSIVE underlying(type, base) AS (
    SELECT DISTINCT a.atttypid, a.atttypid
    FROM pg_attribute a
    WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT u.type, t.typbasetype
    FROM underlying u
    JOIN pg_type t ON t.oid = u.base AND t.typtype = 'd'
)
SELECT a.attrelid AS relation,
       a.attname::text AS name,
       quote_ident(tn.nspname) || '.' || quote_ident(t.typname) AS sql_type,
       format_type(a.atttypid, a.atttypmod) AS shown_type,
       bn.nspname::text AS base_schema,
       b.typname::text AS base_name,
       b.typtype::text AS base_kind,
       a.attnotnull AS not_null,
       a.attgenerated::text AS generated,
       a.attidentity::text AS identity,
       -- no collation: nothing that could be nondeterministic
       COALESCE(co.collisdeterministic, true) AS deterministic,
       ARRAY(SELECT e.enumlabel::text FROM pg_enum e
             WHERE e.enumtypid = b.oid ORDER BY e.enumsortorder) AS enum_labels
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
JOIN pg_namespace tn ON tn.oid = t.typnamespace
JOIN underlying u ON u.type = a.atttypid
JOIN pg_type b ON b.oid = u.base AND b.typtype <> 'd'
JOIN pg_namespace bn ON bn.oid = b.typnamespace
LEFT JOIN pg_collation co ON co.oid = a.attcollation
WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum;
