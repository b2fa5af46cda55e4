-- Explanations are bounded wave by wave, and the sweep finds what is old by an index.

-- Rounds of the same wave that came after the last one kept.
ALTER TABLE match_rounds ADD COLUMN left_out integer NOT NULL DEFAULT 0;
CREATE INDEX match_rounds_by_age ON match_rounds (at);

-- By when an order was first seen, which never changes: an index on updated_at would have to follow every change.
DROP INDEX orders_past_keeping;
CREATE INDEX orders_by_age ON orders (seen_at);
