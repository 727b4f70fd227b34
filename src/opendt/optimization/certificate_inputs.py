"""All that a certificate rests on, with its hashes, and as one file that lets anybody decide again."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from opendt.engine.simulation import Simulation
from opendt.model.certificate import NOTHING, Claim, InputHashes
from opendt.model.errors import FormatError, OpenDTError
from opendt.model.proposal import Proposal
from opendt.model.slo import Slo
from opendt.model.topology import Topology
from opendt.optimization.bounds import Limits
from opendt.twin.futures import FutureModel
from opendt.twin.past import Past
from opendt.twin.posterior import CurveDraws

if TYPE_CHECKING:
    from opendt.model.base import Model

__all__ = ["CertificateInputs", "state_hash"]

_MOST_BYTES: Final = 4 << 30  # of a stranger's file, unpacked
_DAMAGED: Final = (
    OSError,
    EOFError,
    OpenDTError,
    ValueError,
    KeyError,
    TypeError,
    RuntimeError,  # encrypted, or of a version to come
    SyntaxError,  # the head of an array
    zipfile.BadZipFile,
    zlib.error,
)
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file can say, so that equal inputs give equal bytes


@dataclass(frozen=True, slots=True)
class CertificateInputs:
    """What a proposal is judged by.

    Attributes
    ----------
    proposal : Proposal
        In question.
    present : Simulation
        The system as it is; forked, never changed.
    installed : Topology
        The hardware as it was bought.
    futures : FutureModel
        What is known of tasks to come.
    past : Past, optional
        The last windows, to be lived again.
    curves : CurveDraws, optional
        Power curves drawn from calibration; without them futures are priced by the curves that the present has.
    slo, limits, claim
        Objectives, what an operator allows, and what is to be shown.
    """

    proposal: Proposal
    present: Simulation
    installed: Topology
    futures: FutureModel
    curves: CurveDraws | None
    slo: Slo
    limits: Limits
    claim: Claim
    past: Past | None = None

    def hashes(self) -> InputHashes:
        """SHA-256 of each part that the certificate does not hold itself."""
        return InputHashes(
            state=state_hash(self.present),
            installed=_hash_record(self.installed),
            futures=_hash_arrays(_future_arrays(self.futures)),
            curves=_hash_arrays(_curve_arrays(self.curves)),
            slo=_hash_record(self.slo),
            limits=_hash_record(self.limits),
            past=_hash_past(self.past),
        )

    def write(self, path: Path | str) -> None:
        """Write everything into one file; equal inputs give equal bytes."""
        parts: dict[str, bytes] = {
            name: getattr(self, name).model_dump_json().encode()
            for name in ("proposal", "installed", "slo", "limits", "claim")
        }
        parts["present"] = self.present.snapshot()
        parts["futures"] = _packed(_future_arrays(self.futures))
        parts["curves"] = _packed(_curve_arrays(self.curves))
        if self.past is not None:
            parts["past"] = self.past.simulation.snapshot()
            parts["past_windows"] = json.dumps([self.past.windows, self.past.window_ms]).encode()
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, data in parts.items():
                file.writestr(zipfile.ZipInfo(name, _EPOCH), data, compresslevel=1, compress_type=zipfile.ZIP_DEFLATED)

    @classmethod
    def read(cls, path: Path | str) -> CertificateInputs:
        """Read what `write` wrote; nothing in it is executed.

        Raises
        ------
        FormatError
            When the file is missing, damaged or of another kind.
        """
        try:
            with zipfile.ZipFile(path) as file:
                if sum(entry.file_size for entry in file.infolist()) > _MOST_BYTES:
                    raise ValueError(f"more than {_MOST_BYTES >> 30} GiB when unpacked")
                parts = {name: file.read(name) for name in file.namelist()}
            futures, curves = _unpacked(parts["futures"]), _unpacked(parts["curves"])
            groups = tuple(json.loads(curves.pop("groups").tobytes()))
            return cls(
                proposal=Proposal.model_validate_json(parts["proposal"]),
                present=Simulation.restore(parts["present"]),
                installed=Topology.model_validate_json(parts["installed"]),
                futures=FutureModel(**futures | {"arrivals_per_hour": float(futures["arrivals_per_hour"])}),
                curves=CurveDraws(groups, **curves) if groups else None,
                slo=Slo.model_validate_json(parts["slo"]),
                limits=Limits.model_validate_json(parts["limits"]),
                claim=Claim.model_validate_json(parts["claim"]),
                past=_past(parts),
            )
        except _DAMAGED as error:
            raise FormatError(path, "", f"{type(error).__name__}: {error}", "the inputs of a certificate") from error


def state_hash(present: Simulation) -> str:
    """SHA-256 of a simulation's state; its workloads enter by their own hashes."""
    return hashlib.sha256(present.snapshot(workloads=False)).hexdigest()


def _past(parts: dict[str, bytes]) -> Past | None:
    if "past" not in parts:
        return None
    windows, window_ms = json.loads(parts["past_windows"])
    return Past(Simulation.restore(parts["past"]), windows, window_ms)


def _hash_past(past: Past | None) -> str:
    if past is None:
        return NOTHING
    whole = hashlib.sha256(f"{past.windows} {past.window_ms}\n".encode())
    whole.update(past.simulation.snapshot())
    return whole.hexdigest()


def _hash_record(record: Model) -> str:
    # Not as canonical JSON: a topology holds its carbon trace, and its fields are written in one order anyway.
    return hashlib.sha256(record.model_dump_json().encode()).hexdigest()


def _future_arrays(futures: FutureModel) -> dict[str, Any]:
    return {
        "lived_ms": futures.lived_ms,
        "cpu_mhz": futures.cpu_mhz,
        "cpu_count": futures.cpu_count,
        "arrivals_per_hour": np.float64(futures.arrivals_per_hour),
    }


def _curve_arrays(curves: CurveDraws | None) -> dict[str, Any]:
    groups = () if curves is None else curves.groups
    arrays: dict[str, Any] = {"groups": np.frombuffer(json.dumps(groups).encode(), np.uint8)}
    if curves is not None:
        arrays |= {"utilization": curves.utilization, "power_w": curves.power_w}
    return arrays


def _hash_arrays(arrays: dict[str, Any]) -> str:
    whole = hashlib.sha256()
    for name, values in arrays.items():
        array = np.asarray(values)
        whole.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        whole.update(array.tobytes())
    return whole.hexdigest()


def _packed(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _unpacked(data: bytes) -> dict[str, Any]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
