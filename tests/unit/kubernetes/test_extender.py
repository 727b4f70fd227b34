"""What kube-scheduler asks is answered in its own words, in time, and with the last good scores when the twin is late."""

from __future__ import annotations

import json
import threading

import pytest

from opendt.kubernetes.extender import Extender, NodeScores
from opendt.model.errors import InputError
from tests.unit.kubernetes.objects import pod_object

NODES = ["n1", "n2", "n3"]


def question(names=NODES, **pod):
    return json.dumps({"Pod": pod_object(**pod), "Nodes": None, "NodeNames": names}).encode()


def ask(extender, verb, body=None):
    return json.loads(extender.handle(verb, question() if body is None else body))


@pytest.fixture
def extend():
    """Make extenders that are closed in the end; gives (extender, what was told)."""
    made = []

    def make(scorer, **more):
        told = []
        made.append(Extender("a", scorer, told=told.append, **more))
        return made[-1], told

    yield make
    for extender in made:
        extender.close()


def test_the_exact_keys_of_the_wire(extend):
    extender, _ = extend(lambda _pod, _names: NodeScores({"n1": 1.0, "n2": 0.5}, {"n3": "no wasm runtime"}))
    assert ask(extender, "filter") == {
        "Nodes": None,
        "NodeNames": ["n1", "n2"],
        "FailedNodes": {"n3": "no wasm runtime"},
        "FailedAndUnresolvableNodes": {},
        "Error": "",
    }
    assert ask(extender, "prioritize", question(["n1", "n2"])) == [
        {"Host": "n1", "Score": 10},
        {"Host": "n2", "Score": 0},
    ]


def test_ten_is_kept_for_the_best(extend):
    scores = {"n1": 1.0, "n2": 0.999, "n3": 0.0}
    extender, _ = extend(lambda _pod, _names: NodeScores(scores))
    found = {each["Host"]: each["Score"] for each in ask(extender, "prioritize")}
    assert found == {"n1": 10, "n2": 9, "n3": 0}
    equal, _ = extend(lambda _pod, names: NodeScores(dict.fromkeys(names, -3.0)))
    assert {each["Score"] for each in ask(equal, "prioritize")} == {10}


def test_both_answers_for_a_pod_are_of_one_opinion(extend):
    opinions = iter([NodeScores({"n1": 1.0, "n2": 0.0}), NodeScores({"n2": 1.0, "n1": 0.0})])
    extender, _ = extend(lambda _pod, _names: next(opinions))
    ask(extender, "filter")
    assert ask(extender, "prioritize")[0] == {"Host": "n1", "Score": 10}


def test_the_scorer_sees_the_pod_and_whole_nodes_are_understood(extend):
    seen = []

    def scorer(pod, names):
        seen.append((pod.cluster, pod.name, pod.cpu_millicores, list(names)))
        return NodeScores(dict.fromkeys(names, 1.0))

    extender, _ = extend(scorer)
    nodes = {"items": [{"metadata": {"name": name}} for name in NODES]}
    ask(extender, "filter", json.dumps({"Pod": pod_object(), "Nodes": nodes, "NodeNames": None}).encode())
    assert seen == [("a", "p1", 250, NODES)]


def test_a_scorer_that_is_late_is_stood_in_for_by_its_last_good_answer(extend):
    release = threading.Event()
    is_slow = threading.Event()

    def scorer(_pod, _names):
        if is_slow.is_set():
            release.wait(30)
        return NodeScores({"n2": 1.0}, {"n1": "full"})

    extender, told = extend(scorer, deadline_s=0.05)
    owner = {"ownerReferences": [{"kind": "ReplicaSet", "name": "web", "controller": True}]}
    ask(extender, "filter", question(name="web-1", metadata=owner))
    is_slow.set()
    late = ask(extender, "filter", question(name="web-2", metadata=owner))
    stranger = ask(extender, "filter", question(name="other"))
    release.set()
    assert late["NodeNames"] == ["n2"]
    assert stranger["NodeNames"] == NODES
    assert stranger["Error"] == ""
    assert [each.source for each in told] == ["scorer", "last", "none"]
    assert told[1].problem == "no scores within 0.05 s"


def test_a_scorer_that_fails_lets_the_scheduler_decide_alone(extend):
    def scorer(_pod, _names):
        raise ZeroDivisionError("oops")

    extender, told = extend(scorer)
    assert ask(extender, "filter")["NodeNames"] == NODES
    assert {each["Score"] for each in ask(extender, "prioritize")} == {0}
    assert told[0].problem == "ZeroDivisionError: oops"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"Pod": {}}', b'{"Pod": null, "NodeNames": []}'])
def test_what_no_scheduler_sends_is_refused(extend, body):
    extender, _ = extend(lambda _pod, names: NodeScores(dict.fromkeys(names, 1.0)))
    with pytest.raises(InputError, match="expected ExtenderArgs with Pod, and NodeNames or Nodes"):
        extender.handle("filter", body)
    with pytest.raises(InputError, match="expected filter or prioritize"):
        extender.handle("bind", question())


def test_a_pod_without_what_only_an_api_server_adds_is_understood(extend):
    extender, _ = extend(lambda _pod, names: NodeScores(dict.fromkeys(names, 1.0)))
    pod = {"metadata": {"name": "bare", "creationTimestamp": None}, "spec": {"containers": [{"name": "c"}]}}
    assert ask(extender, "filter", json.dumps({"Pod": pod, "NodeNames": ["n1"]}).encode())["NodeNames"] == ["n1"]
