-- The planner may look for a customer's searching order in every index whose condition says "searching". After an
-- ANALYZE at a moment when hardly any order searched, the sweep's index seemed as good to it as the customer's own, and
-- each create then walked through all searching orders. This says the same in words that only the sweep uses.
DROP INDEX orders_overdue;
CREATE INDEX orders_overdue ON orders (expires_at) WHERE search_end IS NULL;
