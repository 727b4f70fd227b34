"""The fleet's files say what they are meant to say, and what contradicts itself is refused by name."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from scripts.fleet.description import DEPLOY, MOST_REAL_CORES, read_fleet, shares
from scripts.fleet.netem import daemon_set, shaping_script
from scripts.fleet.network import Namespace, link_config
from scripts.fleet.plan import RunPlan

SEVEN = [
    "dc-core",
    "prosumer-mining",
    "campus-lab",
    "gamer-pc",
    "phone-pan-1",
    "phone-pan-2",
    "edge-microdc",
]


@pytest.mark.parametrize("name", ["fleet", "latency-matrix"])
def test_a_file_keeps_to_its_schema(name):
    schema = json.loads((DEPLOY / f"{name}.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    content = yaml.safe_load((DEPLOY / f"{name}.yaml").read_text())
    validator.validate(content)
    (rows,) = [value for value in content.values() if isinstance(value, list)]
    rows[0]["surprise"] = 1
    assert not validator.is_valid(content)


def test_the_fleet_has_seven_clusters_and_a_round_trip_between_any_two():
    fleet = read_fleet()
    assert [cluster.name for cluster in fleet.clusters] == SEVEN
    assert len(fleet.routes) == 7 * 6
    assert fleet.routes["dc-core", "edge-microdc"].round_trip_ms == 35
    assert fleet.routes["edge-microdc", "dc-core"] == fleet.routes["dc-core", "edge-microdc"]


def test_real_nodes_leave_room_and_have_two_architectures():
    nodes = [node for cluster in read_fleet().clusters for node in cluster.real_nodes]
    assert sum(node.cores for node in nodes) <= MOST_REAL_CORES
    assert {node.arch for node in nodes} == {"amd64", "arm64"}
    assert len({node.cores for node in nodes}) > 3


def test_labels_are_what_kubernetes_takes():
    for cluster in read_fleet().clusters:
        for node in (*cluster.node_classes, *cluster.real_nodes):
            for value in cluster.labels(node).values():
                assert re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", value), value


def test_the_script_for_docker_creates_the_same_clusters():
    script = (DEPLOY / "multi-cluster-setup.sh").read_text()
    (listed,) = re.findall(r"^clusters=\((.*)\)$", script, re.MULTILINE)
    clusters = dict(entry.split(":") for entry in listed.split())
    assert list(clusters) == SEVEN
    assert {1 + int(agents) for agents in clusters.values()} == {2, 3}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("idle_w: 70, max_w: 550}", "idle_w: 700, max_w: 550}", "gamer-pc-real-1: idle_w is 700"),
        ("name: campus-lab\n", "name: dc-core\n", "two of cluster are called dc-core"),
        ("gamer-pc-real-1", "campus-lab-real-1", "two of real node are called campus-lab-real-1"),
        ("cores: 0.40", "cores: 0.90", "add up to 1.66 cores, expected at most 1.2"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(tmp_path, old, new, expected):
    text = (DEPLOY / "fleet.yaml").read_text()
    assert old in text
    (tmp_path / "fleet.yaml").write_text(text.replace(old, new))
    shutil.copy(DEPLOY / "latency-matrix.yaml", tmp_path)
    with pytest.raises(ValueError, match=expected):
        RunPlan.make(tmp_path / "run", tmp_path / "fleet.yaml", 7, None, 1, ("etcd",))


def test_a_matrix_must_know_every_pair(tmp_path):
    shutil.copy(DEPLOY / "fleet.yaml", tmp_path)
    rows = yaml.safe_load((DEPLOY / "latency-matrix.yaml").read_text())["latencies"]
    (tmp_path / "latency-matrix.yaml").write_text(json.dumps({"latencies": rows[1:]}))
    with pytest.raises(ValueError, match="no latency between dc-core and prosumer-mining"):
        read_fleet(tmp_path / "fleet.yaml")
    (tmp_path / "latency-matrix.yaml").write_text(json.dumps({"latencies": [*rows, rows[0]]}))
    with pytest.raises(ValueError, match="dc-core to prosumer-mining is there twice"):
        read_fleet(tmp_path / "fleet.yaml")


@given(st.integers(0, 5000), st.lists(st.integers(0, 100), min_size=1, max_size=8).filter(any))
def test_shares_are_exact_and_fair(count, weights):
    given_out = shares(count, weights)
    assert sum(given_out) == count
    for share, weight in zip(given_out, weights, strict=True):
        assert abs(share - count * weight / sum(weights)) < 1


def test_a_plan_is_read_as_it_was_written(tmp_path):
    made = RunPlan.make(tmp_path / "run", DEPLOY / "fleet.yaml", 3, 715, 1, ("etcd", "kube-apiserver"))
    assert RunPlan.read(tmp_path / "run") == made
    assert [sum(made.kwok_counts(cluster)) for cluster in made.fleet().clusters] == [715, 715, 715]
    assert [node.number for _, node in made.real_nodes()] == [1, 2, 3]
    assert len(set(made.ports)) == 3
    made.forget()
    assert RunPlan.read(tmp_path / "run") is None


def test_each_way_takes_half_of_the_round_trip(tmp_path):
    spaces = [Namespace("dc-core", "n-1", 1, (1,)), Namespace("edge-microdc", "n-2", 2)]
    config = json.loads(link_config(spaces, read_fleet().routes, [(16_443, spaces[0], 6443)], tmp_path / "ready"))
    assert [path["DelayUs"] for path in config["Paths"]] == [17_500, 17_500]
    assert config["Clusters"][0]["Networks"] == ["10.77.1.0/24", "10.88.1.0/24"]
    assert config["Forwards"][0]["Listen"] == "127.0.0.1:16443"


def test_netem_delays_what_goes_to_each_other_cluster_by_half():
    routes = read_fleet().routes
    script = shaping_script("dc-core", {"edge-microdc": ["172.18.0.5", "172.18.0.6"]}, routes)
    assert "handle 20: netem limit 10000 delay 17.5ms" in script
    assert script.count("u32 match ip dst 172.18.0.") == 2
    assert script in daemon_set(script)["spec"]["template"]["spec"]["containers"][0]["command"][2]
    with pytest.raises(ValueError, match="no entry between dc-core and elsewhere"):
        shaping_script("dc-core", {"elsewhere": ["172.18.0.5"]}, routes)
