#!/bin/sh
# Debian packages that tests need, through apt when this is root on Debian or Ubuntu. Called by `make test`.
set -eu
packages=""
PATH=$PATH:/usr/sbin  # where Debian has nginx
need() { command -v "$1" >/dev/null 2>&1 || packages="$packages $2"; }
need git git
need chromium chromium
need nginx nginx
need openssl openssl
need promtool prometheus
need prometheus-node-exporter prometheus-node-exporter

[ -n "$packages" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    apt-get update -qq
    # shellcheck disable=SC2086 # the list is meant to split
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages >/dev/null
    # Tests start their own: no daemon of these stays on a port of the machine's.
    for package in $packages; do systemctl disable --now "$package" >/dev/null 2>&1 || true; done
else
    echo "warning: tests need these packages, install them by hand:$packages" >&2
fi
