"""What ``--help`` prints: names of options and the kind of their values to the left, text to the right.

Typer's own help gives a column of their own to short names and to types, flags' included, which leaves half of a
terminal of 80 columns to the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.text import Text

__all__ = ["print_help"]

# Longer lines are not read with ease.
_WIDEST = 110
# What is longer stands on a line of its own.
_LEFT = 30
_FIRST, _LAST = ("Arguments", "What"), ("Options", "Model and pictures", "Running", "Output", "Help")
# Stands for a space at which no line is broken: Rich breaks at what Unicode has for it, too.
_FIXED = "\ue000"
_NAME, _KIND, _FAINT = "bold cyan", "yellow", "dim"


def print_help(command: Any, ctx: Any) -> None:
    """Print the help of a command, or of a group of commands."""
    console = Console(highlight=False)
    width = min(console.width, _WIDEST)
    shown = [parameter for parameter in command.get_params(ctx) if not getattr(parameter, "hidden", False)]
    console.print(Text.assemble(("Usage: ", _KIND), (_usage(command, ctx, shown), "bold")), width=width)
    console.print()
    for paragraph in (command.help or "").split("\n\n"):
        console.print(Text(" ".join(paragraph.split())), width=width)
        console.print()
    panels: dict[str, list[tuple[Text, Text]]] = {}
    for parameter in shown:
        panels.setdefault(_panel(parameter), []).append((_left(parameter), _right(parameter)))
    column = _column([left for rows in panels.values() for left, _ in rows], width)
    listed = [(name, command.get_command(ctx, name)) for name in getattr(command, "commands", {})]
    names = max([len(name) for name, _ in listed], default=0) + 2
    for panel, rows in _commands(listed).items():
        _print_panel(console, panel, rows, width, names)
    for name in sorted(panels, key=_place):
        _print_panel(console, name, panels[name], width, column)
    if command.epilog:
        console.print(Text(command.epilog), width=width, soft_wrap=False)


def _usage(command: Any, ctx: Any, parameters: Iterable[Any]) -> str:
    arguments = [str(one.metavar or one.name) for one in parameters if one.param_type_name == "argument"]
    return " ".join([ctx.command_path, "[OPTIONS]", *arguments, *(["COMMAND"] if hasattr(command, "commands") else [])])


def _panel(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return "Arguments"
    if parameter.name in {"help", "version", "install_completion", "show_completion"}:
        return "Help"
    return getattr(parameter, "rich_help_panel", None) or "Options"


def _place(panel: str) -> int:
    """Order panels: what a command is about first, what many commands have last; `sorted` keeps the rest in order."""
    if panel in _FIRST:
        return _FIRST.index(panel) - len(_FIRST)
    return _LAST.index(panel) + 1 if panel in _LAST else 0


def _left(parameter: Any) -> Text:
    """Give the names of a parameter, and what it takes."""
    if parameter.param_type_name == "argument":
        return Text(str(parameter.metavar or parameter.name), _KIND)
    names = ", ".join(sorted(parameter.opts, key=lambda name: name.startswith("--")))
    names += "".join(f" / {name}" for name in parameter.secondary_opts)
    kind = "" if getattr(parameter, "is_flag", False) else parameter.metavar or str(parameter.name).upper()
    return Text.assemble((names, _NAME), (f" {kind}" if kind else "", _KIND))


def _right(parameter: Any) -> Text:
    """Give the help of a parameter, with its default."""
    text = Text(str(getattr(parameter, "help", None) or ""))
    if parameter.required and parameter.param_type_name != "argument":
        text.append(" [required]", "red")
    default = _default(parameter)
    return text.append(f" [default:{_FIXED}{default.replace(' ', _FIXED)}]" if default else "", _FAINT)


def _default(parameter: Any) -> str:
    default = parameter.default
    if not getattr(parameter, "show_default", True) or default is None or default in ("", [], ()):
        return ""
    if not getattr(parameter, "is_flag", False):
        return f"{default:g}" if isinstance(default, float) else str(default)
    names = parameter.opts if default is True else parameter.secondary_opts
    return str(names[0]) if parameter.secondary_opts and names else ""


def _commands(listed: Iterable[tuple[str, Any]]) -> dict[str, list[tuple[Text, Text]]]:
    panels: dict[str, list[tuple[Text, Text]]] = {}
    for name, command in listed:
        if not command.hidden:
            first = " ".join((command.short_help or command.help or "").split("\n\n")[0].split())
            panel = getattr(command, "rich_help_panel", None) or "Commands"
            panels.setdefault(str(panel), []).append((Text(name, _NAME), Text(first)))
    return panels


def _column(shown: Iterable[Text], width: int) -> int:
    """Give the place where texts begin: behind the names, but for the longest, which stand on lines of their own."""
    most = min(_LEFT, max(width // 3, 12))
    return max([len(one) + 2 for one in shown if len(one) + 2 <= most], default=most)


def _print_panel(console: Console, name: str, rows: Iterable[tuple[Text, Text]], width: int, column: int) -> None:
    lines = [line for shown, text in rows for line in _lines(console, shown, text, column, width - 4 - column)]
    title = Text(name, "bold")
    console.print(
        Panel(Group(*lines), title=title, title_align="left", border_style=_FAINT, box=box.ROUNDED, width=width)
    )


def _lines(console: Console, left: Text, right: Text, column: int, width: int) -> Iterator[Text]:
    """Set two texts side by side, or the second below the first where that is too long."""
    wrapped = list(right.wrap(console, max(width, 20)))
    for line in wrapped:
        line.plain = line.plain.replace(_FIXED, " ")
    if len(left) > column - 2:
        yield left
    elif wrapped:
        yield Text.assemble(left, " " * (column - len(left)), wrapped.pop(0))
    else:
        yield left
    for line in wrapped:
        yield Text.assemble(" " * column, line)
