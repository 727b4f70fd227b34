from __future__ import annotations

import pickle

import pytest

from opendt.model import FormatError, InputError, ModelError, OpenDTError


def test_message_names_file_key_found_expected_and_remedy():
    error = FormatError("topology.json", "clusters[0].count", -4, "a whole number >= 1", "Give the number of clusters.")
    assert str(error) == (
        "topology.json: clusters[0].count: found -4, expected a whole number >= 1. Give the number of clusters."
    )


def test_message_without_place_or_hint_has_no_empty_parts():
    assert str(FormatError("x.json", "", "nothing", "something")) == "x.json: found nothing, expected something"
    assert str(ModelError("", "nothing", "something")) == "found nothing, expected something"


def test_long_values_are_shortened():
    assert len(str(ModelError("ids", ["x"] * 10_000, "less"))) < 200


@pytest.mark.parametrize(
    "error", [FormatError("f", "p", "x", "y", "z"), ModelError("p", "x", "y"), InputError("p", 1, "y")]
)
def test_errors_survive_a_process_border(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert isinstance(copy, OpenDTError)
