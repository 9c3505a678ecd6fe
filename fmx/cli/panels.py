"""The order of the commands in `fmx --help`: what one does first comes first."""

from __future__ import annotations

import typer

from fmx.cli.commands import Command

__all__ = ["arrange"]

_PANELS = {
    "Models": ("demo", "layers", "bench"),
    "Stores": ("extract", "info", "verify", "export"),
    "Analysis": ("stats", "hist", "aggregate", "rank", "top-samples", "class-sums", "robustness", "temporal", "health"),
    "Comparison": ("similarity", "compare", "decompose", "information"),
    "Projection and maximization": ("deconv", "attribute", "occlude", "maximize"),
    "Pictures": ("report", "render"),
}


def arrange(app: typer.Typer) -> None:
    """Put the commands of an application into panels, and have them print their help as all do."""
    for one in (app, *(group.typer_instance for group in app.registered_groups)):
        for info in one.registered_commands if one is not None else ():
            info.cls = Command
    panels = {command: panel for panel, commands in _PANELS.items() for command in commands}
    places = list(panels)
    commands = {
        info.name or str(info.callback.__name__).replace("_", "-"): info
        for info in app.registered_commands
        if info.callback
    }
    for name, info in commands.items():
        info.rich_help_panel = panels[name]
    app.registered_commands.sort(key=lambda info: places.index(next(n for n, i in commands.items() if i is info)))
    for group in app.registered_groups:
        group.rich_help_panel = panels[str(group.name)]
