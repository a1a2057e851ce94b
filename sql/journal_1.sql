-- The conflict journal (SQLite), version 1. Applied by pgconcord when it opens the file; read it with any SQLite
-- client, write it with none. Times are microseconds since 1970-01-01 00:00 UTC. Rows and keys are JSON objects by
-- column name: a value is a string, NULL is null, {"unchanged": true} is a TOASTed value that the source did not
-- send, {"bytes": "hex"} a value that is no UTF-8 text.

CREATE TABLE relation (
    id          INTEGER PRIMARY KEY,
    schema_name TEXT NOT NULL,
    table_name  TEXT NOT NULL,
    UNIQUE (schema_name, table_name)
) STRICT;

CREATE TABLE entry (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,   -- what `conflicts show` takes; never given out twice
    source           TEXT    NOT NULL,                    -- node that the change came from
    target           TEXT    NOT NULL,                    -- node where it met another
    batch            INTEGER NOT NULL,                    -- of the link; settled once the target has that batch
    detected_at      INTEGER NOT NULL,
    conflict_type    TEXT    NOT NULL,
    relation         INTEGER NOT NULL REFERENCES relation (id),
    key              TEXT    NOT NULL,
    resolution       TEXT    NOT NULL,                    -- what was done
    resolver         TEXT    NOT NULL,                    -- what decided, such as last_update_wins
    rule             TEXT    NOT NULL,                    -- the rule of conflict-rules/ that named the resolver
    status           TEXT    NOT NULL,                    -- pending, resolved or held
    note             TEXT,
    remote_stamp     INTEGER NOT NULL,                    -- commit time by the source's clock
    remote_node      TEXT    NOT NULL,
    remote_lsn       TEXT    NOT NULL,
    remote_offset    INTEGER NOT NULL,                    -- which change of the transaction
    remote_xid       INTEGER NOT NULL,
    remote_operation TEXT    NOT NULL,
    remote_row       TEXT,
    remote_old       TEXT,
    local_operation  TEXT,                                -- NULL: nothing is known of the local side
    local_stamp      INTEGER,
    local_node       TEXT,
    local_row        TEXT,
    result           TEXT,                                -- the row afterwards; NULL: there is none
    UNIQUE (target, source, remote_lsn, remote_offset, relation, key)
) STRICT;

-- `conflicts list` walks this backwards and stops at its limit; it holds every column that a filter may ask for, so
-- that a filter that matches little reads this compact index and not the rows.
CREATE INDEX entry_listing ON entry (detected_at, id, relation, conflict_type, source, target, status);

-- What settling and discarding look for.
CREATE INDEX entry_pending ON entry (source, target, batch) WHERE status = 'pending';

-- One row a key column, for `conflicts list --key`.
CREATE TABLE key_cell (
    value TEXT    NOT NULL,
    name  TEXT    NOT NULL,
    entry INTEGER NOT NULL,
    PRIMARY KEY (value, name, entry)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER entry_inserted AFTER INSERT ON entry BEGIN
    INSERT INTO key_cell (value, name, entry)
    SELECT cell.value, cell.key, NEW.id FROM json_each(NEW.key) AS cell WHERE cell.type = 'text';
END;

CREATE TRIGGER entry_deleted AFTER DELETE ON entry BEGIN
    DELETE FROM key_cell
    WHERE (value, name, entry) IN (
        SELECT cell.value, cell.key, OLD.id FROM json_each(OLD.key) AS cell WHERE cell.type = 'text');
END;
