"""A watch goes on where it was whatever happens to it, and begins anew only when it must."""

from __future__ import annotations

import json
from collections import deque
from contextlib import contextmanager

import pytest
import urllib3

from opendt.kubernetes.client import ApiError, ClusterAwayError
from opendt.kubernetes.reflector import Reflector, ReflectorSettings, Sink

QUICK = ReflectorSettings(page=2, shortest_s=0.0, longest_s=0.0)


def thing(name, version):
    return {"metadata": {"name": name, "resourceVersion": str(version)}}


def page(version, *names, token=""):
    return {
        "metadata": {"resourceVersion": str(version), "continue": token},
        "items": [thing(n, version) for n in names],
    }


def event(kind, name="", version=0, **more):
    return (json.dumps({"type": kind, "object": {**thing(name, version), **more}}) + "\n").encode()


def expired(code=410):
    return event("ERROR", code=code, reason="Expired", message="too old resource version")


class Client:
    """Gives lists and watches in order; stops the reflector when there are no more."""

    cluster = "a"

    def __init__(self, lists, watches):
        self.lists, self.watches = deque(lists), deque(watches)
        self.asked = []
        self.stop = None

    def get(self, path, query, *, read_s):
        self.asked.append(("list", query.get("continue", "")))
        return self._next(self.lists, page(99))

    @contextmanager
    def stream(self, path, query, *, read_s):
        self.asked.append(("watch", query["resourceVersion"]))
        yield Response(self._next(self.watches, []))

    def _next(self, answers, otherwise):
        if not answers:
            self.stop()
            return otherwise
        answer = answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        return answer


class Response:
    def __init__(self, chunks):
        self._chunks = chunks

    def stream(self, _size):
        for chunk in self._chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    def shutdown(self):
        raise ValueError("it is closed")


def follow(lists, watches, decode=lambda thing: thing["metadata"]["name"]):
    client, told = Client(lists, watches), []
    sink = Sink(
        decode=decode,
        listed=lambda found: told.append(("listed", found)),
        changed=lambda kind, found: told.append((kind, found)),
        expired=lambda why: told.append(("expired", why)),
        broken=lambda why: told.append(("broken", why)),
        invalid=lambda thing, error: told.append(("invalid", str(error))),
    )
    reflector = Reflector(lambda: client, "/api/v1/pods", sink, QUICK)
    client.stop = reflector.stop
    reflector.run()
    return told, client.asked, reflector


def test_pages_are_one_list_and_the_watch_begins_at_its_version():
    told, asked, _ = follow([page(7, "a", "b", token="t1"), page(7, "c")], [[event("ADDED", "d", 8)]])
    assert told == [("listed", ["a", "b", "c"]), ("ADDED", "d")]
    assert asked[:3] == [("list", ""), ("list", "t1"), ("watch", "7")]


def test_lines_may_be_cut_anywhere():
    whole = event("ADDED", "a", 8) + event("MODIFIED", "a", 9) + event("DELETED", "a", 10)
    for size in (1, 7, 50, 1000):
        chunks = [whole[at : at + size] for at in range(0, len(whole), size)]
        told, _, reflector = follow([page(7)], [chunks])
        assert told[1:] == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
        assert reflector.version == "10"


def test_a_watch_that_ends_or_breaks_goes_on_from_what_was_seen_last():
    cut = urllib3.exceptions.ProtocolError("Connection broken")
    watches = [[event("ADDED", "a", 8)], [event("ADDED", "b", 9), cut], [event("BOOKMARK", version=20)], []]
    told, asked, _ = follow([page(7)], watches)
    assert [where for what, where in asked if what == "watch"] == ["7", "8", "9", "20", "20"]
    assert [what for what, _ in told] == ["listed", "ADDED", "ADDED", "broken"]
    assert ("list", "") in asked
    assert [what for what, _ in asked].count("list") == 1


@pytest.mark.parametrize(
    "end",
    [
        [expired()],
        ApiError("watch", 410, "Expired", "too old resource version"),
        ApiError("watch", 504, "Timeout", "Too large resource version", ("ResourceVersionTooLarge",)),
    ],
)
def test_a_version_that_is_not_known_any_more_means_another_list(end):
    told, asked, reflector = follow([page(7, "a"), page(30, "b")], [end])
    assert [what for what, _ in told] == ["listed", "expired", "listed"]
    assert asked[:4] == [("list", ""), ("watch", "7"), ("list", ""), ("watch", "30")]
    assert reflector.lists == 2


def test_a_list_whose_pages_expire_begins_again():
    gone = ApiError("list", 410, "Expired", "the provided continue parameter is too old")
    told, asked, _ = follow([page(7, "a", "b", token="t1"), gone, page(8, "c")], [])
    assert [what for what, _ in told] == ["expired", "listed"]
    assert told[1] == ("listed", ["c"])
    assert asked[:3] == [("list", ""), ("list", "t1"), ("list", "")]


def test_trouble_is_told_of_once_until_it_works_again():
    away = ClusterAwayError("a", "refused")
    limited = ApiError("list", 429, "TooManyRequests", "later", retry_after_s=0.001)
    watches = [away, away, [event("ADDED", "a", 8)], away]
    told, _, _ = follow([away, limited, away, page(7)], watches)
    assert [what for what, _ in told] == ["broken", "listed", "broken", "ADDED", "broken"]


@pytest.mark.parametrize(
    "chunks",
    [[b"<html>\n"], [b'{"type": "ADDED"}\n'], [b"[]\n"], [expired(code=500)]],
)
def test_a_watch_that_makes_no_sense_is_trouble_and_no_crash(chunks):
    told, asked, _ = follow([page(7)], [chunks])
    assert [what for what, _ in told] == ["listed", "broken"]
    assert [where for what, where in asked if what == "watch"] == ["7", "7"]


def test_a_list_that_makes_no_sense_is_trouble_and_no_crash():
    told, _, _ = follow(["<html>", {"items": []}, page(7)], [])
    assert [what for what, _ in told] == ["broken", "listed"]


def test_an_object_that_cannot_be_decoded_is_passed_over_and_the_rest_goes_on():
    def decode(thing):
        if thing["metadata"]["name"] == "odd":
            raise ValueError("no quantity")
        return thing["metadata"]["name"]

    told, _, reflector = follow(
        [page(7, "a", "odd", "b")], [[event("ADDED", "odd", 8), event("ADDED", "c", 9)]], decode
    )
    assert told == [("invalid", "no quantity"), ("listed", ["a", "b"]), ("invalid", "no quantity"), ("ADDED", "c")]
    assert reflector.version == "9"
