-- What pgconcord keeps at a node. Created by `pgconcord setup`, dropped by `pgconcord teardown`.

CREATE SCHEMA IF NOT EXISTS pgconcord;

-- How far each source has been applied here. Changed by compare-and-set in the transaction of each batch, and
-- read again after every connect: the one truth about what this node has.
CREATE TABLE IF NOT EXISTS pgconcord.progress (
    cluster    text        NOT NULL,          -- [cluster] name
    source     text        NOT NULL,          -- name of the node that the changes come from
    system_id  text        NOT NULL,          -- its system identifier
    timeline   integer     NOT NULL,          -- its timeline
    lsn        pg_lsn      NOT NULL,          -- all its transactions that end at or before this are applied here
    batch      bigint      NOT NULL,          -- counts the batches of this link; settles journal entries
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (cluster, source)
);

-- Where the daemon starts to read each node's stream: a cut through all logs before which nothing is needed any more.
-- Written before any slot is told, because slots move one by one, and what an author had seen comes back whole only
-- from a cut (docs/design.md, R5).
CREATE TABLE IF NOT EXISTS pgconcord.cut (
    cluster    text        NOT NULL,          -- [cluster] name
    node       text        NOT NULL,          -- node whose log it is a position in
    lsn        pg_lsn      NOT NULL,          -- everything before it is applied everywhere and forgotten
    settled    pg_lsn      NOT NULL,          -- what our commits up to here applied there is not decided again
    seen       jsonb       NOT NULL,          -- by source: what it had applied by lsn
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (cluster, node)
);

-- How conflicts of each table were resolved last: what is under way must not be decided by two resolvers.
CREATE TABLE IF NOT EXISTS pgconcord.rules (
    cluster    text        NOT NULL,          -- [cluster] name
    relation   text        NOT NULL,          -- schema.table
    resolver   text        NOT NULL,          -- as the rule gives it
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (cluster, relation)
);

-- What this node refused of its peers' changes and a rule lets it do without (errors = "hold"): for each row the values
-- that it should have. Written in the transaction of the batch that goes on without it; gone once the row is written.
CREATE TABLE IF NOT EXISTS pgconcord.held (
    id         bigint      GENERATED ALWAYS AS IDENTITY,
    cluster    text        NOT NULL,          -- [cluster] name
    relation   text        NOT NULL,          -- schema.table
    key        text[]      NOT NULL,          -- the key's values, in key order
    home       text        NOT NULL,          -- name of the node where the change was made
    stamp      bigint      NOT NULL,          -- when it committed there, by its clock: µs since 2000
    lsn        pg_lsn      NOT NULL,          -- and where
    xid        bigint      NOT NULL,          -- its transaction there
    columns    text[],                        -- the row's columns; NULL: it should not be there
    cells      text[],                        -- and their values
    error      text        NOT NULL,          -- what this server said
    at         pg_lsn      NOT NULL DEFAULT pg_current_wal_insert_lsn(),   -- what commits here later has seen the change
    held_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (cluster, relation, key)
);
