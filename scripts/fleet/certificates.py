"""Keys and certificates of one control plane, by openssl: they guard a machine's own loopback for a year."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["make_certificates"]

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_NAMES = "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:kubernetes.default.svc"
_DAYS = "365"


def make_certificates(folder: Path) -> None:
    """Make an authority, certificates for the API server and for its front proxy, and the key that signs tokens.

    Files that are there already are kept: a control plane that is started again keeps its identity.
    """
    if (folder / "sa.key").exists():
        return
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority = ["-keyout", "ca.key", "-out", "ca.crt", "-days", _DAYS, "-subj", "/CN=opendt-fleet"]
    _openssl(folder, "req", "-x509", *_KEY, *authority, "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    _make_signed(folder, "server", "serverAuth")
    _make_signed(folder, "front-proxy-client", "clientAuth")
    # Last: its presence says that all are there.
    _openssl(folder, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "sa.key")


def _make_signed(folder: Path, name: str, usage: str) -> None:
    _openssl(folder, "req", *_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
    # Python 3.13 and newer insist on the key identifiers.
    extensions = [
        _NAMES,
        f"extendedKeyUsage={usage}",
        "keyUsage=digitalSignature",
        "basicConstraints=critical,CA:FALSE",
        "subjectKeyIdentifier=hash",
        "authorityKeyIdentifier=keyid,issuer",
    ]
    (folder / f"{name}.ext").write_text("\n".join(extensions) + "\n", encoding="utf-8")
    signer = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", _DAYS]
    _openssl(folder, "x509", "-req", "-in", f"{name}.csr", *signer, "-out", f"{name}.crt", "-extfile", f"{name}.ext")


def _openssl(folder: Path, *arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], check=False, capture_output=True, text=True, cwd=folder)
    if done.returncode != 0:
        raise RuntimeError(f"openssl {arguments[0]} failed in {folder}:\n{done.stderr.strip()}")
