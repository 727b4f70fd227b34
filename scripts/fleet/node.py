"""A real node: kubelet, containerd and runc of its own, whose pods share a hard CPU quota.

It runs in its cluster's network and mount namespace, so that what containerd mounts goes with the last process.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.fleet.cgroups import QuotaGroup
from scripts.fleet.images import PAUSE
from scripts.processes import Server

if TYPE_CHECKING:
    from scripts.fleet.api import ApiClient

__all__ = ["NodeSpec", "hide_host_folders", "missing_for_real_nodes", "start_node"]

_CNI_PLUGINS = Path("/usr/lib/cni")
_MIB = 2**20
_KEPT_FREE_MIB = 100


@dataclass(frozen=True)
class NodeSpec:
    """What a node is.

    Attributes
    ----------
    name : str
        Its name in the cluster.
    number : int
        1 to 250, unique in the fleet; picks the network of its pods.
    cores : float
        Hard CPU quota of all its pods together.
    memory_mib : int
        What it offers.
    labels : dict
        Its labels.
    group : str
        Its control group, below the root.
    """

    name: str
    number: int
    cores: float
    memory_mib: int
    labels: dict[str, str]
    group: str

    @property
    def address(self) -> str:
        """Its address, on the bridge of its pods."""
        return f"10.88.{self.number}.1"


def missing_for_real_nodes() -> list[str]:
    """Return what this machine lacks to run real nodes; empty when nothing."""
    from shutil import which

    missing = [] if os.geteuid() == 0 else ["root"]
    missing += [name for name in ("containerd", "ctr", "runc", "ip", "nsenter", "unshare") if which(name) is None]
    if not (_CNI_PLUGINS / "bridge").exists():
        missing.append("containernetworking-plugins")
    return missing


def hide_host_folders() -> None:
    """Cover the folders of this machine that kubelet and CNI write to, whatever they are told; for this mount namespace only."""
    for path in ("/var/log", "/var/lib/cni"):
        Path(path).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "opendt", path], check=True)


def start_node(
    spec: NodeSpec,
    program: Path,
    kubeconfig: Path,
    folder: Path,
    images: Sequence[tuple[Path, str]],
    client: ApiClient,
) -> None:
    """Start a node and wait until it is Ready; its processes end with this thread.

    Raises
    ------
    RuntimeError
        When one of them ended or was not ready in time; with the last lines of its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _make_bridge(spec)
    QuotaGroup(spec.group, spec.cores).make()
    sock = folder / "c.sock"
    (folder / "containerd.toml").write_text(_containerd_config(folder, sock), encoding="utf-8")
    _write_json(folder / "cni" / "10-pods.conflist", _cni_config(spec, folder))
    _write_json(folder / "kubelet.json", _kubelet_config(spec, folder, sock))

    containerd = Server(f"containerd of {spec.name}", _made(folder / "containerd"), lambda: _answers(sock))
    containerd.start(["containerd", "-c", str(folder / "containerd.toml")])
    for image, arch in images:
        _import(sock, image, arch)
    kubelet = Server(f"kubelet of {spec.name}", _made(folder / "kubelet"), lambda: _is_ready(client, spec.name))
    labels = ",".join(f"{key}={value}" for key, value in spec.labels.items())
    kubelet.start(
        [
            *(str(program), "kubelet", f"--config={folder}/kubelet.json", f"--kubeconfig={kubeconfig}"),
            *(f"--root-dir={folder}/kubelet/root", f"--cert-dir={folder}/kubelet/pki"),
            *(f"--hostname-override={spec.name}", f"--node-ip={spec.address}", f"--node-labels={labels}"),
        ],
        timeout_s=120,
    )


def _containerd_config(folder: Path, sock: Path) -> str:
    return f"""version = 2
root = "{folder}/containerd/root"
state = "{folder}/containerd/state"
[grpc]
  address = "{sock}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  netns_mounts_under_state_dir = true
  # Without CAP_SYS_RESOURCE runc may not lower it, and every pod would fail with an "EOF" that explains nothing.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{_CNI_PLUGINS}"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  # The runtime class wasm (deploy/runtimeclass-wasm.yaml): the worker's image brings its own runtime along.
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.wasm]
    runtime_type = "io.containerd.runc.v2"
"""


def _kubelet_config(spec: NodeSpec, folder: Path, sock: Path) -> dict[str, Any]:
    cpus = os.cpu_count() or 1
    memory_mib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _MIB
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": spec.address,
        "port": 10250,
        "healthzPort": 0,
        "readOnlyPort": 0,
        "containerRuntimeEndpoint": f"unix://{sock}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{spec.group}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        # What the machine has and the node does not offer.
        "systemReserved": {
            "cpu": f"{round((cpus - spec.cores) * 1000)}m",
            "memory": f"{max(memory_mib - spec.memory_mib - _KEPT_FREE_MIB, 0)}Mi",
        },
        "enforceNodeAllocatable": ["pods"],
        "evictionHard": {"memory.available": f"{_KEPT_FREE_MIB}Mi"},
        # The namespaces let nobody else in, and whoever is in is the fleet's own.
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "localStorageCapacityIsolation": False,
        "imageGCHighThresholdPercent": 100,  # images are imported, not pulled: none must go
        "imageGCLowThresholdPercent": 99,
        "resolvConf": "",
        "podLogsDir": f"{folder}/logs",
        "volumePluginDir": f"{folder}/plugins",
        "nodeStatusUpdateFrequency": "4s",
        "syncFrequency": "5s",
    }


def _cni_config(spec: NodeSpec, folder: Path) -> dict[str, Any]:
    ranges = {
        "subnet": f"10.88.{spec.number}.0/24",
        "rangeStart": f"10.88.{spec.number}.10",
        "gateway": spec.address,
    }
    bridge = {
        "type": "bridge",
        "bridge": _bridge(spec),
        "isGateway": True,
        "ipam": {
            "type": "host-local",
            "dataDir": f"{folder}/ipam",
            "ranges": [[ranges]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return {"cniVersion": "0.4.0", "name": _bridge(spec), "plugins": [bridge]}


def _bridge(spec: NodeSpec) -> str:
    return f"pods{spec.number}"


def _make_bridge(spec: NodeSpec) -> None:
    for command in (
        f"link add {_bridge(spec)} type bridge",
        f"addr add {spec.address}/24 dev {_bridge(spec)}",
        f"link set {_bridge(spec)} up",
    ):
        subprocess.run(["ip", *command.split()], check=True)


def _import(sock: Path, image: Path, arch: str) -> None:
    command = ["ctr", "-a", str(sock), "-n", "k8s.io", "images", "import", "--platform", f"linux/{arch}", str(image)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"containerd does not take {image.name}: {done.stderr.strip()}")


def _answers(sock: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(sock))
        except OSError:
            return False
    return subprocess.run(["ctr", "-a", str(sock), "version"], check=False, capture_output=True).returncode == 0


def _is_ready(client: ApiClient, name: str) -> bool:
    try:
        conditions = client.get(f"/api/v1/nodes/{name}")["status"].get("conditions", ())
    except (OSError, RuntimeError):
        return False
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
