"""Whatever a window holds comes back from the database as it went in, with the same hash."""

from __future__ import annotations

import io
import json
import math
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from opendt.verification.ledger import Ledger
from opendt.verification.ledger_chain import (
    SECTIONS,
    as_json,
    canonical_json,
    differing_sections,
    first_difference,
    seal,
)
from opendt.verification.ledger_rows import (
    DocumentRow,
    EventRow,
    ObservationRow,
    PositionRow,
    PredictionRow,
    VerdictRow,
    WindowEntry,
)

WHOLE = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
NAME = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
FLOAT = st.floats(width=64)
JSON = st.recursive(
    st.none() | st.booleans() | WHOLE | FLOAT | TEXT | FLOAT.map(np.float64),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=5)
RATIO = st.none() | FLOAT | st.integers(-3, 3)
MOMENT = st.integers(0, 2**50)
DOCUMENTS = st.lists(st.builds(DocumentRow, NAME, OBJECT, NAME | st.just("")), max_size=3, unique_by=lambda row: row.id)


@st.composite
def predictions(draw):
    ticks = draw(st.integers(0, 6))
    column = st.lists(FLOAT, min_size=ticks, max_size=ticks)
    values = draw(st.dictionaries(NAME, column, min_size=1, max_size=3))
    return PredictionRow(draw(NAME), draw(MOMENT), draw(MOMENT), draw(MOMENT), values, draw(NAME), draw(NAME))


@st.composite
def windows(draw):
    said = draw(st.lists(predictions(), max_size=3, unique_by=lambda row: (row.kind, row.issued_ms)))
    readings = draw(st.lists(st.tuples(WHOLE, FLOAT), max_size=5))
    start_ms = draw(MOMENT)
    return WindowEntry(
        datacenter=draw(NAME),
        index=0,
        start_ms=start_ms,
        end_ms=start_ms + draw(st.integers(1, 10**9)),
        input_hash=draw(NAME),
        metrics=draw(OBJECT),
        slo=draw(st.lists(OBJECT, max_size=2)),
        score=draw(RATIO),
        predictions=said,
        observation=ObservationRow([time for time, _ in readings], [power for _, power in readings]),
        verdicts=[VerdictRow(row.kind, row.issued_ms, draw(MOMENT), *(draw(RATIO) for _ in range(5))) for row in said],
        proposals=draw(DOCUMENTS),
        certificates=draw(DOCUMENTS),
        decisions=draw(DOCUMENTS),
        events=draw(st.lists(st.builds(EventRow, NAME, MOMENT, OBJECT, NAME), max_size=3)),
        positions=draw(
            st.lists(
                st.builds(PositionRow, NAME, st.integers(0, 9), MOMENT, MOMENT, WHOLE),
                max_size=3,
                unique_by=lambda row: (row.topic, row.partition),
            )
        ),
    )


@given(windows())
@example(WindowEntry("0", 0, 0, 1, "0", metrics={"x": -0.0}, score=-0.0))
def test_a_window_comes_back_with_its_hash(window):
    with Ledger.open("sqlite://") as ledger:
        assert ledger.record_window(window) is True
        assert ledger.record_window(window) is False
        (back,) = ledger.entries(window.datacenter)
        assert ledger.verify() == []
        stream = io.BytesIO()
        ledger.export(stream)
    given_ = seal(window, (None, None), "0" * 64)
    assert seal(back.entry, (None, None), "0" * 64) == given_
    assert back.hash == given_.hash
    assert given_.content in stream.getvalue()
    for one, other in zip(window.predictions, back.entry.predictions, strict=True):
        for name, column in one.values.items():  # NaN and -0.0 included, which JSON cannot all tell
            assert struct.pack(f"<{len(column)}d", *column) == struct.pack(f"<{len(column)}d", *other.values[name])


@pytest.fixture(scope="module")
def postgres_ledger(postgres_server):
    with Ledger.open(postgres_server.create_database("roundtrip")) as ledger:
        yield ledger


@given(windows())
def test_postgresql_keeps_the_same(postgres_ledger, window):
    known = len(postgres_ledger.datacenters())
    window = replace(window, datacenter=f"{window.datacenter} {known}")
    assert postgres_ledger.record_window(window) is True
    (back,) = postgres_ledger.entries(window.datacenter)
    assert seal(back.entry, (None, None), "0" * 64) == seal(window, (None, None), "0" * 64)
    assert postgres_ledger.verify([window.datacenter]) == []


@given(JSON)
def test_canonical_json_is_its_own_canonical_form(value):
    text = canonical_json(value)
    again = json.loads(text)
    assert canonical_json(again) == text
    assert first_difference(as_json(value), again, "x") is None


@given(st.dictionaries(TEXT, WHOLE))
def test_the_order_of_keys_does_not_matter(value):
    assert canonical_json(dict(reversed(value.items()))) == canonical_json(value)


@given(FLOAT)
def test_numbers_keep_their_last_bit(value):
    back = json.loads(canonical_json(value))
    assert back is None if not math.isfinite(value) else struct.pack("d", back) == struct.pack("d", value)


@given(windows(), windows())
def test_only_equal_windows_have_equal_hashes(one, other):
    first, second = seal(one, (None, None), ""), seal(other, (None, None), "")
    assert (first.hash == second.hash) == (first.content == second.content)
    changed = [name for name in SECTIONS if first.sections[name] != second.sections[name]]
    assert differing_sections(first.digests, second.digests) == changed
    if changed:
        assert first_difference(as_json(first.content), as_json(second.content), "window") is not None
