"""Results that appear when they are complete, and leave nothing behind when they are not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from opendt.model.errors import FormatError

__all__ = ["staged_file", "staged_folder"]

_OVERWRITE_HINT = "Choose another target, or overwrite it with --force."


@contextmanager
def staged_folder(target: Path | str, names: Sequence[str], *, force: bool = False) -> Iterator[Path]:
    """Give a folder to write into; its files move to `target` when the block ends without an error.

    Parameters
    ----------
    target : Path or str
        Folder; it is made, with those above it, if it is not there. Other files in it stay.
    names : sequence of str
        Files that will be written, which must not be there yet.
    force : bool
        Replace them instead.

    Raises
    ------
    FormatError
        When `target` is a file, holds one of the files, or cannot be written.
    """
    target = Path(target)
    if target.exists() and not target.is_dir():
        raise FormatError(target, "", "a file", "a folder, or a path that is free", "Choose another target.")
    _refuse_existing([target / name for name in names], force)
    with _temporary(target) as temporary:
        temporary.mkdir()
        yield temporary
        if target.exists():
            for file in sorted(temporary.iterdir()):
                file.replace(target / file.name)
        else:
            temporary.replace(target)


@contextmanager
def staged_file(target: Path | str, *, force: bool = False) -> Iterator[Path]:
    """Give a path to write to; the file gets the name `target` when the block ends without an error.

    Raises
    ------
    FormatError
        When `target` is a folder, is there already and not to be replaced, or cannot be written.
    """
    target = Path(target)
    if target.is_dir():
        raise FormatError(target, "", "a folder", "a file, or a path that is free", "Choose another target.")
    _refuse_existing([target], force)
    with _temporary(target) as temporary:
        yield temporary
        temporary.replace(target)


def _refuse_existing(files: Sequence[Path], force: bool) -> None:
    found = [] if force else [file for file in files if file.exists()]
    if found:
        raise FormatError(found[0], "", "an existing file", "a path that is free", _OVERWRITE_HINT)


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """Give a free name beside `target`; what is there in the end is removed, with the folders made above it."""
    parent = target.absolute().parent
    made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    temporary = parent / f".{target.name}.partial-{os.getpid()}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        yield temporary
    except OSError as error:
        reason = error.strerror or str(error)
        raise FormatError(target, "", reason, "a place that can be written", "Choose another target.") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            _remove(temporary)
        for folder in made:
            _remove(folder)


def _remove(path: Path) -> None:
    """Remove a file or an empty folder; what cannot be removed stays, since another error is being told."""
    try:
        path.rmdir() if path.is_dir() else path.unlink()
    except OSError:
        return
