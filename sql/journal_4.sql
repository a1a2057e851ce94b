-- Version 4: what waits for a person is counted by row, since each link has an entry of its own about one conflict, and
-- found by row when it is decided.
CREATE INDEX entry_held ON entry (relation, key) WHERE status = 'held';
