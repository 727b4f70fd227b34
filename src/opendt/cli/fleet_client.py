"""How commands ask the service of a fleet: over HTTP, where `opendt run` serves it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from opendt.model.errors import OpenDTError

if TYPE_CHECKING:
    from opendt.orchestrator.settings_model import Settings

__all__ = ["FleetClient", "ServiceAwayError", "fleet_options"]

_PATIENCE_S: Final = 60.0


class ServiceAwayError(OpenDTError):
    """Nothing answers where the service is expected."""


def fleet_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which fleet is meant, and whether to answer in JSON."""
    config = click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Settings (TOML, or JSON by suffix); opendt.toml if it is there.",
    )
    server = click.option("--server", metavar="URL", help="Where the service is, instead of what the settings say.")
    as_json = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
    return config(server(as_json(function)))


class FleetClient:
    """Asks the service.

    Parameters
    ----------
    settings : Settings
        Say where it is and what it wants to know of callers.
    server : str, optional
        Its address, instead.
    """

    def __init__(self, settings: Settings, server: str | None = None) -> None:
        api = settings.api
        host = f"[{api.host}]" if ":" in api.host else api.host
        self.url = (server or f"http://{host}:{api.port}").rstrip("/")
        self._token = None if api.token is None else api.token.get_secret_value()

    def get(self, path: str) -> Any:
        """Ask for something.

        Raises
        ------
        ServiceAwayError
            When nothing answers.
        OpenDTError
            When it is refused; the service's own words.
        """
        return self._ask("GET", path, None)

    def post(self, path: str, body: bytes) -> Any:
        """Send something; raises as `get`."""
        return self._ask("POST", path, body)

    def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        if not self.url.startswith(("http://", "https://")):
            raise OpenDTError(f"--server: found {self.url!r}, expected a URL such as http://127.0.0.1:8420")
        headers = {"Content-Type": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(self.url + path, data=body, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=_PATIENCE_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise OpenDTError(_words(error.read(), f"{error.code} {error.reason}")) from None
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise ServiceAwayError(
                f"{self.url}: found no answer ({reason}), expected the fleet's service. Start it with `opendt run`, or name it by "
                "--server."
            ) from None


def _words(content: bytes, status: str) -> str:
    """What a problem says, with what would help."""
    try:
        problem = json.loads(content)
    except ValueError:
        return f"the service answered {status}"
    lines = [str(problem.get("detail") or status)]
    misfits = (problem.get("infeasible") or {}).get("misfits") or []
    lines += [f"  {one['stage_id']} on {one['group']}: {one['reason']}; {one['remedy']}" for one in misfits]
    return "\n".join(lines)
