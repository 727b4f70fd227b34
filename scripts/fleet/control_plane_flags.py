"""How each part of a control plane is started: what makes it small and local, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ALL_PARTS", "LIGHT_PARTS", "LOCAL", "Layout", "flags"]

LOCAL = "127.0.0.1"
LIGHT_PARTS = ("etcd", "kube-apiserver", "kwok")
ALL_PARTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok", "metrics-server")

# What a fleet needs; all of them would cost memory and start-up time.
_CONTROLLERS = (
    "deployment-controller",
    "replicaset-controller",
    "job-controller",
    "disruption-controller",
    "garbage-collector-controller",
    "pod-garbage-collector-controller",
    "namespace-controller",
    "node-lifecycle-controller",
    "taint-eviction-controller",
    "serviceaccount-controller",
    "clusterrole-aggregation-controller",
    "root-ca-certificate-publisher-controller",
)


@dataclass(frozen=True)
class Layout:
    """Where the files and ports of one control plane are.

    Attributes
    ----------
    folder : Path
        Its folder.
    parts : tuple of str
        The parts it consists of.
    ports : mapping of str to int
        Port of each part on 127.0.0.1; ``etcd-peer`` is etcd's second one.
    kwok_config : Path
        Stages and metrics of KWOK.
    """

    folder: Path
    parts: tuple[str, ...]
    ports: Mapping[str, int]
    kwok_config: Path

    @property
    def pki(self) -> Path:
        """Folder of the keys and certificates."""
        return self.folder / "pki"

    def kubeconfig(self, user: str) -> Path:
        """File with which a user reaches the API server."""
        return self.folder / ("kubeconfig" if user == "admin" else f"kubeconfig.{user.rpartition(':')[2]}")


def flags(part: str, layout: Layout) -> list[str]:
    """Return the flags of one part."""
    return _FLAGS[part](layout)


def _etcd(layout: Layout) -> list[str]:
    store = f"http://{LOCAL}:{layout.ports['etcd']}"
    return [
        f"--data-dir={layout.folder}/etcd/data",
        f"--listen-client-urls={store}",
        f"--advertise-client-urls={store}",
        f"--listen-peer-urls=http://{LOCAL}:{layout.ports['etcd-peer']}",
        "--unsafe-no-fsync",  # outlives a killed process; only a power cut costs its data
        "--log-level=error",
        "--snapshot-count=5000",
        "--quota-backend-bytes=4294967296",
    ]


def _api_server(layout: Layout) -> list[str]:
    pki = layout.pki
    without_accounts = ["--disable-admission-plugins=ServiceAccount"]  # without controllers nobody makes `default`
    return [
        f"--etcd-servers=http://{LOCAL}:{layout.ports['etcd']}",
        "--etcd-compaction-interval=2m",
        "--etcd-count-metric-poll-period=0",
        f"--bind-address={LOCAL}",
        f"--advertise-address={LOCAL}",
        f"--secure-port={layout.ports['kube-apiserver']}",
        "--endpoint-reconciler-type=none",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--kubelet-preferred-address-types=InternalIP",
        f"--tls-cert-file={pki}/server.crt",
        f"--tls-private-key-file={pki}/server.key",
        f"--client-ca-file={pki}/ca.crt",
        f"--token-auth-file={layout.folder}/tokens.csv",
        "--authorization-mode=RBAC",
        "--anonymous-auth=false",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={pki}/sa.key",
        f"--service-account-signing-key-file={pki}/sa.key",
        f"--proxy-client-cert-file={pki}/front-proxy-client.crt",
        f"--proxy-client-key-file={pki}/front-proxy-client.key",
        f"--requestheader-client-ca-file={pki}/ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--event-ttl=10m",
        "--profiling=false",
        "--max-requests-inflight=2000",
        "--max-mutating-requests-inflight=1000",
        *([] if "kube-controller-manager" in layout.parts else without_accounts),
    ]


def _controllers(layout: Layout) -> list[str]:
    return [
        f"--kubeconfig={layout.kubeconfig('system:kube-controller-manager')}",
        "--leader-elect=false",
        f"--bind-address={LOCAL}",
        f"--secure-port={layout.ports['kube-controller-manager']}",
        f"--service-account-private-key-file={layout.pki}/sa.key",
        f"--root-ca-file={layout.pki}/ca.crt",
        "--use-service-account-credentials=true",  # else RBAC forbids most of its work
        f"--controllers={','.join(_CONTROLLERS)}",
        "--kube-api-qps=2000",
        "--kube-api-burst=2000",
        "--node-monitor-grace-period=200s",  # longer than KWOK's leases, which are long to be cheap
        "--concurrent-deployment-syncs=10",
        "--concurrent-replicaset-syncs=20",
    ]


def _scheduler(layout: Layout) -> list[str]:
    port = layout.ports["kube-scheduler"]
    return [f"--config={layout.folder}/scheduler.yaml", f"--bind-address={LOCAL}", f"--secure-port={port}"]


def _kwok(layout: Layout) -> list[str]:
    port = layout.ports["kwok"]
    return [
        f"--kubeconfig={layout.kubeconfig('kwok')}",
        f"--config={layout.kwok_config}",
        "--manage-all-nodes=false",  # real nodes have a kubelet
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
        f"--node-ip={LOCAL}",
        f"--node-port={port}",
        f"--server-address={LOCAL}:{port}",
        f"--tls-cert-file={layout.pki}/server.crt",
        f"--tls-private-key-file={layout.pki}/server.key",
        "--node-lease-duration-seconds=160",
        "--cidr=10.64.0.0/10",
        "--v=WARN",
    ]


def _metrics_server(layout: Layout) -> list[str]:
    kinds = ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")
    return [
        *(f"--{kind}={layout.kubeconfig('metrics-server')}" for kind in kinds),
        f"--bind-address={LOCAL}",
        f"--secure-port={layout.ports['metrics-server']}",
        f"--cert-dir={layout.pki}/metrics",
        "--kubelet-insecure-tls",
        "--kubelet-use-node-status-port",
        "--kubelet-preferred-address-types=InternalIP",
        "--metric-resolution=10s",
        "--kubelet-request-timeout=5s",  # must be shorter than the resolution
    ]


_FLAGS: Mapping[str, Callable[[Layout], list[str]]] = {
    "etcd": _etcd,
    "kube-apiserver": _api_server,
    "kube-controller-manager": _controllers,
    "kube-scheduler": _scheduler,
    "kwok": _kwok,
    "metrics-server": _metrics_server,
}
