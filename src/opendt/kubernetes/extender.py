"""The twin as a scheduler extender: what kube-scheduler asks, and what it is answered.

kube-scheduler asks twice for each pod: `filter` (which of these nodes may it go to?) and, of those left, `prioritize` (how good is each,
0 to 10?). The wire names are those of the Go structs, k8s.io/kube-scheduler/extender/v1, which have no JSON names of their own;
with ``nodeCacheCapable: true`` nodes are asked and answered by name.

An answer that is late stops all scheduling, so the scorer has a deadline. When it misses it, its last good answer for a pod of the
same kind stands in, or none: then all nodes are let through with one score, and kube-scheduler decides alone.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as LateError
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import orjson

from opendt.kubernetes.pods import decode_pod
from opendt.model.errors import InputError
from opendt.model.fleet import PodState

__all__ = ["Extender", "NodeScores", "Scorer", "Source", "Told"]

HIGHEST: Final = 10
"""MaxExtenderPriority of k8s.io/kube-scheduler/extender/v1."""
_REMEMBERED: Final = 4096


@dataclass(frozen=True, slots=True)
class NodeScores:
    """What the twin thinks of nodes for a pod.

    Parameters
    ----------
    scores : mapping of str to float
        Node -> score, higher is better, on any scale; nodes that are not in it cannot take the pod.
    reasons : mapping of str to str
        Node -> why it cannot.
    """

    scores: Mapping[str, float]
    reasons: Mapping[str, str] = field(default_factory=dict)


Scorer = Callable[[PodState, Sequence[str]], NodeScores]
"""Scores nodes, by name, for a pod; called from threads, several at a time. What it raises counts as no answer."""

Source = Literal["scorer", "last", "none"]


@dataclass(frozen=True, slots=True)
class Told:
    """What was answered: for logs and figures.

    Parameters
    ----------
    verb : str
        ``filter`` or ``prioritize``.
    pod : str
        namespace/name.
    nodes : int
        Nodes that were asked about.
    source : str
        Where scores came from: the scorer, its last good answer, or nowhere.
    seconds : float
        Time it took.
    problem : str
        Why the scorer did not answer.
    """

    verb: str
    pod: str
    nodes: int
    source: Source
    seconds: float
    problem: str = ""


class Extender:
    """Answers `filter` and `prioritize` for the pods of one cluster.

    Parameters
    ----------
    cluster : str
        The cluster whose scheduler asks.
    scorer : callable
        The twin's opinion.
    deadline_s : float
        What an answer may take; kube-scheduler's own ``httpTimeout`` must be longer.
    kind_of : callable, optional
        Which pods are alike, so that an answer for one can stand in for another: plan and stage, else owner, else name.
    told : callable, optional
        Told of each answer.
    workers : int
        Pods scored at a time. A scorer that never returns takes one of them forever; when all are taken, last answers remain.
    clock_s : callable, optional
        Monotonic clock in s.
    """

    def __init__(
        self,
        cluster: str,
        scorer: Scorer,
        *,
        deadline_s: float = 1.0,
        kind_of: Callable[[PodState], str] | None = None,
        told: Callable[[Told], None] | None = None,
        workers: int = 4,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._scorer = scorer
        self._deadline_s = deadline_s
        self._kind_of = kind_of or _kind_of
        self._told = told or (lambda _told: None)
        self._clock_s = clock_s
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=f"score-{cluster}")
        self._lock = threading.Lock()
        # pod -> its scores, so that `prioritize` says what `filter` went by; kind -> the last good scores.
        self._of_pod: OrderedDict[str, NodeScores] = OrderedDict()
        self._of_kind: OrderedDict[str, NodeScores] = OrderedDict()

    def close(self) -> None:
        """End the threads, without waiting for a scorer that does not return."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def handle(self, verb: str, body: bytes) -> bytes:
        """Answer a request.

        Parameters
        ----------
        verb : str
            ``filter`` or ``prioritize``.
        body : bytes
            ExtenderArgs as JSON.

        Returns
        -------
        bytes
            ExtenderFilterResult or HostPriorityList as JSON.

        Raises
        ------
        InputError
            When the verb or the body is not what kube-scheduler sends: a client's error, status 400.
        """
        began_s = self._clock_s()
        if verb not in ("filter", "prioritize"):
            raise InputError("verb", verb, "filter or prioritize")
        pod, names = _read(self._cluster, body)
        scores, source, problem = self._scores(pod, names, is_new=verb == "filter")
        answer: Any = _filtered(names, scores) if verb == "filter" else _prioritized(names, scores)
        seconds = self._clock_s() - began_s
        self._told(Told(verb, f"{pod.namespace}/{pod.name}", len(names), source, seconds, problem))
        return orjson.dumps(answer)

    def _scores(self, pod: PodState, names: Sequence[str], *, is_new: bool) -> tuple[NodeScores | None, Source, str]:
        if not is_new:
            with self._lock:
                known = self._of_pod.get(pod.uid)
            if known is not None:
                return known, "scorer", ""
        future = self._pool.submit(self._scorer, pod, names)
        problem = self._wait(future)
        if not problem:
            found = future.result()
            with self._lock:
                _keep(self._of_pod, pod.uid, found)
                _keep(self._of_kind, self._kind_of(pod), found)
            return found, "scorer", ""
        with self._lock:
            # `prioritize` must not go by an answer that is older than the one `filter` went by.
            self._of_pod.pop(pod.uid, None)
            last = self._of_kind.get(self._kind_of(pod))
        return last, "none" if last is None else "last", problem

    def _wait(self, future: Future[NodeScores]) -> str:
        """Wait for scores until the deadline; say what was wrong, or nothing."""
        try:
            future.result(self._deadline_s)
        except LateError:
            future.cancel()
            return f"no scores within {self._deadline_s:g} s"
        except Exception as error:  # noqa: BLE001 - whatever the scorer raises, scheduling goes on
            return f"{type(error).__name__}: {error}"
        return ""


