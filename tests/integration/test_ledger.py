"""What the ledger promises, on SQLite and on a real PostgreSQL alike."""

from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from opendt.model.errors import LedgerError, ModelError
from opendt.verification.ledger import Ledger
from opendt.verification.ledger_chain import canonical_json, seal
from opendt.verification.ledger_patience import Patience
from opendt.verification.ledger_rows import DocumentRow, EventRow, PositionRow, VersionRow
from tests.unit.verification.ledger_sample import SLO, TOPOLOGY, WINDOW_MS, entry, fill


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    if request.param == "postgres":
        return request.getfixturevalue("postgres")
    return f"sqlite:///{tmp_path}/ledger.sqlite"


@pytest.fixture
def ledger(url):
    with Ledger.open(url, clock_ms=lambda: 12345, patience=Patience(limit_s=0)) as opened:
        yield opened


def exported(ledger, datacenters=None):
    stream = io.BytesIO()
    ledger.export(stream, datacenters)
    return stream.getvalue()


def spoil(url, statement):
    """Change the database behind the ledger's back, past its foreign keys as well."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET session_replication_role = replica")
        assert connection.exec_driver_sql(statement).rowcount > 0


def complaints(ledger):
    return [str(problem) for problem in ledger.verify()]


def as_json(entry):
    return seal(entry, (None, None), "").content


def test_what_was_recorded_comes_back(ledger):
    fill(ledger, 14)
    whole = list(ledger.entries("surf"))
    assert [window.entry.index for window in whole] == list(range(14))
    assert [as_json(window.entry) for window in whole] == [as_json(entry(index)) for index in range(14)]
    assert whole[3].recorded_ms == 12345
    light = list(ledger.windows("surf", 2, 5))
    assert [row.index for row in light] == [2, 3, 4, 5]
    assert light[0].metrics == {"energy_kwh": entry(2).metrics["energy_kwh"], "tasks": 2, "p95_wait_s": None}
    assert ledger.last_window("surf").hash == whole[-1].hash
    assert ledger.positions("surf") == entry(13).positions
    assert ledger.datacenters() == ["surf"]
    assert ledger.last_window("other") is None


def test_a_window_recorded_again_is_the_same_or_refused(ledger):
    fill(ledger, 6)
    before = exported(ledger)
    assert ledger.record_window(entry(2)) is False
    assert ledger.record_window(entry(5)) is False
    with pytest.raises(LedgerError, match=r"surf, window 2: .*metrics.tasks: 2 there, 7 given"):
        ledger.record_window(entry(2, metrics=dict(entry(2).metrics) | {"tasks": 7}))
    with pytest.raises(LedgerError, match=r"window 5: .*predictions: 1 rows there, 0 given \(and in window\)"):
        ledger.record_window(entry(5, predictions=[], score=9.0))
    assert exported(ledger) == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (entry(4), "window 4: expected window 3"),
        (entry(3, end_ms=entry(3).start_ms), "expected one after its start"),
        (entry(3, start_ms=entry(3).start_ms + 1), "where the window before it ends"),
        (entry(3, topology_version=2), "topology version 2 is not in the ledger"),
        (entry(3, metrics={"x": object()}), "window 3, metrics: found .*, expected what JSON can say"),
        (entry(3, metrics={"x": 2**64}), "expected what JSON can say"),
        (entry(3, predictions=entry(0).predictions), "(?i)unique"),
    ],
)
def test_a_window_that_does_not_fit_is_refused_whole(ledger, wrong, message):
    fill(ledger, 3)
    before = exported(ledger), ledger.counts("surf")
    with pytest.raises(LedgerError, match=message):
        ledger.record_window(wrong)
    assert (exported(ledger), ledger.counts("surf")) == before
    assert ledger.record_window(entry(3)) is True


def test_a_verdict_needs_its_prediction(ledger):
    fill(ledger, 2)
    stray = replace(entry(2).verdicts[0], kind="nobody")
    with pytest.raises(LedgerError, match=r"(?i)foreign key"):
        ledger.record_window(entry(2, verdicts=[stray]))


def test_the_first_window_is_number_0(ledger):
    ledger.record_topology_version("surf", TOPOLOGY)
    ledger.record_slo_version("surf", SLO)
    with pytest.raises(LedgerError, match="expected window 0"):
        ledger.record_window(entry(1))


def test_names_that_no_database_keeps_are_refused():
    with pytest.raises(ModelError, match="datacenter: found nothing, expected a name"):
        entry(0, datacenter="")
    with pytest.raises(ModelError, match="NUL"):
        entry(0, datacenter="a\0b")
    with pytest.raises(ModelError, match="UTF-8"):
        DocumentRow("\ud800", {})


def test_equal_inputs_give_equal_exports_on_both_databases(tmp_path, postgres):
    """Also where datacenters came in another order, beside events of the process, at other times of day."""
    names = ["surf", "Zürich", "a'b\"; --", "über"]
    with (
        Ledger.open(postgres, clock_ms=lambda: 1) as one,
        Ledger.open(tmp_path / "x.sqlite", clock_ms=lambda: 2) as other,
    ):
        for name in names:
            fill(one, 5, name)
        for name in reversed(names):
            other.record_event(EventRow("started", 77), name)
            fill(other, 5, name)
        for ledger in (one, other):
            for id_ in ("x", "Ä", "B"):
                ledger.record_plans("surf", [DocumentRow(id_, {"steps": [1.0, 1]})])
        assert exported(one) == exported(other)
        assert exported(one, ["über"]) == exported(other, ["über"])
        assert one.verify() == other.verify() == []
        lines = [json.loads(line) for line in exported(one).splitlines()]
    assert lines[0] == {"format": "opendt-ledger-1"}
    assert [line["content"]["datacenter"] for line in lines[1:] if line["line"] == "topology_version"] == sorted(names)
    assert not any("recorded_ms" in json.dumps(line) for line in lines)


def test_the_chain_can_be_checked_from_an_export_alone(ledger):
    fill(ledger, 5)
    lines = [json.loads(line) for line in exported(ledger).splitlines()[1:]]
    previous = "0" * 64
    windows = [line for line in lines if line["line"] == "window"]
    for line in windows:
        assert line["previous_hash"] == previous
        previous = hashlib.sha256(previous.encode() + canonical_json(line["content"])).hexdigest()
        assert line["hash"] == previous
    assert len(windows) == 5


def test_versions_are_numbered_and_the_same_again(ledger):
    assert ledger.record_topology_version("surf", TOPOLOGY) is True
    assert ledger.record_topology_version("surf", replace(TOPOLOGY, from_index=7)) is False
    with pytest.raises(LedgerError, match=r"topology version 1.clusters\[0\].hosts: 4 there, 5 given"):
        ledger.record_topology_version("surf", VersionRow(1, 0, {"clusters": [{"name": "dc", "hosts": 5}]}))
    with pytest.raises(LedgerError, match="version 3 comes without the one before"):
        ledger.record_topology_version("surf", VersionRow(3, 0, {}))
    assert ledger.record_topology_version("surf", VersionRow(2, 4, {"clusters": []}, "human")) is True
    first, second = ledger.topology_versions("surf")
    assert (first.row, second.row.version, second.row.source) == (TOPOLOGY, 2, "human")
    assert second.previous_hash == first.hash
    assert ledger.slo_versions("surf") == ()
    assert ledger.datacenters() == ["surf"]


def test_documents_are_recorded_once_by_id(ledger):
    proposal = DocumentRow("p-1", {"hosts": 2})
    assert [ledger.record_proposal("surf", proposal), ledger.record_proposal("surf", proposal)] == [True, False]
    with pytest.raises(LedgerError, match="proposals p-1 is there with another content"):
        ledger.record_proposal("surf", DocumentRow("p-1", {"hosts": 3}))
    assert ledger.record_proposal("other", DocumentRow("p-1", {"hosts": 3})) is True
    assert ledger.record_certificate("surf", DocumentRow("c-1", {}, "p-1")) is True
    assert ledger.record_decision("surf", DocumentRow("d-1", {"accepted": True}, "p-1")) is True
    assert ledger.record_decision("surf", DocumentRow("d-2", {"accepted": False}, "p-2")) is True
    assert ledger.record_plans("surf", [DocumentRow("plan", {})]) is True
    assert [row.document.id for row in ledger.documents("decisions", "surf", proposal_id="p-1")] == ["d-1"]
    assert [row.document.id for row in ledger.documents("decisions", "surf")] == ["d-1", "d-2"]
    with pytest.raises(LedgerError, match="expected one of proposals"):
        ledger.documents("windows", "surf")


def test_events_are_followed_by_number(ledger):
    fill(ledger, 2)
    assert ledger.record_event(EventRow("broker_away", 5, {"for_s": 60}, "warning")) is True
    assert ledger.record_event(EventRow("broker_away", 5, {"for_s": 60}, "warning")) is False
    assert ledger.record_event(EventRow("stopped", 6), "surf") is True
    everything = ledger.events()
    assert [row.event.kind for row in everything] == ["window_closed", "late"] * 2 + ["broker_away", "stopped"]
    assert [row.window_index for row in everything] == [0, 0, 1, 1, None, None]
    assert ledger.events(everything[3].id) == everything[4:]
    assert ledger.events(datacenter="") == [everything[4]]
    assert ledger.events(everything[0].id, "surf", limit=2) == everything[1:3]


def test_predictions_and_verdicts_are_found_by_kind_and_moment(ledger):
    fill(ledger, 14)
    assert [row.issued_ms for row in ledger.predictions("surf", kind="blind_hour")] == [
        entry(0).end_ms,
        entry(12).end_ms,
    ]
    row = ledger.predictions("surf", kind="blind_hour", since_ms=entry(1).end_ms)[0]
    assert row == next(row for row in entry(12).predictions if row.kind == "blind_hour")
    found = ledger.verdicts("surf", kind="window", since_ms=entry(2).start_ms, until_ms=entry(4).start_ms)
    assert found == [entry(2).verdicts[0], entry(3).verdicts[0]]
    assert found[0].skill_ratio is None


def test_a_tidy_ledger_has_everything_in_its_file(ledger, tmp_path):
    ledger.record_event(EventRow("stopped", 6), "surf")
    ledger.tidy()
    if not ledger.is_file:
        return  # nothing to tidy, and no harm
    alone = tmp_path / "alone.sqlite"
    alone.write_bytes(Path(ledger.place).read_bytes())  # without the log beside it
    with Ledger.open(alone, read_only=True) as copy:
        assert [row.event.kind for row in copy.events()] == ["stopped"]


def test_a_ledger_is_opened_again_where_it_was(url):
    with Ledger.open(url) as ledger:
        fill(ledger, 3)
        before = exported(ledger)
    with Ledger.open(url) as ledger:
        assert exported(ledger) == before
        assert ledger.record_window(entry(3)) is True
        assert ledger.verify() == []


def test_a_reader_changes_nothing(url, ledger):
    fill(ledger, 2)
    with Ledger.open(url, read_only=True, patience=Patience(limit_s=0)) as reader:
        assert exported(reader) == exported(ledger)
        with pytest.raises(LedgerError, match=r"(?i)read.?only"):
            reader.record_window(entry(2))
        fill(ledger, 4)
        assert reader.last_window("surf").index == 3


SPOILED = {
    "a metric": ("UPDATE windows SET metrics = '{\"tasks\":9}' WHERE window_index = 2", "window 2: .*: metrics"),
    "a score": ("UPDATE windows SET score = 1.5 WHERE window_index = 2", "window 2: .*recorded: window"),
    "bytes": ("UPDATE windows SET metrics = '{' WHERE window_index = 2", "window 2: .*cannot be read"),
    "a prediction": ("UPDATE predictions SET version = 'x' WHERE window_index = 2", "window 2: .*: predictions"),
    "a prediction gone": ("DELETE FROM predictions WHERE window_index = 2", "window 2: .*: predictions"),
    "what a verdict judged": ("DELETE FROM predictions WHERE window_index = 2", "window 3: a verdict on window of"),
    "a reading gone": ("DELETE FROM observations WHERE window_index = 2", "window 2: .*0 rows of observations"),
    "an event": ("UPDATE events SET kind = 'x' WHERE window_index = 2 AND level = 'info'", "window 2: .*: events"),
    "a verdict": ("UPDATE verdicts SET error_ratio = 0 WHERE window_index = 2", "window 2: .*: verdicts"),
    "a decision": ("UPDATE decisions SET content = '{}' WHERE id = 'd1'", "window 1: .*: decisions"),
    "a document's hash": ("UPDATE proposals SET hash = 'x' WHERE id = 'p1'", "window 1, proposals p1: its hash is x"),
    "a hash": ("UPDATE windows SET hash = 'x' WHERE window_index = 2", "window 3: the hash of the window before"),
    "a window gone": ("DELETE FROM windows WHERE window_index = 2", "window 3: expected window 2: windows are missing"),
    "its rows left": ("DELETE FROM windows WHERE window_index = 2", "verdicts: 1 rows of windows that are not there"),
    "the last one gone": ("DELETE FROM windows WHERE window_index = 5", r"dc.power\[0\]: 50 not those of the last"),
    "an offset": (
        "UPDATE source_offsets SET next_offset = 999 WHERE partition = 1",
        r"dc.workload\[1\]: 999 not those",
    ),
    "a topology": ("UPDATE topology_versions SET content = '{}'", "topology version 1: its hash is"),
    "a topology gone": ("DELETE FROM topology_versions", "window 0: .*: topology_version"),
    "an SLO unreadable": ("UPDATE slo_versions SET content = '['", "slo versions: .*cannot be read"),
    "a plan": ("UPDATE plans SET content = '{\"a\":1}'", "plans plan-1: its hash is"),
    "a time": ("UPDATE windows SET start_ms = start_ms + 1 WHERE window_index = 4", "window 4: starts at"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_verify_says_what_does_not_match(url, ledger, what):
    statement, message = SPOILED[what]
    fill(ledger, 6)
    ledger.record_plans("surf", [DocumentRow("plan-1", {})])
    assert ledger.verify() == []
    spoil(url, statement)
    found = complaints(ledger)
    assert any(re.search(message, line) for line in found), found
    assert all(line.startswith("datacenter surf: ") for line in found)


def test_a_window_taken_out_is_not_put_back(url, ledger):
    fill(ledger, 4)
    spoil(url, "DELETE FROM windows WHERE window_index = 2")
    with pytest.raises(LedgerError, match="window 2: is missing, though later ones are recorded"):
        ledger.record_window(entry(2))


def test_a_window_spoilt_is_not_confirmed(url, ledger):
    fill(ledger, 4)
    spoil(url, "UPDATE windows SET hash = 'x' WHERE window_index = 2")
    with pytest.raises(LedgerError, match="window 2: is recorded with a hash that its rows do not have"):
        ledger.record_window(entry(2))


def test_verify_sees_a_stream_that_goes_back(ledger):
    ledger.record_topology_version("surf", TOPOLOGY)
    ledger.record_slo_version("surf", SLO)
    for index, offset in enumerate([0, 10, 8]):
        ledger.record_window(entry(index, positions=[PositionRow("dc.power", 0, offset, offset + 1, 5)]))
    assert complaints(ledger) == [
        "datacenter surf: window 2: dc.power[0]: resume_offset is 8 after 10, expected it not to go back",
        "datacenter surf: window 2: dc.power[0]: next_offset is 9 after 11, expected it not to go back",
    ]


def test_one_follower_a_datacenter(url, ledger):
    with Ledger.open(url, patience=Patience(limit_s=0)) as other:
        with ledger.lease("surf"), other.lease("elsewhere"):
            fill(ledger, 1)
            with pytest.raises(LedgerError, match=r"datacenter surf is followed by process \d+"), other.lease("surf"):
                pytest.fail("two have it")
            with pytest.raises(LedgerError, match="surf is followed by process"):
                other.record_window(entry(1))
            with pytest.raises(LedgerError, match="followed by this process already"), ledger.lease("surf"):
                pytest.fail("twice")
            # What people decide needs no lease.
            assert other.record_decision("surf", DocumentRow("d", {})) is True
        with other.lease("surf"):
            assert other.record_window(entry(1)) is True


@pytest.mark.parametrize("name", ["../up", "a/b", "…", "x" * 300, "CON", "a b\n"])
def test_any_name_can_be_followed(url, ledger, name):
    with ledger.lease(name):
        fill(ledger, 2, name)
        with Ledger.open(url) as other, pytest.raises(LedgerError, match="followed by"), other.lease(name):
            pytest.fail("two have it")
    assert ledger.datacenters() == [name]
    assert ledger.verify() == []


def test_a_file_has_one_lease_by_whatever_path_it_is_reached(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "here").symlink_to(tmp_path / "there")
    with (
        Ledger.open(tmp_path / "there" / "x.sqlite") as one,
        Ledger.open(tmp_path / "here" / "x.sqlite") as other,
        one.lease("surf"),
        pytest.raises(LedgerError, match="followed by"),
        other.lease("surf"),
    ):
        pytest.fail("two have it")


def test_waiting_for_a_lease_ends_when_it_is_given_back(url, ledger):
    held = ledger.lease("surf")
    held.__enter__()
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds
        if now[0] > 0.5:
            held.__exit__(None, None, None)

    with Ledger.open(url, monotonic_s=lambda: now[0], sleep=sleep) as other, other.lease("surf", wait_s=5):
        assert 0.5 < now[0] < 1


def test_two_ledgers_write_in_turn(url, ledger):
    """Without a lease held, each call takes it for itself."""
    fill(ledger, 1)
    with Ledger.open(url) as other:
        for index in range(1, 9):
            assert (ledger, other)[index % 2].record_window(entry(index)) is True
            assert (other, ledger)[index % 2].record_window(entry(index)) is False
        assert other.verify() == []


def test_pages_are_joined(ledger, monkeypatch):
    monkeypatch.setattr("opendt.verification.ledger_reading._PAGE", 4)
    fill(ledger, 10)
    assert [row.index for row in ledger.windows("surf")] == list(range(10))
    assert [row.entry.index for row in ledger.entries("surf", 3, 8)] == [3, 4, 5, 6, 7, 8]
    assert list(ledger.entries("surf", 20)) == []
    assert ledger.verify() == []
    assert entry(9).end_ms - entry(0).start_ms == 10 * WINDOW_MS
