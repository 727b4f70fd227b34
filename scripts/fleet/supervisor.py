"""The process that a run hangs on: it makes the network, starts the clusters and ends all of it when it ends.

python3 -m scripts.fleet.supervisor RUN_FOLDER        until SIGTERM; started by ``scripts.fleet up``
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scripts.fleet.binfmt import register, unregister
from scripts.fleet.cgroups import remove_groups
from scripts.fleet.cluster import ready_file
from scripts.fleet.control_plane import write_merged_kubeconfig
from scripts.fleet.deadline import Deadline
from scripts.fleet.images import MACHINE_ARCH
from scripts.fleet.network import Namespace, link_config, make_namespace, remove_namespace
from scripts.fleet.plan import API_SERVER_PORT, MARKER, RunPlan
from scripts.fleet.programs import link_program
from scripts.processes import Server

__all__ = ["started_at", "sweep"]

_AT_ONCE = 2  # clusters started at a time: on two cores, more would only wait for each other


def main() -> int:
    """Run a fleet until told to end; return the exit code."""
    plan = RunPlan.read(Path(sys.argv[1]))
    assert plan is not None
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    identity = {"pid": os.getpid(), "started": started_at(os.getpid())}
    (plan.path / "supervisor.json").write_text(json.dumps(identity), encoding="utf-8")
    with _swept(plan):
        spaces = plan.namespaces()
        for space in spaces:
            make_namespace(space)
        architectures = {node.labels["kubernetes.io/arch"] for _, node in plan.real_nodes()}
        if architectures:
            register(plan.id, sorted({"arm64", "riscv64"} - {MACHINE_ARCH}))
        link = _start_link(plan, spaces)
        servers = _start_clusters(plan, spaces)
        _write_kubeconfig(plan)
        (plan.path / "ready").touch()
        return _watch({"the link": link, **servers})


def sweep(plan: RunPlan) -> None:
    """End and remove everything that a run made, whether it ended in order or not; nothing there is fine.

    Processes are found by the variable in their environment, which only processes of this run carry, and by the run's own
    control groups.
    """
    deadline = Deadline(30)
    while pids := list(_processes(plan)):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not deadline.wait(0.05):
            raise RuntimeError(f"processes {pids} of {plan.folder} do not end")
    remove_groups(plan.id)
    for space in Path("/run/netns").glob(f"{plan.id}-*"):
        remove_namespace(space.name)
    unregister(plan.id)
    for name in ("ready", "supervisor.json"):
        (plan.path / name).unlink(missing_ok=True)


def started_at(pid: int) -> int | None:
    """Return when a process was started, in clock ticks since the machine was: with it a process id is unique.

    None for one that has ended, also while nobody has taken note of that.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    state, *numbers = text.rpartition(")")[2].split()
    return None if state in {"Z", "X"} else int(numbers[18])


@contextmanager
def _swept(plan: RunPlan) -> Iterator[None]:
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sweep(plan)


def _start_link(plan: RunPlan, spaces: list[Namespace]) -> Server:
    folder = plan.path / "link"
    folder.mkdir(exist_ok=True)
    ready = folder / "ready"
    ready.unlink(missing_ok=True)
    forwards = [(port, space, API_SERVER_PORT) for port, space in zip(plan.ports, spaces, strict=True)]
    config = folder / "config.json"
    config.write_text(link_config(spaces, plan.fleet().routes, forwards, ready), encoding="utf-8")
    server = Server("the link between the clusters", folder, ready.exists)
    server.start([str(link_program().build()), str(config)])
    return server


def _start_clusters(plan: RunPlan, spaces: list[Namespace]) -> dict[str, Server]:
    servers: dict[str, Server] = {}
    for place, space in enumerate(spaces):
        ready_file(plan, space.cluster).unlink(missing_ok=True)
        if place >= _AT_ONCE:
            _await(plan, servers, spaces[place - _AT_ONCE].cluster)
        folder = plan.path / space.cluster
        folder.mkdir(exist_ok=True)
        # Mounts of its own, so that what its containers mount goes with them.
        command = ["unshare", "--mount", "--propagation", "slave", "--", sys.executable, "-m", "scripts.fleet.cluster"]
        server = Server(f"cluster {space.cluster}", folder, lambda: True)
        server.start(space.enter([*command, plan.folder, space.cluster]))
        servers[space.cluster] = server
    for space in spaces:
        _await(plan, servers, space.cluster)
    return servers


def _await(plan: RunPlan, servers: dict[str, Server], name: str) -> None:
    deadline = Deadline(600)
    while not ready_file(plan, name).exists():
        process = servers[name].process
        if process is None or process.poll() is not None or not deadline.wait(0.05):
            raise RuntimeError(f"cluster {name} does not serve: see {plan.path / name / 'server.log'}")


def _write_kubeconfig(plan: RunPlan) -> None:
    """Write the kubeconfig file for this machine, whose ports lead into the namespaces."""
    files = {}
    for port, cluster in zip(plan.ports, plan.fleet().clusters, strict=True):
        inner = plan.path / cluster.name / "kubeconfig"
        outer = plan.path / cluster.name / "kubeconfig.outside"
        text = inner.read_text(encoding="utf-8").replace(f"127.0.0.1:{API_SERVER_PORT}", f"127.0.0.1:{port}")
        outer.touch(mode=0o600)
        outer.write_text(text, encoding="utf-8")
        files[cluster.name] = outer
    write_merged_kubeconfig(files, plan.kubeconfig)


def _watch(servers: dict[str, Server]) -> int:
    """Wait for the end; a part that ends by itself ends the run."""
    while True:
        for name, server in servers.items():
            if server.process is None or server.process.poll() is not None:
                print(f"{name} ended by itself", file=sys.stderr)
                return 1
        signal.sigtimedwait([signal.SIGCHLD], 1.0)


def _processes(plan: RunPlan) -> Iterator[int]:
    wanted = f"{MARKER}={plan.id}".encode()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        pid = int(environment.parent.name)
        if pid == os.getpid():
            continue
        with suppress(OSError):  # one that has just ended, or is another user's
            if wanted in environment.read_bytes().split(b"\0"):
                yield pid


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)
