"""A broken kubeconfig is one clear error that names file, context and key; one that changes is read again."""

from __future__ import annotations

import base64
import json
import os

import pytest

from opendt.kubernetes.client import ClusterAwayError
from opendt.kubernetes.cluster_manager import ClusterManager, discover
from opendt.kubernetes.kubeconfig import read_contexts
from opendt.model.errors import FormatError, InputError
from opendt.model.fleet import ClusterState
from tests.unit.kubernetes.http_server import Script, kubeconfig, scripted_server, status

PEM = base64.b64encode(b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n").decode()
READY = (200, {}, "ok")


def whole():
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443", "certificate-authority-data": PEM}}],
        "users": [{"name": "u", "user": {"token": "hidden"}}],
        "contexts": [{"name": "left", "context": {"cluster": "c", "user": "u"}}],
    }


def changed(path, value):
    """Return the whole with one thing changed; a missing value takes it away."""
    content = whole()
    *way, last = path
    place = content
    for step in way:
        place = place[step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "kubeconfig: found list, expected a kubeconfig file: a mapping with clusters, users, contexts"),
        (changed(["contexts"], []), "kubeconfig: contexts: found none, expected at least one context"),
        (changed(["contexts"], 5), "kubeconfig: contexts: found 5, expected a list"),
        (changed(["contexts", 0, "name"], None), "kubeconfig: contexts[0]: found {'context'"),
        (
            changed(["contexts", 0, "context"], None),
            "kubeconfig: contexts[left].context: found None, expected a mapping",
        ),
        (
            changed(["contexts", 0, "context", "cluster"], "other"),
            "kubeconfig: context left: cluster: found other, expected one of the clusters: c",
        ),
        (
            changed(["contexts", 0, "context", "user"], None),
            "kubeconfig: context left: user: found nothing, expected one of the users: u",
        ),
        (
            changed(["clusters", 0, "cluster", "server"], "10.0.0.1"),
            "kubeconfig: context left: cluster c: server: found 10.0.0.1, expected an address such as https://10.0.0.1:6443",
        ),
        (
            changed(["clusters", 0, "cluster", "certificate-authority-data"], "%%%"),
            "kubeconfig: context left: cluster c: certificate-authority-data: found something else, expected a PEM file",
        ),
        (
            changed(["users", 0, "user"], {"client-key": "no/such/key"}),
            "kubeconfig: context left: user u: client-key: found 'no/such/key', which is no file",
        ),
        (
            changed(["users", 0, "user"], {"token": ""}),
            "kubeconfig: context left: user u: token: found nothing, expected a token",
        ),
        (
            changed(["users"], whole()["users"] * 2),
            "kubeconfig: users[1].name: found 'u' twice, expected names that are unique",
        ),
    ],
)
def test_what_is_wrong_is_said_with_file_context_and_key(tmp_path, content, message):
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(FormatError) as error:
        read_contexts(file)
    assert str(error.value).startswith(f"{tmp_path}/{message}")
    assert "hidden" not in str(error.value)


def test_a_file_that_is_no_yaml_or_not_there_is_named(tmp_path):
    file = tmp_path / "kubeconfig"
    file.write_text("contexts: [\n  - {", encoding="utf-8")
    with pytest.raises(FormatError, match=r"kubeconfig: line \d"):
        read_contexts(file)
    with pytest.raises(FormatError, match="nowhere"):
        read_contexts(tmp_path / "nowhere")


def test_clusters_are_those_of_all_files_or_those_that_are_named(tmp_path):
    one = kubeconfig(tmp_path / "one", {"a": "https://10.0.0.1", "b": "https://10.0.0.2"})
    two = kubeconfig(tmp_path / "two", {"b": "https://10.0.0.9", "c": "https://10.0.0.3"})
    assert {name: each.server for name, each in discover([one, two]).items()} == {
        "a": "https://10.0.0.1",
        "b": "https://10.0.0.2",
        "c": "https://10.0.0.3",
    }
    chosen = discover([one, two], {"dc-core": "c"})
    assert {name: each.name for name, each in chosen.items()} == {"dc-core": "c"}
    with pytest.raises(InputError, match="cluster dc-core: context: found d, expected one of a, b, c"):
        discover([one, two], {"dc-core": "d"})


