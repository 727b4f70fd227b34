"""The programs of the fleet: built from source once by Go, kept outside the checkout.

Sources are pinned by the go.sum beside each of them. What is built is kept under a name that is a digest of everything that
went into it, so that an older checkout beside a newer one finds its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["GoProgram", "alone", "cache_folder", "control_plane_program", "kubernetes_version", "link_program"]

HERE = Path(__file__).resolve().parent
_COMPONENT_VERSION = "k8s.io/component-base/version"


def cache_folder() -> Path:
    """Folder that holds what is built, outside the checkout."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "opendt" / "fleet"


@dataclass(frozen=True)
class GoProgram:
    """A program of ours in Go.

    Attributes
    ----------
    name : str
        File name of what is built.
    source : Path
        Folder with go.mod.
    package : str
        Package within it.
    platform : str
        ``GOOS/GOARCH``; empty for this machine's.
    tags, ldflags : str
        As `go build` takes them, added to what all programs are built with.
    """

    name: str
    source: Path
    package: str = "."
    platform: str = ""
    tags: str = ""
    ldflags: str = ""

    def path(self) -> Path:
        """Where the program is, or will be once it is built."""
        return cache_folder() / self._digest() / self.name

    def find(self) -> Path | None:
        """Where the program is; None when it is not built."""
        path = self.path()
        return path if path.exists() else None

    def build(self) -> Path:
        """Build the program unless that is done, and return where it is.

        Raises
        ------
        RuntimeError
            When Go is missing, too old or fails; with its last lines.
        """
        path = self.path()
        if path.exists():
            return path
        _require_go(self.source)
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(path.parent / "lock"):
            if not path.exists():
                self._build(path)
        return path

    def _build(self, path: Path) -> None:
        # Made whole beside its place and moved there: a program that exists is complete.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="making-") as making:
            made = Path(making) / self.name
            flags = ["-trimpath", "-buildvcs=false", "-ldflags", f"-s -w {self.ldflags}".strip()]
            flags += ["-tags", self.tags] if self.tags else []
            # Two at a time: compiling Kubernetes takes half a gigabyte each.
            command = ["go", "build", "-p", "2", *flags, "-o", str(made), self.package]
            done = subprocess.run(
                command,
                check=False,
                cwd=self.source,
                env={**os.environ, **self._environment()},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            )
            if done.returncode != 0:
                last = "\n".join(done.stderr.strip().splitlines()[-8:])
                raise RuntimeError(f"Go could not build {self.name} from {self.source}:\n{last}")
            made.rename(path)

    def _environment(self) -> Mapping[str, str]:
        system, _, architecture = self.platform.partition("/")
        return {"CGO_ENABLED": "0", **({"GOOS": system, "GOARCH": architecture} if self.platform else {})}

    def _digest(self) -> str:
        digest = hashlib.sha256(repr((self.package, self.platform, self.tags, self.ldflags)).encode())
        for file in sorted(self.source.rglob("*")):
            if file.name in {"go.mod", "go.sum"} or (file.suffix == ".go" and not file.name.endswith("_test.go")):
                digest.update(f"{file.relative_to(self.source)}\0".encode())
                digest.update(file.read_bytes())
        return digest.hexdigest()[:16]


def kubernetes_version() -> str:
    """Version of Kubernetes that go.mod asks for, such as ``v1.36.3``."""
    text = (HERE / "controlplane" / "go.mod").read_text(encoding="utf-8")
    found = re.search(r"^require k8s\.io/kubernetes (v\S+)$", text, re.MULTILINE)
    if found is None:
        raise ValueError("scripts/fleet/controlplane/go.mod requires no k8s.io/kubernetes: add it")
    return found.group(1)


def control_plane_program() -> GoProgram:
    """Every part of Kubernetes in one program."""
    version = kubernetes_version()
    major, minor, _ = version.removeprefix("v").split(".")
    stamps = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    ldflags = " ".join(f"-X {_COMPONENT_VERSION}.{name}={value}" for name, value in stamps.items())
    return GoProgram("controlplane", HERE / "controlplane", tags="grpcnotrace", ldflags=ldflags)


def link_program() -> GoProgram:
    """The network between the clusters."""
    return GoProgram("link", HERE / "link")


def _require_go(source: Path) -> None:
    wanted = re.search(r"^go (\S+)$", (source / "go.mod").read_text(encoding="utf-8"), re.MULTILINE)
    assert wanted is not None
    if shutil.which("go") is None:
        raise RuntimeError(
            f"the fleet's programs are built by Go, and there is no go: install Go {wanted.group(1)} or newer"
        )
    said = subprocess.run(["go", "env", "GOVERSION"], check=True, capture_output=True, text=True).stdout.strip()
    found = re.match(r"go(\d+(?:\.\d+)*)", said)
    if found and _numbers(found.group(1)) < _numbers(wanted.group(1)):
        raise RuntimeError(
            f"the fleet's programs need Go {wanted.group(1)} or newer, and this is {said}: install a newer one"
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Hold a file's lock: two builds of one program at once would do the same work twice."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