def _read(cluster: str, body: bytes) -> tuple[PodState, list[str]]:
    """Read ExtenderArgs: names of nodes, or whole nodes where the scheduler is not told that we know them."""
    try:
        asked = orjson.loads(body)
        pod = decode_pod(cluster, _completed(asked["Pod"]))
        names = asked.get("NodeNames")
        if names is None:
            names = [node["metadata"]["name"] for node in asked["Nodes"]["items"]]
        return pod, [str(name) for name in names]
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        expected = "ExtenderArgs with Pod, and NodeNames or Nodes"
        raise InputError("body", f"{type(error).__name__}: {error}", expected) from error


def _completed(pod: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a pod has in an API server and may lack in a question."""
    blank = {"namespace": "default", "uid": "", "resourceVersion": "", "creationTimestamp": "1970-01-01T00:00:00Z"}
    given = {key: value for key, value in pod["metadata"].items() if value is not None}
    return {**pod, "metadata": {**blank, **given}}


def _filtered(names: Sequence[str], scores: NodeScores | None) -> dict[str, Any]:
    failed: dict[str, str] = {}
    if scores is not None:
        missing = "the twin expects it to be no place for this pod"
        failed = {name: scores.reasons.get(name, missing) for name in names if name not in scores.scores}
    return {
        "Nodes": None,
        "NodeNames": [name for name in names if name not in failed],
        "FailedNodes": failed,
        "FailedAndUnresolvableNodes": {},
        "Error": "",
    }


def _prioritized(names: Sequence[str], scores: NodeScores | None) -> list[dict[str, Any]]:
    """Scale scores to 0-10; 10 is kept for the best, so that rounding never makes another its equal."""
    known = {} if scores is None else {name: scores.scores[name] for name in names if name in scores.scores}
    if not known:
        return [{"Host": name, "Score": 0} for name in names]
    best, worst = max(known.values()), min(known.values())
    return [{"Host": name, "Score": _level(known.get(name, worst), worst, best)} for name in names]


def _level(score: float, worst: float, best: float) -> int:
    if score >= best:
        return HIGHEST
    return min(int((score - worst) / (best - worst) * HIGHEST), HIGHEST - 1)


def _kind_of(pod: PodState) -> str:
    if pod.plan_id:
        return f"plan/{pod.plan_id}/{pod.stage_id}"
    return f"{pod.namespace}/{pod.owner or pod.name}"


def _keep(memory: OrderedDict[str, NodeScores], key: str, scores: NodeScores) -> None:
    memory[key] = scores
    memory.move_to_end(key)
    if len(memory) > _REMEMBERED:
        memory.popitem(last=False)
