"""What is applied to clusters is taken by a real API server; scripts and Go programs are clean."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from scripts.fleet.api import ApiError
from scripts.fleet.description import DEPLOY, read_fleet
from scripts.fleet.images import WORKER
from scripts.fleet.netem import daemon_set, shaping_script
from scripts.fleet.programs import GoProgram
from tests.fleet import worker_pod
from tests.parts import require_part

ROOT = Path(__file__).resolve().parents[2]
WORKER_SOURCE = ROOT / "images" / "worker"


def test_the_api_server_takes_the_runtime_class(plane):
    wasm = yaml.safe_load((DEPLOY / "runtimeclass-wasm.yaml").read_text())
    with plane.client() as client:
        taken = client.apply("/apis/node.k8s.io/v1/runtimeclasses/wasm", wasm, dry_run=True)
        assert taken["handler"] == "wasm"


def test_the_api_server_takes_the_netem_daemon_set(plane):
    script = shaping_script("dc-core", {"edge-microdc": ["172.18.0.5"]}, read_fleet().routes)
    with plane.client() as client:
        path = "/apis/apps/v1/namespaces/kube-system/daemonsets/opendt-netem"
        taken = client.apply(path, daemon_set(script), dry_run=True)
        assert taken["spec"]["template"]["spec"]["hostNetwork"] is True
        broken = daemon_set(script)
        broken["spec"]["template"]["spec"]["hostNetwork"] = "perhaps"
        with pytest.raises(ApiError, match="hostNetwork"):
            client.apply(path, broken, dry_run=True)


def test_the_worker_keeps_to_the_restricted_pod_security_standard(plane):
    with plane.client() as client:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "strict", "labels": labels}}
        client.apply("/api/v1/namespaces/strict", namespace)
        pod = worker_pod("worker", "node-1", "amd64", "--cpu-seconds", "1")
        taken = client.apply("/api/v1/namespaces/strict/pods/worker", pod, dry_run=True)
        assert taken["spec"]["containers"][0]["image"] == f"{WORKER}:amd64"


def test_values_for_node_feature_discovery_name_no_other_labels_than_ours():
    values = yaml.safe_load((DEPLOY / "nfd-values.yaml").read_text())
    assert values["master"]["extraLabelNs"] == ["dt.hardware"]
    assert set(values) == {"master", "worker", "tolerations", "gc"}


def test_shell_scripts_are_clean():
    shellcheck = require_part("shellcheck")
    scripts = [DEPLOY / "multi-cluster-setup.sh", *(ROOT / "scripts").glob("*.sh")]
    done = subprocess.run([shellcheck, *scripts], check=False, capture_output=True, text=True)
    assert done.stdout == ""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("folder", ["images/worker", "scripts/fleet/link"])
def test_go_programs_pass_their_own_tests(folder):
    require_part("go")
    require_part("gofmt")
    for command in (["gofmt", "-l", "."], ["go", "vet", "./..."], ["go", "test", "./..."]):
        done = subprocess.run(
            command,
            cwd=ROOT / folder,
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "GOFLAGS": "-mod=readonly -buildvcs=false"},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        if command[0] == "gofmt":
            assert done.stdout == ""


@pytest.mark.timeout(300)
def test_the_worker_says_what_is_wrong_with_its_command_line():
    require_part("go")
    worker = GoProgram("worker", WORKER_SOURCE, "./cmd/worker", "").build()
    for arguments, expected in (
        (["--kind", "poetry"], 'kind "poetry": want one of'),
        (["--cpu-seconds", "-1"], "--cpu-seconds -1: want a number >= 0"),
        (["--scale", "0"], "--scale 0: want a number > 0"),
        (["work"], '"work": want flags only'),
    ):
        done = subprocess.run([worker, *arguments], check=False, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert expected in done.stderr
    done = subprocess.run(
        [worker, "--kind", "memory", "--cpu-seconds", "2", "--memory-mib", "2048", "--scale", "100"],
        check=True,
        capture_output=True,
        text=True,
    )
    report = json.loads(done.stdout)
    assert report["reference_cpu_seconds"] == pytest.approx(0.02)
    assert 18 < report["memory_peak_mib"] <= 22
