-- Rows of the form before (JSON) cannot be published by the new relay: let the old one drain the outbox first.
DO $$
BEGIN
    IF EXISTS (SELECT FROM outbox) THEN
        RAISE EXCEPTION 'the outbox is not empty: let the version that runs publish it, stop that version, and migrate again';
    END IF;
END $$;
-- Publishing a row copies its headers into a record batch and parses nothing.
COMMENT ON COLUMN outbox.headers IS 'the headers as a Kafka record has them: their number, then each name and value with its length; weelo_common.record_batches reads and writes them';
