"""The command line as one language: what has one name means one thing, and is spelt, typed and told alike."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
import typer
from typer.main import get_command

from fmx.cli.app import app
from fmx.cli.commands import Command
from fmx.cli.spellings import FORMER, respelt

# What is chosen is spelt for one and for several.
PAIRS = ("layer", "channel", "sample", "timestep", "class")
# Options of one name that differ from command to command in what they are, or in the type of what they take.
REASONS = {
    "--rows": "of small multiples it is the label that differs from row to row, beside --columns",
    "--size": "fmx render frames takes WIDTHxHEIGHT, too",
    "--batch-size": "fmx bench takes several",
    "--batch-sizes": "fmx bench takes several",
}


def leaves(group: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """Give all commands below a group, by their names."""
    for name, below in group.commands.items():
        if hasattr(below, "commands"):
            yield from leaves(below, *path, name)
        else:
            yield " ".join([*path, name]), below


def options_of(command: Any) -> list[Any]:
    return [one for one in command.params if one.param_type_name == "option" and one.name != "help"]


def spellings(option: Any) -> list[str]:
    return [name for name in (*option.opts, *option.secondary_opts) if name.startswith("--")]


def kind_of(option: Any) -> str:
    """Give the type of an option's value; parsers of two generations keep it in two places."""
    described = getattr(option, "type_descriptor", None)
    kind = (
        option.type.name.removesuffix(" range")
        if described is None
        else str(getattr(described.annotation, "__name__", ""))
    )
    return f"{kind}{' several times' if option.multiple else ''}"


def singular(word: str) -> str:
    return re.sub(r"(?<=ss)es$|(?<![s'])s$", "", word)


def meaning(option: Any) -> str:
    """Give what an option is said to be, before the details; one of them and several are the same."""
    lead = re.split(r"[:;(]|, |\. | such as ", option.help)[0].rstrip(". ")
    return " ".join(singular(word) for word in lead.lower().split())


