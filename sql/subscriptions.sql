-- Other subscriptions of this database that write into the tables $1 (OIDs).
SELECT r.srrelid AS relation, s.subname::text AS subscription
FROM pg_subscription_rel r
JOIN pg_subscription s ON s.oid = r.srsubid
WHERE r.srrelid = ANY ($1)
ORDER BY 1, 2;
