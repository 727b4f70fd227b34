"""What `opendt run` serves: the fleet that is followed, and the decisions of datacenters."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from opendt.api.app import create_app, serving
from opendt.orchestrator.desk import DecisionDesk
from opendt.orchestrator.fleet_extender import FleetExtender
from opendt.orchestrator.fleet_factory import fleet_running
from opendt.orchestrator.logs import log
from opendt.orchestrator.transports import send_request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opendt.orchestrator.events import EventBus
    from opendt.orchestrator.settings_model import Settings
    from opendt.verification.ledger import Ledger

__all__ = ["served"]


@contextmanager
def served(settings: Settings, ledger: Ledger, bus: EventBus) -> Iterator[int]:
    """Follow the fleet of the settings, if there is one, and serve the REST interface while the block runs; gives the port.

    Raises
    ------
    OpenDTError
        When what describes the fleet is not there or wrong, or the address is taken.
    """
    api = settings.api
    token = None if api.token is None else api.token.get_secret_value()
    desks = {name: DecisionDesk(name, ledger, partial(send_request, settings)) for name in settings.datacenter}
    with ExitStack() as stack:
        service = extender = None
        if settings.fleet.is_followed:
            service = stack.enter_context(fleet_running(settings, ledger, bus))
            asked = FleetExtender(service.state, service.planner)
            stack.callback(asked.close)
            extender = asked.handle
        app = create_app(service, desks=desks, host=api.host, token=token, extender=extender)
        port = stack.enter_context(serving(app, api.host, api.port))
        log().info(
            f"serves http://{api.host}:{port}", fleet=settings.fleet.name if service else "none", datacenters=len(desks)
        )
        yield port
