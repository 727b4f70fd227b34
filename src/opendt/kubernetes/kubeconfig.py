"""Kubeconfig files: which clusters they name, and clients for them.

The official client reads them; but of a broken one it says little, so what it needs is checked before, and what is wrong is
said with file, context and key.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from opendt.formats.yamlfile import read_document
from opendt.model.errors import FormatError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

__all__ = ["Context", "api_client", "read_contexts"]

_FILES: Final = {"cluster": ("certificate-authority",), "user": ("client-certificate", "client-key", "tokenFile")}
_ENCODED: Final = {
    "cluster": ("certificate-authority-data",),
    "user": ("client-certificate-data", "client-key-data"),
}


@dataclass(frozen=True, slots=True)
class Context:
    """A context of a kubeconfig file with all it refers to.

    Parameters
    ----------
    file : Path
        The file.
    name : str
        Name of the context.
    server : str
        Address of the API server.
    content : dict
        Cluster, user and context as they stand in the file, to see whether they changed.
    """

    file: Path
    name: str
    server: str
    content: Mapping[str, Any]


def read_contexts(file: Path | str) -> dict[str, Context]:
    """Read and check a kubeconfig file: context by name, in the file's order.

    Raises
    ------
    FormatError
        Naming file, context and key of the first thing that is wrong.
    """
    path = Path(file).expanduser()
    whole = _load(path)
    clusters, users = _by_name(path, whole, "clusters", "cluster"), _by_name(path, whole, "users", "user")
    contexts = _by_name(path, whole, "contexts", "context")
    if not contexts:
        raise FormatError(path, "contexts", "none", "at least one context", "Add the cluster that is to be reached")
    return {name: _context(path, name, entry, clusters, users) for name, entry in contexts.items()}


def api_client(context: Context, *, connections: int = 16) -> ApiClient:
    """Make the official client of a context.

    Raises
    ------
    FormatError
        When it cannot be made of what the context says.
    """
    from kubernetes.client import Configuration
    from kubernetes.config import new_client_from_config
    from kubernetes.config.config_exception import ConfigException
    from urllib3.exceptions import HTTPError

    configuration = Configuration()
    configuration.connection_pool_maxsize = connections
    configuration.keep_alive = True  # else a peer that vanished without a word is noticed by nobody
    try:
        client: ApiClient = new_client_from_config(  # type: ignore[no-untyped-call]
            str(context.file), context.name, persist_config=False, client_configuration=configuration
        )
    except (ConfigException, HTTPError, OSError, ValueError, TypeError, KeyError) as error:
        place = f"context {context.name}"
        raise FormatError(
            context.file, place, f"{type(error).__name__}: {error}", "a context to log in with"
        ) from error
    return client


def _load(path: Path) -> Mapping[str, Any]:
    whole = read_document(path)
    if not isinstance(whole, dict):
        raise FormatError(path, "", type(whole).__name__, "a kubeconfig file: a mapping with clusters, users, contexts")
    return whole


def _by_name(path: Path, whole: Mapping[str, Any], key: str, inner: str) -> dict[str, Mapping[str, Any]]:
    entries = whole.get(key) or []
    if not isinstance(entries, list):
        raise FormatError(path, key, entries, "a list")
    found: dict[str, Mapping[str, Any]] = {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise FormatError(path, f"{key}[{number}]", entry, "a mapping with a name")
        name = entry["name"]
        if name in found:
            raise FormatError(path, f"{key}[{number}].name", f"{name!r} twice", "names that are unique")
        content = entry.get(inner)
        if not isinstance(content, dict):
            raise FormatError(path, f"{key}[{name}].{inner}", content, "a mapping")
        found[name] = content
    return found


def _context(
    path: Path,
    name: str,
    entry: Mapping[str, Any],
    clusters: Mapping[str, Mapping[str, Any]],
    users: Mapping[str, Mapping[str, Any]],
) -> Context:
    place = f"context {name}"
    chosen: dict[str, Mapping[str, Any]] = {}
    for kind, known in (("cluster", clusters), ("user", users)):
        wanted = str(entry.get(kind, "nothing"))
        if wanted not in known:
            expected = f"one of the {kind}s: {', '.join(known) or 'there is none'}"
            raise FormatError(path, f"{place}: {kind}", wanted, expected)
        chosen[kind] = known[wanted]
        _check_secrets(path, f"{place}: {kind} {wanted}", kind, known[wanted])
    server = chosen["cluster"].get("server")
    where = f"{place}: cluster {entry['cluster']}: server"
    if not isinstance(server, str) or urlsplit(server).scheme not in ("https", "http") or not urlsplit(server).hostname:
        raise FormatError(path, where, server, "an address such as https://10.0.0.1:6443")
    return Context(path, name, server, {"context": entry, **chosen})


def _check_secrets(path: Path, place: str, kind: str, entry: Mapping[str, Any]) -> None:
    """Look at what is read only when it is needed; secrets themselves never get into a message."""
    for key in _FILES[kind]:
        if key in entry and not (path.parent / str(entry[key])).is_file():
            raise FormatError(path, f"{place}: {key}", f"{entry[key]!r}, which is no file", "a file that can be read")
    for key in _ENCODED[kind]:
        if key not in entry:
            continue
        try:
            is_pem = b"-----BEGIN " in base64.b64decode(str(entry[key]), validate=True)
        except (binascii.Error, ValueError):
            is_pem = False
        if not is_pem:
            raise FormatError(path, f"{place}: {key}", "something else", "a PEM file in base64")
    if "token" in entry and not (isinstance(entry["token"], str) and entry["token"].strip()):
        raise FormatError(path, f"{place}: token", "nothing", "a token")
