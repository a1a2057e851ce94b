-- The unique indexes and exclusion constraints of the tables $1 (OIDs).
SELECT i.indrelid AS relation,
       c.relname::text AS name,
       k.conname::text AS "constraint",
       i.indisprimary AS is_primary,
       i.indisreplident AS is_identity,
       i.indisexclusion AS is_exclusion,
       i.indimmediate AS immediate,
       i.indisvalid AS valid,
       i.indpred IS NOT NULL AS partial,
       i.indexprs IS NOT NULL AS expression,
       -- the column is there from 15 on
       COALESCE((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false) AS nulls_not_distinct,
       pg_get_indexdef(i.indexrelid) AS definition,
       ARRAY(SELECT a.attname::text
             FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, place)
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
             WHERE k.place <= i.indnkeyatts
             ORDER BY k.place) AS columns,
       -- equal by the index exactly when equal by the type and byte for byte
       NOT EXISTS (SELECT FROM unnest(i.indcollation::oid[]) x(oid) JOIN pg_collation co ON co.oid = x.oid
                   WHERE NOT co.collisdeterministic)
       AND NOT EXISTS (SELECT FROM unnest(i.indclass::oid[]) x(oid) JOIN pg_opclass o ON o.oid = x.oid
                       WHERE NOT o.opcdefault AND o.opcname !~ '_pattern_ops$') AS plain_equality,
       -- what two rows must not both have: each key's expression, the operator between the two, its collation
       ARRAY(SELECT pg_get_indexdef(i.indexrelid, n, false) FROM generate_series(1, i.indnkeyatts) n ORDER BY n) AS keys,
       ARRAY(SELECT format('OPERATOR(%I.%s)', om.nspname, o.oprname)
             FROM generate_series(1, i.indnkeyatts) n
             JOIN pg_opclass oc ON oc.oid = i.indclass[n - 1]
             LEFT JOIN pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amopstrategy = 3
                  AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
             JOIN pg_operator o ON o.oid = CASE WHEN i.indisexclusion THEN k.conexclop[n] ELSE ao.amopopr END
             JOIN pg_namespace om ON om.oid = o.oprnamespace
             ORDER BY n) AS operators,
       ARRAY(SELECT (SELECT format('%I.%I', cm.nspname, co.collname)
                     FROM pg_collation co JOIN pg_namespace cm ON cm.oid = co.collnamespace
                     WHERE co.oid = i.indcollation[n - 1])
             FROM generate_series(1, i.indnkeyatts) n ORDER BY n) AS collations,
       pg_get_expr(i.indpred, i.indrelid) AS predicate,
       -- every column that it looks at
       ARRAY(SELECT DISTINCT a.attname::text
             FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
             WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
             AND d.objid = i.indexrelid AND d.refobjid = i.indrelid AND d.refobjsubid > 0
             UNION
             -- columns of a constraint's index hang on the constraint
             SELECT a.attname::text FROM unnest(i.indkey::int2[]) x(attnum)
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = x.attnum
             UNION
             SELECT a.attname::text
             FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
             WHERE d.classid = 'pg_constraint'::regclass AND d.objid = k.oid
             AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid > 0
             ORDER BY 1) AS looks_at
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')
WHERE i.indrelid = ANY ($1) AND (i.indisunique OR i.indisexclusion)
ORDER BY i.indrelid, NOT i.indisprimary, c.relname;
