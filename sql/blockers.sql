-- The oldest transactions that are still running and have written: what the creation of a slot waits for.
-- By way of pg_locks, which every role may read whole.
SELECT l.pid,
       l.transactionid::text AS xid,
       a.usename::text AS role,
       a.datname::text AS database,
       date_trunc('second', a.xact_start)::text AS since,
       left(a.query, 120) AS query,
       p.gid,
       date_trunc('second', p.prepared)::text AS prepared
FROM pg_locks l
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
LEFT JOIN pg_prepared_xacts p ON p.transaction = l.transactionid
WHERE l.locktype = 'transactionid'
  AND l.mode = 'ExclusiveLock'
  AND l.granted
  AND l.pid IS DISTINCT FROM pg_backend_pid()
ORDER BY age(l.transactionid) DESC
LIMIT 3;
