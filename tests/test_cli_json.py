"""What ``--json`` prints: a list of flat objects with the keys that the documentation names, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from analysis_stores import adversarial_values, random_values, write_store

from fmx.cli.output import print_json

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"
SHAPE = "--input-shape 3,32,32"
# How each command is run; stores hold values that are not finite.
RUNS = {
    "layers": f"traced.pt {SHAPE}",
    "bench": f"traced.pt {SHAPE} --layers fc --rounds 1 --batch-sizes 2 --engines eager",
    "extract": f"traced.pt pictures -o s {SHAPE} --layers fc --range 0,255",
    "extract --dry-run": f"traced.pt pictures -o s {SHAPE} --layers fc --range 0,255",
    "info": "STORE",
    "verify": "DAMAGED",
    "stats": "STORE",
    "hist": "STORE --bins 4",
    "rank": "STORE",
    "top-samples": "STORE",
    "class-sums": "STORE",
    "robustness": "STORE",
    "temporal": "STORE --lags 1",
    "health": "STORE",
    "similarity": "FINITE",
    "compare": "FINITE FINITE",
    "decompose": "FINITE --components 2",
    "information": "FINITE",
    "deconv": f"traced.pt pictures/cat/0.png {SHAPE} --layer layer1 --channels 0-3",
    "attribute": f"traced.pt pictures/cat/0.png {SHAPE}",
    "occlude": f"traced.pt pictures/cat/0.png {SHAPE} --patch 16 --engine eager",
    "maximize": f"traced.pt {SHAPE} --class 1 --steps 2 --size 32",
}


def documented():
    """Read the keys of each command: those that are always there, and all."""
    table = PAGE.read_text().partition("| command | keys |")[2]
    found = {}
    for commands, keys in re.findall(r"^\| (`.*?) \| (.*) \|$", table, flags=re.MULTILINE):
        always = set(re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", keys.partition(";")[0])))
        for command in re.findall(r"`(.+?)`", commands):
            found[command] = always, set(re.findall(r"`(\w+)`", keys))
    return found


@pytest.fixture(scope="module")
def acts(tmp_path_factory):
    """Stores of maps at two noise levels and three timesteps: some are not finite, all are, and one is damaged."""
    folder = tmp_path_factory.mktemp("made")
    made = {"STORE": adversarial_values, "FINITE": random_values, "DAMAGED": random_values}
    places = {}
    for name, values_of in made.items():
        values = {"maps": np.tile(values_of(noise=2, steps=3), (2, 1, 1, 1, 1, 1))}
        places[name] = write_store(folder / name, values, noise=(0.0, 0.5), labels=["a", "b"] * 11).path
    chunks = Path(places["DAMAGED"]) / "layers/maps/activation/c"
    next(path for path in chunks.rglob("*") if path.is_file()).unlink()
    return places


def strict(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("command", RUNS)
def test_keys_are_those_that_are_documented(command, acts, cli):
    verb, *more = command.split()
    ran = cli(verb, *(acts.get(word, word) for word in RUNS[command].split()), *more, "--json")
    assert ran.code == (1 if command == "verify" else 0), ran.err
    rows = strict(ran.out)
    assert rows and all(isinstance(row, dict) for row in rows)
    assert not any(isinstance(value, dict) for row in rows for value in row.values())
    always, every = documented()[command]
    keys = {key for row in rows for key in row}
    assert always <= keys
    assert keys <= every


def test_all_commands_with_json_are_documented():
    from test_cli_language import leaves
    from typer.main import get_command

    from fmx.cli.app import app

    with_json = {name for name, one in leaves(get_command(app)) if any("--json" in p.opts for p in one.params)}
    assert with_json == {name.split()[0] for name in documented()}
    assert set(RUNS) | {"aggregate"} == set(documented())


def test_files_are_listed_too(acts, cli, tmp_path):
    rows = strict(cli("aggregate", acts["STORE"], "-o", tmp_path / "out", "--json").out)
    assert {Path(row["file"]) for row in rows} == set((tmp_path / "out").iterdir())
    rows = strict(cli("aggregate", acts["STORE"], "--over", "channel,space", "--json").out)
    assert set(rows[0]) == {"layer", "sample", "noise", "timestep", "sum", "not_finite"}


def test_what_json_has_no_number_for_is_null(capsys):
    print_json([{"a": float("nan"), "b": np.float32(np.inf), "c": [1.5, -np.inf], "d": np.array([np.nan, 2])}])
    assert strict(capsys.readouterr().out) == [{"a": None, "b": None, "c": [1.5, None], "d": [None, 2.0]}]
