"""A click group that imports a subcommand only when it is run."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """Group whose subcommands are modules, imported on demand.

    Parameters
    ----------
    package
        Package that holds one module per subcommand, each with a click command named ``command``.
    summaries
        Subcommand -> the line that stands beside it in the group's help, which imports none of them.
    **settings
        What :class:`click.Group` takes.
    """

    def __init__(self, *, package: str, summaries: Mapping[str, str], **settings: Any) -> None:
        super().__init__(**settings)
        self._package = package
        self._summaries = dict(summaries)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the subcommands in the order of their table."""
        del ctx
        return list(self._summaries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the subcommand, or give None when there is none of this name."""
        del ctx
        if cmd_name not in self._summaries:
            return None
        command = import_module(f"{self._package}.{cmd_name.replace('-', '_')}").command
        if not isinstance(command, click.Command):
            message = f"{self._package}.{cmd_name}.command is a {type(command).__name__}, not a click command"
            raise TypeError(message)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of subcommands from their summaries alone."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(self._summaries.items()))
