"""Images of the worker, made without a registry or a builder: one layer around static programs.

``localhost/opendt-worker:amd64``, ``:arm64`` and ``:riscv64`` hold the program for that architecture, ``:wasm`` its WebAssembly
module with the program that runs it, compiled already. ``localhost/pause:1`` keeps a pod's namespaces.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.fleet.programs import GoProgram, alone, cache_folder

__all__ = ["ARCHITECTURES", "MACHINE_ARCH", "PAUSE", "WORKER", "can_compile", "image", "make_images"]

ARCHITECTURES = ("amd64", "arm64", "riscv64")
MACHINE_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
PAUSE = "localhost/pause:1"
WORKER = "localhost/opendt-worker"

_SOURCE = Path(__file__).resolve().parents[2] / "images" / "worker"
_QEMU = {"amd64": "qemu-x86_64-static", "arm64": "qemu-aarch64-static", "riscv64": "qemu-riscv64-static"}


def make_images(arch: str) -> list[tuple[Path, str]]:
    """Make the images that a node needs, unless they are there already.

    Parameters
    ----------
    arch : str
        What the node says it is; pause and the runner of WebAssembly are built for it.

    Returns
    -------
    list of (Path, str)
        Tar file and architecture of each image.

    Raises
    ------
    RuntimeError
        When Go cannot build the programs, or there is no qemu to compile the module for another architecture with.
    """
    cache_folder().mkdir(parents=True, exist_ok=True)
    with alone(cache_folder() / "images.lock"):
        return _make_images(arch)


def _make_images(arch: str) -> list[tuple[Path, str]]:
    made = [(_packed(PAUSE, _program("pause", arch), {}, arch), arch)]
    made += [(_packed(f"{WORKER}:{each}", _program("worker", each), {}, each), each) for each in ARCHITECTURES]
    host = _program("wasmhost", arch)
    module = GoProgram("worker.wasm", _SOURCE, "./cmd/worker", "wasip1/wasm").build()
    code = _compiled(host, module, "" if arch == MACHINE_ARCH else _QEMU[arch])
    made.append((_packed(f"{WORKER}:wasm", host, {"worker.wasm": module, "cache": code}, arch), arch))
    return made


def can_compile(arch: str) -> bool:
    """Whether WebAssembly can be compiled here for an architecture."""
    return arch == MACHINE_ARCH or shutil.which(_QEMU[arch]) is not None


def image(name: str, files: Mapping[str, tuple[bytes, int]], architecture: str) -> bytes:
    """Return an image in OCI's layout as a tar file: path -> (content, mode); ``/program`` is what it runs.

    The same files give the same bytes.
    """
    layer = _tar(files)
    config = _json(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Entrypoint": ["/program"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _described(config, "config.v1+json"),
            "layers": [_described(layer, "layer.v1.tar")],
        }
    )
    entry = {
        **_described(manifest, "manifest.v1+json"),
        "platform": {"architecture": architecture, "os": "linux"},
        "annotations": {
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": name.rpartition(":")[2],
        },
    }
    blobs = {f"blobs/sha256/{_digest(blob)[7:]}": (blob, 0o644) for blob in (config, manifest, layer)}
    index = _json({"schemaVersion": 2, "manifests": [entry]})
    layout = _json({"imageLayoutVersion": "1.0.0"})
    return _tar({"oci-layout": (layout, 0o644), "index.json": (index, 0o644), **blobs})


def _program(name: str, arch: str) -> Path:
    return GoProgram(name, _SOURCE, f"./cmd/{name}", f"linux/{arch}").build()


def _packed(name: str, program: Path, beside: Mapping[str, Path], arch: str) -> Path:
    """Write the image of a program and what lies beside it (files, or folders with all in them) into the program's folder."""
    target = program.parent / f"{name.rpartition('/')[2].replace(':', '-')}.tar"
    if target.exists():
        return target
    files = {"program": (program.read_bytes(), 0o755)}
    for place, source in beside.items():
        for file in [source] if source.is_file() else sorted(each for each in source.rglob("*") if each.is_file()):
            path = place if source.is_file() else f"{place}/{file.relative_to(source)}"
            files[path] = (file.read_bytes(), 0o644)
    making = target.with_suffix(".making")
    making.write_bytes(image(name, files, arch))
    return making.rename(target)


def _compiled(host: Path, module: Path, qemu: str) -> Path:
    """Compile the module as its runner would at its first start, and return the folder with the code."""
    folder = host.parent / f"cache-{module.parent.name}"
    if folder.exists():
        return folder
    if qemu and shutil.which(qemu) is None:
        raise RuntimeError(f"compiling WebAssembly for another architecture needs {qemu}: install qemu-user-static")
    with tempfile.TemporaryDirectory(dir=host.parent, prefix="making-") as making:
        shutil.copy2(host, making)
        shutil.copy2(module, making)
        command = [*([qemu] if qemu else []), str(Path(making) / host.name), "--compile"]
        subprocess.run(command, check=True, capture_output=True)
        return (Path(making) / "cache").rename(folder)


def _tar(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _described(content: bytes, kind: str) -> dict[str, Any]:
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
