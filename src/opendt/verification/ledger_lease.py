"""One process per datacenter, where the ledger is a file: a lock of the operating system beside it.

The lock ends with the process that holds it, however that ends. The file that carries it stays, since taking it away would
let two processes lock two files of one name.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from typing import TYPE_CHECKING

from opendt.model.errors import LedgerError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FileLease", "LeaseGoneError"]

_LONGEST_NAME = 40


class LeaseGoneError(LedgerError):
    """The lease went to another process while the connection to the database was away.

    Attributes
    ----------
    datacenter : str
        Of which datacenter.
    holder : str
        Who has it now.
    """

    def __init__(self, message: str, *, datacenter: str, holder: str) -> None:
        super().__init__(message)
        self.datacenter = datacenter
        self.holder = holder


class FileLease:
    """The exclusive right of this process to record windows of a datacenter.

    Parameters
    ----------
    database : Path
        File of the ledger; the locks lie in a folder beside it.
    datacenter : str
        Name.

    Raises
    ------
    LedgerError
        When another process holds it, or the file cannot be made.
    """

    def __init__(self, database: Path, datacenter: str) -> None:
        folder = database.with_name(f"{database.name}.leases")
        # A name may hold anything; the digest keeps two of them apart, the rest is for people.
        readable = re.sub(r"[^A-Za-z0-9._-]", "_", datacenter)[:_LONGEST_NAME]
        path = folder / f"{readable}-{hashlib.sha256(datacenter.encode()).hexdigest()[:12]}"
        try:
            folder.mkdir(exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise LedgerError(f"{path}: {error.strerror}: expected a place for the lease of {datacenter}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._file, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._file)
            raise LedgerError(
                f"{database}: datacenter {datacenter} is followed by process {holder} already, expected none. "
                "End that one first, or give this one another ledger."
            ) from None
        self._write_holder()

    def _write_holder(self) -> None:
        """Name this process for whoever is refused; a full disk must not keep the lease from being held."""
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, b"%d\n" % os.getpid(), 0)
        except OSError:
            return

    def release(self) -> None:
        """Give the right back."""
        os.close(self._file)
