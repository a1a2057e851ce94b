-- Version 2: `conflicts stats` counts from the index of `conflicts list` alone, so that holds what it groups by, too.
DROP INDEX entry_listing;
CREATE INDEX entry_listing
    ON entry (detected_at, id, relation, conflict_type, source, target, status, resolution, rule);
