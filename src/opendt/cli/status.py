"""``opendt status``: whether a process follows datacenters, and how far each of them is."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from opendt.cli.words import duration, moment

if TYPE_CHECKING:
    from opendt.orchestrator.settings_model import Settings
    from opendt.verification.ledger import Ledger

_ERRORS: Final = 3
_SILENT_MS: Final = 30_000
"""Age of a health file, written every second, from which on a process is said to be silent."""
_COUNTS: Final = {"late_count": "late", "duplicate_count": "twice", "dead_letter_count": "refused"}


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Settings (TOML, or JSON by suffix); opendt.toml if it is there.",
)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def command(config: Path | None, as_json: bool) -> None:
    """Say whether a process runs, and of each datacenter: its window, lag, watermark, counts and last errors.

    Windows and errors are those of the ledger; lag and counts are those of the process, as of its last sign of life.
    While the ledger is out of reach, what the process says of itself is printed, and the exit code is 1.
    """
    from opendt.cli.ledger import opened_ledger
    from opendt.model.errors import LedgerError
    from opendt.orchestrator.settings import load_settings

    settings = load_settings(config)
    processes = _processes(settings)
    health = _health(settings, processes)
    _refuse_nothing(settings, bool(processes), health)
    try:
        with opened_ledger(None, config) as ledger:
            status = _status(processes, health, ledger, _now_ms())
    except LedgerError:
        if health is not None and any(one["is_alive"] for one in processes):
            _show(_status_without_ledger(processes, health, settings, _now_ms()), as_json)
        raise
    _show(status, as_json)


def _show(status: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(status, indent=2, ensure_ascii=False))
        return
    for line in _lines(status):
        click.echo(line)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _processes(settings: Settings) -> list[dict[str, Any]]:
    from opendt.orchestrator.pid_file import pid_files

    found = pid_files(settings.state_dir)
    return [{"pid": one.pid, "is_alive": one.is_held, "file": str(one.path)} for one in found]


def _health(settings: Settings, processes: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What the process said last; of several, what they say together."""
    from opendt.orchestrator.pid_file import PID_FILE, health_beside

    others = [one["pid"] for one in processes if one["is_alive"] and one["pid"] and Path(one["file"]).name != PID_FILE]
    paths = [settings.health_path, *(health_beside(settings.health_path, pid) for pid in others)]
    found = [health for path in paths if (health := _read_health(path)) is not None]
    if not found:
        return None
    latest = max(found, key=lambda health: int(health.get("time_ms", 0)))
    together = {name: one for health in found for name, one in health.get("datacenters", {}).items()}
    return {**latest, "datacenters": together}


def _read_health(path: Path) -> dict[str, Any] | None:
    from opendt.model.errors import FormatError
    from opendt.orchestrator.health import HealthFile

    try:
        health: Any = HealthFile(path).read()
    except ValueError as error:
        raise FormatError(path, "", str(error), "what `opendt run` writes", "Remove it.") from error
    if health is None or (isinstance(health, dict) and isinstance(health.get("datacenters", {}), dict)):
        return health
    raise FormatError(path, "", "other content", "what `opendt run` writes", "Remove it.")


def _refuse_nothing(settings: Settings, has_process: bool, health: Mapping[str, Any] | None) -> None:
    from opendt.model.errors import InputError

    if has_process or health is not None or settings.ledger_url is not None:
        return
    if not (settings.state_dir / "ledger.sqlite").exists():
        expected = "what a process that follows datacenters keeps there"
        hint = "Begin with `opendt run`, or name the settings of one that runs with --config."
        raise InputError("state_dir", f"nothing in {settings.state_dir}", expected, hint)


def _status(
    processes: list[dict[str, Any]], health: Mapping[str, Any] | None, ledger: Ledger, now_ms: int
) -> dict[str, Any]:
    lives = {} if health is None else health.get("datacenters", {})
    names = sorted({*ledger.datacenters(), *lives})
    sign_ms = None if health is None else now_ms - int(health.get("time_ms", now_ms))
    return {
        "status": _word(processes, health, sign_ms),
        "processes": processes,
        "waits_for": None if health is None else health.get("waits_for"),
        "last_sign_of_life_ms": sign_ms,
        "ledger": ledger.place,
        "errors": _errors(ledger, ""),
        "datacenters": {name: _datacenter(name, lives.get(name, {}), ledger) for name in names},
    }


