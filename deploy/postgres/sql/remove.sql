-- The statements that remove what provision.sql made under weelo.prefix, read and run in the same way.
-- Ends every connection to those databases. For tests, whose databases live for one test.
WITH name (text) AS (
    SELECT current_setting('weelo.prefix') || 'weelo_' || name
      FROM (VALUES ('order_api'), ('dispatcher'), ('notifier'), ('expiry'), ('ledger')) AS service (name)
), statement (step, text) AS (
    SELECT 1, format('DROP DATABASE IF EXISTS %I WITH (FORCE)', text) FROM name
    UNION ALL
    SELECT 2, format('DROP ROLE IF EXISTS %I', text) FROM name
)
SELECT text FROM statement ORDER BY step, text
\gexec
