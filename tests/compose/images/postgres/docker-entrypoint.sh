#!/bin/bash
# Makes the cluster at first start, as user postgres: POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB (or *_FILE),
# POSTGRES_INITDB_ARGS, then /docker-entrypoint-initdb.d/*.{sh,sql,sql.gz} in order.
set -euo pipefail

[ "${1:-}" = postgres ] || exec "$@"

if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA"
    chmod 700 "$PGDATA"
    find "$PGDATA" \! -user postgres -exec chown postgres '{}' +
    exec gosu postgres "$0" "$@"
fi

from_file() {
    local file="${1}_FILE"
    if [ -n "${!file:-}" ]; then export "$1=$(cat "${!file}")"; fi
}

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    for name in POSTGRES_USER POSTGRES_PASSWORD POSTGRES_DB POSTGRES_INITDB_ARGS; do from_file "$name"; done
    user="${POSTGRES_USER:-postgres}"
    database="${POSTGRES_DB:-$user}"
    if [ -z "${POSTGRES_PASSWORD:-}" ]; then
        echo 'Error: Database is uninitialized and superuser password is not specified: set POSTGRES_PASSWORD' >&2
        exit 1
    fi
    # shellcheck disable=SC2086 # the arguments are meant to split
    initdb --username="$user" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") ${POSTGRES_INITDB_ARGS:-}
    printf '\nhost all all all scram-sha-256\n' >> "$PGDATA/pg_hba.conf"
    pg_ctl -D "$PGDATA" -w start -o "-c listen_addresses='' -p 5432"
    query=(psql -v ON_ERROR_STOP=1 --no-psqlrc --username "$user" --no-password)
    if [ "$database" != postgres ]; then
        "${query[@]}" --dbname postgres --set name="$database" <<< 'CREATE DATABASE :"name";'
    fi
    for script in /docker-entrypoint-initdb.d/*; do
        case "$script" in
            *.sh) if [ -x "$script" ]; then "$script"; else . "$script"; fi ;;
            *.sql) "${query[@]}" --dbname "$database" -f "$script" ;;
            *.sql.gz) gunzip -c "$script" | "${query[@]}" --dbname "$database" ;;
        esac
    done
    pg_ctl -D "$PGDATA" -m fast -w stop
    echo 'PostgreSQL init process complete; ready for start up.'
fi
exec "$@"