def test_what_is_known_from_elsewhere_stays_and_probes_say_the_rest(tmp_path):
    told = []
    script = Script(READY, status(500, "InternalError", "etcd is away"))
    with scripted_server(script) as address:
        contexts = discover([kubeconfig(tmp_path / "kubeconfig", {"a": address})])
        states = {"a": ClusterState("a", type="phone", resiliency_ratio=0.7)}
        manager = ClusterManager(contexts, states, clock_ms=lambda: 77, tell=told.append)
        assert manager.probe("a").state == ClusterState("a", type="phone", resiliency_ratio=0.7, last_seen_ms=77)
        reachable = [manager.probe("a").is_reachable for _ in range(4)]
        assert reachable == [True, True, False, False]
        assert "etcd is away" in manager["a"].state.message
        script.answers.append(READY)
        manager.probe("a")
        assert manager.probe("a").is_reachable
        manager.stop()
    assert [event.kind for event in told] == ["cluster_away", "cluster_back"]
    assert "3 probes in a row failed" in told[0].message
    with pytest.raises(InputError, match="cluster: found b, expected one of a"):
        manager["b"]


def test_a_kubeconfig_that_breaks_is_told_of_and_what_it_said_goes_on(tmp_path):
    told = []
    file = tmp_path / "kubeconfig"
    with scripted_server(Script(READY)) as first, scripted_server(Script(READY)) as second:
        manager = ClusterManager(discover([kubeconfig(file, {"a": first})]), tell=told.append)
        file.write_text("contexts: {", encoding="utf-8")
        for _ in range(3):
            assert manager.probe("a").is_reachable
        assert [event.kind for event in told] == ["object_invalid"]
        assert str(file) in told[0].message
        kubeconfig(file, {"b": first})
        manager.probe("a")
        assert "expected a" in told[1].message
        kubeconfig(file, {"a": second})
        os.utime(file, ns=(1, 1))  # not by its size alone
        manager.probe("a")
        assert manager["a"].client.url == second
        manager.stop()


def test_a_login_that_is_refused_is_a_cluster_that_is_away_and_says_why(tmp_path):
    with scripted_server(Script(status(401, "Unauthorized", "Unauthorized"))) as address:
        manager = ClusterManager(discover([kubeconfig(tmp_path / "kubeconfig", {"a": address})]))
        for _ in range(3):
            manager.probe("a")
        assert not manager["a"].is_reachable
        assert "401 Unauthorized" in manager["a"].state.message
        manager.stop()


def test_an_answer_that_is_no_api_servers_is_a_cluster_that_is_away(tmp_path):
    script = Script((200, {"Content-Type": "application/json"}, "<html>"))
    with scripted_server(script) as address:
        manager = ClusterManager(discover([kubeconfig(tmp_path / "kubeconfig", {"a": address})]))
        with pytest.raises(ClusterAwayError, match="no JSON: b'<html>'"):
            manager["a"].client.get("/api/v1/pods")
        manager.stop()


def test_a_token_that_was_renewed_in_its_file_is_read_again_when_the_old_one_is_refused(tmp_path):
    token = tmp_path / "token"
    token.write_text("old", encoding="utf-8")
    script = Script(READY, status(401, "Unauthorized"), READY)
    with scripted_server(script) as address:
        file = kubeconfig(tmp_path / "kubeconfig", {"a": address})
        content = json.loads(file.read_text(encoding="utf-8"))
        content["users"][0]["user"] = {"tokenFile": str(token)}
        file.write_text(json.dumps(content), encoding="utf-8")
        manager = ClusterManager(discover([file]))
        manager.probe("a")
        token.write_text("new", encoding="utf-8")
        messages = [manager.probe("a").state.message for _ in range(2)]
        manager.stop()
    assert script.logins == ["Bearer old", "Bearer old", "Bearer new"]
    assert ("401" in messages[0], messages[1]) == (True, "")
