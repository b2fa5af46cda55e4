-- The statements that give each service a database and a role of its own, one statement a row, in order.
--
-- This one query is all there is. psql runs each row (the \gexec at the end); deploy/local reads this same file,
-- runs the query and then each row. The caller sets beforehand, for its session, with set_config():
--   weelo.prefix                 before every name, '' normally (tests use it for fresh databases)
--   weelo.password_order_api, weelo.password_dispatcher, weelo.password_notifier, weelo.password_expiry,
--   weelo.password_ledger        the roles' passwords
-- May run again: it makes what is missing and sets passwords, limits and grants anew.
WITH service (name) AS (
    VALUES ('order_api'), ('dispatcher'), ('notifier'), ('expiry')
), role (name, password, statement_timeout, read_only) AS (
    SELECT current_setting('weelo.prefix') || 'weelo_' || name,
           current_setting('weelo.password_' || name),
           '10s',  -- reliability rule 7: a frozen process must not hold a row for ever
           'off'
      FROM service
    UNION ALL
    SELECT current_setting('weelo.prefix') || 'weelo_ledger',
           current_setting('weelo.password_ledger'),
           '60s',  -- it reads whole tables
           'on'
), database (name) AS (
    SELECT current_setting('weelo.prefix') || 'weelo_' || name FROM service
), statement (step, subject, text) AS (
    SELECT 1, name, format('CREATE ROLE %I', name)
      FROM role WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role.name)
    UNION ALL
    SELECT 2, name, format('ALTER ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD %L', name, password)
      FROM role
    UNION ALL
    SELECT 3, name, format('ALTER ROLE %I SET statement_timeout = %L', name, statement_timeout) FROM role
    UNION ALL
    SELECT 3, name, format('ALTER ROLE %I SET lock_timeout = %L', name, '5s') FROM role
    UNION ALL
    SELECT 3, name, format('ALTER ROLE %I SET idle_in_transaction_session_timeout = %L', name, '10s') FROM role
    UNION ALL
    SELECT 3, name, format('ALTER ROLE %I SET default_transaction_read_only = %L', name, read_only) FROM role
    UNION ALL
    -- A role that is no superuser must be a member of the owner to give a database away.
    SELECT 4, name, format('GRANT %I TO CURRENT_USER', name)
      FROM database
     WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = current_user AND rolsuper)
    UNION ALL
    SELECT 5, name, format('CREATE DATABASE %I OWNER %I', name, name)
      FROM database WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = database.name)
    UNION ALL
    SELECT 6, name, format('REVOKE ALL ON DATABASE %I FROM PUBLIC', name) FROM database
    UNION ALL
    SELECT 7, database.name, format('GRANT CONNECT ON DATABASE %I TO %I', database.name, role.name)
      FROM database, role WHERE role.read_only = 'on'
    UNION ALL
    SELECT 8, name, format('GRANT pg_read_all_data TO %I', name) FROM role WHERE read_only = 'on'
)
SELECT text FROM statement ORDER BY step, subject, text
\gexec
