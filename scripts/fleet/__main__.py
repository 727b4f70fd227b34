"""A fleet of real Kubernetes clusters on this machine, each in a network namespace of its own.

    python3 -m scripts.fleet build                  build the programs (minutes the first time, then nothing)
    python3 -m scripts.fleet up [--clusters 7] [--kwok N] [--real 1]
    python3 -m scripts.fleet status
    python3 -m scripts.fleet down

docs/guides/fleet-local.md explains it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
from pathlib import Path

from scripts.fleet.control_plane_flags import ALL_PARTS
from scripts.fleet.deadline import Deadline
from scripts.fleet.description import DEPLOY
from scripts.fleet.images import MACHINE_ARCH, can_compile, make_images
from scripts.fleet.programs import control_plane_program, link_program


def main() -> int:
    """Run one command; return the exit code."""
    arguments = _parser().parse_args()
    try:
        return int(arguments.run(arguments))
    except (OSError, RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1


def build(_arguments: argparse.Namespace) -> int:
    """Build the programs and images; they need Go, and nothing of Python but its standard library."""
    for program in (control_plane_program(), link_program()):
        if program.find() is None:
            print(f"building {program.name}", flush=True)
        program.build()
    for arch in (MACHINE_ARCH, *(arch for arch in ("arm64",) if arch != MACHINE_ARCH and can_compile(arch))):
        make_images(arch)
    return 0


def up(arguments: argparse.Namespace) -> int:
    """Start a fleet and leave it running."""
    from scripts.fleet.plan import MARKER, RunPlan
    from scripts.fleet.supervisor import sweep

    folder: Path = arguments.folder
    if _running(folder) is not None:
        raise RuntimeError(f"a fleet runs already in {folder}: make fleet-down")
    left = RunPlan.read(folder)
    if left is not None:
        sweep(left)
    _require(arguments)
    build(arguments)
    shutil.rmtree(folder, ignore_errors=True)
    plan = RunPlan.make(
        folder, arguments.description, arguments.clusters, arguments.kwok, arguments.real, tuple(arguments.parts)
    )
    for arch in sorted({node.labels["kubernetes.io/arch"] for _, node in plan.real_nodes()}):
        make_images(arch)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # who ends us ends what is half started
    log = folder / "supervisor.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "scripts.fleet.supervisor", plan.folder],
            cwd="/",
            env={**os.environ, MARKER: plan.id, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while not (folder / "ready").exists():
            if process.poll() is not None:
                raise RuntimeError(f"the fleet did not start; {log} says:\n{log.read_text(encoding='utf-8')}")
            Deadline(1).wait(0.1)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    # It outlives us on purpose; whoever looks after orphans takes it.
    process.returncode = 0
    print(f"{plan.clusters} clusters serve; export KUBECONFIG={plan.kubeconfig}")
    return 0


def down(arguments: argparse.Namespace) -> int:
    """End the fleet, and whatever an earlier one left behind."""
    from scripts.fleet.plan import RunPlan
    from scripts.fleet.supervisor import sweep

    folder: Path = arguments.folder
    plan = RunPlan.read(folder)
    if plan is None:
        print(f"no fleet in {folder}")
        return 0
    pid = _running(folder)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        deadline = Deadline(60)
        while _running(folder) == pid and deadline.wait(0.05):
            pass
    sweep(plan)
    plan.forget()
    print("the fleet is down")
    return 0


def status(arguments: argparse.Namespace) -> int:
    """Say what runs, and how long packets take between the clusters beside how long they should."""
    from scripts.fleet.echo import measure_round_trips
    from scripts.fleet.plan import RunPlan
    from scripts.fleet.status import cluster_lines

    folder: Path = arguments.folder
    plan = RunPlan.read(folder)
    if plan is None or _running(folder) is None:
        left = "" if plan is None else "; one that ended badly left things behind: make fleet-down"
        print(f"no fleet runs in {folder}{left}")
        return 1
    print("\n".join(cluster_lines(plan)))
    routes = plan.fleet().routes
    print("\nfrom             to               round trip, ms: matrix   measured (median of 9)   difference")
    for (one, other), times_ms in measure_round_trips(plan.namespaces()).items():
        wanted = routes[one, other].round_trip_ms
        if not times_ms:
            print(f"{one:<16} {other:<16} {wanted:>22g}   {'nothing came back':>22}")
            continue
        median = statistics.median(times_ms)
        difference = f"{(median / wanted - 1) * 100:+.1f} %" if wanted else ""
        print(f"{one:<16} {other:<16} {wanted:>22g}   {median:>22.2f}   {difference:>10}")
    print(f"\nexport KUBECONFIG={plan.kubeconfig}")
    return 0


def netem(arguments: argparse.Namespace) -> int:
    """Print the DaemonSet that shapes what a cluster's nodes send, where the kernel has netem."""
    import json

    from scripts.fleet.description import read_fleet
    from scripts.fleet.netem import daemon_set, shaping_script

    addresses = {}
    for text in arguments.to:
        other, separator, places = text.partition("=")
        if not separator or not places:
            raise ValueError(f"--to {text}: expected CLUSTER=ADDRESS[,ADDRESS...]")
        addresses[other] = places.split(",")
    script = shaping_script(arguments.cluster, addresses, read_fleet(arguments.description).routes)
    print(json.dumps(daemon_set(script), indent=2))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts.fleet", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run in (("build", build), ("up", up), ("status", status), ("down", down)):
        command = commands.add_parser(name, help=(run.__doc__ or "").splitlines()[0])
        command.set_defaults(run=run)
        if name != "build":
            command.add_argument("--folder", type=Path, default=_default_folder(), help="where the run's state lives")
        if name == "up":
            command.add_argument("--clusters", type=int, default=7, help="how many, the first ones (default 7)")
            command.add_argument("--kwok", type=int, help="KWOK nodes of each cluster; else as described")
            command.add_argument("--real", type=int, default=1, help="real nodes of each cluster at most (default 1)")
            command.add_argument("--description", type=Path, default=DEPLOY / "fleet.yaml", help="what the fleet is")
            command.add_argument("--parts", nargs="+", default=ALL_PARTS, choices=ALL_PARTS, help="of a control plane")
    command = commands.add_parser("netem", help=(netem.__doc__ or "").splitlines()[0])
    command.set_defaults(run=netem)
    command.add_argument("cluster", help="whose nodes it is for")
    command.add_argument("--to", nargs="+", default=[], metavar="CLUSTER=ADDRESS,...", help="the others' nodes")
    command.add_argument("--description", type=Path, default=DEPLOY / "fleet.yaml", help="what the fleet is")
    return parser


def _default_folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "opendt" / "fleet"


def _require(arguments: argparse.Namespace) -> None:
    """Refuse to start what this machine cannot run, with everything that is missing at once."""
    from scripts.fleet.node import missing_for_real_nodes

    missing = [] if os.geteuid() == 0 else ["root"]
    missing += [name for name in ("ip", "nsenter", "unshare", "openssl") if shutil.which(name) is None]
    if not Path("/dev/net/tun").exists():
        missing.append("/dev/net/tun (the kernel module tun)")
    if missing:
        raise RuntimeError(f"the fleet needs {', '.join(missing)}, which this machine does not have")
    lacks = missing_for_real_nodes() if arguments.real else []
    if lacks:
        raise RuntimeError(
            f"real nodes need {', '.join(lacks)}: install containerd, runc, containernetworking-plugins and "
            "qemu-user-static (make parts does), or do without: REAL=0"
        )


def _running(folder: Path) -> int | None:
    """Return the supervisor's process id, if it is alive and still the same process."""
    import json

    from scripts.fleet.supervisor import started_at

    try:
        identity = json.loads((folder / "supervisor.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return identity["pid"] if started_at(identity["pid"]) == identity["started"] else None


if __name__ == "__main__":
    sys.exit(main())
