-- Triggers and rules of the tables $1 (OIDs) that also fire under session_replication_role = replica.
SELECT t.tgrelid AS relation, t.tgname::text AS name, 'TRIGGER' AS kind, t.tgenabled::text AS enabled
FROM pg_trigger t
WHERE t.tgrelid = ANY ($1) AND NOT t.tgisinternal AND t.tgenabled IN ('A', 'R')
UNION ALL
SELECT w.ev_class, w.rulename::text, 'RULE', w.ev_enabled::text
FROM pg_rewrite w
WHERE w.ev_class = ANY ($1) AND w.ev_enabled IN ('A', 'R')
ORDER BY 1, 2;
