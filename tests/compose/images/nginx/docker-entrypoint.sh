#!/bin/sh
# Runs /docker-entrypoint.d/*.sh in order before nginx starts, then the command.
set -e
case "$1" in
    nginx | nginx-debug)
        for script in /docker-entrypoint.d/*.sh /docker-entrypoint.d/*.envsh; do
            case "$script" in
                *.envsh) [ ! -x "$script" ] || . "$script" ;;
                *) [ ! -x "$script" ] || "$script" ;;
            esac
        done
        ;;
esac
exec "$@"
