"""Groups of options: what a command takes, and what it gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from fmx.cli.groups import Target, grouped


@dataclass(frozen=True)
class Colours:
    cmap: Annotated[str, typer.Option(help="Which one.")] = "viridis"
    gamma: Annotated[float, typer.Option("--bend", "-g")] = 1.0


@dataclass(frozen=True)
class Needed:
    layer: Annotated[str, typer.Option()]


def app_of(command):
    app = typer.Typer()
    app.command()(grouped(command))
    return app


def plain(path: Annotated[str, typer.Argument()], colours: Colours, size: int = 3, target: Target = Target()) -> None:  # noqa: B008
    typer.echo(f"{path} {colours} {size} {target}")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a"], ("a", Colours(), 3, Target())),
        (
            ["a", "--cmap", "gray", "-g", "2", "--size", "4", "-o", "x", "--overwrite"],
            ("a", Colours("gray", 2.0), 4, Target("x", None, True)),
        ),
    ],
)
def test_a_command_gets_its_groups(words, expected):
    result = CliRunner().invoke(app_of(plain), words)
    assert result.exit_code == 0, result.output
    assert result.output == "{} {} {} {}\n".format(*expected)


def test_a_command_has_defaults_of_its_own():
    def other(colours: Colours = Colours(cmap="magma")) -> None:
        typer.echo(str(colours))

    assert CliRunner().invoke(app_of(other), ["--bend", "3"]).output == f"{Colours('magma', 3.0)}\n"


def test_fields_without_a_default_have_to_be_given():
    def other(needed: Needed) -> None:
        typer.echo(needed.layer)

    app = app_of(other)
    assert CliRunner().invoke(app, []).exit_code == 2
    assert CliRunner().invoke(app, ["--layer", "conv"]).output == "conv\n"


def test_help_lists_the_options_of_groups():
    text = CliRunner().invoke(app_of(plain), ["--help"]).output
    assert all(word in text for word in ("--cmap", "--bend", "--size", "--output", "--overwrite", "Which one."))
