#!/bin/sh
# Write requirements.txt (to run) and requirements-dev.txt (to work on it) from pyproject.toml: pinned, with hashes, and
# without the address of any index, so that they work behind any mirror.
#   scripts/lock.sh UV [--upgrade]
set -eu
uv=$1
shift

lock() {
    output=$1
    shift
    "$uv" pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
        --custom-compile-command 'make lock' --output-file "$output" "$@"
    if grep -n '://' "$output" >&2; then
        echo "$output names an address" >&2
        exit 1
    fi
}

lock requirements.txt --group build "$@"
lock requirements-dev.txt --constraint requirements.txt --group build --group lint --group test --group bench --group lock "$@"
