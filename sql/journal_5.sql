-- Version 5: less to write for an entry. Its status, which changes once for every entry, leaves the index of
-- `conflicts list`: what is pending or held has small indexes of its own, and the rest is resolved. The numbers of
-- entry_count are added up before they are written. The keys, which come in no order, are taken into key_cell many at a
-- time.
DROP INDEX entry_listing;
CREATE INDEX entry_listing ON entry (detected_at, id, relation, conflict_type, source, target, resolution, rule);

DROP TRIGGER entry_counted;
DROP TRIGGER entry_inserted;

-- `conflicts list --status held`, in its order.
CREATE INDEX entry_held_listing ON entry (detected_at, id) WHERE status = 'held';

-- One row: key_cell has the keys of the entries up to this one. It is incomplete without the keys of those beyond.
CREATE TABLE keyed (up_to INTEGER NOT NULL) STRICT;
INSERT INTO keyed SELECT coalesce(max(id), 0) FROM entry;
