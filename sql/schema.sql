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