def unlike(group: Any) -> list[str]:
    """Name the options that have another type or meaning somewhere, without a reason."""
    seen: dict[str, dict[tuple[str, str], list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, command in leaves(group):
        for option in options_of(command):
            for spelling in spellings(option):
                seen[spelling][kind_of(option), meaning(option)].append(name)
    return [f"{name}: {dict(kinds)}" for name, kinds in seen.items() if len(kinds) > 1 and name not in REASONS]


def undocumented(group: Any) -> list[str]:
    """Name options without a sentence about them, or without a word for what they take."""
    found = []
    for name, command in leaves(group):
        for option in options_of(command):
            text = option.help or ""
            if not re.fullmatch(r"[A-Z].*\.", text) or "  " in text:
                found.append(f"{name} {option.opts[0]}: help is '{text}'")
            if not option.is_flag and not re.fullmatch(r"[A-Zx,|=\[\]]+(all)?", option.metavar or ""):
                found.append(f"{name} {option.opts[0]} takes {option.metavar}")
    return found


def unsummed(group: Any) -> list[str]:
    """Name commands without a summary of one sentence."""
    summaries = {name: " ".join((one.help or "").split("\n\n")[0].split()) for name, one in leaves(group)}
    return [name for name, text in summaries.items() if not re.fullmatch(r"[A-Z](?:(?!\. ).)*\.", text)]


def near(one: str, other: str) -> bool:
    """Say whether two names differ by a plural or by one letter."""
    first, second = (singular(name.lstrip("-").removeprefix("no-").replace("-", "")) for name in (one, other))
    if first == second:
        return True
    if min(len(first), len(second)) < 4 or abs(len(first) - len(second)) > 1:
        return False
    short, long = sorted((first, second), key=len)
    if len(short) == len(long):
        return sum(a != b for a, b in zip(short, long, strict=True)) == 1
    return any(long[:i] + long[i + 1 :] == short for i in range(len(long)))


def confusable(group: Any) -> list[str]:
    """Name pairs of options of one command that are taken for one another."""
    found = []
    for name, command in leaves(group):
        for one, other in itertools.combinations(options_of(command), 2):
            pairs = itertools.product(spellings(one), spellings(other))
            found += [f"{name}: {a} and {b}" for a, b in pairs if near(a, b)]
    return found


def one_sided(group: Any) -> list[str]:
    """Name options that choose something and take one of its two spellings only."""
    found = []
    for name, command in leaves(group):
        for option in options_of(command):
            for word in PAIRS:
                both = {f"--{word}", f"--{word}{'es' if word.endswith('s') else 's'}"}
                if both & set(option.opts) and not both <= set(option.opts):
                    found.append(f"{name} {option.opts}")
    return found


CHECKS = (unlike, undocumented, unsummed, confusable, one_sided)


@pytest.mark.parametrize("check", CHECKS)
def test_the_commands_speak_one_language(check):
    assert check(get_command(app)) == []


def test_reasons_are_needed():
    kinds = defaultdict(set)
    for _, command in leaves(get_command(app)):
        for option in options_of(command):
            for spelling in spellings(option):
                kinds[spelling].add((kind_of(option), meaning(option)))
    assert all(len(kinds[name]) > 1 for name in REASONS)


def faulty() -> Any:
    """Make commands with each of the faults that are looked for."""
    made = typer.Typer()

    @made.command()
    def first(
        layer: Annotated[str, typer.Option("--layer", help="Layer: a name.", metavar="LAYER")] = "",
        scale: Annotated[int, typer.Option(help="Scale of pictures.", metavar="N")] = 1,
        scales: Annotated[int, typer.Option(help="how many")] = 1,
    ) -> None:
        """Do this. And that."""

    @made.command()
    def second(scale: Annotated[str, typer.Option(help="Ends of the range.", metavar="LOW,HIGH")] = "") -> None:
        """Do that."""

    return get_command(made)


FOUND = ("--scale: ", "first --scales", "first", "first: --scale and --scales", "first ['--layer']")


@pytest.mark.parametrize(("check", "told"), list(zip(CHECKS, FOUND, strict=True)))
def test_checks_find_faults(check, told):
    found = check(faulty())
    assert found
    assert found[0].startswith(told)


def test_former_spellings_lead_to_options_that_are_there():
    commands = dict(leaves(get_command(app)))
    for name, spelt in FORMER.items():
        known = {spelling for option in options_of(commands[name]) for spelling in spellings(option)}
        assert set(spelt.values()) <= known
        assert not set(spelt) & known, f"{name}: what is an option now can't stand for another"


def test_former_spellings_are_written_as_now():
    words = ["acts.zarr", "--by=max", "--n-each-class", "3", "--json", "--", "--by"]
    assert respelt("rank", words) == ["acts.zarr", "--metric=max", "--top", "3", "--json", "--", "--by"]
    assert respelt("stats", words) == words


def test_all_commands_know_former_spellings():
    assert all(isinstance(command, Command) for _, command in leaves(get_command(app)))


@pytest.mark.parametrize("name", ["stats", "extract", "occlude", "render overlay", "render maximized"])
def test_shells_complete_options_without_waiting_for_libraries(name):
    words = f"fmx {name} a b --"
    code = (
        "import sys\nsys.argv = ['fmx']\nfrom fmx.cli import main\n"
        "try:\n    main()\nfinally:\n"
        "    heavy = {'numpy', 'xarray', 'torch', 'matplotlib', 'zarr'} & set(sys.modules)\n"
        "    assert not heavy, heavy"
    )
    environment = {"_FMX_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert not done.stderr
    shown = set(done.stdout.split())
    option = dict(leaves(get_command(app)))[name].params[-1]
    assert {"--help", *option.opts} <= shown | {"-h"}


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", [name for name, _ in leaves(get_command(app))])
def test_help_fits_and_is_whole(name, width, cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    shown = cli(*name.split(), "--help").out
    assert max(map(len, shown.splitlines())) <= width
    assert not {"\x1b", "…"} & set(shown)
    words = " ".join(re.sub(r"[│╭╮╰╯─]", " ", shown).split())
    command = dict(leaves(get_command(app)))[name]
    for option in options_of(command):
        # A name, what it takes and the help stand one after the other, whatever is wrapped.
        assert all(spelling in words for spelling in option.opts)
        assert " ".join(option.help.split()) in words
        if not option.is_flag and option.show_default and option.default not in (None, "", []):
            default = f"{option.default:g}" if isinstance(option.default, float) else option.default
            assert f"[default: {default}]" in words
    assert "<str>" not in words and "<bool>" not in words
