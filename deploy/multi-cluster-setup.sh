#!/usr/bin/env bash
# Create the seven clusters of deploy/fleet.yaml in Docker, by k3d: 2 or 3 nodes each, on one network, with the delays of
# deploy/latency-matrix.yaml between them where the kernel has netem. Without Docker: make fleet.
#   deploy/multi-cluster-setup.sh [up|down]
# Needs docker, k3d (v5), kubectl, jq and python3 with PyYAML. Contexts are named k3d-CLUSTER. Run it again to add what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

network=opendt-fleet
image=${K3S_IMAGE:-rancher/k3s:v1.33.4-k3s1}
# name:agents, beside one server each.
clusters=(dc-core:2 prosumer-mining:1 campus-lab:2 gamer-pc:1 phone-pan-1:1 phone-pan-2:1 edge-microdc:2)

fail() {
    echo "multi-cluster-setup: $1" >&2
    exit 1
}

need() {
    local program
    for program in docker k3d kubectl jq python3; do
        command -v "$program" >/dev/null || fail "$program is not here: install it"
    done
    docker info >/dev/null 2>&1 || fail "docker does not answer: start it"
}

exists() {
    k3d cluster list --output json | jq --exit-status --arg name "$1" 'any(.[]; .name == $name)' >/dev/null
}

# The labels of a cluster's nodes, a line each: those that deploy/fleet.yaml gives to its first class of nodes.
labels() {
    python3 - "$1" <<'PYTHON'
import sys
from scripts.fleet.description import read_fleet
cluster = next(each for each in read_fleet().clusters if each.name == sys.argv[1])
for key, value in cluster.labels(cluster.node_classes[0]).items():
    if key != "kubernetes.io/arch":  # k3d's nodes are what the machine is
        print(f"{key}={value}")
PYTHON
}

addresses() {
    docker network inspect "$network" |
        jq --raw-output --arg prefix "k3d-$1-" \
            '[.[0].Containers[] | select(.Name | test("^" + $prefix + "(server|agent)-[0-9]+$")) | .IPv4Address | split("/")[0]] | join(",")'
}

create() {
    local name=$1 agents=$2 label
    local flags=(--servers 1 --agents "$agents" --network "$network" --image "$image" --no-lb --wait)
    flags+=(--k3s-arg "--disable=traefik@server:*")
    while IFS= read -r label; do
        flags+=(--k3s-node-label "$label@server:*;agent:*")
    done < <(labels "$name")
    k3d cluster create "$name" "${flags[@]}"
    kubectl --context "k3d-$name" apply --filename deploy/runtimeclass-wasm.yaml
}

shape() {
    local name=$1 other entry
    local to=()
    for entry in "${clusters[@]}"; do
        other=${entry%%:*}
        [ "$other" = "$name" ] || to+=("$other=$(addresses "$other")")
    done
    python3 -m scripts.fleet netem "$name" --to "${to[@]}" | kubectl --context "k3d-$name" apply --filename -
}

up() {
    local entry
    docker network inspect "$network" >/dev/null 2>&1 || docker network create "$network" >/dev/null
    for entry in "${clusters[@]}"; do
        exists "${entry%%:*}" || create "${entry%%:*}" "${entry##*:}"
    done
    for entry in "${clusters[@]}"; do
        shape "${entry%%:*}"
    done
}

down() {
    local entry
    for entry in "${clusters[@]}"; do
        if exists "${entry%%:*}"; then
            k3d cluster delete "${entry%%:*}"
        fi
    done
    docker network rm "$network" >/dev/null 2>&1 || true
}

case ${1:-up} in
    up) need && up ;;
    down) need && down ;;
    *) fail "'$1': want up or down" ;;
esac
