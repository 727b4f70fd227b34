"""Opening text files as archives keep them: plain, .gz, .xz, or as the only file in a .zip."""

from __future__ import annotations

import gzip
import io
import lzma
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, cast

from opendt.model.errors import FormatError

__all__ = ["open_text", "read_bytes"]

_LARGEST_BYTES: Final = 4 * 2**30
_CHUNK_BYTES: Final = 2**20
_DAMAGED: Final = (OSError, EOFError, lzma.LZMAError, zipfile.BadZipFile, UnicodeDecodeError)


@contextmanager
def open_text(path: Path | str) -> Iterator[IO[str]]:
    """Open a text file, decompressed.

    Raises
    ------
    FormatError
        When it is missing, damaged or not UTF-8; also while it is read.
    """
    try:
        with _opened(Path(path)) as binary, io.TextIOWrapper(binary, encoding="utf-8") as text:
            yield text
    except _DAMAGED as error:
        raise _unreadable(path, error) from error


def read_bytes(path: Path | str) -> bytes:
    """Read a whole file, decompressed, up to 4 GiB.

    Raises
    ------
    FormatError
        When it is missing, damaged or larger.
    """
    chunks, total = [], 0
    try:
        with _opened(Path(path)) as binary:
            while chunk := binary.read(_CHUNK_BYTES):
                chunks.append(chunk)
                total += len(chunk)
                if total > _LARGEST_BYTES:
                    raise FormatError(path, "", "more than 4 GiB", "a smaller file", "Split it.")
    except _DAMAGED as error:
        raise _unreadable(path, error) from error
    return b"".join(chunks)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if len(members) != 1:
                raise FormatError(path, "", f"{len(members)} files in it", "exactly one", "Unpack it first.")
            with archive.open(members[0]) as binary:
                yield binary
        return
    if path.suffix == ".gz":
        with gzip.open(path, "rb") as unzipped:
            yield cast(IO[bytes], unzipped)
    elif path.suffix == ".xz":
        with lzma.open(path, "rb") as unpacked:
            yield cast(IO[bytes], unpacked)
    else:
        with path.open("rb") as plain:
            yield plain


def _unreadable(path: Path | str, error: Exception) -> FormatError:
    missing = isinstance(error, FileNotFoundError)
    found = "no such file" if missing else f"{type(error).__name__}: {error}"
    return FormatError(path, "", found, "a complete, readable file", "" if missing else "It may be truncated.")
