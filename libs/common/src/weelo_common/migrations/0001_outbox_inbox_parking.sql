-- The mechanisms every service has in its own database: outbox, inbox, parking.

-- Events that wait to be published. Rows of one key are in commit order, because the aggregate's row is locked
-- (or inserted) before the event is appended. The relay deletes a row once Kafka has acknowledged it.
CREATE TABLE outbox (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic       text NOT NULL,
    key         text NOT NULL,
    event_id    text NOT NULL,
    headers     bytea NOT NULL,      -- JSON object of text
    payload     bytea NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 10000);

-- Who may relay. The term goes up with each owner, and the relay's delete checks it: a stale owner deletes nothing.
CREATE TABLE outbox_lease (
    only_row    boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    owner       text NOT NULL DEFAULT '',
    term        bigint NOT NULL DEFAULT 0,
    expires_at  timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO outbox_lease DEFAULT VALUES;

-- Events already handled. The day is that of the event's own time, so that a repeat meets the row of its first
-- coming in whichever partition that is; days are dropped whole. Odd days land in the default partition.
CREATE TABLE inbox (
    day         date NOT NULL,
    consumer    text NOT NULL,
    event_id    text NOT NULL,
    PRIMARY KEY (day, consumer, event_id)
) PARTITION BY RANGE (day);
CREATE TABLE inbox_default PARTITION OF inbox DEFAULT;

-- Keys whose event could not be applied: this and every later event of the key wait here, in order.
CREATE TABLE parked_key (
    consumer    text NOT NULL,
    key         text NOT NULL,
    reason      text NOT NULL,
    parked_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, key)
);
CREATE TABLE parked (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer    text NOT NULL,
    key         text NOT NULL,
    topic       text NOT NULL,
    partition   integer NOT NULL,
    "offset"    bigint NOT NULL,
    event_id    text NOT NULL,
    received_at timestamptz NOT NULL,
    headers     bytea NOT NULL,
    payload     bytea NOT NULL,
    parked_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX parked_in_order ON parked (consumer, key, id);