def _status_without_ledger(
    processes: list[dict[str, Any]], health: Mapping[str, Any], settings: Settings, now_ms: int
) -> dict[str, Any]:
    """What the process says of itself."""
    from opendt.orchestrator.settings_model import without_password

    sign_ms = now_ms - int(health.get("time_ms", now_ms))
    absent: dict[str, Any] = {"score": None, "positions": [], "errors": []}
    lives = {
        name: {**one, "window": one.get("window_index"), **absent}
        for name, one in health.get("datacenters", {}).items()
    }
    return {
        "status": _word(processes, health, sign_ms),
        "processes": processes,
        "waits_for": health.get("waits_for"),
        "last_sign_of_life_ms": sign_ms,
        "ledger": without_password(str(settings.ledger_address)),
        "errors": [],
        "datacenters": lives,
    }


def _word(processes: list[dict[str, Any]], health: Mapping[str, Any] | None, sign_ms: int | None) -> str:
    said = "" if health is None else str(health.get("status", ""))
    if any(one["is_alive"] for one in processes):
        is_silent = sign_ms is not None and sign_ms > _SILENT_MS
        return "silent" if is_silent else said if said not in ("", "stopped") else "running"
    return "killed" if processes else "stopped"


def _datacenter(name: str, live: Mapping[str, Any], ledger: Ledger) -> dict[str, Any]:
    last = ledger.last_window(name)
    positions = ledger.positions(name)
    brief = {key: live.get(key) for key in ("status", "watermark_ms", "lag_ms", "power_w", "energy_kwh", *_COUNTS)}
    # Under a ledger that several processes share, the process asked here may not be the one that follows this datacenter.
    if brief["watermark_ms"] is None and positions and last is not None:
        watermark_ms = max(one.watermark_ms for one in positions)
        brief |= {"watermark_ms": watermark_ms, "lag_ms": watermark_ms - last.end_ms}
    return {
        **brief,
        "window": None if last is None else last.index,
        "window_end_ms": None if last is None else last.end_ms,
        "score": None if last is None else last.score,
        "topology_version": None if last is None else last.topology_version,
        "slo_version": None if last is None else last.slo_version,
        "positions": [asdict(one) for one in positions],
        "errors": _errors(ledger, name),
    }


def _errors(ledger: Ledger, datacenter: str) -> list[dict[str, Any]]:
    from opendt.cli.events import said

    found = ledger.events(0, datacenter, _ERRORS, levels=("warning", "error"), newest=True)
    return [
        {
            "time_ms": one.event.time_ms,
            "level": one.event.level,
            "kind": one.event.kind,
            "text": said(one.event.kind, one.event.content),
        }
        for one in found
    ]


def _lines(status: Mapping[str, Any]) -> list[str]:
    alive = [str(one["pid"]) for one in status["processes"] if one["is_alive"]]
    sign_ms = status["last_sign_of_life_ms"]
    head = [status["status"] + (f" for {status['waits_for']}" if status["status"] == "waiting" else "")]
    if alive:
        head.append(f"process {', '.join(alive)}")
    elif status["status"] == "killed":
        head.append(
            f"process {status['processes'][0]['pid']} is gone without a word; `opendt run` goes on where it was"
        )
    if sign_ms is not None:
        head.append(f"last sign of life {duration(max(sign_ms, 0))} ago")
    lines = [", ".join(head), f"ledger {status['ledger']}"]
    lines += [_error_line(error, "") for error in status["errors"]]
    for name, one in status["datacenters"].items():
        lines += [_datacenter_line(name, one), *(_error_line(error, f"{name}: ") for error in one["errors"])]
    if not status["datacenters"]:
        lines.append("no datacenter yet: windows come when records do")
    return lines


def _datacenter_line(name: str, one: Mapping[str, Any]) -> str:
    if one["window"] is None:
        return f"{name}: no window yet"
    facts = [f"window {one['window']:,} until {moment(one['window_end_ms'])}"]
    if one["watermark_ms"] is not None:
        facts.append(f"watermark {moment(one['watermark_ms'])}, lag {duration(max(one['lag_ms'] or 0, 0))}")
    if one["power_w"] is not None:
        facts.append(f"{one['power_w'] / 1000.0:,.2f} kW")
    if one["energy_kwh"] is not None:
        facts.append(f"{one['energy_kwh']:,.1f} kWh")
    if one["topology_version"] is not None:
        facts.append(f"topology {one['topology_version']}, objectives {one['slo_version']}")
    facts += [f"{one[key]:,} {word}" for key, word in _COUNTS.items() if one[key]]
    return f"{name}: {', '.join(facts)}"


def _error_line(error: Mapping[str, Any], where: str) -> str:
    return f"  {error['level']} {moment(error['time_ms'])} {where}{error['text']}"
