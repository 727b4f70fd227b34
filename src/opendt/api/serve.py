"""A fleet followed and served, for `opendt run`."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from opendt.api.app import create_app, serving
from opendt.orchestrator.fleet_extender import FleetExtender
from opendt.orchestrator.fleet_factory import fleet_running
from opendt.orchestrator.logs import log

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opendt.orchestrator.events import EventBus
    from opendt.orchestrator.settings_model import Settings
    from opendt.verification.ledger import Ledger

__all__ = ["fleet_served"]


@contextmanager
def fleet_served(settings: Settings, ledger: Ledger, bus: EventBus) -> Iterator[int]:
    """Follow the fleet of the settings and serve it while the block runs; gives the port.

    Raises
    ------
    OpenDTError
        When what describes the fleet is not there or wrong, or the address is taken.
    """
    fleet = settings.fleet
    token = None if fleet.api_token is None else fleet.api_token.get_secret_value()
    with (
        fleet_running(settings, ledger, bus) as service,
        closing(FleetExtender(service.state, service.planner)) as asked,
    ):
        app = create_app(service, host=fleet.api_host, token=token, extender=asked.handle)
        with serving(app, fleet.api_host, fleet.api_port) as port:
            seen = service.snapshot()
            log().info(
                f"serves fleet {fleet.name} on http://{fleet.api_host}:{port}",
                clusters=len(seen.clusters),
                nodes=len(seen.nodes),
                acts=service.is_acting,
            )
            yield port
