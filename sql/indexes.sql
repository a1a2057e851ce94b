-- The unique indexes of the tables $1 (OIDs).
SELECT i.indrelid AS relation,
       c.relname::text AS name,
       k.conname::text AS "constraint",
       i.indisprimary AS is_primary,
       i.indisreplident AS is_identity,
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
                       WHERE NOT o.opcdefault AND o.opcname !~ '_pattern_ops$') AS plain_equality
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.contype IN ('p', 'u')
WHERE i.indrelid = ANY ($1) AND i.indisunique
ORDER BY i.indrelid, NOT i.indisprimary, c.relname;
