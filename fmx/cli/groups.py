"""Options that belong together, as one argument of the commands that have them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

from fmx.cli import options as opt

if TYPE_CHECKING:
    from fmx.render import PictureFolder

__all__ = ["Target", "grouped"]

R = TypeVar("R")


def grouped(command: Callable[..., R]) -> Callable[..., R]:
    """Let a command take groups of options: an argument that is a dataclass stands for an option of each field.

    Fields are written as arguments of commands are, ``name: Annotated[str, typer.Option(…)] = "…"``; a command that has
    other defaults says so in an instance, ``places: Places = Places(noise="all")``. Goes below ``@app.command()``.
    """
    signature = inspect.signature(command, eval_str=True)
    groups = {name: one.annotation for name, one in signature.parameters.items() if _is_group(one.annotation)}
    options = [option for one in signature.parameters.values() for option in _options(one)]

    @functools.wraps(command)
    def run(**given: Any) -> R:
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        return command(**given)

    # This is where typer looks for arguments.
    run.__signature__ = signature.replace(parameters=options)  # type: ignore[attr-defined]
    run.__annotations__ = {option.name: option.annotation for option in options}
    return run


def _is_group(annotation: object) -> bool:
    return isinstance(annotation, type) and is_dataclass(annotation)


def _options(argument: inspect.Parameter) -> Iterator[inspect.Parameter]:
    """Give an argument, or the fields of a group in its place."""
    if not _is_group(argument.annotation):
        yield argument.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        return
    hints = get_type_hints(argument.annotation, include_extras=True)
    for field in fields(argument.annotation):
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        if argument.default is not inspect.Parameter.empty:
            default = getattr(argument.default, field.name)
        yield inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name]
        )


@dataclass(frozen=True)
class Target:
    """Where the folder of a command's pictures is made."""

    output: Annotated[str, opt.output("the folder MODEL/NAME is made there")] = "out"
    name: opt.Name = None
    overwrite: Annotated[bool, opt.overwrite("a folder of this name")] = False

    def folder(self, model: str) -> PictureFolder:
        """Make the folder of pictures about a model."""
        from fmx.render import PictureFolder

        return PictureFolder(self.output, model, self.name, overwrite=self.overwrite)
