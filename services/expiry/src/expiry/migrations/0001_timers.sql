-- The timers of every service. One row a timer key: a pending timer, or the tombstone that keeps its version.
CREATE TABLE timers (
    -- firing claims and marks rows by id: a bigint claims twice as many a second as the text key
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    timer_key   text        NOT NULL UNIQUE,
    version     integer     NOT NULL CHECK (version >= 1),
    -- the partition of timers.commands.v1 that the last command came by: who owns it, fires the timer
    partition   integer     NOT NULL CHECK (partition >= 0),
    state       text        NOT NULL CHECK (state IN ('pending', 'firing', 'fired', 'cancelled')),
    -- null in the tombstone of a timer that was cancelled before it was ever scheduled
    owner       text,
    due_at      timestamptz,
    -- json, not jsonb: the owner gets back what it sent, and jsonb refuses some of it
    payload     json,
    order_id    text,
    traceparent text,
    -- when it was claimed for firing: the firedAt of its event, the same in a repeat
    fired_at    timestamptz,
    -- when the row last changed: the age of a tombstone, and of a firing that nobody finished
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (state = 'cancelled' OR (owner IS NOT NULL AND due_at IS NOT NULL AND payload IS NOT NULL)),
    CHECK (state <> 'firing' OR fired_at IS NOT NULL)
);

CREATE INDEX timers_due ON timers (partition, due_at) WHERE state = 'pending';
CREATE INDEX timers_firing ON timers (partition, id) WHERE state = 'firing';
CREATE INDEX timers_tombstones ON timers (updated_at) WHERE state IN ('fired', 'cancelled');

-- Rows come and go within minutes: without this the due index drags its dead entries along for too long.
ALTER TABLE timers SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
                        autovacuum_analyze_scale_factor = 0.05);
