"""Whether tasks would still find a host once hosts are taken away: asked of the engine itself, on forks.

Cores are only a part of what a task asks for. Memory, accelerators, hosts that it is bound to and the filters of the placement
policy all decide where it may run, and the simulation knows all of them; a count by columns would have to repeat its scheduler.
So the question is put to it: take the hosts away on a fork, give some tasks back to the queue, and see who is placed.

Nothing to come plays a part (the forks forget it), and the simulation itself is only read. About 1 ms a fork for 300 hosts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opendt.model.change import CancelTask, DropFuture, NamedHosts, RemoveHosts, ResizeHosts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from opendt.engine.simulation import Simulation

__all__ = ["keeps_homes", "keeps_room"]

_WAITING: Final = frozenset({"queued", "failed", "paused"})
_QUANTUM_MS: Final = 1000
_MOST_BLOCKED: Final = 32


def keeps_room(simulation: Simulation, removals: Sequence[RemoveHosts], displaced: Sequence[str]) -> bool:
    """Whether all tasks that would be placed now without the removals are placed with them too.

    Parameters
    ----------
    simulation : Simulation
        The system as it is.
    removals : sequence of RemoveHosts
        Hosts to take away.
    displaced : sequence of str
        Hosts whose tasks have to find another one, as if they failed: the measure of a reserve.

    Returns
    -------
    bool
        Also False where more than 32 tasks in a row are at the head of the queue and fit nowhere: a system in which so much
        waits for something other than cores has nothing to spare that anybody could tell.
    """
    without = _placed(simulation, (), displaced)
    if without is None:
        return False
    having = _placed(simulation, removals, displaced)
    return having is not None and without <= having


def keeps_homes(simulation: Simulation, removals: Sequence[RemoveHosts]) -> bool:
    """Whether every task in the system would fit some host that stays, were that host empty.

    Those that run on hosts that stay have one. The others are queued with the hosts that stay emptied, as often as it takes.
    """
    fork = _fork(simulation, [one.model_copy(update={"evict": True}) for one in removals])
    ended = simulation.counts["terminated"]
    while True:
        running, waiting = _by_state(fork)
        if fork.counts["terminated"] > ended:
            return False  # the engine has given up a task that no host can take
        if not waiting:
            return True
        if not running:
            return False  # everything is empty, and the first of them still waits
        _cancel(fork, running)
        ended += len(running)


def _placed(simulation: Simulation, removals: Sequence[RemoveHosts], displaced: Sequence[str]) -> frozenset[str] | None:
    """Tasks that run once hosts are away and others displaced; those that block the queue are passed over, within reason."""
    evicted = [RemoveHosts(hosts=NamedHosts(names=tuple(displaced)), evict=True)] if displaced else []
    fork = _fork(simulation, [*removals, *evicted])
    for _ in range(_MOST_BLOCKED):
        running, waiting = _by_state(fork)
        if not waiting:
            return frozenset(running)
        _cancel(fork, waiting[:1])
    return None


def _fork(simulation: Simulation, changes: Iterable[RemoveHosts]) -> Simulation:
    fork = simulation.fork(with_basis=False)
    fork.set_sampling(None)
    fork.apply(DropFuture(), *changes)
    _schedule(fork)
    return fork


def _cancel(fork: Simulation, tasks: Sequence[str]) -> None:
    # The engine does not look at the queue again when a task is cancelled; a resize, also to the same size, makes it.
    fork.apply(*(CancelTask(task=task) for task in tasks), ResizeHosts())
    _schedule(fork)


def _schedule(fork: Simulation) -> None:
    """Let the scheduler look at the queue: it does at full quanta."""
    fork.advance(-(-fork.now_ms // _QUANTUM_MS) * _QUANTUM_MS)


def _by_state(fork: Simulation) -> tuple[list[str], list[str]]:
    """Tasks that run, and those that wait, those first that were submitted first."""
    tasks = fork.tasks()
    rows = list(zip(tasks["state"], tasks["submitted_ms"].tolist(), tasks["number"].tolist(), tasks["id"], strict=True))
    running = [name for state, _, _, name in rows if state == "running"]
    waiting = sorted((state == "paused", *rest) for state, *rest in rows if state in _WAITING)
    return running, [str(row[-1]) for row in waiting]
