"""What certificates of a live system rest on, kept in files, so that anybody can decide them again later.

The ledger has the certificates themselves; what they rest on is large (about half a MB compressed for 277 hosts) and can be let go: a
certificate whose inputs are gone still has its hashes and its place in the chain.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opendt.optimization.certificate_inputs import CertificateInputs

__all__ = ["CertificateStore"]

_SUFFIX: Final = ".inputs"


class CertificateStore:
    """Inputs of certificates in a folder, one file each, named after the certificate's hash.

    Parameters
    ----------
    directory : Path
        Made with the first.
    most_bytes : int
        Of all files together: beyond it the oldest go away. 0 keeps none.
    """

    def __init__(self, directory: Path, most_bytes: int) -> None:
        self.directory = directory
        self.most_bytes = most_bytes

    def path(self, certificate_hash: str) -> Path:
        """Where the inputs of a certificate are, if they are kept."""
        return self.directory / f"{certificate_hash}{_SUFFIX}"

    def keep(self, certificate_hash: str, inputs: CertificateInputs) -> None:
        """Keep the inputs of a certificate, whole or not at all; a certificate that is issued again is there already.

        Raises
        ------
        OSError
            When they cannot be written; what was there stays.
        """
        target = self.path(certificate_hash)
        if self.most_bytes == 0 or target.exists():
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        try:
            inputs.write(partial)
            with partial.open("rb") as stream:
                os.fsync(stream.fileno())
            partial.replace(target)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        self._let_go()

    def _let_go(self) -> None:
        """Delete the oldest files until the rest is small enough; the newest stays in any case."""
        found = [(entry.stat(), entry) for entry in self.directory.glob(f"*{_SUFFIX}")]
        found.sort(key=lambda pair: (pair[0].st_mtime_ns, pair[1].name), reverse=True)
        total = 0
        for number, (status, entry) in enumerate(found):
            total += status.st_size
            if number and total > self.most_bytes:
                entry.unlink(missing_ok=True)
