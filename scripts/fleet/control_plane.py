"""One real Kubernetes control plane on 127.0.0.1, as plain processes without containers."""

from __future__ import annotations

import base64
import json
import secrets
import signal
import ssl
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from scripts.fleet.api import ApiClient
from scripts.fleet.certificates import make_certificates
from scripts.fleet.control_plane_flags import ALL_PARTS, LIGHT_PARTS, LOCAL, Layout, flags
from scripts.fleet.deadline import Deadline
from scripts.processes import Server, free_port

__all__ = ["ALL_PARTS", "KWOK_CONFIG", "LIGHT_PARTS", "ControlPlane", "write_merged_kubeconfig"]

KWOK_CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "kwok" / "cluster.yaml"

# user -> group: RBAC knows the two system users; the others are administrators.
_USERS = {
    "admin": "system:masters",
    "kwok": "system:masters",
    "metrics-server": "system:masters",
    "kubelet": "system:masters",
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
}
# metrics-server is ready only once it has measured a node, and there may be none.
_HEALTH = {"etcd": "health", "kube-controller-manager": "healthz", "kwok": "healthz", "metrics-server": "livez"}


class ControlPlane:
    """The processes, files and ports of one control plane.

    Its processes are tied to the thread that starts them and end with it, however that happens. The state is in etcd's
    folder: a control plane whose parts are ended and started again goes on where it was.

    Parameters
    ----------
    program : Path
        The program that is every part (`scripts.fleet.programs.control_plane_program`).
    folder : Path
        Where its state lives.
    name : str
        Name of the cluster, and of its context in kubeconfig files.
    parts : sequence of str
        etcd and kube-apiserver first; any of `ALL_PARTS`.
    scheduler_extenders : sequence of dict
        ``extenders`` of the KubeSchedulerConfiguration.
    ports : mapping of str to int, optional
        Port by part; those not given are free ones.
    extra_flags : mapping of str to list of str, optional
        More flags by part.

    Attributes
    ----------
    url : str
        Address of the API server.
    """

    def __init__(
        self,
        program: Path,
        folder: Path,
        name: str,
        *,
        parts: Sequence[str] = LIGHT_PARTS,
        scheduler_extenders: Sequence[Mapping[str, Any]] = (),
        ports: Mapping[str, int] | None = None,
        extra_flags: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.name = name
        self._program = program
        chosen = dict(ports or {})
        for part in ("etcd-peer", *parts):
            chosen.setdefault(part, _another_port(set(chosen.values())))
        self._layout = Layout(folder.resolve(), tuple(parts), chosen, KWOK_CONFIG)
        self._extenders = [dict(extender) for extender in scheduler_extenders]
        self._extra_flags = dict(extra_flags or {})
        self._tokens = {user: secrets.token_hex(16) for user in _USERS}
        self._servers: dict[str, Server] = {}
        self.url = f"https://{LOCAL}:{chosen['kube-apiserver']}"

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts it consists of, in the order of their start."""
        return self._layout.parts

    @property
    def folder(self) -> Path:
        """Where its state lives."""
        return self._layout.folder

    def kubeconfig(self, user: str = "admin") -> Path:
        """File with which a user reaches the API server; complete in itself, its context has the cluster's name."""
        return self._layout.kubeconfig(user)

    def token(self, user: str = "admin") -> str:
        """Bearer token of a user."""
        return self._tokens[user]

    def client(self, timeout_s: float = 30.0) -> ApiClient:
        """Return a new connection to the API server as administrator."""
        port = self._layout.ports["kube-apiserver"]
        return ApiClient(port, self._layout.pki / "ca.crt", self._tokens["admin"], timeout_s)

    # processes

    def start(self, timeout_s: float = 120.0) -> None:
        """Start all parts, each once those it needs serve; returns when all do.

        Raises
        ------
        RuntimeError
            When a part ended or did not serve in time; with the last lines of its log.
        """
        self._write_files()
        try:
            for part in self.parts:
                self.start_part(part, timeout_s)
            if "metrics-server" in self.parts:
                self._register_metrics()
        except BaseException:
            self.stop()
            raise

    def start_part(self, part: str, timeout_s: float = 120.0) -> None:
        """Start one part and wait until it serves."""
        if part in self._servers:
            raise ValueError(f"{part} of {self.name} runs: stop it first")
        folder = self.folder / part
        folder.mkdir(exist_ok=True)
        server = Server(f"{part} of {self.name}", folder, lambda: self.is_ready(part))
        command = [str(self._program), part, *flags(part, self._layout), *self._extra_flags.get(part, ())]
        self._servers[part] = server
        try:
            server.start(command, timeout_s)
        except BaseException:
            self.stop_part(part)
            raise

    def stop_part(self, part: str, how: signal.Signals = signal.SIGKILL) -> None:
        """End one part; `start_part` then goes on where it was."""
        self._servers.pop(part).end(how)

    def stop(self) -> None:
        """End all parts at once: asked kindly, an API server would wait for those who watch it."""
        for part in reversed(self.parts):
            if part in self._servers:
                self.stop_part(part)

    def wait_ready(self, part: str, seconds: float) -> None:
        """Wait until a part serves.

        Raises
        ------
        TimeoutError
            When it does not in time.
        """
        # A part that is started is waited for already; this one is for those who want to see it.
        deadline = Deadline(seconds)
        while not self.is_ready(part):
            if not deadline.wait(0.05):
                raise TimeoutError(
                    f"{part} of {self.name} did not serve within {seconds:g} s: see {self.folder / part}"
                )

    def is_ready(self, part: str) -> bool:
        """Whether a part serves now."""
        scheme = "http" if part == "etcd" else "https"
        url = f"{scheme}://{LOCAL}:{self._layout.ports[part]}/{_HEALTH.get(part, 'readyz')}"
        is_api = part == "kube-apiserver"
        headers = {"Authorization": f"Bearer {self._tokens['admin']}"} if is_api else {}
        # The other parts sign their certificates themselves, and are asked for nothing but their health.
        context = _unchecked() if not is_api else ssl.create_default_context(cafile=self._layout.pki / "ca.crt")
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=2, context=context):
                return True
        except OSError:
            return False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # files

    def _write_files(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        make_certificates(self._layout.pki)
        rows = [f'{token},{user},{user},"{_USERS[user]}"' for user, token in self._tokens.items()]
        _write_secret(self.folder / "tokens.csv", "\n".join(rows) + "\n")
        for user in _USERS:
            _write_secret(self.kubeconfig(user), json.dumps(self._kubeconfig(user), indent=1))  # JSON is YAML
        scheduler = {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "leaderElection": {"leaderElect": False},
            "clientConnection": {
                "kubeconfig": str(self.kubeconfig("system:kube-scheduler")),
                "qps": 5000,
                "burst": 5000,
            },
            # Above 100 nodes it would look at a sample only, and an extender would not be asked about the others.
            "percentageOfNodesToScore": 100,
            "extenders": self._extenders,
        }
        (self.folder / "scheduler.yaml").write_text(json.dumps(scheduler, indent=1), encoding="utf-8")

    def _kubeconfig(self, user: str) -> dict[str, Any]:
        authority = base64.b64encode((self._layout.pki / "ca.crt").read_bytes()).decode()
        member = user if user != "admin" else f"{self.name}-admin"
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": self.name,
            "clusters": [{"name": self.name, "cluster": {"server": self.url, "certificate-authority-data": authority}}],
            "users": [{"name": member, "user": {"token": self._tokens[user]}}],
            "contexts": [{"name": self.name, "context": {"cluster": self.name, "user": member}}],
        }

    def _register_metrics(self) -> None:
        """Connect metrics-server, a process beside the API server, to it."""
        port = self._layout.ports["metrics-server"]
        # An external name makes the API server dial loopback, which an Endpoints object may not name.
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "metrics-server", "namespace": "kube-system"},
            "spec": {
                "type": "ExternalName",
                "externalName": LOCAL,
                "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
            },
        }
        registration = {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": "v1beta1.metrics.k8s.io"},
            "spec": {
                "group": "metrics.k8s.io",
                "version": "v1beta1",
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "insecureSkipTLSVerify": True,
                "service": {"name": "metrics-server", "namespace": "kube-system", "port": port},
            },
        }
        with self.client() as client:
            client.apply("/api/v1/namespaces/kube-system/services/metrics-server", service)
            client.apply("/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io", registration)


def write_merged_kubeconfig(files: Mapping[str, Path], path: Path) -> Path:
    """Write one kubeconfig file with a context for each cluster: name -> the cluster's own file.

    The first cluster's context is the current one.
    """
    merged: dict[str, Any] = {"apiVersion": "v1", "kind": "Config", "clusters": [], "users": [], "contexts": []}
    for name, file in files.items():
        one = json.loads(file.read_text(encoding="utf-8"))
        user = f"{name}-admin"
        merged["clusters"].append({**one["clusters"][0], "name": name})
        merged["users"].append({**one["users"][0], "name": user})
        merged["contexts"].append({"name": name, "context": {"cluster": name, "user": user}})
        merged.setdefault("current-context", name)
    _write_secret(path, json.dumps(merged, indent=1))
    return path


def _write_secret(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")


def _another_port(taken: set[int]) -> int:
    return next(port for port in iter(free_port, 0) if port not in taken)


def _unchecked() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
