"""Sensors of a live system break in several ways: autonomy steps down within six windows, what would have been done without asking is not
done meanwhile, and after a good stretch autonomy is back.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from opendt.formats.opendc import read_topology
from opendt.formats.synthetic import START_EPOCH_MS, generate_week
from opendt.verification.ledger import Ledger
from tests.live import IS_SOAK, NAME, Live

pytestmark = pytest.mark.timeout(900 if IS_SOAK else 180)

HOUR_MS = 3_600_000
WINDOW_MS = 300_000
BREAKS_H = 6.0
WORKS_H = BREAKS_H + 7 / 12  # again, after seven windows
OPENS_H = 7  # before this nothing may be changed: what the gate says is about trust alone
HOURS = 17
TAKE_TWENTY = {
    "changes": [{"type": "remove_hosts", "hosts": {"type": "group", "group": "memory"}, "count": 20}],
    "reason": "hardly used at night",
}
SLO = {"version": 1, "window_s": 300, "energy": {"target_kwh": 5.0}}


def stuck(power_w, _):
    return np.full_like(power_w, power_w[0])


def scaled(power_w, _):
    return 2.0 * power_w


def offset(power_w, _):
    return power_w + 4_000.0


def noise(power_w, rng):
    return power_w + 10.0 * 30.0 * rng.standard_normal(len(power_w))  # ten times that of the plant's sensor


FAULTS = {"stuck": stuck, "silent": None, "scaled": scaled, "offset": offset, "noise": noise}
TRIED = list(FAULTS) if IS_SOAK else ["stuck", "silent"]


@pytest.fixture(scope="module")
def week(tmp_path_factory):
    return generate_week(3, tmp_path_factory.mktemp("trust") / "week")


def broken(week: Path, folder: Path, fault: str) -> Path:
    """The same week as a sensor tells it that is broken from one moment to another."""
    shutil.copytree(week, folder)
    table = pq.read_table(week / "consumption.parquet")
    times_ms = table["timestamp"].to_numpy()
    power_w = table["power_draw"].to_numpy().copy()
    hit = (times_ms > BREAKS_H * HOUR_MS) & (times_ms <= WORKS_H * HOUR_MS)
    if FAULTS[fault] is None:
        table = table.filter(pa.array(~hit))
    else:
        power_w[hit] = np.round(FAULTS[fault](power_w[hit], np.random.default_rng(1)))
        table = table.set_column(table.column_names.index("power_draw"), table.schema.field("power_draw"), [power_w])
    pq.write_table(table, folder / "consumption.parquet")
    return folder


def levels(one: Live) -> list[tuple[float, str, str]]:
    """Steps of trust: hours since the start, level before and after."""
    with Ledger.open(one.ledger_url, read_only=True) as ledger:
        found = ledger.events(kinds=["trust_changed"])
    steps = [(row.event.time_ms, row.event.content["before"], row.event.content["after"]) for row in found]
    return [((time_ms - START_EPOCH_MS) / HOUR_MS, before, after) for time_ms, before, after in steps]


def decided(one: Live) -> list[dict]:
    with Ledger.open(one.ledger_url, read_only=True) as ledger:
        found = [dict(row.document.content) for row in ledger.documents("decisions", NAME)]
    return [row | {"hour": (row["time_ms"] - START_EPOCH_MS) / HOUR_MS} for row in found]


@pytest.mark.parametrize("fault", TRIED)
def test_broken_sensors_end_autonomy_until_they_work_again(week, tmp_path, fault):
    folder = tmp_path / "live"
    folder.mkdir()
    for name in ("topology.json", "carbon.parquet"):
        shutil.copy(week / name, folder / name)
    (folder / "slo.json").write_text(json.dumps(SLO))
    gate = {"maintenance": [f"Mon {OPENS_H:02d}:00-24:00"]}
    options = {"environment": "live", "mode": "auto", "gate": gate}
    one = Live(folder, folder / "topology.json", log=folder / "log", settings=options)
    told = broken(week, tmp_path / "week", fault)
    one.replay(told, "--hours", OPENS_H)
    one.drain()
    first, *_ = early = levels(one)
    assert (first[1], first[2]) == ("auto", "approve")
    assert BREAKS_H < first[0] <= BREAKS_H + 6 * WINDOW_MS / HOUR_MS + 1e-9
    assert "auto" not in [after for _, _, after in early]

    (tmp_path / "patch.json").write_text(json.dumps(TAKE_TWENTY))
    one.command("propose", tmp_path / "patch.json")
    one.replay(told, "--hours", HOURS)
    one.drain()
    steps = levels(one)
    back_h = next(hour for hour, _, after in steps if after == "auto")
    assert back_h > WORKS_H + 3  # a good stretch is 36 windows
    rows = decided(one)
    mine = [row for row in rows if row["proposal_id"].startswith("human-")]
    level = steps[len(early) - 1][2]
    expected = (
        ("waiting", "for a person: opendt proposals accept")
        if level == "approve"
        else ("advised", f"trust is down to {level}")
    )
    assert [(row["verdict"], row["reason"]) for row in mine] == [expected]
    down = [row for row in rows if first[0] <= row["hour"] < back_h]
    assert down
    assert not [row for row in down if row["verdict"] == "applied"]
    after = [row for row in rows if row["hour"] >= back_h and row["verdict"] == "applied"]
    assert after
    assert read_topology(one.topology).host_count < 120
