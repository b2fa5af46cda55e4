-- Publishing a row copies its headers into a record batch and parses nothing.
COMMENT ON COLUMN outbox.headers IS 'the headers as a Kafka record has them: their number, then each name and value with its length; weelo_common.record_batches reads and writes them';
