"""What a run leaves behind: predictions and results as Parquet, a summary as JSON, a report as a page."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from opendt._engine import __version__ as engine_version
from opendt.formats.parquet import write_table
from opendt.twin.bands import FIVE_MINUTE_BAND, HOUR_BAND, AdaptiveBand
from opendt.twin.forecast import scaled_band
from opendt.twin.persistence import persistence
from opendt.verification.report_data import Predictions
from opendt.verification.score import ForecastScore, score

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from opendt.orchestrator.rehearsal import Journal, Rehearsal

__all__ = ["KINDS", "Outcome"]

KINDS: Final = ("hour", "window", "blind_hour")
_J_PER_KWH: Final = 3.6e6


class Outcome:
    """The journal of a run, judged.

    Parameters
    ----------
    rehearsal : Rehearsal
        That has run.
    wall_s : float
        How long it took.
    """

    def __init__(self, rehearsal: Rehearsal, wall_s: float) -> None:
        self.rehearsal = rehearsal
        self.journal: Journal = rehearsal.journal
        self.wall_s = wall_s
        tick_ms = rehearsal.environment.source.tick_ms
        self.measured_w = np.concatenate([*self.journal.measured_w, np.empty(0)])
        self.measured_time_ms = tick_ms * np.arange(1, len(self.measured_w) + 1, dtype=np.int64)
        self.predictions = {kind: self._predictions(kind) for kind in KINDS}
        self.scores = {kind: self._score(kind) for kind in KINDS if len(self.predictions[kind].target_ms)}
        self.series = _joined(self.journal.series)

    def _last_measured_w(self, issued_ms: NDArray[np.int64]) -> NDArray[np.float64]:
        """Last reading at or before each moment, W; NaN before the first."""
        known = np.flatnonzero(np.isfinite(self.measured_w))
        place = np.searchsorted(self.measured_time_ms[known], issued_ms, side="right") - 1
        last: NDArray[np.float64] = np.where(place >= 0, self.measured_w[known[np.maximum(place, 0)]], np.nan)
        return last

    def _predictions(self, kind: str) -> Predictions:
        """All predictions of a kind whose target lies within the time that was measured."""
        of_kind = [forecast for forecast in self.journal.forecasts if forecast.kind == kind]
        count = [len(forecast.target_ms) for forecast in of_kind]
        issued_ms = np.repeat(np.array([forecast.issued_ms for forecast in of_kind], np.int64), count)

        def column(name: str) -> NDArray[Any]:
            return np.concatenate([np.empty(0), *(getattr(forecast, name) for forecast in of_kind)])

        target_ms = column("target_ms").astype(np.int64)
        last_ms = min(self.rehearsal.environment.source.end_ms, self.measured_time_ms[-1]) if count else 0
        kept = target_ms <= last_ms
        return Predictions(
            issued_ms=issued_ms[kept],
            target_ms=target_ms[kept],
            power_w=column("power_w")[kept],
            lower_w=column("lower_w")[kept],
            upper_w=column("upper_w")[kept],
            persistence_w=self._last_measured_w(issued_ms[kept]),
        )

    def _score(self, kind: str) -> ForecastScore:
        predictions = self.predictions[kind]
        rival = self._rival_band(kind)
        return score(
            predictions.issued_ms,
            predictions.target_ms,
            predictions.power_w,
            predictions.lower_w,
            predictions.upper_w,
            self.measured_time_ms,
            self.measured_w,
            predictions.persistence_w,
            persistence_lower_w=rival[0],
            persistence_upper_w=rival[1],
            seed=self.rehearsal.settings.seed,
        )

    def _rival_band(self, kind: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Band of persistence, made by the same wrapper on the same occasions; NaN where it had nothing to say."""
        predictions = self.predictions[kind]
        tick_ms = self.rehearsal.environment.source.tick_ms
        interval_ms = self.rehearsal.settings.window_ms if kind == "window" else self.rehearsal.cycle.hour.interval_ms
        band = AdaptiveBand(scaled_band(FIVE_MINUTE_BAND if kind == "window" else HOUR_BAND, tick_ms, interval_ms))
        lower_w, upper_w = np.full_like(predictions.power_w, np.nan), np.full_like(predictions.power_w, np.nan)
        starts = np.flatnonzero(np.diff(predictions.issued_ms, prepend=-1))
        for start, stop in zip(starts, [*starts[1:], len(predictions.issued_ms)], strict=True):
            last_w = float(predictions.persistence_w[start])
            if not np.isfinite(last_w):
                continue
            mean_w, sd_w = persistence(last_w, int(stop - start))
            lower_w[start:stop], upper_w[start:stop] = band.issue(mean_w, sd_w)
            band.settle(self.measured_w[predictions.target_ms[start:stop] // tick_ms - 1])
        return lower_w, upper_w

    # -- writing ---------------------------------------------------------------------------------------------------

    def write(self, folder: Path) -> dict[str, Any]:
        """Write all files into a folder, each complete or not at all; gives the summary."""
        folder.mkdir(parents=True, exist_ok=True)
        self._write_predictions(folder / "predictions.parquet")
        self._write_windows(folder / "windows.parquet")
        self._write_proposals(folder / "proposals.parquet")
        self._write_curves(folder / "curves.parquet")
        self._write_series(folder / "series.parquet")
        summary = self.summary()
        _write_json(folder / "summary.json", summary)
        return summary

    def _write_predictions(self, file: Path) -> None:
        import pyarrow as pa

        parts = []
        for kind, predictions in self.predictions.items():
            columns: dict[str, Any] = {
                name: getattr(predictions, name) for name in ("issued_ms", "target_ms", "power_w", "lower_w", "upper_w")
            }
            columns["forecast"] = pa.array([kind] * len(predictions.target_ms), pa.string())
            parts.append(pa.table(columns))
        write_table(pa.concat_tables(parts).combine_chunks(), file)

    def _write_windows(self, file: Path) -> None:
        import pyarrow as pa

        rows = []
        for index, metrics, objectives in self.journal.turns:
            met = {f"slo_{status.name}_met": status.met for status in objectives}
            rows.append({"window": index} | asdict(metrics) | met)
        write_table(pa.Table.from_pylist(rows), file)

    def _write_proposals(self, file: Path) -> None:
        import pyarrow as pa

        rows = [proposal.row() | effect.row() for proposal, effect in self.journal.proposals]
        schema = None if rows else pa.schema([("id", pa.string()), ("time_ms", pa.int64())])
        write_table(pa.Table.from_pylist(rows, schema=schema), file)

    def _write_curves(self, file: Path) -> None:
        import pyarrow as pa

        rows = []
        for host_class in self.rehearsal.cycle.twin.classes:
            utilization, learned_w = self.rehearsal.cycle.hour.calibrator.curve(host_class.name)
            datasheet_w = np.interp(utilization, host_class.utilization, host_class.power_w)
            rows += [
                {"class": host_class.name, "utilization_ratio": u, "datasheet_w": float(sheet), "learned_w": w}
                for u, sheet, w in zip(utilization, datasheet_w, learned_w, strict=True)
            ]
        write_table(pa.Table.from_pylist(rows), file)

    def _write_series(self, file: Path) -> None:
        import pyarrow as pa

        measured_w = self.measured_w[: len(self.series["time_ms"])]
        write_table(pa.table(self.series | {"measured_w": measured_w}), file)

    def summary(self) -> dict[str, Any]:
        """The run in figures."""
        rehearsal = self.rehearsal
        environment = rehearsal.environment
        energy_kwh = float(self.series["energy_j"][-1]) / _J_PER_KWH if len(self.series["time_ms"]) else 0.0
        tick_h = environment.source.tick_ms / 3.6e6
        simulated_s = len(self.journal.turns) * rehearsal.settings.window_ms / 1000.0
        return {
            "title": environment.title,
            "environment": environment.name,
            "windows": len(self.journal.turns),
            "window_s": rehearsal.settings.window_ms / 1000.0,
            "tick_s": environment.source.tick_ms / 1000.0,
            "forecasts": {kind: found.as_dict() for kind, found in self.scores.items()},
            "energy": {
                "twin_kwh": energy_kwh,
                "measured_kwh": float(np.nansum(self.measured_w)) * tick_h / 1000.0,
            },
            "carbon": {"twin_kg": float(self.series["emission_g"][-1]) / 1000.0 if energy_kwh else 0.0},
            "slos": _slo_summary(self.journal),
            "proposals": len(self.journal.proposals),
            "events": [{"forecast": kind, "event": type(e).__name__, **e.as_dict()} for kind, e in self.journal.events],
            "tasks": rehearsal.cycle.twin.simulation.counts,
            "speed": {
                "wall_s": self.wall_s,
                "simulated_s_per_wall_s": simulated_s / self.wall_s if self.wall_s > 0 else None,
            },
            "settings": asdict(rehearsal.settings),
            "seed": rehearsal.settings.seed,
            "versions": versions(),
            "input_sha256": environment.input_hashes,
        }


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    import pyarrow as pa

    return {
        "opendt": engine_version,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
        "platform": sys.platform,
    }


def _slo_summary(journal: Journal) -> dict[str, dict[str, Any]]:
    """Per target: windows in which it was met, of those in which it could be told."""
    found: dict[str, dict[str, Any]] = {}
    for _, _, objectives in journal.turns:
        for status in objectives:
            row = found.setdefault(
                status.name, {"target": status.target, "unit": status.unit, "met_windows": 0, "checked_windows": 0}
            )
            if status.met is not None:
                row["checked_windows"] += 1
                row["met_windows"] += int(status.met)
    return found


def _joined(series: list[dict[str, Any]]) -> dict[str, NDArray[Any]]:
    """Series of all windows, summed over clusters; of intensity the mean weighted by power, of utilisation the ratio."""
    if not series:
        return {"time_ms": np.empty(0, np.int64), "energy_j": np.empty(0), "emission_g": np.empty(0)}
    whole = {
        name: np.concatenate([part[name] for part in series])
        for name in series[0]
        if name not in ("basis", "class_hosts")
    }
    power_w = whole["power_w"].sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        intensity = (whole["intensity_g_per_kwh"] * whole["power_w"]).sum(axis=1) / power_w
        utilization = whole["usage_mhz"].sum(axis=1) / whole["capacity_mhz"].sum(axis=1)
    return {
        "time_ms": whole["time_ms"],
        "twin_power_w": power_w,
        "energy_j": whole["energy_j"].sum(axis=1),
        "emission_g": whole["emission_g"].sum(axis=1),
        "intensity_g_per_kwh": intensity,
        "utilization_ratio": utilization,
        "hosts_up": whole["hosts_up"],
        "hosts_busy": whole["hosts_busy"],
        "tasks_active": whole["tasks_active"],
        "tasks_pending": whole["tasks_pending"],
    }


def _write_json(file: Path, record: dict[str, Any]) -> None:
    """Write a record; NaN and infinity, which JSON does not have, become null."""
    temporary = file.with_suffix(".json.part")
    temporary.write_text(json.dumps(_plain(record), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(file)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
