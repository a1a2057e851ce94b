-- The types $1 (OIDs) and all that they are made of.
WITH RECURSIVE reach(type) AS (
    SELECT unnest($1::oid[])
    UNION
    SELECT p.type FROM reach r CROSS JOIN LATERAL (
        SELECT t.typbasetype FROM pg_type t WHERE t.oid = r.type AND t.typtype = 'd'
        UNION ALL
        SELECT e.oid FROM pg_type e WHERE e.typarray = r.type
        UNION ALL
        SELECT g.rngsubtype FROM pg_range g WHERE g.rngtypid = r.type
        UNION ALL
        SELECT g.rngtypid FROM pg_range g WHERE g.rngmultitypid = r.type
        UNION ALL
        SELECT a.atttypid FROM pg_type t JOIN pg_attribute a ON a.attrelid = t.typrelid
        WHERE t.oid = r.type AND t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped
    ) p(type)
)
SELECT t.oid,
       n.nspname::text AS schema,
       t.typname::text AS name,
       quote_ident(n.nspname) || '.' || quote_ident(t.typname) AS sql_name,
       t.typtype::text AS kind,
       t.typbasetype AS base,
       COALESCE((SELECT e.oid FROM pg_type e WHERE e.typarray = t.oid), 0::oid) AS element,
       COALESCE((SELECT g.rngsubtype FROM pg_range g WHERE g.rngtypid = t.oid),
                (SELECT g.rngtypid FROM pg_range g WHERE g.rngmultitypid = t.oid), 0::oid) AS bound,
       COALESCE((SELECT co.collisdeterministic FROM pg_range g JOIN pg_collation co ON co.oid = g.rngcollation
                 WHERE g.rngtypid = t.oid), true) AS deterministic,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
             WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
             ORDER BY a.attnum) AS attributes,
       ARRAY(SELECT a.atttypid FROM pg_attribute a
             WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
             ORDER BY a.attnum) AS attribute_types,
       ARRAY(SELECT COALESCE(co.collisdeterministic, true)
             FROM pg_attribute a LEFT JOIN pg_collation co ON co.oid = a.attcollation
             WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
             ORDER BY a.attnum) AS attributes_deterministic,
       ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder) AS labels,
       (SELECT x.extname::text FROM pg_depend d JOIN pg_extension x ON x.oid = d.refobjid
        WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
        AND d.refclassid = 'pg_extension'::regclass) AS extension,
       -- an equality of its own, if it has one: search_path does not reach it
       (SELECT quote_ident(om.nspname) FROM pg_operator o JOIN pg_namespace om ON om.oid = o.oprnamespace
        WHERE o.oprname = '=' AND o.oprleft = t.oid AND o.oprright = t.oid
        AND n.nspname <> 'pg_catalog' AND om.nspname <> 'pg_catalog'
        ORDER BY o.oid LIMIT 1) AS equality_schema,
       -- casts by a function, which would be taken for the type's input function
       (SELECT c.castfunc::regprocedure::text FROM pg_cast c
        WHERE c.castsource = 'text'::regtype AND c.casttarget = t.oid AND c.castfunc <> 0) AS text_cast,
       EXISTS (SELECT FROM pg_cast c
               WHERE c.castsource = 'bpchar'::regtype AND c.casttarget = t.oid AND c.castfunc <> 0) AS blank_cast
FROM reach r
JOIN pg_type t ON t.oid = r.type
JOIN pg_namespace n ON n.oid = t.typnamespace;
