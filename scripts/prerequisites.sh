#!/bin/sh
# Say in one line what to install when a tool that the build needs is missing or too old.
#   scripts/prerequisites.sh PYTHON
set -eu
python=$1

fail() {
    echo "opendt needs $1" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 || fail "Python 3.11 or newer, and '$python' is not there: install python3 and python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Python 3.11 or newer, and '$python' is $("$python" -V 2>&1): install a newer one, then: make PYTHON=python3.11"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "Python's venv, and '$python' has none: install python3-venv"
command -v cargo >/dev/null 2>&1 || fail "Rust, and cargo is not there: install cargo and rustc (a distribution's or rustup's)"
command -v cc >/dev/null 2>&1 || fail "a C compiler, and cc is not there: install gcc"

wanted=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml)
found=$(cargo --version | cut -d ' ' -f 2)
oldest=$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1)
[ "$oldest" = "$wanted" ] || fail "Rust $wanted or newer, and cargo is $found: install a newer one (rustup has it)"
