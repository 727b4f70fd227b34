"""`opendt optimize` answers once on a record: a table, a plot, a proposal, and the same as JSON."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from opendt.cli.main import run
from opendt.model.proposal import Proposal
from tests.small import fragments, tasks, topology, write_json, write_workload

SLO = {
    "version": 1,
    "window_s": 3600,
    "energy": {"target_kwh": 0.45, "tolerance_ratio": 0.0},
    "runtime": {"task_wait_p95": {"target_s": 30, "tolerance_ratio": 0.0}},
}


@pytest.fixture
def record(tmp_path):
    """Three tasks of a minute on eight hosts of 100 W at rest."""
    folder = write_workload(tmp_path / "record", tasks(), fragments())
    write_json(folder / "topology.json", topology(count=8))
    return folder


@pytest.fixture
def opendt(capsys, record, tmp_path):
    def command(*words, slo=SLO):
        file = write_json(tmp_path / "slo.json", slo)
        code = run(["optimize", "--trace", str(record), "--slo", str(file), "--drain", "1", *map(str, words)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


def test_a_search_names_the_cheapest_that_meets_the_objectives(opendt):
    code, out, err = opendt("--evaluations", "60")
    assert code == 0
    rows = out.splitlines()
    assert rows[1].startswith("now: no change")
    assert rows[1].rstrip().endswith("energy")
    assert rows[2].startswith("cheapest: ")
    assert rows[2].rstrip().endswith("all")
    assert "the objectives can be met" in err


def test_json_holds_everything(opendt):
    answer = json.loads(opendt("--evaluations", "60", "--json")[1])
    assert (answer["method"], answer["meets"]) == ("search", True)
    assert answer["best"]["meets"]
    assert answer["best"]["metrics"]["tasks_completed"] == 3
    assert answer["baseline"]["breached"] == ["energy"]
    assert answer["best"]["cost"] < answer["baseline"]["cost"]
    proposal = Proposal.model_validate(answer["proposal"])
    assert proposal.source == "search"
    assert [change.model_dump(mode="json") for change in proposal.changes] == answer["best"]["changes"]


def test_the_same_seed_gives_the_same_answer(opendt):
    assert opendt("--evaluations", "30", "--json") == opendt("--evaluations", "30", "--json")


def test_a_plot_and_a_proposal_are_written(opendt, tmp_path):
    plot, proposal = tmp_path / "front.svg", tmp_path / "proposal.json"
    code, _, err = opendt("--evaluations", "40", "--plot", plot, "--proposal", proposal)
    assert code == 0
    assert f"wrote {plot}" in err
    picture = ET.fromstring(plot.read_text())
    circles = [element.get("class") for element in picture.iter("{http://www.w3.org/2000/svg}circle")]
    assert {"now", "best", "knee", "tried"} <= set(circles)
    assert Proposal.model_validate_json(proposal.read_text()).changes


def test_what_cannot_be_met_is_said(opendt):
    code, out, err = opendt("--evaluations", "40", slo=SLO | {"energy": {"target_kwh": 1e-6}})
    assert code == 0
    assert "nearest: " in out
    assert "none of them meets all objectives" in err


def test_rules_go_step_by_step(opendt):
    code, out, err = opendt("--method", "rules", slo=SLO | {"energy": {"target_kwh": 0.5}})
    assert code == 0
    assert out.splitlines()[2].startswith("1: massive_downscale")
    assert "take 2 of 8 hosts away" in err
    answer = json.loads(opendt("--method", "rules", "--json")[1])
    assert [step["proposal"]["source"] for step in answer["steps"]][:1] == ["rule_based"]


def test_rules_with_nothing_to_say_leave_things_as_they_are(opendt, record, tmp_path):
    target = tmp_path / "proposal.json"
    fine = {"version": 1, "energy": {"target_kwh": 100.0}}
    write_json(record / "topology.json", topology(count=3))
    code, out, err = opendt("--method", "rules", "--proposal", target, slo=fine)
    assert code == 0
    assert len(out.splitlines()) == 2
    assert "nothing was proposed" in err
    assert "is not written" in err
    assert not target.exists()


def test_recorded_answers_of_a_language_model_are_played(opendt, tmp_path):
    said = {
        "changes": [{"type": "remove_hosts", "group": "g1", "count": 4}],
        "reason": "most hosts are idle",
        "expected": {"energy_ratio": -0.4, "task_wait_p95_ratio": None, "peak_power_ratio": None},
    }
    replies = write_json(tmp_path / "replies.json", {"repeat": True, "replies": [{"candidates": [said]}]})
    answer = json.loads(opendt("--method", "llm", "--replies", replies, "--json")[1])
    assert answer["steps"][0]["proposal"]["source"] == "llm"
    assert answer["steps"][0]["trial"]["metrics"]["hosts_up"] == 4
    assert answer["meets"]


def test_a_model_without_a_key_is_refused(opendt, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    code, _, err = opendt("--method", "llm")
    assert code == 2
    assert "--replies FILE" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "rules", "--plot", "x.svg"], "--plot needs --method search"),
        (["--budget", "0"], "--budget"),
        (["--load", "nan"], "--load"),
        (["--method", "luck"], "--method"),
    ],
)
def test_wrong_words_are_refused(opendt, words, message):
    code, _, err = opendt(*words)
    assert code == 2
    assert message in err


def test_bad_inputs_are_named(opendt, record):
    code, _, err = opendt(slo=SLO | {"version": 9})
    assert (code, err.count("\n")) == (1, 1)
    assert "slo.json" in err
    (record / "topology.json").unlink()
    code, _, err = opendt()
    assert code == 1
    assert "topology.json" in err


def test_more_load_needs_more_energy(opendt):
    def energy(*words):
        answer = json.loads(opendt("--evaluations", "4", "--json", *words)[1])
        return answer["baseline"]["metrics"]["energy_kwh"]

    assert energy("--load", "3") > energy() > energy("--load", "0.4")
