"""Packages that offer something under a group of entry points, without installing one: a folder with its metadata does."""

from __future__ import annotations

from pathlib import Path


def offer(folder: Path, group: str, package: str, points: dict[str, str], **modules: str) -> None:
    """Put modules and the metadata of a package that offers `points` into a folder, which Python is to look into."""
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source)
    info = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]) + "\n")
