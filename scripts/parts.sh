#!/bin/sh
# Install the real programs that tests use, as far as this machine allows.
#   OPENDT_REQUIRE_PARTS=1: end with an error when one cannot be had, instead of leaving its tests to skip.
#
#   Chromium   draws the report, for the test that looks at it
set -u
missing=0

lacks() {
    echo "parts: no $1: $2; the tests that need it are skipped" >&2
    missing=1
}

if command -v chromium >/dev/null 2>&1; then
    echo "parts: chromium is here"
elif ! command -v apt-get >/dev/null 2>&1; then
    lacks chromium "this system has no apt-get; install it by hand"
elif [ "$(id -u)" -ne 0 ]; then
    lacks chromium "only root can install it: sudo apt-get install chromium"
else
    echo "parts: installing chromium"
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    if { apt-get update && apt-get install --yes --no-install-recommends chromium fonts-dejavu-core; } >"$log" 2>&1; then
        echo "parts: chromium is here"
    else
        tail -n 3 "$log" >&2
        lacks chromium "apt-get could not install it"
    fi
    rm -f "$log"
fi

[ "$missing" -eq 0 ] || [ "${OPENDT_REQUIRE_PARTS:-0}" != 1 ]
