#!/bin/sh
# Install the real programs that tests use, as far as this machine allows; what is there already is left alone.
#   OPENDT_REQUIRE_PARTS=1: end with an error when one cannot be had, instead of leaving its tests to skip.
#   PYTHON: interpreter (>= 3.11) for the fetching of Kafka and the building of Kubernetes; python3 unless given.
#
#   Chromium      draws the report, for the test that looks at it
#   Kafka         the broker that streams come from: Java 17 or newer runs it, Maven gets its jars (see scripts/kafka.py)
#   Kubernetes    control planes and kubelet, which Go builds (minutes, once; see scripts/fleet)
#   containers    containerd, runc, CNI and qemu-user, for real nodes; they need root
#   OpenSSL       makes certificates: the broker's, for the tests of TLS, and those of control planes
#   ShellCheck    reads the shell scripts
#   PostgreSQL    the server that the ledger may live in (see scripts/postgres.py)
set -u
cd "$(dirname "$0")/.." || exit 1
missing=0
apt_is_fresh=no
export DEBIAN_FRONTEND=noninteractive

lacks() {
    echo "parts: no $1: $2; the tests that need it are skipped" >&2
    missing=1
}

has_java() {
    version=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1)
    [ "${version:-0}" -ge 17 ]
}

has_postgres() {
    command -v initdb >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1
}

# install NAME PACKAGE...: what to call it, and what to ask apt for
install() {
    name=$1
    shift
    if ! command -v apt-get >/dev/null 2>&1; then
        lacks "$name" "this system has no apt-get; install it by hand"
        return 1
    elif [ "$(id -u)" -ne 0 ]; then
        lacks "$name" "only root can install it: sudo apt-get install $*"
        return 1
    fi
    echo "parts: installing $name"
    log=$(mktemp)
    if { [ "$apt_is_fresh" = yes ] || apt-get update; } >"$log" 2>&1 && apt_is_fresh=yes &&
        apt-get install --yes --no-install-recommends "$@" >>"$log" 2>&1; then
        rm -f "$log"
        return 0
    fi
    tail -n 3 "$log" >&2
    rm -f "$log"
    lacks "$name" "apt-get could not install it"
    return 1
}

# Debian makes a database and starts a server on installing one; tests start their own.
install_postgres() {
    quiet=/etc/postgresql-common/createcluster.d/opendt.conf
    if [ "$(id -u)" -eq 0 ]; then
        mkdir -p "${quiet%/*}"
        echo "create_main_cluster = false" >"$quiet"
    fi
    install PostgreSQL postgresql
    done=$?
    [ "$(id -u)" -ne 0 ] || rm -f "$quiet"
    return $done
}

fetch_kafka() {
    said=$("${PYTHON:-python3}" -m scripts.kafka --fetch 2>&1) && return 0
    echo "$said" | tail -n 5 >&2
    lacks Kafka "its jars could not be had"
    return 1
}

build_fleet() {
    said=$("${PYTHON:-python3}" -m scripts.fleet build 2>&1) && return 0
    echo "$said" | tail -n 8 >&2
    lacks Kubernetes "it could not be built"
    return 1
}

install_containers() {
    install containers containerd runc containernetworking-plugins qemu-user-static iproute2 util-linux
}

has_containers() {
    for program in containerd ctr runc ip nsenter unshare qemu-aarch64-static qemu-riscv64-static; do
        command -v "$program" >/dev/null 2>&1 || return 1
    done
    [ -x /usr/lib/cni/bridge ]
}

if command -v chromium >/dev/null 2>&1 || install Chromium chromium fonts-dejavu-core; then
    echo "parts: Chromium is here"
fi
if { has_java || install Java default-jre-headless; } && { command -v mvn >/dev/null 2>&1 || install Maven maven; }; then
    if ! has_java; then
        lacks Kafka "it needs Java 17 or newer, and this is $(java -version 2>&1 | head -n 1)"
    elif fetch_kafka; then
        echo "parts: Kafka is here"
    fi
fi
if has_containers || { install_containers && has_containers; }; then
    echo "parts: containers are here"
fi
if command -v go >/dev/null 2>&1; then
    if build_fleet; then
        echo "parts: Kubernetes is here"
    fi
else
    lacks Kubernetes "Go builds it, and there is no go"
fi
if command -v openssl >/dev/null 2>&1 || install OpenSSL openssl; then
    echo "parts: OpenSSL is here"
fi
if command -v shellcheck >/dev/null 2>&1 || install ShellCheck shellcheck; then
    echo "parts: ShellCheck is here"
fi
if has_postgres || install_postgres; then
    echo "parts: PostgreSQL is here"
fi

[ "$missing" -eq 0 ] || [ "${OPENDT_REQUIRE_PARTS:-0}" != 1 ]
