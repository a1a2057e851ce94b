-- Sequences that give values to columns of the tables $1 (OIDs): serial, identity, or any nextval() default.
SELECT s.oid AS sequence,
       sn.nspname::text AS sequence_schema,
       s.relname::text AS sequence_name,
       a.attrelid AS relation,
       a.attname::text AS "column",
       q.seqincrement AS increment,
       q.seqmin AS min,
       q.seqmax AS max,
       q.seqcycle AS cycles,
       has_schema_privilege(sn.oid, 'USAGE') AND has_sequence_privilege(s.oid, 'SELECT') AS readable
FROM (SELECT d.objid AS sequence, d.refobjid AS relation, d.refobjsubid AS attnum
      FROM pg_depend d
      WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
        AND d.deptype = 'i' AND d.refobjsubid > 0
      UNION
      SELECT d.refobjid, f.adrelid, f.adnum
      FROM pg_attrdef f
      JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
                      AND d.refclassid = 'pg_class'::regclass) u
JOIN pg_class s ON s.oid = u.sequence AND s.relkind = 'S'
JOIN pg_namespace sn ON sn.oid = s.relnamespace
JOIN pg_sequence q ON q.seqrelid = s.oid
JOIN pg_attribute a ON a.attrelid = u.relation AND a.attnum = u.attnum
WHERE u.relation = ANY ($1)
ORDER BY 4, 5;
