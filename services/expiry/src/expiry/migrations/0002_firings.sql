-- What is on its way to Kafka: one row a batch of timers that were claimed together. It is written with the claim and
-- deleted once the brokers have acknowledged the batch, so that a timer's own row is written once, not twice.
CREATE TABLE firings (
    id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- the firedAt of the events, the same in a repeat
    fired_at  timestamptz NOT NULL,
    -- when somebody last worked on it: one that is old has nobody
    worked_at timestamptz NOT NULL,
    timer_ids bigint[]    NOT NULL,
    -- a timer that was moved meanwhile has another version, and is not fired again
    versions  integer[]   NOT NULL CHECK (cardinality(versions) = cardinality(timer_ids))
);
-- Rows live for milliseconds.
ALTER TABLE firings SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- An old process may still claim: a timer turned to 'firing' between the two statements below would never fire.
LOCK TABLE timers IN ACCESS EXCLUSIVE MODE;
INSERT INTO firings (fired_at, worked_at, timer_ids, versions)
SELECT fired_at, fired_at, array_agg(id ORDER BY id), array_agg(version ORDER BY id)
FROM timers WHERE state = 'firing' GROUP BY fired_at;
UPDATE timers SET state = 'fired' WHERE state = 'firing';

DROP INDEX timers_firing;
ALTER TABLE timers DROP COLUMN fired_at;  -- and the check of it; a tombstone's updated_at says the same
ALTER TABLE timers DROP CONSTRAINT timers_state_check;
ALTER TABLE timers ADD CONSTRAINT timers_state_check CHECK (state IN ('pending', 'fired', 'cancelled'));

-- With the id in it the index alone answers what is due soon.
DROP INDEX timers_due;
CREATE INDEX timers_due ON timers (partition, due_at, id) WHERE state = 'pending';
