#!/bin/sh
# Runs what is executable in /docker-entrypoint.d before nginx starts, by name in upstream's order (`sort -V`): *.sh as
# programs, *.envsh sourced, so that what they export is there for those after them. Then the command.
set -e
case "$1" in
    nginx | nginx-debug)
        find /docker-entrypoint.d/ -follow -type f | sort -V | while read -r script; do
            if [ ! -x "$script" ]; then
                echo "$0: Ignoring $script, not executable"
                continue
            fi
            case "$script" in
                *.envsh) . "$script" ;;
                *.sh) "$script" ;;
            esac
        done
        ;;
esac
exec "$@"
