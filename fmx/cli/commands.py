"""Commands and groups of commands: they know former spellings of their options, and print their own help."""

from __future__ import annotations

import math
from typing import Any

from typer.core import TyperCommand, TyperGroup

from fmx.cli.spellings import respelt
from fmx.errors import FmxError

__all__ = ["Command", "Commands"]


class Command(TyperCommand):
    """A command that knows former spellings of its options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words behind the command; what is not a number is none, though it can be read as one."""
        rest = super().parse_args(ctx, respelt(ctx.command_path.partition(" ")[2], args))
        for option in self.params:
            value = ctx.params.get(option.name)
            if isinstance(value, float) and math.isnan(value):
                raise FmxError(f"{option.opts[0]} takes a number, not NaN.")
        return rest

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - as the parser calls it
        """Print the help."""
        from fmx.cli.help import print_help

        print_help(self, ctx)


class Commands(TyperGroup):
    """A group of commands, whose help lists them by panels."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - as the parser calls it
        """Print the help."""
        from fmx.cli.help import print_help

        print_help(self, ctx)
