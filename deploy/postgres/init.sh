#!/bin/sh
# For the postgres container: mount this folder at /docker-entrypoint-initdb.d (the entrypoint runs this file, once,
# on an empty data folder, and leaves sql/ alone) or run it by hand against any server that psql's PG* variables name. May run again.
# Passwords come from the environment, one for each role; a missing one stops with its name.
set -eu

sql="$(dirname "$0")/sql/provision.sql"

for name in ORDER_API DISPATCHER NOTIFIER EXPIRY LEDGER; do
    if ! printenv "WEELO_PASSWORD_$name" | grep -q .; then
        echo "$0: WEELO_PASSWORD_$name is not set" >&2
        exit 2
    fi
done

# psql takes the passwords from its environment: everybody may read a command line.
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 \
    --username="${POSTGRES_USER:-${PGUSER:-postgres}}" --dbname="${POSTGRES_DB:-${PGDATABASE:-postgres}}" \
    --set=prefix="${WEELO_PREFIX:-}" \
    --set=sql="$sql" <<'SQL'
\getenv order_api WEELO_PASSWORD_ORDER_API
\getenv dispatcher WEELO_PASSWORD_DISPATCHER
\getenv notifier WEELO_PASSWORD_NOTIFIER
\getenv expiry WEELO_PASSWORD_EXPIRY
\getenv ledger WEELO_PASSWORD_LEDGER
\set QUIET on
\o /dev/null
SELECT set_config('weelo.prefix', :'prefix', false),
       set_config('weelo.password_order_api', :'order_api', false),
       set_config('weelo.password_dispatcher', :'dispatcher', false),
       set_config('weelo.password_notifier', :'notifier', false),
       set_config('weelo.password_expiry', :'expiry', false),
       set_config('weelo.password_ledger', :'ledger', false);
\o
\i :sql
SQL
